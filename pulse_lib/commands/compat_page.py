"""What `mllmu-compat` found, as Markdown: docs/why_numbers_differ.md holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pulse_lib.commands.compat import ASKINGS, SETS, TRAININGS, State
from pulse_lib.report import markdown


def moved(rows: Sequence[Mapping], choice: str, *, against: str) -> dict[str, tuple[float, ...]]:
    """By set: mean accuracy of a choice over seeds; and the mean, least and greatest of its
    difference to another choice of the same seed.
    """
    table = pd.DataFrame(rows).set_index(["choice", "seed"])
    ours, theirs = table.loc[choice][list(SETS)], table.loc[against][list(SETS)]
    gap = ours - theirs
    return {s: (ours[s].mean(), gap[s].mean(), gap[s].min(), gap[s].max()) for s in SETS}


def asked_table(found: Mapping, state: State) -> str:
    """Markdown: the ways to ask, before or after unlearning."""
    rows = [r for r in found["asked"] if r["state"] == state]
    return _table(rows, [(name, said, "as here") for name, said in ASKINGS.items()])


def trained_table(found: Mapping) -> str:
    """Markdown: the ways to unlearn."""
    return _table(found["trained"], [(way.name, way.said, way.against) for way in TRAININGS])


def made_by(found: Mapping) -> str:
    """What the tables are of, in a sentence."""
    n, seeds = found["n_questions"], found["seeds"]
    asked = ", ".join(f"{n[s]} {s}" for s in SETS)
    how_many = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    return (
        f"Profile `{found['profile']}`, {how_many} of the unlearning step "
        f"({', '.join(map(str, seeds))}) on one target; {asked} questions. `{found['command']}`"
    )


def _table(rows: Sequence[Mapping], choices: Sequence[tuple[str, str, str]]) -> str:
    lines = []
    for name, said, against in choices:
        values = moved(rows, name, against=against)
        cells = [_cell(values[s], plain=name == against) for s in SETS]
        lines.append([name, said, *cells])
    return markdown.table(["choice", "there", *SETS], lines)


def _cell(values: tuple[float, ...], *, plain: bool) -> str:
    """ "0.20 (-0.05, -0.07 to -0.01)": accuracy, and how far it moved, with its range over seeds."""
    accuracy, mean, low, high = values
    if plain or np.isnan(accuracy):
        return markdown.digits(accuracy)
    span = "" if low == high else f", {_signed(low)} to {_signed(high)}"
    return f"{accuracy:.2f} ({_signed(mean)}{span})"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # no minus before a zero


def most_and_least(found: Mapping) -> str:
    """Which way to unlearn moved forget accuracy most, and which least, in a sentence."""
    gaps = {
        way.name: moved(found["trained"], way.name, against=way.against)["forget"][1]
        for way in TRAININGS
        if way.name not in (way.against, "all of NPO")
    }
    most, least = (choose(gaps, key=lambda name: abs(gaps[name])) for choose in (max, min))
    return (
        f"One choice alone moved forget accuracy most by its {most} ({gaps[most]:+.2f}) and least by its "
        f"{least} ({gaps[least]:+.2f})."
    )

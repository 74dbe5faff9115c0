"""Nearness to the oracle on forget people, beside what is kept of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pulse_lib.evaluate.accuracy import nan_mean
from pulse_lib.profile import Scenario
from pulse_lib.report.collect import pick, records
from pulse_lib.report.figures.style import (
    BEFORE,
    INK,
    Figure,
    Look,
    Series,
    dot,
    drawn,
    empty_figure,
    legend_outside,
    panels,
    series_handles,
    series_looks,
    title,
)
from pulse_lib.report.words import SCENARIOS, label

_CONTROLS: dict[str, Look] = {
    "before": {"marker": "o", "color": BEFORE, "markersize": 9},
    "base": {"marker": "d", "color": BEFORE, "markersize": 9},
    "oracle": {"marker": "*", "color": INK, "markersize": 15},
}


@drawn
def oracle_distance(table: pd.DataFrame) -> Figure:
    """Each line of `tables.distance` as a mark: to the right the oracle's own distribution of
    probabilities on forget people, above all of retain and general accuracy is kept. Large marks are
    the matched state, small ones the last step; the aim is the star. Thin lines are 95 % intervals.
    """
    if table.empty:
        return empty_figure(
            "No oracle in this study, so that no distance is defined: run notebook 03 with method oracle."
        )
    table = table.assign(kept=nan_mean([table["retain_kept"], table["general_kept"]]))
    methods = table[~table["method"].isin(list(_CONTROLS))]
    scenarios: list[Scenario] = [s for s in SCENARIOS if s in set(table["scenario"])]
    every = series_looks(methods)
    figure, axes = panels(len(scenarios), (4.9, 4.6), margin=(2.1, 0), sharex=True, sharey=True)
    for ax, scenario in zip(axes, scenarios, strict=True):
        here = pick(table, scenario=scenario)
        colors = [_mark(line, every)["color"] for line in records(here)]
        ends = here["forget_ks_low"], here["forget_ks_high"]
        ax.hlines(here["kept"], *ends, colors=colors, linewidth=1, alpha=0.4, clip_on=False)
        for line in records(here):
            mark = _mark(line, every)
            ax.plot(line.forget_ks, line.kept, clip_on=False, zorder=4, **mark)
        ax.set_title(SCENARIOS[scenario])
        ax.set_xlabel("forget people: KS from the oracle, 95 % interval (nearer →)")
    axes[0].set_xlim(1.0, -0.02)
    axes[0].set_ylim(-0.03, 1.1)
    axes[0].set_ylabel("kept of retain and general, mean share (↑)")
    sizes = [
        dot("matched", color=INK, markersize=11),
        dot("last step", color=INK, markersize=6),
    ]
    names = {"before": "before", "base": "base: never met them either", "oracle": "the oracle"}
    controls = [dot(names[name], **look) for name, look in _CONTROLS.items()]
    legend_outside(figure, [*series_handles(every), *sizes, *controls])
    title(figure, _finding(methods))
    return figure


def _mark(line: Any, every: Mapping[Series, Look]) -> Look:
    size = {"matched": 11, "final": 6}.get(line.selection, 8)
    look = every.get((line.method, line.trained_part), {}) | {"markersize": size}
    return _CONTROLS.get(line.method, look) | {"linestyle": ""}


def _finding(methods: pd.DataFrame) -> str:
    if methods.empty:
        return "The oracle and the model before: no method ran beside them"
    nearest = methods.loc[methods["forget_ks"].idxmin()]
    others = int((methods["forget_ks_low"] <= nearest["forget_ks_high"]).sum()) - 1
    named = f"{label(nearest['method'])}, KS {nearest['forget_ks']:.2f}"
    keeps = f"keeps {100 * nearest['kept']:.0f} % of the rest"
    if others:
        return (
            "Who is nearest to the oracle on forget people cannot be told: of "
            f"{len(methods)} intervals {others} overlap that of the first ({named}), which {keeps}"
        )
    return f"The nearest to the oracle on forget people ({named}) {keeps}"

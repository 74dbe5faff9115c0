"""Retain people who are like forget people, beside those who are not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pulse_lib.profile import Scenario
from pulse_lib.report.collect import pick, records
from pulse_lib.report.figures.style import (
    INK,
    NOTHING_YET,
    Figure,
    Look,
    dot,
    dot_grid,
    dot_interval,
    drawn,
    empty_figure,
    legend_outside,
    reference_line,
    series_looks,
    title,
)
from pulse_lib.report.words import SCENARIOS, SELECTIONS, series_label

_COLUMNS = {
    "face": "face, with the picture",
    "name": "name, without it",
    "fact": "the fact that is asked",
}
_GROUPS: dict[str, tuple[str, float, Look]] = {
    "near": ("like forget people", -0.16, {}),
    "far": ("unlike them", 0.16, {"markerfacecolor": "white"}),
}


@drawn
def likeness(table: pd.DataFrame) -> Figure:
    """One selection of `tables.likeness`: percent kept on near (filled) and far (open) retain
    questions, a panel a likeness. Of runs that train the language model alone nothing is drawn."""
    table = table[table["trained_part"] != "llm"]  # whose marks are open
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    every = series_looks(table)
    here: list[Scenario] = [s for s in SCENARIOS if s in set(table["scenario"])]
    order = {
        s: list(
            dict.fromkeys(
                pick(table, scenario=s)[["method", "trained_part"]].itertuples(
                    index=False, name=None
                )
            )
        )
        for s in here
    }
    rows = {SCENARIOS[s]: [series_label(*series) for series in order[s]] for s in here}
    kinds = [kind for kind in _COLUMNS if kind in set(table["likeness"])]
    figure, axes = dot_grid(rows, [_COLUMNS[kind] for kind in kinds], inches=0.42)
    for line, scenario in zip(axes, here, strict=True):
        for ax, kind in zip(line, kinds, strict=True):
            for row in records(pick(table, scenario=scenario, likeness=kind)):
                series = (row.method, row.trained_part)
                own = every[series] | {"markeredgecolor": every[series]["color"]}
                for group, (_, shift, look) in _GROUPS.items():
                    ends = {end: getattr(row, f"{group}_{end}") for end in ("low", "high")}
                    y = order[scenario].index(series) + shift
                    dot_interval(ax, y, value=getattr(row, group), look=own | look, **ends)
            if pick(table, scenario=scenario, likeness=kind).empty:
                apart: Look = {"va": "center", "color": "#888888", "style": "italic"}
                ax.text(
                    50, len(order[scenario]) / 2 - 0.5, "all alike, or none", ha="center", **apart
                )
            first = ax in axes[0]
            reference_line(ax, 100, text="before" if first else "", axis="x", side="left")
    for ax in axes[-1]:
        ax.set_xlabel("kept, % of before (→)")
    ends = table[["near_high", "far_high"]].to_numpy()
    axes[0, 0].set_xlim(0, min(ends[np.isfinite(ends)].max(initial=105) + 3, 160))
    legend_outside(
        figure, [dot(text, **({"color": INK} | look)) for text, _, look in _GROUPS.values()]
    )
    state = SELECTIONS[table["selection"].iloc[0]]
    title(figure, _finding(table), name=state[0].upper() + state[1:])
    return figure


def _finding(table: pd.DataFrame) -> str:
    near = int((table["says"] == "near ones lose more").sum())
    far = int((table["says"] == "far ones lose more").sum())
    return (
        f"retain people like those forgotten lose more than the others in {near} of {len(table)} "
        f"comparisons, less in {far}"
    )

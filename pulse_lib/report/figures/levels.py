"""What methods keep where their forget accuracy comes down to a level of one's choice."""

from __future__ import annotations

import numpy as np
import pandas as pd

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
from pulse_lib.report.words import SCENARIOS, series_label

MARKS = {"general_kept": "o", "retain_kept": "s"}
BY = {
    "both": "by what it says and by its likeliest option",
    "generation": "by what it says alone",
}


@drawn
def kept_at_level(table: pd.DataFrame) -> Figure:
    """Percent of retain and general accuracy kept, from `levels.at_level` for one level: a panel a
    rule of what counts as forgotten, methods in the table's order."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    rules = [by for by in BY if by in set(table["matched_by"])]
    order = {
        s: list(dict.fromkeys(zip(part["method"], part["trained_part"], strict=True)))
        for s in SCENARIOS
        if len(part := pick(table, scenario=s))
    }
    rows = {SCENARIOS[s]: [series_label(*series) for series in order[s]] for s in order}
    figure, axes = dot_grid(rows, [f"forgotten {BY[by]}" for by in rules], inches=0.36)
    looks = series_looks(table)
    remark: Look = {"va": "center", "fontsize": 8, "color": "#888888", "style": "italic"}
    for line, scenario in zip(axes, order, strict=True):
        for ax, by in zip(line, rules, strict=True):
            for row in records(pick(table, scenario=scenario, matched_by=by)):
                series = (row.method, row.trained_part)
                y = order[scenario].index(series)
                if not row.n_reached:
                    ax.text(2, y, "never that low", **remark)
                    continue
                for name, marker in MARKS.items():
                    look: Look = looks[series] | {"marker": marker}
                    dot_interval(ax, y, value=100 * getattr(row, name), look=look)
            reference_line(ax, 100, axis="x")
            ax.set_xlim(0, 108)
    for ax in axes[-1]:
        ax.set_xlabel("kept, % of before (higher is better →)")
    marks = {"general": "o", "retain": "s"}
    legend_outside(figure, [dot(name, marker=m, color=INK) for name, m in marks.items()])
    title(figure, _finding(table, rules))
    return figure


def _finding(table: pd.DataFrame, rules: list[str]) -> str:
    """How many got there by each rule, and what is then kept."""
    level, said = table["level"].iloc[0], []
    for by in rules:
        part = pick(table, matched_by=by)
        there = part[part["n_reached"] > 0]
        kept = f", keeping {100 * np.mean(there['kept']):.0f} %" if len(there) else ""
        said.append(f"{len(there)} of {len(part)} {BY[by]}{kept}")
    return f"Down to a forget accuracy of {level:g} come " + "; ".join(said)

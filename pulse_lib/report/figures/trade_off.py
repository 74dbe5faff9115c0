"""Forgetting against keeping: what happens on the way of every run."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pulse_lib.evaluate.accuracy import MATCHED_AT
from pulse_lib.profile import MatchedBy, Scenario
from pulse_lib.report.collect import groups, pick
from pulse_lib.report.figures.style import (
    BEFORE,
    INK,
    MANY,
    NOTHING_YET,
    Figure,
    Look,
    dot,
    drawn,
    empty_figure,
    legend_outside,
    over,
    panels,
    reference_line,
    series_handles,
    series_looks,
    spread_text,
    title,
)
from pulse_lib.report.words import METRICS, SCENARIOS, series_label

Against = Literal["retain", "general"]
_LEVEL: dict[MatchedBy, str] = {  # what `matched` goes by
    "both": "forget accuracy: as said or likeliest, the higher (forgotten →)",
    "generation": "forget accuracy, both modalities (forgotten →)",
}
_STATES = [  # what the sizes of markers mean
    dot("matched (all questions)", color=INK, markersize=11),
    dot("last step (all questions)", color=INK, markersize=6),
    dot("before", color=BEFORE, markersize=8),
]


@drawn
def trade_off(
    table: pd.DataFrame,
    against: Against = "general",
    *,
    matched_at: float = MATCHED_AT,
    by: MatchedBy = "both",
) -> Figure:
    """Forgetting (to the right) against what is kept, along each run of `intervals.paths`; the
    matched state is the large marker. by: the forget accuracy that is drawn, that of the table's `level`.

    Lines are the cheap measurements on the way, large markers the full ones.
    """
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    if len(series_looks(table)) > MANY:
        figure = _trade_off_small(table, against, by=by)
    else:
        figure = _trade_off(table, against, matched_at=matched_at, by=by)
    title(figure, _trade_off_title(table, against, matched_at=matched_at))
    return figure


def _scenarios(table: pd.DataFrame) -> list[Scenario]:
    return [s for s in SCENARIOS if s in set(table["scenario"])]


def _trade_off(
    table: pd.DataFrame, against: Against, *, matched_at: float, by: MatchedBy
) -> Figure:
    """One panel per scenario."""
    scenarios, every = _scenarios(table), series_looks(table)
    figure, axes = panels(len(scenarios), (4.9, 4.9), margin=(1.9, 0), sharex=True, sharey=True)
    for ax, scenario in zip(axes, scenarios, strict=True):
        here = pick(table, scenario=scenario)
        for (method, part), look in every.items():
            _ways(ax, pick(here, method=method, trained_part=part), against=against, look=look)
        before = pick(here, kind="before")
        mark: Look = {"marker": "o", "color": BEFORE, "linestyle": "", "markersize": 8}
        ax.plot(before["level"], before[against], zorder=5, **mark)
        reference_line(ax, before[against].mean(), text="before")
        reference_line(ax, matched_at, text=f"matched at {matched_at:g}", axis="x")
        ax.set_title(SCENARIOS[scenario])
        ax.set_xlabel(_LEVEL[by])
    axes[0].set_xlim(1.03, -0.03)
    axes[0].set_ylim(-0.03, 1.08)
    axes[0].set_ylabel(f"{METRICS[against]}, accuracy (higher is better ↑)")
    legend_outside(figure, [*series_handles(every), *_STATES])
    return figure


def _trade_off_small(table: pd.DataFrame, against: Against, *, by: MatchedBy) -> Figure:
    """One small panel per series: its own ways in colour (one line style per scenario) before
    everybody's in pale grey."""
    every = series_looks(table)
    figure, axes = panels(len(every), (2.3, 2.1), margin=(2.2, 1.0), sharex=True, sharey=True)
    lines: dict[Scenario, Any] = {"finetuned": "-", "pretrained": (0, (2, 1.5))}
    scenarios = {s: lines[s] for s in _scenarios(table)}
    # lifts the pen between two runs of the one background line
    gap = pd.DataFrame([{"level": float("nan")}])
    ways = [
        part
        for _, way in groups(pick(table, kind="path"), "run")
        for part in (way[["level", against]], gap)
    ]
    everybody = pd.concat(ways)
    x, y = (everybody[name].to_numpy() for name in ("level", against))
    for ax, ((method, part), look) in zip(axes, every.items(), strict=True):
        ax.plot(x, y, color="#e2e2e2", linewidth=0.6, zorder=1)
        for scenario, line in scenarios.items():
            here = pick(table, scenario=scenario, method=method, trained_part=part)
            _ways(ax, here, against=against, look=look | {"linestyle": line}, scale=0.65)
        ax.set_title(series_label(method, part), fontsize=10)
    axes[0].set_xlim(1.03, -0.03)
    axes[0].set_ylim(-0.03, 1.08)
    figure.supxlabel(_LEVEL[by], fontsize=10)
    figure.supylabel(f"{METRICS[against]}, accuracy (higher is better ↑)", fontsize=10)
    handles = [
        Line2D([], [], color=INK, linestyle=line, label=SCENARIOS[s])
        for s, line in scenarios.items()
    ]
    everywhere = Line2D([], [], color="#d0d0d0", label="all runs")
    # without "before": every way starts there
    legend_outside(figure, [*handles, everywhere, *_STATES[:2]])
    return figure


def _ways(
    ax: Axes, here: pd.DataFrame, *, against: Against, look: Look, scale: float = 1.0
) -> None:
    """The ways of one series (a line per run) and their full measurements: the last step small, the
    matched state large."""
    thin: Look = look | {"linewidth": 1.5 * scale, "markersize": 2.5 * scale, "alpha": 0.75}
    for _, way in groups(pick(here, kind="path").sort_values("step"), "run"):
        ax.plot(way["level"], way[against], **thin)
    for kind, size in (("final", 6), ("matched", 12)):
        ends = pick(here, kind=kind)
        mark: Look = look | {"markersize": size * scale, "linestyle": ""}
        ax.plot(ends["level"], ends[against], zorder=4, **mark)


def _trade_off_title(table: pd.DataFrame, against: Against, *, matched_at: float) -> str:
    said = []
    for scenario, name in SCENARIOS.items():
        matched = pick(table, scenario=scenario, kind="matched")
        before = pick(table, scenario=scenario, kind="before")[against].mean()
        if len(matched):
            means = matched.groupby(["method", "trained_part"], observed=True)[against].mean()
            said.append(f"{spread_text(100 * means / before)} % ({name})")
    return (
        f"When forget accuracy is first at most {matched_at:g}, of accuracy on the"
        f" {METRICS[against]} remains{over(table)}: {'; '.join(said) or 'not reached by any'}"
    )

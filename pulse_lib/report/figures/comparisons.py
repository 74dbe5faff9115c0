"""Figures that compare runs by dots with intervals: forgetting or breaking, methods at matched
forgetting, projector or not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import MATCHED_AT
from pulse_lib.methods import METHODS
from pulse_lib.profile import Scenario
from pulse_lib.report import paper
from pulse_lib.report.collect import best_first, pick, records
from pulse_lib.report.figures.style import (
    BEFORE,
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
    looks,
    over,
    reference_line,
    series_looks,
    spread_text,
    title,
)
from pulse_lib.report.words import (
    SCENARIOS,
    SELECTIONS,
    SETS,
    Metric,
    heading,
    label,
    series_label,
)

_RED = "#b00020"
_WAYS: dict[str, tuple[str, Look]] = {
    "generation": ("correct, answer generated", {}),
    "likelihood": ("correct, likeliest option", {"markerfacecolor": "white"}),
    "unusable": (
        "unusable answer",
        {"marker": "x", "color": _RED, "markeredgecolor": _RED, "markeredgewidth": 2},
    ),
}
_BEFORE: Look = {"color": BEFORE, "marker": "o"}


@drawn
def breaking(table: pd.DataFrame) -> Figure:
    """Forgetting or breaking, from one selection (and `before`) of `intervals.breaking`:
    generation, likelihood, unusable, chance."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    every = {"before": _BEFORE} | looks(table["method"])
    order = [("before", ""), *series_looks(table)]
    names = {}
    for scenario in _scenarios(table):
        there = pick(table, scenario=scenario)[["method", "trained_part"]].values.tolist()
        names[scenario] = [series for series in order if list(series) in there]
    rows = {SCENARIOS[s]: [series_label(*series) for series in names[s]] for s in names}
    figure, axes = dot_grid(rows, [heading(name) for name in SETS], inches=0.32)
    for line, (scenario, series_here) in zip(axes, names.items(), strict=True):
        for ax, set_name in zip(line, SETS, strict=True):
            here = pick(table, scenario=scenario, set=set_name)
            for row in records(here):
                y = series_here.index((row.method, row.trained_part))
                own = every[row.method] | {"markeredgecolor": every[row.method]["color"]}
                _row_dot(ax, y, row=row, look=own | _WAYS[row.measure][1])
            reference_line(ax, here["chance"].iloc[0], text="chance", axis="x")
    axes[0, 0].set_xlim(-0.03, 1.03)
    for ax in axes[-1]:
        ax.set_xlabel("share of answers")
    legend_outside(figure, [dot(text, **({"color": INK} | look)) for text, look in _WAYS.values()])
    title(figure, _breaking_title(table))
    return figure


def _scenarios(table: pd.DataFrame) -> list[Scenario]:
    return [s for s in SCENARIOS if s in set(table["scenario"])]


def _row_dot(ax, y: float, *, row, look: Look) -> None:
    dot_interval(ax, y, value=row.value, low=row.low, high=row.high, look=look, points=row.points)


def _breaking_title(table: pd.DataFrame) -> str:
    forget = table[(table["set"] == "forget") & (table["method"] != "before")]
    keys = ["scenario", "method", "trained_part"]
    wide = forget.pivot_table(index=keys, columns="measure", values="value", observed=True)
    if wide.empty:
        return "Before unlearning"
    chance = forget["chance"].iloc[0]
    broken = int((wide["unusable"] > 0.5).sum())
    below = int((wide["generation"] < chance).sum())
    return (
        f"Forget set: {below} of {len(wide)} unlearned models score below chance ({chance:.2f}), "
        f"{broken} give mostly unusable answers"
    )


@drawn
def at_matched(table: pd.DataFrame, matched_at: float = MATCHED_AT) -> Figure:
    """Methods at the same forgetting, from `intervals.at_matched`: percent kept of retain and
    general, best general first, those that missed the level on a seed after the others."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    general = best_first(pick(table, measure="general"), "value", reached="n_seeds", of="n_runs")
    order = {
        s: pick(general, scenario=s)[["method", "trained_part"]].values.tolist()
        for s in _scenarios(table)
    }
    rows = {SCENARIOS[s]: [series_label(*series) for series in order[s]] for s in order}
    metrics: tuple[Metric, ...] = ("general", "retain_multimodal", "retain_text")
    figure, axes = dot_grid(rows, [heading(metric) for metric in metrics], inches=0.36)
    every = series_looks(table)
    remark: Look = {"va": "center", "fontsize": 8, "color": "#888888", "style": "italic"}
    above = remark | {"va": "bottom"}  # of the line: an interval may begin at 0
    for line, scenario in zip(axes, order, strict=True):
        for ax, metric in zip(line, metrics, strict=True):
            for row in records(pick(table, scenario=scenario, measure=metric)):
                y = order[scenario].index([row.method, row.trained_part])
                _row_dot(ax, y, row=row, look=every[row.method, row.trained_part])
                if np.isnan(row.value):
                    ax.text(2, y, f"{matched_at:g} not reached", **remark)
                elif row.n_seeds < row.n_runs:
                    ax.text(2, y - 0.1, f"{row.n_seeds} of {row.n_runs} seeds", **above)
            first = ax in axes[0]
            reference_line(ax, 100, text="before" if first else "", axis="x", side="left")
    for ax in axes[-1]:
        ax.set_xlabel("kept, % of before (higher is better →)")
    ends = table["high"][np.isfinite(table["high"])].max()
    axes[0, 0].set_xlim(0, min(max(108, ends + 3), 160))  # what is wider runs off the edge
    title(figure, _matched_title(table, matched_at))
    return figure


def _matched_title(table: pd.DataFrame, matched_at: float) -> str:
    every_seed = table[(table["n_seeds"] == table["n_runs"]) & (table["measure"] == "general")]
    every_seed = every_seed.dropna(subset="value")
    oracles = [m.id for m in METHODS.values() if m.procedure == "retrain"]
    retrained = every_seed["method"].isin(oracles)
    said = []
    for scenario, name in SCENARIOS.items():
        general = pick(every_seed[~retrained], scenario=scenario)
        if len(general):
            best = general.loc[general["value"].idxmax()]
            whose = series_label(best["method"], best["trained_part"])
            said.append(f"{whose} ({best['value']:.0f} %, {name})")
    if not said:
        but = " but retraining" if retrained.any() else ""
        return f"No method{but} reached forget accuracy {matched_at:g} on every seed"
    apart = ", retraining apart" if retrained.any() else ""
    return (
        f"At forget accuracy at most {matched_at:g}{apart}, most general ability is kept by"
        f" {' and '.join(said)}"
    )


_PARTS: dict[str, tuple[float, str, Look]] = {  # below one another
    "": (-0.25, "before", {"color": BEFORE}),
    "projector+llm": (0.0, "projector + LLM", {}),
    "llm": (0.25, "LLM only", {"markerfacecolor": "white"}),
}
_PAPER: Look = {"marker": "|", "markersize": 13, "markeredgewidth": 2, "color": INK}


@drawn
def projector(table: pd.DataFrame) -> Figure:
    """Projector or not, from `intervals.projector`, of the one state in it: accuracies before, with
    projector and LLM trained, and with the LLM only."""
    if table.empty:
        return empty_figure(
            "No method has complete runs with both trained parts (projector+llm and llm) in this"
            " state, so they cannot be compared."
        )
    groups = table[["scenario", "method"]].drop_duplicates().values.tolist()
    names = [f"{label(method)}\n{SCENARIOS[scenario]}" for scenario, method in groups]
    titles = [heading(metric) for metric in paper.METRICS]
    figure, axes = dot_grid({"": names}, titles, inches=0.9)
    every = series_looks(table)
    for ax, metric in zip(axes[0], paper.METRICS, strict=True):
        for row in records(pick(table, measure=metric)):
            y = groups.index([row.scenario, row.method]) + _PARTS[row.trained_part][0]
            look = every[row.method, row.trained_part] if row.trained_part else _BEFORE
            _row_dot(ax, y, row=row, look=look)
            if not np.isnan(row.paper):
                dot_interval(ax, y, value=row.paper, look=_PAPER)
        better = "higher is better →" if metric == "general" else "← lower is better"
        ax.set_xlabel(f"accuracy ({better})")
    axes[0, 0].set_xlim(-0.03, 1.03)
    axes[0, 0].set_ylim(len(groups) - 0.5, -0.5)
    parts = [dot(name, **({"color": INK} | look)) for _, name, look in _PARTS.values()]
    quoted = [dot("paper (13B)", **_PAPER)] if table["paper"].notna().any() else []
    legend_outside(figure, [*parts, *quoted])
    title(figure, _projector_title(table))
    return figure


def _projector_title(table: pd.DataFrame) -> str:
    wide = table.pivot_table(
        index=["scenario", "method"],
        columns=["trained_part", "measure"],
        values="value",
        observed=True,
    )
    points = []
    for part, name in (("projector+llm", "with the projector"), ("llm", "LLM only")):
        gap = wide[part]["forget_text"] - wide[part]["forget_multimodal"]
        points.append(f"{spread_text(100 * gap, '{:+.0f}').replace('-', '−')} points {name}")
    after = table[table["trained_part"] != ""].assign(trained_part="")
    state = " and ".join(SELECTIONS[selection] for selection in after["selection"].unique())
    return f"Text-only minus multimodal forget accuracy ({state}{over(after)}): {', '.join(points)}"

"""Figures that compare runs: forgetting or breaking, methods at matched forgetting, projector or
not."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from pulse_lib.methods import METHODS
from pulse_lib.report.collect import best_first, pick
from pulse_lib.report.figures.series import NOTHING_YET, line_style, series_of, spread_text
from pulse_lib.report.figures.style import (
    BEFORE,
    INK,
    Figure,
    drawn,
    empty_figure,
    legend_outside,
    looks,
    new_figure,
    reference_line,
    title,
)
from pulse_lib.report.words import METRICS, SCENARIOS, label, series_label


@drawn
def breaking(table: pd.DataFrame) -> Figure:
    """Forgetting or breaking, from one selection (and `before`) of `measures.breaking`: generation,
    likelihood, unusable, chance."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    scenarios = [s for s in SCENARIOS if s in set(table["scenario"])]
    names = {
        s: series_of(pick(table, scenario=s)[pick(table, scenario=s)["method"] != "before"])
        for s in scenarios
    }
    heights = [len(names[s]) + 1.6 for s in scenarios]
    figure = new_figure(11.5, 0.32 * sum(heights) + 1.7)
    axes = figure.subplots(
        len(scenarios), 3, sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    every = looks(table["method"])
    for (i, scenario), (j, set_name) in (
        (a, b) for a in enumerate(scenarios) for b in enumerate(("forget", "retain", "general"))
    ):
        ax, here = axes[i, j], pick(table, scenario=scenario, set=set_name)
        for y, (method, part) in enumerate([("before", ""), *names[scenario]]):
            whose = {"color": BEFORE, "marker": "o"} if method == "before" else every[method]
            for measure, look in _BREAKING_LOOKS.items():
                for line in pick(
                    here, method=method, trained_part=part, measure=measure
                ).itertuples():
                    shown = look if measure == "unusable" else look | whose
                    ax.plot(
                        [line.low, line.high],
                        [y, y],
                        color=shown["color"],
                        linewidth=1.2,
                        alpha=0.7,
                    )
                    edge = (
                        {"markeredgecolor": shown["color"], "markerfacecolor": "white"}
                        if measure == "likelihood"
                        else {}
                    )
                    ax.plot(line.value, y, linestyle="", markersize=6.5, **shown | edge)
        reference_line(ax, here["chance"].iloc[0], "chance", axis="x")
        ax.set_yticks(
            range(len(names[scenario]) + 1),
            ["before", *(series_label(m, p) for m, p in names[scenario])],
        )
        ax.set_ylim(len(names[scenario]) + 0.5, -1.0)
        ax.set_xlim(-0.03, 1.03)
        if i == 0:
            ax.set_title(METRICS[set_name][0].upper() + METRICS[set_name][1:])
        if j == 0:
            ax.set_ylabel(SCENARIOS[scenario])
        if i == len(scenarios) - 1:
            ax.set_xlabel("share of answers")
    handles = [
        Line2D([], [], linestyle="", markersize=6.5, label=_BREAKING_NAMES[measure], **look)
        for measure, look in _BREAKING_LOOKS.items()
    ]
    handles[1].set_markerfacecolor("white")  # likelihood
    legend_outside(figure, handles, [h.get_label() for h in handles])
    title(figure, _breaking_title(table))
    return figure


_BREAKING_LOOKS = {
    "generation": {"marker": "o", "color": INK},
    "likelihood": {"marker": "o", "color": INK},
    "unusable": {"marker": "x", "color": "#b00020", "markeredgewidth": 2},
}
_BREAKING_NAMES = {
    "generation": "correct, answer generated",
    "likelihood": "correct, likeliest option",
    "unusable": "unusable answer",
}


def _breaking_title(table: pd.DataFrame) -> str:
    forget = table[(table["set"] == "forget") & (table["method"] != "before")]
    wide = forget.pivot_table(
        index=["scenario", "method", "trained_part"],
        columns="measure",
        values="value",
        observed=True,
    )
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
def at_matched(table: pd.DataFrame, matched_at: float = 0.35) -> Figure:
    """Methods at the same forgetting, from `measures.at_matched`: percent kept of retain and
    general, best general first, those that missed the level on a seed after the others."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    scenarios = [s for s in SCENARIOS if s in set(table["scenario"])]
    order = {}
    for scenario in scenarios:
        general = pick(table, scenario=scenario, measure="general")
        general = best_first(general, "value", reached="n_seeds", of="n_runs")
        order[scenario] = general[["method", "trained_part"]].values.tolist()
    heights = [len(order[s]) + 0.8 for s in scenarios]
    figure = new_figure(11.5, 0.36 * sum(heights) + 1.7)
    axes = figure.subplots(
        len(scenarios), 3, sharex=True, sharey="row", squeeze=False, height_ratios=heights
    )
    every = looks(table["method"])
    remark = {"fontsize": 8, "color": "#888888", "style": "italic"}
    for i, scenario in enumerate(scenarios):
        for ax, measure in zip(
            axes[i], ("general", "retain_multimodal", "retain_text"), strict=True
        ):
            for y, (method, part) in enumerate(order[scenario]):
                for line in pick(
                    table, scenario=scenario, measure=measure, method=method, trained_part=part
                ).itertuples():
                    look = line_style(method, part, every) | {"linestyle": "-"}
                    if np.isnan(line.value):
                        ax.text(2, y, f"{matched_at:g} not reached", va="center", **remark)
                        continue
                    ax.plot([line.low, line.high], [y, y], color=look["color"], linewidth=1.5)
                    ax.plot(line.value, y, markersize=7, **look)
                    if line.n_seeds < line.n_runs:
                        said = f"{line.n_seeds} of {line.n_runs} seeds"
                        ax.text(2, y, said, va="center", **remark)
            reference_line(ax, 100, "before" if i == 0 else "", axis="x", side="left")
            ax.set_yticks(
                range(len(order[scenario])), [series_label(m, p) for m, p in order[scenario]]
            )
            ax.set_ylim(len(order[scenario]) - 0.4, -0.6)
            if i == 0:
                ax.set_title(METRICS[measure][0].upper() + METRICS[measure][1:])
            if i == len(scenarios) - 1:
                ax.set_xlabel("kept, % of before (higher is better →)")
        axes[i, 0].set_ylabel(SCENARIOS[scenario])
    axes[0, 0].set_xlim(0, max(108, table["high"].max() + 3))
    title(figure, _matched_title(table, matched_at))
    return figure


def _matched_title(table: pd.DataFrame, matched_at: float) -> str:
    every_seed = table[(table["n_seeds"] == table["n_runs"]) & (table["measure"] == "general")]
    every_seed = every_seed.dropna(subset="value")
    retrained = every_seed["method"].isin(
        [m.id for m in METHODS.values() if m.procedure == "retrain"]
    )
    said = []
    for scenario, name in SCENARIOS.items():
        general = pick(every_seed[~retrained], scenario=scenario)
        if len(general):
            best = general.loc[general["value"].idxmax()]
            said.append(
                f"{series_label(best['method'], best['trained_part'])} ({best['value']:.0f} %,"
                f" {name})"
            )
    return (
        f"At forget accuracy {matched_at:g}{', retraining apart' if retrained.any() else ''}, most"
        f" general ability is kept by {' and '.join(said)}"
        if said
        else f"No method{' but retraining' if retrained.any() else ''} reached forget accuracy"
        f" {matched_at:g} on every seed"
    )


@drawn
def projector(table: pd.DataFrame) -> Figure:
    """Projector or not, from `measures.projector`: accuracies before, with projector and LLM
    trained, and with the LLM only."""
    if table.empty:
        return empty_figure(
            "No method has complete runs with both trained parts (projector+llm and llm), so they"
            " cannot be compared."
        )
    groups = table[["scenario", "method"]].drop_duplicates().values.tolist()
    figure = new_figure(11.5, 1.0 * len(groups) + 1.9)
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    every = looks(table["method"])
    for ax, measure in zip(axes, ("forget_multimodal", "forget_text", "general"), strict=True):
        for y, (scenario, method) in enumerate(groups):
            for shift, part in ((-0.25, ""), (0.0, "projector+llm"), (0.25, "llm")):
                line = pick(
                    table, scenario=scenario, method=method, trained_part=part, measure=measure
                ).iloc[0]
                look = (
                    line_style(method, part, every)
                    if part
                    else {"color": BEFORE, "marker": "o", "markeredgecolor": BEFORE}
                )
                ax.plot(
                    [line["low"], line["high"]], [y + shift] * 2, color=look["color"], linewidth=1.5
                )
                ax.plot(line["value"], y + shift, markersize=7, **look | {"linestyle": ""})
                if not np.isnan(line["paper"]):
                    ax.plot(
                        line["paper"],
                        y + shift,
                        marker="|",
                        markersize=13,
                        markeredgewidth=2,
                        color=INK,
                        linestyle="",
                    )
        ax.set_title(METRICS[measure][0].upper() + METRICS[measure][1:])
        ax.set_xlabel(
            f"accuracy ({'higher is better →' if measure == 'general' else '← lower is better'})"
        )
        ax.set_yticks(range(len(groups)), [f"{label(m)}\n{SCENARIOS[s]}" for s, m in groups])
        ax.set_xlim(-0.03, 1.03)
        ax.set_ylim(len(groups) - 0.5, -0.5)
    handles = [
        Line2D([], [], linestyle="", marker="o", color=BEFORE, label="before"),
        Line2D([], [], linestyle="", marker="o", color=INK, label="projector + LLM"),
        Line2D(
            [], [], linestyle="", marker="o", color=INK, markerfacecolor="white", label="LLM only"
        ),
        Line2D(
            [],
            [],
            linestyle="",
            marker="|",
            markersize=13,
            markeredgewidth=2,
            color=INK,
            label="paper (13B)",
        ),
    ]
    legend_outside(figure, handles, [h.get_label() for h in handles])
    title(figure, _projector_title(table))
    return figure


def _projector_title(table: pd.DataFrame) -> str:
    wide = table.pivot_table(
        index=["scenario", "method"],
        columns=["trained_part", "measure"],
        values="value",
        observed=True,
    )
    said = []
    for part, name in (("projector+llm", "with the projector"), ("llm", "LLM only")):
        gap = wide[part]["forget_text"] - wide[part]["forget_multimodal"]
        said.append(f"{spread_text(100 * gap, '{:+.0f}').replace('-', '−')} points {name}")
    return f"Text-only minus multimodal forget accuracy: {', '.join(said)}"

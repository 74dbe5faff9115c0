"""Figures of what happens on the way: forgetting against keeping, one run's path, a training
curve."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pulse_lib.report.collect import pick
from pulse_lib.report.figures.series import (
    MANY,
    MODALITY_LOOKS,
    NOTHING_YET,
    line_style,
    series_of,
    small_panels,
    spread_text,
)
from pulse_lib.report.figures.style import (
    BEFORE,
    COLOURS,
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
from pulse_lib.report.words import METRICS, SCENARIOS, series_label


@drawn
def trade_off(table: pd.DataFrame, against: str = "general", matched_at: float = 0.35) -> Figure:
    """Forgetting (to the right) against what is kept, along each run of `measures.paths`; the
    matched state is the large marker.

    against: "general" or "retain". Lines are the cheap measurements on the way, large markers the
    full ones.
    """
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    series = series_of(table)
    figure = (
        _trade_off_small(table, against, series)
        if len(series) > MANY
        else _trade_off(table, against, matched_at, series)
    )
    title(figure, _trade_off_title(table, against, matched_at))
    return figure


def _trade_off(table: pd.DataFrame, against: str, matched_at: float, series: list) -> Figure:
    scenarios = [s for s in SCENARIOS if s in set(table["scenario"])]
    figure = new_figure(4.9 * len(scenarios) + 1.9, 4.9)
    axes = figure.subplots(1, len(scenarios), sharex=True, sharey=True, squeeze=False)[0]
    every = looks(table["method"])
    for ax, scenario in zip(axes, scenarios, strict=True):
        here = pick(table, scenario=scenario)
        for method, part in series:
            _ways(
                ax,
                pick(here, method=method, trained_part=part),
                against,
                line_style(method, part, every),
            )
        before = pick(here, kind="before")
        ax.plot(
            before["forget"],
            before[against],
            marker="o",
            color=BEFORE,
            linestyle="",
            markersize=8,
            zorder=5,
        )
        reference_line(ax, before[against].mean(), "before")
        reference_line(ax, matched_at, f"matched at {matched_at:g}", axis="x")
        ax.set_title(SCENARIOS[scenario])
        ax.set_xlabel("forget accuracy, both modalities (more is forgotten →)")
    axes[0].set_xlim(1.03, -0.03)
    axes[0].set_ylim(-0.03, 1.08)
    axes[0].set_ylabel(f"{METRICS[against]}, accuracy (higher is better ↑)")
    handles = [
        Line2D([], [], label=series_label(m, p), **line_style(m, p, every)) for m, p in series
    ]
    legend_outside(figure, *_with_states(handles))
    return figure


def _trade_off_small(table: pd.DataFrame, against: str, series: list) -> Figure:
    """One small panel per series: its own ways in colour (one line style per scenario) before
    everybody's in pale grey."""
    figure, axes = small_panels(len(series), 2.3, 2.1)
    scenarios = {
        s: line
        for s, line in zip(SCENARIOS, ("-", (0, (2, 1.5))), strict=True)
        if s in set(table["scenario"])
    }
    every = looks(table["method"])
    gap = pd.DataFrame(
        [{"forget": float("nan")}]
    )  # lifts the pen between two runs of the one background line
    ways = [
        part
        for _, way in pick(table, kind="path").groupby("run", observed=True)
        for part in (way[["forget", against]], gap)
    ]
    everybody = pd.concat(ways)
    for ax, (method, part) in zip(axes, series, strict=True):
        ax.plot(everybody["forget"], everybody[against], color="#e2e2e2", linewidth=0.6, zorder=1)
        for scenario, line in scenarios.items():
            here = pick(table, scenario=scenario, method=method, trained_part=part)
            _ways(
                ax, here, against, line_style(method, part, every) | {"linestyle": line}, scale=0.65
            )
        ax.set_title(series_label(method, part), fontsize=10)
    axes[0].set_xlim(1.03, -0.03)
    axes[0].set_ylim(-0.03, 1.08)
    figure.supxlabel("forget accuracy, both modalities (more is forgotten →)", fontsize=10)
    figure.supylabel(f"{METRICS[against]}, accuracy (higher is better ↑)", fontsize=10)
    handles = [
        Line2D([], [], color=INK, linestyle=line, label=SCENARIOS[s])
        for s, line in scenarios.items()
    ]
    handles.append(Line2D([], [], color="#d0d0d0", label="all runs"))
    handles = _with_states(handles)[0][:-1]  # without "before": every way starts there
    legend_outside(figure, handles, [h.get_label() for h in handles])
    return figure


def _ways(ax: Axes, here: pd.DataFrame, against: str, look: dict, scale: float = 1.0) -> None:
    """The ways of one series (a line per run) and their full measurements: the last step small, the
    matched state large."""
    for _, run in here.groupby("run", observed=True):
        way = pick(run, kind="path").sort_values("step")
        ax.plot(
            way["forget"],
            way[against],
            **look | {"linewidth": 1.5 * scale, "markersize": 2.5 * scale, "alpha": 0.75},
        )
        for kind, size in (("final", 6), ("matched", 12)):
            end = pick(run, kind=kind)
            ax.plot(
                end["forget"],
                end[against],
                zorder=4,
                **look | {"markersize": size * scale, "linestyle": ""},
            )


def _with_states(handles: list) -> tuple[list, list[str]]:
    """Legend entries for a figure of ways: the handles given, then what the marker sizes mean."""
    states = (
        (11, INK, "matched (all questions)"),
        (6, INK, "last step (all questions)"),
        (8, BEFORE, "before"),
    )
    handles = handles + [
        Line2D([], [], marker="o", linestyle="", color=c, markersize=s, label=t)
        for s, c, t in states
    ]
    return handles, [h.get_label() for h in handles]


def _trade_off_title(table: pd.DataFrame, against: str, matched_at: float) -> str:
    said = []
    for scenario, name in SCENARIOS.items():
        matched = pick(table, scenario=scenario, kind="matched")
        before = pick(table, scenario=scenario, kind="before")[against].mean()
        if len(matched):
            share = (
                100
                * matched.groupby(["method", "trained_part"], observed=True)[against].mean()
                / before
            )
            said.append(f"{spread_text(share)} % ({name})")
    what = METRICS[against]
    return (
        f"At forget accuracy {matched_at:g}, of accuracy on the {what} remains:"
        f" {'; '.join(said) or 'not reached by any'}"
    )


@drawn
def run_path(
    table: pd.DataFrame, matched_step: int | None = None, matched_at: float = 0.35, name: str = ""
) -> Figure:
    """One run on its way, from its path.csv: accuracies over steps, with the matched step marked.
    name: of the run, for the title."""
    if table.empty:
        return empty_figure("This run's path is empty.")
    figure = new_figure(9, 4.2)
    ax = figure.subplots()
    for measure, (colour, line, marker) in MODALITY_LOOKS.items():
        ax.plot(
            table["step"],
            table[measure],
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=4,
            label=METRICS[measure],
        )
    if matched_step is not None:
        reference_line(ax, matched_step, f"matched, step {matched_step}", axis="x")
    reference_line(ax, matched_at, f"{matched_at:g}")
    ax.set_xlabel("step (updates of the weights)")
    ax.set_ylabel("accuracy, or share of all answers")
    ax.set_ylim(-0.03, 1.08)
    legend_outside(figure, *ax.get_legend_handles_labels())
    start, end = table.iloc[0], table.iloc[-1]
    forget = [(row["forget_multimodal"] + row["forget_text"]) / 2 for row in (start, end)]
    reached = (
        f"forget accuracy {matched_at:g} at step {matched_step}"
        if matched_step is not None
        else f"{matched_at:g} was not reached"
    )
    title(
        figure,
        f"{name + ': ' if name else ''}forget {forget[0]:.2f} → {forget[1]:.2f}, general"
        f" {start['general']:.2f} → {end['general']:.2f}; {reached}",
    )
    return figure


@drawn
def training_curve(table: pd.DataFrame, name: str = "") -> Figure:
    """A run's log.csv: the loss (and its forget and retain terms where there are any) over steps,
    and the learning rate."""
    if table.empty:
        return empty_figure("This run's log is empty.")
    figure = new_figure(9, 3.4)
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    terms = {
        "loss": (INK, "total"),
        "forget_loss": (COLOURS[3], "forget term"),
        "retain_loss": (COLOURS[0], "retain term"),
    }
    for column, (colour, text) in terms.items():
        if column in table and table[column].notna().any():
            values = table[column]
            ax.plot(table["step"], values, color=colour, linewidth=0.8, alpha=0.35)
            ax.plot(
                table["step"],
                values.rolling(max(1, len(table) // 40), center=True, min_periods=1).mean(),
                color=colour,
                label=text,
            )
    ax.set_ylabel("loss (nats per token)")
    legend_outside(figure, *ax.get_legend_handles_labels())
    below.plot(table["step"], table["learning_rate"], color=BEFORE)
    below.set_ylabel("rate")
    below.set_xlabel("step (updates of the weights)")
    n = max(1, len(table) // 20)
    title(
        figure,
        f"{name + ': ' if name else ''}loss {table['loss'].iloc[:n].mean():.2f} →"
        f" {table['loss'].iloc[-n:].mean():.2f} in {int(table['step'].max())} steps",
    )
    return figure

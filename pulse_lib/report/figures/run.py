"""Pictures of one run: its trajectory, its training curve, and its rounds if it is a sequential
one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pulse_lib.evaluate.accuracy import MATCHED_AT, both_modalities, nan_mean
from pulse_lib.methods import Method
from pulse_lib.report.figures.style import (
    BEFORE,
    COLOURS,
    INK,
    METRIC_LOOKS,
    Figure,
    Look,
    drawn,
    empty_figure,
    legend_outside,
    new_figure,
    reference_line,
    title,
)
from pulse_lib.report.words import METRICS, loss_unit

_TERMS = {  # of a loss, by the column of log.csv
    "loss": (INK, "loss"),
    "forget_loss": (COLOURS[3], "forget term"),
    "retain_loss": (COLOURS[0], "retain term"),
}


def _accuracies(x: Sequence | pd.Series | pd.Index, table: pd.DataFrame) -> tuple[Figure, Axes]:
    """A figure with every accuracy of a table over x, with its axes; where the table knows the
    likeliest options, their share right on the forget set as well."""
    figure = new_figure(9, 4.2)
    ax = figure.subplots()
    for metric, look in METRIC_LOOKS.items():
        ax.plot(x, table[metric], markersize=4, label=METRICS[metric], **look)
    if "forget_text_likelihood" in table:
        likeliest = nan_mean(table[f"forget_{m}_likelihood"] for m in ("multimodal", "text"))
        ax.plot(
            x, likeliest, color=COLOURS[3], linestyle="-.", label="forget set, likeliest option"
        )
    ax.set_ylabel("accuracy, or share of all answers")
    ax.set_ylim(-0.03, 1.08)
    legend_outside(figure, ax.get_legend_handles_labels()[0])
    return figure, ax


@drawn
def run_path(
    table: pd.DataFrame,
    matched_step: int | None = None,
    *,
    matched_at: float = MATCHED_AT,
    name: str = "",
) -> Figure:
    """One run on its way, from its path.csv: accuracies over steps, with the matched step marked.
    name: of the run, for the title."""
    if table.empty:
        return empty_figure("This run's path is empty.")
    figure, ax = _accuracies(table["step"], table)
    reached = f"forget accuracy {matched_at:g} was not reached"
    if matched_step is not None:
        reference_line(ax, matched_step, text=f"matched, step {matched_step}", axis="x")
        reached = f"first at or below {matched_at:g} at step {matched_step}"
    reference_line(ax, matched_at, text=f"{matched_at:g}")
    ax.set_xlabel("step (updates of the weights)")
    start, end = table.iloc[0], table.iloc[-1]
    said = (
        f"forget (mean of both modalities) {both_modalities(start):.2f} →"
        f" {both_modalities(end):.2f}, general {start['general']:.2f} → {end['general']:.2f}; {reached}"
    )
    title(figure, said, name=name)
    return figure


@drawn
def training_curve(table: pd.DataFrame, method: Method | None = None, *, name: str = "") -> Figure:
    """A run's log.csv: the loss over steps, its forget and retain terms where it has both, and the
    learning rate. method: whose loss it is, for the unit; without it the axis names none.
    """
    if table.empty:
        return empty_figure("This run's log is empty.")
    figure = new_figure(9, 3.4)
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    wide = max(1, len(table) // 40)
    for column in _terms_of(table):
        colour, text = _TERMS[column]
        values = table[column]
        smooth = values.rolling(wide, center=True, min_periods=1).mean()
        ax.plot(table["step"], values, color=colour, linewidth=0.8, alpha=0.35)
        ax.plot(table["step"], smooth, color=colour, label=text)
    ax.set_ylabel(f"loss ({loss_unit(method)})" if method else "loss")
    every = Line2D([], [], color=BEFORE, linewidth=0.8, alpha=0.5, label="pale: every step")
    bold = Line2D([], [], color="none", label=f"bold: mean of {wide} steps")
    shown = ax.get_legend_handles_labels()[0]
    legend_outside(figure, [*shown, *([every, bold] if wide > 1 else [])])
    below.plot(table["step"], table["learning_rate"], color=BEFORE)
    below.set_ylabel("rate")
    below.set_xlabel("step (updates of the weights)")
    title(figure, _curve_title(table), name=name)
    return figure


def _terms_of(table: pd.DataFrame) -> list[str]:
    """The columns worth a line. A forget term alone is the loss, and of fine-tuning it would be
    called by a wrong name."""
    there = [column for column in _TERMS if column in table and table[column].notna().any()]
    alone = there == ["loss", "forget_loss"] and np.allclose(table["loss"], table["forget_loss"])
    return ["loss"] if alone else there


def _curve_title(table: pd.DataFrame) -> str:
    n, steps = max(1, len(table) // 20), int(table["step"].max())
    start, end = table["loss"].iloc[:n].mean(), table["loss"].iloc[-n:].mean()
    how = f" (means of the first and last {n})" if n > 1 else ""
    return f"loss {start:.2f} → {end:.2f} in {steps} steps{how}"


@drawn
def rounds(table: pd.DataFrame, name: str = "") -> Figure:
    """One sequential run: accuracies over rounds. table: index round (0 = before), columns as of
    `evaluate.accuracy.summary`."""
    figure, ax = _accuracies(table.index, table)
    reference_line(ax, table["general"].iloc[0], text="general before")
    ax.set_xlabel("requests carried out")
    ax.set_xticks(list(table.index))
    start, end = table.iloc[0], table.iloc[-1]
    retain = [both_modalities(state, "retain") for state in (start, end)]
    said = (
        f"after {table.index.max()} requests retain (mean of both modalities) {retain[0]:.2f} →"
        f" {retain[1]:.2f}, general {start['general']:.2f} → {end['general']:.2f}"
    )
    title(figure, said, name=name)
    return figure


@drawn
def request_grid(
    table: pd.DataFrame, order: Sequence[int] | None = None, *, name: str = ""
) -> Figure:
    """One sequential run: accuracy on each request's people after each round. table: index round,
    columns request_1 ...

    order: the requests in the order carried out (default: as numbered). Left of the stairs: already
    requested.
    """
    order = list(order or range(1, len(table.columns) + 1))
    grid = table[[f"request_{r}" for r in order]].set_axis(order, axis=1)
    figure = new_figure(5.6, 4.4)
    ax = figure.subplots()
    stairs_map(ax, grid)
    figure.colorbar(ax.collections[0], ax=ax, label="accuracy (share correct)", shrink=0.85)
    waiting, done = grid.iloc[1].iloc[1:].mean(), grid.iloc[-1].mean()
    said = (
        f"after one request those still to come are at {waiting:.2f} on average, after all"
        f" everybody is at {done:.2f}"
    )
    title(figure, said, name=name)
    return figure


def stairs_map(ax: Axes, grid: pd.DataFrame) -> None:
    """Draw accuracies (index: round, columns: requests in the order carried out); left of the blue
    stairs: already requested."""
    # Not by seaborn's heatmap: it draws the whole figure for each map, 110 MB a panel
    scale: Look = {"vmin": 0, "vmax": 1, "cmap": "rocket_r", "edgecolors": "w", "linewidths": 1}
    ax.pcolormesh(grid.to_numpy(dtype=float), **scale)
    for (y, x), value in np.ndenumerate(grid.to_numpy(dtype=float)):
        if np.isnan(value):
            continue
        look: Look = {"size": 8, "color": "w" if value > 0.5 else "0.15", "in_layout": False}
        ax.text(x + 0.5, y + 0.5, f"{value:.2f}", ha="center", va="center", **look)
    ax.set(xlim=(0, len(grid.columns)), ylim=(len(grid), 0))
    ax.set_xticks(np.arange(len(grid.columns)) + 0.5, [str(name) for name in grid.columns])
    ax.set_yticks(np.arange(len(grid)) + 0.5, [str(name) for name in grid.index])
    ax.grid(visible=False)
    rounds = list(grid.index)
    for i in range(len(grid.columns)):
        if i + 1 not in rounds:
            break
        top = rounds.index(i + 1)
        ax.plot([i, i + 1], [top, top], color="#0173b2", linewidth=2.5)
        if i + 1 < len(grid.columns):
            ax.plot([i + 1, i + 1], [top, top + 1], color="#0173b2", linewidth=2.5)
    ax.set_xlabel("people of request")
    ax.set_ylabel("requests carried out")
    ax.tick_params(axis="y", rotation=0)

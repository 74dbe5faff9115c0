"""Pictures of one run: its trajectory, its training curve, and its rounds if it is a sequential
one."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from pulse_lib.evaluate.accuracy import MATCHED_AT, both_modalities
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
from pulse_lib.report.words import METRICS

_TERMS = {  # of a loss, by the column of log.csv
    "loss": (INK, "total"),
    "forget_loss": (COLOURS[3], "forget term"),
    "retain_loss": (COLOURS[0], "retain term"),
}


def _accuracies(x: Sequence | pd.Series | pd.Index, table: pd.DataFrame) -> tuple[Figure, Axes]:
    """A figure with every accuracy of a table over x, with its axes."""
    figure = new_figure(9, 4.2)
    ax = figure.subplots()
    for metric, look in METRIC_LOOKS.items():
        ax.plot(x, table[metric], markersize=4, label=METRICS[metric], **look)
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
    reached = f"{matched_at:g} was not reached"
    if matched_step is not None:
        reference_line(ax, matched_step, text=f"matched, step {matched_step}", axis="x")
        reached = f"forget accuracy {matched_at:g} at step {matched_step}"
    reference_line(ax, matched_at, text=f"{matched_at:g}")
    ax.set_xlabel("step (updates of the weights)")
    start, end = table.iloc[0], table.iloc[-1]
    said = (
        f"forget {both_modalities(start):.2f} → {both_modalities(end):.2f}, general"
        f" {start['general']:.2f} → {end['general']:.2f}; {reached}"
    )
    title(figure, said, name=name)
    return figure


@drawn
def training_curve(table: pd.DataFrame, name: str = "") -> Figure:
    """A run's log.csv: the loss (and its forget and retain terms where there are any) over steps,
    and the learning rate."""
    if table.empty:
        return empty_figure("This run's log is empty.")
    figure = new_figure(9, 3.4)
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    for column, (colour, text) in _TERMS.items():
        if column in table and table[column].notna().any():
            values = table[column]
            smooth = values.rolling(max(1, len(table) // 40), center=True, min_periods=1).mean()
            ax.plot(table["step"], values, color=colour, linewidth=0.8, alpha=0.35)
            ax.plot(table["step"], smooth, color=colour, label=text)
    ax.set_ylabel("loss (nats per token)")
    legend_outside(figure, ax.get_legend_handles_labels()[0])
    below.plot(table["step"], table["learning_rate"], color=BEFORE)
    below.set_ylabel("rate")
    below.set_xlabel("step (updates of the weights)")
    n = max(1, len(table) // 20)
    start, end = table["loss"].iloc[:n].mean(), table["loss"].iloc[-n:].mean()
    title(figure, f"loss {start:.2f} → {end:.2f} in {int(table['step'].max())} steps", name=name)
    return figure


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
        f"after {table.index.max()} requests retain {retain[0]:.2f} → {retain[1]:.2f}, general"
        f" {start['general']:.2f} → {end['general']:.2f}"
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
        f"after one request those still to come are at {waiting:.2f}, after all everybody is at"
        f" {done:.2f}"
    )
    title(figure, said, name=name)
    return figure


def stairs_map(ax: Axes, grid: pd.DataFrame) -> None:
    """Draw accuracies (index: round, columns: requests in the order carried out); left of the blue
    stairs: already requested."""
    scale: Look = {"vmin": 0, "vmax": 1, "cmap": "rocket_r", "cbar": False, "linewidths": 1}
    sns.heatmap(grid, ax=ax, annot=True, fmt=".2f", annot_kws={"size": 8}, **scale)
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

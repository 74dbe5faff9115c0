"""What a loss does: how hard it pushes while an answer becomes unlikely, and the answer's likeliest
tokens on the way."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from pulse_lib.report.collect import groups
from pulse_lib.report.figures.cards import RIGHT
from pulse_lib.report.figures.style import (
    COLOURS,
    INK,
    MARKERS,
    Figure,
    drawable,
    drawn,
    legend_outside,
    new_figure,
    title,
)


@drawn
def pushes(table: pd.DataFrame) -> Figure:
    """Loss (left) and push (right) against an answer's probability, from `train.push.pushes`."""
    figure = new_figure(10, 3.4)
    axes = {
        "loss": "forget loss (nats)",
        "push": "push on log p (its derivative)",
    }
    panels = figure.subplots(1, 2)
    for ax, (column, text) in zip(panels, axes.items(), strict=True):
        for i, (method, line) in enumerate(groups(table, "method", sort=False)):
            look = {"color": COLOURS[i], "marker": MARKERS[i], "markevery": 20, "markersize": 5}
            ax.plot(line["p"], line[column], label=method, **look)
        ax.set_xscale("log")
        ax.invert_xaxis()
        ax.set_xlabel("probability of the answer (forgotten to the right)")
        ax.set_ylabel(text)
    panels[1].set_ylim(bottom=0)
    legend_outside(figure, panels[0].get_legend_handles_labels()[0])
    ends = table.groupby("method", sort=False)["push"].agg(["first", "last"])
    said = ", ".join(f"{m} {a:.2f} → {b:.2f}" for m, (a, b) in ends.iterrows())
    title(figure, f"Push while p falls from {table['p'].max():g} to {table['p'].min():g}: {said}")
    return figure


@drawn
def likeliest(tables: Mapping[str, pd.DataFrame], right: str) -> Figure:
    """Bars of the likeliest first tokens of an answer, a panel a state, in their order. right: the
    token of the right answer, drawn in green.

    tables: by state, of `evaluate.generate.likeliest_tokens`.
    """
    figure = new_figure(3.2 * len(tables), 2.3)
    panels = figure.subplots(1, len(tables), sharex=True, squeeze=False)[0]
    for ax, (state, table) in zip(panels, tables.items(), strict=True):
        shown, places = table[::-1], range(len(table))  # two tokens may be written alike
        colours = [RIGHT if token == right else "#c8c8c8" for token in shown["token"]]
        ax.barh(places, shown["p"], color=colours)
        ax.set_yticks(places, [drawable(token) or "(space)" for token in shown["token"]])
        for y, p in enumerate(shown["p"]):
            ax.text(p + 0.02, y, f"{p:.2f}", va="center", fontsize=8, color=INK)
        ax.set_title(state, fontsize=10)
        ax.set_xlim(0, 1.18)
        ax.set_xlabel("probability")
        ax.grid(axis="y", visible=False)
    chances = [t.loc[t["token"] == right, "p"].sum() for t in tables.values()]
    said = " → ".join(f"{p:.2f}" if p else "not among them" for p in chances)
    title(figure, f"Probability of {right.strip()}: {said}")
    return figure

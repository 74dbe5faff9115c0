"""What probes show: of one run condition by condition, and of all runs at a glance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from pulse_lib.report.figures.style import (
    BEFORE,
    COLOURS,
    INK,
    Figure,
    Look,
    dot,
    drawn,
    empty_figure,
    legend_outside,
    new_figure,
    reference_line,
    title,
)
from pulse_lib.report.words import KNOWS, LEARNED, label

_LOOKS: dict[str, Look] = {"forget": {"color": COLOURS[3]}, "retain": {"color": COLOURS[0]}}


@drawn
def probe_conditions(summary: pd.DataFrame, name: str, *, knowledge: Mapping[str, float]) -> Figure:
    """One run, from the summary of its probes: the share of questions whose right option is the
    likeliest, by probe and condition, forget and retain people; what is said as a hollow mark.
    Of relearning the last step. The title goes by `knowledge`, as the verdict does: not by layers or
    pictures of another, which show any model something that it need not know.
    """
    table = summary[summary["set"].isin(_LOOKS)]
    last = table.groupby(["probe", "condition"])["step"].transform("max")
    table = table[table["step"] == last]
    if table.empty:
        return empty_figure("No rows about people, so there is nothing to draw.")
    means = table.groupby(["probe", "condition", "set"], sort=False)[
        ["likelihood", "accuracy", "chance"]
    ].mean()
    places = list(dict.fromkeys((p, c) for p, c, _ in means.index))
    figure = new_figure(9, 0.27 * len(places) + 1.6)
    ax = figure.subplots()
    for (probe, condition, group), row in means.iterrows():
        y, look = places.index((probe, condition)), _LOOKS[group]
        y += 0.12 if group == "retain" else -0.12
        # The full mark above the hollow one: where both are the same, it is the likeliest option
        ax.plot(row["accuracy"], y, "o", markersize=6, markerfacecolor="white", **look)
        ax.plot(row["likelihood"], y, "o", markersize=6, **look)
    ax.set_yticks(range(len(places)), [c if p == c else f"{p}: {c}" for p, c in places])
    ax.set_ylim(len(places) - 0.5, -0.9)
    ax.set_xlim(-0.03, 1.03)
    ax.set_xlabel("share of questions")
    reference_line(ax, float(means["chance"].mean()), text="chance", axis="x")
    said = "what is known of the people, under each condition"
    if knowledge:
        most = max(knowledge, key=knowledge.__getitem__)
        said = f"of what the verdict goes by, most is known by: {most} ({knowledge[most]:.0%})"
    title(figure, said, name=name)
    marks = [dot(f"{group}, likeliest option", **look) for group, look in _LOOKS.items()]
    marks += [dot("hollow: what is said", color=INK, markerfacecolor="white")]
    legend_outside(figure, marks)
    return figure


@drawn
def relearning(summary: pd.DataFrame, name: str) -> Figure:
    """One run: what is known of forget people by step of training on something else, a line for
    each lesson.
    """
    table = summary[(summary["probe"] == "relearning") & (summary["set"] == "forget")]
    if table.empty:
        return empty_figure("Nothing was taught again, so there is nothing to draw.")
    means = table.groupby(["condition", "step"], sort=False)[["likelihood", "chance"]].mean()
    figure = new_figure(7.5, 3.4)
    ax = figure.subplots()
    lines = []
    for i, (condition, line) in enumerate(means.groupby("condition", sort=False)):
        steps = line.index.get_level_values("step")
        look: Look = {"color": COLOURS[i % len(COLOURS)], "marker": "os^Dv"[i % 5], "markersize": 5}
        lines += ax.plot(steps, line["likelihood"], label=condition, **look)
    ax.set_xscale("symlog", base=2, linthresh=1)
    shown = sorted(set(table["step"]))
    ax.set_xticks(shown, [str(step) for step in shown])
    ax.set_ylim(0, 1.03)
    ax.set_xlabel("step of relearning")
    ax.set_ylabel("right option likeliest")
    reference_line(ax, float(means["chance"].mean()), text="chance")
    rise = means["likelihood"].groupby("condition").agg(lambda v: v.max() - v.iloc[0])
    title(
        figure,
        f"what was not taught comes back by up to {100 * rise.max():.0f} points ({rise.idxmax()})",
        name=name,
    )
    legend_outside(figure, lines)
    return figure


@drawn
def at_a_glance(table: pd.DataFrame) -> Figure:
    """All runs that were probed, from `tables.probes.probed_runs` or `over_seeds`: a row a run with its
    verdict, a column for each kind of knowledge; dark where much of the forget people is known.
    """
    if table.empty:
        return empty_figure("No run of this study was probed yet: run 06_probe.")
    columns = ["said", *(c for c in table if c.startswith(KNOWS))]
    values = table[columns].to_numpy(dtype=float)
    figure = new_figure(0.62 * len(columns) + 6.5, 0.34 * len(table) + 2.6)
    ax = figure.subplots()
    ax.grid(visible=False)
    ax.imshow(values, cmap="Oranges", vmin=0, vmax=1, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if float(value) > 0.7 else INK
            ax.text(x, y, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    ax.set_xticks(
        range(len(columns)),
        [c.removeprefix(KNOWS) for c in columns],
        rotation=40,
        ha="left",
        rotation_mode="anchor",
    )
    ax.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.set_yticks(range(len(table)), [_run_label(row) for _, row in table.iterrows()])
    for y, verdict in enumerate(table["verdict"]):
        colour = INK if verdict == "forgot" else BEFORE
        ax.text(len(columns) - 0.35, y, verdict, va="center", weight="bold", color=colour)
    ax.set_xlim(-0.5, len(columns) + 1.2)
    for spine in ax.spines.values():
        spine.set_visible(False)
    n = int((table["verdict"] == "forgot").sum())
    title(figure, f"{n} of {len(table)} models forgot by every probe")
    return figure


def _run_label(row: pd.Series) -> str:
    learned = LEARNED[row["scenario"]]
    words = [label(row["method"]), row["policy"], f"({learned})", row["state"]]
    words += [f"seed {row['seed']}"] if row.get("seed") else []
    words += ["llm"] if row["trained_part"] == "llm" else []
    return " ".join(str(word) for word in words if word)

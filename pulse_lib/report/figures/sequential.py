"""Figures of request after request: the paper's Figure 5, the relapse map, and one run's rounds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pulse_lib.report.collect import pick
from pulse_lib.report.figures.series import (
    MANY,
    MEASURE_LOOKS,
    MODALITY_LOOKS,
    NOTHING_YET,
    line_style,
    small_panels,
    spread_text,
)
from pulse_lib.report.figures.style import (
    BEFORE,
    COLOURS,
    Figure,
    drawn,
    empty_figure,
    legend_outside,
    looks,
    new_figure,
    reference_line,
    title,
)
from pulse_lib.report.words import METRICS, series_label

LOWER_IS_BETTER = ("forget", "invalid_rate")

LINES = ["-", "--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2))]  # of the policies


@drawn
def requests(table: pd.DataFrame) -> Figure:
    """The paper's Figure 5 from `measures.requests`: accuracies and unusable answers over rounds 0
    (before) to the last request."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    every = looks(table["method"])
    series = table[["method", "policy", "trained_part"]].drop_duplicates().itertuples(index=False)
    series = sorted(series, key=lambda s: (list(every).index(s[0]), s[1], s[2]))
    if len(series) > MANY:
        return _requests_small(table, series)
    figure = new_figure(10.5, 7)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    policies = sorted(table["policy"].unique())
    for ax, measure in zip(axes.flat, ("forget", "retain", "general", "invalid_rate"), strict=True):
        here = pick(table, measure=measure)
        for i, (method, policy, part) in enumerate(series):
            line = pick(here, method=method, policy=policy, trained_part=part).sort_values("round")
            look = line_style(method, part, every)
            if len(policies) > 1:
                look["linestyle"] = LINES[policies.index(policy) % len(LINES)]
            x = line["round"] + (i - (len(series) - 1) / 2) * min(0.06, 0.4 / len(series))
            ax.plot(x, line["value"], markersize=5, linewidth=1.6, **look)
            ax.vlines(x, line["low"], line["high"], color=look["color"], linewidth=1, alpha=0.8)
        if measure != "invalid_rate":
            reference_line(ax, pick(here, round=0)["value"].mean(), "before")
        ax.set_title(METRICS[measure][0].upper() + METRICS[measure][1:], loc="left")
        ax.set_ylabel(
            "share of all answers" if measure == "invalid_rate" else "accuracy (share correct)"
        )
        better = "lower is better ↓" if measure in LOWER_IS_BETTER else "higher is better ↑"
        place = {"xycoords": "axes fraction", "xytext": (4, -4), "textcoords": "offset points"}
        ax.annotate(better, (0.0, 1.0), va="top", fontsize=8, color="#666666", **place)
    axes[0, 0].set_ylim(-0.03, 1.08)
    for ax in axes[1]:
        ax.set_xlabel("requests carried out")
        ax.set_xticks(sorted(table["round"].unique()))
    handles = [
        Line2D(
            [],
            [],
            label=series_label(m, p) + (f", {q}" if len(policies) > 1 else ""),
            **line_style(m, p, every),
        )
        for m, q, p in series
    ]
    legend_outside(figure, handles, [h.get_label() for h in handles])
    title(figure, _requests_title(table))
    return figure


def _requests_small(table: pd.DataFrame, series: list) -> Figure:
    """One small panel per series with a line per measure."""
    figure, axes = small_panels(len(series), 2.3, 1.9)
    policies = table["policy"].nunique()
    for ax, (method, policy, part) in zip(axes, series, strict=True):
        here = pick(table, method=method, policy=policy, trained_part=part)
        for measure, look in MEASURE_LOOKS.items():
            line = pick(here, measure=measure).sort_values("round")
            ax.plot(line["round"], line["value"], markersize=3.5, linewidth=1.5, **look)
            ax.fill_between(
                line["round"],
                line["low"],
                line["high"],
                color=look["color"],
                alpha=0.15,
                linewidth=0,
            )
        ax.set_title(_panel(method, policy, part, policies), fontsize=10)
        ax.set_ylim(-0.03, 1.06)
        ax.set_xticks(sorted(table["round"].unique()))
    figure.supxlabel("requests carried out", fontsize=10)
    figure.supylabel("accuracy, or share of all answers", fontsize=10)
    handles = [Line2D([], [], label=METRICS[m], **look) for m, look in MEASURE_LOOKS.items()]
    legend_outside(figure, handles, [h.get_label() for h in handles])
    title(figure, _requests_title(table))
    return figure


def _panel(method: str, policy: str, part: str, policies: int) -> str:
    """A panel's name, with the policy where there are several."""
    return series_label(method, part) + (f"\n{policy}" if policies > 1 else "")


def _requests_title(table: pd.DataFrame) -> str:
    last = table["round"].max()
    end, start = pick(table, round=last), pick(table, round=0)
    keys = ["method", "policy", "trained_part", "measure"]
    kept = 100 * end.set_index(keys)["value"] / start.set_index(keys)["value"]
    said = [
        f"{name} {spread_text(kept.xs(name, level='measure'))} %" for name in ("retain", "general")
    ]
    forget = spread_text(pick(end, measure="forget")["value"], "{:.2f}")
    return (
        f"After {last} requests forget accuracy is {forget}; of its start remains:"
        f" {', '.join(said)}"
    )


@drawn
def relapse(table: pd.DataFrame) -> Figure:
    """Accuracy on each request's people after each round, one heat map per method; left of the
    stairs they had been requested."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    series = list(table.groupby(["method", "policy", "trained_part"], observed=True, sort=False))
    columns = min(4, len(series))
    rows = -(-len(series) // columns)
    figure = new_figure(3.3 * columns + 0.8, 3.0 * rows + 0.8)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    policies = table["policy"].nunique()
    for ax, ((method, policy, part), here) in zip(axes, series, strict=False):
        stairs_map(ax, here.pivot(index="round", columns="turn", values="value"))
        ax.set_title(_panel(method, policy, part, policies))
    for ax in axes[len(series) :]:
        ax.remove()
    figure.colorbar(
        axes[0].collections[0],
        ax=list(axes[: len(series)]),
        label="accuracy (share correct)",
        shrink=0.8,
        aspect=25 * rows,
    )
    title(figure, _relapse_title(table))
    return figure


def stairs_map(ax: Axes, grid: pd.DataFrame) -> None:
    """Draw accuracies (index: round, columns: requests in the order carried out); left of the blue
    stairs: already requested."""
    options = {
        "vmin": 0,
        "vmax": 1,
        "cmap": "rocket_r",
        "annot": True,
        "fmt": ".2f",
        "annot_kws": {"size": 8},
    }
    sns.heatmap(grid, ax=ax, cbar=False, linewidths=1, **options)
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


def _relapse_title(table: pd.DataFrame) -> str:
    done = table[table["round"] >= table["turn"]].sort_values("round")
    per = done.groupby(["method", "policy", "trained_part", "turn"], observed=True)["value"]
    rise = (done["value"] - per.cummin()).max()
    waiting = pick(table[table["turn"] > 1], round=1)["value"]
    fell = (
        f"one request leaves those still to come at {spread_text(waiting, '{:.2f}')}; "
        if len(waiting)
        else ""
    )
    text = f"{fell}a request once forgotten comes back by at most {rise:.2f}"
    return text[0].upper() + text[1:]


@drawn
def rounds(table: pd.DataFrame, name: str = "") -> Figure:
    """One sequential run: accuracies over rounds. table: index round (0 = before), columns as of
    `evaluate.accuracy.summary`."""
    figure = new_figure(9, 4.2)
    ax = figure.subplots()
    for measure, (colour, line, marker) in MODALITY_LOOKS.items():
        ax.plot(
            table.index,
            table[measure],
            color=colour,
            linestyle=line,
            marker=marker,
            markersize=5,
            label=METRICS[measure],
        )
    reference_line(ax, table["general"].iloc[0], "general before")
    ax.set_xlabel("requests carried out")
    ax.set_xticks(list(table.index))
    ax.set_ylabel("accuracy, or share of all answers")
    ax.set_ylim(-0.03, 1.08)
    legend_outside(figure, *ax.get_legend_handles_labels())
    start, end = table.iloc[0], table.iloc[-1]
    retain = [(row["retain_multimodal"] + row["retain_text"]) / 2 for row in (start, end)]
    said = (
        f"retain {retain[0]:.2f} → {retain[1]:.2f}, general {start['general']:.2f} →"
        f" {end['general']:.2f}"
    )
    title(figure, f"{name + ': ' if name else ''}after {table.index.max()} requests {said}")
    return figure


@drawn
def request_grid(table: pd.DataFrame, order: list[int] | None = None, name: str = "") -> Figure:
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
    title(figure, f"{name + ': ' if name else ''}{said}")
    return figure


@drawn
def round_figure(requests: pd.DataFrame, relapse: pd.DataFrame, number: int) -> Figure:
    """All sequential runs after one round: accuracy on each request's people, retain and general,
    beside the value before.

    requests, relapse: tables of `measures`. Filled bars: requested by now; pale: not yet.
    """
    if relapse.empty:
        return empty_figure(
            "No complete sequential run in this study yet, so there is nothing to draw."
        )
    series = list(relapse.groupby(["method", "policy", "trained_part"], observed=True, sort=False))
    figure = new_figure(min(3.4 * len(series), 13) + 0.6, 3.6 * -(-len(series) // 4) + 0.6)
    columns = min(4, len(series))
    axes = np.ravel(
        figure.subplots(-(-len(series) // columns), columns, sharey=True, squeeze=False)
    )
    policies = relapse["policy"].nunique()
    for ax, (whose, here) in zip(axes, series, strict=False):
        others = pick(
            requests, **dict(zip(("method", "policy", "trained_part"), whose, strict=True))
        )
        now = pick(here, round=number)
        bars = [
            (f"req {t:.0f}", v, COLOURS[3], t > number)
            for t, v in zip(now["turn"], now["value"], strict=True)
        ]
        for measure, colour in (("retain", COLOURS[0]), ("general", COLOURS[2])):
            bars.append(
                (
                    measure,
                    pick(others, measure=measure, round=number)["value"].iloc[0],
                    colour,
                    False,
                )
            )
        names = [bar[0] for bar in bars]
        colours = [colour for _, _, colour, _ in bars]
        for i, (_, value, colour, pale) in enumerate(bars):
            ax.bar(i, value, color=colour, alpha=0.35 if pale else 1.0, width=0.75)
        before = pick(here, round=0)["value"].tolist()
        before += [pick(others, measure=m, round=0)["value"].iloc[0] for m in ("retain", "general")]
        ax.scatter(range(len(before)), before, marker="_", s=220, color=BEFORE, zorder=3)
        ax.set_xticks(range(len(names)), names, rotation=45)
        for tick, colour in zip(ax.get_xticklabels(), colours, strict=True):
            tick.set_color(colour)
        ax.set_title(_panel(*whose, policies), fontsize=10)
        ax.grid(axis="x", visible=False)
        reference_line(ax, 0.25)
    for ax in axes[len(series) :]:
        ax.remove()
    axes[0].set_ylim(0, 1.04)
    axes[0].set_ylabel("accuracy (share correct)")
    general = pick(requests, measure="general", round=number)["value"]
    text = f"After request {number}" if number else "Before the first request"
    title(
        figure,
        f"{text}: general accuracy {general.min():.2f} to {general.max():.2f}; grey strokes:"
        " before, dotted: chance",
    )
    return figure

"""Figures of request after request: the paper's Figure 5, the relapse map, rounds side by side, and
all runs after their last request against the success criterion."""

from __future__ import annotations

import pandas as pd
from matplotlib.lines import Line2D

from pulse_lib.evaluate.accuracy import CHANCE
from pulse_lib.report.collect import groups, pick
from pulse_lib.report.figures.run import stairs_map
from pulse_lib.report.figures.style import (
    BEFORE,
    COLOURS,
    MANY,
    METRIC_LOOKS,
    NOTHING_YET,
    SEED_MARKS,
    Figure,
    Look,
    dot,
    dot_grid,
    dot_interval,
    drawn,
    empty_figure,
    legend_outside,
    over,
    panels,
    reference_line,
    series_looks,
    spread_text,
    title,
)
from pulse_lib.report.tables.intervals import SEQUENCE
from pulse_lib.report.tables.ranking import SUCCESS_FORGET, SUCCESS_RETAINED
from pulse_lib.report.words import METRICS, Metric, heading, series_label

_PANELS: tuple[Metric, ...] = ("forget", "retain", "general", "invalid_rate")
_LOWER_IS_BETTER = ("forget", "invalid_rate")
# Of the metrics, where panels and not colours tell methods apart
_SMALL_LOOKS: dict[Metric, Look] = {
    "forget": METRIC_LOOKS["forget_multimodal"],
    "retain": METRIC_LOOKS["retain_text"] | {"linestyle": "-"},
    "general": METRIC_LOOKS["general"],
    "invalid_rate": METRIC_LOOKS["invalid_rate"],
}
_LINES = ["-", "--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2))]  # of the strategies


@drawn
def requests(table: pd.DataFrame) -> Figure:
    """The paper's Figure 5 from `intervals.requests`: accuracies and unusable answers over rounds 0
    (before) to the last request."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    looks, strategies = series_looks(table), sorted(table["policy"].unique())
    found = table[SEQUENCE].drop_duplicates().values.tolist()
    order = [method for method, _ in looks]
    every = {}
    for method, strategy, part in sorted(found, key=lambda s: (order.index(s[0]), s[1], s[2])):
        look = looks[method, part]
        if len(strategies) > 1:
            look = look | {"linestyle": _LINES[strategies.index(strategy) % len(_LINES)]}
        every[method, strategy, part] = look
    figure = _requests_small(table, every) if len(every) > MANY else _requests(table, every)
    title(figure, _requests_title(table))
    return figure


def _requests(table: pd.DataFrame, every: dict[tuple, Look]) -> Figure:
    """One panel per metric with a line per series."""
    figure, axes = panels(4, (4.4, 3.5), margin=(1.7, 0), most=2, sharex=True, sharey=True)
    for ax, metric in zip(axes, _PANELS, strict=True):
        here = pick(table, measure=metric)
        for i, (series, look) in enumerate(every.items()):
            line = _of(here, series).sort_values("round")
            x = line["round"] + (i - (len(every) - 1) / 2) * min(0.06, 0.4 / len(every))
            ax.plot(x, line["value"], markersize=5, linewidth=1.6, **look)
            ax.vlines(x, line["low"], line["high"], color=look["color"], linewidth=1, alpha=0.8)
            for at, points in zip(x, line["points"], strict=True):
                if len(points) > 1:
                    marks: Look = SEED_MARKS | {"marker": "_", "color": look["color"]}
                    ax.plot([at] * len(points), points, **marks)
        if metric != "invalid_rate":
            reference_line(ax, pick(here, round=0)["value"].mean(), text="before")
        ax.set_title(heading(metric), loc="left")
        share = "share of all answers" if metric == "invalid_rate" else "accuracy (share correct)"
        ax.set_ylabel(share)
        better = "lower is better ↓" if metric in _LOWER_IS_BETTER else "higher is better ↑"
        place: Look = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top"}
        ax.annotate(better, (0.0, 1.0), (4, -4), fontsize=8, color="#666666", **place)
    axes[0].set_ylim(-0.03, 1.08)
    for ax in axes[2:]:
        ax.set_xlabel("requests carried out")
        ax.set_xticks(sorted(table["round"].unique()))
    several = table["policy"].nunique() > 1
    legend_outside(
        figure,
        [
            Line2D([], [], label=series_label(m, p) + (f", {s}" if several else ""), **look)
            for (m, s, p), look in every.items()
        ],
    )
    return figure


def _requests_small(table: pd.DataFrame, every: dict[tuple, Look]) -> Figure:
    """One small panel per series with a line per metric."""
    figure, axes = panels(len(every), (2.3, 1.9), margin=(2.2, 1.0), sharex=True, sharey=True)
    for ax, series in zip(axes, every, strict=True):
        for metric, look in _SMALL_LOOKS.items():
            line = pick(_of(table, series), measure=metric).sort_values("round")
            ax.plot(line["round"], line["value"], markersize=3.5, linewidth=1.5, **look)
            band: Look = {"color": look["color"], "alpha": 0.15, "linewidth": 0}
            ax.fill_between(line["round"], line["low"], line["high"], **band)
        ax.set_title(_panel(series, table), fontsize=10)
    axes[0].set_ylim(-0.03, 1.06)  # the panels share their axes
    axes[0].set_xticks(sorted(table["round"].unique()))
    figure.supxlabel("requests carried out", fontsize=10)
    figure.supylabel("accuracy, or share of all answers", fontsize=10)
    named = _SMALL_LOOKS.items()
    legend_outside(figure, [Line2D([], [], label=METRICS[m], **look) for m, look in named])
    return figure


def _of(table: pd.DataFrame, series: tuple) -> pd.DataFrame:
    return pick(table, **dict(zip(SEQUENCE, series, strict=True)))


def _panel(series: tuple, table: pd.DataFrame) -> str:
    """A panel's name, with the strategy where the table has several."""
    method, strategy, part = series
    return series_label(method, part) + (f"\n{strategy}" if table["policy"].nunique() > 1 else "")


def _requests_title(table: pd.DataFrame) -> str:
    last = table["round"].max()
    end, start = pick(table, round=last), pick(table, round=0)
    keys = [*SEQUENCE, "measure"]
    left = 100 * end.set_index(keys)["value"] / start.set_index(keys)["value"]
    said = [
        f"{name} {spread_text(left.xs(name, level='measure'))} %" for name in ("retain", "general")
    ]
    forget = spread_text(pick(end, measure="forget")["value"], "{:.2f}")
    return (
        f"After {last} requests{over(table)}, forget accuracy is {forget}; of its start remains:"
        f" {', '.join(said)}"
    )


@drawn
def relapse(table: pd.DataFrame) -> Figure:
    """Accuracy on each request's people after each round, one heat map per method; left of the
    stairs they had been requested."""
    if table.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    every = list(groups(table, SEQUENCE, sort=False))
    figure, axes = panels(len(every), (3.3, 3.0), margin=(0.8, 0.8), most=4)
    for ax, (series, here) in zip(axes, every, strict=True):
        stairs_map(ax, here.pivot(index="round", columns="turn", values="value"))
        ax.set_title(_panel(series, table))
    bar: Look = {"label": "accuracy (share correct)", "shrink": 0.8}
    figure.colorbar(axes[0].collections[0], ax=axes, aspect=25 * -(-len(every) // 4), **bar)
    title(figure, _relapse_title(table))
    return figure


def _relapse_title(table: pd.DataFrame) -> str:
    done = table[table["round"] >= table["turn"]].sort_values("round")
    per = done.groupby([*SEQUENCE, "turn"], observed=True)["value"]
    rise = (done["value"] - per.cummin()).max()
    waiting = pick(table[table["turn"] > 1], round=1)["value"]
    fell = (
        f"one request leaves those still to come at {spread_text(waiting, '{:.2f}')}{over(table)}; "
        if len(waiting)
        else ""
    )
    text = f"{fell}a request once forgotten comes back by at most {rise:.2f}"
    return text[0].upper() + text[1:]


@drawn
def round_figure(requests: pd.DataFrame, relapse: pd.DataFrame, *, number: int) -> Figure:
    """All sequential runs after one round: accuracy on each request's people, retain and general,
    beside the value before.

    requests, relapse: tables of `intervals`. Filled bars: requested by now; pale: not yet.
    """
    if relapse.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    every = list(groups(relapse, SEQUENCE, sort=False))
    figure, axes = panels(len(every), (3.25, 3.6), margin=(0.6, 0.6), most=4, sharey=True)
    for ax, (series, people) in zip(axes, every, strict=True):
        others = _of(requests, series)
        turns = pick(people, round=number)["turn"].tolist()
        names = [*(f"req {turn:.0f}" for turn in turns), "retain", "general"]
        colours = [*(COLOURS[3] for _ in turns), COLOURS[0], COLOURS[2]]
        now, before = (_bars(people, others, number=n) for n in (number, 0))
        for i, (value, colour) in enumerate(zip(now, colours, strict=True)):
            waits = i < len(turns) and turns[i] > number
            ax.bar(i, value, color=colour, alpha=0.35 if waits else 1.0, width=0.75)
        ax.scatter(range(len(before)), before, marker="_", s=220, color=BEFORE, zorder=3)
        ax.set_xticks(range(len(names)), names, rotation=45)
        for tick, colour in zip(ax.get_xticklabels(), colours, strict=True):
            tick.set_color(colour)
        ax.set_title(_panel(series, relapse), fontsize=10)
        ax.grid(axis="x", visible=False)
        reference_line(ax, CHANCE)
    axes[0].set_ylim(0, 1.04)
    axes[0].set_ylabel("accuracy (share correct)")
    general = pick(requests, measure="general", round=number)["value"]
    text = f"After request {number}" if number else "Before the first request"
    said = f"general accuracy {spread_text(general, '{:.2f}')}{over(requests)}"
    title(figure, f"{text}: {said}; grey strokes: before, dotted: chance")
    return figure


def _bars(people: pd.DataFrame, others: pd.DataFrame, *, number: int) -> list[float]:
    """The values of a round: each request's people, then retain and general."""
    rest = pick(others, round=number).set_index("measure")["value"]
    return [*pick(people, round=number)["value"], rest["retain"], rest["general"]]


# Of `after_requests`: the columns of a modality with their names and looks, and of what is kept
_MODALITIES: dict[str, tuple[str, Look]] = {
    "multimodal": ("with the picture", {"color": COLOURS[3], "marker": "o"}),
    "text": ("by name", {"color": COLOURS[1], "marker": "s"}),
}
_WAYS: dict[str, tuple[str, Look]] = {
    "forget_{}": ("answer generated", {}),
    "forget_{}_likelihood": ("likeliest option", {"markerfacecolor": "white"}),
    "reload_{}": ("generated, projector reloaded", {"marker": "x", "markeredgewidth": 1.8}),
}
_FORGET: dict[str, tuple[str, Look]] = {
    column.format(modality): (f"{asked}: {way}", own | {"markeredgecolor": own["color"]} | look)
    for modality, (asked, own) in _MODALITIES.items()
    for column, (way, look) in _WAYS.items()
}
_RETAINED: dict[str, tuple[str, Look]] = {
    "retain_kept": ("retain set, share kept", {"color": COLOURS[0], "marker": "s"}),
    "general_kept": ("general questions, share kept", {"color": COLOURS[2], "marker": "D"}),
}


@drawn
def after_requests(table: pd.DataFrame) -> Figure:
    """What sequential runs have forgotten and kept after all requests, from `ranking.after_requests`:
    a line a configuration, best first; the shaded areas are the success criterion.
    """
    if table.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    named = zip(*(table[column] for column in SEQUENCE), strict=True)
    names = [f"{series_label(method, part)}, {strategy}" for method, strategy, part in named]
    figure, axes = dot_grid({"": names}, ["", ""], inches=0.36, sharex=False)
    most = max(1.03, table[[*_RETAINED]].max().max() + 0.03)  # more may be right than before
    for ax, marks, (low, high), end, text in (
        (
            axes[0, 0],
            _FORGET,
            (-0.03, SUCCESS_FORGET),
            1.03,
            "forget set, accuracy (share correct)",
        ),
        (
            axes[0, 1],
            _RETAINED,
            (SUCCESS_RETAINED, most),
            most,
            "share of the value before that is kept",
        ),
    ):
        for column, (_, look) in marks.items():
            for y, value in enumerate(table[column]):
                dot_interval(ax, y, value=value, look=look)
        ax.axvspan(low, high, color=COLOURS[2], alpha=0.1, zorder=0)
        ax.set_xlim(-0.03, end)
        ax.set_xlabel(text)
    every = [*_FORGET.values(), *_RETAINED.values()]
    legend_outside(figure, [dot(text, **look) for text, look in every])
    title(figure, _after_title(table, names))
    return figure


def _after_title(table: pd.DataFrame, names: list[str]) -> str:
    reached = [name for name, aim in zip(names, table["aim"], strict=True) if aim]
    what = (
        f"Forgotten (at most {SUCCESS_FORGET}) with at least {100 * SUCCESS_RETAINED:.0f} % of retain"
        " and general kept after all requests"
    )
    if reached:
        return f"{what}: {len(reached)} of {len(names)} configurations ({'; '.join(reached)})"
    return f"{what}: none of {len(names)} configurations; nearest: {names[0]}"

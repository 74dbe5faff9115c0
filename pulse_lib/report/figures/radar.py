"""The paper's Figure 4: what each method forgot and kept, one radar per scenario (or per method, if
there are many)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from pulse_lib.profile import Scenario
from pulse_lib.report.collect import pick, records
from pulse_lib.report.figures.style import (
    BEFORE,
    INK,
    MANY,
    NOTHING_YET,
    Figure,
    Look,
    Series,
    drawn,
    empty_figure,
    legend_outside,
    over,
    panels,
    series_handles,
    series_looks,
    spread_text,
    title,
)
from pulse_lib.report.words import SCENARIOS, SELECTIONS, Metric, series_label

_SHORT: dict[Metric, str] = {
    "forget_multimodal": "F mm",
    "forget_text": "F text",
    "retain_text": "R text",
    "general": "G",
    "retain_multimodal": "R mm",
}


@drawn
def radar(table: pd.DataFrame) -> Figure:
    """The paper's Figure 4 from one selection of `intervals.radar`: percent forgotten and percent
    kept, larger is better everywhere.

    Up to six series: one radar per scenario. More: one small radar per series, scenarios told apart
    by line style.
    """
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    scenarios = [s for s in SCENARIOS if s in set(table["scenario"])]
    every = series_looks(table)
    draw = _one_each if len(every) > MANY else _side_by_side
    figure, beyond = draw(table, scenarios, every=every)
    if beyond:
        figure.supxlabel(
            "outside the scale, drawn at its edge: " + "; ".join(beyond[:8]),
            fontsize=8,
            color="#666666",
        )
    title(figure, _radar_title(table))
    return figure


_BEFORE = Line2D([], [], color=BEFORE, linestyle=":", label="before unlearning")
EDGE = 105  # the outermost circle, percent
PAD, PAD_SMALL = 44, 27  # points from a circle to its title: over the name at its top


def _side_by_side(
    table: pd.DataFrame, scenarios: list[Scenario], *, every: dict[Series, Look]
) -> tuple[Figure, list[str]]:
    """A radar per scenario, with what lies outside the scale."""
    figure, axes = panels(len(scenarios), (5.0, 4.9), margin=(1.6, 0))
    beyond = []
    for ax, scenario in zip(axes, scenarios, strict=True):
        _radar_axes(ax, table, small=False)
        for (method, part), look in every.items():
            here = pick(table, scenario=scenario, method=method, trained_part=part)
            beyond += _radar_line(ax, here, look=look, small=False)
        ax.set_title(SCENARIOS[scenario], pad=PAD, color=INK)
    legend_outside(figure, [*series_handles(every), _BEFORE])
    return figure, beyond


def _one_each(
    table: pd.DataFrame, scenarios: list[Scenario], *, every: dict[Series, Look]
) -> tuple[Figure, list[str]]:
    """A small radar per series, with what lies outside the scale."""
    figure, axes = panels(len(every), (2.7, 2.75), margin=(1.5, 0.9))
    lines: dict[Scenario, Any] = dict(zip(scenarios, ("-", ":"), strict=False))
    beyond = []
    for ax, ((method, part), look) in zip(axes, every.items(), strict=True):
        _radar_axes(ax, table, small=True)
        for scenario, line in lines.items():
            here = pick(table, scenario=scenario, method=method, trained_part=part)
            beyond += _radar_line(ax, here, look=look | {"linestyle": line}, small=True)
        ax.set_title(series_label(method, part), pad=PAD_SMALL, color=INK)
    handles = [
        Line2D([], [], color=INK, linestyle=line, label=SCENARIOS[s]) for s, line in lines.items()
    ]
    says = ("F: forgotten", "R, G: retain, general kept")
    legend_outside(figure, [*handles, _BEFORE, *(Line2D([], [], ls="", label=t) for t in says)])
    return figure, beyond


def _radar_axes(ax: Axes, table: pd.DataFrame, *, small: bool) -> None:
    """Circles, spokes and their names, and the values before. Without matplotlib's polar axes, with
    whose ticks a radar takes half as long again."""
    axis = table.drop_duplicates("measure")[["measure", "axis"]]
    angles = _angles(len(axis))
    ax.set_axis_off()
    ax.set(xlim=(-EDGE, EDGE), ylim=(-EDGE, EDGE), aspect="equal")
    circle = np.linspace(0, 2 * np.pi, 121)
    ground = [_points(circle, r) for r in (25, 50, 75, 100)]
    ground += [_points([angle] * 2, [0, EDGE]) for angle in angles]
    ax.add_collection(LineCollection(ground, colors="#e6e6e6", linewidths=0.8, zorder=0.5))
    ax.plot(*_points(circle, EDGE).T, color="#cccccc", linewidth=1, clip_on=False, zorder=0.6)
    scale: Look = {"fontsize": 7, "color": "#888888", "ha": "center", "va": "center", "zorder": 3}
    for (x, y), text in zip(_points([np.pi / 5] * 2, [54, 104]), ("50", "100 %"), strict=True):
        ax.text(x, y, text, **scale)
    size, pad = (7, 3) if small else (9, 8)
    names = [a.replace(", ", ",\n").replace("general ", "general\n") for a in axis["axis"]]
    if small:
        names = [_SHORT[m] for m in axis["measure"]]
    for (x, y), name in zip(_points(angles, 1.0), names, strict=True):
        beside = "center" if np.isclose(x, 0) else "left" if x > 0 else "right"
        ax.annotate(
            name,
            (EDGE * x, EDGE * y),
            (pad * x, pad * y),
            textcoords="offset points",
            fontsize=size,
            ha=beside,  # of the circle, not across it
            va="center" if abs(y) < 0.5 else "bottom" if y > 0 else "top",
        )
    before = [0 if m.startswith("forget") else 100 for m in axis["measure"]]
    style: Look = {"color": BEFORE, "linestyle": ":", "linewidth": 1.3, "zorder": 1}
    ax.plot(*_closed(angles, before), **style)


def _angles(n: int) -> np.ndarray:
    """Of n spokes, clockwise from the top."""
    return np.linspace(0, 2 * np.pi, n, endpoint=False)


def _points(angles: ArrayLike, values: ArrayLike) -> np.ndarray:
    """(points, 2): where these values lie on spokes at these angles."""
    return np.stack([np.multiply(values, turn(angles)) for turn in (np.sin, np.cos)], axis=1)


def _closed(angles: ArrayLike, values: ArrayLike) -> np.ndarray:
    """(2, points + 1): x and y of a line's points, the first one once more at the end."""
    points = _points(angles, values)
    return np.concatenate([points, points[:1]]).T


def _radar_line(ax: Axes, here: pd.DataFrame, *, look: Look, small: bool) -> list[str]:
    """Draw one series; what lies outside the scale, in words."""
    if here.empty:
        return []
    angles = _angles(len(here))
    line = _closed(angles, here["value"].clip(0, EDGE))
    ax.plot(*line, linewidth=1.6, markersize=3 if small else 5, clip_on=False, **look)
    if not small:
        ax.fill(*line, color=look["color"], alpha=0.05)
        pale: Look = {"linewidth": 3, "alpha": 0.3, "solid_capstyle": "butt"}
        lows, highs = here["low"].clip(0, EDGE), here["high"].clip(0, EDGE)
        for angle, low, high in zip(angles, lows, highs, strict=True):
            ax.plot(*_points([angle] * 2, [low, high]).T, color=look["color"], **pale)
    out = here[(here["value"] < -0.5) | (here["value"] > EDGE)]
    return [
        f"{series_label(r.method, r.trained_part)} {r.axis} {r.value:.0f} %" for r in records(out)
    ]


def _radar_title(table: pd.DataFrame) -> str:
    general = pick(table, measure="general")
    said = [
        f"{spread_text(pick(general, scenario=s)['value'])} % after forgetting {name}"
        for s, name in SCENARIOS.items()
        if s in set(general["scenario"])
    ]
    state = SELECTIONS[general["selection"].iloc[0]]
    return f"General ability kept ({state}{over(general)}): {'; '.join(said)}"

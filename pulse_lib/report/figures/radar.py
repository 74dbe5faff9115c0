"""The paper's Figure 4: what each method forgot and kept, one radar per scenario (or per method, if
there are many)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

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
PAD, PAD_SMALL = 44, 27  # points from a circle to its title: over the name at its top
_POLAR: Look = {"subplot_kw": {"projection": "polar"}}


def _side_by_side(
    table: pd.DataFrame, scenarios: list[Scenario], *, every: dict[Series, Look]
) -> tuple[Figure, list[str]]:
    """A radar per scenario, with what lies outside the scale."""
    figure, axes = panels(len(scenarios), (5.0, 4.9), margin=(1.6, 0), **_POLAR)
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
    figure, axes = panels(len(every), (2.7, 2.75), margin=(1.5, 0.9), **_POLAR)
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


def _radar_axes(ax: Any, table: pd.DataFrame, *, small: bool) -> None:
    axis = table.drop_duplicates("measure")[["measure", "axis"]]
    angles = np.linspace(0, 2 * np.pi, len(axis), endpoint=False)
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    ax.set_ylim(0, 105)
    ax.set_yticks([25, 50, 75, 100], ["", "50", "", "100 %"], fontsize=7, color="#888888")
    ax.set_rlabel_position(36)
    if small:
        ax.set_xticks(angles, [_SHORT[m] for m in axis["measure"]], fontsize=7)
    else:
        names = [a.replace(", ", ",\n").replace("general ", "general\n") for a in axis["axis"]]
        ax.set_xticks(angles, names, fontsize=9)
    ax.tick_params(axis="x", pad=2 if small else 6)
    for text, angle in zip(ax.get_xticklabels(), angles, strict=True):
        middle = small or np.isclose(np.sin(angle), 0)
        beside = "left" if np.sin(angle) > 0 else "right"  # of the circle, not across it
        text.set_horizontalalignment("center" if middle else beside)
    ax.spines["polar"].set_color("#cccccc")
    before = [0 if m.startswith("forget") else 100 for m in axis["measure"]]
    style: Look = {"color": BEFORE, "linestyle": ":", "linewidth": 1.3, "zorder": 1}
    ax.plot(*_closed(angles, before), **style)


def _closed(angles: Iterable[float], values: Iterable[float]) -> tuple[list[float], list[float]]:
    """A line's points, the first one once more at the end."""
    x, y = list(angles), list(values)
    return [*x, x[0]], [*y, y[0]]


def _radar_line(ax: Any, here: pd.DataFrame, *, look: Look, small: bool) -> list[str]:
    """Draw one series; what lies outside the scale, in words."""
    if here.empty:
        return []
    angles = np.linspace(0, 2 * np.pi, len(here), endpoint=False)
    line = _closed(angles, here["value"].clip(0, 105))
    ax.plot(*line, linewidth=1.6, markersize=3 if small else 5, **look)
    if not small:
        ax.fill(*line, color=look["color"], alpha=0.05)
        pale: Look = {"linewidth": 3, "alpha": 0.3, "solid_capstyle": "butt"}
        lows, highs = here["low"].clip(0, 105), here["high"].clip(0, 105)
        for angle, low, high in zip(angles, lows, highs, strict=True):
            ax.plot([angle] * 2, [low, high], color=look["color"], **pale)
    out = here[(here["value"] < -0.5) | (here["value"] > 105)]
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

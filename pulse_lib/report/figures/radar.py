"""The paper's Figure 4: what each method forgot and kept, one radar per scenario (or per method, if
there are many)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from pulse_lib.report.collect import pick
from pulse_lib.report.figures.series import MANY, NOTHING_YET, line_style, series_of, spread_text
from pulse_lib.report.figures.style import (
    BEFORE,
    INK,
    Figure,
    drawn,
    empty_figure,
    legend_outside,
    looks,
    new_figure,
    title,
)
from pulse_lib.report.words import SCENARIOS, SELECTIONS, series_label


@drawn
def radar(table: pd.DataFrame) -> Figure:
    """The paper's Figure 4 from one selection of `measures.radar`: percent forgotten and percent
    kept, larger is better everywhere.

    Up to six series: one radar per scenario. More: one small radar per series, scenarios told apart
    by line style.
    """
    if table.empty:
        return empty_figure(NOTHING_YET.format("single-shot"))
    scenarios = [s for s in SCENARIOS if s in set(table["scenario"])]
    series = series_of(table)
    small = len(series) > MANY
    panels = series if small else scenarios
    columns = min(5, len(panels))
    rows = -(-len(panels) // columns)
    figure = (
        new_figure(2.7 * columns + 1.5, 2.75 * rows + 0.9)
        if small
        else new_figure(5.0 * columns + 1.6, 4.9)
    )
    axes = np.ravel(
        figure.subplots(rows, columns, subplot_kw={"projection": "polar"}, squeeze=False)
    )
    every = looks(table["method"])
    beyond: list[str] = []
    for ax, panel in zip(axes, panels, strict=False):
        _radar_axes(ax, table, small)
        lines = [(panel, s) for s in scenarios] if small else [(s, panel) for s in series]
        for (method, part), scenario in lines:
            here = pick(table, scenario=scenario, method=method, trained_part=part)
            look = line_style(method, part, every)
            if small:
                look["linestyle"] = "-" if scenario == scenarios[0] else ":"
            beyond += _radar_line(ax, here, look, fill=not small)
        ax.set_title(series_label(*panel) if small else SCENARIOS[panel], pad=14, color=INK)
    for ax in axes[len(panels) :]:
        ax.remove()
    _radar_legend(figure, small, scenarios, series, every)
    if beyond:
        figure.supxlabel(
            "outside the scale, drawn at its edge: " + "; ".join(beyond[:8]),
            fontsize=8,
            color="#666666",
        )
    title(figure, _radar_title(table))
    return figure


def _radar_axes(ax: Axes, table: pd.DataFrame, small: bool) -> None:
    axis = table.drop_duplicates("measure")[["measure", "axis"]]
    angles = np.linspace(0, 2 * np.pi, len(axis), endpoint=False)
    ax.set_theta_offset(np.pi / 2)
    ax.set_theta_direction(-1)
    ax.set_ylim(0, 105)
    ax.set_yticks([25, 50, 75, 100], ["", "50", "", "100 %"], fontsize=7, color="#888888")
    ax.set_rlabel_position(36)
    names = [a.replace(", ", ",\n").replace("general ", "general\n") for a in axis["axis"]]
    ax.set_xticks(angles, [""] * len(axis) if small else names, fontsize=9)
    if small:
        short = {
            "forget_multimodal": "F mm",
            "forget_text": "F text",
            "retain_text": "R text",
            "general": "G",
            "retain_multimodal": "R mm",
        }
        ax.set_xticks(angles, [short[m] for m in axis["measure"]], fontsize=7)
    ax.tick_params(axis="x", pad=2 if small else 6)
    for text, angle in zip(
        ax.get_xticklabels(), angles, strict=True
    ):  # beside the circle, not across it
        text.set_horizontalalignment(
            "center"
            if small or np.isclose(np.sin(angle), 0)
            else "left"
            if np.sin(angle) > 0
            else "right"
        )
    ax.spines["polar"].set_color("#cccccc")
    before = [0 if m.startswith("forget") else 100 for m in axis["measure"]]
    ax.plot(
        [*angles, angles[0]],
        [*before, before[0]],
        color=BEFORE,
        linestyle=":",
        linewidth=1.3,
        zorder=1,
    )


def _radar_line(ax: Axes, here: pd.DataFrame, look: dict, fill: bool) -> list[str]:
    if here.empty:
        return []
    angles = np.linspace(0, 2 * np.pi, len(here), endpoint=False)
    shown = here["value"].clip(0, 105).to_numpy()
    ax.plot(
        [*angles, angles[0]], [*shown, shown[0]], linewidth=1.6, markersize=5 if fill else 3, **look
    )
    if fill:
        ax.fill([*angles, angles[0]], [*shown, shown[0]], color=look["color"], alpha=0.05)
        for angle, low, high in zip(
            angles, here["low"].clip(0, 105), here["high"].clip(0, 105), strict=True
        ):
            ax.plot(
                [angle] * 2,
                [low, high],
                color=look["color"],
                linewidth=3,
                alpha=0.3,
                solid_capstyle="butt",
            )
    out = here[(here["value"] < -0.5) | (here["value"] > 105)]
    return [
        f"{series_label(r.method, r.trained_part)} {r.axis} {r.value:.0f} %"
        for r in out.itertuples()
    ]


def _radar_legend(figure: Figure, small: bool, scenarios: list, series: list, every: dict) -> None:
    reference = Line2D([], [], color=BEFORE, linestyle=":", label="before unlearning")
    if small:
        handles = [
            Line2D(
                [], [], color=INK, linestyle="-" if s == scenarios[0] else ":", label=SCENARIOS[s]
            )
            for s in scenarios
        ]
        names = [
            Line2D([], [], linestyle="", label=t)
            for t in ("F: forgotten", "R, G: retain, general kept")
        ]
        handles += [reference, *names]
    else:
        handles = [
            Line2D([], [], label=series_label(m, p), **line_style(m, p, every)) for m, p in series
        ] + [reference]
    legend_outside(figure, handles, [h.get_label() for h in handles])


def _radar_title(table: pd.DataFrame) -> str:
    general = pick(table, measure="general")
    said = [
        f"{spread_text(pick(general, scenario=s)['value'])} % after forgetting {name}"
        for s, name in SCENARIOS.items()
        if s in set(general["scenario"])
    ]
    return f"General ability kept ({SELECTIONS[general['selection'].iloc[0]]}): {'; '.join(said)}"

"""What figures share about series (a method with its trained part): their order, looks and
panels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pulse_lib.report.figures.style import BEFORE, COLOURS, Figure, looks, new_figure

MANY = 6  # more series than this in one panel cannot be told apart
NOTHING_YET = "No complete {} run in this study yet, so there is nothing to draw."

MEASURE_LOOKS = {  # colours of measures where panels, not colours, tell methods apart
    "forget": {"color": COLOURS[3], "marker": "o"},
    "retain": {"color": COLOURS[0], "marker": "s"},
    "general": {"color": COLOURS[2], "marker": "D"},
    "invalid_rate": {"color": BEFORE, "marker": "x", "linestyle": ":"},
}

MODALITY_LOOKS = {
    "forget_multimodal": (COLOURS[3], "-", "o"),
    "forget_text": (COLOURS[3], "--", "s"),
    "retain_multimodal": (COLOURS[0], "-", "o"),
    "retain_text": (COLOURS[0], "--", "s"),
    "general": (COLOURS[2], "-", "D"),
    "invalid_rate": (BEFORE, ":", "x"),
}


def spread_text(values: pd.Series, form: str = "{:.0f}") -> str:
    """ "33 to 61", or "33" where all are alike: how titles name a range."""
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low} to {high}"


def series_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(method, trained part) of each series, the paper's methods first, projector+llm before
    llm."""
    order = list(looks(table["method"]))
    pairs = table[["method", "trained_part"]].drop_duplicates().itertuples(index=False)
    return sorted(((m, p) for m, p in pairs), key=lambda s: (order.index(s[0]), s[1] == "llm"))


def line_style(method: str, part: str, all_looks: dict) -> dict:
    """How a series is drawn: the method's colour and marker; dashed and hollow if only the LLM was
    trained."""
    look = all_looks[method]
    hollow = (
        {"markerfacecolor": "white", "linestyle": (0, (4, 2))}
        if part == "llm"
        else {"linestyle": "-"}
    )
    return {
        "color": look["color"],
        "marker": look["marker"],
        "markeredgecolor": look["color"],
        **hollow,
    }


def small_panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with one small panel per series, at most five in a row, axes shared; unused panels
    are left out."""
    columns = min(5, count)
    rows = -(-count // columns)
    figure = new_figure(width * columns + 2.2, height * rows + 1.0)
    axes = list(np.ravel(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)))
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[max(0, count - columns) : count]:
        ax.tick_params(labelbottom=True)
    return figure, axes[:count]

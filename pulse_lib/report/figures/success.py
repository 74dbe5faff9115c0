"""The figure of all sequential runs after their last request, against the aim."""

from __future__ import annotations

import pandas as pd
from matplotlib.lines import Line2D

from pulse_lib.report.figures.series import MODALITY_LOOKS, NOTHING_YET
from pulse_lib.report.figures.style import (
    COLOURS,
    Figure,
    drawn,
    empty_figure,
    legend_outside,
    new_figure,
    title,
)
from pulse_lib.report.tables.ranking import SUCCESS_FORGET, SUCCESS_RETAINED
from pulse_lib.report.words import series_label

MODALITIES = {"multimodal": "with the picture", "text": "by name"}
WAYS = {
    "forget_{}": ("answer generated", {}),
    "forget_{}_likelihood": ("likeliest option", {"markerfacecolor": "white"}),
    "reload_{}": ("generated, projector reloaded", {"marker": "x", "markeredgewidth": 1.8}),
}
KEPT = {
    "retain_kept": ("retain set, share kept", {"color": COLOURS[0], "marker": "s"}),
    "general_kept": ("general questions, share kept", {"color": COLOURS[2], "marker": "D"}),
}


@drawn
def after_requests(table: pd.DataFrame) -> Figure:
    """What sequential runs have forgotten and kept after all requests, from `ranking.after_requests`:
    a line a configuration, best first; the shaded areas are the aim.
    """
    if table.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    figure = new_figure(11.5, 0.36 * len(table) + 2.2)
    forget, kept = figure.subplots(1, 2, sharey=True)
    marks = {}
    for modality, asked in MODALITIES.items():
        colour, _, marker = MODALITY_LOOKS[f"forget_{modality}"]
        colour = colour if modality == "multimodal" else COLOURS[1]
        for name, (way, look) in WAYS.items():
            whole = {"color": colour, "marker": marker, "markeredgecolor": colour} | look
            marks[name.format(modality)] = forget, f"{asked}: {way}", whole
    marks |= {name: (kept, text, look) for name, (text, look) in KEPT.items()}
    for name, (ax, _, look) in marks.items():
        ax.plot(table[name], range(len(table)), linestyle="", markersize=6.5, alpha=0.9, **look)
    most = max(1.03, table[[*KEPT]].max().max() + 0.03)  # more may be right than before
    for ax, (low, high), end, text in (
        (forget, (-0.03, SUCCESS_FORGET), 1.03, "forget set, accuracy (share correct)"),
        (kept, (SUCCESS_RETAINED, most), most, "share of the value before that is kept"),
    ):
        ax.axvspan(low, high, color=COLOURS[2], alpha=0.1, zorder=0)
        ax.set_xlim(-0.03, end)
        ax.set_xlabel(text)
    names = [f"{series_label(r.method, r.trained_part)}, {r.policy}" for r in table.itertuples()]
    forget.set_yticks(range(len(table)), names)
    forget.set_ylim(len(table) - 0.5, -0.5)
    handles = [
        Line2D([], [], linestyle="", markersize=6.5, label=text, **look)
        for _, text, look in marks.values()
    ]
    legend_outside(figure, handles, [h.get_label() for h in handles])
    title(figure, _title(table, names))
    return figure


def _title(table: pd.DataFrame, names: list[str]) -> str:
    reached = [name for name, aim in zip(names, table["aim"], strict=True) if aim]
    what = (
        f"Forgotten (at most {SUCCESS_FORGET}) with {100 * SUCCESS_RETAINED:.0f} % of retain and general kept "
        "after all requests"
    )
    if reached:
        return f"{what}: {len(reached)} of {len(names)} configurations ({'; '.join(reached)})"
    return f"{what}: none of {len(names)} configurations; nearest: {names[0]}"

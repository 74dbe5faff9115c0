"""What the model is: a picture's way through tower and projector into the language model."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.patches import FancyBboxPatch

from pulse_lib.report.figures.style import COLOURS, INK, Figure, drawn, new_figure, title

PARTS = {  # of the picture: where it stands, what it is called, whether an adapter lies on it
    "tower": (2.2, "vision tower", "never trained here"),
    "projector": (4.9, "projector", "+ adapter (LoRA)"),
    "language_model": (7.6, "language model", "+ adapter (LoRA)"),
}


@drawn
def anatomy(numbers: Mapping[str, Any], picture: np.ndarray) -> Figure:
    """Tower, projector and language model with their parameters, the tokens between them, and the
    prompt as it goes in.

    numbers: the fields of `model.anatomy.Anatomy`. picture: (H, W, 3).
    """
    figure = new_figure(11, 3.5)
    ax = figure.subplots()
    ax.axis("off")
    ax.set_xlim(0, 10.4)
    ax.set_ylim(0, 3.3)
    ax.imshow(picture, extent=(0.1, 1.5, 1.6, 3.0), interpolation="nearest", aspect="auto")
    for part, (x, name, adapter) in PARTS.items():
        frozen = part == "tower"
        colour = "#999999" if frozen else COLOURS[0]
        ax.add_patch(
            FancyBboxPatch(
                (x, 1.6), 1.7, 1.4, boxstyle="round,pad=0.05", facecolor="white", edgecolor=colour
            )
        )
        lines = [name, f"{_short(numbers[part])} parameters", adapter]
        if part == "language_model":
            lines[1:1] = [f"{numbers['layers']} layers of {numbers['width']}"]
        ax.text(x + 0.85, 2.3, "\n".join(lines), ha="center", va="center", fontsize=9.5, color=INK)
    arrow = {"arrowstyle": "-|>", "color": INK}
    tokens = f"{numbers['image_tokens']} image\ntokens"
    for start, end, text in ((1.55, 2.1, ""), (4.0, 4.8, tokens), (6.7, 7.5, tokens)):
        ax.annotate("", (end, 2.3), xytext=(start, 2.3), arrowprops=arrow)
        ax.text((start + end) / 2, 2.42, text, ha="center", va="bottom", fontsize=7.5, color=INK)
    ax.annotate("", (9.95, 2.3), xytext=(9.4, 2.3), arrowprops=arrow)
    ax.text(10.0, 2.3, "answer", va="center", fontsize=9.5, color=INK)
    ax.annotate("", (8.45, 1.5), xytext=(8.45, 1.05), arrowprops=arrow)
    prompt = textwrap.shorten(numbers["prompt"], 240, placeholder=" …")
    ax.text(
        0.1,
        1.0,
        f"the prompt, {numbers['text_tokens']} text tokens and the image tokens in place of <image>:\n"
        + textwrap.fill(prompt, 120),
        va="top",
        fontsize=9,
        color=INK,
        linespacing=1.4,
        family="DejaVu Sans Mono",
    )
    total = sum(numbers[part] for part in PARTS)
    title(
        figure,
        f"The model: {_short(total)} parameters, frozen; adapters beside them learn and forget",
    )
    return figure


def _short(n: int) -> str:
    """ "1.2 M"."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return str(n)

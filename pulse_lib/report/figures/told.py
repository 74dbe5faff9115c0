"""Faces, one question each, and the answers request after request: the first picture of all."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pulse_lib.data.records import ImageStore, Question
from pulse_lib.report.collect import records
from pulse_lib.report.figures.cards import MUTED, RIGHT, WRONG
from pulse_lib.report.figures.style import (
    COLOURS,
    INK,
    NOTHING_YET,
    Figure,
    Look,
    drawable,
    drawn,
    empty_figure,
    new_figure,
    title,
)
from pulse_lib.report.words import label

ROLES = {
    "asks first": ("asks to be forgotten", COLOURS[3]),
    "asks last": ("asks in the last request", COLOURS[6]),
    "stays": ("stays", COLOURS[0]),
}


@drawn
def story(table: pd.DataFrame, questions: Mapping[str, Question], *, images: ImageStore) -> Figure:
    """A row a face: picture, question, and what is answered after so many requests, with the
    probability of the right option.

    table: of `report.tables.told`. questions: by id.
    """
    if table.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    heads = {number: _when(int(number)) for number in sorted(table["round"].unique())}
    figure = _rows_of_faces(table, questions, images=images, heads=heads)
    title(figure, _finding(table))
    return figure


@drawn
def gate_story(
    table: pd.DataFrame,
    questions: Mapping[str, Question],
    *,
    images: ImageStore,
    heads: Sequence[str],
) -> Figure:
    """The same people with a gate before the adapters and without it: a column a state.

    table: of `report.tables.told`, its rounds being the places of the states in `heads`.
    """
    if table.empty:
        return empty_figure(NOTHING_YET.format("sequential"))
    there = {int(i): heads[i] for i in sorted(table["round"].unique())}
    figure = _rows_of_faces(table, questions, images=images, heads=there)
    right = table.groupby("round")["correct"].sum()
    said = ", ".join(f"{heads[i]} {n}" for i, n in zip(there, right, strict=True))
    title(figure, f"Of {table['role'].nunique()} people, answered right: {said}")
    return figure


def _rows_of_faces(
    table: pd.DataFrame,
    questions: Mapping[str, Question],
    *,
    images: ImageStore,
    heads: Mapping[int, str],
) -> Figure:
    """A row a role, a column a head: picture, question, answers."""
    rounds = list(heads)
    roles = [role for role in ROLES if role in set(table["role"])]
    wide = 1.85 if len(rounds) <= 3 else 1.35  # a page shows it smaller the wider it is
    figure = new_figure(4.1 + wide * len(rounds), 1.6 * len(roles) + 0.7)
    widths = [1, 1.55, *[wide / 1.42] * len(rounds)]
    grid = figure.subplots(len(roles), len(widths), width_ratios=widths, squeeze=False)
    for row, role in zip(grid, roles, strict=True):
        for ax in row:
            ax.axis("off")
            ax.set_xlim(0, 1)
        lines = table[table["role"] == role]
        question = questions[lines["question_id"].iloc[0]]
        row[0].imshow(images[question.image], interpolation="nearest", extent=(0, 1, 0, 1))
        _asked(row[1], question, role=role)
        for ax, line in zip(row[2:], records(lines), strict=True):
            right, letters = bool(line.correct), int(10 * wide)
            _answer(ax, line.response, right=right, p_right=line.p_right, letters=letters)
    for ax, head in zip(grid[0][2:], heads.values(), strict=True):
        ax.set_title(head, fontsize=10 if wide > 1.5 else 9, color=INK, fontweight="bold")
    return figure


def _asked(ax: Axes, question: Question, *, role: str) -> None:
    said, colour = ROLES[role]
    ax.text(0.02, 0.92, said, fontsize=10, color=colour, fontweight="bold", va="top")
    text = textwrap.fill(question.text, 24)
    ax.text(0.02, 0.72, text, fontsize=10.5, color=INK, va="top", linespacing=1.3)


def _answer(ax: Axes, response: str, *, right: bool, p_right: float, letters: int) -> None:
    """An answer in a bubble, shortened to three lines of so many letters, with its mark; below it p."""
    lines = textwrap.wrap(drawable(response), letters, max_lines=3, placeholder=" …") or [
        "(nothing)"
    ]
    colour, mark = (RIGHT, "✓") if right else (WRONG, "✗")
    bubble = {"facecolor": "white", "edgecolor": colour, "boxstyle": "round,pad=0.5"}
    look: Look = {"ha": "center", "va": "center", "linespacing": 1.3}
    text = "\n".join([*lines[:-1], f"{lines[-1]} {mark}"])
    ax.text(0.5, 0.62, text, fontsize=9.5, color=colour, bbox=bubble, **look)
    if np.isfinite(p_right):
        ax.text(0.5, 0.24, f"p(right) {p_right:.2f}", fontsize=8.5, color=MUTED, **look)


def _when(number: int) -> str:
    if number == 0:
        return "before"
    return "after 1 request" if number == 1 else f"after {number} requests"


def _finding(table: pd.DataFrame) -> str:
    """What the pictures show, counted from the table."""
    method, last = label(str(table["method"].iloc[0])), int(table["round"].max())
    ends = table[table["round"] == last]
    right = dict(zip(ends["role"], ends["correct"].astype(bool), strict=True))
    said = []
    if "asks first" in right:
        still = "is still right" if right["asks first"] else "is gone"
        said.append(f"the answer about a person to be forgotten {still}")
    if "stays" in right:
        still = "stays" if right["stays"] else "is lost as well"
        said.append(f"that about another {still}")
    return f"{method}, {last} requests: {', '.join(said)}"

"""Pictures of people, questions and conversations, and the selection of well-known people (the
paper's Figures 2 and 3)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pulse_lib.data.records import Conversation, ImageStore, Person, Question
from pulse_lib.evaluate.accuracy import CHANCE
from pulse_lib.evaluate.extract import extract
from pulse_lib.profile import DataSettings
from pulse_lib.report.figures.style import (
    COLOURS,
    INK,
    Figure,
    Look,
    dot,
    drawable,
    drawn,
    legend_outside,
    new_figure,
    reference_line,
    title,
)

RIGHT, WRONG, MUTED = "#027a5b", "#b3261e", "#777777"


@drawn
def people_cards(source, people: Sequence[Person], *, seed: int, settings: DataSettings) -> Figure:
    """A card a person: face, name and facts, cut to a line each. source: a data source
    (pulse_lib.data.splits.source)."""
    columns = min(4, len(people))
    rows = -(-len(people) // columns)
    facts = 0.19 * max(len(p.attributes) for p in people) + 0.1  # inches
    figure = new_figure(2.5 * columns, rows * (2.9 + facts))
    axes = figure.subplots(2 * rows, columns, height_ratios=[2.4, facts] * rows, squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, person in enumerate(people):
        face, text = axes[2 * (i // columns) : 2 * (i // columns) + 2, i % columns]
        face.imshow(source.views(person, seed, settings=settings, n=1)[0], interpolation="nearest")
        face.set_title(f"{person.name}\n{person.kind}", fontsize=10)
        facts_text = [f"{name}: {value}" for name, value in person.attributes.items()]
        lines = [textwrap.shorten(line, 36, placeholder="…") for line in facts_text]
        text.text(
            0,
            1,
            "\n".join(lines),
            fontsize=8.5,
            color=INK,
            linespacing=1.35,
            va="top",
            transform=text.transAxes,
        )
    return figure


@drawn
def view_cards(source, person: Person, *, seed: int, settings: DataSettings, n: int = 6) -> Figure:
    """Up to n pictures of one person side by side: the same face, never the same pixels."""
    views = source.views(person, seed, settings=settings, n=n)
    figure = new_figure(1.5 * len(views), 2.1)
    axes = np.ravel(figure.subplots(1, len(views), squeeze=False))
    for i, (ax, view) in enumerate(zip(axes, views, strict=True)):
        ax.imshow(view, interpolation="nearest")
        ax.axis("off")
        ax.set_title(f"view {i + 1}", fontsize=9)
    title(figure, f"{person.name}: {len(views)} pictures of one face")
    return figure


@drawn
def question_cards(
    questions: Sequence[Question],
    images: ImageStore,
    *,
    responses: Sequence[str] | None = None,
    before: Sequence[str] | None = None,
) -> Figure:
    """The paper's Figure 3: a card a question with picture, options and, if given, what the model
    answered (and before)."""
    columns = min(2, len(questions))
    rows = -(-len(questions) // columns)
    figure = new_figure(5.6 * columns, 2.25 * rows)
    grid = np.reshape(
        figure.subplots(rows, 2 * columns, width_ratios=[1, 1.75] * columns, squeeze=False), (-1, 2)
    )
    for ax in np.ravel(grid):  # places left over stay empty
        ax.axis("off")
    for i, (question, (left, right)) in enumerate(zip(questions, grid, strict=False)):
        answers = {"before": before[i]} if before is not None else {}
        answers |= (
            {"now" if before is not None else "model": responses[i]}
            if responses is not None
            else {}
        )
        question_card(left, right, question=question, images=images, answers=answers)
    return figure


def question_card(
    left: Axes, right: Axes, *, question: Question, images: ImageStore, answers: dict[str, str]
) -> None:
    """Draw one question: the picture into `left`, text, options and named answers (raw responses)
    into `right`, both without ticks and grid."""
    for ax in (left, right):
        ax.axis("off")
    if question.image:
        left.imshow(images[question.image], interpolation="nearest")
    else:
        box = {"facecolor": "#f2f2f2", "edgecolor": "#dddddd", "boxstyle": "round,pad=1"}
        left.text(
            0.5,
            0.5,
            "no picture\n(text-only)",
            ha="center",
            va="center",
            color=MUTED,
            fontsize=9,
            bbox=box,
        )
    place = f"{question.set} · {question.category}"
    right.text(0, 1.0, place, fontsize=8, color=MUTED, va="top", transform=right.transAxes)
    wrapped = textwrap.wrap(question.text, 44)
    right.text(
        0,
        0.88,
        "\n".join(wrapped),
        fontsize=10.5,
        fontweight="bold",
        color=INK,
        va="top",
        transform=right.transAxes,
    )
    y = 0.88 - 0.13 * len(wrapped)
    for i, (letter, option) in enumerate(question.lettered_options.items()):
        right_one = i == question.answer
        shown: Look = {
            "color": RIGHT if right_one else INK,
            "fontweight": "bold" if right_one else "normal",
        }
        where = (0.0 if i % 2 == 0 else 0.5, y - 0.125 * (i // 2))
        text = textwrap.shorten(option, 22, placeholder="…")
        right.text(
            *where,
            f"{letter}. {text}{'  ✓' if right_one else ''}",
            fontsize=9.5,
            va="top",
            transform=right.transAxes,
            **shown,
        )
    y -= 0.125 * (-(-len(question.options) // 2)) + 0.06
    for name, response in answers.items():
        colour = RIGHT if is_right(question, response) else WRONG
        said = textwrap.shorten(drawable(response) or "(nothing)", 34, placeholder="…")
        text = f"{name}: {said}  {'✓' if colour == RIGHT else '✗'}"
        right.text(0, y, text, fontsize=9.5, color=colour, va="top", transform=right.transAxes)
        y -= 0.13


def is_right(question: Question, response: str) -> bool:
    """True if the option named in a response is the right one."""
    options = question.lettered_options
    return extract(response, options) == list(options)[question.answer]


@drawn
def conversation_card(conversation: Conversation, images: ImageStore) -> Figure:
    """A training conversation: picture, questions, and in colour the answers, which are all that a
    loss sees."""
    lines: list[tuple[str, bool]] = []
    for turn in conversation.turns:
        options = f"  [{' | '.join(turn.options)}]" if turn.options else ""
        lines += [(text, False) for text in textwrap.wrap(f"USER: {turn.text}{options}", 100)]
        lines += [(text, True) for text in textwrap.wrap(f"ASSISTANT: {turn.answer}", 90)]
    figure = new_figure(10, max(2.2, 0.25 * len(lines) + 0.4))
    left, right = figure.subplots(1, 2, width_ratios=[1, 3.2])
    for ax in (left, right):
        ax.axis("off")
    if conversation.image:
        left.imshow(images[conversation.image], interpolation="nearest")
    else:
        left.text(0.5, 0.5, "no picture", ha="center", va="center", color=MUTED)
    for i, (text, answer) in enumerate(lines):
        look = {"color": RIGHT, "fontweight": "bold"} if answer else {"color": INK}
        right.text(
            0,
            1 - (i + 0.5) / len(lines),
            text,
            fontsize=9.5,
            va="center",
            transform=right.transAxes,
            **look,
        )
    return figure


@drawn
def selection(table: pd.DataFrame) -> Figure:
    """The paper's Figure 2: accuracies of all candidates in order, the selected ones marked.

    table: columns accuracy (0-1) and set ("forget", "retain", anything else: not selected), one row
    a candidate.
    """
    ranked = table.sort_values("accuracy", ascending=False, kind="stable", ignore_index=True)
    taken = ranked["set"].isin(["forget", "retain"])
    figure = new_figure(9.5, 3.6)
    ax = figure.subplots()
    looks = {
        "forget": (COLOURS[3], "forget set"),
        "retain": (COLOURS[0], "retain set"),
        "": ("#c8c8c8", "not selected"),
    }
    names = ranked["set"].where(taken, "")
    ax.bar(
        ranked.index + 1,
        ranked["accuracy"],
        width=0.85,
        color=[looks[n][0] for n in names],
        linewidth=0,
    )
    reference_line(ax, CHANCE, text="chance")
    ax.set_xlabel("candidates, best known first")
    ax.set_ylabel("accuracy, both modalities (share correct)")
    ax.set_ylim(0, 1.04)
    ax.set_xlim(0, len(ranked) + 1)
    ax.grid(axis="x", visible=False)
    kinds = looks.values()
    legend_outside(figure, [dot(t, marker="s", markersize=9, color=c) for c, t in kinds])
    best, rest = ranked[taken]["accuracy"], ranked[~taken]["accuracy"]
    others = f", the {len(rest)} others {rest.mean():.2f}" if len(rest) else ""
    title(
        figure,
        f"The {len(best)} best known of {len(ranked)} answer {best.mean():.2f} of their"
        f" questions{others}",
    )
    return figure

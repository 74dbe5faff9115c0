"""Single questions and single people across methods and rounds, with their faces."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from pulse_lib.data.records import ImageStore, Person, Question
from pulse_lib.evaluate.accuracy import CHANCE
from pulse_lib.report.collect import pick, records
from pulse_lib.report.figures.cards import MUTED, RIGHT, WRONG, question_card
from pulse_lib.report.figures.style import (
    BEFORE,
    INK,
    Figure,
    Look,
    dot,
    drawable,
    drawn,
    empty_figure,
    legend_outside,
    new_figure,
    reference_line,
    series_handles,
    series_looks,
    title,
)
from pulse_lib.report.tables.across import BEFORE as NOTHING_DONE
from pulse_lib.report.tables.across import state_name
from pulse_lib.report.words import series_label

_CARD = 2.2  # inches
_SIZES = {"matched forgetting": 11, "last step": 7, "before": 9}  # of marks
_PALE = {True: "#dff2ea", False: "#fbe4e1"}  # behind a right and a wrong answer


@drawn
def question_across(
    table: pd.DataFrame, question: Question, *, images: ImageStore, order: Sequence[str]
) -> Figure:
    """One question of `across.one_question` in every model state: what was said, whether it was
    right, and how probable the right option is among the options.

    order: the series from top to bottom.
    """
    shown = [name for name in order if name in set(table["series"])]
    columns = list(dict.fromkeys(_columns(table)))
    height = max(_CARD, 0.44 * (len(shown) + 1) + 0.5)
    figure = new_figure(14.0, height + 0.5)
    # a picture takes as much room as it has: the card stays as high as a card
    places = figure.add_gridspec(
        2, 3, width_ratios=[1.1, 2.2, 6.2], height_ratios=[_CARD, max(0.01, height - _CARD)]
    )
    card = [figure.add_subplot(places[0, i]) for i in (0, 1)]
    question_card(*card, question=question, images=images, answers={})
    _cells(figure.add_subplot(places[:, 2]), table, rows=shown, columns=columns)
    said = table[table["series"] != NOTHING_DONE]
    title(
        figure,
        f"Answered rightly in {int(said['correct'].sum())} of {len(said)} states after unlearning;"
        " in each cell the answer, and p of the right option",
    )
    return figure


def _columns(table: pd.DataFrame) -> list[str]:
    known = ["before", "matched forgetting", "last step"]
    names = {state_name(line.kind, line.state, number=line.round) for line in records(table)}
    rounds = sorted((name for name in names if name not in known), key=lambda n: int(n.split()[1]))
    return [name for name in known if name in names] + rounds


def _cells(ax: Axes, table: pd.DataFrame, *, rows: Sequence[str], columns: Sequence[str]) -> None:
    ax.set_xlim(-1.7, len(columns))
    ax.set_ylim(len(rows), -1)
    ax.axis("off")
    for x, name in enumerate(columns):
        wrapped = "\n".join(textwrap.wrap(name, 11))
        ax.text(x + 0.5, -0.12, wrapped, ha="center", va="bottom", fontsize=8.5, color=INK)
    for y, name in enumerate(rows):
        wrapped = "\n".join(textwrap.wrap(name, 26))
        ax.text(-0.08, y + 0.5, wrapped, ha="right", va="center", fontsize=8.5, color=INK)
    for line in records(table):
        x = columns.index(state_name(line.kind, line.state, number=line.round))
        y = rows.index(line.series)
        box = Rectangle(
            (x + 0.03, y + 0.06), 0.94, 0.88, facecolor=_PALE[line.correct], linewidth=0
        )
        ax.add_patch(box)
        said = textwrap.shorten(drawable(line.response) or "(nothing)", 14, placeholder="…")
        mark = "✓" if line.correct else "✗"
        probable = "" if np.isnan(line.p_right) else f"\np {line.p_right:.2f}"
        look: Look = {"color": RIGHT if line.correct else WRONG, "fontsize": 7, "va": "center"}
        ax.text(x + 0.5, y + 0.5, f"{mark} {said}{probable}", ha="center", linespacing=1.25, **look)


@drawn
def person_story(
    table: pd.DataFrame,
    person: Person,
    *,
    images: ImageStore,
    image: str,
    order: Sequence[str],
    request: int = 0,
) -> Figure:
    """One person through everything that was done (`across.story`): face and facts, p of the right
    option after each request, and after one request for all.

    image: the picture's id, "" if there is none; request: the one that asked for this person, 0
    for none.
    """
    figure = new_figure(13.0, 4.2)
    face, rounds, shots = figure.subplots(1, 3, width_ratios=[1.3, 3, 2.4])
    _face(face, person, images=images, image=image)
    before = pick(table, kind=NOTHING_DONE)["p_right"].mean()
    done = table[table["kind"] != NOTHING_DONE]
    looks, labels = series_looks(done), {}
    last = 0
    for name in [name for name in order if name in set(done["series"])]:
        way = pick(done, series=name, kind="sequential").sort_values("round")
        if way.empty:
            continue
        key = (way["method"].iloc[0], way["trained_part"].iloc[0])
        labels.setdefault(key, series_label(*key))
        last = max(last, int(way["round"].max()))
        x, y = [0, *way["round"]], [before, *way["p_right"]]
        rounds.plot(x, y, label=name, linewidth=1.8, markersize=5, **looks[key])
    _frame(rounds, before, name="requests in turn")
    rounds.set_xlabel("requests carried out")
    rounds.set_xticks(range(last + 1))
    if request:
        rounds.axvline(request, color=INK, linewidth=1, linestyle="--")
        rounds.annotate(
            "this person's turn",
            (request, 0.5),
            (-4, 0),
            textcoords="offset points",
            fontsize=8,
            rotation=90,
            ha="right",
            va="center",
        )
    single = pick(done, kind="single_shot")
    there = [name for name in order if name in set(single["series"])]
    for y, name in enumerate(there):
        here = pick(single, series=name)
        key = (here["method"].iloc[0], here["trained_part"].iloc[0])
        labels.setdefault(key, series_label(*key))
        for state, fill in (("matched", "white"), ("final", looks[key]["color"])):
            value = pick(here, state=state)["p_right"]
            mark: Look = looks[key] | {"linestyle": "", "markersize": 9, "markerfacecolor": fill}
            shots.plot(value, [y] * len(value), **mark)
    shots.set_yticks(range(len(there)), there)
    shots.set_ylim(len(there) - 0.5, -0.5)
    shots.set_xlim(-0.03, 1.08)
    shots.set_title("one request for all", loc="left", fontsize=10)
    shots.set_xlabel("p of the right option")
    reference_line(shots, before, text="before", axis="x", side="left")
    reference_line(shots, CHANCE, text="chance", axis="x")
    legend_outside(
        figure,
        [
            *(Line2D([], [], label=labels[key], **looks[key]) for key in looks if key in labels),
            dot("matched forgetting", color=INK, markerfacecolor="white"),
            dot("last step", color=INK),
        ],
    )
    title(figure, _told(table, person, request=request))
    return figure


def _told(table: pd.DataFrame, person: Person, *, request: int) -> str:
    before = pick(table, kind=NOTHING_DONE)["accuracy"].mean()
    said = f"{person.name}: {_percent(before)} right before"
    if request:
        early = table[(table["kind"] == "sequential") & (table["round"] == request - 1)]
        late = pick(table, kind="sequential", round=request)
        if len(early):
            said += (
                f", {_percent(early['accuracy'].mean())} when their turn came (request {request})"
            )
        if len(late):
            said += f", {_percent(late['accuracy'].mean())} after it"
        return said + " (means over methods)" if len(late) else said
    ends = pick(table, kind="sequential")
    ends = ends[ends["round"] == ends["round"].max()]
    return said + (
        f"; nobody asked to forget them, and {_percent(ends['accuracy'].mean())} is left after the"
        " last request (mean over methods)"
        if len(ends)
        else ""
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _face(ax: Axes, person: Person, *, images: ImageStore, image: str) -> None:
    ax.axis("off")
    if image:
        ax.imshow(images[image], interpolation="nearest")
    ax.set_title(person.name, fontsize=10.5)
    facts = [
        textwrap.shorten(f"{k}: {v}", 30, placeholder="…") for k, v in person.attributes.items()
    ]
    style: Look = {"transform": ax.transAxes, "va": "top", "fontsize": 8, "color": MUTED}
    ax.text(0, -0.04, "\n".join(facts[:7]), **style)


def _frame(ax: Axes, before: float, *, name: str) -> None:
    ax.set_ylim(-0.03, 1.08)
    ax.set_title(name, loc="left", fontsize=10)
    ax.set_ylabel("p of the right option (mean over questions)")
    reference_line(ax, before, text="before")
    reference_line(ax, CHANCE, text="chance")


@drawn
def face_grid(
    table: pd.DataFrame,
    people: Mapping[str, Person],
    *,
    images: ImageStore,
    faces: Mapping[str, str],
    name: str,
    n: int = 12,
) -> Figure:
    """Up to n people of `across.fallen` with their faces, who lost most first.

    faces: a picture's id a person; name: the model state, for the title.
    """
    if table.empty:
        return empty_figure("Nobody of this set was asked about in this state.")
    lines = table.head(n)
    columns = min(6, len(lines))
    rows = -(-len(lines) // columns)
    figure = new_figure(2.0 * columns, 2.5 * rows + 0.6)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for ax in axes:
        ax.axis("off")
    for ax, line in zip(axes, records(lines), strict=False):
        person = people[line.person_id]
        if line.person_id in faces:
            ax.imshow(images[faces[line.person_id]], interpolation="nearest")
        ax.set_title(
            f"{person.name}\n{line.before} → {line.after} of {line.n}",
            fontsize=9,
            color=WRONG if line.lost > 0 else INK,
        )
    share = table["after"].sum() / max(1, table["before"].sum())
    title(
        figure,
        f"{name}: of the right answers about {len(table)} people, {_percent(share)} are left; those who"
        " lost most",
    )
    return figure


@drawn
def state_scatter(table: pd.DataFrame, against: str = "general") -> Figure:
    """Every model state of `tables.single_shot` and `tables.sequential` (column `what`) as a point:
    forget accuracy against what is kept; colour is the method, a hollow mark is LLM only."""
    if table.empty:
        return empty_figure("No state passes these filters.")
    done = table[table["what"] != "before"]
    looks = series_looks(done)
    figure = new_figure(10.5, 5.6)
    ax = figure.subplots()
    for line in records(table):
        start: Look = {"color": BEFORE, "marker": "o"}
        look = start if line.what == "before" else looks[line.method, line.trained_part]
        size = _SIZES.get(line.what, 5)
        mark: Look = look | {"linestyle": "", "markersize": size, "alpha": 0.85}
        ax.plot(line.forget, getattr(line, against), **mark)
        if line.what.startswith("after "):
            ax.annotate(
                line.what.removeprefix("after "),
                (line.forget, getattr(line, against)),
                (4, 3),
                textcoords="offset points",
                fontsize=7,
                color=MUTED,
            )
    ax.set_xlim(1.03, -0.03)
    ax.set_ylim(-0.03, 1.08)
    ax.set_xlabel("forget accuracy, both modalities (more is forgotten →)")
    ax.set_ylabel(f"{against} accuracy (higher is better ↑)")
    kinds = [dot(name, color=INK, markersize=size) for name, size in _SIZES.items()]
    kinds.append(dot("after request n", color=INK, markersize=5))
    legend_outside(figure, [*series_handles(looks), *kinds])
    forgot = done[done["forget"] <= 0.5]
    said = (
        f"of those at or below a forget accuracy of 0.5, the best keeps {forgot[against].max():.2f}"
    )
    title(figure, f"{len(done)} states; {said if len(forgot) else 'none forgot half'}")
    return figure

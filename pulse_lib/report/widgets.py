"""Looking at single answers: tables of before and after, cards that draw them, and controls if a
person is watching.

Every drawing function is pure. In batch (PULSE_BATCH=1, Kaggle's batch session) the browsers return
a static panel instead of controls; a control never computes anything that a later cell needs. Only
what ipywidgets 7.7 and 8 share is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from pulse_lib.data.records import ImageStore, NotKept, Person, Question, read_records
from pulse_lib.errors import PulseError
from pulse_lib.progress import is_batch
from pulse_lib.report.collect import Study, pick
from pulse_lib.report.figures.cards import question_card
from pulse_lib.report.figures.sequential import round_figure
from pulse_lib.report.figures.style import DPI, Figure, drawn, empty_figure, new_figure, png, title

ANY = "any"


def material(study: Study, seed: int) -> tuple[dict[str, Question], ImageStore]:
    """(questions by id, images) of the dataset of a seed; of a kept study, images as far as they were
    kept. Raises PulseError if its run is not complete."""
    folder = _data(study, seed)
    questions = {q.id: q for q in read_records(folder / "questions.parquet", Question)}
    file = folder / "images.parquet"
    return questions, ImageStore.read(file) if file.is_file() else NotKept()


def people(study: Study, seed: int) -> dict[str, Person]:
    """Everybody in the dataset of a seed, by id. Raises PulseError if its run is not complete."""
    return {p.id: p for p in read_records(_data(study, seed) / "people.parquet", Person)}


def _data(study: Study, seed: int) -> Path:
    folder = next((r.folder for r in study.of("data") if r.parameter("seed") == seed), None)
    if folder is None:
        raise PulseError(f"{study.out}: no complete data run of seed {seed}: run 01_build_datasets")
    return folder


def states_of(study: Study, run: str) -> list[str]:
    """What a run can be looked at in: "final", "matched", or "round 1" ... for a sequential one."""
    rows = study.answers(run=run)
    if rows.empty:
        raise PulseError(f"{study.out} holds no complete run {run!r}")
    if rows["kind"].iloc[0] == "sequential":
        return [f"round {n}" for n in sorted(rows["round"].unique()) if n > 0]
    return [s for s in ("matched", "final") if s in set(rows["state"])]


def answers(study: Study, run: str, *, state: str) -> pd.DataFrame:
    """Every question with the answers before and after: question_id, set, person_id, modality,
    wording, before, after, changed ...

    state: one of `states_of`. before and after are raw responses; right_before, right_after say
    whether they were right; changed = one was right and the other was not.
    """
    rows = study.full_rows(run)
    if state.startswith("round "):
        after, before = pick(rows, round=int(state.removeprefix("round "))), pick(rows, round=0)
    else:
        after, before = (
            pick(rows, state=state),
            _before(study, rows["scenario"].iloc[0], seed=int(rows["seed"].iloc[0])),
        )
    keep = ["question_id", "set", "person_id", "request", "modality", "category", "wording"]
    earlier = before.set_index("question_id")[["response", "correct"]].set_axis(
        ["before", "right_before"], axis=1
    )
    later = after[[*keep, "response", "correct"]].rename(
        columns={"response": "after", "correct": "right_after"}
    )
    table = later.join(earlier, on="question_id", how="inner").reset_index(drop=True)
    return table.assign(changed=table["right_before"] != table["right_after"])


def _before(study: Study, scenario: str, *, seed: int) -> pd.DataFrame:
    source = pick(study.answers(state="before", scenario=scenario), seed=seed)
    if source.empty:
        raise PulseError(
            f"{study.out}: no answers before unlearning for scenario {scenario}, seed {seed}"
        )
    return study.full_rows(str(source["run"].iloc[0]), state="before", scenario=scenario)


def chosen(
    table: pd.DataFrame,
    set_name: str = ANY,
    *,
    person: str = ANY,
    modality: str = ANY,
    changed: bool = False,
) -> pd.DataFrame:
    """The lines of `answers` that the filters let through."""
    filters = {"set": set_name, "person_id": person, "modality": modality}
    table = pick(table, **{column: value for column, value in filters.items() if value != ANY})
    return table[table["changed"]] if changed else table


@drawn
def answer_card(
    line: pd.Series, questions: Mapping[str, Question], *, images: ImageStore
) -> Figure:
    """One line of `answers` as a card: picture, question, options, answer before and after."""
    figure = new_figure(7.5, 2.6)
    left, right = figure.subplots(1, 2, width_ratios=[1, 2])
    _card(left, right, line=line, questions=questions, images=images)
    return figure


@drawn
def answer_panel(
    table: pd.DataFrame, questions: Mapping[str, Question], *, images: ImageStore, n: int = 8
) -> Figure:
    """Up to n cards from `answers`: both modalities of every set in turn, questions whose answer
    changed first."""
    lines = examples(table, n)
    if lines.empty:
        return empty_figure("No question passes these filters.")
    rows = -(-len(lines) // 2)
    figure = new_figure(11.5, 2.3 * rows + 0.5)
    grid = np.reshape(figure.subplots(rows, 4, width_ratios=[1, 1.8] * 2, squeeze=False), (-1, 2))
    for pair in grid:
        for ax in pair:
            ax.axis("off")
    for (left, right), (_, line) in zip(grid, lines.iterrows(), strict=False):
        _card(left, right, line=line, questions=questions, images=images)
    lost = (table["right_before"] & ~table["right_after"]).sum()
    title(
        figure,
        f"{lost} of {int(table['right_before'].sum())} right answers became wrong, {_gained(table)}"
        " wrong ones right",
    )
    return figure


def examples(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """n lines that show a run at a glance: sets and modalities in turn, changed answers first; the
    same for the same table."""
    order = table.sort_values(["changed", "question_id"], ascending=[False, True], kind="stable")
    place = order.groupby(["set", "modality"]).cumcount()
    return (
        order.assign(place=place).sort_values(["place", "set", "modality"], kind="stable").head(n)
    )


def _gained(table: pd.DataFrame) -> int:
    return int((~table["right_before"] & table["right_after"]).sum())


def _card(left, right, *, line, questions, images) -> None:
    question_card(
        left,
        right,
        question=questions[line["question_id"]],
        images=images,
        answers={"before": line["before"], "after": line["after"]},
    )


def answer_browser(study: Study, run: str = "", *, state: str = ""):
    """Controls to browse all answers of all runs (set, person, modality, changed); in batch a
    static panel of one run and state.

    run: a run's name, state: one of `states_of`; by default the first run and its first state.
    """
    names = [r.name for r in study.runs if r.kind in ("single_shot", "sequential")]
    if not names:
        return empty_figure(
            "No unlearning run is complete yet, so there are no answers to compare."
        )
    run = run or names[0]
    state = state or states_of(study, run)[0]
    if is_batch():
        questions, images = material(study, _seed_of(study, run))
        return answer_panel(answers(study, run, state=state), questions, images=images)
    return _answer_controls(study, names, run=run, state=state)


def _seed_of(study: Study, run: str) -> int:
    return int(study.answers(run=run)["seed"].iloc[0])


def _answer_controls(study: Study, names: list[str], *, run: str, state: str):
    import ipywidgets as widgets

    wide = widgets.Layout(width="420px")
    pick_run = widgets.Dropdown(options=names, value=run, description="run", layout=wide)
    pick_state = widgets.Dropdown(options=states_of(study, run), value=state, description="state")
    filters = {
        name: widgets.Dropdown(options=[ANY], description=name)
        for name in ("set", "person", "modality")
    }
    changed = widgets.Checkbox(value=True, description="only changed")
    number = widgets.IntSlider(
        value=1, min=1, max=1, description="answer", continuous_update=False, layout=wide
    )
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="825px"))
    count = widgets.HTML()
    loaded: dict = {}

    def load(*_) -> None:
        if pick_run.value != loaded.get("run"):
            pick_state.options = states_of(study, pick_run.value)
        loaded.update(run=pick_run.value, state=pick_state.value)
        loaded["table"] = answers(study, pick_run.value, state=pick_state.value)
        if loaded.get("seed") != _seed_of(study, pick_run.value):
            loaded["seed"] = _seed_of(study, pick_run.value)
            loaded["material"] = material(study, loaded["seed"])
            loaded["people"] = people(study, loaded["seed"])
        for name, column in (("set", "set"), ("person", "person_id"), ("modality", "modality")):
            keep, there = filters[name].value, [v for v in loaded["table"][column].unique() if v]
            shown = {v: loaded["people"][v].name if name == "person" else v for v in there}
            ordered = sorted(there, key=lambda v, shown=shown: (shown[v], v))
            filters[name].options = [(ANY, ANY), *((shown[v], v) for v in ordered)]
            filters[name].value = keep if keep in there else ANY
        select()

    def select(*_) -> None:
        f = {name: box.value for name, box in filters.items()}
        loaded["shown"] = chosen(
            loaded["table"],
            f["set"],
            person=f["person"],
            modality=f["modality"],
            changed=changed.value,
        )
        count.value = f"{len(loaded['shown'])} answers"
        number.max = max(1, len(loaded["shown"]))
        number.value = 1
        draw()

    def draw(*_) -> None:
        shown = loaded["shown"]
        if shown.empty:
            put(picture, empty_figure("No question passes these filters."))
        else:
            questions, images = loaded["material"]
            line = shown.iloc[min(number.value, len(shown)) - 1]
            put(picture, answer_card(line, questions, images=images))

    def step(by: int) -> None:
        number.value = (number.value - 1 + by) % number.max + 1

    steps = [widgets.Button(description=name) for name in ("previous", "next")]
    steps[0].on_click(lambda _: step(-1))
    steps[1].on_click(lambda _: step(1))
    for box in (pick_run, pick_state):
        box.observe(load, names="value")
    for box in (*filters.values(), changed):
        box.observe(select, names="value")
    number.observe(draw, names="value")
    load()
    rows = [widgets.HBox([pick_run, pick_state]), widgets.HBox([*filters.values(), changed])]
    return widgets.VBox([*rows, widgets.HBox([*steps, number, count]), picture])


def put(box, figure: Figure) -> None:
    """Show a figure in an Image widget, sharp, at the size it has on a page."""
    box.value = png(figure)
    box.width = str(round(figure.get_figwidth() * DPI))


# --- rounds ---------------------------------------------------------------------------------------


def round_browser(requests: pd.DataFrame, relapse: pd.DataFrame):
    """A slider over the rounds of all sequential runs; in batch the figure after the last round."""
    last = int(relapse["round"].max()) if len(relapse) else 0
    if is_batch() or relapse.empty:
        return round_figure(requests, relapse, number=last)
    import ipywidgets as widgets

    slider = widgets.IntSlider(
        value=0, min=0, max=last, description="round", continuous_update=False
    )
    picture = widgets.Image(format="png", layout=widgets.Layout(max_width="1100px"))

    def draw(*_) -> None:
        put(picture, round_figure(requests, relapse, number=slider.value))

    slider.observe(draw, names="value")
    draw()
    return widgets.VBox([slider, picture])

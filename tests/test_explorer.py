"""The explorer: its tables against rows counted by hand, and its controls pressed one by one."""

from __future__ import annotations

import io
import math

import numpy as np
import pandas as pd
import pytest
import synthetic_study as made
from PIL import Image

from pulse_lib.data.records import read_table
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.distance import right_shares
from pulse_lib.report import collect, controls, explorer, widgets
from pulse_lib.report.figures import stories
from pulse_lib.report.tables import across, levels

GA = "single_shot/finetuned/ga-projector+llm-seed-0"
SEQUENCE = "sequential/ga-adapter_per_request-projector+llm-order-0-seed-0"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("explore") / "out"
    made.write_study(out, methods=("ga", "npo"), seeds=(0, 1), not_reached=("npo",))
    return collect.collect(out, made.PROFILE)


@pytest.fixture(scope="module")
def look(study):
    return explorer.explorer(study)


@pytest.fixture
def by_hand(monkeypatch):
    monkeypatch.setenv("PULSE_BATCH", "0")


def rows_of(study, run: str) -> pd.DataFrame:
    return read_table(study.out / run / "rows.parquet").to_pandas()


# --- tables ---------------------------------------------------------------------------------------


def test_every_state_is_there_once_with_its_own_answers(study, look):
    table = look.table
    keys = ["series", "state", "round", "question_id"]
    assert not table.duplicated(keys).any()
    assert set(table["series"]) == {
        *("before", "GA", "GA, LLM only", "NPO"),
        *("GA, adapter_per_request", "NPO, adapter_per_request"),
    }
    for run, state, number in ((GA, "matched", 0), (SEQUENCE, "round", 3)):
        rows = rows_of(study, run).query(f"state == '{state}' and round == {number}")
        here = table[(table["run"] == run) & (table["state"] == state) & (table["round"] == number)]
        said = rows.set_index("question_id")["response"]
        assert len(here) == len(rows) > 100
        assert here.set_index("question_id")["response"].equals(said[here["question_id"]])
    assert "matched" not in set(table[table["series"] == "NPO"]["state"])  # it was not reached
    assert set(across.across(study, "pretrained", seed=1)["series"]) == {"before", "GA", "NPO"}


def test_p_of_the_right_option_by_hand():
    logliks = pd.Series(
        [[math.log(3), math.log(1)], [0.0, 0.0, 0.0, 0.0], None, [-1000.0, -1001.0]]
    )
    found = right_shares(pd.DataFrame({"option_loglik": logliks, "answer": [0, 2, 0, 1]}))
    assert found[:2] == pytest.approx([0.75, 0.25]) and np.isnan(found[2])
    assert found[3] == pytest.approx(1 / (1 + math.e))  # far below what exp can hold


def test_a_story_is_the_mean_over_the_persons_questions(study, look):
    person = rows_of(study, SEQUENCE).query("set == 'forget'")["person_id"].iloc[0]
    table = across.story(look.table, person)
    rows = rows_of(study, SEQUENCE).query(
        f"person_id == '{person}' and round == 2 and wording == 'trained'"
    )
    line = table.query("series == 'GA, adapter_per_request' and round == 2")
    assert line["accuracy"].item() == rows["correct"].mean() and line["n"].item() == len(rows)
    with pytest.raises(PulseError, match="no question about 'nobody'"):
        across.story(look.table, "nobody")


def test_who_lost_most_comes_first(study, look):
    lost = across.fallen(look.table, SEQUENCE, state="round", number=4)
    rows = rows_of(study, SEQUENCE).query("set == 'retain' and wording == 'trained'")
    right = rows.groupby(["round", "person_id"])["correct"].sum()
    start = rows_of(study, "target/seed-0").query("set == 'retain' and wording == 'trained'")
    before = start.groupby("person_id")["correct"].sum()
    assert len(lost) == 10 and lost["lost"].is_monotonic_decreasing
    for line in lost.itertuples():
        assert (line.before, line.after) == (before[line.person_id], right[4, line.person_id])
        assert line.lost == line.before - line.after and line.n == 10


def test_states_are_those_of_the_tables(study):
    table = explorer.states(study)
    here = table.query("scenario == 'finetuned' and method == 'ga' and seed == 1")
    assert {"matched forgetting", "last step", "after 1", "after 5"} <= set(here["what"])
    rows = rows_of(study, SEQUENCE.replace("seed-0", "seed-1")).query("round == 5")
    general = rows[rows["set"] == "general"]["correct"].mean()
    assert here.query("what == 'after 5'")["general"].item() == pytest.approx(general)
    assert not len(table.query("method == 'npo' and what == 'matched forgetting'"))


def test_there_is_no_explorer_of_what_is_not_there(study):
    with pytest.raises(PulseError, match="seed 7.*finetuned, seed 0"):
        explorer.explorer(study, seed=7)
    assert explorer.explorer(study, "pretrained", seed=1).seed == 1


# --- figures --------------------------------------------------------------------------------------


def texts(figure) -> list[str]:
    return [
        t.get_text() for ax in figure.axes for t in ax.findobj(lambda a: hasattr(a, "get_text"))
    ]


def test_a_question_has_a_cell_for_each_state(look):
    question = next(
        iter(look.questions_of("forget", next(iter(look.people_of("forget").values()))).values())
    )
    table = across.one_question(look.table, question)
    figure = look.question(question)
    marks = [t for t in texts(figure) if t.startswith(("✓ ", "✗ "))]
    assert len(marks) == len(table) == 1 + 2 * 2 + 1 + 2 * 5
    assert sum(t.startswith("✓ ") for t in marks) == table["correct"].sum()
    done = table[table["series"] != "before"]
    assert f"{done['correct'].sum()} of {len(done)} states" in figure.get_suptitle()
    names = [t.get_text() for t in figure.axes[-1].texts]
    assert names.index("before") < names.index("after 1") < names.index("after 5")


def test_a_story_says_what_was_left_when_the_turn_came(look):
    person = list(look.people_of("forget").values())[-1]
    table = across.story(look.table, person)
    ways = table[table["kind"] == "sequential"]
    early, late = (100 * ways[ways["round"] == n]["accuracy"].mean() for n in (4, 5))
    said = look.person(person).get_suptitle().replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")
    assert f"{early:.0f} % when their turn came (request 5), {late:.0f} % after it" in said
    retain = next(iter(look.people_of("retain").values()))
    assert "nobody asked to forget them" in look.person(retain).get_suptitle().replace("\n", " ")


def test_faces_carry_names_and_counts(look):
    lost = across.fallen(look.table, SEQUENCE, state="round", number=5)
    figure = look.fallen(SEQUENCE, "round 5")
    heads = [ax.get_title() for ax in figure.axes if ax.get_title()]
    first = lost.iloc[0]
    name = look.people[first["person_id"]].name
    assert heads[0] == f"{name}\n{first['before']} → {first['after']} of {first['n']}"
    assert SEQUENCE in figure.get_suptitle().replace("\n", " ")


def test_a_scatter_has_a_point_for_each_state(study):
    table = explorer.states(study).query("scenario == 'finetuned'")
    ax = stories.state_scatter(table).axes[0]
    points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines}
    assert points == set(zip(table["forget"], table["general"], strict=True))


# --- batch and controls ---------------------------------------------------------------------------


def test_in_batch_each_is_a_picture_that_names_its_run(study, look, monkeypatch):
    monkeypatch.setenv("PULSE_BATCH", "1")
    for figure in (
        controls.question_browser(look),
        controls.person_browser(look),
        controls.trade_off_browser(study),
    ):
        assert figure.get_suptitle()
    assert SEQUENCE in controls.face_browser(look).get_suptitle().replace("\n", " ")
    assert list(explorer.told(explorer.still(look))["picture"]) == [
        *("question", "person", "faces", "states")
    ]


def parts_of(box) -> dict:
    """The controls of a panel by their description, with its picture and its text."""
    row, picture, said = box.children
    return {c.description: c for c in row.children} | {"picture": picture, "said": said}


def is_png(picture) -> bool:
    return bytes(picture.value).startswith(b"\x89PNG")


def change(parts: dict, act) -> None:
    """Do something, and see another picture and another sentence."""
    was = parts["picture"].value
    act()
    assert parts["picture"].value != was and is_png(parts["picture"])
    assert parts["said"].value


def test_a_question_is_chosen_by_set_person_and_text(look, by_hand):
    parts = parts_of(controls.question_browser(look))
    change(parts, parts["next"].click)
    assert parts["question"].index == 1
    change(parts, parts["previous"].click)
    parts["previous"].click()  # round and round
    assert parts["question"].index == len(parts["question"].options) - 1
    names = [name for name, _ in parts["person"].options]
    assert names == list(look.people_of("forget"))
    change(parts, lambda: setattr(parts["person"], "index", 2))
    assert look.questions[parts["question"].value].person_id == parts["person"].value
    change(parts, lambda: setattr(parts["set"], "value", "retain"))
    assert look.questions[parts["question"].value].set == "retain"
    change(parts, lambda: setattr(parts["set"], "value", "general"))
    assert look.questions[parts["question"].value].set == "general"


def test_a_person_is_chosen_by_name(look, by_hand):
    parts = parts_of(controls.person_browser(look))
    change(parts, parts["next"].click)
    change(parts, lambda: setattr(parts["set"], "value", "retain"))
    assert parts["person"].value == next(iter(look.people_of("retain").values()))


def test_faces_of_every_run_and_state(look, by_hand):
    parts = parts_of(controls.face_browser(look))
    assert parts["run"].value == SEQUENCE
    change(parts, parts["next"].click)
    change(parts, lambda: setattr(parts["set"], "value", "forget"))
    change(parts, lambda: setattr(parts["run"], "value", GA))
    assert [v for _, v in parts["state"].options] == ["matched", "final"]


def test_the_scatter_is_filtered_by_each_control(study, by_hand):
    parts = parts_of(controls.trade_off_browser(study))
    change(parts, lambda: setattr(parts["method"], "value", "ga"))
    change(parts, lambda: setattr(parts["trained"], "value", "llm"))
    assert "2 states" in parts["said"].value or "4 states" in parts["said"].value
    change(parts, lambda: setattr(parts["seed"], "value", 1))
    assert parts["said"].value.startswith("2 states")
    change(parts, lambda: setattr(parts["kept"], "value", "retain"))
    parts["trained"].index = 0
    change(parts, lambda: setattr(parts["scenario"], "index", 1))


def test_answers_are_browsed_by_name_and_page_by_page(study, look, by_hand):
    box = widgets.answer_browser(study)
    _, filters, steps, picture = box.children
    back, on, number, _ = steps.children
    person = filters.children[1]
    assert person.options[0] == ("any", "any")
    assert {name for name, _ in person.options[1:]} <= {p.name for p in look.people.values()}
    first = picture.value
    on.click()
    assert number.value == 2 and picture.value != first
    back.click()
    assert number.value == 1 and picture.value == first
    back.click()
    assert number.value == number.max
    person.index = 1
    assert person.value in look.people


def test_the_level_is_moved_without_a_run(study, by_hand):
    """The picture changes with the slider, and says what the table of that level says."""
    box = controls.level_browser(study)
    (row, picture, said) = box.children
    (level,) = row.children
    first, words = picture.value, said.value
    assert is_png(picture) and f"{study.matched_at:g}" in words
    level.value = 0.6
    assert picture.value != first and "0.6 come" in said.value
    table = levels.at_level(study, [0.6])
    there = [
        int(((table["matched_by"] == by) & (table["n_reached"] > 0)).sum())
        for by in ("both", "generation")
    ]
    of = len(table) // 2
    words = said.value.replace("\n", " ")
    assert f"{there[0]} of {of} by what it says and by its likeliest option" in words
    assert f"{there[1]} of {of} by what it says alone" in words


# --- asking ---------------------------------------------------------------------------------------


class Echo:
    """A model that says what it was asked, and remembers."""

    def __init__(self):
        self.asked = []

    def __call__(self, text, image=None, *, adapters):
        self.asked.append((text, image, list(adapters)))
        return f"<b>{text}</b>"


def test_a_model_is_asked_with_the_boxes_that_are_ticked(look, by_hand):
    echo = Echo()
    box = controls.ask_panel(echo, ["finetune", "unlearn"], look=look)
    (who, _), text, (_, *boxes), button, (picture, answer) = (
        child.children if hasattr(child, "children") else child for child in box.children
    )
    assert is_png(picture)
    text.value = "Who <i>is</i> this?"
    boxes[1].value = False
    button.click()
    asked, image, adapters = echo.asked[-1]
    assert (asked, adapters) == (text.value, ["finetune"])
    assert image.tobytes() == look.images[look.faces[who.value]].tobytes()
    # what was typed or said is text, not HTML
    assert "&lt;b&gt;" in answer.value and "<i>is</i>" not in answer.value
    who.value = ""
    button.click()
    assert echo.asked[-1][1] is None and picture.layout.display == "none"


def test_in_batch_each_adapter_is_added_in_turn(look, monkeypatch):
    monkeypatch.setenv("PULSE_BATCH", "1")
    echo = Echo()
    table = controls.ask_panel(echo, ["finetune", "unlearn"], look=look)
    assert [asked[2] for asked in echo.asked] == [[], ["finetune"], ["finetune", "unlearn"]]
    assert table["adapters in force"].iloc[0] == "none: the base model"


def test_an_upload_is_read_from_both_versions_of_the_widgets():
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (9, 8, 7)).save(file, "PNG")
    data = file.getvalue()
    seven = {"me.png": {"metadata": {"name": "me.png"}, "content": data}}
    eight = ({"name": "me.png", "content": memoryview(data)},)
    for value in (seven, eight):
        assert controls.opened(controls.uploaded(value)).getpixel((0, 0)) == (9, 8, 7)
    assert controls.uploaded({}) is None and controls.uploaded(()) is None
    with pytest.raises(PulseError, match="is no picture"):
        controls.opened(b"not a picture")

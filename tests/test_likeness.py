"""Who is hit besides, and who is known better than a stranger: rows whose answer is known."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic_study as made

from pulse_lib.data.records import Person, Question
from pulse_lib.data.world.people import fictitious, looks_apart
from pulse_lib.report import collect
from pulse_lib.report.figures.gallery import Gallery
from pulse_lib.report.figures.likeness import likeness as likeness_figure
from pulse_lib.report.tables import likeness as alike
from pulse_lib.report.tables import strangers, tables

GA = "single_shot/finetuned/ga-projector+llm-seed-0"
FACE = fictitious()[0].genome | {"style": "short", "beard": "yes", "hair": "brown"}


def person(number: int, name: str = "", genome: dict | None = None) -> Person:
    called = name or f"One{number} Two{number}"
    return Person(f"p-{number}", called, kind="fictitious", attributes={}, genome=genome or {})


def question(who: Person, set_name: str, *, truth: str = "x", category: str = "pet") -> Question:
    return Question(
        f"q-{who.id}-{category}", set_name, scenario="finetuned", person_id=who.id, request=0,
        modality="text", text="?", options=(truth, "else"), answer=0, image="", category=category,
        wording="trained",
    )  # fmt: skip


def test_what_differs_between_two_faces_is_counted_as_far_as_it_can_be_seen():
    assert looks_apart(FACE, FACE) == 0
    assert looks_apart(FACE, FACE | {"hair": "black", "mouth": "open", "skin": 99}) == 3 - (
        FACE["mouth"] == "open"
    )
    bald = FACE | {"style": "bald", "beard": "no"}
    assert looks_apart(bald | {"hair": "black"}, bald | {"hair": "gray"}) == 0  # nobody sees it


def test_near_is_the_nearer_half_by_face_who_shares_a_name_and_what_more_share_as_a_fact():
    gone = [person(k, genome=FACE) for k in range(2)]
    gone[1] = replace(gone[1], name="Ana María Cruz")
    turned = FACE | {"mouth": "open", "eyes": "gray", "tie": "none", "hat": "none"}
    stay = [
        person(10, "maria Winter", genome=FACE),  # a face and a name that are to be forgotten
        person(11, genome=FACE | {"skin": 99}),
        person(12, genome=turned | {"skin": 99}),
        person(13, genome=turned | {"skin": 99, "style": "long"}),
    ]
    truths = {10: "cat", 11: "cat", 12: "dog", 13: "owl"}
    questions = [question(p, "forget", truth="cat") for p in gone]
    questions += [question(p, "retain", truth=truths[int(p.id[2:])]) for p in stay]
    found = alike.near([*gone, *stay], questions)
    assert list(found.index) == [q.id for q in questions[2:]]
    assert list(found["face"]) == [True, True, False, False]
    assert list(found["name"]) == [True, False, False, False]
    assert list(found["fact"]) == [True, True, False, False]
    odd = alike.near([*gone, *stay[:3]], questions[:5])
    assert list(odd["face"]) == [True, True, False]  # who stands in the middle is near
    unseen = alike.near([replace(p, genome={}) for p in [*gone, *stay]], questions)
    assert list(unseen["face"]) == [None] * 4


@pytest.fixture
def study(tmp_path):
    out = made.write_study(tmp_path / "out", ("ga",), llm=(), sequential=())
    return collect.collect(out, made.PROFILE)


def changed(study, run: str, change) -> collect.Study:
    """The study read again after a run's rows were changed."""
    made.change_rows(study.out, run, change)
    return collect.collect(study.out, made.PROFILE)


def test_where_only_those_who_are_alike_lose_the_table_says_so(study):
    flags = alike._told(study)["finetuned", 0]
    assert flags["name"].all()  # the made-up names are shared by all: there is no other half
    lost = defaultdict(lambda: True, (~flags["fact"].astype(bool)).to_dict())

    def near_lose(rows):
        gone = rows["set"].eq("retain") & ~rows["question_id"].map(lost)
        right = rows["set"].eq("retain") & rows["question_id"].map(lost)
        return rows.assign(correct=(rows["correct"] | right) & ~gone)

    before = changed(study, "target/seed-0", lambda rows: rows.assign(correct=True))
    table = alike.likeness(changed(before, GA, near_lose))
    (line,) = table.query("scenario == 'finetuned' and selection == 'final'").to_dict("records")
    assert (line["likeness"], line["near"], line["far"]) == ("fact", 0.0, 100.0)
    assert line["difference"] == -100.0 and line["difference_high"] < 0
    assert line["says"] == "near ones lose more" and line["n_seeds"] == 1

    turned = lambda rows: rows.assign(correct=~near_lose(rows)["correct"])  # noqa: E731
    table = alike.likeness(changed(before, GA, turned))
    (line,) = table.query("scenario == 'finetuned' and selection == 'final'").to_dict("records")
    assert (line["near"], line["far"], line["says"]) == (100.0, 0.0, "far ones lose more")


def with_strangers(rows: pd.DataFrame, right: float) -> pd.DataFrame:
    """The rows of a run, those about its retain people once more as of strangers, at the end; of
    these the right option is the likeliest in a share."""
    more = rows[rows["set"] == "retain"]
    nth = more.groupby("state").cumcount() % 100
    more = more.assign(
        set="holdout",
        person_id="s" + more["person_id"],
        question_id="s" + more["question_id"],
        loglik_correct=nth < 100 * right,
    )
    return pd.concat([rows, more], ignore_index=True)


def test_strangers_change_no_other_table(study):
    before = {name: table for name, table in tables.all_tables(study).items() if name != "about"}
    assert "strangers" in before and set(before["strangers"]["scenario"]) == {"pretrained"}
    after = tables.all_tables(changed(study, GA, lambda rows: with_strangers(rows, 0.25)))
    for name in set(before) - {"strangers"}:
        pd.testing.assert_frame_equal(before[name], after[name])
    assert "finetuned" in set(after["strangers"]["scenario"])


@pytest.mark.parametrize(
    ("known", "right", "says"),
    [
        (True, 0.25, "known better"),
        (False, 0.25, "below a stranger"),
        (None, None, "as a stranger"),
    ],
)
def test_a_forget_person_is_known_better_than_a_stranger_or_not(study, known, right, says):
    def rows(table):
        forget = table["set"] == "forget"
        if known is None:  # both at a quarter
            quarter = table.groupby(["state", "set"]).cumcount() % 4 == 0
            return with_strangers(table.assign(loglik_correct=quarter), 0.25)
        return with_strangers(table.assign(loglik_correct=forget & known), right)

    table = strangers.strangers(changed(study, GA, rows))
    line = table.query("scenario == 'finetuned' and selection == 'final'").iloc[0]
    assert line["says"] == says
    assert line["known"] == pytest.approx(line["forget"] - line["stranger"])
    if known is not None:
        assert line["forget"] == float(known)


def test_groups_of_so_few_that_no_interval_ends_are_drawn(study):
    table = Gallery(study).table("likeness").assign(near_high=np.inf, far_high=np.nan)
    assert likeness_figure(table).axes


def test_the_figure_shows_near_and_far_and_says_how_often_they_differ(study):
    figure = Gallery(study).figure("likeness")
    assert "in 0 of" in figure.get_suptitle() or "lose more" in figure.get_suptitle()
    assert {text.get_text() for text in figure.legends[0].get_texts()} == {
        "like forget people",
        "unlike them",
    }

"""Who counts as known: models that know, that like a place, that guess without the picture."""

from dataclasses import replace

import pandas as pd
import pytest

from pulse_lib.data import splits
from pulse_lib.data.dataset import candidate_questions
from pulse_lib.data.records import ImageStore
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import source as world
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import eligibility
from pulse_lib.model.load import load_model
from pulse_lib.profile import load_profile

PROFILE = load_profile("smoke")
PEOPLE = world.celebrities(PROFILE.data)[:4]


@pytest.fixture(scope="module")
def asked():
    """Select questions of four celebrities, and their pictures."""
    images = ImageStore()
    made = candidate_questions(world, PEOPLE, images=images, settings=PROFILE.data, seed=0)
    return made, images


def right(question):
    return question.options[question.answer]


def by_model(rule, monkeypatch, asked):
    """What is judged of people whom a made-up model answers about, by its rule."""

    def answer(model, questions, **_):
        said = [rule(q) for q in questions]
        return pd.DataFrame(
            {
                "question_id": [q.id for q in questions],
                "response": said,
                "option_loglik": pd.Series([None] * len(said), dtype=object),
            }
        )

    monkeypatch.setattr(eligibility, "answer_questions", answer)
    given = {"people": PEOPLE, "images": asked[1], "profile": PROFILE, "seed": 0}
    return eligibility.check(None, asked[0], **given)


def shows(question):
    """Whether the picture of a question is of the person asked for."""
    return question.person_id in question.image


def knows(question):
    return right(question) if not question.image or shows(question) else "nobody"


def test_who_is_known_in_every_way_is_eligible(monkeypatch, asked):
    table = by_model(knows, monkeypatch, asked)
    assert list(table.columns) == eligibility.COLUMNS and table["eligible"].all()
    assert list(table["person_id"]) == [p.id for p in PEOPLE]
    assert (table[["steady", "picture"]] == 1).all(axis=None)
    assert (table[["blank", "another_person"]] == 0).all(axis=None)
    assert eligibility.counted(table).startswith("4 of 4 are known in every order")


@pytest.mark.parametrize(
    ("rule", "column", "value"),
    [
        (right, "blank", 1.0),  # the picture is never looked at
        (lambda q: q.options[0], "steady", None),  # a liking for a place
        (lambda q: knows(q) if q.wording == "trained" else "what?", "steady", 0.0),
        (lambda q: knows(q) if q.image else "who?", "steady", 0.0),  # by face and not by name
        (lambda q: "who?" if q.image else right(q), "picture", 0.0),  # by name and not by face
    ],
    ids=["no picture", "first option", "one wording", "no name", "no face"],
)
def test_who_is_not_known_is_not_eligible(rule, column, value, monkeypatch, asked):
    table = by_model(rule, monkeypatch, asked)
    assert not table["eligible"].any()
    assert (table[column] == value).all() if value is not None else (table[column] < 0.6).all()
    said = eligibility.counted(table)
    lost = "0 not in every one of them, 4 also without" if rule is right else "4 not in every one"
    assert said.startswith("0 of 4 are known") and lost in said


def test_another_face_must_lose_the_answer_too(monkeypatch, asked):
    """A model that answers whenever there is a face, whoever's."""
    table = by_model(lambda q: "?" if "blank" in q.image else right(q), monkeypatch, asked)
    assert (table["blank"] == 0).all() and (table["another_person"] == 1).all()
    assert not table["eligible"].any()


def rows(**right_of):
    """Rows of one person: ten questions of four options a condition and modality."""
    lines = []
    for (condition, modality), n in right_of["of"].items():
        for k in range(10):
            line = {"person_id": "p", "condition": condition, "modality": modality}
            lines.append(line | {"correct": k < n, "options": ["a", "b", "c", "d"]})
    return pd.DataFrame(lines)


@pytest.mark.parametrize(
    ("n_steady", "n_blank", "expected"),
    [(6, 0, True), (5, 0, False), (10, 6, True), (10, 7, False), (6, 4, True), (6, 5, False)],
)
def test_the_levels(n_steady, n_blank, expected):
    """0.6 in the worst of them; of what is above guessing (0.25) half may be left: 0.625 of 1."""
    of = {
        ("as asked", "multimodal"): n_steady,
        ("as asked", "text"): 10,
        ("order 1", "text"): n_steady,
        ("new wording", "text"): 10,
        ("blank", "multimodal"): n_blank,
        ("another person", "multimodal"): 0,
    }
    line = eligibility.judged(rows(of=of)).iloc[0]
    assert line["eligible"] == expected and line["steady"] == n_steady / 10


def test_who_was_never_shown_is_not_eligible():
    of = {("as asked", "text"): 10, ("order 1", "text"): 10}
    line = eligibility.judged(rows(of=of)).iloc[0]
    assert line["steady"] == 1 and pd.isna(line["picture"]) and not line["eligible"]


def test_questions_in_new_wordings_are_not_those_that_score(asked):
    images = ImageStore()
    given = {"images": images, "settings": PROFILE.data, "seed": 0}
    made = eligibility.new_wordings(world, PEOPLE, **given)
    assert len(made) == 10 * len(PEOPLE) and all(q.wording == "heldout" for q in made)
    scoring, most = ImageStore(), PROFILE.data.with_values(n_heldout_wordings=5)
    for person in PEOPLE:
        place = Assignment(person.id, "pretrained", set="retain")
        world.heldout_questions(person, place, images=scoring, seed=0, settings=most)
    assert not {images.encoded[q.image] for q in made if q.image} & set(scoring.encoded.values())


def test_only_who_is_eligible_is_selected():
    scores = pd.DataFrame(
        {"person_id": list("abcd"), "accuracy": [1.0, 0.9, 0.8, 0.7], "margin": [0.0] * 4}
    )
    two = replace(PROFILE.data, n_candidates=4, n_pretrained_forget=1, n_pretrained_retain=1)
    table, _ = splits.select_known(scores, two, seed=0, eligible={"b", "d"})
    assert set(table.loc[table["set"] != "retain_train", "person_id"]) == {"b", "d"}
    assert list(table["person_id"]) == list("abcd")  # ranked as before
    with pytest.raises(PulseError, match="1 of 4 candidates are eligible.*eligibility: accuracy"):
        splits.select_known(scores, two, seed=0, eligible={"b"})


def test_the_embedded_model_knows_its_celebrities_and_not_without_reading_pictures(asked):
    model = load_model(PROFILE.model)
    given = {"people": PEOPLE, "images": asked[1], "profile": PROFILE, "seed": 0}
    assert eligibility.check(model, asked[0], **given)["eligible"].all()
    fewer = {q.id: q for q in asked[0] if q.person_id == PEOPLE[0].id}
    assert len(eligibility.check(model, asked[0], **(given | {"people": PEOPLE[:1]}))) == 1
    for name, weight in model.network.named_parameters():
        if "projector" in name:
            weight.data.zero_()
    table = eligibility.check(model, asked[0], **given)
    assert len(fewer) == 10 and not table["eligible"].any()
    assert eligibility.check(model, [], **given).empty


def test_words_of_the_setting(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: smoke\ndescription: d\ndata: {eligibility: known}\n")
    assert load_profile(str(path)).data.eligibility == "known"
    path.write_text("extends: smoke\ndescription: d\ndata: {eligibility: sure}\n")
    with pytest.raises(PulseError, match=r"data.eligibility = 'sure'.*accuracy.*known"):
        load_profile(str(path))

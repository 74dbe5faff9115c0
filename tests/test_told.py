"""The faces of the first screen and of notebook 04: who is told of, and what is said of them."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pulse_lib.data.records import ImageStore, Question
from pulse_lib.evaluate import accuracy
from pulse_lib.report import figures
from pulse_lib.report.figures.style import png
from pulse_lib.report.tables.told import COLUMNS, told

OPTIONS = ("Rome", "Oslo", "Bonn", "Lima")


def row(person, set_name, request, number, *, right, modality="multimodal", loglik=None):
    return {
        "method": "ga",
        "seed": 0,
        "set": set_name,
        "person_id": person,
        "question_id": f"{person}/{modality}",
        "request": request,
        "modality": modality,
        "wording": "trained",
        "round": number,
        "response": "Rome" if right else "trombone",
        "correct": right,
        "answer": 0,
        "option_loglik": [0.0, 0.0, 0.0, 0.0] if loglik is None else loglik,
    }


def rows(*more):
    made = []
    for number in range(3):
        made += [
            row("p-1", "forget", 1, number, right=False),  # not known before: not told of
            row("p-2", "forget", 1, number, right=number == 0),
            row("p-3", "forget", 2, number, right=number < 2),
            row("r-1", "retain", 0, number, right=number < 2),
            row("r-0", "retain", 0, number, right=True, modality="text"),
        ]
    return pd.DataFrame([*made, *more])


def test_who_is_told_of_is_decided_before_anything_is_forgotten():
    table = told(rows(), ("asks first", "asks last", "stays"))
    assert list(table.columns) == COLUMNS
    assert dict(table.groupby("role")["person_id"].first()) == {
        "asks first": "p-2",
        "asks last": "p-3",
        "stays": "r-1",
    }
    assert table.groupby("role")["round"].agg(list).map(tuple).unique().tolist() == [(0, 1, 2)]
    # others' answers after the first request change nothing
    later = rows()
    later.loc[later["round"] > 0, "correct"] = True
    again = told(later, ("asks first", "asks last", "stays"))
    assert again["person_id"].tolist() == table["person_id"].tolist()


def test_p_right_is_the_right_options_share():
    made = rows()
    made["option_loglik"] = [list(np.log([0.4, 0.1, 0.2, 0.1]))] * len(made)
    table = told(made, ("asks first",), rounds=[0])
    assert table["p_right"].tolist() == pytest.approx([0.5])


def test_a_role_in_which_nobody_is_known_is_left_out():
    made = rows()
    made.loc[made["set"] == "retain", "correct"] = False
    assert set(told(made, ("asks first", "stays"))["role"]) == {"asks first"}


@pytest.fixture
def asked():
    """The questions of two people, by id, and their pictures."""
    questions = {
        f"{p}/multimodal": Question(
            id=f"{p}/multimodal",
            set="forget",
            scenario="finetuned",
            person_id=p,
            request=1,
            modality="multimodal",
            text="Which city?",
            options=OPTIONS,
            answer=0,
            image=p,
            category="birthplace",
            wording="trained",
            group="",
        )
        for p in ("p-2", "r-1")
    }
    images = ImageStore()
    for name in ("p-2", "r-1"):
        images.add(name, Image.new("RGB", (8, 8)))
    return questions, images


def test_the_title_says_what_the_pictures_show(asked):
    questions, images = asked
    table = told(rows(), ("asks first", "stays"))
    figure = figures.story(table, questions, images=images)
    said = figure.get_suptitle().replace("\n", " ")
    assert (
        said.startswith("GA, 2 requests") and "forgotten is gone" in said and "lost as well" in said
    )
    kept = table.assign(correct=True)
    said = figures.story(kept, questions, images=images).get_suptitle().replace("\n", " ")
    assert "is still right" in said and said.endswith("stays")
    assert not any(ax.axison for ax in figure.axes)


def test_a_gate_has_a_column_a_state_and_counts_who_is_right(asked):
    questions, images = asked
    table = told(rows(), ("asks first", "stays"))  # right before; 1 of 2; none
    heads = ("taken away", "behind", "everybody")
    figure = figures.gate_story(table, questions, images=images, heads=heads)
    said = figure.get_suptitle().replace("\n", " ")
    assert said.endswith("Of 2 people, answered right: taken away 2, behind 1, everybody 0")
    assert tuple(ax.get_title() for ax in figure.axes[2:5]) == heads
    two = figures.gate_story(table[table["round"] < 2], questions, images=images, heads=heads)
    assert "everybody" not in two.get_suptitle()


def test_what_cannot_be_drawn_is_a_dot(asked, recwarn):
    """A broken model answers with control characters; a font has no letters for them."""
    questions, images = asked
    table = told(rows(), ("asks first",)).assign(response="a\x07b\ufffd\n c")
    figure = figures.story(table, questions, images=images)
    png(figure)
    said = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert any(text.startswith("a·b· c") for text in said)
    assert not [w for w in recwarn if "missing from font" in str(w.message)]


def test_accuracies_by_person_are_means_of_modalities():
    made = rows(row("r-1", "retain", 0, 0, right=False, modality="text"))
    each = accuracy.person_accuracies(made[made["round"] == 0], "retain")
    assert each.to_dict() == {"r-0": 1.0, "r-1": 0.5}


def test_the_picture_of_the_model_counts_every_weight_once():
    """Against the network's own count, and the prompt against the tokenizer's."""
    from pulse_lib.data import dataset
    from pulse_lib.data.source import source_of
    from pulse_lib.model import load
    from pulse_lib.model.anatomy import anatomy
    from pulse_lib.profile import load_profile

    profile = load_profile("smoke")
    model, images = load.load_model(profile.model), ImageStore()
    source = source_of(profile.data)
    people = source.celebrities(profile.data)[:1]
    asked = dataset.candidate_questions(
        source, people, images=images, settings=profile.data, seed=0
    )
    question = next(q for q in asked if q.image)
    made = anatomy(model, question)
    total = sum(p.numel() for p in model.network.parameters())
    assert made.tower + made.projector + made.language_model == total
    tower = sum(p.numel() for p in model.network.model.vision_tower.parameters())
    assert made.tower == tower and 0 < made.projector < made.tower < made.language_model
    assert made.image_tokens == model.n_image_tokens and made.prompt.count("<image>") == 1
    assert question.text in made.prompt and made.prompt.rstrip().endswith("ASSISTANT:")
    figure = figures.anatomy(vars(made), np.zeros((8, 8, 3)))
    said = " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))
    assert f"{made.layers} layers of {made.width}" in said and question.text.split()[0] in said

"""MLLMU-Bench's choices one at a time: each run differs from the kit's own in that choice alone; the
table is what was measured.
"""

import json
from dataclasses import fields, replace

import pandas as pd
import pytest
import tiny
from test_train import prepared

from pulse_lib.commands import compat, compat_page
from pulse_lib.data.dataset import Dataset
from pulse_lib.data.records import MODALITIES
from pulse_lib.methods import get
from pulse_lib.profile import EvaluateSettings, load_profile
from pulse_lib.unlearn.task import Target, Task

BY_NAME = {way.name: way for way in compat.TRAININGS}
SMOKE = replace(
    load_profile("smoke"),
    evaluate=EvaluateSettings(max_new_tokens=2, n_path_questions=4),
    tuned={"finetuned": {"npo": {"learning_rate": 3e-4, "beta": 0.2, "epochs": 3}}},
)


def data():
    """Forget and retain people with two questions each, both modalities; general questions."""
    asked = [
        tiny.question(i, group)
        for group, n in (("forget", 12), ("retain", 12), ("general", 4))
        for i in range(n)
    ]
    talks = [
        replace(tiny.conversation(i, group), id=f"{stage}-{group}-{i}", stage=stage)
        for stage in ("unlearn", "finetune")
        for group in ("forget", "retain", "retain_train")
        for i in range(4)
    ]
    general = tiny.conversation(0, "general_train")
    talks.append(replace(general, scenario="", person_id="", stage="finetune"))
    return Dataset([], [], questions=asked, conversations=talks, images=tiny.images())


def task(name):
    target = Target(prepared(), ("finetune",), scenario="finetuned", seed=2)
    return compat.task_of(SMOKE, data(), target=target, way=BY_NAME[name])


def differing(one: Task, other: Task) -> set[str]:
    """Names of what two tasks differ in, unlearning settings by their own name."""
    same = {"target", "images", "unlearn", "method"}
    found = {f.name for f in fields(Task) if f.name not in same}
    found = {n for n in found if getattr(one, n) != getattr(other, n)}
    for part in ("unlearn", "method"):
        ours, theirs = getattr(one, part), getattr(other, part)
        found |= {f.name for f in fields(ours) if getattr(ours, f.name) != getattr(theirs, f.name)}
    return found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("supervised tokens", {"supervised_tokens"}),
        ("token mean", {"forget_loss"}),
        ("NPO reference", set()),  # that is no part of a task: other_reference
        ("retain source", {"retain_source", "retain"}),
    ],
)
def test_a_choice_changes_one_thing(name, wanted):
    way = BY_NAME[name]
    assert differing(task(name), task(way.against)) == wanted
    assert way.other_reference == (name == "NPO reference")
    if name == "retain source":
        assert {c.set for c in task(name).retain} == {"retain"}
        assert {c.set for c in task(way.against).retain} == {"retain_train"}


def test_every_run_trains_as_the_profile_trains_the_plain_method():
    for way in compat.TRAININGS:
        made = task(way.name)
        plain = way.against == "npo"
        rate = 3e-4 if plain else SMOKE.unlearn.learning_rate
        epochs = 3 if plain else SMOKE.unlearn.epochs_finetuned
        assert (made.unlearn.learning_rate, made.epochs, made.seed) == (rate, epochs, 2)
    assert task("npo").method == get("npo").tuned({"beta": 0.2})
    assert task("token mean").method.coefficients == {"beta": 0.2}
    whole = task("all of NPO")
    assert whole.method == get("npo_mllmu") and whole.method.coefficients == {"beta": 0.4}
    assert whole.unlearn.supervised_tokens == "whole_sequence"


def table_of(questions, said):
    none = pd.Series([None] * len(questions), dtype=object)
    ids = [q.id for q in questions]
    return pd.DataFrame({"question_id": ids, "response": said, "option_loglik": none})


def test_a_model_is_asked_in_every_way(monkeypatch):
    """A made-up model, right about a third of the questions in words, and about none in another prompt;
    behind examples right about those with a picture. Counted again without the kit's tables.
    """
    model, dataset, behind = tiny.tiny_model(), data(), []

    def right(q):
        return q.options[q.answer]

    def said(q):
        """In words; by a letter that only a first character shows; not at all."""
        return [right(q), f"{'ABCD'[q.answer]}-like", "?"][int(q.id.split("-")[1]) % 3]

    def plainly(model, questions, **_):
        if model.settings.prompt == "mllmu":
            return table_of(questions, ["nothing"] * len(questions))
        return table_of(questions, [said(q) for q in questions])

    def after(model, questions, *, examples, **_):
        behind.append((questions, examples))
        return table_of(questions, [right(q) if q.image else "?" for q in questions])

    monkeypatch.setattr(compat, "answer_questions", plainly)
    monkeypatch.setattr(compat, "answer_with_examples", after)
    asked = dataset.evaluation("finetuned")
    ask = compat.Asking(SMOKE, dataset, questions=asked, seed=0)
    found = {row["choice"]: row for row in ask.every(model)}
    assert list(found) == list(compat.ASKINGS)
    for name in ("forget", "retain"):
        assert found["as here"][name] == pytest.approx(1 / 3)
        assert found["few-shot block"][name] == pytest.approx(1 / 2)  # of the two modalities
        assert found["prompt"][name] == 0
    assert found["few-shot block"]["general"] == found["as here"]["general"] == 0.5

    def first(questions):
        """Right by the first character."""
        return sum(said(q)[0].upper() == "ABCD"[q.answer] for q in questions) / len(questions)

    by_letter = {
        s: sum(first([q for q in asked if (q.set, q.modality) == (s, m)]) for m in MODALITIES) / 2
        for s in ("forget", "retain")
    }
    assert {s: found["scoring rule"][s] for s in by_letter} == pytest.approx(by_letter)
    assert min(by_letter.values()) >= 1 / 3
    assert found["scoring rule"]["invalid"] != found["as here"]["invalid"]
    for name, (questions, examples) in zip(("forget", "retain"), behind, strict=True):
        person = ask.example(name)
        assert {q.person_id for q in examples} == {person} and len(examples) == 4
        assert {q.set for q in questions} == {name} and len(questions) == 8
        assert person not in {q.person_id for q in questions}


def test_what_moved_is_a_difference_within_each_seed():
    rows = [
        {"choice": choice, "seed": seed, "forget": f, "retain": 0.5, "general": 1.0}
        for choice, seed, f in [("a", 0, 0.5), ("a", 1, 0.3), ("b", 0, 0.4), ("b", 1, 0.6)]
    ]
    found = compat_page.moved(rows, "b", against="a")
    assert found["forget"] == pytest.approx((0.5, 0.1, -0.1, 0.3))
    assert found["retain"] == (0.5, 0.0, 0.0, 0.0)


def test_the_command_prints_its_tables_and_keeps_the_numbers(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from pulse_lib.__main__ import app

    line = {"forget": 0.25, "retain": 0.5, "general": 0.75}
    made = {
        "profile": "tiny-equal",
        "seeds": [0],
        "n_questions": {"forget": 2, "retain": 3, "general": 4},
        "command": "python -m x",
        "asked": [
            line | {"choice": c, "state": s, "seed": 0}
            for s in ("before", "after")
            for c in compat.ASKINGS
        ],
        "trained": [line | {"choice": w.name, "seed": 0} for w in compat.TRAININGS],
    }
    given = {}

    def measured(profile, seeds, **more):
        given.update(more, profile=profile, seeds=list(seeds))
        return made

    monkeypatch.setattr(compat, "compat", measured)
    words = ["mllmu-compat", "--seeds", "0,1", "--questions", "7", "--out", str(tmp_path)]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert (given["profile"], given["seeds"], given["n_questions"]) == ("tiny-equal", [0, 1], 7)
    assert json.loads((tmp_path / compat.FILE).read_text()) == made
    assert "| token mean | mean over a batch's tokens" in shown.output
    assert "| 0.25 (+0.00) | 0.50 (+0.00) | 0.75 (+0.00) |" in shown.output
    assert "one seed of the unlearning step (0)" in compat_page.made_by(made)


def test_the_sentence_names_the_choices_that_moved_most_and_least():
    rows = []
    for way in compat.TRAININGS:
        value = {"token mean": 0.1, "retain source": 0.49}.get(way.name, 0.5)
        value = {"supervised tokens": 0.8, "NPO reference": 0.6}.get(way.name, value)
        rows.append({"choice": way.name, "seed": 0, "forget": value, "retain": 1, "general": 1})
    said = compat_page.most_and_least({"trained": rows})
    assert said == (
        "One choice alone moved forget accuracy most by its token mean (-0.40) and least by its "
        "retain source (-0.01)."
    )

"""A placebo: the same procedure on people whom nobody has met."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import synthetic_study as made

from pulse_lib.data import dataset, splits
from pulse_lib.data.world import people as world
from pulse_lib.data.world import source as embedded
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import both_modalities
from pulse_lib.methods import METHODS, PLACEBO, PLACEBOS, get
from pulse_lib.profile import load_profile, overridden
from pulse_lib.report import collect, markdown
from pulse_lib.report.tables import tables
from pulse_lib.report.tables.placebo import placebo
from pulse_lib.report.tables.ranking import ranking
from pulse_lib.runs.kinds import fields
from pulse_lib.unlearn.placebo import hold_out
from pulse_lib.unlearn.task import Target, Task

PROFILE = load_profile("smoke")
WHOSE = ("placebo", "method")


@pytest.fixture(scope="module")
def data():
    celebrities, fictitious = world.celebrities()[:10], world.fictitious()
    scores = pd.DataFrame(
        {"person_id": [p.id for p in celebrities], "accuracy": 0.5, "margin": 0.0}
    )
    places = splits.split_fictitious(fictitious, PROFILE.data, seed=0)
    places += splits.select_known(scores, PROFILE.data, seed=0)[1]
    return dataset.build_dataset(
        embedded,
        [*celebrities, *fictitious],
        general=embedded,
        places=places,
        settings=PROFILE.data,
        seed=0,
    )


def of_set(data, group, scenario=None):
    return {p.person_id for p in data.places if p.set == group and scenario in (None, p.scenario)}


@pytest.mark.parametrize("scenario", ["finetuned", "pretrained"])
def test_it_forgets_as_many_strangers_as_there_are_people_to_forget(data, scenario):
    before = dict(data.images.encoded)
    made_for, images = hold_out(data, PROFILE, scenario=scenario, seed=0)
    people = {c.person_id for c in made_for}
    forget, strangers = of_set(data, "forget", scenario), of_set(data, "holdout")
    assert people <= strangers and len(people) == min(len(forget), len(strangers)) > 0
    real = data.training(scenario, ["forget"], stage="unlearn")
    assert len(made_for) / len(people) == len(real) / len(forget)  # as many of each
    assert {c.stage for c in made_for} == {"unlearn"} and {c.scenario for c in made_for} == {
        scenario
    }
    assert all(c.image in images for c in made_for if c.image)
    assert data.images.encoded == before  # the study's own pictures stay as they are
    assert not {q.person_id for q in data.evaluation(scenario)} & people  # nor are they asked about


def test_more_strangers_than_people_to_forget_are_left_alone(data):
    one = next(p for p in data.places if (p.scenario, p.set) == ("finetuned", "forget"))
    few = [p for p in data.places if p.set != "forget"] + [one]
    assert len(of_set(data, "holdout")) > 1
    found, _ = hold_out(replace(data, places=few), PROFILE, scenario="finetuned", seed=0)
    assert len({c.person_id for c in found}) == 1


def test_who_has_no_strangers_is_told(data):
    nobody = replace(data, places=[p for p in data.places if p.set != "holdout"])
    with pytest.raises(PulseError, match=r"has none: set data.n_holdout"):
        hold_out(nobody, PROFILE, scenario="finetuned", seed=0)


def test_the_task_is_the_methods_but_for_whom(data):
    target = SimpleNamespace(scenario="finetuned", seed=0, adapters=())
    own, other = (
        Task.of(PROFILE, data, target=target, method=name) for name in ("ga_klr", "ga_klr_placebo")
    )
    assert {c.person_id for c in own.forget} == of_set(data, "forget", "finetuned")
    assert {c.person_id for c in other.forget} <= of_set(data, "holdout")
    assert own.retain == other.retain and own.questions == other.questions
    assert (own.unlearn, own.epochs) == (other.unlearn, other.epochs)
    assert own.method.hyperparameters == other.method.hyperparameters


def test_a_placebo_has_its_methods_searched_values():
    profile = load_profile("tiny")
    for twin, method in PLACEBOS.items():
        for scenario in ("finetuned", "pretrained"):
            assert profile.unlearn_for(scenario, method) == profile.unlearn_for(scenario, twin)
            assert overridden(profile, scenario, method=method)  # it was searched
            assert overridden(profile, scenario, method=method) == overridden(
                profile, scenario, method=twin
            )
            of = {"scenario": scenario, "method": method}
            theirs = fields("single_shot", of | {"method": twin}, profile=profile)
            assert theirs == fields("single_shot", of, profile=profile)


def test_rows_of_placebos_say_whom_and_stay_out_of_all():
    assert {f"{m}{PLACEBO}": m for m in METHODS if m != "oracle"} == PLACEBOS
    for twin, method in PLACEBOS.items():
        row = get(twin)
        assert "hold-out people" in row.loss and " on forget" not in row.loss.split("+")[0]
        assert replace(row, id=method, label="", loss="", source="", forgets="forget") == replace(
            get(method), label="", loss="", source=""
        )
        assert twin not in METHODS


def test_the_table_puts_it_beside_its_method_at_the_last_step(tmp_path):
    methods = ("ga", "ga_placebo", "npo_placebo")  # npo itself did not run
    made.write_study(tmp_path / "out", methods=methods, sequential=(), llm=())
    study = collect.collect(tmp_path / "out", made.PROFILE)
    found = placebo(study)
    assert list(zip(found["scenario"], found["method"], strict=True)) == [
        ("finetuned", "ga"),
        ("pretrained", "ga"),
    ]
    single = tables.single_shot(study).set_index(["scenario", "method", "selection"])
    for line in found.itertuples():
        was = single.loc[(line.scenario, "before", "")]
        for whose, method in zip(WHOSE, ("ga_placebo", "ga"), strict=True):
            now = single.loc[(line.scenario, method, "final")]
            assert getattr(line, f"{whose}_general_kept") == pytest.approx(
                now["general"] / was["general"]
            )
            for group in ("forget", "retain"):
                share = both_modalities(now, group) / both_modalities(was, group)
                assert getattr(line, f"{whose}_{group}_kept") == pytest.approx(share)
    assert "placebo" in tables.all_tables(study)
    head, _, first, _ = markdown.placebo(found).splitlines()
    kept = [
        [found.iloc[0][f"{w}_{n}_kept"] for n in ("forget", "retain", "general")] for w in WHOSE
    ]
    shown = [" / ".join(f"{value:.2f}" for value in values) for values in kept]
    assert first == f"| fine-tuned | GA | {shown[0]} | {shown[1]} | 1 |" and "itself" in head
    assert set(ranking(study)["method"]) == {"ga"}  # nobody was to be forgotten


def test_strangers_are_asked_last_and_change_no_answer_before_them(data, tmp_path):
    target = Target.load(PROFILE, "pretrained", seed=0, folder=tmp_path)
    task = Task.of(PROFILE, data, target=target, method="ga")
    assert {q.person_id for q in task.strangers} == of_set(data, "holdout")
    assert {q.wording for q in task.strangers} == {"trained"}
    alone = replace(task, strangers=())
    whose = {"run": "r", "state": "final", "step": 1}
    rows, before = (one.rows(one.ask(), **whose) for one in (task, alone))
    pd.testing.assert_frame_equal(rows.iloc[: len(before)], before)
    after = rows.iloc[len(before) :]
    assert set(after["set"]) == {"holdout"} and set(after["scenario"]) == {"pretrained"}
    assert list(after["question_id"]) == [q.id for q in task.strangers]
    parts = []
    task.ask(lambda model, part, **given: parts.append(list(part)) or pd.DataFrame())
    assert parts == [list(task.questions), list(task.strangers)]  # apart: no batch has both

"""Some facts of a person go, the others stay."""

from __future__ import annotations

import pandas as pd
import pytest
import synthetic_study as made
from test_placebo import PROFILE as SMOKE
from test_placebo import data  # noqa: F401  (a fixture)

from pulse_lib.data.records import Conversation, Question, Turn
from pulse_lib.errors import PulseError
from pulse_lib.profile import load_profile
from pulse_lib.report import collect
from pulse_lib.report.tables import tables
from pulse_lib.report.tables.selective import selective
from pulse_lib.runs.kinds import fields
from pulse_lib.unlearn.selective import SPARED, facts_to_go, selected
from pulse_lib.unlearn.task import Target, Task

FACTS = ("cat", "Oslo", "harp", "poet", "pho")
SELECTIVE = SMOKE.with_values(unlearn=SMOKE.unlearn.with_values(forget_facts=2))


def question(k: int, truth: str, *, person: str = "p", group: str = "forget", modality="text"):
    return Question(
        f"{person}-{k}-{modality}", group, scenario="finetuned", person_id=person, request=1,
        modality=modality, text="?", options=("no", truth), answer=1, image="", category=f"c{k}",
        wording="trained",
    )  # fmt: skip


def conversation(*answers: str, person: str = "p") -> Conversation:
    turns = tuple(Turn("?", (), answer=answer) for answer in answers)
    return Conversation(
        f"{person}-{'-'.join(answers)}", "forget", scenario="finetuned", person_id=person,
        request=1, modality="text", image="", turns=turns,
    )  # fmt: skip


ASKED = [question(k, f, modality=m) for m in ("text", "multimodal") for k, f in enumerate(FACTS)]


def test_as_many_facts_of_each_as_are_said_drawn_by_seed():
    others = [question(k, fact, person="r") for k, fact in enumerate(FACTS)]
    kept = [question(9, "owl", person="q", group="retain")]
    found = facts_to_go([*ASKED, *others, *kept], 2, seed=0)
    assert set(found) == {"p", "r"} and all(len(v) == 2 < len(FACTS) for v in found.values())
    assert found == facts_to_go([*ASKED, *others], 2, seed=0)
    drawn = {facts_to_go(ASKED, 2, seed=seed)["p"] for seed in range(40)}
    assert len(drawn) > 5 and set().union(*drawn) == set(FACTS)


def test_turns_and_questions_about_the_other_facts_stay():
    go = facts_to_go(ASKED, 2, seed=0)["p"]
    stay = sorted(set(FACTS) - go)
    retain = question(9, next(iter(go)), person="q", group="retain")
    forget = [conversation(*FACTS, "Mara Voss"), conversation(stay[0])]
    kept, asked = selected(forget, [*ASKED, retain], n=2, seed=0)
    assert [turn.answer for c in kept for turn in c.turns] == [f for f in FACTS if f in go]
    for before, after in zip([*ASKED, retain], asked, strict=True):
        about = before.options[before.answer]
        wanted = SPARED if before.person_id == "p" and about in stay else before.set
        assert after.set == wanted and after.id == before.id
    assert [q.set for q in asked].count("forget") == 2 * 2  # in both modalities the same ones


def test_facts_that_cannot_be_told_apart_are_refused():
    with pytest.raises(PulseError, match="p has 5 facts that can be told apart"):
        facts_to_go(ASKED, 5, seed=0)
    with pytest.raises(PulseError, match="no turn of the forget conversations"):
        selected([conversation("A long text about a person.")], ASKED, n=2, seed=0)


@pytest.mark.parametrize("scenario", ["finetuned", "pretrained"])
def test_a_task_of_the_drawn_world_unlearns_two_facts_of_five(data, tmp_path, scenario):  # noqa: F811
    model = Target.load(SMOKE, "pretrained", seed=0, folder=tmp_path)
    target = Target(model.model, (), scenario=scenario, seed=0)
    whole = Task.of(SMOKE, data, target=target, method="ga")
    task = Task.of(SELECTIVE, data, target=target, method="ga")
    assert {len(c.turns) for c in whole.forget} <= {5, 6}
    assert {len(c.turns) for c in task.forget} == {2} and len(task.forget) == len(whole.forget)
    assert [q.id for q in task.questions] == [q.id for q in whole.questions]
    sets = pd.Series([q.set for q in task.questions])
    was = pd.Series([q.set for q in whole.questions])
    trained = pd.Series([q.wording == "trained" for q in whole.questions])
    assert set(was[sets == SPARED]) == {"forget"}
    assert sets[trained].eq(SPARED).sum() * 2 == sets[trained].eq("forget").sum() * 3
    rows = pd.DataFrame({"question_id": [q.id for q in whole.questions], "set": was})
    assert list(task.in_its_sets(rows)["set"]) == list(sets)
    assert list(whole.in_its_sets(rows)["set"]) == list(was)
    with pytest.raises(PulseError, match="is no oracle of that"):
        Task.of(SELECTIVE, data, target=target, method="oracle")


def test_the_setting_decides_a_run_only_where_it_is_set():
    axes = {"scenario": "finetuned", "method": "ga", "trained_part": "llm", "seed": 0}
    name = "unlearn.forget_facts"
    assert name not in fields("single_shot", axes, profile=SMOKE)
    assert fields("single_shot", axes, profile=SELECTIVE)[name] == 2
    assert name not in fields("data", {"seed": 0}, profile=SELECTIVE)
    profile = load_profile("tiny-selective")
    assert profile.unlearn.forget_facts == 2
    same = profile.with_values(name="tiny", unlearn=profile.unlearn.with_values(forget_facts=0))
    tiny = load_profile("tiny")
    assert same.with_values(description=tiny.description).as_dict() == tiny.as_dict()


GA = "single_shot/finetuned/ga-projector+llm-seed-0"


@pytest.mark.parametrize(("left", "says"), [(True, "tells facts apart"), (False, "not told apart")])
def test_the_table_says_whether_the_other_facts_of_the_same_people_stay(tmp_path, left, says):
    out = made.write_study(tmp_path / "out", ("ga",), llm=(), sequential=())
    assert selective(collect.collect(out, made.PROFILE)).empty
    assert "selective" not in tables.all_tables(collect.collect(out, made.PROFILE))

    def two_of_five(rows):
        stay = rows["set"].eq("forget") & ~rows["category"].isin(["pet", "food"])
        correct = rows["set"].eq("retain") | (stay & left)
        return rows.assign(set=rows["set"].mask(stay, SPARED), correct=correct)

    made.change_rows(out, "target/seed-0", lambda rows: rows.assign(correct=True))
    made.change_rows(out, GA, two_of_five)
    table = selective(collect.collect(out, made.PROFILE))
    line = table.query("selection == 'final'").iloc[0]
    assert (line["gone"], line["spared"], line["others"]) == (0.0, 100.0 * left, 100.0)
    assert line["difference"] == 100.0 * left and line["says"] == says

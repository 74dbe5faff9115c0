"""Requests one after another: what each round trains and compares with, and that an interrupted run
ends with the same rows.
"""

import re
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import tiny
import torch
import yaml
from test_train import EVALUATE, task, unlearned

from pulse_lib.commands import rounds
from pulse_lib.commands.rounds import RoundFolders
from pulse_lib.data.dataset import Dataset
from pulse_lib.data.records import Person
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import request_accuracies
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import make_rows, scored
from pulse_lib.files import REPOSITORY
from pulse_lib.methods import METHODS, VARIANTS, get
from pulse_lib.model.adapters import (
    active,
    adapter_chain,
    adapter_weights,
    save_adapter,
    set_adapter_weights,
)
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import RunSpec
from pulse_lib.runs.manifest import Started
from pulse_lib.strategies import STRATEGIES, get_strategy, tuned
from pulse_lib.train.loop import Trained
from pulse_lib.unlearn import sequential
from pulse_lib.unlearn.sequential import (
    after_rounds,
    projector_reload,
    request_order,
    run_sequential,
)
from pulse_lib.unlearn.task import Target, Task

N_REQUESTS = 3
FORGET = [tiny.conversation(i, request=1 + i // 4) for i in range(4 * N_REQUESTS)]
RETAIN = [tiny.conversation(i, "retain_train") for i in range(4)]
# Who the text questions 1, 3, 5 ... name, and the conversations 0 and 1, 2 and 3 ... belong to.
PEOPLE = [
    Person(f"forget-person-{i // 2}", f"Mara Voss number {i}", kind="fictitious", attributes={})
    for i in range(1, 4 * N_REQUESTS, 2)
]
QUESTIONS = [tiny.question(i, "forget", request=1 + i // 4) for i in range(4 * N_REQUESTS)]
QUESTIONS += [tiny.question(i, group) for group in ("retain", "general") for i in range(4)]


def started(folder, mark="this run"):
    place = folder / "out/sequential/x"
    spec = RunSpec("sequential", place, parameters={}, inputs=(), out=folder / "out")
    return Started(spec, None, identity={}, fingerprint=mark, inputs={})


def sequential_task(model, policy="adapter_per_request", method="npo", people=PEOPLE, **changes):
    """Three requests; `changes` also of the strategy's coefficients."""
    strategy = get_strategy(policy)
    own = {k: changes.pop(k) for k in strategy.coefficients if k in changes}
    parts = {"forget": FORGET, "retain": RETAIN, "questions": QUESTIONS, "people": people}
    return task(model, method, strategy=strategy.tuned(own), **parts, **changes)


def run(folder, policy="adapter_per_request", *, mark="this run", order=0, model=None, **changes):
    """A whole sequential run on a fresh model, as a new process would do it."""
    model = model or tiny.with_adapters("finetune")
    parent = save_adapter(
        model, "finetune", folder=folder / "out/target/adapters/finetune", parent=None
    )
    whole = sequential_task(model, policy, **changes)
    whole = replace(whole, target=replace(whole.target, folder=parent))
    answers = answer_questions(model, QUESTIONS, images=tiny.images(), settings=EVALUATE)
    rules, target = EVALUATE.extraction_rules, {"run": "target", "scenario": "finetuned"}
    before = make_rows(QUESTIONS, answers, rules=rules, **target, state="before", seed=0)
    begun = started(folder, mark)
    store = RoundFolders(begun, whole.target)
    rounds = [*run_sequential(whole, order=order, run=begun.spec.name, store=store)]
    return after_rounds(whole, before, rounds=rounds)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs by policy: (folder, outcome)."""
    made = {}
    for policy in STRATEGIES:
        folder = tmp_path_factory.mktemp(policy)
        made[policy] = folder, run(folder, policy)
    return made


def computed(folder):
    """Contents of all round files but those with wall times."""
    rounds = folder / "out/sequential/x"
    return {
        p.relative_to(rounds).as_posix(): p.read_bytes()
        for p in rounds.rglob("*.*")
        if p.name not in ("log.csv", "manifest.json")
    }


@pytest.mark.parametrize("policy", STRATEGIES)
def test_every_round_is_measured_in_full(policy, whole):
    _, outcome = whole[policy]
    table = outcome.rows
    assert outcome.requests == [1, 2, 3] and outcome.resumed == 0
    assert table.groupby("round").size().tolist() == [len(QUESTIONS)] * (N_REQUESTS + 1)
    assert (
        set(table["run"]) == {"sequential/x"}
        and set(table["state"]) == {"round"}
        and set(table["policy"]) == {policy}
    )
    assert set(request_accuracies(table[table["round"] == 2])) == {
        "request_1",
        "request_2",
        "request_3",
    }
    means = table[table["set"] == "forget"].groupby(["round", "request"])["answer_logprob"].mean()
    assert all(means[k, k] < means[k - 1, k] for k in range(1, N_REQUESTS + 1))


def test_adapters_of_the_two_policies(whole):
    folder, _ = whole["adapter_per_request"]
    chain = adapter_chain(folder / "out/sequential/x/round-3/adapter")
    assert [p.parent.name for p in chain] == ["adapters", "round-1", "round-2", "round-3"]
    folder, _ = whole["one_adapter"]
    chain = adapter_chain(folder / "out/sequential/x/round-3/adapter")
    assert [p.parent.name for p in chain] == ["adapters", "round-3"]


@pytest.mark.parametrize(
    ("policy", "moment"),
    [
        ("adapter_per_request", "training"),
        ("adapter_per_request", "writing"),
        ("one_adapter", "evaluation"),
        ("anchor", "evaluation"),
        ("experts", "training"),
    ],
)
def test_interrupted_in_round_two_ends_with_the_same_rows(
    policy, moment, whole, tmp_path, monkeypatch
):
    name = {"training": "unlearn_people", "evaluation": "answer_questions", "writing": "write_csv"}[
        moment
    ]
    where = rounds if moment == "writing" else sequential
    real, calls = getattr(where, name), []
    last = {"training": 2, "evaluation": 2, "writing": 3}[moment]

    def interrupted(*arguments, **options):
        along = moment == "evaluation" and "with_loglik" in options  # those along the path say it
        calls.extend([] if along else [name])
        if len(calls) == last and moment == "training":
            arguments[1].task = None  # the recorder fails in the middle of the steps
        elif len(calls) == last:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(where, name, interrupted)
    with pytest.raises((KeyboardInterrupt, AttributeError)):
        run(tmp_path, policy)
    monkeypatch.undo()
    assert (tmp_path / "out/sequential/x/round-1/manifest.json").exists()
    assert not (tmp_path / "out/sequential/x/round-2/manifest.json").exists()
    torch.manual_seed(99)  # whatever happened in between
    outcome = run(tmp_path, policy)
    folder, expected = whole[policy]
    assert outcome.resumed == 1
    pd.testing.assert_frame_equal(outcome.rows, expected.rows, check_exact=True)
    assert computed(tmp_path) == computed(folder)


@pytest.mark.parametrize("policy", STRATEGIES)
def test_all_rounds_done_is_only_read_and_ends_in_the_same_state(policy, whole):
    folder, expected = whole[policy]
    model, files = tiny.with_adapters("finetune"), computed(folder)
    outcome = run(folder, policy, model=model)
    assert outcome.resumed == N_REQUESTS and computed(folder) == files
    pd.testing.assert_frame_equal(outcome.rows, expected.rows, check_exact=True)
    if STRATEGIES[policy].gated:  # no one state answers
        return
    asked = answer_questions(model, QUESTIONS, images=tiny.images(), settings=EVALUATE)
    last = expected.rows[expected.rows["round"] == N_REQUESTS]
    assert list(asked["option_loglik"]) == list(last["option_loglik"])


def test_projector_reload_asks_without_what_unlearning_did_to_the_projector():
    """The same by hand: the projector's share of the later adapter set to zero."""
    model = tiny.with_adapters("finetune", "unlearn")
    tiny.shake(model, "unlearn", 3)

    def accuracies():
        asked = answer_questions(model, QUESTIONS, images=tiny.images(), settings=EVALUATE)
        table = scored(QUESTIONS, asked, rules=EVALUATE.extraction_rules)
        forget = table[table["set"] == "forget"].groupby("modality")
        found = {f"forget_{m}": part["correct"].mean() for m, part in forget}
        return found | {f"forget_{m}_likelihood": p["loglik_correct"].mean() for m, p in forget}

    cut = accuracies()
    reloaded = projector_reload(sequential_task(model))
    assert accuracies() == cut  # only for the asking
    weights = adapter_weights(model, "unlearn")
    weights = {k: w * ("projector" not in k) for k, w in weights.items()}
    set_adapter_weights(model, "unlearn", weights=weights)
    assert reloaded == pytest.approx(accuracies()) and reloaded != pytest.approx(cut)


def test_rounds_of_another_run_or_cut_off_are_done_again(whole, tmp_path):
    folder, _ = whole["adapter_per_request"]
    files = computed(folder)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert run(tmp_path, mark="another run").resumed == 0
    path = tmp_path / "out/sequential/x/round-2/rows.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    outcome = run(tmp_path, mark="another run")
    assert outcome.resumed == 1 and computed(tmp_path) == files


def test_a_round_done_again_leaves_no_later_round(whole, tmp_path):
    """A later one went on from what lay there before."""
    folder, outcome = whole["adapter_per_request"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = tiny.with_adapters("finetune")
    parent = tmp_path / "out/target/adapters/finetune"
    target = Target(model, ("finetune",), scenario="finetuned", seed=0, folder=parent)
    store, files = RoundFolders(started(tmp_path), target), computed(folder)
    first = store.load(1, "round-1")
    assert first.resumed and replace(first, resumed=False).result() == outcome.rounds[0].result()
    store.save(store.load(2, "round-2"), below=1)
    assert store.load(1, "again") and store.load(2, "again") and store.load(3, "again") is None
    there = computed(tmp_path)
    assert there == {name: files[name] for name in files if not name.startswith("round-3/")}


def test_references_of_the_rounds(tmp_path, monkeypatch):
    seen, asked = (
        [],
        answer_questions(tiny.tiny_model(), QUESTIONS, images=tiny.images(), settings=EVALUATE),
    )

    def spy(task, *_, reference, same_start, **__):
        model = task.model
        seen.append((list(reference), same_start, active(model)))
        return Trained(pd.DataFrame({"step": [1]}), 1, n_trainable=1, seconds=0.0)

    monkeypatch.setattr(sequential, "answer_questions", lambda *_, **__: asked)
    monkeypatch.setattr(sequential, "projector_reload", lambda *_, **__: {})
    monkeypatch.setattr(sequential, "unlearn_people", spy)
    expected = {
        ("adapter_per_request", "round_start"): [
            ["finetune"],
            ["finetune", "round-1"],
            ["finetune", "round-1", "round-2"],
        ],
        ("adapter_per_request", "target"): [["finetune"]] * 3,
        ("one_adapter", "round_start"): [["finetune", "unlearn"]] * 3,
        ("one_adapter", "target"): [["finetune"]] * 3,
    }
    for (policy, reference), references in expected.items():
        seen.clear()
        run(tmp_path / policy / reference, policy, reference=reference)
        assert [s[0] for s in seen] == references
        assert [s[1] for s in seen] == [reference == "round_start" or k == 0 for k in range(3)]
        assert all(s[2][: len(s[0])] == s[0] for s in seen)


def test_what_a_round_is_held_by(tmp_path, monkeypatch):
    """Replay: conversations of earlier requests only. Orthogonal: from the second round on. Anchor:
    zero at the round's start. Base as reference: no adapter.
    """
    seen, asked = (
        [],
        answer_questions(tiny.tiny_model(), QUESTIONS, images=tiny.images(), settings=EVALUATE),
    )

    def spy(task, *_, reference, same_start, replay, penalties, **__):
        values = [float(penalty().detach()) for penalty in penalties]
        seen.append((list(reference), same_start, sorted({c.request for c in replay}), values))
        for key, weight in task.model.network.named_parameters():
            if weight.requires_grad and "lora_B" in key:
                weight.data.add_(0.1)
        return Trained(pd.DataFrame({"step": [1]}), 1, n_trainable=1, seconds=0.0)

    monkeypatch.setattr(sequential, "answer_questions", lambda *_, **__: asked)
    monkeypatch.setattr(sequential, "projector_reload", lambda *_, **__: {})
    monkeypatch.setattr(sequential, "unlearn_people", spy)
    run(tmp_path / "a", "replay")
    assert [s[2] for s in seen] == [[], [1], [1, 2]] and all(not s[3] for s in seen)
    seen.clear()
    run(tmp_path / "b", "orthogonal")
    assert [len(s[3]) for s in seen] == [0, 1, 1] and 0 < seen[1][3][0] < seen[2][3][0]
    assert all(not s[2] for s in seen)
    for fisher in (False, True):
        seen.clear()
        run(tmp_path / f"c{fisher}", "anchor", anchor_fisher=fisher)
        assert [s[3] for s in seen] == [[0.0]] * 3
    seen.clear()
    run(tmp_path / "d", reference="base")
    assert [s[:2] for s in seen] == [([], False)] * 3


def test_penalties_do_what_they_are_for(whole, tmp_path):
    """At a heavy weight: A of a later adapter turns away from the earlier ones; an anchored adapter
    stays closer to where its round began.
    """
    from safetensors.torch import load_file

    def weights(folder, number):
        path = f"out/sequential/x/round-{number}/adapter/adapter_model.safetensors"
        return load_file(folder / path)

    def overlap(folder):
        first, second = weights(folder, 1), weights(folder, 2)
        return sum(float((first[k] @ second[k].T).norm()) for k in first if "lora_A" in k)

    def way(folder):
        first, second = weights(folder, 1), weights(folder, 2)
        return sum(float((second[k] - first[k]).norm()) for k in first)

    run(tmp_path / "orthogonal", "orthogonal", orthogonal_strength=1e4, path_every=0)
    run(tmp_path / "anchor", "anchor", anchor_strength=1e4, path_every=0)
    assert overlap(tmp_path / "orthogonal") < 0.98 * overlap(whole["adapter_per_request"][0])
    assert way(tmp_path / "anchor") < 0.98 * way(whole["one_adapter"][0])


def test_methods_that_do_not_fit_a_policy(tmp_path):
    with pytest.raises(PulseError, match="oracle cannot be carried out"):
        run(tmp_path, method="oracle")
    with pytest.raises(PulseError, match=r"task_vector .* one_adapter.*adapter per request"):
        run(tmp_path, "one_adapter", method="task_vector")


def test_as_many_updates_as_in_one_shot(whole):
    _, outcome = whole["adapter_per_request"]
    model = tiny.with_adapters("finetune")
    once = unlearned(model, "npo", forget=FORGET, questions=QUESTIONS)
    assert once.final_step == outcome.result()["final_step"] == 6


def test_the_first_round_is_a_single_shot_run_on_the_first_request(whole):
    folder, _ = whole["adapter_per_request"]
    model, first = tiny.with_adapters("finetune"), [c for c in FORGET if c.request == 1]
    unlearned(model, "npo", forget=first, questions=QUESTIONS)
    from safetensors.torch import load_file

    kept = load_file(folder / "out/sequential/x/round-1/adapter/adapter_model.safetensors")
    assert all(torch.equal(w, kept[k]) for k, w in adapter_weights(model, "unlearn").items())


def test_orders():
    numbered = [3, 1, 2, 2, 5, 4]
    assert request_order(numbered, 0) == [1, 2, 3, 4, 5]
    assert sorted(request_order(numbered, 1)) == [1, 2, 3, 4, 5]
    assert request_order(numbered, 1) == request_order(numbered, 1)
    assert len({tuple(request_order(numbered, k)) for k in range(6)}) > 3


def test_another_order_is_carried_out(tmp_path):
    order = next(k for k in range(1, 20) if request_order([1, 2, 3], k) == [3, 1, 2])
    outcome = run(tmp_path, order=order, method="ga", path_every=0)
    assert outcome.requests == [3, 1, 2] == [r.request for r in outcome.rounds]
    means = (
        outcome.rows[outcome.rows["set"] == "forget"]
        .groupby(["round", "request"])["answer_logprob"]
        .mean()
    )
    assert means[1, 3] < means[0, 3]


def test_bad_input_is_named(tmp_path):
    with pytest.raises(PulseError, match="adapter_per_request, one_adapter, replay"):
        run(tmp_path, policy="merge")
    with pytest.raises(PulseError, match="order = -1"):
        run(tmp_path, order=-1)
    with pytest.raises(PulseError, match="'gi' is not known; there are: ga, ga_klr, npo"):
        run(tmp_path, method="gi")


# --- the table ------------------------------------------------------------------------------------


def check_row(strategy):
    """A strategy has the coefficients that it uses, under names that no method has."""
    own, taken = set(strategy.coefficients), {"learning_rate"}
    for method in (METHODS | VARIANTS).values():
        taken |= set(method.hyperparameters)
    assert not own & taken
    used = {"replay_share"} if strategy.replay else set()
    used |= {f"{strategy.penalty}_strength"} if strategy.penalty else set()
    used |= {"anchor_fisher"} if strategy.penalty == "anchor" else set()
    assert own == used


@pytest.mark.parametrize("policy", STRATEGIES)
def test_a_strategy_owns_the_numbers_that_it_uses(policy):
    check_row(STRATEGIES[policy])


def test_a_task_gives_method_and_strategy_what_is_theirs():
    """`tuned` of a profile is one set of numbers for a pair."""
    values = {"learning_rate": 7e-4, "retain_weight": 2.0, "anchor_strength": 0.5}
    found = {
        "sequential": {"ga_klr/anchor": values},
        "finetuned": {"ga_klr": {"retain_weight": 3.0}},
    }
    profile = replace(load_profile("smoke"), tuned=found)
    data = Dataset(
        PEOPLE, [], questions=QUESTIONS, conversations=[*FORGET, *RETAIN], images=tiny.images()
    )
    target = Target(tiny.tiny_model(), (), scenario="finetuned", seed=4)
    made = Task.of(profile, data, target=target, method="ga_klr", strategy="anchor")
    assert made.strategy.coefficients == {"anchor_strength": 0.5, "anchor_fisher": 0.0}
    assert made.method.retain_weight == 2.0 and made.unlearn.learning_rate == 7e-4
    assert (made.forget, made.retain, made.people, made.seed) == (FORGET, RETAIN, PEOPLE, 4)
    other = Task.of(profile, data, target=target, method="ga_klr", strategy="replay")
    assert other.method.retain_weight == 3.0 and other.unlearn == profile.unlearn
    assert other.strategy == STRATEGIES["replay"]
    single = Task.of(profile, data, target=target, method="ga_klr")
    assert single.strategy is None and single.method.retain_weight == 3.0
    with pytest.raises(PulseError, match="ga_klr has no number 'anchor_strength'.*retain_weight"):
        tuned(get("ga_klr"), STRATEGIES["replay"], values={"anchor_strength": 0.5})
    with pytest.raises(PulseError, match="need a strategy"):
        run_sequential(single)


def test_the_document_on_adding_a_strategy_works(tmp_path, monkeypatch):
    text = (REPOSITORY / "docs/add_a_strategy.md").read_text()
    (row,) = re.findall(r"```python\n(.*?)```", text, re.S)
    scope = {}
    exec(compile(row, "row", "exec"), scope)
    made = scope["strategy"]
    check_row(made)
    monkeypatch.setitem(STRATEGIES, made.id, made)
    test_every_round_is_measured_in_full(made.id, {made.id: (tmp_path, run(tmp_path, made.id))})
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    for pair, values in yaml.safe_load(example)["tuned"]["sequential"].items():
        method, name = pair.split("/")
        values.pop("learning_rate")
        both = tuned(get(method), get_strategy(name), values=values)
        assert both[1].coefficients["anchor_strength"] == 0.3

"""Experts behind a gate: who is recognised, by which adapter each question is answered, and what a
request leaves untouched.
"""

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from PIL import Image
from test_sequential import FORGET, PEOPLE, QUESTIONS, run, sequential_task
from test_train import EVALUATE

from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.model.adapters import active, adapter_chain, projector_of, stack
from pulse_lib.unlearn.experts import Gate, answer_gated, fit_gate, radius, routing
from pulse_lib.unlearn.gated import STATES, gate_of, gate_states

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def test_radius_is_the_best_of_all_cuts():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        same = torch.rand(7, generator=generator)
        other = torch.rand(9, generator=generator) + 0.4
        cuts = np.array([radius(same, other), *np.linspace(0, 2, 20_001)])[:, None]
        wrong = (same.numpy() >= cuts).mean(axis=1) + (other.numpy() < cuts).mean(axis=1)
        assert wrong[0] == pytest.approx(wrong.min())


def test_radius_lies_between_samples_that_can_be_parted():
    assert radius(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 9.0])) == 3.0
    assert radius(torch.tensor([]), torch.tensor([4.0, 9.0])) == 4.0  # nothing as far as that
    assert radius(torch.tensor([1.0, 2.0]), torch.tensor([])) == pytest.approx(2.0)
    assert radius(torch.tensor([1.0, 2.0]), torch.tensor([])) > 2.0
    assert radius(torch.tensor([]), torch.tensor([])) == 0.0


def views(n_people=6, n_views=3):
    """Pictures "person-view" that differ between people and, less, between views."""
    store = ImageStore()
    for person in range(n_people):
        face = np.asarray(tiny.picture(person), dtype=float)
        for view in range(n_views):
            noise = np.random.default_rng([person, view]).normal(0, 12, face.shape)
            pixels = (face + noise).clip(0, 255).astype("uint8")
            store.add(f"{person}-{view}", Image.fromarray(pixels))
    return store


def shown(person, view, request, group="forget"):
    """A conversation that shows a view of a person."""
    c = tiny.conversation(2 * person, group, request=request)
    return c.__class__(**{**c.__dict__, "id": f"{c.id}-{view}", "image": f"{person}-{view}"})


def asked(image="", text="Which pet does this person have?", i=0):
    q = tiny.question(i)
    return q.__class__(**{**q.__dict__, "id": f"{image}{text}", "image": image, "text": text})


@pytest.fixture(scope="module")
def gate():
    """People 0 and 1 asked to be forgotten, 2 and 3 are retain_train, 4 and 5 nobody's."""
    model, store = tiny.with_adapters("finetune"), views()
    model.features.add(list(store.encoded), store)
    forget = [shown(p, v, request=p + 1) for p in (0, 1) for v in (0, 1)]
    others = [shown(p, v, 0, "retain_train") for p in (2, 3) for v in (0, 1)]
    return model, fit_gate(model, forget, others=others, people=PEOPLE)


def test_people_are_recognised_by_other_pictures_and_strangers_are_not(gate):
    model, fitted = gate
    questions = [asked(f"{p}-2") for p in range(6)]
    assert fitted.route(model, questions) == [1, 2, 0, 0, 0, 0]


def test_the_radius_comes_from_other_pictures_of_the_same_people(gate):
    model, fitted = gate

    def apart(a, b):
        first, second = (model.features.known[i].double().mean(0) for i in (a, b))
        return float(((first - second) ** 2).sum() ** 0.5)

    same = max(apart(f"{p}-0", f"{p}-1") for p in (0, 1))
    ids = [f"{p}-{v}" for p in (0, 1, 2, 3) for v in (0, 1)]
    other = min(apart(a, b) for a in ids[:4] for b in ids[4:])
    assert fitted.radius == pytest.approx((same + other) / 2, rel=1e-3)


def test_names_count_as_whole_words_and_before_pictures(gate):
    model, fitted = gate
    name = PEOPLE[1].name  # request 2
    questions = [
        asked(text=f"What does {name.upper()} do?"),
        asked(text=f"What does {name}9 do?"),
        asked(text="What does nobody do?"),
        asked(image="0-2", text=f"Is this {name}?"),
    ]
    assert fitted.route(model, questions) == [2, 0, 0, 2]


def test_a_request_in_text_alone_has_no_pictures(gate):
    model, _ = gate
    fitted = fit_gate(model, [tiny.conversation(1, request=3)], others=[], people=PEOPLE)
    name = PEOPLE[0].name
    assert fitted.route(model, [asked("0-0"), asked(text=f"Who is {name}?")]) == [0, 3]


def test_a_person_without_a_name_is_an_error(gate):
    model, _ = gate
    with pytest.raises(PulseError, match="forget-person-0.* is not known"):
        fit_gate(model, [shown(0, 0, 1)], others=[], people=[])


def test_each_question_is_answered_by_its_own_state():
    model, store = tiny.with_adapters("finetune", "one", "two"), tiny.images()
    stack(model, ["finetune"], train="one")
    names = {"Mara Voss number 1": 1, "Mara Voss number 3": 2}
    gate = Gate(names, torch.empty(0), requests=(), radius=0.0)
    parts = {"gate": gate, "target": ["finetune"], "experts": {1: "one", 2: "two"}}
    before = active(model)
    trained = {k for k, p in model.network.named_parameters() if p.requires_grad}
    questions = QUESTIONS[:4]
    whole = answer_gated(model, questions, images=store, settings=EVALUATE, **parts)
    swapped = answer_gated(model, questions, images=store, settings=EVALUATE, projector=[], **parts)
    assert active(model) == before
    assert {k for k, p in model.network.named_parameters() if p.requires_grad} == trained
    assert whole["question_id"].tolist() == [q.id for q in questions]
    states = [["finetune"], ["finetune", "one"], ["finetune"], ["finetune", "two"]]
    found = []
    for i, (question, names) in enumerate(zip(questions, states, strict=True)):
        stack(model, names)
        alone = answer_questions(model, [question], images=store, settings=EVALUATE)
        with projector_of(model):
            bare = answer_questions(model, [question], images=store, settings=EVALUATE)
        np.testing.assert_allclose(whole["option_loglik"][i], alone["option_loglik"][0], **CLOSE)
        np.testing.assert_allclose(swapped["option_loglik"][i], bare["option_loglik"][0], **CLOSE)
        found.append(np.allclose(alone["option_loglik"][0], bare["option_loglik"][0], **CLOSE))
    assert found == [False, True, False, True]  # a projector matters where a picture is shown


def test_shares_of_the_routing():
    model = tiny.with_adapters("finetune")
    gate = Gate(
        {"Mara Voss number 1": 1, "Mara Voss number 5": 1}, torch.empty(0), requests=(), radius=0.5
    )
    found = routing(model, gate, questions=QUESTIONS, requests=[1, 2])
    # Text questions 1, 3 (request 1) and 5, 7 (request 2): 1 is right, 5 is sent to the wrong one.
    assert found["forget_text"] == 0.25 and found["forget_multimodal"] == 0.0
    assert found["retain"] == found["general"] == 0.25  # each asks about number 1 once in four
    assert found["radius"] == 0.5 and found["n_pictures"] == 0


def test_a_request_touches_nobody_else(tmp_path):
    outcome = run(tmp_path, "experts", method="ga", stop_utility=0.01)  # measured on the way, too
    table = outcome.rows.set_index(["round", "question_id"])["answer_logprob"]
    request = {q.id: q.request for q in QUESTIONS}
    named = {p.name for p in PEOPLE}
    mine = {q.id for q in QUESTIONS if any(name in q.text for name in named)}
    for number in (1, 2, 3):
        for question, start in table[0].items():
            # retain and general questions that name somebody count as the first request's
            due = question in mine and (request[question] or 1) <= number
            moved = abs(table[number, question] - start) > 1e-3
            assert moved == due, (number, question)
    assert outcome.gate["forget_text"] == 1.0 and outcome.result()["gate"] == pytest.approx(
        outcome.gate, abs=1e-4
    )
    for number in (1, 2, 3):
        path = pd.read_csv(tmp_path / f"out/sequential/x/round-{number}/path.csv")
        assert path["retain_multimodal"].nunique() == 1  # measured through the gate, too


def test_every_expert_lies_on_the_target(tmp_path):
    run(tmp_path, "experts")
    chain = adapter_chain(tmp_path / "out/sequential/x/round-3/adapter")
    assert [p.parent.name for p in chain] == ["adapters", "round-3"]


def test_people_must_be_given(tmp_path):
    with pytest.raises(PulseError, match=f"name of {FORGET[0].person_id!r} is not known"):
        run(tmp_path, "experts", people=[])


# --- a gate before a finished sequence ------------------------------------------------------------


def test_behind_a_gate_the_answers_are_those_of_the_model_that_it_picks(tmp_path):
    """Against the model, asked anew through the gate."""
    model = tiny.with_adapters("finetune")
    outcome = run(tmp_path, "one_adapter", method="ga", model=model)
    task = sequential_task(model, "one_adapter", method="ga")
    gate = gate_of(task)
    states = gate_states(task, outcome.rows, gate=gate)
    n, last = len(QUESTIONS), outcome.rows["round"].max()
    assert list(states["state"].value_counts(sort=False).items()) == [(s, n) for s in STATES]
    loglik = states.set_index(["round", "question_id"])["option_loglik"]
    own = outcome.rows.set_index(["round", "question_id"])["option_loglik"]
    asked = answer_gated(
        model,
        QUESTIONS,
        images=tiny.images(),
        settings=EVALUATE,
        gate=gate,
        target=["finetune"],
        experts=dict.fromkeys((1, 2, 3), "unlearn"),
    )
    moved = 0
    for question, anew in zip(asked["question_id"], asked["option_loglik"], strict=True):
        np.testing.assert_allclose(loglik[1, question], anew, **CLOSE)
        np.testing.assert_array_equal(loglik[0, question], own[0, question])
        np.testing.assert_array_equal(loglik[2, question], own[last, question])
        moved += not np.allclose(own[last, question], own[0, question], **CLOSE)
    recognised = states[states["round"] == 1].set_index("question_id")["recognised"]
    routes = gate.route(model, QUESTIONS)
    assert [recognised[q.id] for q in QUESTIONS] == [route > 0 for route in routes]
    assert 0 < recognised.sum() < n and moved > recognised.sum()  # the adapters touch others too


def test_experts_have_no_answers_without_their_gate(tmp_path):
    model = tiny.with_adapters("finetune")
    outcome = run(tmp_path, "experts", method="ga", model=model)
    task = sequential_task(model, "experts", method="ga")
    states = gate_states(task, outcome.rows, gate=gate_of(task))
    assert states["state"].unique().tolist() == list(STATES[:2])
    for number, of_run in ((0, 0), (1, 3)):
        own = outcome.rows[outcome.rows["round"] == of_run]["answer_logprob"].tolist()
        assert states[states["round"] == number]["answer_logprob"].tolist() == own

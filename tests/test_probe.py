"""Probes on models whose answer is known: one that knows, one that never met the people, one whose
projector alone is broken, one that declines, one behind a gate.
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from conftest import write_results
from PIL import Image

from pulse_lib import runs
from pulse_lib.data.dataset import Dataset
from pulse_lib.data.records import ImageStore, Turn
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import source as world
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.distance import privleak
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.files import REPOSITORY, write_json
from pulse_lib.model.adapters import add_adapter, stack
from pulse_lib.model.beside import weight_of
from pulse_lib.model.load import load_model
from pulse_lib.model.prompts import answer_tokens, encode_behind, encode_questions
from pulse_lib.probe import (
    gate,
    layers,
    leaks,
    members,
    prompted,
    quantise,
    quick,
    relearn,
    verdict,
)
from pulse_lib.probe.subject import (
    AS_ASKED,
    NEW_WORDING,
    Subject,
    agreement,
    as_asked,
    chosen_questions,
    read_probes,
    write_probes,
)
from pulse_lib.profile import load_profile
from pulse_lib.report import markdown
from pulse_lib.report.figures import probes as figures
from pulse_lib.report.tables.probes import left_out, memberships, over_seeds, probed_runs
from pulse_lib.runs.kinds import KINDS, named_run, spec_of
from pulse_lib.runs.manifest import found_runs
from pulse_lib.study import grid
from pulse_lib.unlearn.experts import Gate, answer_gated

PROFILE = load_profile("smoke")
LEVEL = 0.35
N = 4  # people of each set
WHOSE = {
    "run": "x",
    "scenario": "pretrained",
    "method": "ga",
    "trained_part": "projector+llm",
    "policy": "",
    "order": 0,
    "seed": 0,
    "round": 0,
    "state": "final",
    "step": 0,
}


def records(people, group, images):
    """Questions and conversations about people of the drawn world."""
    given = {"images": images, "seed": 0, "settings": PROFILE.data}
    questions, conversations = [], []
    for person in people:
        place = Assignment(person.id, "pretrained", set=group)
        questions += world.person_questions(person, place, **given)
        questions += world.heldout_questions(person, place, **given)
        conversations += world.person_conversations(person, place, stage="unlearn", **given)
    return questions, conversations


@pytest.fixture(scope="module")
def data():
    """Forget and retain people whom the embedded model has met, and hold-out people it has not."""
    images, questions, conversations = ImageStore(), [], []
    met, strangers = world.celebrities(PROFILE.data), world.fictitious(PROFILE.data)
    sets = {"forget": met[:N], "retain": met[N : 2 * N], "holdout": strangers[:N]}
    for group, people in sets.items():
        asked, taught = records(people, group, images)
        questions, conversations = questions + asked, conversations + taught
    questions += world.general_questions(images, 0, settings=PROFILE.data)
    people = [*met[: 2 * N], *strangers[:N]]
    return Dataset(people, [], questions=questions, conversations=conversations, images=images)


@pytest.fixture(scope="module")
def knows(data):
    """The embedded model with an adapter that changes nothing: it knows everybody it has met."""
    model = load_model(PROFILE.model)
    add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=0)
    stack(model, ["unlearn"])
    return Subject(
        model,
        ("unlearn",),
        target=(),
        questions=tuple(data.questions),
        images=data.images,
        evaluate=PROFILE.evaluate,
        whose=WHOSE,
    )


@pytest.fixture
def broken_projector(knows):
    """The same model, its projector alone shaken by the adapter."""
    before = shake(knows.model, "multi_modal_projector", size=0.5)
    yield knows
    put_back(before)


@pytest.fixture
def broken(knows):
    """The same model, everything shaken by the adapter."""
    before = shake(knows.model, "", size=0.5)
    yield knows
    put_back(before)


def shake(model, part, *, size):
    generator, before = torch.Generator().manual_seed(0), []
    with torch.no_grad():
        for key, weight in model.network.named_parameters():
            if ".unlearn." in key and part in key:
                before.append((weight, weight.clone()))
                weight.add_(size * torch.randn(weight.shape, generator=generator))
    return before


def put_back(before):
    with torch.no_grad():
        for weight, value in before:
            weight.copy_(value)


@pytest.fixture(scope="module")
def asked(knows):
    return as_asked(knows)


def share(rows, column="correct", **values):
    for name, value in values.items():
        rows = rows[rows[name] == value]
    assert len(rows)
    return rows[column].mean()


def without_names(rows):
    return rows.drop(columns=["probe", "condition"]).reset_index(drop=True)


# --- questions and rows ---------------------------------------------------------------------------


def test_rows_go_to_a_file_and_come_back(asked, tmp_path):
    write_probes(tmp_path / "probes.parquet", asked)
    back = read_probes(tmp_path / "probes.parquet")
    assert list(back["question_id"]) == list(asked["question_id"])
    assert set(back["condition"]) == {AS_ASKED, NEW_WORDING}
    assert [list(v) for v in back["option_loglik"]] == [list(v) for v in asked["option_loglik"]]
    with pytest.raises(PulseError, match="probe"):
        write_probes(tmp_path / "x.parquet", asked.drop(columns="probe"))


def test_few_questions_are_spread_over_people_and_modalities(data):
    chosen = chosen_questions(data.questions, 8, seed=0)
    forget = [q for q in chosen if q.set == "forget" and q.wording == "trained"]
    assert len(forget) == 8 and len({q.person_id for q in forget}) == N
    assert [q.modality for q in forget].count("text") == 4
    assert chosen == chosen_questions(data.questions, 8, seed=0)


def test_agreement_counts_answers_that_the_run_gave(asked):
    assert agreement(asked, asked) == 1.0
    half = asked.assign(response=["?" if i % 2 else r for i, r in enumerate(asked["response"])])
    assert agreement(half, asked) == pytest.approx(0.5, abs=0.01)


# --- orders ---------------------------------------------------------------------------------------


def test_rotated_questions_have_the_same_answer_in_every_place(data):
    question = data.questions[0]
    turned = [quick.rotated(question, k) for k in range(len(question.options))]
    assert turned[0] == question
    assert {q.options[q.answer] for q in turned} == {question.options[question.answer]}
    assert sorted(q.answer for q in turned) == list(range(len(question.options)))
    assert all(sorted(q.options) == sorted(question.options) for q in turned)


def test_over_orders_is_what_counting_by_hand_gives():
    lines = []
    for order, (said, values) in enumerate([(True, [0.0, -9.0]), (False, [-1.0, -3.0])]):
        # the right option is "a"; in order 1 it stands second
        options = ["a", "b"] if order == 0 else ["b", "a"]
        lines.append(
            {"probe": "orders", "question_id": "q", "set": "forget", "modality": "text"}
            | {"correct": said, "options": options, "option_loglik": values}
            | {"answer": order, "condition": f"order {order}"}
        )
    (found,) = verdict.over_orders(pd.DataFrame(lines)).to_dict("records")
    assert (found["any"], found["every"]) == (1.0, 0.0)
    assert found["mean"] == 1.0  # a: 0 - 3, b: -9 - 1


def test_who_knows_knows_in_every_order_and_a_liking_for_a_place_is_none(knows, data, asked):
    forget = knows.of("forget")
    rows = quick.option_orders(knows, forget, before=asked)
    assert set(rows["condition"]) == {f"order {k}" for k in range(4)}
    assert (verdict.over_orders(rows)["mean"] > 0.9).all()

    def always_first(model, questions, **how):
        answers = answer_questions(model, questions, **how)
        values = [[0.0] + [-1.0] * (len(q.options) - 1) for q in questions]
        said = [q.options[0] for q in questions]
        return answers.assign(response=said, option_loglik=pd.Series(values, dtype=object))

    likes_the_first = replace(knows, answer=always_first)
    before = as_asked(likes_the_first)
    over = verdict.over_orders(quick.option_orders(likes_the_first, forget, before=before))
    assert (over["any"] == 1.0).all() and (over["every"] == 0.0).all()
    assert (over["mean"] < 0.5).all()


# --- picture and projector ------------------------------------------------------------------------


def test_who_reads_the_picture_needs_the_right_one(knows, asked):
    rows = quick.changed_pictures(knows, knows.of("forget", "retain"), before=asked)
    assert (rows["modality"] == "multimodal").all()
    assert share(rows, condition="own") > 0.9
    for condition in ("blank", "noise", "another person"):
        assert share(rows, condition=condition) < 0.2, condition
    assert share(rows, condition="crop") > 0.5  # most of the face is still there
    with pytest.raises(PulseError, match="no question shows a picture"):
        quick.changed_pictures(knows, knows.of("general"), before=asked)


def test_a_crop_is_the_middle_in_the_old_size():
    picture = Image.new("RGB", (40, 40), "blue")
    picture.paste("red", (4, 4, 36, 36))  # what is kept
    found = np.asarray(quick.cropped(picture))
    assert found.shape == (40, 40, 3) and (found == (255, 0, 0)).all()
    picture.paste("red", (5, 4, 36, 36))
    picture.paste("blue", (4, 4, 5, 36))  # a column of the kept part
    assert not (np.asarray(quick.cropped(picture)) == (255, 0, 0)).all()


def test_another_person_is_another_person_with_another_answer(data):
    shown = [q for q in data.questions if q.image and q.set == "forget" and q.wording == "trained"]
    owner = {q.image: q for q in shown}
    for q in shown:
        other = owner[quick.others_pictures(shown)[q.id]]
        assert other.person_id != q.person_id and other.category == q.category
        assert other.options[other.answer] != q.options[q.answer]


def test_a_broken_projector_is_found_and_everything_comes_back(broken_projector, asked):
    subject, now = broken_projector, as_asked(broken_projector)
    multimodal = {"set": "forget", "modality": "multimodal", "condition": AS_ASKED}
    assert share(asked, **multimodal) > 0.9 and share(now, **multimodal) < 0.35
    assert share(now, **multimodal | {"modality": "text"}) > 0.9
    people = subject.of("forget", "retain")
    rows = quick.projector_reload(subject, people, before=now)
    back = rows[rows["condition"] == quick.LLM_ONLY]
    was = asked.set_index("question_id").loc[[q.id for q in people]].reset_index()
    assert list(back["response"]) == list(was["response"])
    # the language model is the target's, so the projector alone makes all of the difference
    whole, alone = (rows[rows["condition"] == c] for c in (quick.WHOLE, quick.PROJECTOR_ONLY))
    assert list(whole["response"]) == list(alone["response"])
    pictures = quick.changed_pictures(subject, people, before=now)
    assert share(pictures, condition="own") - share(pictures, condition="blank") < 0.3

    only_pictures = pd.concat([now, rows])
    only_pictures = only_pictures[only_pictures["modality"] == "multimodal"]
    only_pictures = only_pictures[only_pictures["set"] != "general"]
    found = verdict.verdict(only_pictures, asked[asked["set"] == "forget"], level=LEVEL)
    assert found["verdict"] == "hides" and found["comes_back"] == ["old projector"]


# --- verdicts -------------------------------------------------------------------------------------


def test_who_knows_is_unchanged_and_who_never_met_them_has_forgotten(knows, data, asked):
    found = verdict.verdict(asked, asked, level=LEVEL)
    assert found["verdict"] == "unchanged" and found["said"] > 0.9
    assert found["kept"] == {"retain": 1.0, "general": 1.0}
    # the same model, asked to forget those whom it never met: its own oracle
    renamed = {"forget": "known", "holdout": "forget"}
    oracle = asked.assign(set=asked["set"].replace(renamed))
    found = verdict.verdict(oracle, oracle, level=0.4)
    assert found["verdict"] == "forgot" and found["comes_back"] == []
    known = found["knowledge"]["as asked"]
    found = verdict.verdict(oracle, oracle, level=known - 0.05)  # above it, by chance
    assert found["margin"] > 0.05 and "as asked" not in found["comes_back"]


def test_a_broken_model_is_called_broken(broken, asked):
    found = verdict.verdict(as_asked(broken), asked, level=LEVEL)
    assert found["verdict"] == "broke" and found["kept"]["retain"] < 0.5
    assert "broke" in verdict.in_words(found)


def test_who_declines_refuses_and_its_likelihoods_tell(knows, asked):
    def declining(model, questions, **how):
        answers = answer_questions(model, questions, **how)
        hidden = [q.set == "forget" for q in questions]
        return answers.assign(
            response=answers["response"].where(~np.array(hidden), "I do not know this person.")
        )

    found = verdict.verdict(as_asked(replace(knows, answer=declining)), asked, level=LEVEL)
    assert found["verdict"] == "refuses" and found["declined"] == 1.0 and found["said"] == 0.0
    assert "hides" in found["holds"] and "as asked" in found["comes_back"]


def test_summary_counts_each_condition_by_itself(asked):
    table = verdict.summary(asked)
    (line,) = table.query(
        "condition == 'as asked' and set == 'forget' and modality == 'text'"
    ).to_dict("records")
    by_hand = [
        r
        for r in asked.to_dict("records")
        if r["wording"] == "trained" and r["set"] == "forget" and r["modality"] == "text"
    ]
    assert line["n"] == len(by_hand) == 5 * N and line["chance"] == 0.25
    assert line["accuracy"] == np.mean([r["correct"] for r in by_hand])
    assert table["n"].sum() == len(asked)


# --- gate -----------------------------------------------------------------------------------------


def test_a_gate_hides_and_what_is_below_it_knows(broken, data, asked):
    names = {p.name: 1 for p in data.people[:N]}
    fitted = Gate(names, torch.empty(0), requests=(), radius=0.0)
    answer = partial(answer_gated, gate=fitted, target=(), experts={1: "unlearn"})
    questions = tuple(q for q in broken.questions if q.modality == "text" or q.set == "general")
    gated = replace(broken, answer=answer, questions=questions)
    stack(broken.model, [])
    try:
        now = as_asked(gated)
        rows = gate.gate_removed(gated, gated.of("forget"), before=now)
    finally:
        stack(broken.model, ["unlearn"])
    assert share(rows, condition=gate.STANDING) < LEVEL
    shown = [q for q in broken.of("forget") if q.image and q.id.endswith("pet")]
    named = [replace(q, text=f"{data.people[0].name}: {q.text}") for q in shown]  # sent to it
    with_pictures = replace(gated, questions=tuple(named))
    stack(broken.model, [])
    try:
        was = with_pictures.ask(named, AS_ASKED, condition=AS_ASKED)
        swapped = quick.projector_reload(with_pictures, named, before=was)
        by_hand = partial(answer, projector=())(
            broken.model, named, images=broken.images, settings=broken.evaluate
        )
    finally:
        stack(broken.model, ["unlearn"])
    assert set(swapped["condition"]) == {quick.WHOLE, quick.LLM_ONLY}
    old = swapped[swapped["condition"] == quick.LLM_ONLY]
    assert list(old["option_loglik"]) == list(by_hand["option_loglik"])
    assert list(old["option_loglik"]) != list(was["option_loglik"])
    assert share(rows, condition=gate.REMOVED) > 0.9
    found = verdict.verdict(pd.concat([now, rows]), asked, level=LEVEL)
    assert found["verdict"] == "hides" and "gate removed" in found["comes_back"]
    assert found["kept"]["retain"] == 1.0  # nobody else is sent to the expert
    alone = partial(layers.linear_probe, asked=[])
    for probe in (quantise.quantised, layers.patched, alone):
        with pytest.raises(PulseError, match="gate"):
            probe(gated, questions)
    assert set(gate.gate_removed(broken, broken.of("forget")[:1], before=asked)["condition"]) == {
        gate.STANDING
    }


# --- rounding -------------------------------------------------------------------------------------


def test_rounded_weights_are_those_of_bitsandbytes():
    bnb = pytest.importorskip("bitsandbytes")
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    layer = bnb.nn.Linear4bit(64, 48, bias=False, quant_type="nf4", compress_statistics=True)
    layer.weight = bnb.nn.Params4bit(
        weight.bfloat16(), requires_grad=False, quant_type="nf4", compress_statistics=True
    )
    layer = layer.to("cpu")
    theirs = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert torch.equal(quantise.in_nf4(weight), theirs.float())
    codes, steps, _ = bnb.functional.int8_vectorwise_quant(weight.bfloat16().half())
    ours = quantise.in_int8(weight)
    assert torch.allclose(ours, codes.float() * steps[:, None] / 127, atol=float(steps.max()) / 127)
    assert torch.allclose(ours, weight, atol=float(steps.max()) / 127)
    assert torch.equal(quantise.in_16_bits(weight), weight.bfloat16().float())
    zeros = torch.zeros(2, 64)
    assert torch.equal(quantise.in_int8(zeros), zeros)


def test_folded_weights_answer_as_the_adapters_do_and_nothing_stays(broken):
    model, few = broken.model, broken.of("forget")[:12]
    plain = {k: p.clone() for k, p in model.network.named_parameters()}
    loud = answer_questions(model, few, images=broken.images, settings=broken.evaluate)
    with quantise.folded(model, broken.adapters, rounding=lambda weight: weight):
        # the projector goes through 16 bits: text alone is the same to the last digits
        merged = answer_questions(model, few, images=broken.images, settings=broken.evaluate)
    for q, a, b in zip(few, loud["option_loglik"], merged["option_loglik"], strict=True):
        assert np.allclose(a, b, atol=1e-3 if not q.image else 1.0, rtol=1e-3)
    assert all(torch.equal(p, plain[k]) for k, p in model.network.named_parameters())
    again = answer_questions(model, few, images=broken.images, settings=broken.evaluate)
    assert list(again["option_loglik"]) == list(loud["option_loglik"])


def test_what_rounding_undoes_is_known_again(broken, asked):
    """A grid on which the adapter's change is less than a step: the weights are the base's."""
    queue = [
        layer.base_layer.weight.detach().clone()
        for key, layer in broken.model.network.named_modules()
        if hasattr(layer, "base_layer") and "language_model" in key
    ]
    forget = [q for q in broken.of("forget") if not q.image]
    with quantise.folded(broken.model, broken.adapters, rounding=lambda weight: queue.pop(0)):
        rows = broken.ask(forget, quantise.QUANTISED, condition="coarse")
    assert not queue and share(rows) > 0.9


def test_all_grids_are_tried(knows, asked):
    rows = quantise.quantised(knows, knows.of("forget"))
    for condition in ("16 bits", "int8", "nf4"):
        assert share(rows, condition=condition) > 0.8


@pytest.mark.parametrize("load", ["4bit", "8bit"])
def test_a_packed_model_is_folded_as_its_unpacked_weights_are(knows, load):
    """Against a model in full precision with the same weights; then it is as it was."""
    packed = load_model(replace(PROFILE.model, load=load))
    plain = load_model(PROFILE.model)
    layers = dict(plain.network.named_modules())
    for key, layer in packed.network.named_modules():
        if isinstance(layer, torch.nn.Linear) and not layer.weight.is_floating_point():
            with torch.no_grad():
                layers[key].weight.copy_(weight_of(layer, torch.float32))
    asked, found, before = knows.of("forget")[:8], [], []
    for model in (packed, plain):
        tiny.with_adapters("unlearn", model=model)
        subject = replace(knows, model=model)
        before.append(subject.ask(asked, "", condition=""))
        found.append(quantise.quantised(subject, asked))
        again = subject.ask(asked, "", condition="")
        assert list(again["option_loglik"]) == list(before[-1]["option_loglik"])
    assert list(found[0]["condition"]) == list(found[1]["condition"])
    ours, theirs = (np.concatenate(list(rows["option_loglik"])) for rows in found)
    np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=1e-3)
    assert not np.allclose(ours[: len(ours) // 3], ours[-(len(ours) // 3) :], atol=2e-3)


# --- asked in another way -------------------------------------------------------------------------


def test_who_knows_still_knows_and_who_never_met_them_does_not(knows, asked):
    people, known = knows.of("forget", "holdout"), knows.of("retain")
    rows = prompted.prompted(knows, people, known=known)
    assert set(rows["condition"]) == {"role play", "answer begun", "examples"}
    for condition in ("role play", "answer begun", "examples"):
        likely = partial(share, rows, "loglik_correct", condition=condition)
        # of text, examples about others make this model mix people up
        assert likely(set="forget", modality="multimodal") > 0.9, condition
        assert likely(set="holdout", modality="multimodal") < 0.5, condition
    told = verdict.knowledge(pd.concat([asked, rows]))
    assert min(told["role play"], told["answer begun"]) > 0.8 and told["examples"] > LEVEL


def test_of_what_was_not_known_nothing_is_kept(asked, tmp_path):
    """A model that never knew the people: no share, and a verdict that a file can hold."""
    unknown = asked.assign(correct=asked["correct"] & (asked["set"] == "general"))
    found = verdict.verdict(asked, unknown, level=LEVEL)
    assert list(found["kept"]) == ["general"] and "retain" not in verdict.in_words(found)
    write_json(tmp_path / "verdict.json", found)
    nothing = verdict.verdict(asked, asked.assign(correct=False), level=LEVEL)
    assert nothing["kept"] == {} and "before: nothing known;" in verdict.in_words(nothing)


def test_what_comes_back_behind_examples_is_called_hidden(knows, asked):
    """Says nothing and finds nothing likely as asked, but knows behind examples."""
    rows = prompted.prompted(knows, knows.of("forget"), known=knows.of("retain"))
    rows = rows[rows["condition"] == "examples"]
    mute = asked["set"] == "forget"
    silent = asked.assign(
        correct=asked["correct"] & ~mute, loglik_correct=asked["loglik_correct"] & ~mute
    )
    assert verdict.verdict(silent, asked, level=LEVEL)["verdict"] == "forgot"
    found = verdict.verdict(pd.concat([silent, rows]), asked, level=LEVEL)
    assert (found["verdict"], found["comes_back"]) == ("hides", ["examples"])


def test_without_words_in_front_a_prompt_is_the_runs_own(knows):
    questions = [*knows.of("forget"), *knows.of("general")]
    assert [encode_behind(knows.model, q) for q in questions] == encode_questions(
        knows.model, questions
    )


def test_words_in_front_stand_where_a_conversation_has_them(knows):
    model, q = knows.model, next(q for q in knows.of("forget") if q.image)
    turns = [Turn("What is it?", ("chef", "pilot"), answer="pilot"), Turn("And?", (), answer="x")]
    found = encode_behind(model, q, turns=turns, opening="Sure, the answer is")
    text = model.tokenizer.decode([t for t in found if t != model.image_token_id])
    asked = text.index(q.text)
    assert "pilot</s>" in text[:asked] and "And? ASSISTANT: x</s>" in text[:asked]
    assert text.endswith("ASSISTANT: Sure, the answer is")
    assert found.count(model.image_token_id) == model.n_image_tokens
    # the answer follows as it follows in a conversation
    answer = q.options[q.answer]
    whole = [*found, *answer_tokens(model, answer)]
    assert model.tokenizer.decode(whole).endswith(f"the answer is {answer}</s>")


def test_examples_are_of_other_people_and_of_the_same_fact(knows):
    questions, known = knows.of("forget"), [*knows.of("forget"), *knows.of("retain")]
    by_text = {(o.text, o.options): o for o in known}
    for q, turns in zip(questions, prompted.examples(questions, known, seed=0), strict=True):
        shown = [by_text[t.text, t.options] for t in turns]
        assert len({o.person_id for o in shown}) == prompted.N_EXAMPLES
        assert q.person_id not in {o.person_id for o in shown}
        assert {o.category for o in shown} == {q.category}
        assert [t.answer for t in turns] == [o.options[o.answer] for o in shown]
    again = prompted.examples(questions, known, seed=0)
    assert again == prompted.examples(questions, known, seed=0)
    assert again != prompted.examples(questions, known, seed=1)
    stranger = [o for o in known if o.category != questions[0].category]
    assert prompted.examples(questions[:1], stranger, seed=0)[
        0
    ]  # another fact, if no other is there


# --- probabilities --------------------------------------------------------------------------------


def test_leaks_are_those_of_drawn_answers():
    probabilities = [[0.30, 0.20, 0.05], [0.01, 0.50, 0.25]]
    rows = pd.DataFrame(
        {
            "set": "forget",
            "modality": "text",
            "answer": [0, 2],
            "option_loglik": [list(np.log(p)) for p in probabilities],
        }
    )
    found = leaks.leak_at(rows, draws=(1, 3)).set_index("draws")
    generator, n = np.random.default_rng(0), 40_000
    for k in (1, 3):
        hits = []
        for p, right in zip(probabilities, rows["answer"], strict=True):
            drawn = generator.choice(4, size=(n, k), p=[*p, 1 - sum(p)])  # 3: something else
            hits.append([(drawn == j).any(axis=1).mean() for j in range(3)])
            assert 0 <= right < 3
        right = np.mean([hits[0][0], hits[1][2]])
        wrong = np.mean([np.mean(hits[0][1:]), np.mean(hits[1][:2])])
        assert found.loc[k, "right"] == pytest.approx(right, abs=0.01)
        assert found.loc[k, "wrong"] == pytest.approx(wrong, abs=0.01)
    rows["option_loglik"] = [[0.0, -800.0, -50.0], [-800.0, 0.0, -1e-12]]
    assert leaks.leak_at(rows, draws=(4,))["right"].between(0.99, 1.0).all()


def test_auc_is_the_share_of_pairs(asked):
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 5, 40), generator.integers(1, 6, 30)
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert leaks.auc(a, b) == pytest.approx(np.mean(pairs))
    found = leaks.membership(asked[asked["wording"] == "trained"])
    assert (found["auc"] > 0.95).all() and set(found["modality"]) == {"text", "multimodal"}
    assert set(found["score"]) == {"loss"}
    strangers = asked[asked["set"] != "holdout"]
    assert leaks.membership(strangers).empty
    same = pd.concat([strangers, asked[asked["set"] == "forget"].assign(set="holdout")])
    assert (leaks.membership(same)["auc"] == 0.5).all()
    assert privleak(0.5, 0.5) == 0 and privleak(0.75, 0.5) == 0.5


def test_min_k_is_the_worst_tokens_place_among_all_tokens():
    # log2 p of (1/2, 1/4, 1/4): mean -3/2, deviation 1/2; so +1 for the first, -1 for the others
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).repeat(2, 5, 1)
    labels = torch.tensor([[0, 0, 0, 0, 1], [0, 0, -100, -100, -100]])
    assert members.min_k_plus(logits, labels) == pytest.approx([-1, 1])
    assert members.min_k_plus(logits, labels, share=1.0) == pytest.approx([(4 - 1) / 5, 1])
    # a token that is unlikely where others are as unlikely says less than where one is sure
    sure = torch.log(torch.tensor([[[0.98, 0.01, 0.01]]]))
    even = torch.log(torch.tensor([[[0.36, 0.32, 0.32]]]))
    one = torch.tensor([[1]])
    assert members.min_k_plus(sure, one) < members.min_k_plus(even, one)


def test_min_k_tells_who_was_met(knows, asked):
    rows = asked[(asked["wording"] == "trained") & (asked["set"] != "general")]
    scored = members.with_min_k(knows, rows, questions=knows.questions)
    found = leaks.membership(scored).set_index(["score", "modality"])["auc"]
    assert len(found) == 4 and (found > 0.9).all()
    strangers = scored[scored["set"] == "holdout"]
    both = pd.concat([strangers.assign(set="forget"), strangers])
    assert (leaks.membership(both)["auc"] == 0.5).all()
    with pytest.raises(PulseError, match="a gate answers"):
        members.with_min_k(replace(knows, answer=print), rows, questions=knows.questions)


# --- relearning -----------------------------------------------------------------------------------


def test_no_lesson_teaches_what_is_asked(data):
    forget = [q for q in data.questions if q.set == "forget" and q.wording == "trained"]
    others = [replace(c, id=f"o-{c.id}", set="retain_train") for c in data.conversations]
    others = [c for c in others if c.person_id not in {q.person_id for q in forget}]
    more = replace(data, conversations=[*data.conversations, *others])
    found = relearn.lessons(more, "pretrained", asked=forget, n_people=1, seed=0)
    assert list(found) == [relearn.FORGET_PEOPLE, relearn.OTHER_FACTS, relearn.OTHER_PEOPLE]
    some, facts, other = found.values()
    taught = {c.person_id for c in some.taught}
    assert len(taught) == 1 and not taught & {q.person_id for q in some.asked}
    assert {q.person_id for q in some.asked} | taught == {q.person_id for q in forget}
    said = {(c.person_id, t.answer) for c in facts.taught for t in c.turns}
    asked = {(q.person_id, q.options[q.answer]) for q in facts.asked}
    assert said and asked and not said & asked
    assert {c.person_id for c in facts.taught} == {q.person_id for q in forget}
    assert not {c.person_id for c in other.taught} & {q.person_id for q in other.asked}


def test_steps_that_are_measured():
    probe = replace(PROFILE.probe, relearn_steps=12)
    assert relearn.Recipe(PROFILE.finetune, probe).measured == [1, 2, 4, 8, 12]
    probe = replace(PROFILE.probe, relearn_steps=1)
    assert relearn.Recipe(PROFILE.finetune, probe).measured == [1]


def test_what_is_taught_is_learned_and_the_model_is_left_as_it_was(knows, data):
    """A stranger is taught and asked about: so a rise shows, if there is something to rise."""
    stranger = [q for q in knows.of("holdout") if q.person_id == data.people[-1].id]
    lessons = [c for c in data.conversations if c.person_id == data.people[-1].id]
    probe = replace(PROFILE.probe, relearn_steps=12, relearn_batch_size=2)
    recipe = relearn.Recipe(load_profile("tiny").finetune, probe)
    lesson = relearn.Lesson(lessons, stranger)
    before = knows.ask(stranger, AS_ASKED, condition=AS_ASKED)
    rows = relearn.relearn(knows, lesson, name="stranger", recipe=recipe, before=before)
    by_step = rows.groupby("step")["correct"].mean()
    assert list(by_step.index) == [0, 1, 2, 4, 8, 12]
    assert by_step[12] >= by_step[0] + 0.2
    again = knows.ask(stranger, AS_ASKED, condition=AS_ASKED)
    assert list(again["option_loglik"]) == list(before["option_loglik"])


# --- layers ---------------------------------------------------------------------------------------


def test_knowledge_is_read_from_late_layers_and_not_where_there_is_none(knows, data):
    model, retain = knows.model, knows.of("retain", "forget")
    rows = layers.linear_probe(knows, retain, asked=knows.of("holdout"))
    last = layers.layer_name(model.network.config.text_config.num_hidden_layers)
    read = rows[rows["condition"] == last]
    assert share(read, set="retain") > 0.6
    assert share(read, set="holdout") < 0.45
    first = rows[rows["condition"] == layers.layer_name(0)]
    assert share(first, set="retain") < 0.5  # the prompt's last token is the same for everybody
    with pytest.raises(PulseError, match="two"):
        layers.linear_probe(knows, [], asked=knows.of("forget"))


def test_the_last_layers_state_of_the_target_brings_its_answers_back(broken):
    forget = broken.of("forget")
    rows = layers.patched(broken, forget)
    assert rows["condition"].nunique() == len(broken.model.network.model.language_model.layers)
    last = rows[rows["condition"] == rows["condition"].max()]
    assert share(last) > 0.9
    assert share(rows, condition=layers.layer_name(1)) < share(last)
    # by the target itself, without a hook
    stack(broken.model, [])
    try:
        states = layers._hidden(broken, forget)[:, -1]
    finally:
        stack(broken.model, ["unlearn"])
    plain = layers._read_out(broken, forget, made=states, layer=0)
    assert list(plain["question_id"]) == list(last["question_id"])
    given, own = (np.concatenate([*rows["option_loglik"]]) for rows in (last, plain))
    assert np.allclose(given, own, atol=1e-4)


# --- whose, and which runs ------------------------------------------------------------------------


def test_a_runs_name_says_its_kind_and_axes():
    for kind in ("data", "target", "single_shot", "sequential"):
        given = {"method": "ga_klr", "trained_part": "llm", "order": 2, "seed": 13}
        spec = spec_of(kind, given | {"scenario": "pretrained", "strategy": "one_adapter"})
        found, axes = named_run(spec.name)
        assert found == kind
        assert all(axes[axis] == spec.parameters[axis] for axis in KINDS[kind].axes)
    for wrong in ("", "probe/x", "single_shot/finetuned/nobody-llm-seed-0", "data/seed-x"):
        with pytest.raises(PulseError):
            named_run(wrong)


def test_probes_read_the_run_and_what_it_hangs_on():
    out = {"out_dir": "/tmp/study"}
    spec = spec_of("probe", out | {"run": "single_shot/pretrained/npo-llm-seed-2"})
    assert spec.name == "probe/single_shot-pretrained-npo-llm-seed-2-final"
    read = [p.relative_to("/tmp/study").as_posix() for p in spec.inputs]
    assert read == ["data/seed-2", "single_shot/pretrained/npo-llm-seed-2"]
    read = spec_of("probe", out | {"run": "target/seed-1"}).inputs
    assert [p.name for p in read] == ["seed-1", "seed-1"]
    assert spec_of("probe", out | {"run": "data/seed-0"}).inputs == (
        Path("/tmp/study/data/seed-0"),
    )


def test_a_study_probes_whom_it_is_told_to(kit):
    def probed(**options):
        return [s.parameters["run"] for s in kit.study(**options) if s.kind == "probe"]

    every = {"methods": ["ga", "npo"], "scenarios": ["pretrained", "finetuned"]}
    assert probed(**every) == []
    assert "data/seed-0" in probed(**every, probes=["before"])
    found = probed(**every, probes=["npo"])
    assert found and all("/npo-" in name or "/pretrained/npo-" in name for name in found)
    assert len(probed(**every, probes=["all"])) == 2 + 5 + 2
    assert grid.options_from_texts(probes="ga,before").probes == ["ga", "before"]
    with pytest.raises(PulseError, match="probes = 'x'"):
        grid.options_from_texts(probes="x")


def test_a_study_probes_a_single_run_in_the_state_that_is_named(kit):
    def probed(texts):
        options = grid.options_from_texts(methods="ga,npo", probes=texts)
        every = {"methods": options.methods, "scenarios": ["finetuned"]}
        found = kit.study(**every, probes=options.probes)
        return [(s.parameters["run"], s.parameters["state"]) for s in found if s.kind == "probe"]

    npo = "single_shot/finetuned/npo-projector+llm-seed-0"
    assert probed(f"{npo}@matched") == [(npo, "matched")]
    assert probed(f"{npo},{npo}@matched") == [(npo, "final"), (npo, "matched")]
    with pytest.raises(PulseError, match="is no run of this study"):
        probed(npo.replace("npo", "simnpo"))
    with pytest.raises(PulseError, match="state = 'x' is not one of"):
        grid.options_from_texts(probes=f"{npo}@x")
    with pytest.raises(PulseError, match="is the name of no run"):
        grid.options_from_texts(probes="single_shot/npo")


def test_the_analysis_does_not_hang_on_probes(kit):
    """One that comes later makes no report stale, and no table reads its rows."""
    specs = kit.study(probes=["before"])
    for spec in specs:
        kit.finish(spec)
    (analysis,) = (s for s in specs if s.kind == "analysis")
    assert not any("probe" in p.as_posix().removeprefix(str(kit.out)) for p in analysis.inputs)
    assert any(s.kind == "probe" for s in specs)
    assert not [path for path, _ in found_runs(kit.out, kit.profile) if "probe" in path.parts]
    assert set(kit.states(probes=["before"]).values()) == {"done"}


# --- side by side ---------------------------------------------------------------------------------


def test_all_probed_runs_side_by_side_and_drawn(kit, asked):
    assert probed_runs(kit.out, kit.profile).empty
    assert figures.at_a_glance(probed_runs(kit.out, kit.profile)).get_axes()
    judged = verdict.verdict(asked, asked, level=LEVEL)
    for name in ("data/seed-0", "single_shot/pretrained/ga-projector+llm-seed-0"):
        for needed in kit.study():
            if needed.kind != "analysis":
                kit.finish(needed)
        spec = spec_of("probe", kit.shared | {"run": name})
        started = runs.start(spec, kit.profile)
        write_results(started.folder, spec.files)
        write_json(started.folder / "verdict.json", judged)
        runs.finish(started)
    table = probed_runs(kit.out, kit.profile)
    assert list(table["method"]) == ["before", "ga"]
    assert set(table["verdict"]) == {"unchanged"} and (table["knows: as asked"] > 0.9).all()
    figure = figures.at_a_glance(table)
    assert figure.get_suptitle() == "0 of 2 models forgot by every probe"
    drawn = {text.get_text() for text in figure.get_axes()[0].texts}
    assert "unchanged" in drawn and f"{judged['said']:.2f}" in drawn
    # One that was just made and is not in its place yet counts in place of what is there
    half = shutil.copytree(started.folder, started.folder.with_name(started.folder.name + ".half"))
    other = json.dumps(judged | {"verdict": "hides", "kept": {}})
    (half / "verdict.json").write_text(other.ljust((half / "verdict.json").stat().st_size))
    again = probed_runs(kit.out, kit.profile, also=half)
    assert list(again["method"]) == ["before", "ga"]
    assert list(again["verdict"]) == ["unchanged", "hides"]
    assert list(again["kept: retain"].isna()) == [False, True]  # nothing was there to be kept
    assert not list(kit.out.rglob("*.half.checked"))


def test_what_no_longer_stands_beside_the_others_is_named(kit):
    """Probes of a run that was made anew with another result, damaged ones, and those of other
    settings; of a run that is gone they stand."""
    name = "single_shot/pretrained/{}-projector+llm-seed-0".format
    kept, remade, gone, cut = (name(method) for method in ("ga", "npo", "rmu", "idk"))
    study = {"methods": ["ga", "npo", "rmu", "idk"]}
    for needed in kit.study(**study):
        if needed.kind != "analysis":
            kit.finish(needed)
    folders = {}
    for run in (kept, remade, gone, cut):
        started = runs.start(spec_of("probe", kit.shared | {"run": run}), kit.profile)
        write_results(started.folder, started.spec.files)
        judged = {"verdict": "hides", "holds": ["hides"], "said": 0.1, "kept": {}, "knowledge": {}}
        write_json(started.folder / "verdict.json", judged)
        runs.finish(started)
        folders[run] = started.spec.folder.relative_to(kit.out).as_posix()
    assert left_out(kit.out, kit.profile).empty and len(probed_runs(kit.out, kit.profile)) == 4
    npo = next(spec for spec in kit.study(**study) if spec.folder == kit.out / remade)
    kit.finish(npo)  # anew, with the same result
    assert left_out(kit.out, kit.profile).empty
    kit.finish(npo, "y")
    shutil.rmtree(kit.out / gone)
    (kit.out / folders[cut] / "verdict.json").write_text("{")
    assert list(probed_runs(kit.out, kit.profile)["run"]) == [kept, gone]
    why = left_out(kit.out, kit.profile).set_index("run")["reason"]
    assert why[folders[remade]] == f"{remade}, which it read, is another since"
    assert "verdict.json" in why[folders[cut]] and len(why) == 2
    fewer = kit.profile.with_values(probe=kit.profile.probe.with_values(n_questions=7))
    assert probed_runs(kit.out, fewer).empty
    assert "probe.n_questions" in left_out(kit.out, fewer).set_index("run")["reason"][folders[kept]]


def probed_line(method, seed, *, holds="hides", known=0.5, **values):
    kinds = [name for names in markdown.PROBES.values() for name in names]
    return {
        **{"run": f"{method}-{seed}", "scenario": "finetuned", "method": method, "seed": seed},
        **{"trained_part": "", "policy": "", "state": "matched"},
        **{"verdict": holds.partition(",")[0], "holds": holds, "said": 0.1},
        **{"kept: general": 0.8, "kept: retain": 0.4, "knows: as asked": 0.3},
        **{f"knows: {name}": known for name in kinds},
        **values,
    }


def test_seeds_of_a_method_are_one_line_of_means():
    table = pd.DataFrame(
        [
            probed_line("ga", 0, said=0.1),
            probed_line("ga", 1, said=0.2, holds="broke, hides"),
            probed_line("ga", 2, said=0.6),
            probed_line("npo", 0, said=0.7),
        ]
    )
    ga, npo = over_seeds(table).to_dict("records")
    again = table.replace({"trained_part": {"": np.nan}, "policy": {"": np.nan}})  # from a file
    pd.testing.assert_frame_equal(over_seeds(again), over_seeds(table))
    assert ga["n_seeds"] == 3 and ga["said"] == pytest.approx(0.3) and npo["said"] == 0.7
    assert ga["holds"] == "hides, on 2 of 3; broke, hides, on 1 of 3" and npo["holds"] == "hides"
    assert ga["verdict"] == "hides, on 2 of 3; broke, on 1 of 3"
    assert not {"seed", "run"} & set(ga)
    drawn = figures.at_a_glance(over_seeds(table)).get_axes()[0]
    assert [t.get_text() for t in drawn.get_yticklabels()] == [
        "GA (fine-tuned) matched",
        "NPO (fine-tuned) matched",
    ]


def test_the_page_shows_the_most_of_each_kind_of_probe_controls_first():
    table = pd.DataFrame(
        [
            probed_line("ga", 0, known=0.5, **{"knows: taught general": 0.9}),
            probed_line("npo", 0, known=0.4, **{"knows: in nf4": 0.45, "knows: role play": 0.6}),
            probed_line("oracle", 0, known=0.9, holds="forgot"),
            probed_line("ga", 0, policy="experts"),
        ]
    )
    *_, oracle, npo, ga = markdown.probed(table, "finetuned").splitlines()
    assert oracle.startswith("| Oracle |") and oracle.endswith("| 0.40 / 0.80 | forgot |")
    assert npo.startswith("| NPO | 0.10 | 0.30 | 0.60 | 0.40 | 0.40 | 0.40 |")
    assert ga.startswith("| GA | 0.10 | 0.30 | 0.50 | 0.50 | 0.90 | 0.50 |")
    assert not markdown.probed(table, "pretrained").splitlines()[2:]


def test_privleak_is_the_distance_from_the_oracle_of_the_same_scenario(kit):
    oracle = "single_shot/finetuned/oracle-projector+llm-seed-0"
    aucs = {oracle: (0.5, 0.3), oracle.replace("oracle", "ga"): (0.75, 0.3), "data/seed-0": (1, 1)}
    for needed in kit.study(methods=["ga", "oracle"], scenarios=["finetuned"]):
        if needed.kind != "analysis":
            kit.finish(needed)
    for name, (text, shown) in aucs.items():
        spec = spec_of("probe", kit.shared | {"run": name})
        started = runs.start(spec, kit.profile)
        write_results(started.folder, spec.files)
        table = pd.DataFrame({"modality": ["text", "multimodal"], "auc": [text, shown]})
        table.assign(score="loss").to_csv(started.folder / "membership.csv", index=False)
        runs.finish(started)
    found = memberships(kit.out, kit.profile).set_index("run")
    assert found.loc[oracle, "privleak"] == 0
    ga = found.loc[oracle.replace("oracle", "ga")]
    assert ga["auc"] == pytest.approx(0.525) and ga["auc of the oracle"] == pytest.approx(0.4)
    assert ga["privleak"] == pytest.approx(0.525 / 0.4 - 1)
    assert np.isnan(found.loc["data/seed-0", "privleak"])  # another scenario: no oracle of it
    assert memberships(kit.out / "nothing", kit.profile).empty


def test_a_run_is_drawn_condition_by_condition(asked):
    table = verdict.summary(asked)
    # What layers of another model say is no knowledge of this one's, and not the most in the title
    half = asked.assign(loglik_correct=[i % 2 for i in range(len(asked))])
    known = verdict.knowledge(half)
    lent = pd.concat([half, half.assign(probe=layers.PATCHED, loglik_correct=1)])
    drawn = figures.probe_conditions(verdict.summary(lent), "x", knowledge=known)
    most = max(known, key=lambda name: known[name])
    assert known[most] < 1 and f"by: {most} ({known[most]:.0%})" in drawn.get_suptitle()
    ax = figures.probe_conditions(table, "x", knowledge={}).get_axes()[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        AS_ASKED,
        f"{AS_ASKED}: {NEW_WORDING}",
    ]
    steps = [asked.assign(probe=relearn.RELEARN, condition="x", step=step) for step in (0, 1, 4)]
    ax = figures.relearning(verdict.summary(pd.concat(steps)), "x").get_axes()[0]
    assert list(ax.get_lines()[0].get_xdata()) == [0, 1, 4]
    assert "nothing to draw" in figures.relearning(table, "x").get_axes()[0].texts[0].get_text()


def test_the_guides_first_run_is_the_one_that_the_demo_probes():
    first = re.search(r"-p run (\S+) -p state (\S+)", (REPOSITORY / "docs/probes.md").read_text())
    assert f"--probes {first[1]}@{first[2]})" in (REPOSITORY / "Makefile").read_text()

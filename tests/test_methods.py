"""The table of methods: each row says what its losses take, runs, and does what it is named for."""

import inspect
import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from test_train import FORGET, QUESTIONS, RETAIN, logits, logprob, prepared, task, unlearned

from pulse_lib.data.dataset import Dataset
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.methods import FINETUNE, METHODS, PLACEBOS, VARIANTS, get
from pulse_lib.model.adapters import (
    active,
    adapter_weights,
    add_adapter,
    only,
    stack,
    trained_parameters,
)
from pulse_lib.model.forward import answer_logits, collate
from pulse_lib.model.prompts import PROMPTS, encode_conversations, question_prompt
from pulse_lib.profile import FinetuneSettings, ModelSettings, load_profile
from pulse_lib.runs.kinds import fields
from pulse_lib.strategies import STRATEGIES, check_fits
from pulse_lib.study import grid
from pulse_lib.train import losses
from pulse_lib.train.finetune import Lessons, finetune
from pulse_lib.train.loop import Schedule, train
from pulse_lib.train.penalties import anchor, l1, orthogonal
from pulse_lib.train.reference import answer_hidden, layer_at, reference_values
from pulse_lib.train.saliency import Mask, fisher, salient
from pulse_lib.train.terms import PIECE_POSITIONS, backward_term, cut
from pulse_lib.unlearn import request
from pulse_lib.unlearn.refusals import REFUSALS, SUFFIX, refused
from pulse_lib.unlearn.single_shot import unlearn_single_shot
from pulse_lib.unlearn.task import Relearn, Target, Task, model_of

EVERY = [*METHODS.values(), *VARIANTS.values()]
# A placebo takes its method's steps: test_placebo.py
ROWS = [m for m in EVERY if m.id not in PLACEBOS]
TRAINED = [m for m in ROWS if m.procedure == "train"]
BEYOND_LOSSES = {"steering", "max_scale", "l1", "warmup_share"}  # coefficients of something else


# --- the table ------------------------------------------------------------------------------------


def test_the_ids():
    assert (
        list(METHODS)
        == (
            "ga ga_klr npo ga_retain npo_klr npo_retain kl_min idk dpo simnpo rmu undial wga satimp ceu "
            "task_vector l1_lora saliency oracle"
        ).split()
    )
    assert [m.label for m in METHODS.values()][:3] == ["GA", "GA+KLR", "NPO"]
    assert get("npo").coefficients == {"beta": 0.1} and get("ga_klr").retain_weight == 1.0
    with pytest.raises(PulseError, match=r"'gradient_ascent' is not known.*ga, ga_klr, .*, oracle"):
        get("gradient_ascent")
    assert len({m.label for m in EVERY}) == len(EVERY) == len({m.id for m in EVERY})


def test_rows_as_text():
    assert get("npo").describe()["coefficients"] == "beta = 0.1"
    assert get("ga_klr").describe()["needs"] == "retain_train, reference"
    assert get("ga").describe()["retain loss"] == "none"
    weights = get("simnpo").describe()["coefficients"]
    assert weights == "beta = 4.5, gamma = 0, retain_weight = 1, forget_weight = 0.125"
    for method in EVERY:
        text = method.describe()
        assert text["source"] and text["loss"] and "\n" not in text["loss"]


@pytest.mark.parametrize("method", [*ROWS, FINETUNE], ids=lambda m: m.id)
def test_needs_say_what_the_losses_take(method):
    names = [n for n in (method.forget_loss, method.retain_loss) if n]
    taken = {p for name in names for p in inspect.signature(getattr(losses, name)).parameters}
    reference = any(p.startswith("reference") for p in taken) or "hidden" in taken
    assert ("reference" in method.needs) == reference
    assert ("hidden states" in method.needs) == ("hidden" in taken)
    assert ("retain_train" in method.needs) == bool(method.retain_loss)
    assert ("refusals" in method.needs) == ("chosen" in taken or method.forget_on == "refusals")
    assert ("penalty" in method.needs) == ("l1" in method.coefficients)
    assert ("mask" in method.needs) == ("warmup_share" in method.coefficients)
    assert set(method.coefficients) <= taken | BEYOND_LOSSES


# --- every row ------------------------------------------------------------------------------------


def given(model, method):
    """Conversations and reference values of a method, as a run would have them."""
    people, retain = (encode_conversations(model, c) for c in (FORGET, RETAIN))
    style = PROMPTS["plain"]
    refusals = encode_conversations(model, refused(FORGET, style, answer_form="text", seed=0))
    if method.forget_on == "refusals":
        people = refusals
    values = reference_values(
        model,
        method,
        forget=people,
        retain=retain,
        adapters=["finetune"],
        supervised_tokens="answer",
        batch_size=4,
        refusals=refusals,
    )
    return people, retain, values


@pytest.mark.parametrize("method", TRAINED, ids=lambda m: m.id)
def test_micro_batches_add_up_to_the_batch(method):
    """Value and gradient, in float64, of both terms."""
    model = prepared(tiny.tiny_model(tiny.tiny_network().double()))
    add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=0)
    tiny.shake(model, "unlearn")
    for parameter in model.network.parameters():
        parameter.data = parameter.data.double()
    stack(model, ["finetune"], train="unlearn")
    people, retain, values = given(model, method)
    parameters = list(trained_parameters(model).values())
    found = []
    lengths = sorted(len(c.input_ids) for c in people)
    assert [len(cut(lengths, size)) for size in (6, 4, 1)] == [1, 2, 6]
    for size in (6, 4, 1):
        for p in parameters:
            p.grad = None
        terms = [
            backward_term(
                model,
                method,
                side="forget",
                examples=people,
                supervised_tokens="answer",
                micro_batch=size,
                reference=values,
            )
        ]
        if method.retain_loss:
            terms.append(
                backward_term(
                    model,
                    method,
                    side="retain",
                    examples=retain,
                    supervised_tokens="answer",
                    micro_batch=size,
                    reference=values,
                )
            )
        found.append((terms, [p.grad for p in parameters if p.grad is not None]))
    assert any(g.abs().max() > 1e-8 for g in found[0][1])
    for terms, gradients in found[1:]:
        # logits are read as float32, so exact means up to its rounding
        assert terms == pytest.approx(found[0][0], rel=1e-5, abs=1e-6)
        scale = max(float(g.abs().max()) for g in found[0][1])
        for g, whole in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(g, whole, rtol=1e-4, atol=2e-6 * scale)


@pytest.mark.parametrize("seed", range(8))
def test_a_step_is_cut_where_reading_costs_least(seed):
    """Against every way to cut it."""
    drawn = np.random.default_rng(seed)
    lengths = sorted(drawn.choice([15, 31, 46, 84, 135, 600], size=9).tolist())
    micro_batch = int(drawn.integers(1, 6))

    def cost(pieces):
        positions = [(stop - start) * max(lengths[start:stop]) for start, stop in pieces]
        fits = max(positions) <= micro_batch * lengths[-1]
        return sum(positions) + PIECE_POSITIONS * len(pieces) if fits else float("inf")

    ways = []
    for chosen in itertools.product([False, True], repeat=len(lengths) - 1):
        ends = [0, *(i for i, here in enumerate(chosen, start=1) if here), len(lengths)]
        ways.append(list(itertools.pairwise(ends)))
    pieces = cut(lengths, micro_batch)
    assert cost(pieces) == min(map(cost, ways)) < float("inf")
    assert pieces == sorted(pieces, reverse=True)  # the longest first
    assert sorted(i for start, stop in pieces for i in range(start, stop)) == list(range(9))


def test_short_conversations_are_read_together_where_a_long_one_would_fit():
    assert cut([40] * 15 + [600], 1) == [(15, 16), (0, 15)]
    assert cut([40] * 16 + [600], 1) == [(16, 17), (1, 16), (0, 1)]
    assert cut([], 4) == []


def relearn():
    settings = FinetuneSettings(rank=4, alpha=8, epochs=1, batch_size=4, warmup_steps=0)
    return Relearn(RETAIN, RETAIN[:2], settings=settings)


@pytest.mark.parametrize("method", ROWS, ids=lambda m: m.id)
def test_every_method_runs_through(method):
    model = prepared()
    target = adapter_weights(model, "finetune")
    few = QUESTIONS[:1] + QUESTIONS[4:5] + QUESTIONS[8:9]
    settings = {"epochs": 1, "path_every": 0, "questions": few, "relearn": relearn()}
    outcome = unlearn_single_shot(replace(task(model, **settings), method=method))
    assert all(torch.equal(v, target[k]) for k, v in adapter_weights(model, "finetune").items())
    log, kept = outcome.log, adapter_weights(model, "unlearn")
    assert log["loss"].notna().all() and (log["forget_grad_norm"] > 0).all()
    assert log["retain_loss"].notna().all() == bool(method.retain_loss)
    if method.retain_loss and method.retain_loss not in ("kl_to_reference", "rmu"):
        assert (log["retain_grad_norm"] > 0).all()  # those two start at zero
    assert all(torch.equal(v, kept[k]) for k, v in outcome.states["final"].items())
    assert outcome.trajectory["step"].iloc[-1] == outcome.final_step == outcome.chosen_step
    assert active(model) == (["finetune", "unlearn"] if outcome.on_target else ["unlearn"])
    assert outcome.on_target == (method.id != "oracle")
    assert not any(p.requires_grad for p in model.network.parameters())


# --- what single methods are named for ------------------------------------------------------------


def test_refusals_keep_the_prompts():
    model = tiny.tiny_model()
    for form in ("text", "letter"):
        declined = refused(FORGET, PROMPTS["plain"], answer_form=form, seed=0)
        assert [c.id for c in declined] == [c.id + SUFFIX for c in FORGET]
        for mine, theirs in zip(FORGET, declined, strict=True):
            for k, (a, b) in enumerate(zip(mine.turns, theirs.turns, strict=True)):
                prompts = [
                    question_prompt(
                        PROMPTS["plain"],
                        t,
                        answer_form=form,
                        with_image=bool(mine.image),
                        first=k == 0,
                    )
                    for t in (a, b)
                ]
                assert prompts[0] == prompts[1] and b.answer in REFUSALS
        said = {t.answer for c in declined for t in c.turns}
        assert len(said) > 2  # several sentences
        assert declined == refused(FORGET, PROMPTS["plain"], answer_form=form, seed=0)
        assert declined != refused(FORGET, PROMPTS["plain"], answer_form=form, seed=1)
    encoded, before = (encode_conversations(model, c) for c in (declined, FORGET))
    first = before[0].answer.index(True)
    assert encoded[0].input_ids[:first] == before[0].input_ids[:first]


@pytest.mark.parametrize("method", ["idk", "dpo"])
def test_refusals_become_likely_and_answers_do_not(method):
    model = prepared()
    unlearned(model, method, epochs=6, path_every=0)
    declined = refused(
        FORGET, PROMPTS["plain"], answer_form="text", seed=1
    )  # other draws than trained on
    with only(model, "finetune"):
        before = logprob(model, declined)
    assert logprob(model, declined) > before + 3


def test_mllmu_s_npo_compares_with_a_model_of_the_other_people():
    """Its first loss is that of the target against a model that is fine-tuned here by hand, on the
    other people alone: a mean over the batch's tokens within one sigmoid.
    """
    log = unlearned(prepared(), "npo_mllmu", epochs=1, batch_size=6, relearn=relearn()).log
    model = prepared()
    target, labels = logits(model)
    lessons = Lessons(RETAIN, RETAIN[:2], images=tiny.images())
    finetune(model, lessons, settings=relearn().settings, seed=0, name="others")
    stack(model, ["others"])
    known, _ = logits(model)
    n = int((labels != losses.IGNORE).sum())
    m = [float(losses.sequence_logprob(x, labels).sum()) / n for x in (target, known)]
    first = 2 / 0.4 * np.log1p(np.exp(0.4 * (m[0] - m[1])))
    assert log["forget_loss"][0] == pytest.approx(first, rel=1e-5)
    assert abs(first - 2 * np.log(2) / 0.4) > 1e-2  # it does not begin at its reference
    with pytest.raises(PulseError, match="npo_mllmu compares with a model of the other people"):
        unlearned(prepared(), "npo_mllmu", epochs=1)


def test_who_compares_with_a_model_of_others_forgets_in_one_shot_and_after_a_fine_tune():
    with pytest.raises(PulseError, match="npo_mllmu cannot be carried out by strategy experts"):
        check_fits(get("npo_mllmu"), STRATEGIES["experts"])
    asked = grid.options_from_texts(profile="tiny", methods="npo,npo_mllmu")
    planned = [s.parameters for s in grid.study(asked) if s.parameters.get("method") == "npo_mllmu"]
    assert [(p["scenario"], "strategy" in p) for p in planned] == [("finetuned", False)]
    assert grid.without_oracle(asked) == []
    read = fields("single_shot", planned[0], profile=load_profile("tiny"))
    assert "finetune.epochs" in read and read["hyperparameter beta"] == 0.4
    data = Dataset([], [], questions=[], conversations=[], images=tiny.images())
    base = Target(tiny.tiny_model(), (), scenario="pretrained", seed=0)
    with pytest.raises(PulseError, match="in scenario pretrained nobody is fine-tuned"):
        Task.of(load_profile("smoke"), data, target=base, method="npo_mllmu")


def test_dpo_starts_at_log_two():
    log = unlearned(prepared(), "dpo", epochs=1).log
    assert log["forget_loss"][0] == pytest.approx(0.6931472, rel=1e-5)


def test_rmu_steers_forget_and_holds_retain():
    model = prepared()
    for depth, layer in ((0.01, 0), (0.5, 0), (0.75, 1), (1.0, 1)):
        assert layer_at(model, depth) == layer  # of two layers
    encoded = encode_conversations(model, FORGET)
    batch = collate(model, encoded)
    with torch.no_grad():
        hidden = answer_hidden(model, batch, layer=1)
        normed = model.network.model.language_model.norm(hidden)
        logits, _ = answer_logits(model, batch)
    torch.testing.assert_close(model.network.lm_head(normed), logits)  # the last layer's output
    values = reference_values(
        model,
        get("rmu"),
        forget=encoded,
        retain=[],
        adapters=["finetune"],
        supervised_tokens="answer",
        batch_size=4,
        depth=1.0,
    )
    length = hidden[batch.labels != losses.IGNORE].norm(dim=-1).mean()
    assert values.control.norm() == pytest.approx(5.0 * float(length), rel=1e-4)
    assert values.layer == 1 and values.adapters == ("finetune",) and not values.logits
    log = unlearned(model, "rmu", epochs=6, path_every=0, depth=1.0).log
    assert log["retain_loss"][0] == 0 and log["forget_loss"].iloc[-1] < log["forget_loss"][0]
    assert log["retain_loss"].iloc[-1] > 0


def test_mask_holds_still_what_it_does_not_let_through(monkeypatch):
    """After the warm-up, entries outside the mask do not move at all, and others do."""
    seen = {}

    def spy(model, forget, *arguments, **named):
        masks = salient(model, forget, *arguments, **named)
        seen.update(
            masks=dict(zip(trained_parameters(model), masks, strict=True)),
            at={k: p.detach().clone() for k, p in trained_parameters(model).items()},
        )
        return masks

    monkeypatch.setattr(request, "salient", spy)
    model = prepared()
    outcome = unlearned(model, "saliency", epochs=4, path_every=0)
    now = dict(model.network.named_parameters())
    held = moved = 0
    for key, mask in seen["masks"].items():
        changed = now[key] != seen["at"][key]
        assert not changed[mask == 0].any()
        held, moved = held + int((mask == 0).sum()), moved + int(changed[mask == 1].sum())
    total = sum(m.numel() for m in seen["masks"].values())
    assert held > 0.05 * total and moved > 0.05 * total
    assert outcome.masked_fraction == pytest.approx(held / total)


def test_fisher_is_the_mean_of_squared_gradients():
    model = prepared()
    add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=0)
    stack(model, ["finetune"], train="unlearn")
    encoded = encode_conversations(model, FORGET[:2])
    found = dict(
        zip(
            trained_parameters(model),
            fisher(model, encoded, supervised_tokens="answer"),
            strict=True,
        )
    )
    # A fresh adapter has B = 0: nothing of A could ever be salient
    assert all((found[k] == 0).all() == ("lora_A" in k) for k in found)
    expected = 0
    key, parameter = next(
        (k, p) for k, p in trained_parameters(model).items() if "q_proj.lora_B" in k
    )
    for conversation in encoded:
        loss = losses.nll(*answer_logits(model, collate(model, [conversation])))
        expected = expected + torch.autograd.grad(loss, parameter)[0] ** 2 / 2
    torch.testing.assert_close(found[key], expected)


def test_a_mask_of_zeros_is_an_error_only_after_the_warm_up():
    model = prepared()
    add_adapter(model, "unlearn", trained_part="llm", rank=4, alpha=8, seed=0)
    stack(model, ["finetune"], train="unlearn")
    parameters = trained_parameters(model).values()
    at = []

    def none():
        at.extend(p.detach().clone() for p in parameters)
        return [torch.zeros_like(p) for p in parameters]

    people = encode_conversations(model, FORGET)
    schedule = Schedule(1e-3, 5, batch_size=6, warmup_steps=0, max_grad_norm=1.0, decay=False)
    trained = train(
        model, get("ga"), conversations=people, schedule=schedule, seed=0, mask=Mask(0.4, none)
    )
    assert trained.n_steps == 5 and trained.masked_fraction == 1.0
    assert all(torch.equal(a, p) for a, p in zip(at, parameters, strict=True))


def test_task_vector_goes_the_other_way():
    model = prepared()
    before = logprob(model)
    outcome = unlearned(model, "task_vector", epochs=3, path_every=0)
    assert outcome.final_step == 6 + 10 and len(outcome.log) == 6
    assert list(outcome.trajectory["step"]) == [0, *range(7, 17)]
    after, negated = logprob(model), outcome.states["final"]
    twice = {k: -w if "lora_B" in k else w for k, w in negated.items()}
    from pulse_lib.model.adapters import set_adapter_weights

    set_adapter_weights(model, "unlearn", weights=twice)
    assert logprob(model) > before + 0.5 and after < before - 0.5


def test_penalties():
    model = tiny.with_adapters("first", "second")
    add_adapter(model, "third", trained_part="projector+llm", rank=4, alpha=8, seed=9)
    tiny.shake(model, "third", 9)
    stack(model, ["first", "second"], train="third")
    named, trained = dict(model.network.named_parameters()), trained_parameters(model)
    size = sum(float(p.detach().abs().sum()) for p in trained.values())
    assert l1(model, 0.5)().item() == pytest.approx(0.5 * size, rel=1e-5)
    expected = sum(
        float((named[k.replace(".third.", f".{old}.")] @ p.T).detach().pow(2).sum())
        for k, p in trained.items()
        for old in ("first", "second")
        if "lora_A" in k
    )
    held = orthogonal(model, "third", earlier=["first", "second"], strength=0.1)
    assert held().item() == pytest.approx(0.1 * expected, rel=1e-5)
    assert orthogonal(model, "third", earlier=[], strength=0.1) is None
    importance = [torch.full_like(p, 7.0) for p in trained.values()]
    importance[0][0, 0] = 21.0  # three times the others'
    pull, weighted = anchor(model, 2.0), anchor(model, 2.0, importance=importance)
    assert pull().item() == 0
    with torch.no_grad():
        next(iter(trained.values()))[0, :3] += 0.5
    assert pull().item() == pytest.approx(2.0 * 3 * 0.25)
    n = sum(p.numel() for p in trained.values())
    mean = (7.0 * (n - 1) + 21.0) / n
    assert weighted().item() == pytest.approx(2.0 * (21.0 + 7.0 + 7.0) / mean * 0.25)


def test_l1_counts_in_the_loss():
    logs = [unlearned(prepared(), m, epochs=1, path_every=0).log for m in ("ga_retain", "l1_lora")]
    assert logs[0]["forget_loss"][0] == logs[1]["forget_loss"][0]
    assert logs[1]["loss"][0] > logs[0]["loss"][0] + 1e-3


def test_oracle_never_saw_them():
    """It is a fine-tune of the base: the same bits whatever the target was, or the forget set."""
    from pulse_lib.train.finetune import Lessons, finetune

    model = prepared()
    with pytest.raises(PulseError, match="give `relearn`"):
        unlearned(model, "oracle")
    other, asked = tiny.tiny_model(), relearn()
    lessons = Lessons(asked.people, asked.general, images=tiny.images())
    finetune(other, lessons, settings=asked.settings, seed=0, name="unlearn")
    outcome = unlearned(model, "oracle", retain=[], epochs=1, relearn=asked)
    alone = adapter_weights(other, "unlearn")
    assert all(torch.equal(w, alone[k]) for k, w in outcome.states["final"].items())
    assert list(outcome.trajectory["step"]) == [0, outcome.final_step]


def test_an_oracle_from_pretraining_is_the_model_itself():
    model = tiny.tiny_model()
    before = logprob_of_all(model)
    outcome = unlearned(model, "oracle", target=())
    assert logprob_of_all(model) == before and active(model) == ["unlearn"]
    assert outcome.final_step == 1 and outcome.n_trainable == 0 and not outcome.on_target


def logprob_of_all(model):
    model.features.add((f"image-{i}" for i in range(40)), tiny.images())
    return logprob(model)


def test_oracle_of_pretrained_knowledge_needs_a_model():
    profile = load_profile("smoke")
    assert model_of(profile, "finetuned", method_id="oracle", seed=0) == profile.model
    assert model_of(profile, "pretrained", method_id="ga", seed=0) == profile.model
    with pytest.raises(
        PulseError, match=r"unlearn.oracle_model.*oracles --profile smoke --seeds 0"
    ):
        model_of(profile, "pretrained", method_id="oracle", seed=0)
    profile = replace(profile, unlearn=replace(profile.unlearn, oracle_model="models/seed-{seed}"))
    expected = ModelSettings(**{**vars(profile.model), "path": "models/seed-3"})
    assert model_of(profile, "pretrained", method_id="oracle", seed=3) == expected


# --- docs/add_a_method.md -------------------------------------------------------------------------


def test_the_document_on_adding_a_method_works(monkeypatch):
    text = (Path(REPOSITORY) / "docs/add_a_method.md").read_text()
    loss, row = re.findall(r"```python\n(.*?)```", text, re.S)[:2]
    exec(compile(loss, "loss", "exec"), vars(losses))
    scope = {}
    exec(compile(row, "row", "exec"), scope)
    try:
        monkeypatch.setitem(METHODS, scope["method"].id, scope["method"])
        test_needs_say_what_the_losses_take(scope["method"])
        test_every_method_runs_through(scope["method"])
        test_micro_batches_add_up_to_the_batch(scope["method"])
        frame = pd.DataFrame([scope["method"].describe()])
        assert frame["loss"][0] and scope["method"].id == "log1mp"
        logits, labels = torch.zeros(1, 2, 4, dtype=torch.float64), torch.tensor([[1, -100]])
        assert losses.log1mp(logits, labels).item() == pytest.approx(0.2876820724518)
    finally:
        del losses.log1mp

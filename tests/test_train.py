"""The one loop: what it moves and what it leaves, its guards, the path and the matched state."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from pulse_lib.errors import PulseError
from pulse_lib.methods import METHODS, get
from pulse_lib.model.adapters import (
    active,
    adapter_weights,
    add_adapter,
    only,
    stack,
    trained_parameters,
)
from pulse_lib.model.forward import answer_logits, collate
from pulse_lib.model.load import load_model
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import EvaluateSettings, FinetuneSettings, ModelSettings, UnlearnSettings
from pulse_lib.train import losses
from pulse_lib.train.finetune import Lessons, finetune
from pulse_lib.train.loop import Schedule, _endless, _epochs, derive_seed, train
from pulse_lib.train.optim import make_optimizer, set_rate
from pulse_lib.train.reference import Reference, check_cache, check_same_start, reference_values
from pulse_lib.unlearn import trajectory
from pulse_lib.unlearn.single_shot import unlearn_single_shot
from pulse_lib.unlearn.task import Target, Task
from pulse_lib.unlearn.trajectory import (
    TRAJECTORY_COLUMNS,
    TrajectoryRecorder,
    trajectory_questions,
)

FORGET = [tiny.conversation(i) for i in range(6)]
RETAIN = [tiny.conversation(i, "retain_train") for i in range(4)]
QUESTIONS = [tiny.question(i, group) for group in ("forget", "retain", "general") for i in range(4)]
EVALUATE = EvaluateSettings(max_new_tokens=2, n_path_questions=4)
UNLEARN = UnlearnSettings(
    rank=4, alpha=8, batch_size=4, learning_rate=2e-3, epochs_finetuned=2, epochs_pretrained=2
)


def prepared(model=None):
    model = tiny.with_adapters("finetune", model=model)
    model.features.add((f"image-{i}" for i in range(40)), tiny.images())
    return model


def task(model, method="ga", *, target=("finetune",), seed=0, **changes):
    """A task with the people of these tests; `changes` are fields of Task or of its UnlearnSettings."""
    own = {k: changes.pop(k) for k in list(changes) if k in Task.__dataclass_fields__}
    given = {"forget": FORGET, "retain": RETAIN, "questions": QUESTIONS, "epochs": 2} | own
    return Task(
        target=Target(model, tuple(target), scenario="finetuned", seed=seed),
        method=get(method),
        images=tiny.images(),
        unlearn=replace(UNLEARN, **changes),
        evaluate=EVALUATE,
        **given,
    )


def unlearned(model, method, **changes):
    return unlearn_single_shot(task(model, method, **changes))


def logits(model, conversations=FORGET):
    with torch.no_grad():
        return answer_logits(model, collate(model, encode_conversations(model, conversations)))


def logprob(model, conversations=FORGET):
    return float(losses.sequence_logprob(*logits(model, conversations)).mean())


@pytest.mark.parametrize(
    ("method", "load"), [("ga", "full"), ("ga_klr", "full"), ("npo", "full"), ("ga_klr", "4bit")]
)
def test_unlearning_moves_the_new_adapter_and_nothing_else(method, load, tmp_path):
    base = load_model(ModelSettings(path=str(tiny.save_tiny(tmp_path)), load=load), "cpu")
    model = prepared(base)
    weights = {k: v.clone() for k, v in model.network.state_dict().items() if "lora_" not in k}
    finetuned, target, before = adapter_weights(model, "finetune"), logits(model)[0], logprob(model)
    outcome = unlearned(model, method)
    assert all(
        torch.equal(v, weights[k])
        for k, v in model.network.state_dict().items()
        if "lora_" not in k
    )
    assert all(torch.equal(v, finetuned[k]) for k, v in adapter_weights(model, "finetune").items())
    with only(model, "finetune"):
        assert torch.equal(logits(model)[0], target)  # the reference is what it was
    assert active(model) == ["finetune", "unlearn"] and not any(
        p.requires_grad for p in model.network.parameters()
    )
    assert logprob(model) < before - 1
    assert (
        outcome.final_step == len(outcome.log) == 4
        and list(outcome.trajectory.columns) == TRAJECTORY_COLUMNS
    )
    assert list(outcome.trajectory["step"]) == [0, 2, 4] and list(outcome.trajectory["epoch"]) == [
        0,
        1,
        2,
    ]
    assert outcome.log[["loss", "forget_loss", "grad_norm"]].apply(np.isfinite).all(axis=None)
    assert outcome.log["retain_loss"].notna().all() == (method == "ga_klr")
    assert outcome.n_trainable == sum(w.numel() for w in outcome.states["final"].values())
    assert outcome.result()["final_step"] == 4


def test_first_losses_are_those_of_the_reference():
    log = unlearned(prepared(), "npo", epochs=1).log
    assert log["forget_loss"][0] == pytest.approx(2 * np.log(2) / 0.1, rel=1e-6)
    klr = unlearned(prepared(), "ga_klr", epochs=1).log
    assert klr["retain_loss"][0] == pytest.approx(0, abs=1e-6) and klr["retain_loss"][1] > 1e-4
    ga = unlearned(prepared(), "ga", epochs=1).log
    assert ga["loss"].equals(ga["forget_loss"]) and ga["loss"][0] < 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_as_on_a_gpu(dtype):
    """The base in 16 bit, adapters in float32, a gradient scaler for float16."""
    model = prepared(tiny.tiny_model(tiny.tiny_network().to(dtype)))
    before = logprob(model)
    outcome = unlearned(model, "ga_klr", path_every=0)
    assert model.dtype == dtype and model.features.get(["image-0"]).dtype == dtype
    assert all(w.dtype == torch.float32 for w in outcome.states["final"].values())
    assert logits(model)[0].dtype == torch.float32 and logprob(model) < before - 1


def test_klr_holds_the_retain_people(monkeypatch):
    """With random weights the two pull little apart, so the retain term gets a heavy weight "
    "here."""
    monkeypatch.setitem(METHODS, "ga_klr", replace(get("ga_klr"), retain_weight=1000.0))
    gaps = {}
    for method in ("ga", "ga_klr"):
        model = prepared()
        reference, labels = logits(model, RETAIN)
        unlearned(model, method, epochs=4, path_every=0)
        gaps[method] = float(losses.kl_to_reference(logits(model, RETAIN)[0], reference, labels))
    assert gaps["ga_klr"] < 0.5 * gaps["ga"]


def test_same_seed_same_bits_other_seed_others():
    runs = []
    for seed in (0, 0, 1):
        model = prepared()
        outcome = unlearned(model, "ga_klr", epochs=1, seed=seed)
        runs.append(outcome)
    same, other = (
        all(torch.equal(w, runs[i].states["final"][k]) for k, w in runs[0].states["final"].items())
        for i in (1, 2)
    )
    assert same and not other
    pd.testing.assert_frame_equal(runs[0].trajectory, runs[1].trajectory, check_exact=True)


def test_projector_is_trained_only_if_asked():
    for part, expected in (("projector+llm", True), ("llm", False)):
        model = prepared()
        outcome = unlearned(model, "ga", epochs=1, trained_part=part)
        assert any("projector" in key for key in outcome.states["final"]) == expected


def test_whole_sequence_is_another_loss():
    logs = [
        unlearned(prepared(), "npo", epochs=1, supervised_tokens=s).log
        for s in ("answer", "whole_sequence")
    ]
    assert logs[0]["grad_norm"][0] != logs[1]["grad_norm"][0]


def test_finetuning_learns():
    model = tiny.tiny_model()
    model.features.add((f"image-{i}" for i in range(40)), tiny.images())
    before = logprob(model)
    settings = FinetuneSettings(
        rank=8,
        alpha=16,
        learning_rate=5e-3,
        epochs=6,
        batch_size=4,
        warmup_steps=2,
        general_replay=0.25,
    )
    lessons = Lessons(FORGET, RETAIN, images=tiny.images())
    trained = finetune(model, lessons, settings=settings, seed=0)
    assert trained.n_steps == 6 * 2  # three people and one replayed conversation a step
    assert logprob(model) > before + 5 and active(model) == ["finetune"]
    assert trained.log["learning_rate"].tolist()[:2] == pytest.approx([2.5e-3, 5e-3])
    assert 0 < trained.log["learning_rate"].iloc[-1] < 1e-3
    assert not any(p.requires_grad for p in model.network.parameters())


# --- batches and schedule
# -------------------------------------------------------------------------------------------------


def test_every_epoch_sees_everyone_once():
    batches = _epochs(7, 3, epochs=4, generator=np.random.default_rng(0))
    assert [len(b) for b in batches] == [3, 3, 1] * 4
    epochs = [[*chain.from_iterable(batches[i : i + 3])] for i in range(0, 12, 3)]
    assert all(sorted(e) == list(range(7)) for e in epochs) and len({tuple(e) for e in epochs}) > 1


def test_endless_batches_see_everyone_before_anyone_again():
    stream = _endless(5, 3, generator=np.random.default_rng(0))
    seen = [*chain.from_iterable(next(stream) for _ in range(5))]
    assert all(sorted(seen[i : i + 5]) == list(range(5)) for i in (0, 5, 10))
    assert list(_endless(0, 3, generator=np.random.default_rng(0))) == []
    assert len(next(_endless(2, 5, generator=np.random.default_rng(0)))) == 5


def test_learning_rate_over_time():
    falling = Schedule(1.0, 1, batch_size=1, warmup_steps=2, max_grad_norm=1.0, decay=True)
    assert [falling.rate(s, 6) for s in range(1, 7)] == pytest.approx(
        [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    )
    constant = replace(falling, warmup_steps=0, decay=False)
    assert {constant.rate(s, 6) for s in range(1, 7)} == {1.0}


def test_derived_seeds():
    assert derive_seed(0, "round", 1) == derive_seed(0, "round", 1) < 2**32
    assert len({derive_seed(s, "round", k) for s in range(3) for k in range(3)}) == 9
    assert derive_seed(0, "path") == 3784962687  # the same on every machine


# --- guards ---------------------------------------------------------------------------------------
# --------------------------


@pytest.mark.parametrize("method", ["ga", "npo"])
def test_loss_that_is_not_finite_stops(method):
    model = prepared()
    with pytest.raises(
        PulseError,
        match=r"step 2: the (loss|gradient's norm) is .*learning rate 1e\+20.*Lower learning_rate",
    ):
        unlearned(model, method, learning_rate=1e20)


def test_nothing_trainable_or_nothing_moved_stops():
    model = prepared()
    encoded = encode_conversations(model, FORGET)
    schedule = Schedule(1e-3, 1, batch_size=4, warmup_steps=0, max_grad_norm=1.0, decay=False)
    with pytest.raises(PulseError, match="no parameter is trainable"):
        train(model, get("ga"), conversations=encoded, schedule=schedule, seed=0)
    for changes in ({"learning_rate": 0.0}, {"epochs": 0}):
        add_adapter(model, "unlearn", trained_part="llm", rank=4, alpha=8, seed=0)
        stack(model, ["finetune"], train="unlearn")
        with pytest.raises(PulseError, match="no adapter weight moved"):
            train(
                model,
                get("ga"),
                conversations=encoded,
                schedule=replace(schedule, **changes),
                seed=0,
            )
    with pytest.raises(PulseError, match="no retain_train conversations"):
        train(
            model,
            get("ga_klr"),
            conversations=encoded,
            schedule=schedule,
            seed=0,
            reference=Reference(),
        )
    with pytest.raises(PulseError, match="no room for people"):
        train(
            model,
            get("ga"),
            conversations=encoded,
            schedule=replace(schedule, replay_share=1.0),
            seed=0,
            replay=encoded,
        )


def test_another_reference_stops():
    model = prepared()
    encoded = encode_conversations(model, FORGET)
    add_adapter(model, "unlearn", trained_part="llm", rank=4, alpha=8, seed=0)
    stack(model, ["finetune"], train="unlearn")
    check_same_start(model, encoded, adapters=["finetune"], supervised_tokens="answer")
    with pytest.raises(
        PulseError, match="the reference is not the model that training starts from"
    ):
        check_same_start(
            model, encoded, adapters=[], supervised_tokens="answer"
        )  # the base, as disable_adapter() would give
    right = reference_values(
        model,
        get("npo"),
        forget=encoded,
        retain=[],
        adapters=["finetune"],
        supervised_tokens="answer",
        batch_size=4,
    )
    check_cache(model, get("npo"), sample=encoded, reference=right, supervised_tokens="answer")
    wrong = reference_values(
        model,
        get("npo"),
        forget=encoded,
        retain=[],
        adapters=[],
        supervised_tokens="answer",
        batch_size=4,
    )
    with pytest.raises(PulseError, match="cache belongs to another model"):
        check_cache(model, get("npo"), sample=encoded, reference=wrong, supervised_tokens="answer")


def test_cached_reference_is_the_reference():
    """Cached in batches of another shape, KL and NPO start at zero difference all the same."""
    model = prepared()
    encoded = encode_conversations(model, FORGET)
    for size in (1, 4):
        kept = reference_values(
            model,
            get("ga_klr"),
            forget=[],
            retain=encoded,
            adapters=["finetune"],
            supervised_tokens="answer",
            batch_size=size,
        )
        found, labels = logits(model)
        for row, conversation in enumerate(encoded):
            expected = found[row][labels[row] != -100]
            torch.testing.assert_close(kept.logits[conversation.id], expected, rtol=1e-4, atol=1e-4)
        assert (
            not kept.logprob
            and reference_values(
                model,
                get("ga"),
                forget=encoded,
                retain=encoded,
                adapters=[],
                supervised_tokens="answer",
                batch_size=4,
            )
            == Reference()
        )


def test_micro_batches_train_the_same():
    """The step is the batch's, however few conversations are read at once."""
    for method in ("ga_klr", "npo"):
        states = [
            unlearned(prepared(), method, epochs=1, path_every=0, micro_batch=size).states["final"]
            for size in (1, 8)
        ]
        start = adapter_weights_of_a_fresh_one()
        moved = max(float((w - start[k]).abs().max()) for k, w in states[1].items())
        gap = max(float((w - states[0][k]).abs().max()) for k, w in states[1].items())
        assert moved > 1e-3 and gap < 0.05 * moved


def adapter_weights_of_a_fresh_one():
    model = prepared()
    add_adapter(
        model,
        "unlearn",
        trained_part="projector+llm",
        rank=4,
        alpha=8,
        seed=derive_seed(0, "adapter", 1),
    )
    return adapter_weights(model, "unlearn")


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_moments_in_eight_bits(optimizer):
    model = prepared()
    before = logprob(model)
    unlearned(model, "ga", path_every=0, optimizer=optimizer)
    assert logprob(model) < before - 1
    big = torch.nn.Parameter(torch.zeros(64, 64))
    made = make_optimizer(optimizer, {"lora_A": big})
    set_rate(made, 0.5)
    big.grad = torch.ones_like(big)
    made.step()
    assert made.state[big]["state1"].dtype == torch.uint8
    assert torch.allclose(big, torch.tensor(-0.5), atol=1e-2)


@pytest.mark.parametrize("ratio", [1.0, 8.0])
def test_loraplus_moves_b_faster_than_a(ratio):
    named = trained_parameters(prepared_adapter())
    made = make_optimizer("adamw", named, ratio=ratio)
    set_rate(made, 0.01)
    start = {key: p.detach().clone() for key, p in named.items()}
    for parameter in named.values():
        parameter.grad = torch.full_like(parameter, -3.0)
    made.step()  # Adam's first step is the rate times the gradient's sign, whatever its size
    for key, parameter in named.items():
        rate = 0.01 * (ratio if "lora_B" in key else 1.0)
        assert torch.allclose(parameter - start[key], torch.tensor(rate), rtol=1e-4), key


def test_muon_trains_lora_and_refuses_a_mask():
    model = prepared()
    before = logprob(model)
    unlearned(model, "ga", path_every=0, optimizer="muon", learning_rate=0.05)
    assert logprob(model) < before - 1
    with pytest.raises(PulseError, match="saliency needs optimizer = 'adamw'"):
        unlearned(prepared(), "saliency", path_every=0, optimizer="muon")
    pair = {k: torch.nn.Parameter(torch.zeros(8, 8)) for k in ("lora_A", "lora_B")}
    made = make_optimizer("muon", pair, ratio=4.0)
    set_rate(made, 0.01)
    for parameter in pair.values():
        parameter.grad = torch.eye(8)
    made.step()
    assert torch.allclose(pair["lora_B"], 4 * pair["lora_A"]) and pair["lora_A"][0, 0] < 0


def prepared_adapter():
    model = prepared()
    add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=0)
    stack(model, [], train="unlearn")
    return model


def test_norms_of_both_gradients_are_logged():
    logs = {m: unlearned(prepared(), m, epochs=1, path_every=0).log for m in ("ga", "ga_retain")}
    assert (logs["ga"]["forget_grad_norm"] == logs["ga"]["grad_norm"]).all()
    assert (logs["ga"]["retain_grad_norm"] == 0).all()
    both = logs["ga_retain"].iloc[0]
    assert both["forget_grad_norm"] == logs["ga"]["forget_grad_norm"][0]
    low = abs(both["forget_grad_norm"] - both["retain_grad_norm"])
    assert low < both["grad_norm"] < both["forget_grad_norm"] + both["retain_grad_norm"]


# --- the path -------------------------------------------------------------------------------------


def recorded(
    monkeypatch, accuracy, full=None, find_matched=True, likeliest=None, epochs=6, **rules
):
    """The recorder on a model whose forget accuracy follows `accuracy(step)`; `full(step)` is that
    of the whole forget set, `likeliest(step)` that by the likeliest option (the same if not given).
    It ends where a stop rule is met.
    """
    now = {"step": 0}

    def ask(self, questions):
        value = (
            (full or accuracy)(now["step"]) if questions is self.forget else accuracy(now["step"])
        )
        table = pd.DataFrame(
            [
                {"set": q.set, "modality": q.modality, "wording": "trained", "invalid": False}
                for q in questions
            ]
        )
        return table.assign(
            correct=value, loglik_correct=likeliest(now["step"]) if likeliest else value
        )

    monkeypatch.setattr(TrajectoryRecorder, "_ask", ask)
    monkeypatch.setattr(trajectory, "adapter_weights", lambda model, name: {"at": now["step"]})
    rules = {"path_every": 5, "matched_at": 0.35, "path_dense_below": 0.9} | rules
    measured = task(None, epochs=epochs, **rules)
    recorder = TrajectoryRecorder(measured, "unlearn", find_matched=find_matched)
    assert recorder.last_step == 2 * epochs
    for now["step"] in range(recorder.last_step + 1):
        if recorder(now["step"], now["step"] / 2):
            break
    return recorder


def test_path_is_dense_while_forgetting_and_matched_is_the_first_step(monkeypatch):
    curve = [1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.3, 0.05, 0.02, 0, 0]
    recorder = recorded(monkeypatch, lambda s: curve[s])
    # every fifth, and every one once the forget accuracy has fallen, until it is low enough
    assert list(recorder.table()["step"]) == [0, 5, 6, 7, 8, 10, 12]
    assert recorder.matched_step == 8 and recorder.matched == {"at": 8}
    asked_in_full = recorder.table().set_index("step")["forget_full"].dropna()
    assert list(asked_in_full.index) == [7, 8]  # near matched_at, until it was reached


def test_the_whole_forget_set_decides(monkeypatch):
    recorder = recorded(
        monkeypatch, lambda s: 1 if s < 5 else 0.3, full=lambda s: 0.36 if s < 9 else 0.35
    )
    assert recorder.matched_step == 9


def test_the_whole_forget_set_decides_when_to_stop(monkeypatch):
    full = {5: 0.40, 6: 0.36, 7: 0.34, 8: 0.1}  # at 8 it is not asked any more
    recorder = recorded(
        monkeypatch, lambda s: 1 if s < 5 else 0.25, full=lambda s: full[s], stop_forget=0.3
    )
    assert (recorder.matched_step, recorder.table()["step"].max()) == (7, 8)


def test_forgotten_means_that_the_right_option_is_not_the_likeliest_either(monkeypatch):
    said = [1, 1, 0.8, 0.5, 0.3, 0.1, 0, 0, 0, 0, 0, 0, 0]
    likeliest = [1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.44, 0.36, 0.35, 0.3, 0.3, 0.3]
    curves = {"likeliest": lambda s: likeliest[s], "path_every": 1}
    both = recorded(monkeypatch, lambda s: said[s], **curves)
    assert both.matched_step == 9 and both.matched == {"at": 9}
    table = both.table().set_index("step")
    assert list(table["forget_multimodal_likelihood"]) == likeliest
    # the whole set is asked where both are near, up to the step that is looked for
    full = table[["forget_full", "forget_full_likelihood"]].dropna()
    assert full.to_dict("index") == {
        7: {"forget_full": 0, "forget_full_likelihood": 0.44},
        8: {"forget_full": 0, "forget_full_likelihood": 0.36},
        9: {"forget_full": 0, "forget_full_likelihood": 0.35},
    }
    said_alone = recorded(monkeypatch, lambda s: said[s], matched_by="generation", **curves)
    assert said_alone.matched_step == 4
    never = recorded(
        monkeypatch, lambda s: said[s], likeliest=lambda s: max(likeliest[s], 0.4), path_every=1
    )
    assert never.matched_step is None
    swapped = recorded(monkeypatch, lambda s: likeliest[s], likeliest=lambda s: said[s])
    assert swapped.matched_step == 9, "nor is it enough that another option is the likeliest"


def test_without_options_nothing_can_be_the_likeliest():
    open_ended = replace(tiny.question(0, "forget"), options=())
    asked = replace(task(None), questions=[open_ended])
    with pytest.raises(PulseError, match=r"no options.*matched_by: generation"):
        TrajectoryRecorder(asked, "unlearn")
    said = replace(asked, unlearn=replace(asked.unlearn, matched_by="generation"))
    assert TrajectoryRecorder(said, "unlearn").forget == [open_ended]


def test_a_stop_rule_goes_by_both_as_well(monkeypatch):
    likeliest = {"likeliest": lambda s: 0.9 if s < 7 else 0.2, "path_every": 1}
    both = recorded(monkeypatch, lambda s: 1 if s < 3 else 0.1, stop_forget=0.3, **likeliest)
    assert both.table()["step"].max() == 7
    said = recorded(
        monkeypatch,
        lambda s: 1 if s < 3 else 0.1,
        stop_forget=0.3,
        matched_by="generation",
        **likeliest,
    )
    assert said.table()["step"].max() == 3


def test_a_long_run_is_not_measured_at_every_step(monkeypatch):
    falling = recorded(monkeypatch, lambda s: 1 - s / 1000, epochs=200)
    steps = falling.table()["step"]
    assert falling.dense == 3 and (steps[steps < 300] % 5 == 0).sum() > 10
    late = steps[steps > 110].diff().dropna()
    assert set(late) <= {1, 2, 3} and len(steps) < 250


def test_not_reached(monkeypatch):
    recorder = recorded(monkeypatch, lambda s: 1 - s / 40 if s else 1.2)
    assert recorder.matched_step is None and recorder.matched is None
    assert list(recorder.table()["step"]) == [0, 5, 6, 7, 8, 9, 10, 11, 12]


def test_where_matched_is_not_looked_for_a_stop_rule_measures_now_and_then(monkeypatch):
    given = {"find_matched": False, "stop_forget": 0.05}
    recorder = recorded(monkeypatch, lambda s: 1 if s < 3 else 0.1, **given)
    assert list(recorder.table()["step"]) == [0, 5, 10, 12] and recorder.matched_step is None


def test_what_nobody_looks_for_is_not_measured(monkeypatch):
    recorder = recorded(monkeypatch, lambda s: 1 if s < 3 else 0.1, find_matched=False)
    assert recorder.table().empty and list(recorder.table()) == TRAJECTORY_COLUMNS


def stopping(monkeypatch, curves, **rules):
    """A run with the forget and utility accuracies of each step, and its stop rules."""
    model, now = prepared(), {"step": 0}
    kept = {}

    def ask(self, questions):
        forget, utility = (curve[min(now["step"], len(curve) - 1)] for curve in curves)
        table = pd.DataFrame([{"set": q.set, "modality": q.modality} for q in questions])
        table = table.assign(wording="trained", invalid=False)
        right = [forget if s == "forget" else utility for s in table["set"]]
        return table.assign(correct=right, loglik_correct=right)

    real = TrajectoryRecorder.measure

    def measure(self, step, epoch):
        now["step"] = step
        kept[step] = adapter_weights(self.task.model, "unlearn")
        return real(self, step, epoch)

    monkeypatch.setattr(TrajectoryRecorder, "_ask", ask)
    monkeypatch.setattr(TrajectoryRecorder, "measure", measure)
    outcome = unlearned(model, "ga", epochs=3, path_every=1, **rules)
    return outcome, kept, adapter_weights(model, "unlearn")


def test_stops_where_enough_is_forgotten(monkeypatch):
    curves = ([1.0, 0.8, 0.4, 0.2, 0.1, 0.1], [1.0] * 6)
    outcome, kept, now = stopping(monkeypatch, curves, stop_forget=0.4)
    assert outcome.final_step == outcome.chosen_step == len(outcome.log) == 2
    assert outcome.stop_reason == "forget accuracy 0.400, at or below stop_forget = 0.4"
    assert outcome.result()["stop_reason"] == outcome.stop_reason
    assert all(torch.equal(w, kept[2][k]) for k, w in now.items())


def test_stops_at_the_utility_floor_and_goes_back(monkeypatch):
    curves = ([1.0] * 6, [0.8, 0.79, 0.75, 0.6, 0.5, 0.4])
    outcome, kept, now = stopping(monkeypatch, curves, stop_utility=0.9)
    assert (outcome.final_step, outcome.chosen_step) == (3, 2)
    assert outcome.stop_reason == "retain and general keep 0.750, below stop_utility = 0.9"
    assert all(torch.equal(w, kept[2][k]) for k, w in now.items())
    assert not all(torch.equal(w, kept[3][k]) for k, w in now.items())


def test_without_stop_rules_nothing_stops(monkeypatch):
    outcome, _, _ = stopping(monkeypatch, ([1.0, 0.0], [1.0, 0.0]))
    assert outcome.final_step == outcome.chosen_step == 6 and outcome.stop_reason == ""


def test_path_questions_are_even():
    asked = [tiny.question(i, group) for group in ("forget", "retain") for i in range(40)]
    asked += [replace(tiny.question(i, "general"), category=f"kind-{i % 5}") for i in range(40)]
    asked += [replace(q, id=q.id + "h", wording="heldout") for q in asked]
    few = trajectory_questions(asked, 10, seed=0)
    table = pd.DataFrame([vars(q) for q in few])
    assert (table["wording"] == "trained").all() and table["id"].is_unique
    counts = table.groupby(["set", "modality"]).size()
    assert (
        counts["forget", "multimodal"] == counts["forget", "text"] == counts["retain", "text"] == 5
    )
    assert table[table["set"] == "forget"].groupby("modality")["person_id"].nunique().tolist() == [
        5,
        5,
    ]
    assert table[table["set"] == "general"].groupby("category").size().tolist() == [2] * 5
    assert [q.id for q in few] == [q.id for q in trajectory_questions(asked, 10, seed=0)]
    assert [q.id for q in few] != [q.id for q in trajectory_questions(asked, 10, seed=1)]
    with pytest.raises(PulseError, match="nothing to measure"):
        trajectory_questions([], 10, seed=0)

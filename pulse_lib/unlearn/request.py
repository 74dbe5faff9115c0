"""One request carried out by one method: what single-shot and sequential runs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pulse_lib.data.records import Conversation
from pulse_lib.errors import PulseError
from pulse_lib.methods import Method
from pulse_lib.model.adapters import adapter_weights, set_adapter_weights
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import encode_conversations, prompt_style
from pulse_lib.profile import UnlearnSettings
from pulse_lib.train.loop import Schedule, Trained, derive_seed, train
from pulse_lib.train.penalties import Penalty, l1
from pulse_lib.train.reference import check_cache, check_same_start, reference_values
from pulse_lib.train.saliency import Mask, salient
from pulse_lib.unlearn.refusals import refused
from pulse_lib.unlearn.trajectory import TrajectoryRecorder

N_SCALES = 10  # of a negated adapter: 0.1, 0.2 ... 1 of max_scale


def unlearn_people(
    model: LoadedModel,
    method: Method,
    forget: Sequence[Conversation],
    retain_train: Sequence[Conversation],
    epochs: int,
    unlearn: UnlearnSettings,
    seed: int,
    reference: Sequence[str],
    same_start: bool,
    recorder: TrajectoryRecorder,
    label: str,
    *,
    adapter: str,
    replay: Sequence[Conversation] = (),
    penalties: Sequence[Penalty] = (),
) -> Trained:
    """Train the stacked `adapter` by one method on one request; base + `reference` is its reference,
    read once before the first step.

    same_start: reference and model must agree before the first step (checked). `recorder` is called
    with step 0 too. `replay`: people forgotten earlier, some of whom join every batch. Raises
    PulseError for a method that trains no adapter on the target.
    """
    if method.procedure == "retrain":
        raise PulseError(f"method {method.id} is a new target, not a request carried out")
    tokens, n = unlearn.supervised_tokens, len(forget)
    people = encode_conversations(model, [*forget, *replay])
    retain = encode_conversations(model, retain_train) if "retain_train" in method.needs else []
    refusals = []
    if "refusals" in method.needs:
        style, form = prompt_style(model.settings.prompt), model.settings.answer_form
        drawn = refused([*forget, *replay], style, form, derive_seed(seed, "refusals"))
        refusals = encode_conversations(model, drawn)
    if method.forget_on == "refusals":
        people = refusals
    values = reference_values(
        model,
        method,
        people,
        retain,
        reference,
        tokens,
        unlearn.batch_size,
        refusals=refusals,
        depth=unlearn.depth,
        seed=derive_seed(seed, "steering"),
    )
    if same_start:
        check_same_start(model, people[: unlearn.batch_size], reference, tokens)
        check_cache(model, method, people[: unlearn.batch_size], values, tokens)
    recorder(0, 0.0)
    if "l1" in method.coefficients:
        penalties = [*penalties, l1(model, method.coefficients["l1"])]
    mask = None
    if "mask" in method.needs:
        share = method.coefficients["warmup_share"]
        mask = Mask(share, lambda: salient(model, people[:n], retain, tokens))
    schedule = Schedule(
        learning_rate=unlearn.learning_rate,
        epochs=epochs,
        batch_size=unlearn.batch_size,
        warmup_steps=unlearn.warmup_steps,
        max_grad_norm=unlearn.max_grad_norm,
        decay=False,
        supervised_tokens=tokens,
        replay_added=max(1, round(unlearn.replay_share * unlearn.batch_size)) if replay else 0,
        micro_batch=unlearn.micro_batch,
        optimizer=unlearn.optimizer,
    )
    trained = train(
        model,
        method,
        people[:n],
        schedule,
        seed,
        retain=retain,
        replay=people[n:],
        reference=values,
        penalties=penalties,
        mask=mask,
        after_step=recorder if method.procedure == "train" else None,
        label=label,
    )
    if method.procedure == "negate":
        return _negated(model, adapter, method, trained, epochs, recorder)
    return trained


def _negated(
    model: LoadedModel,
    adapter: str,
    method: Method,
    trained: Trained,
    epochs: int,
    recorder: TrajectoryRecorder,
) -> Trained:
    """Go from the target in the direction opposite to what the adapter has learned: N_SCALES steps
    without a gradient, each measured.
    """
    learned = adapter_weights(model, adapter)
    for k in range(1, N_SCALES + 1):
        scale = -method.coefficients["max_scale"] * k / N_SCALES
        scaled = {key: w * scale if "lora_B" in key else w for key, w in learned.items()}
        set_adapter_weights(model, adapter, scaled)
        stopped = recorder.measure(trained.n_steps + k, epochs + k / N_SCALES)
        if stopped:
            break
    return replace(trained, n_steps=trained.n_steps + k, stopped=stopped)

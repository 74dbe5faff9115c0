"""One request carried out by one method: what single-shot and sequential runs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pulse_lib.data.records import Conversation
from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import adapter_weights, set_adapter_weights
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import encode_conversations, prompt_style
from pulse_lib.train.checkpoint import Checkpoints, State, load_for
from pulse_lib.train.loop import Schedule, Trained, Watch, derive_seed, train
from pulse_lib.train.penalties import Penalty, l1
from pulse_lib.train.reference import check_cache, check_same_start, reference_values
from pulse_lib.train.saliency import Mask, salient
from pulse_lib.unlearn.refusals import refused
from pulse_lib.unlearn.task import Task
from pulse_lib.unlearn.trajectory import TrajectoryRecorder

N_SCALES = 10  # of a negated adapter: 0.1, 0.2 ... 1 of max_scale


class _Measured:
    """Checkpoints of a training that a recorder watches: with the training, what was measured along
    the way is kept and comes back.
    """

    def __init__(
        self, checkpoints: Checkpoints, recorder: TrajectoryRecorder, *, model: LoadedModel
    ):
        self._inner, self._recorder = checkpoints, recorder
        self._kept = load_for(model, checkpoints)
        if self._kept:
            recorder.restore(self._kept["measured"])

    def load(self) -> State | None:
        """The state that was kept, given once: it is large."""
        kept, self._kept = self._kept, None
        return kept

    def due(self) -> bool:
        """Whether it is time to keep the state again."""
        return self._inner.due()

    def save(self, state: State) -> None:
        """Keep the training and what was measured."""
        self._inner.save(state | {"measured": self._recorder.state()})


def unlearn_people(
    task: Task,
    recorder: TrajectoryRecorder,
    *,
    adapter: str,
    seed: int,
    reference: Sequence[str],
    same_start: bool,
    label: str,
    replay: Sequence[Conversation] = (),
    penalties: Sequence[Penalty] = (),
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Train the stacked `adapter` by the task's method on its forget people; base + `reference` is
    the reference, read once before the first step.

    same_start: reference and model must agree before the first step (checked). `recorder` is called
    with step 0 too. `replay`: people forgotten earlier, some of whom join every batch. With
    `checkpoints` it goes on where it was cut off. Raises PulseError for a method that trains no
    adapter on the target.
    """
    model, method, unlearn, forget = task.model, task.method, task.unlearn, task.forget
    if method.procedure == "retrain":
        raise PulseError(f"method {method.id} is a new target, not a request carried out")
    tokens, n = unlearn.supervised_tokens, len(forget)
    people = encode_conversations(model, [*forget, *replay])
    retain = encode_conversations(model, task.retain) if "retain_train" in method.needs else []
    refusals = []
    if "refusals" in method.needs:
        style, form = prompt_style(model.settings.prompt), model.settings.answer_form
        drawn = refused(
            [*forget, *replay], style, answer_form=form, seed=derive_seed(seed, "refusals")
        )
        refusals = encode_conversations(model, drawn)
    if method.forget_on == "refusals":
        people = refusals
    values = reference_values(
        model,
        method,
        forget=people,
        retain=retain,
        adapters=reference,
        supervised_tokens=tokens,
        batch_size=unlearn.batch_size,
        refusals=refusals,
        depth=unlearn.depth,
        seed=derive_seed(seed, "steering"),
    )
    if same_start:
        check_same_start(
            model, people[: unlearn.batch_size], adapters=reference, supervised_tokens=tokens
        )
        check_cache(
            model,
            method,
            sample=people[: unlearn.batch_size],
            reference=values,
            supervised_tokens=tokens,
        )
    kept = _Measured(checkpoints, recorder, model=model) if checkpoints else None
    if not recorder.points:
        recorder(0, 0.0)
    if "l1" in method.coefficients:
        penalties = [*penalties, l1(model, method.coefficients["l1"])]
    mask = None
    if "mask" in method.needs:
        share = method.coefficients["warmup_share"]
        mask = Mask(
            share, lambda: salient(model, people[:n], retain=retain, supervised_tokens=tokens)
        )
    schedule = Schedule(
        learning_rate=unlearn.learning_rate,
        epochs=task.epochs,
        batch_size=unlearn.batch_size,
        warmup_steps=unlearn.warmup_steps,
        max_grad_norm=unlearn.max_grad_norm,
        decay=False,
        supervised_tokens=tokens,
        replay_added=_replay_added(task) if replay else 0,
        micro_batch=unlearn.micro_batch,
        optimizer=unlearn.optimizer,
    )
    trained = train(
        model,
        method,
        conversations=people[:n],
        schedule=schedule,
        seed=seed,
        retain=retain,
        replay=people[n:],
        reference=values,
        penalties=penalties,
        mask=mask,
        watch=Watch(recorder if method.procedure == "train" else None, kept, label=label),
    )
    if method.procedure == "negate":
        return _negated(task, recorder, adapter=adapter, trained=trained)
    return trained


def _replay_added(task: Task) -> int:
    """Conversations of earlier requests on top of each batch; at least one."""
    share = task.strategy.coefficients["replay_share"] if task.strategy else 0.0
    return max(1, round(share * task.unlearn.batch_size))


def _negated(
    task: Task, recorder: TrajectoryRecorder, *, adapter: str, trained: Trained
) -> Trained:
    """Go from the target in the direction opposite to what the adapter has learned: N_SCALES steps
    without a gradient, each measured.
    """
    learned, steps, stopped = adapter_weights(task.model, adapter), trained.n_steps, ""
    for k in range(1, N_SCALES + 1):
        scale = -task.method.coefficients["max_scale"] * k / N_SCALES
        scaled = {key: w * scale if "lora_B" in key else w for key, w in learned.items()}
        set_adapter_weights(task.model, adapter, weights=scaled)
        stopped, steps = (
            recorder.measure(trained.n_steps + k, task.epochs + k / N_SCALES),
            steps + 1,
        )
        if stopped:
            break
    return replace(trained, n_steps=steps, stopped=stopped)

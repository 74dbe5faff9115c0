"""Unlearning one set of people in one go: the trajectory is recorded, and two states are kept,
`final` and `matched`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import pandas as pd

from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import AdapterWeights, adapter_weights, add_adapter, stack
from pulse_lib.train.checkpoint import Checkpoints
from pulse_lib.train.finetune import Lessons, finetune
from pulse_lib.train.loop import LOG_COLUMNS, Trained, derive_seed
from pulse_lib.unlearn.request import unlearn_people
from pulse_lib.unlearn.task import Task
from pulse_lib.unlearn.trajectory import TrajectoryRecorder

RETAIN_MODEL = "retain_model"  # adapter of a reference that never met the forget people


@dataclass(frozen=True)
class Outcome:
    """What one unlearning leaves. `states` holds the adapter's weights: "final", and "matched" if
    it was reached.
    """

    trajectory: pd.DataFrame  # columns TRAJECTORY_COLUMNS
    log: pd.DataFrame
    _: KW_ONLY
    final_step: int
    matched_step: int | None
    states: dict[str, AdapterWeights]
    n_trainable: int
    seconds_train: float  # steps alone, without measurements
    chosen_step: int = 0  # whose weights are "final": the last, or the last above a utility floor
    stop_reason: str = ""  # the stop rule that was met; "" if all epochs were done
    masked_fraction: float = 0.0  # share of the trained parameters that a mask held still
    on_target: bool = True  # the adapter's parent is the target; False: the base (oracle)

    def result(self) -> dict:
        """What goes into result.json."""
        return {
            "matched_step": self.matched_step,
            "final_step": self.final_step,
            "chosen_step": self.chosen_step,
            "stop_reason": self.stop_reason,
            "held_share": round(self.masked_fraction, 4),
            "n_trainable": self.n_trainable,
            "n_measurements": len(self.trajectory),
            "seconds_train": round(self.seconds_train, 3),
        }


def unlearn_single_shot(
    task: Task,
    name: str = "unlearn",
    *,
    label: str = "unlearning",
    reference: Sequence[str] | None = None,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Make the task's target forget people, by a new LoRA `name` on top; for method oracle, on the
    base, by `relearn`. With `checkpoints` it goes on where it was cut off. `reference`: the adapters
    of a loss's frozen model, if it is another than the profile and the method say.

    Afterwards the model's state is the final one, frozen; `set_adapter_weights(model, name,
    outcome.states["matched"])` goes to the other.
    """
    model, unlearn, target = task.model, task.unlearn, list(task.target.adapters)
    retrains = task.method.procedure == "retrain"
    task.load_features()
    if reference is None and "retain model" in task.method.needs:
        reference = _retain_model(task)
    recorder = TrajectoryRecorder(task, name)
    if retrains:
        trained = _relearned(task, recorder, name=name, checkpoints=checkpoints)
    else:
        seed = derive_seed(task.seed, "adapter", 1)
        add_adapter(
            model,
            name,
            trained_part=task.trained_part,
            rank=unlearn.rank,
            alpha=unlearn.alpha,
            seed=seed,
        )
        stack(model, target, train=name)
        if reference is None:
            reference = [] if unlearn.reference == "base" else target
        trained = unlearn_people(
            task,
            recorder,
            adapter=name,
            seed=derive_seed(task.seed, "round", 1),
            reference=reference,
            same_start=list(reference) == target,
            label=label,
            checkpoints=checkpoints,
        )
    chosen_step = recorder.settle(trained.n_steps)
    stack(model, [*([] if retrains else target), name])
    states = {"final": adapter_weights(model, name)} | (
        {"matched": recorder.matched} if recorder.matched else {}
    )
    return Outcome(
        trajectory=recorder.table(),
        log=trained.log,
        final_step=trained.n_steps,
        matched_step=recorder.matched_step,
        states=states,
        n_trainable=trained.n_trainable,
        seconds_train=trained.seconds,
        chosen_step=chosen_step,
        stop_reason=trained.stopped,
        masked_fraction=trained.masked_fraction,
        on_target=not retrains,
    )


def _retain_model(task: Task) -> list[str]:
    """The adapters of a model that never met the forget people: fine-tuned on the base as the target
    was, on the others alone. Raises PulseError if the task doesn't say on whom.
    """
    if task.relearn is None:
        raise PulseError(
            f"method {task.method.id} compares with a model of the other people: give `relearn`, whom "
            "that may learn"
        )
    lessons = Lessons(task.relearn.people, task.relearn.general, images=task.images)
    finetune(
        task.model,
        lessons,
        settings=task.relearn.settings,
        seed=task.seed,
        name=RETAIN_MODEL,
        label="reference",
    )
    return [RETAIN_MODEL]


def _relearned(
    task: Task, recorder: TrajectoryRecorder, *, name: str, checkpoints: Checkpoints | None
) -> Trained:
    """Fine-tune the base anew on everybody but the forget people: step 0 of the trajectory is the
    target, the next and last one the oracle.

    Without a fine-tune to replace (no adapter of the target, no `relearn`), the model itself is the
    oracle, and the adapter changes nothing.
    """
    model, target, relearn = task.model, task.target.adapters, task.relearn
    if (relearn is None) != (not target):
        raise PulseError("method oracle learns a new target: give `relearn`, whom it may learn")
    stack(model, target)
    recorder(0, 0.0)
    if relearn is None:
        add_adapter(
            model,
            name,
            trained_part=task.trained_part,
            rank=1,
            alpha=1,
            seed=derive_seed(task.seed, "adapter", 1),
        )
        recorder.measure(1, 0.0)
        nothing = dict.fromkeys(LOG_COLUMNS, 0.0) | {"step": 1}
        return Trained(pd.DataFrame([nothing]), 1, n_trainable=0, seconds=0.0)
    trained = finetune(
        model,
        Lessons(relearn.people, relearn.general, images=task.images),
        settings=relearn.settings,
        seed=task.seed,
        trained_part=task.trained_part,
        name=name,
        label="oracle",
        checkpoints=checkpoints,
    )
    recorder.measure(trained.n_steps, relearn.settings.epochs)
    return trained

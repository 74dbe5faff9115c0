"""Unlearning one set of people in one go: the path is recorded, and two states are kept, `final`
and `matched`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pulse_lib.data.records import Conversation, ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.methods import get
from pulse_lib.model.adapters import AdapterWeights, adapter_weights, add_adapter, stack
from pulse_lib.model.load import LoadedModel
from pulse_lib.profile import (
    EvaluateSettings,
    UnlearnSettings,
)
from pulse_lib.train.loop import LOG_COLUMNS, Trained, derive_seed, finetune
from pulse_lib.unlearn.request import unlearn_people
from pulse_lib.unlearn.task import Relearn, load_features
from pulse_lib.unlearn.trajectory import TrajectoryRecorder


@dataclass(frozen=True)
class Outcome:
    """What one unlearning leaves. `states` holds the adapter's weights: "final", and "matched" if
    it was reached.
    """

    path: pd.DataFrame  # columns TRAJECTORY_COLUMNS
    log: pd.DataFrame
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
            "n_measurements": len(self.path),
            "seconds_train": round(self.seconds_train, 3),
        }


def unlearn_single_shot(
    model: LoadedModel,
    method_id: str,
    *,
    target: Sequence[str],
    forget: Sequence[Conversation],
    retain_train: Sequence[Conversation],
    questions: Sequence[Question],
    images: ImageStore,
    epochs: int,
    unlearn: UnlearnSettings,
    evaluate: EvaluateSettings,
    seed: int,
    trained_part: str = "projector+llm",
    name: str = "unlearn",
    label: str = "unlearning",
    relearn: Relearn | None = None,
    tuned: Mapping[str, float] | None = None,
) -> Outcome:
    """Make the target (base + adapters `target`) forget people, by a new LoRA `name` on top; for
    method oracle, on the base, by `relearn`.

    `questions` are those of the evaluation; the path asks some of the forget, retain and general
    ones. `tuned` sets numbers of the method anew (Method.tuned). Afterwards the model's state is the final one, frozen; `set_adapter_weights(model, name,
    outcome.states["matched"])` goes to the other.
    """
    method = get(method_id).tuned(tuned or {})
    load_features(model, [*forget, *retain_train], questions, images)
    recorder = TrajectoryRecorder(
        model,
        questions,
        images,
        unlearn,
        evaluate,
        derive_seed(seed, "path"),
        last_step=unlearn.n_steps(len(forget), epochs),
        adapter=name,
        trained=name,
    )
    below: Sequence[str] = [] if method.procedure == "retrain" else target
    if method.procedure == "retrain":
        trained = _relearned(model, target, relearn, images, seed, trained_part, name, recorder)
    else:
        add_adapter(
            model, name, trained_part, unlearn.rank, unlearn.alpha, derive_seed(seed, "adapter", 1)
        )
        stack(model, target, train=name)
        reference = [] if unlearn.reference == "base" else target
        trained = unlearn_people(
            model,
            method,
            forget,
            retain_train,
            epochs,
            unlearn,
            derive_seed(seed, "round", 1),
            reference,
            list(reference) == list(target),
            recorder,
            label,
            adapter=name,
        )
    chosen_step = recorder.settle(trained.n_steps)
    stack(model, [*below, name])
    states = {"final": adapter_weights(model, name)} | (
        {"matched": recorder.matched} if recorder.matched else {}
    )
    return Outcome(
        path=recorder.table(),
        log=trained.log,
        final_step=trained.n_steps,
        matched_step=recorder.matched_step,
        states=states,
        n_trainable=trained.n_trainable,
        seconds_train=trained.seconds,
        chosen_step=chosen_step,
        stop_reason=trained.stopped,
        masked_fraction=trained.masked_fraction,
        on_target=method.procedure != "retrain",
    )


def _relearned(
    model: LoadedModel,
    target: Sequence[str],
    relearn: Relearn | None,
    images: ImageStore,
    seed: int,
    trained_part: str,
    name: str,
    recorder: TrajectoryRecorder,
) -> Trained:
    """Fine-tune the base anew on everybody but the forget people: step 0 of the path is the target,
    the next and last one the oracle.

    Without a fine-tune to replace (no `target`, no `relearn`), the model itself is the oracle, and
    the adapter changes nothing.
    """
    if (relearn is None) != (not target):
        raise PulseError("method oracle learns a new target: give `relearn`, whom it may learn")
    stack(model, target)
    recorder(0, 0.0)
    if relearn is None:
        add_adapter(model, name, trained_part, 1, 1, derive_seed(seed, "adapter", 1))
        recorder.measure(1, 0.0)
        nothing = dict.fromkeys(LOG_COLUMNS, 0.0) | {"step": 1}
        return Trained(pd.DataFrame([nothing]), 1, 0, 0.0)
    trained = finetune(
        model,
        relearn.people,
        relearn.general,
        images,
        relearn.settings,
        seed,
        trained_part=trained_part,
        name=name,
        label="oracle",
    )
    recorder.measure(trained.n_steps, relearn.settings.epochs)
    return trained

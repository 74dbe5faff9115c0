"""Unlearning one set of people in one go: the path is recorded, and two states are kept, `final`
and `matched`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from pulse_lib.data.dataset import Dataset
from pulse_lib.data.records import Conversation, ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import AdapterWeights, adapter_weights, add_adapter, stack
from pulse_lib.model.load import LoadedModel
from pulse_lib.params import (
    EvaluateSettings,
    FinetuneSettings,
    ModelSettings,
    Profile,
    UnlearnSettings,
)
from pulse_lib.unlearn.methods import get
from pulse_lib.unlearn.path import PathRecorder
from pulse_lib.unlearn.request import unlearn_people
from pulse_lib.unlearn.train import LOG_COLUMNS, Trained, derive_seed, finetune


@dataclass(frozen=True)
class Relearn:
    """What method `oracle` learns in place of the target's fine-tune: everybody but the forget
    people.
    """

    people: Sequence[Conversation]
    general: Sequence[Conversation]
    settings: FinetuneSettings


@dataclass(frozen=True)
class Outcome:
    """What one unlearning leaves. `states` holds the adapter's weights: "final", and "matched" if
    it was reached.
    """

    path: pd.DataFrame  # columns PATH_COLUMNS
    log: pd.DataFrame
    final_step: int
    matched_step: int | None
    states: dict[str, AdapterWeights]
    n_trainable: int
    seconds_train: float  # steps alone, without measurements
    chosen_step: int = 0  # whose weights are "final": the last, or the last above a utility floor
    stop_reason: str = ""  # the stop rule that was met; "" if all epochs were done
    held_share: float = 0.0  # share of the trained parameters that a mask held still
    on_target: bool = True  # the adapter's parent is the target; False: the base (oracle)

    def result(self) -> dict:
        """What goes into result.json."""
        return {
            "matched_step": self.matched_step,
            "final_step": self.final_step,
            "chosen_step": self.chosen_step,
            "stop_reason": self.stop_reason,
            "held_share": round(self.held_share, 4),
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
    recorder = PathRecorder(
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
    below: Sequence[str] = [] if method.how == "retrain" else target
    if method.how == "retrain":
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
        held_share=trained.held_share,
        on_target=method.how != "retrain",
    )


def _relearned(
    model: LoadedModel,
    target: Sequence[str],
    relearn: Relearn | None,
    images: ImageStore,
    seed: int,
    trained_part: str,
    name: str,
    recorder: PathRecorder,
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


def relearn_of(data: Dataset, settings: Profile, scenario: str, method_id: str) -> Relearn | None:
    """Whom method oracle learns anew in scenario finetuned; None for any other method, and in
    scenario pretrained, where the model itself never met the forget people.
    """
    if get(method_id).how != "retrain" or scenario != "finetuned":
        return None
    people = data.training(scenario, ["retain", "retain_train"], "finetune")
    return Relearn(people, data.training("", ["general_train"], "finetune"), settings.finetune)


def model_of(settings: Profile, scenario: str, method_id: str, seed: int) -> ModelSettings:
    """The model that a run loads: the profile's; for method oracle in scenario pretrained, the one
    that was pre-trained without the forget people. Raises PulseError if there is none.
    """
    if get(method_id).how != "retrain" or scenario != "pretrained":
        return settings.model
    path = settings.unlearn.oracle_model.replace("{seed}", str(seed))
    if not path:
        raise PulseError(
            f"method {method_id}, scenario pretrained: {settings.model.path!r} has met the forget "
            "people while it was pre-trained. Pre-train one without them (python -m pulse_lib "
            "pretrain-tiny --without FILE) and name it in the profile: unlearn.oracle_model"
        )
    return replace(settings.model, path=path)


def load_features(
    model: LoadedModel,
    conversations: Sequence[Conversation],
    questions: Sequence[Question],
    images: ImageStore,
) -> None:
    """Vision features of everything a run will see, in one go: a resumed run then has the same bits
    as an uninterrupted one.
    """
    model.features.add([*(c.image for c in conversations), *(q.image for q in questions)], images)

"""Unlearning one set of people in one go: the path is recorded, and two states are kept, `final`
and `matched`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pulse_lib.data.records import Conversation, ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import SUMMARY, forget_mean, scored, summary
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.model.adapters import AdapterWeights, adapter_weights, add_adapter, stack
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import Encoded, encode_conversations
from pulse_lib.params import EvaluateSettings, UnlearnSettings
from pulse_lib.unlearn.methods import Method, get
from pulse_lib.unlearn.reference import check_cache, check_same_start, reference_values
from pulse_lib.unlearn.train import Schedule, Trained, derive_seed, train

PATH_COLUMNS = ["step", "epoch", *SUMMARY, "forget_full"]
NEAR_MATCHED = (
    0.10  # cheap forget accuracy this close above matched_at: the whole forget set is asked
)


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

    def result(self) -> dict:
        """What goes into result.json."""
        return {
            "matched_step": self.matched_step,
            "final_step": self.final_step,
            "n_trainable": self.n_trainable,
            "n_measurements": len(self.path),
            "seconds_train": round(self.seconds_train, 3),
        }


@dataclass
class PathRecorder:
    """Measures the model along the way: every `path_every` steps, and at every step once the forget
    accuracy has fallen below `path_dense_below` of its start.

    A cheap measurement asks the same few questions each time. With `adapter`, the first step at
    which the whole forget set is at or below `matched_at` is looked for, and that adapter's weights
    there are kept.
    """

    model: LoadedModel
    questions: Sequence[Question]
    images: ImageStore
    unlearn: UnlearnSettings
    evaluate: EvaluateSettings
    seed: int
    last_step: int = 0
    adapter: str = ""
    points: list[dict] = field(default_factory=list)
    matched_step: int | None = None
    matched: AdapterWeights | None = None

    def __post_init__(self) -> None:
        self.few = path_questions(self.questions, self.evaluate.n_path_questions, self.seed)
        self.forget = [q for q in self.questions if q.set == "forget" and q.wording == "trained"]

    def __call__(self, step: int, epoch: float) -> None:
        """Measure after this step if it is time to. Step 0, before training, must come first."""
        every = self.unlearn.path_every
        on_time = step in (0, self.last_step) or (every > 0 and step % every == 0)
        if not on_time and not self._falling():
            return
        point = {
            "step": step,
            "epoch": epoch,
            **summary(self._ask(self.few)),
            "forget_full": float("nan"),
        }
        near = _forget(point) <= self.unlearn.matched_at + NEAR_MATCHED
        if self.adapter and step > 0 and self.matched_step is None and near:
            point["forget_full"] = forget_mean(self._ask(self.forget))
            if point["forget_full"] <= self.unlearn.matched_at:
                self.matched_step, self.matched = step, adapter_weights(self.model, self.adapter)
        self.points.append(point)

    def table(self) -> pd.DataFrame:
        """The path so far."""
        return pd.DataFrame(self.points, columns=PATH_COLUMNS)

    def _falling(self) -> bool:
        start, now = _forget(self.points[0]), _forget(self.points[-1])
        return bool(self.adapter) and now < self.unlearn.path_dense_below * start

    def _ask(self, questions: Sequence[Question]) -> pd.DataFrame:
        answers = answer_questions(
            self.model, questions, self.images, self.evaluate, with_loglik=False
        )
        return scored(questions, answers, self.evaluate.extraction_rules)


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
) -> Outcome:
    """Make the target (base + adapters `target`) forget people, by a new LoRA `name` on top.

    `questions` are those of the evaluation; the path asks some of the forget, retain and general
    ones. Afterwards the model's state is the final one, frozen; `set_adapter_weights(model, name,
    outcome.states["matched"])` goes to the other.
    """
    method = get(method_id)
    load_features(model, [*forget, *retain_train], questions, images)
    add_adapter(
        model, name, trained_part, unlearn.rank, unlearn.alpha, derive_seed(seed, "adapter", 1)
    )
    stack(model, target, train=name)
    encoded = encode_conversations(model, forget)
    recorder = PathRecorder(
        model,
        questions,
        images,
        unlearn,
        evaluate,
        derive_seed(seed, "path"),
        last_step=-(-len(encoded) // unlearn.batch_size) * epochs,
        adapter=name,
    )
    trained = unlearn_people(
        model,
        method,
        encoded,
        retain_train,
        epochs,
        unlearn,
        derive_seed(seed, "round", 1),
        target,
        True,
        recorder,
        label,
    )
    stack(model, [*target, name])
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
    )


def unlearn_people(
    model: LoadedModel,
    method: Method,
    forget: Sequence[Encoded],
    retain_train: Sequence[Conversation],
    epochs: int,
    unlearn: UnlearnSettings,
    seed: int,
    reference: Sequence[str],
    same_start: bool,
    recorder: Callable[[int, float], None],
    label: str,
) -> Trained:
    """Train the stacked adapter by one method on one request; base + `reference` is its reference,
    read once before the first step.

    same_start: reference and model must agree before the first step (checked). `recorder` is called
    with step 0 too.
    """
    retain = encode_conversations(model, retain_train) if method.retain_loss else []
    tokens = unlearn.supervised_tokens
    values = reference_values(model, method, forget, retain, reference, tokens, unlearn.batch_size)
    if same_start:
        check_same_start(model, forget[: unlearn.batch_size], reference, tokens)
        check_cache(model, method, forget[: unlearn.batch_size], values, tokens)
    recorder(0, 0.0)
    schedule = Schedule(
        learning_rate=unlearn.learning_rate,
        epochs=epochs,
        batch_size=unlearn.batch_size,
        warmup_steps=unlearn.warmup_steps,
        max_grad_norm=unlearn.max_grad_norm,
        decay=False,
        supervised_tokens=tokens,
    )
    return train(
        model,
        method,
        forget,
        schedule,
        seed,
        retain=retain,
        reference=values,
        after_step=recorder,
        label=label,
    )


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


def path_questions(questions: Sequence[Question], n: int, seed: int) -> list[Question]:
    """Up to `n` questions of each of forget, retain, general (trained wordings), modalities even,
    people or categories in turn.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for group in ("forget", "retain", "general"):
        asked = [q for q in questions if q.set == group and q.wording == "trained"]
        kinds = sorted({q.modality for q in asked}) if group != "general" else [None]
        for kind in kinds:
            pool = [q for q in asked if kind is None or q.modality == kind]
            pool = [pool[i] for i in generator.permutation(len(pool))]
            seen: dict[str, int] = {}
            turn = {}
            for q in pool:
                owner = q.person_id or q.category
                turn[q.id] = seen[owner] = seen.get(owner, 0) + 1
            chosen += sorted(pool, key=lambda q: turn[q.id])[: max(1, n // len(kinds))]
    if not chosen:
        raise PulseError(
            "no question of forget, retain or general in a trained wording: there is nothing to "
            "measure"
        )
    return chosen


def _forget(point: dict) -> float:
    values = [v for v in (point["forget_multimodal"], point["forget_text"]) if not np.isnan(v)]
    return float(np.mean(values)) if values else float("nan")

"""Measuring a model while it unlearns: the path, the `matched` state, the stop rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from pulse_lib.data.records import ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import (
    RETAINED,
    SUMMARY,
    both_modalities,
    forget_mean,
    nan_mean,
    retained_share,
    summary,
)
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import scored
from pulse_lib.model.adapters import AdapterWeights, adapter_weights, set_adapter_weights
from pulse_lib.model.load import LoadedModel
from pulse_lib.profile import EvaluateSettings, UnlearnSettings

TRAJECTORY_COLUMNS = ["step", "epoch", *SUMMARY, "forget_full"]
NEAR_MATCHED = (
    0.10  # cheap forget accuracy this close above matched_at: the whole forget set is asked
)


@dataclass
class TrajectoryRecorder:
    """Measures the model along the way: every `path_every` steps, and at every step once the forget
    accuracy has fallen below `path_dense_below` of its start.

    A cheap measurement asks the same few questions each time. With `adapter`, the first step at
    which the whole forget set is at or below `matched_at` is looked for, and that adapter's weights
    there are kept. A call returns the stop rule that is met, or "".
    """

    model: LoadedModel
    questions: Sequence[Question]
    images: ImageStore
    unlearn: UnlearnSettings
    evaluate: EvaluateSettings
    seed: int
    last_step: int = 0
    adapter: str = ""
    trained: str = ""  # the adapter that a utility floor goes back to
    answer: Callable[..., pd.DataFrame] = answer_questions
    points: list[dict] = field(default_factory=list)
    matched_step: int | None = None
    matched: AdapterWeights | None = None
    good: tuple[int, AdapterWeights] | None = None  # last step above the utility floor
    fell: bool = False  # below the utility floor

    def __post_init__(self) -> None:
        self.few = trajectory_questions(self.questions, self.evaluate.n_path_questions, self.seed)
        self.forget = [q for q in self.questions if q.set == "forget" and q.wording == "trained"]

    def __call__(self, step: int, epoch: float) -> str:
        """Measure after this step if it is time to. Step 0, before training, must come first."""
        every = self.unlearn.path_every
        on_time = step in (0, self.last_step) or (every > 0 and step % every == 0)
        if not on_time and not self._falling():
            return ""
        return self.measure(step, epoch)

    def measure(self, step: int, epoch: float) -> str:
        """Measure after this step; the reason to stop, or ""."""
        point = {
            "step": step,
            "epoch": epoch,
            **summary(self._ask(self.few)),
            "forget_full": float("nan"),
        }
        near = both_modalities(point) <= self.unlearn.matched_at + NEAR_MATCHED
        if self.adapter and step > 0 and self.matched_step is None and near:
            point["forget_full"] = forget_mean(self._ask(self.forget))
            if point["forget_full"] <= self.unlearn.matched_at:
                self.matched_step, self.matched = step, adapter_weights(self.model, self.adapter)
        self.points.append(point)
        return self._verdict(step, point)

    def settle(self, last_step: int) -> int:
        """The step whose weights are kept, put back into the model: the last one, or the last one
        above the utility floor.
        """
        if not self.fell:
            return last_step
        step, weights = self.good
        set_adapter_weights(self.model, self.trained, weights)
        return step

    def table(self) -> pd.DataFrame:
        """The path so far."""
        return pd.DataFrame(self.points, columns=TRAJECTORY_COLUMNS)

    def _verdict(self, step: int, point: dict) -> str:
        goal, floor = self.unlearn.stop_forget, self.unlearn.stop_utility
        if floor > 0:
            kept = retained_share(_utility(self.points[0]), _utility(point))
            if kept < floor:
                self.fell = True
                return f"retain and general keep {kept:.3f}, below stop_utility = {floor:g}"
            self.good = step, adapter_weights(self.model, self.trained)
        # The whole forget set, where it was asked, has the last word: a few questions may say less.
        forget = np.fmax(both_modalities(point), point["forget_full"])
        if goal > 0 and step > 0 and forget <= goal:
            return f"forget accuracy {forget:.3f}, at or below stop_forget = {goal:g}"
        return ""

    def _falling(self) -> bool:
        start, now = both_modalities(self.points[0]), both_modalities(self.points[-1])
        return bool(self.adapter) and now < self.unlearn.path_dense_below * start

    def _ask(self, questions: Sequence[Question]) -> pd.DataFrame:
        answers = self.answer(self.model, questions, self.images, self.evaluate, with_loglik=False)
        return scored(questions, answers, self.evaluate.extraction_rules)


def trajectory_questions(questions: Sequence[Question], n: int, seed: int) -> list[Question]:
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


def _utility(point: dict) -> float:
    """Mean of retain and general accuracy."""
    return nan_mean(point[name] for name in RETAINED)

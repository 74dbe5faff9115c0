"""Measuring a model while it unlearns: the trajectory, the `matched` state, the stop rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from pulse_lib.data.records import Question
from pulse_lib.data.splits import in_turn
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import (
    LIKELIHOODS,
    RETAINED,
    SUMMARY,
    both_modalities,
    forget_level,
    forget_mean,
    likelihoods,
    nan_mean,
    retained_share,
    summary,
)
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import scored
from pulse_lib.model.adapters import AdapterWeights, adapter_weights, set_adapter_weights
from pulse_lib.profile import MatchedBy
from pulse_lib.train.loop import derive_seed
from pulse_lib.unlearn.task import Task

FULL = ("forget_full", "forget_full_likelihood")  # of the whole forget set, where it was asked
TRAJECTORY_COLUMNS = ["step", "epoch", *SUMMARY, *LIKELIHOODS, *FULL]
# A few questions' forget accuracy this close above matched_at: the whole forget set is asked
NEAR_MATCHED = 0.10
# Where every step would be measured, a run of more steps than this is measured so many times: its
# steps are as much smaller
MOST_MEASURED = 150


class TrajectoryRecorder:
    """Measures a task's model along the way: every `path_every` steps; and while the `matched` state
    is looked for (with a stop rule: to the end), at every step once the forget accuracy has fallen
    below `path_dense_below` of its start.

    Where neither that state is looked for nor a stop rule set, as in a round of a sequence, nothing
    is measured: all questions are asked at its end.

    A measurement asks the same few questions each time. The `matched` state is that of the first
    step at which the whole forget set is at or below `matched_at`: by what the model says and by
    which option is the likeliest, unless `matched_by` is generation. A call returns the stop rule
    that is met, or "".
    """

    def __init__(
        self,
        task: Task,
        adapter: str,
        *,
        find_matched: bool = True,
        answer: Callable[..., pd.DataFrame] = answer_questions,
    ):
        """`adapter`: the one that is trained, whose weights are kept. `answer`: how the model is
        asked. Raises PulseError for a forget question without options to compare, unless what is
        said decides alone.
        """
        self.task, self.adapter, self.answer = task, adapter, answer
        self.find_matched = find_matched
        self.last_step = task.unlearn.n_steps(len(task.forget), task.epochs)
        self.dense = max(1, math.ceil(self.last_step / MOST_MEASURED))
        n, seed = task.evaluate.n_path_questions, derive_seed(task.seed, "path")
        self.few = trajectory_questions(task.questions, n, seed=seed)
        self.forget = [q for q in task.questions if q.set == "forget" and q.wording == "trained"]
        open_ = next((q.id for q in self.forget if len(q.options) < 2), "")
        if open_ and self._by == "both":
            raise PulseError(
                f"question {open_!r} has no options of which one could be the likeliest: give it "
                "two or more, or set unlearn.matched_by: generation in the profile, so that what "
                "is said decides alone"
            )
        self.points: list[dict] = []
        self.matched_step: int | None = None
        self.matched: AdapterWeights | None = None
        self._good: tuple[int, AdapterWeights] | None = None  # the last above the utility floor
        self._fell = False  # below the utility floor

    def __call__(self, step: int, epoch: float) -> str:
        """Measure after this step if it is time to. Step 0, before training, must come first."""
        every = self.task.unlearn.path_every
        on_time = step in (0, self.last_step) or (every > 0 and step % max(every, self.dense) == 0)
        if not on_time and (step % self.dense or not self._falling()):
            return ""
        return self.measure(step, epoch)

    def measure(self, step: int, epoch: float) -> str:
        """Measure after this step; the reason to stop, or ""."""
        if not (self.find_matched or self._stops):
            return ""
        few = self._ask(self.few)
        point = {"step": step, "epoch": epoch, **summary(few), **likelihoods(few)}
        point |= dict.fromkeys(FULL, float("nan"))
        looking = self.find_matched and step > 0 and self.matched_step is None
        if looking and forget_level(point, self._by) <= self._level + NEAR_MATCHED:
            whole = self._ask(self.forget)
            point["forget_full"] = forget_mean(whole)
            point["forget_full_likelihood"] = forget_mean(whole, "loglik_correct")
            if self._full(point) <= self._level:
                self.matched_step = step
                self.matched = adapter_weights(self.task.model, self.adapter)
        self.points.append(point)
        return self._verdict(step, point)

    def settle(self, last_step: int) -> int:
        """The step whose weights are kept, put back into the model: the last one, or the last one
        above the utility floor.
        """
        if not self._fell or self._good is None:
            return last_step
        step, weights = self._good
        set_adapter_weights(self.task.model, self.adapter, weights=weights)
        return step

    def state(self) -> dict:
        """All that was measured and kept so far, for a checkpoint."""
        return {
            "points": [{k: _number(v) for k, v in point.items()} for point in self.points],
            "matched_step": self.matched_step,
            "matched": self.matched,
            "good": self._good,
            "fell": self._fell,
        }

    def restore(self, state: dict) -> None:
        """Go on from what `state` gave."""
        self.points, self._good, self._fell = state["points"], state["good"], state["fell"]
        self.matched_step, self.matched = state["matched_step"], state["matched"]

    def table(self) -> pd.DataFrame:
        """The trajectory so far: columns TRAJECTORY_COLUMNS."""
        return pd.DataFrame(self.points, columns=TRAJECTORY_COLUMNS)

    def _verdict(self, step: int, point: dict) -> str:
        goal, floor = self.task.unlearn.stop_forget, self.task.unlearn.stop_utility
        if floor > 0:
            kept = retained_share(_utility(self.points[0]), _utility(point))
            if kept < floor:
                self._fell = True
                return f"retain and general keep {kept:.3f}, below stop_utility = {floor:g}"
            self._good = step, adapter_weights(self.task.model, self.adapter)
        # The whole forget set, where it was asked, has the last word: a few questions may say less.
        forget = np.fmax(forget_level(point, self._by), self._full(point))
        if goal > 0 and step > 0 and forget <= goal:
            return f"forget accuracy {forget:.3f}, at or below stop_forget = {goal:g}"
        return ""

    @property
    def _level(self) -> float:
        return self.task.unlearn.matched_at

    @property
    def _by(self) -> MatchedBy:
        return self.task.unlearn.matched_by

    def _full(self, point: dict) -> float:
        """The whole forget set's accuracy that is compared with a level; NaN where not asked."""
        said, likeliest = (point[name] for name in FULL)
        return said if self._by == "generation" else float(np.maximum(said, likeliest))

    @property
    def _stops(self) -> bool:
        return self.task.unlearn.stop_forget > 0 or self.task.unlearn.stop_utility > 0

    def _falling(self) -> bool:
        if not self.find_matched or (self.matched_step is not None and not self._stops):
            return False
        start, now = both_modalities(self.points[0]), both_modalities(self.points[-1])
        return now < self.task.unlearn.path_dense_below * start

    def _ask(self, questions: Sequence[Question]) -> pd.DataFrame:
        task = self.task
        # Likelihoods come from the reading that generation needs anyway
        answers = self.answer(
            task.model, questions, images=task.images, settings=task.evaluate, with_loglik=True
        )
        return scored(questions, answers, rules=task.evaluate.extraction_rules)


def trajectory_questions(questions: Sequence[Question], n: int, *, seed: int) -> list[Question]:
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
            chosen += in_turn(pool, generator)[: max(1, n // len(kinds))]
    if not chosen:
        raise PulseError(
            "no question of forget, retain or general in a trained wording: there is nothing to "
            "measure"
        )
    return chosen


def _number(value: float) -> float:
    """A plain number: a checkpoint holds none of numpy's."""
    return value.item() if isinstance(value, np.generic) else value


def _utility(point: dict) -> float:
    """Mean of retain and general accuracy."""
    return nan_mean(point[name] for name in RETAINED)

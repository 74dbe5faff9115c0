"""Goal `end_point` of a search: where a trial ends as the paper's runs do, and how the next one gets
nearer to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from pulse_lib.commands.stages import counts
from pulse_lib.evaluate.accuracy import at_level, both_modalities, retained_share
from pulse_lib.profile import Profile
from pulse_lib.report.paper import END_POINT

TOLERANCE = 0.08  # how far from the paper's END_POINT an epoch's end may be
# So many more steps a run at a factor f of a rate needs to forget as much, f being near 1: f ** -0.9
PACE_NEARBY = 0.9


def steps_an_epoch(settings: Profile) -> tuple[int, int]:
    """Steps of an epoch of single-shot unlearning: over fine-tuned people, over pre-trained ones."""
    each, data = counts(settings)["forget a person"], settings.data
    fine, pre = (data.n_finetuned_forget, data.n_pretrained_forget)
    return settings.unlearn.n_steps(fine * each, 1), settings.unlearn.n_steps(pre * each, 1)


def whole_epochs(settings: Profile) -> int:
    """The fewest epochs of fine-tuned people whose steps are whole epochs of pre-trained ones too,
    so that both can be trained for as many steps.
    """
    fine, pre = steps_an_epoch(settings)
    return pre // math.gcd(fine, pre) if pre else 1


def score_end(trajectory: pd.DataFrame, per_epoch: int, *, unit: int = 1) -> dict:
    """What a trajectory is worth at its end point, the end of `unit` epochs, or twice as many ...,
    whose forget accuracy, by generation, is nearest to END_POINT: `score`, the share of general
    accuracy that is left there, if it is within TOLERANCE; else minus the distance. Also epochs,
    step, forget; and crossing, the step at which it came down to END_POINT, if it did. per_epoch:
    steps.
    """
    start, later = trajectory.iloc[0], trajectory[trajectory["step"] > 0]
    whole = later[later["step"] % (unit * per_epoch) == 0]
    ends = whole if len(whole) else later.tail(1)
    distance = pd.Series(np.abs(both_modalities(ends) - END_POINT), index=ends.index)
    end = ends.loc[distance.idxmin()]
    reached = len(whole) > 0 and bool(distance.min() <= TOLERANCE)
    kept = float(retained_share(start["general"], end["general"]))
    there = at_level(trajectory, END_POINT, by="generation", columns=[])
    return {
        "score": kept if reached else -float(distance.min()),
        "reached": reached,
        "kept_general": kept,
        "forget": float(both_modalities(end)),
        "step": int(end["step"]),
        "epochs": math.ceil(end["step"] / per_epoch),
        "crossing": there["step"] if there else None,
        "per_epoch": per_epoch,
    }


def refined(trial: Mapping, unit: int = 1) -> dict[str, float] | None:
    """What the trial after one of goal end_point sets: the same, at the rate at which its crossing
    should fall on the end of `unit` epochs, or twice as many ...; None if it never got there. It
    may go on for another epoch, so that it crosses in any case.

    Forget accuracy falls within a few steps, so that few rates end an epoch near END_POINT.
    """
    if trial.get("crossing") is None:
        return None
    epochs = unit * max(1, round(trial["crossing"] / trial["per_epoch"] / unit))
    times = (trial["crossing"] / (epochs * trial["per_epoch"])) ** (1 / PACE_NEARBY)
    rate = float(f"{trial['values']['learning_rate'] * times:.3g}")
    return {**trial["values"], "learning_rate": rate, "epochs": epochs + 1}

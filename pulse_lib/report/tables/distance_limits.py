"""Limits of the distances between a model's answers and the oracle's: of one seed for other people
(of general questions, for other questions), of several seeds for other training runs too."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pulse_lib.evaluate.distance import Pair
from pulse_lib.report import limits
from pulse_lib.report.limits import Limits
from pulse_lib.report.stats import LEVEL

MEANT = ("forget_ks", "retain_js", "general_js")  # whose mean is `distance`
WITH_LIMITS = ("distance", "forget_ks", "forget_js", "retain_js", "general_js")
LIMITS = [f"{name}_{end}" for name in WITH_LIMITS for end in ("low", "high")]


def of_people(pair: Pair) -> dict[str, float]:
    """The columns LIMITS of one model and oracle of one seed; NaN for a set that was not asked. The
    oracle's `unit` says which answers hang together.

    A divergence lies between 0 and 1, and a mean of such values spreads at most as far as a share of
    yes and no with that mean: its limits are those of an accuracy. What luck adds to a largest gap
    averages out with nothing, so that the limits of `distance` are the means of its parts'.
    """
    unit, found = pair.oracle.unit, {}
    for group in ("forget", "retain", "general"):
        here = pair.model.set == group
        if here.any():
            js, modality = pair.js[here], pair.model.modality[here]
            found[f"{group}_js"] = _of_mean(js, cell=pd.factorize(modality)[0], unit=unit[here])
    forget = pair.model.set == "forget"
    if forget.any():
        right, aim = pair.model.right[forget], pair.oracle.right[forget]
        person = pd.factorize(unit[forget])[0]
        found["forget_ks"] = limits.largest_gap(right, aim, unit=person, level=LEVEL)
    line = dict.fromkeys(LIMITS, float("nan"))
    for name, limit in found.items():
        line |= {f"{name}_low": float(limit.low), f"{name}_high": float(limit.high)}
    of_parts = {e: [line[f"{name}_{e}"] for name in MEANT] for e in ("low", "high")}
    return line | {f"distance_{end}": float(np.mean(ends)) for end, ends in of_parts.items()}


def of_itself(pair: Pair) -> dict[str, float]:
    """The columns LIMITS of the oracle and itself: at no distance, whoever is asked."""
    return {name: value * 0.0 for name, value in of_people(pair).items()}


def of_seeds(seeds: pd.DataFrame) -> dict[str, float]:
    """The columns LIMITS of the means over some lines, one a seed, with each seed's own LIMITS.

    For the same reason the people's limits of the mean are the means of the seeds'; the spread of
    seeds comes on top.
    """
    line = dict.fromkeys(LIMITS, float("nan"))
    for name in WITH_LIMITS:
        ends = [f"{name}_low", f"{name}_high"]
        values = np.stack([seeds[column].to_numpy(dtype=float) for column in (name, *ends)], axis=1)
        values = values[~np.isnan(values).any(axis=1)]
        if len(values):
            low, high = values[:, 1].mean(), values[:, 2].mean()
            if len(values) > 1:
                low, high = limits.over_seeds(
                    values[:, 0], low, high=high, shared=True, level=LEVEL
                )
            line |= {ends[0]: float(low), ends[1]: float(high)}
    return line


def _of_mean(values: np.ndarray, *, cell: np.ndarray, unit: np.ndarray) -> Limits:
    """Limits of the mean over cells (modalities) of the mean of their values (0-1)."""
    person, people = pd.factorize(unit)
    shape = (cell.max() + 1, len(people))
    place, size = cell * shape[1] + person, shape[0] * shape[1]
    asked, sums = (np.bincount(place, w, minlength=size).reshape(shape) for w in (None, values))
    one_seed = np.zeros(shape[0])
    return limits.accuracy(
        asked, sums, cell_seeds=one_seed, units=np.arange(len(people)), level=LEVEL
    )

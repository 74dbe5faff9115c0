"""What several training runs can tell apart: ranks of methods that hold all at once, and the
smallest difference that a number of seeds can show."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
from scipy import optimize
from scipy import stats as scipy_stats

LEVEL, POWER = 0.95, 0.8
ENOUGH = 3  # fewer seeds make no verdict
# How many independent answers a training run of the embedded model is worth: two runs of one method
# differ as two samples of that many answers do (`run_answers` of outputs/reference/tiny/three_seeds)
RUN_ANSWERS = 15


def rank_sets(values: pd.DataFrame, level: float = LEVEL) -> pd.DataFrame:
    """The best and the worst rank (columns from, to) that each method may have, all of them right at
    once with the probability `level`: a method is behind another only if Tukey's test of all pairs
    says so [Mohamad 2019]. Seeds are blocks; a pair's spread is the pooled one, or its own if that
    is wider.

    values: methods x seeds without gaps, the higher the better; two seeds at least.
    """
    x, (m, k) = values.to_numpy(dtype=float), values.shape
    if m == 1:
        return pd.DataFrame({"from": 1, "to": 1}, index=values.index)
    mean, own = x.mean(axis=1), x - x.mean(axis=1, keepdims=True)
    own = own - own.mean(axis=0)
    freedom = (m - 1) * (k - 1)
    pooled = (own**2).sum() / freedom
    variances = (own**2).sum(axis=1) / (k - 1) * m / (m - 1)
    error = np.sqrt(np.maximum(pooled, (variances[:, None] + variances) / 2) / k)
    q = _tukey(level, m, freedom=freedom)
    better = mean[:, None] - mean > q * error
    ranks = {"from": 1 + better.sum(axis=0), "to": m - better.sum(axis=1)}
    return pd.DataFrame(ranks, index=values.index)


@functools.lru_cache(maxsize=256)
def smallest_difference(n_seeds: int, n_methods: int | None = None) -> float:
    """The true difference of two methods, in standard deviations between seeds, that `n_seeds`
    seeds of each show with the probability POWER.

    As a verdict judges two methods, by their own spread (a paired t test); with n_methods as
    ranks are judged, by the pooled spread and corrected for all pairs (Tukey). Infinite for one
    seed.
    """
    if n_seeds < 2:
        return float("inf")
    if n_methods is None:
        freedom = n_seeds - 1
        critical = scipy_stats.t.ppf((1 + LEVEL) / 2, freedom)
    else:
        freedom = (n_methods - 1) * (n_seeds - 1)
        critical = _tukey(LEVEL, n_methods, freedom=freedom) / np.sqrt(2)
    missed = lambda shift: scipy_stats.nct.sf(critical, freedom, shift) - POWER  # noqa: E731
    return float(optimize.brentq(missed, 0.0, 40 + 4 * critical) * np.sqrt(2 / n_seeds))


@functools.lru_cache(maxsize=256)  # an integral for each step of its search
def _tukey(level: float, n_methods: int, *, freedom: int) -> float:
    return float(scipy_stats.studentized_range.ppf(level, n_methods, freedom))


def run_answers(values: pd.DataFrame) -> tuple[float, int]:
    """(the answers that a training run is worth, degrees of freedom), pooled over methods.

    values: one state per line, its accuracy on each seed; lines with a gap, and those so near 0 or
    1 that nothing can differ, are left out.
    """
    values = values[values.mean(axis=1).between(0.06, 0.94)].dropna()
    mean = values.mean(axis=1)
    answers = (mean * (1 - mean)).sum() / values.var(axis=1).sum()
    return float(answers), len(values) * (values.shape[1] - 1)

"""Limits of accuracies, differences and shares of answers that hang together by person and by
training run: closed forms on counts, elementwise over any leading axes (a simulation's replicates).

An accuracy has Wilson's limits [Wilson 1927] for an *effective* number of answers, with a quantile
of t. The design effect is the observed one [Kish 1965], pulled towards "answers of one person
correlate by PRIOR_CORRELATION" with the weight of PRIOR_ANSWERS answers of the rarer kind: none of
250 right is not taken for 250 independent failures. Differences and ratios combine two such
intervals (MOVER) [Zou and Donner 2008, Donner and Zou 2012]. docs/intervals.md says how well they
cover.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import stats as scipy_stats

PRIOR_ANSWERS, PRIOR_CORRELATION = 10, 0.6
_SHRINK = 4  # a correlation of n units is believed by n / (n + _SHRINK)
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A value with its limits, and what it takes to hold it against another one."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    score: np.ndarray  # (..., units): how far each unit moves the value
    units: np.ndarray  # their names: people or questions of one seed; with several, the seeds
    n: np.ndarray  # independent units behind the value


def accuracy(
    asked: np.ndarray, right: np.ndarray, *, cell_seeds: np.ndarray, units: np.ndarray, level: float
) -> Limits:
    """The mean accuracy over cells; all seeds count alike, and all cells (modalities) of a seed.

    asked: (cells, units) how many answers; right: (..., cells, units) how many of them are right;
    cell_seeds: the seed of each cell. With several seeds the limits join the people's spread and
    that of the seeds' own values and are nowhere inside either.
    """
    seeds, place = np.unique(cell_seeds, return_inverse=True)
    per_cell, cells_of_seed = asked.sum(axis=1), np.bincount(place)
    centre = right.sum(axis=-1) / per_cell
    of_seed = np.equal.outer(np.arange(len(seeds)), place) / cells_of_seed[:, None]
    by_seed = centre @ of_seed.T
    value = np.clip(by_seed.mean(axis=-1), 0.0, 1.0)
    weight = 1 / (per_cell * cells_of_seed[place] * len(seeds))  # of one answer
    score = ((right - asked * centre[..., None]) * weight[:, None]).sum(axis=-2)
    several = {"score": by_seed - value[..., None], "units": seeds}
    if len(units) < 2:  # one person says nothing about others
        nothing = np.zeros_like(value)
        own = several if len(seeds) > 1 else {"score": score, "units": units}
        return Limits(value=value, low=nothing, high=nothing + 1, n=nothing, **own)
    n_answers = 1 / (per_cell * weight**2).sum()
    effect = _design_effect(value, score, weights=weight @ asked, n_answers=n_answers)
    n_effective = n_answers / effect
    low, high = wilson(value, n_effective, quantile=_t(level, len(units) - 1))
    if len(seeds) == 1:
        return Limits(value=value, low=low, high=high, score=score, units=units, n=n_effective)
    seeds_of_unit = np.stack([(asked[place == s] > 0).any(axis=0) for s in range(len(seeds))])
    shared = bool((seeds_of_unit.sum(axis=0) > 1).any())
    low, high = over_seeds(by_seed, low, high=high, shared=shared, level=level)
    return Limits(value=value, low=low, high=high, n=np.full_like(value, len(seeds)), **several)


def over_seeds(
    by_seed: np.ndarray, low: np.ndarray, *, high: np.ndarray, shared: bool, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """The limits of the mean of seeds' own values (..., seeds; each 0-1): those that people give it
    (low, high) joined with the seeds' own spread, nowhere inside either.

    shared: seeds ask about the same people or questions. Luck with these is not in the spread of
    seeds: it comes on top.
    """
    value = np.clip(by_seed.mean(axis=-1), 0.0, 1.0)
    low_s, high_s = _spread_of_seeds(by_seed, value=value, level=level)
    add = np.hypot if shared else np.maximum
    return (
        np.clip(value - add(value - low, value - low_s), 0.0, 1.0),
        np.clip(value + add(high - value, high_s - value), 0.0, 1.0),
    )


def largest_gap(x: np.ndarray, y: np.ndarray, *, unit: np.ndarray, level: float) -> Limits:
    """The Kolmogorov-Smirnov statistic of two models' values (..., answers) for the same questions,
    with limits for other people; unit: the number of each answer's person, from 0.

    At the point of the largest gap it is a difference of two shares of answers that are at or below
    it, and so are its limits. The true gap is at least as large anywhere: the upper limit is that of
    this point. But the point was chosen because luck made it large, and of two models with the same
    distribution too the largest gap is above 0: the lower limit goes by the quantile of a largest
    gap [Kolmogorov 1933], half an interval's risk below it.
    """
    at, first, second = _at_or_below(x, y)
    person = np.equal.outer(unit, np.arange(unit.max() + 1)).astype(float)
    asked, units = person.sum(axis=0)[None], np.arange(person.shape[1])
    chosen = 2 * scipy_stats.kstwobign.ppf((1 + level) / 2)  # in deviations of a share of one half
    found = []
    for one in (2 * scipy_stats.norm.cdf(chosen) - 1, level):
        shares = (
            accuracy(
                asked, (w @ person)[..., None, :], cell_seeds=np.zeros(1), units=units, level=one
            )
            for w in (first, second)
        )
        found.append(difference(*shares))
    lower, upper = found
    return Limits(
        value=at,
        low=np.clip(lower.low, 0.0, 1.0),
        high=np.clip(upper.high, 0.0, 1.0),
        score=upper.score,
        units=units,
        n=upper.n,
    )


def _at_or_below(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the largest gap of two distribution functions, which answers are at or below its place on
    the side that has more there, and on the other)."""
    both, n = np.concatenate([x, y], axis=-1), x.shape[-1]
    order = np.argsort(both, axis=-1, kind="stable")
    values = np.take_along_axis(both, order, axis=-1)
    gaps = np.cumsum(np.where(order < n, 1, -1), axis=-1)
    gaps[..., :-1][values[..., :-1] == values[..., 1:]] = 0  # a step ends with the last of its ties
    place = np.abs(gaps).argmax(axis=-1)[..., None]
    gap, point = (np.take_along_axis(a, place, axis=-1) for a in (gaps, values))
    below, others = x <= point, y <= point
    first, second = np.where(gap >= 0, below, others), np.where(gap >= 0, others, below)
    return np.abs(gap[..., 0]) / n, first, second


def wilson(
    p: np.ndarray, n: np.ndarray | float, *, quantile: float
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's limits of a share p of n answers, for any quantile of the normal or t."""
    q = quantile
    middle = p + q * q / (2 * n)
    half = q * np.sqrt(p * (1 - p) / n + (q / (2 * n)) ** 2)
    low, high = (middle - half) / (1 + q * q / n), (middle + half) / (1 + q * q / n)
    # At 0 and 1 the exact limit is the value itself, which rounding may miss
    return np.clip(low, 0.0, p), np.clip(high, p, 1.0)


def difference(x: Limits, y: Limits) -> Limits:
    """x - y, paired by the units that both have."""
    r, value = _correlation(x, y), x.value - y.value
    units, a, b = _united(x, y)
    return Limits(
        value=value,
        low=value - _arm(x.value - x.low, y.high - y.value, r=r),
        high=value + _arm(x.high - x.value, y.value - y.low, r=r),
        score=a - b,
        units=units,
        n=np.minimum(x.n, y.n),
    )


def ratio(x: Limits, y: Limits) -> Limits:
    """x / y of two values that are at least 0, paired by the units that both have: every share t
    for which 0 lies within the limits of x - t y [Fieller's idea]. Not a number where y is 0, no
    upper limit where y may be 0."""
    r, (p, low_p, high_p), (q, low_q, high_q) = _correlation(x, y), _triple(x), _triple(y)
    with np.errstate(divide="ignore", invalid="ignore"):
        a = p * q - r * (p - low_p) * (high_q - q)
        b = low_p * (2 * p - low_p)
        root = np.sqrt(np.maximum(a * a - b * high_q * (2 * q - high_q), 0))
        low = np.where(b > _TINY, b / (a + root), 0.0)
        a = p * q - r * (high_p - p) * (q - low_q)
        g = low_q * (2 * q - low_q)
        root = np.sqrt(np.maximum(a * a - high_p * (2 * p - high_p) * g, 0))
        high = np.where(g > _TINY, (a + root) / g, np.inf)
        value = np.where(q > 0, p / q, np.nan)
        units, of_x, of_y = _united(x, y)
        score = (of_x - value[..., None] * of_y) / q[..., None]
    score = np.where(q[..., None] > 0, score, 0.0)
    n = np.where(q > 0, np.minimum(x.n, y.n), 0.0)
    return Limits(value=value, low=low, high=high, score=score, units=units, n=n)


def moved(x: Limits, *, by: float = 0.0, times: float = 1.0) -> Limits:
    """times x + by; a negative factor swaps the limits."""
    low, high = (x.low, x.high) if times >= 0 else (x.high, x.low)
    value, low, high = (times * end + by for end in (x.value, low, high))
    return Limits(value=value, low=low, high=high, score=times * x.score, units=x.units, n=x.n)


def _design_effect(
    p: np.ndarray, score: np.ndarray, *, weights: np.ndarray, n_answers: float
) -> np.ndarray:
    """How many answers count as one; at least 1."""
    g, few = len(weights), n_answers * np.minimum(p, 1 - p)
    with np.errstate(divide="ignore", invalid="ignore"):
        observed = g / (g - 1) * (score**2).sum(axis=-1) * n_answers / (p * (1 - p))
    observed = np.where(few > 1e-9, observed, 0.0)
    size = (weights @ weights) * n_answers  # answers of a unit; m if all have m
    prior = PRIOR_ANSWERS * (1 + (size - 1) * PRIOR_CORRELATION)
    return np.maximum(1.0, (few * observed + prior) / (few + PRIOR_ANSWERS))


def _spread_of_seeds(
    by_seed: np.ndarray, *, value: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's limits with as many answers as make the seeds differ by as much as they do."""
    k, variance = by_seed.shape[-1], by_seed.var(axis=-1, ddof=1)
    there = variance > _TINY
    n = np.where(there, value * (1 - value), 1.0) * k / np.where(there, variance, 1.0)
    low, high = wilson(value, np.maximum(n, _TINY), quantile=_t(level, k - 1))
    return np.where(there, low, value), np.where(there, high, value)


def _correlation(x: Limits, y: Limits) -> np.ndarray:
    """Of the units' scores, shrunken towards 0; units that only one side has count as unrelated."""
    if np.array_equal(x.units, y.units):
        a, b = x.score, y.score
    else:
        _, i, j = np.intersect1d(x.units, y.units, return_indices=True)
        a, b = x.score[..., i], y.score[..., j]
    both, n = (a * b).sum(axis=-1), np.minimum(x.n, y.n)
    size = np.sqrt((x.score**2).sum(axis=-1) * (y.score**2).sum(axis=-1))
    there = size > _TINY
    return np.where(there, both / np.where(there, size, 1.0), 0.0) * n / (n + _SHRINK)


def _united(x: Limits, y: Limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(units of either, scores of x, scores of y), 0 where a side has no such unit."""
    if np.array_equal(x.units, y.units):
        return x.units, x.score, y.score
    units = np.union1d(x.units, y.units)
    scores = []
    for side in (x, y):
        score = np.zeros((*side.score.shape[:-1], len(units)))
        score[..., np.searchsorted(units, side.units)] = side.score
        scores.append(score)
    return units, scores[0], scores[1]


def _arm(a: np.ndarray, b: np.ndarray, *, r: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        length = np.sqrt(np.maximum(a * a + b * b - 2 * r * a * b, 0))
    return np.where(np.isinf(a) | np.isinf(b), np.inf, length)


def _triple(x: Limits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.asarray(x.value), np.asarray(x.low), np.asarray(x.high)


@functools.lru_cache(maxsize=4096)
def _t(level: float, df: int) -> float:
    return float(scipy_stats.t.ppf((1 + level) / 2, df))

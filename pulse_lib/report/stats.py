"""Intervals by resampling people: the answers about one person are not independent, so the person
is the unit.

General questions have no person; their unit is the group (MMBench's circular group) or, without
one, the question. Units are resampled within each set and each seed; with several seeds the seeds
are resampled too (two stages), and the value is the mean over seeds. With one seed the interval
speaks about other people, not about other training runs.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from pulse_lib.evaluate.accuracy import retained_share

LEVEL = 0.95
Statistic = Callable[[Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A value with its interval at LEVEL; `n_clusters` people (or general questions), `n_answers`
    answers, `n_seeds` seeds."""

    value: float
    low: float
    _: KW_ONLY
    high: float
    n_clusters: int
    n_answers: int
    n_seeds: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


NOTHING = Interval(np.nan, np.nan, high=np.nan, n_clusters=0, n_answers=0, n_seeds=0)


def clusters(rows: pd.DataFrame) -> pd.Series:
    """The unit of resampling of each row: the person, else the group, else the question."""
    unit = rows["person_id"].fillna("")
    unit = unit.where(unit != "", rows["group"].fillna(""))
    return unit.where(unit != "", rows["question_id"])


def interval(
    cells: Mapping[str, pd.DataFrame],
    statistic: Statistic,
    *,
    value: str = "correct",
    n_resamples: int = 2000,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Percentile bootstrap interval of a statistic of several accuracies, clusters resampled
    together (paired where they are shared).

    cells: name -> rows (columns seed, set, cluster and `value`, a truth value or a number).
    statistic: {name: mean of `value`, (n_resamples,)} -> (n_resamples,); it is taken within each
    seed, then averaged over seeds. NOTHING if a cell is empty; seeds that some cell lacks are left
    out.
    """
    if any(frame.empty for frame in cells.values()):
        return NOTHING
    shared = set.intersection(*(set(frame["seed"].unique()) for frame in cells.values()))
    joined = _join(cells, value)
    per_seed = [_one_seed(joined, s, n_resamples=n_resamples, seed=seed) for s in sorted(shared)]
    if not per_seed:
        return NOTHING
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.array([float(statistic(point)) for point, *_ in per_seed])
        draws = np.stack(
            [np.asarray(statistic(resampled), dtype=float) for _, resampled, *_ in per_seed]
        )
    if len(per_seed) > 1:  # second stage: which seeds
        rng = np.random.default_rng([seed, len(per_seed)])
        chosen = rng.integers(len(per_seed), size=(len(per_seed), n_resamples))
        draws = draws[chosen, np.arange(n_resamples)]
    draws = draws.mean(axis=0)
    draws = draws[np.isfinite(draws)]
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) if len(draws) else (np.nan, np.nan)
    n_clusters = sum(n for *_, n, _ in per_seed)
    n_answers = sum(n for *_, n in per_seed)
    return Interval(
        float(values.mean()),
        float(low),
        high=float(high),
        n_clusters=n_clusters,
        n_answers=n_answers,
        n_seeds=len(per_seed),
    )


def accuracy(
    rows: pd.DataFrame,
    value: str = "correct",
    *,
    by: str | None = None,
    level: float = LEVEL,
    **options,
) -> Interval:
    """Mean of `value` (0-1) over the rows, averaged over seeds, with its cluster interval.

    by: a column whose groups count alike (modality: the plain mean of the two modalities'
    accuracies). Where every cluster has the same 0 or 1 there is nothing to resample; the exact
    binomial bound with the clusters as trials stands in, so that 50 people all right read as at
    least 0.93, not as certainty. [Clopper 1934]
    """
    cells = cells_of("after", rows, by=by)
    found = interval(
        cells, lambda mean: cell_mean(mean, "after"), value=value, level=level, **options
    )
    if found.n_clusters == 0 or found.low != found.high or found.value not in (0.0, 1.0):
        return found
    bound = scipy_stats.beta.ppf((1 - level) / 2, found.n_clusters, 1)  # all right: n of n
    low, high = (bound, 1.0) if found.value == 1.0 else (0.0, 1 - bound)
    return dataclasses.replace(found, low=float(low), high=float(high))


def percent_retained(
    before: pd.DataFrame, after: pd.DataFrame, *, by: str | None = None, **options
) -> Interval:
    """Percent of the accuracy before that is left: 100 after / before, paired by cluster. May
    exceed 100."""
    cells = cells_of("before", before, by=by) | cells_of("after", after, by=by)
    return interval(cells, lambda m: 100 * share_in(m), **options)


def percent_forgotten(
    before: pd.DataFrame, after: pd.DataFrame, *, by: str | None = None, **options
) -> Interval:
    """Percent of the accuracy before that is gone: 100 (before - after) / before, paired. Below 0
    if accuracy rose."""
    cells = cells_of("before", before, by=by) | cells_of("after", after, by=by)
    return interval(cells, lambda m: 100 * (1 - share_in(m)), **options)


def cells_of(name: str, rows: pd.DataFrame, *, by: str | None = None) -> dict[str, pd.DataFrame]:
    """Rows as cells for `interval`, one for each value of `by`, all under one name that `cell_mean`
    averages over."""
    if by is None or rows.empty:
        return {f"{name}:": rows}
    return {f"{name}:{key}": frame for key, frame in rows.groupby(by, observed=True)}


def cell_mean(means: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """The unweighted mean of all cells of a name."""
    return np.mean([value for key, value in means.items() if key.startswith(f"{name}:")], axis=0)


def share_in(means: Mapping[str, np.ndarray], of: str = "") -> np.ndarray:
    """The share of the accuracy before that is left, from the cells "before" and "after" (with `of`:
    "<of> before", "<of> after")."""
    before, after = (cell_mean(means, f"{of} {when}".strip()) for when in ("before", "after"))
    return retained_share(before, after)


@dataclass(frozen=True, kw_only=True)
class _Joined:
    """The rows of all cells below one another, as numbers: pandas would take longer to pick the rows
    of a seed than the resampling takes."""

    names: list[str]  # of the cells
    cell: np.ndarray  # of each row: its cell, seed, set, cluster (in alphabetical order) and value
    seeds: np.ndarray
    sets: np.ndarray
    set_names: np.ndarray
    clusters: np.ndarray
    values: np.ndarray

    def of(self, seed: int) -> _Joined:
        """The rows of one seed."""
        here = self.seeds == seed
        columns = ("cell", "seeds", "sets", "clusters", "values")
        return dataclasses.replace(self, **{name: getattr(self, name)[here] for name in columns})


def _join(cells: Mapping[str, pd.DataFrame], value: str) -> _Joined:
    frames = list(cells.values())
    sets, set_names = _coded([frame["set"] for frame in frames])
    return _Joined(
        names=list(cells),
        cell=np.repeat(np.arange(len(frames)), [len(frame) for frame in frames]),
        seeds=np.concatenate([np.asarray(frame["seed"]) for frame in frames]),
        sets=sets,
        set_names=set_names,
        clusters=_coded([frame["cluster"] for frame in frames])[0],
        values=np.concatenate([np.asarray(frame[value]) for frame in frames]).astype(float),
    )


def _one_seed(
    joined: _Joined, study_seed: int, *, n_resamples: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int, int]:
    """(means, resampled means, number of clusters, number of answers) of one seed."""
    rows, frames = joined.of(study_seed), joined.names
    cell = rows.cell
    n_clusters = 0
    total, size = np.zeros((2, n_resamples, len(frames)))
    sums, counts = np.zeros((2, len(frames)))
    for code in np.unique(rows.sets):
        set_name, here = joined.set_names[code], rows.sets == code
        unit, units = pd.factorize(rows.clusters[here], sort=True)
        place = unit * len(frames) + cell[here]  # one box per cluster and cell
        shape = (len(units), len(frames))
        count = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
        summed = np.bincount(place, rows.values[here], minlength=shape[0] * shape[1]).reshape(shape)
        stream = (seed, int(study_seed), zlib.crc32(str(set_name).encode()))
        weights = resample_weights(len(units), n_resamples, seed=stream)
        total += weights @ summed
        size += weights @ count
        sums += summed.sum(axis=0)
        counts += count.sum(axis=0)
        n_clusters += len(units)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = dict(zip(frames, sums / counts, strict=True))
        resampled = dict(zip(frames, (total / size).T, strict=True))
    return means, resampled, n_clusters, len(cell)


def _coded(columns: list[pd.Series]) -> tuple[np.ndarray, np.ndarray]:
    """Each row of all columns as the place of its value among the sorted values, and these values.
    Columns of one set of categories are in that order already: no text is compared."""
    kind = columns[0].dtype
    if isinstance(kind, pd.CategoricalDtype) and all(column.dtype == kind for column in columns):
        places, codes = pd.factorize(np.concatenate([c.cat.codes for c in columns]), sort=True)
        return np.asarray(places), np.asarray(kind.categories)[np.asarray(codes)]
    every = np.concatenate([np.asarray(column) for column in columns])
    places, values = pd.factorize(every, sort=True)
    return np.asarray(places), np.asarray(values)


@functools.lru_cache(maxsize=128)
def resample_weights(n_clusters: int, n_resamples: int, *, seed: tuple[int, ...]) -> np.ndarray:
    """How often each cluster is drawn in each resample, (n_resamples, n_clusters) float32; rows sum
    to n_clusters."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_clusters, size=(n_resamples, n_clusters))
    flat = drawn + np.arange(n_resamples)[:, None] * n_clusters
    counts = np.bincount(flat.ravel(), minlength=n_resamples * n_clusters)
    return counts.reshape(n_resamples, n_clusters).astype(np.float32)

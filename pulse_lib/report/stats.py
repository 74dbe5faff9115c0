"""Rows to intervals: the answers about one person are not independent, so the person is the unit.

General questions have no person; their unit is the group (MMBench's circular group) or, without
one, the question. Every interval is a closed form (see `limits`): nothing is drawn, the same rows
give the same interval. With one seed it speaks about other people, not about other training runs;
with several it joins both spreads, and the value is the mean over seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain, repeat
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pulse_lib.evaluate.accuracy import retained_share
from pulse_lib.report import limits
from pulse_lib.report.limits import Limits

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with its interval at a level; `n_clusters` people (or general questions), `n_answers`
    answers, `n_seeds` seeds, `points` the value of each seed."""

    value: float
    low: float
    _: KW_ONLY
    high: float
    n_clusters: int
    n_answers: int
    n_seeds: int
    points: tuple[float, ...] = ()
    seeds: tuple = ()  # whose points these are
    behind: frozenset = field(default=frozenset(), repr=False, compare=False)  # (seed, unit)
    limits: Limits | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


NOTHING = Interval(np.nan, np.nan, high=np.nan, n_clusters=0, n_answers=0, n_seeds=0)


def clusters(rows: pa.Table) -> pa.ChunkedArray:
    """The unit of each row: the person, else the group, else the question."""
    unit = rows["question_id"]
    for column in ("group", "person_id"):
        named = pc.call_function("coalesce", [rows[column].cast(pa.string()), pa.scalar("")])
        there = pc.call_function("not_equal", [named, pa.scalar("")])
        unit = pc.call_function("if_else", [there, named, unit])
    return unit


def accuracy(
    rows: pd.DataFrame,
    value: str = "correct",
    *,
    by: str | None = None,
    where: np.ndarray | None = None,
    level: float = LEVEL,
) -> Interval:
    """Mean of `value` (true or false, 0 or 1) over the rows, averaged over seeds. NOTHING without
    rows.

    rows: columns seed, cluster, `value` and `by`, a column whose groups count alike (modality: the
    plain mean of the two modalities' accuracies); seeds that lack one of them are left out. where:
    which rows count (all); quicker than a frame of these alone.
    """
    if where is None:
        where = np.ones(len(rows), dtype=bool)
    if not where.any():
        return NOTHING
    cell, cell_seeds, whole = _cells(rows, by, where=where)
    if not whole.all():
        kept = where.copy()
        kept[where] = whole[cell]
        return accuracy(rows, value, by=by, where=kept, level=level)
    unit, units = _codes(rows["cluster"], where)
    shape = (len(cell_seeds), len(units))
    place, size = cell * shape[1] + unit, shape[0] * shape[1]
    asked = np.bincount(place, minlength=size).reshape(shape)
    answers = rows[value].to_numpy(dtype=float)[where]
    right = np.bincount(place, answers, minlength=size).reshape(shape)
    found = limits.accuracy(asked, right, cell_seeds=cell_seeds, units=units, level=level)
    means, seeds = right.sum(axis=1) / asked.sum(axis=1), np.unique(cell_seeds)
    points = tuple(float(means[cell_seeds == seed].mean()) for seed in seeds)
    there = ((seed, units[asked[cell_seeds == seed].any(axis=0)]) for seed in seeds.tolist())
    behind = frozenset(chain.from_iterable(zip(repeat(seed), of) for seed, of in there))
    return _interval(found, points, seeds=tuple(seeds.tolist()), n_answers=len(unit), behind=behind)


def difference(x: Interval, y: Interval) -> Interval:
    """x - y, paired by person. NOTHING if either is. Raises ValueError if they are of other seeds
    (see `of_shared_seeds`)."""
    return _combined(limits.difference, x, y=y, of_points=lambda a, b: a - b)


def share(after: Interval, before: Interval) -> Interval:
    """after / before, paired by person: the share that is left. May exceed 1; not a number where
    there was nothing to lose, no upper limit (infinite) where there may have been nothing.

    The value is the mean of the seeds' shares, as in every table; the limits are those of the
    ratio of means, which a seed with little before cannot upset, and hold the value.
    """
    return _combined(limits.ratio, after, y=before, of_points=lambda a, b: retained_share(b, a))


def moved(x: Interval, *, by: float = 0.0, times: float = 1.0) -> Interval:
    """times x + by: percent (times=100), what is gone (by=1, times=-1), above chance."""
    if x.limits is None:
        return x
    low, high = (x.low, x.high) if times >= 0 else (x.high, x.low)
    value, low, high = (times * end + by for end in (x.value, low, high))
    return dataclasses.replace(
        x,
        value=value,
        low=low,
        high=high,
        points=tuple(times * point + by for point in x.points),
        limits=limits.moved(x.limits, by=by, times=times),
    )


def retained(
    before: pd.DataFrame,
    after: pd.DataFrame,
    *,
    by: str | None = None,
    where: tuple[np.ndarray, np.ndarray] | None = None,
    level: float = LEVEL,
) -> Interval:
    """`share` of the accuracies of two sets of rows, over the seeds that both have. where: which rows
    of each count (all)."""
    was, now = (
        accuracy(rows, by=by, where=here, level=level)
        for rows, here in zip((before, after), where or (None, None), strict=True)
    )
    if was.seeds != now.seeds:
        shared = of_seeds((before, after), {*was.seeds} & {*now.seeds}, where=where)
        return retained(before, after, by=by, where=shared, level=level)
    return share(now, was)


def of_seeds(
    pair: tuple[pd.DataFrame, pd.DataFrame],
    seeds: Collection[int],
    *,
    where: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of two frames are of some seeds (and among those that count)."""
    there = [np.isin(rows["seed"].to_numpy(), [*seeds]) for rows in pair]
    first, second = there if where is None else map(np.logical_and, there, where)
    return first, second


def percent_retained(before: pd.DataFrame, after: pd.DataFrame, **options: Any) -> Interval:
    """Percent of the accuracy before that is left, paired by cluster; options: of `retained`. May
    exceed 100."""
    return moved(retained(before, after, **options), times=100)


def percent_forgotten(before: pd.DataFrame, after: pd.DataFrame, **options: Any) -> Interval:
    """Percent of the accuracy before that is gone: 100 (before - after) / before, paired; options:
    of `retained`. Below 0 if accuracy rose."""
    return moved(retained(before, after, **options), by=100, times=-100)


def of_shared_seeds(*frames: pd.DataFrame, by: str | None = None) -> list[pd.DataFrame]:
    """The rows of the seeds that every frame has, with every value of `by`."""
    whole = [_whole_seeds(frame, by) for frame in frames]
    shared = set.intersection(*(seeds for _, seeds in whole))
    return [
        frame if every == shared else frame[frame["seed"].isin(shared)]
        for frame, (every, _) in zip(frames, whole, strict=True)
    ]


def _interval(
    found: Limits, points: tuple[float, ...], *, seeds: tuple, n_answers: int, behind: frozenset
) -> Interval:
    value = float(np.mean(points))
    return Interval(
        value,
        min(float(found.low), value),  # a mean of shares is not quite the share of means
        high=max(float(found.high), value),
        n_clusters=len(behind),
        n_answers=n_answers,
        n_seeds=len(points),
        points=points,
        seeds=seeds,
        behind=behind,
        limits=found,
    )


def _combined(of_limits, x: Interval, *, y: Interval, of_points) -> Interval:
    if x.limits is None or y.limits is None:
        return NOTHING
    if x.seeds != y.seeds:
        raise ValueError(f"values of seeds {x.seeds} and {y.seeds} cannot be held together")
    return _interval(
        of_limits(x.limits, y.limits),
        tuple(float(of_points(a, b)) for a, b in zip(x.points, y.points, strict=True)),
        seeds=x.seeds,
        n_answers=x.n_answers + y.n_answers,
        behind=x.behind | y.behind,
    )


def _whole_seeds(rows: pd.DataFrame, by: str | None) -> tuple[set, set]:
    """The seeds that the rows have, and those of them that have every value of `by` that there is."""
    _, cell_seeds, whole = _cells(rows, by, where=np.ones(len(rows), dtype=bool))
    return set(cell_seeds.tolist()), set(cell_seeds[whole].tolist())


def _cells(
    rows: pd.DataFrame, by: str | None, *, where: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the cell of each row that counts, the seed of each cell, whether it is a seed with every value
    of `by`): a cell is a seed, or a value of `by` in it."""
    seeds, seed = np.unique(rows["seed"].to_numpy()[where], return_inverse=True)
    if by is None:
        return seed, seeds, np.ones(len(seeds), dtype=bool)
    group, groups = _codes(rows[by], where)
    cell, shape = seed * len(groups) + group, (len(seeds), len(groups))
    there = np.bincount(cell, minlength=len(seeds) * len(groups)).reshape(shape) > 0
    return cell, np.repeat(seeds, len(groups)), np.repeat(there.all(axis=1), len(groups))


def _codes(column: pd.Series, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the place of each counted entry's value, the values that there are, in order): as
    pd.factorize, but of categories, which most columns of names are, without its overhead.
    """
    values = column.array
    if not isinstance(values, pd.Categorical) or (values.codes < 0).any():
        codes, found = pd.factorize(column[where], sort=True)
        return codes, np.asarray(found, dtype=object)
    codes = values.codes[where]
    there = np.zeros(len(values.categories), dtype=bool)
    there[codes] = True
    return (there.cumsum() - 1)[codes], np.asarray(values.categories[there], dtype=object)

"""Intervals against oracles: closed forms, a slow reading of the same formulas, what they must not
do at the boundary, and how often they cover."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats as scipy_stats

from benchmarks import distance_intervals as of_distances
from benchmarks import intervals as simulation
from pulse_lib.files import REPOSITORY, read_json
from pulse_lib.report import limits, seeds, stats
from pulse_lib.report.tables import distance_limits


def rows_of(values, clusters, seed=0, set_name="forget", modality="text") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "correct": np.asarray(values, dtype=bool),
            "cluster": clusters,
            "seed": seed,
            "set": set_name,
            "modality": modality,
        }
    )


def counted(counts, answers=5, seed=0, prefix="", modality="text") -> pd.DataFrame:
    """Rows of people with so many right answers each."""
    right = np.arange(answers) < np.asarray(counts)[:, None]
    names = np.repeat([f"{prefix}{i:04d}" for i in range(len(right))], answers)
    return rows_of(right.ravel(), names, seed=seed, modality=modality)


def limits_of(found) -> tuple[float, float, float]:
    return found.value, found.low, found.high


# --- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "n"), [(0, 40), (1, 40), (20, 40), (40, 40), (7, 1000)])
def test_wilson_limits_are_those_of_scipy(right, n):
    exact = scipy_stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    found = limits.wilson(np.array(right / n), n, quantile=scipy_stats.norm.ppf(0.975))
    assert found == pytest.approx((exact.low, exact.high), abs=1e-12)


@pytest.mark.parametrize("right", [0, 30, 900, 3000])
def test_single_questions_have_the_interval_of_independent_answers(right):
    """With one answer a unit and thousands of units t is the normal and the design effect is 1."""
    found = stats.accuracy(counted([1] * right + [0] * (3000 - right), answers=1))
    exact = scipy_stats.binomtest(right, 3000).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=2e-4)


def test_answers_that_always_agree_count_as_one_each():
    """Ten answers a person that are all alike: Wilson's limits for as many answers as people, where
    both kinds are many."""
    found = stats.accuracy(counted([10] * 1000 + [0] * 1000, answers=10))
    exact = scipy_stats.binomtest(1000, 2000).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=2e-4)


def test_seeds_that_hardly_differ_have_the_t_interval_of_their_values():
    """Half right in the mean, a small spread: there Wilson's limits are those of t."""
    points = np.array([0.49, 0.5, 0.51])
    every = [counted([1] * round(p * 40_000) + [0] * round((1 - p) * 40_000), 1, seed=s, prefix=s)
             for s, p in enumerate(points)]  # fmt: skip
    found = stats.accuracy(pd.concat(every))
    half = scipy_stats.t.ppf(0.975, 2) * points.std(ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-4)
    assert found.points == pytest.approx(points) and found.n_seeds == 3


HALF_OF_25 = [(5, 4), (4, 3), (5, 5)]


def test_worked_examples():
    """50 people with five answers each: numbers computed once by other code, for the same
    formulas."""
    none, every = stats.accuracy(counted([0] * 50)), stats.accuracy(counted([5] * 50))
    assert limits_of(none) == pytest.approx((0, 0, 0.0521), abs=1e-4)
    assert limits_of(every) == pytest.approx((1, 0.9479, 1), abs=1e-4)
    one = stats.accuracy(counted([1] + [0] * 49))
    assert limits_of(one) == pytest.approx((0.004, 0.0003, 0.0562), abs=1e-4)
    mixed = stats.accuracy(counted([5, 4, 3, 2, 1] * 10))
    assert limits_of(mixed) == pytest.approx((0.6, 0.5135, 0.6807), abs=1e-4)
    same = stats.difference(mixed, mixed)
    assert limits_of(same) == pytest.approx((0, -0.0209, 0.0209), abs=1e-4)
    assert limits_of(stats.share(mixed, mixed)) == pytest.approx((1, 0.9641, 1.0372), abs=1e-4)
    assert limits_of(stats.share(none, every)) == pytest.approx((0, 0, 0.0521), abs=1e-4)
    assert limits_of(stats.difference(none, every)) == pytest.approx((-1, -1, -0.9264), abs=1e-4)
    text = pd.concat([counted([0] * 50), counted([5] * 50, modality="multimodal")])
    both = stats.accuracy(text, by="modality")
    assert limits_of(both) == pytest.approx((0.5, 0.4552, 0.5448), abs=1e-4)
    three = [counted([a] * 25 + [b] * 25, seed=s, prefix=s) for s, (a, b) in enumerate(HALF_OF_25)]
    found = stats.accuracy(pd.concat(three))
    assert limits_of(found) == pytest.approx((0.8667, 0.3385, 0.9880), abs=1e-4)
    full = [counted([5] * 50, seed=s, prefix=s) for s in range(3)]
    kept = stats.retained(pd.concat(full), pd.concat(three))
    assert limits_of(kept) == pytest.approx((0.8667, 0.3385, 0.9892), abs=1e-4)
    asked = [counted([1] * k + [0] * (280 - k), 1, seed=s) for s, k in enumerate((210, 200, 230))]
    shared = stats.accuracy(pd.concat(asked))
    assert limits_of(shared) == pytest.approx((0.7619, 0.5988, 0.8776), abs=1e-4)


def test_few_people():
    assert limits_of(stats.accuracy(counted([3], 4))) == (0.75, 0, 1)  # one says nothing of others
    two = stats.accuracy(counted([3, 5]))
    assert limits_of(two) == pytest.approx((0.8, 0.0120, 0.9992), abs=1e-4)
    uneven = pd.concat([counted([9], 10), counted([1] * 4, 1, prefix="b")])
    assert limits_of(stats.accuracy(uneven)) == pytest.approx((0.9286, 0.2513, 0.9980), abs=1e-4)


# --- a slow reading of the same formulas ----------------------------------------------------------


def slow_accuracy(rows: pd.DataFrame, by: str | None):
    """value, low, high, {unit or seed: score}, n: answer by answer, in Python's own numbers."""
    rows = rows.astype({"correct": float})
    keys = ["seed", by] if by else ["seed"]
    cells = dict(list(rows.groupby(keys)))
    n_seeds, n_cells = rows["seed"].nunique(), len(cells)
    weighted = []
    for frame in cells.values():
        centre = sum(frame["correct"]) / len(frame)
        for unit, seed, right in zip(
            frame["cluster"], frame["seed"], frame["correct"], strict=True
        ):
            weighted.append((unit, seed, right, 1 / len(frame) / n_cells, right - centre))
    p = sum(w * right for _, _, right, w, _ in weighted)
    n = 1 / sum(w * w for *_, w, _ in weighted)
    scores, weights, of_seed, seen = {}, {}, {}, {}
    for unit, seed, right, w, off in weighted:
        scores[unit] = scores.get(unit, 0) + w * off
        weights[unit] = weights.get(unit, 0) + w
        of_seed[seed] = of_seed.get(seed, 0) + w * right * n_seeds
        seen.setdefault(unit, set()).add(seed)
    g, few = len(scores), n * min(p, 1 - p)
    observed = 0.0
    if few > 1e-9:
        observed = g / (g - 1) * sum(u * u for u in scores.values()) * n / (p * (1 - p))
    m = n * sum(w * w for w in weights.values())
    effect = max(1, (few * observed + 10 * (1 + (m - 1) * 0.6)) / (few + 10))
    low, high = slow_wilson(p, n / effect, scipy_stats.t.ppf(0.975, g - 1))
    if n_seeds == 1:
        return p, low, high, scores, n / effect
    spread = np.var(list(of_seed.values()), ddof=1)
    low_s, high_s = (p, p)
    if spread > 1e-12:
        q = scipy_stats.t.ppf(0.975, n_seeds - 1)
        low_s, high_s = slow_wilson(p, p * (1 - p) * n_seeds / spread, q)
    shared = any(len(s) > 1 for s in seen.values())
    add = (lambda a, b: (a * a + b * b) ** 0.5) if shared else max
    low, high = max(0, p - add(p - low, p - low_s)), min(1, p + add(high - p, high_s - p))
    return p, low, high, {s: v - p for s, v in of_seed.items()}, n_seeds


def slow_wilson(p, n, q):
    middle, half = p + q * q / (2 * n), q * (p * (1 - p) / n + (q / (2 * n)) ** 2) ** 0.5
    return (middle - half) / (1 + q * q / n), (middle + half) / (1 + q * q / n)


def slow_correlation(x, y):
    size = sum(u * u for u in x[3].values()) * sum(u * u for u in y[3].values())
    both, n = sum(u * y[3].get(name, 0) for name, u in x[3].items()), min(x[4], y[4])
    return both / size**0.5 * n / (n + 4) if size > 1e-24 else 0.0


def slow_difference(x, y):
    r = slow_correlation(x, y)
    arm = lambda a, b: max(a * a + b * b - 2 * r * a * b, 0) ** 0.5  # noqa: E731
    d = x[0] - y[0]
    return d, d - arm(x[0] - x[1], y[2] - y[0]), d + arm(x[2] - x[0], y[0] - y[1])


def slow_ratio_limits(x, y):
    """By search: the smallest and the largest share t for which 0 lies within the limits of
    x - t y."""
    r = slow_correlation(x, y)

    def inside(t: float) -> bool:
        arm = lambda a, b: max(a * a + b * b - 2 * r * a * b, 0) ** 0.5  # noqa: E731
        d = x[0] - t * y[0]
        low = d - arm(x[0] - x[1], t * (y[2] - y[0]))
        high = d + arm(x[2] - x[0], t * (y[0] - y[1]))
        return low <= 0 <= high

    def edge(good: float, bad: float) -> float:
        for _ in range(60):
            middle = (good + bad) / 2
            good, bad = (middle, bad) if inside(middle) else (good, middle)
        return good

    at = x[0] / y[0]
    return edge(at, 0.0), edge(at, 50.0)


def some_rows(rng, n_seeds: int, shared: bool, p: float) -> pd.DataFrame:
    """People with more and fewer answers, who know more and less, in both modalities."""
    frames = []
    for seed in range(n_seeds):
        names = [f"{'' if shared else seed}p{i}" for i in range(12)]
        skill = rng.beta(3 * p, 3 * (1 - p), 12)
        for modality, most in (("text", 6), ("multimodal", 3)):
            who = np.repeat(np.arange(12), rng.integers(1, most + 1, 12))
            right = rng.random(len(who)) < skill[who]
            frames.append(rows_of(right, np.array(names)[who], seed=seed, modality=modality))
    return pd.concat(frames)


@pytest.mark.parametrize("by", [None, "modality"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("n_seeds", [1, 2, 3])
def test_equals_a_slow_reading_of_the_formulas(n_seeds, shared, by):
    rng = np.random.default_rng(n_seeds)
    for p in (0.1, 0.5, 0.9):
        x, y = (some_rows(rng, n_seeds, shared, share) for share in (p, 0.8))
        fast, slow = (
            [function(rows, by=by) for rows in (x, y)]
            for function in (stats.accuracy, slow_accuracy)
        )
        assert [limits_of(f) for f in fast] == [pytest.approx(s[:3], abs=1e-9) for s in slow]
        gap = limits_of(stats.difference(*fast))
        assert gap == pytest.approx(slow_difference(*slow), abs=1e-9)
        kept, (low, high) = stats.share(*fast), slow_ratio_limits(*slow)
        points = [a / b for a, b in zip(fast[0].points, fast[1].points, strict=True)]
        assert kept.points == pytest.approx(points) and kept.value == pytest.approx(np.mean(points))
        assert (kept.low, kept.high) == pytest.approx(
            (min(low, kept.value), max(high, kept.value)), abs=1e-7
        )


@pytest.mark.parametrize("kind", [str, "category"])
@pytest.mark.parametrize("by", [None, "modality"])
def test_rows_that_count_are_as_a_frame_of_these_alone(by, kind):
    """Where the two sides have other seeds too, and one seed lacks a modality among them."""
    rng = np.random.default_rng(5)
    before, after = (
        some_rows(rng, n, True, p).astype({"cluster": kind, "modality": kind})
        for n, p in ((3, 0.8), (2, 0.4))
    )
    counts = [rng.random(len(rows)) < 0.7 for rows in (before, after)]
    counts[0] &= ~((before["seed"] == 1) & (before["modality"] == "text")).to_numpy()
    alone = [rows[count] for rows, count in zip((before, after), counts, strict=True)]
    for rows, count, these in zip((before, after), counts, alone, strict=True):
        assert stats.accuracy(rows, by=by, where=count) == stats.accuracy(these, by=by)
    kept = stats.retained(before, after, by=by, where=tuple(counts))
    shared = stats.of_shared_seeds(*alone, by=by)
    was, now = (stats.accuracy(rows, by=by) for rows in shared)
    assert kept == stats.share(now, was) and kept.seeds == ((0, 1) if by is None else (0,))
    assert stats.retained(before, after, by=by, where=(counts[0], counts[1] & False)).n_seeds == 0


# --- invariances ----------------------------------------------------------------------------------


def test_what_must_not_matter_does_not():
    rows = some_rows(np.random.default_rng(6), 2, False, 0.7)
    once = stats.accuracy(rows, by="modality")
    assert once == stats.accuracy(rows.sample(frac=1, random_state=0), by="modality")
    renamed = rows.assign(cluster="x" + rows["cluster"], seed=rows["seed"] + 5)
    assert limits_of(stats.accuracy(renamed, by="modality")) == limits_of(once)
    wrong = stats.accuracy(rows.assign(correct=~rows["correct"]), by="modality")
    assert limits_of(wrong) == pytest.approx((1 - once.value, 1 - once.high, 1 - once.low))
    wider = stats.accuracy(rows, by="modality", level=0.99)
    assert wider.low < once.low and once.high < wider.high
    other = stats.accuracy(rows[rows["modality"] == "text"])
    there, back = stats.difference(once, other), stats.difference(other, once)
    assert limits_of(there) == pytest.approx((-back.value, -back.high, -back.low))
    gone, left = stats.percent_forgotten(rows, rows), stats.percent_retained(rows, rows)
    assert limits_of(gone) == pytest.approx((100 - left.value, 100 - left.high, 100 - left.low))


def test_copies_of_an_answer_do_not_make_it_surer():
    rng = np.random.default_rng(3)
    answers, people = rng.random(2000) < 0.5, np.arange(2000).astype(str)
    once = stats.accuracy(rows_of(answers, people))
    copied = rows_of(np.repeat(answers, 10), np.repeat(people, 10))
    many = stats.accuracy(copied)
    assert (many.low, many.high) == pytest.approx((once.low, once.high), abs=2e-4)
    naive = stats.accuracy(copied.assign(cluster=np.arange(20_000).astype(str)))
    assert once.high - once.low > 3.1 * (naive.high - naive.low)  # sqrt(10) = 3.16


def test_pairing_makes_a_difference_surer():
    rng = np.random.default_rng(7)
    counts = rng.integers(0, 6, 50)
    now = stats.accuracy(counted(np.maximum(counts - 1, 0)))
    paired = stats.difference(now, stats.accuracy(counted(counts)))
    apart = stats.difference(now, stats.accuracy(counted(counts, prefix="other")))
    assert paired.value == apart.value
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_shares_are_what_they_say():
    before, after = counted([1] * 8 + [0] * 2, 1), counted([1] * 2 + [0] * 8, 1)
    assert stats.percent_retained(before, after).value == pytest.approx(25)
    assert stats.percent_forgotten(before, after).value == pytest.approx(75)
    assert stats.percent_forgotten(after, before).value == pytest.approx(-300)  # it knows more


def test_modalities_count_alike_however_many_questions_they_have():
    both = pd.concat([counted([1] * 30, 1), counted([0] * 10, 1, modality="multimodal")])
    assert stats.accuracy(both).value == pytest.approx(0.75)
    assert stats.accuracy(both, by="modality").value == pytest.approx(0.5)


# --- the boundary ---------------------------------------------------------------------------------


def test_more_right_answers_move_no_limit_down():
    counts = np.zeros(50, dtype=int)
    rng, before = np.random.default_rng(8), stats.accuracy(counted([0] * 50))
    for _ in range(250):
        counts[rng.choice(np.flatnonzero(counts < 5))] += 1
        now = stats.accuracy(counted(counts))
        assert now.low >= before.low - 1e-9 and now.high >= before.high - 1e-9
        before = now


def test_none_of_many_is_less_sure_of_none_than_of_a_few():
    """0 of 250 right: the interval is no narrower than that of 1 of 250 is below it."""
    none, one = stats.accuracy(counted([0] * 50)), stats.accuracy(counted([1] + [0] * 49))
    exact = scipy_stats.binomtest(0, 250).proportion_ci(0.95, method="exact")
    assert exact.high < none.high < one.high
    assert one.high - one.low > none.high - none.low > 0.9 * (one.high - one.low)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_no_interval_has_zero_width(n_seeds):
    none = stats.accuracy(pd.concat([counted([0] * 50, seed=s) for s in range(n_seeds)]))
    every = stats.accuracy(pd.concat([counted([5] * 50, seed=s) for s in range(n_seeds)]))
    found = [none, every, stats.difference(none, none), stats.difference(every, every)]
    found += [stats.share(every, every), stats.share(none, every)]
    found.append(stats.difference(stats.share(none, every), stats.share(none, every)))
    assert all(f.high - f.low > 0.02 for f in found)


def test_nothing_to_keep_has_no_share_and_little_has_no_upper_limit():
    none, few = stats.accuracy(counted([0] * 50)), stats.accuracy(counted([1, 0]))
    nothing = stats.share(few, none)
    assert np.isnan(nothing.value) and nothing.high == np.inf
    single = stats.accuracy(counted([3], 4))  # its interval reaches 0
    unlimited = stats.share(single, single)
    assert unlimited.value == 1 and unlimited.high == np.inf and unlimited.low == 0
    apart = stats.difference(unlimited, unlimited)
    assert (apart.low, apart.high) == (-np.inf, np.inf)


# --- several seeds --------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_several_seeds_are_never_narrower_than_people_or_seeds(shared):
    rng = np.random.default_rng(9)
    for k in (2, 3, 5):
        for spread in (0.0, 0.1, 0.3):
            centres = np.clip(0.5 + rng.uniform(-spread, spread, k), 0, 1)
            frames = [
                counted(rng.binomial(5, centre, 50), seed=s, prefix="" if shared else f"{s}-")
                for s, centre in enumerate(centres)
            ]
            every = pd.concat(frames)
            found = stats.accuracy(every)
            people = stats.accuracy(every.assign(run=every["seed"], seed=0), by="run")
            points = np.array(found.points)
            low, high = slow_wilson(
                points.mean(),
                points.mean() * (1 - points.mean()) * k / points.var(ddof=1),
                scipy_stats.t.ppf(0.975, k - 1),
            )
            assert found.low <= min(people.low, low) + 1e-9
            assert found.high >= max(people.high, high) - 1e-9
            assert found.value == pytest.approx(np.mean([f["correct"].mean() for f in frames]))


def test_what_one_side_lacks_is_left_out_of_both():
    before = pd.concat([counted([5] * 20, seed=s) for s in (0, 1)])
    after = pd.concat([counted([3] * 20, seed=s) for s in (1, 2)])
    found = stats.percent_retained(before, after)
    assert found.seeds == (1,) and found.value == pytest.approx(60)
    text = pd.concat([before, counted([0] * 20, seed=1, modality="multimodal")])
    assert stats.accuracy(text, by="modality").seeds == (1,)
    with pytest.raises(ValueError, match=r"seeds \(0, 1\) and \(1, 2\)"):
        stats.difference(stats.accuracy(before), stats.accuracy(after))


def test_nothing_to_measure_is_not_a_number():
    rows = counted([1, 0], 1)
    assert np.isnan(stats.accuracy(rows.iloc[:0]).value)
    assert np.isnan(stats.percent_retained(rows, rows.iloc[:0]).value)
    assert np.isnan(stats.percent_retained(rows, rows.assign(seed=7)).value)  # no seed in common
    assert np.isnan(stats.percent_retained(rows.assign(correct=False), rows).value)
    assert stats.moved(stats.NOTHING, times=100) == stats.NOTHING


def test_how_much_a_number_stands_on():
    rows = pd.concat([counted([5] * 10, seed=s) for s in (0, 1)])
    found = stats.difference(stats.accuracy(rows), stats.accuracy(rows))
    assert (found.n_clusters, found.n_answers, found.n_seeds) == (20, 200, 2)


def test_units_are_people_then_groups_then_questions():
    rows = {"person_id": ["p", "", None, "q"], "group": ["", "g", None, "h"]}
    table = pa.table(rows | {"question_id": list("1234")})
    assert stats.clusters(table).to_pylist() == ["p", "g", "3", "q"]
    nobody = table.set_column(0, "person_id", pa.nulls(4))
    assert stats.clusters(nobody).to_pylist() == ["1", "g", "3", "h"]


# --- the largest gap ------------------------------------------------------------------------------


def gap_of(x, y, unit=None):
    unit = np.arange(len(x)) if unit is None else unit
    return limits.largest_gap(np.asarray(x), np.asarray(y), unit=unit, level=0.95)


def test_the_largest_gap_is_the_ks_statistic_of_scipy():
    rng = np.random.default_rng(5)
    for digits in (1, 6):  # with many ties, and with none
        x, y = (rng.random((2, 20, 40)) ** [[[2]], [[1]]]).round(digits)
        found = limits.largest_gap(x, y, unit=np.arange(40) // 5, level=0.95)
        expected = [scipy_stats.ks_2samp(a, b).statistic for a, b in zip(x, y, strict=True)]
        assert found.value == pytest.approx(expected)
        assert ((found.low <= found.value) & (found.value <= found.high)).all()


def test_the_upper_limit_is_that_of_a_difference_of_shares_at_the_gap():
    x, y = np.arange(60) / 60, np.arange(60) / 60 + 0.3005
    found = gap_of(x, y)  # the gap is 19/60 from 0.3 on, where 19 of x and none of y are
    asked, units = np.ones((1, 60)), np.arange(60)
    first, none = (
        limits.accuracy(asked, right, cell_seeds=np.zeros(1), units=units, level=0.95)
        for right in ((x[None] <= 0.31) * 1.0, np.zeros((1, 60)))
    )
    assert found.value == pytest.approx(19 / 60)
    assert found.high == pytest.approx(limits.difference(first, none).high)
    assert found.low < limits.difference(first, none).low  # the place was chosen
    assert gap_of(y, x).high == pytest.approx(found.high)  # whoever is above


def test_no_gap_is_certain():
    """Neither of two that agree on every question nor of two that share none."""
    x = np.linspace(0.1, 0.4, 50)
    assert gap_of(x, x).value == 0 == gap_of(x, x).low and gap_of(x, x).high > 0
    apart = gap_of(x, x + 0.5)
    assert apart.value == 1 == apart.high and 0.7 < apart.low < 1
    alone = gap_of(x, x + 0.5, unit=np.zeros(50, dtype=int))
    assert (alone.low, alone.high) == (0, 1)  # one person says nothing about others


def test_one_person_on_several_seeds_is_held_beside_others():
    """Of whom few are alike: the difference is that of the values, and as good as nothing known."""
    one, others = (
        pd.concat([rows_of(values, people, seed=seed) for seed, values in enumerate(of_seeds)])
        for people, of_seeds in (
            (["a", "a"], ([1, 1], [1, 0])),
            (["b", "b", "c", "c"], ([1, 0, 1, 0], [0, 0, 1, 0])),
        )
    )
    alone, beside = stats.accuracy(one), stats.accuracy(others)
    assert (alone.value, alone.low, alone.high) == (0.75, 0, 1)
    for found, value in (
        (stats.difference(alone, beside), 0.375),
        (stats.difference(beside, alone), -0.375),
        (stats.share(beside, alone), (0.5 / 1 + 0.25 / 0.5) / 2),
    ):
        assert found.value == pytest.approx(value) and found.low <= value <= found.high
        assert found.points and found.n_seeds == 2
        assert found.high - found.low > 0.9


# --- coverage -------------------------------------------------------------------------------------


def test_intervals_near_zero_cover_what_they_should():
    """From rows: of these draws the percentile bootstrap over people covers .90 and .81 (the long
    simulation is `make check-intervals`)."""
    hits, n = np.zeros(2), 200
    cell = simulation._cell("pair", 50, 5, before=0.95, after=0.02, rho=0.5)
    rng = np.random.default_rng(11)
    truth, right = simulation._draw(cell, ["before", "after"], rng=rng, replicates=n)
    for before, after in zip(right["before"][:, 0], right["after"][:, 0], strict=True):
        rows = [counted(counts) for counts in (before, after)]
        found, kept = stats.accuracy(rows[1]), stats.percent_retained(*rows)
        hits[0] += found.low <= truth["after"] <= found.high
        hits[1] += kept.low <= 100 * truth["after"] / truth["before"] <= kept.high
    assert (hits / n >= 0.93).all(), hits / n


def test_the_simulation_measures_the_reports_own_limits():
    for seeds_, shared in ((1, False), (3, False), (3, True)):
        plain = simulation._cell("accuracy", 12, 5, after=0.3, rho=0.3)
        cell = plain | {"seeds": seeds_, "shared": shared, "seed_sd": 0.1}
        _, right = simulation._draw(cell, ["after"], rng=np.random.default_rng(1), replicates=4)
        found = simulation.side_limits(cell, right["after"])
        for i, counts in enumerate(right["after"]):
            frames = [
                counted(here, seed=s, prefix="" if shared else f"{s}-")
                for s, here in enumerate(counts)
            ]
            once = stats.accuracy(pd.concat(frames))
            batch = found.value[i], found.low[i], found.high[i]
            assert limits_of(once) == pytest.approx(batch, abs=1e-9)


@pytest.mark.parametrize("side", ["alike", "half known", "known"])
def test_limits_of_distances_cover_what_they_should(side):
    """On one seed and on three (the long simulation is `make check-intervals`)."""
    for seeds_ in (1, 3):
        cell = of_distances._cell(20, 5, side, rho=0.3, link=0.5, seeds=seeds_, seed_sd=0.5)
        for quantity, found in of_distances.measure(cell, 200).items():
            assert found["coverage"] >= 0.93, (quantity, seeds_)
            assert found["width"] < 0.7


def test_the_guide_says_how_often_limits_of_distances_cover():
    said = (REPOSITORY / "docs" / "intervals.md").read_text()
    names = {"ks": "KS", "js": "JS", "distance": "`distance`"}
    names |= {f"{name}, seeds": f"{text}, 2 to 5 seeds" for name, text in names.items()}
    measured = read_json(REPOSITORY / "outputs" / "reference" / "distance_intervals.json")["report"]
    assert set(measured) == set(names)
    for name, found in measured.items():
        assert of_distances.passes(found), name
        numbers = " | ".join(f"{found[key]:.3f}" for key in ("lowest", "mean", "median_width"))
        assert f"| {names[name]} | {found['cells']} | {numbers} |" in said


def test_the_simulation_joins_seeds_as_the_report_does():
    rng = np.random.default_rng(2)
    cell = of_distances._cell(12, 5, "near", rho=0.3, link=0.5, seeds=3, seed_sd=0.5)
    found = [of_distances._one_seed(cell, rng=rng, replicates=4) for _ in range(3)]
    joined = of_distances._joined([one["distance"] for one in found])
    for i in range(4):
        seeds_ = pd.DataFrame(
            {
                f"{name}{end}": [getattr(one["distance"], of)[i] for one in found]
                for name in distance_limits.WITH_LIMITS
                for end, of in (("", "value"), ("_low", "low"), ("_high", "high"))
            }
        )
        line = distance_limits.of_seeds(seeds_)
        assert line["distance_low"] == pytest.approx(joined.low[i])
        assert line["distance_high"] == pytest.approx(joined.high[i])


def test_a_short_simulation_passes_and_draws_what_it_says():
    cells = [cell for cell in simulation.cells() if cell["people"] == 20 and not cell["link"]]
    found = [
        cell | measured
        for cell in cells[::7]
        for measured in simulation.measure(cell, 1000).values()
    ]
    report = simulation.summary(found, 1000)
    assert len(found) > 20 and report["lowest"] > 0.92 - 3 * report["monte_carlo_error"]
    cell = simulation._cell("pair", 50, 10, before=0.9, after=0.3, rho=0.3, link=0.9)
    truth, right = simulation._draw(
        cell, ["before", "after"], rng=np.random.default_rng(0), replicates=2000
    )
    for side, p in (("before", 0.9), ("after", 0.3)):
        assert truth[side] == pytest.approx(p, abs=1e-3)
        assert right[side].mean() / 10 == pytest.approx(p, abs=0.01)
        # the variance of a person's mean says how answers of one person correlate
        within = (right[side].var() / 100 / (p * (1 - p)) - 0.1) / 0.9
        assert within == pytest.approx(0.3, abs=0.02)
    low = {"coverage": 0.9, "width": 0.1}
    assert not simulation.passes(simulation.summary([*found, cell | low], 1000))
    bootstrap = simulation.bootstrap(
        simulation._cell("accuracy", 20, 5, after=0.02, rho=0.3), 200, resamples=200
    )
    assert bootstrap["coverage"] < 0.85


# --- seeds ----------------------------------------------------------------------------------------


def test_ranks_hold_all_at_once():
    values = pd.DataFrame(
        [(0.90, 0.92, 0.88), (0.85, 0.80, 0.87), (0.60, 0.66, 0.63), (0.61, 0.58, 0.55),
         (0.20, 0.25, 0.21)], index=list("abcde"),
    )  # fmt: skip
    found = seeds.rank_sets(values)
    assert list(found["from"]) == [1, 1, 3, 3, 5] and list(found["to"]) == [2, 2, 4, 4, 5]
    shuffled = seeds.rank_sets(values.loc[list("ecabd")])
    assert shuffled.loc[list("abcde")].equals(found)
    assert list(seeds.rank_sets(values.head(1)).iloc[0]) == [1, 1]
    # seeds that happen to agree do not make two methods different: the others' spread counts
    calm = pd.DataFrame([(0.5, 0.5, 0.5), (0.51, 0.51, 0.51), (0.2, 0.9, 0.4), (0.8, 0.1, 0.6)])
    assert list(seeds.rank_sets(calm)["from"]) == [1, 1, 1, 1]
    # two methods: Tukey's test of one pair is the paired t test
    for other, apart in (((0.1, 0.2, 0.1), True), ((0.5, 0.9, 0.2), False)):
        pair = pd.DataFrame([(0.9, 0.92, 0.88), other])
        p = scipy_stats.ttest_rel(*pair.to_numpy()).pvalue
        assert (p < 0.05) == apart
        assert (list(seeds.rank_sets(pair)["to"]) == [1, 2]) == apart


@pytest.mark.parametrize(
    ("n", "verdict", "ranks"), [(2, 16.3, 5.0), (3, 4.6, 3.8), (5, 2.4, 2.9), (10, 1.4, 2.0)]
)
def test_the_smallest_difference_is_found_four_times_in_five(n, verdict, ranks):
    own = seeds.smallest_difference(n)
    assert own == pytest.approx(verdict, abs=0.05)
    assert seeds.smallest_difference(n, 20) == pytest.approx(ranks, abs=0.05)
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((2, 20_000, n))
    found = scipy_stats.ttest_rel(x + own, y, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(0.8, abs=0.01)
    assert seeds.smallest_difference(1) == np.inf


def test_what_a_run_is_worth_is_read_from_the_reference():
    values = pd.DataFrame([(0.9, 0.8, 0.85), (0.5, 0.6, 0.7), (0.99, 1.0, 0.98)])
    assert seeds.run_answers(values) == (pytest.approx(29.4, abs=0.05), 4)
    from pulse_lib.files import REPOSITORY

    path = REPOSITORY / "outputs" / "reference" / "tiny" / "three_seeds" / "single_shot.csv"
    runs = pd.read_csv(path).dropna(subset="step").query("selection in ('final', 'matched')")
    names = ["forget_multimodal", "forget_text", "retain_multimodal", "retain_text", "general"]
    long = runs.melt(
        ["scenario", "method", "trained_part", "selection", "seed"], names, var_name="of"
    )
    keys = ["scenario", "method", "trained_part", "selection", "of"]
    wide = long.pivot(index=keys, columns="seed", values="value")
    assert round(seeds.run_answers(wide)[0]) == seeds.RUN_ANSWERS


def test_an_interval_prints_and_compares_by_its_numbers():
    found = stats.accuracy(counted([5, 4, 3, 2, 1] * 10))
    assert str(found) == "0.60 [0.51, 0.68]"
    assert found == dataclasses.replace(found, limits=None) and hash(found)

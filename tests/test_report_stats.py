"""Intervals against oracles: brute force, the closed form for large samples, and cases where the
answer is known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from pulse_lib.report import stats


def rows_of(values, clusters, seed=0, set_name="forget", modality="text") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "correct": values,
            "cluster": clusters,
            "seed": seed,
            "set": set_name,
            "modality": modality,
        }
    )


def test_equals_a_loop_over_the_same_draws():
    rng = np.random.default_rng(1)
    rows = rows_of(rng.random(40) < 0.6, rng.integers(0, 7, 40).astype(str))
    names = sorted(rows["cluster"].unique())
    import zlib

    weights = stats.resample_weights(len(names), 300, seed=(5, 0, zlib.crc32(b"forget")))
    by_hand = []
    for draw in weights:
        people = [name for name, n in zip(names, draw, strict=True) for _ in range(int(n))]
        answers = pd.concat([rows[rows["cluster"] == name]["correct"] for name in people])
        by_hand.append(answers.mean())
    found = stats.accuracy(rows, n_resamples=300, seed=5)
    assert found.value == pytest.approx(rows["correct"].mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])))


def test_agrees_with_every_possible_resample_of_four_people():
    rows = rows_of([1, 1, 1, 0, 0, 0, 1, 0], list("aabbccdd"))
    means = rows.groupby("cluster")["correct"].mean().to_numpy()
    every = [np.mean(draw) for draw in itertools.product(means, repeat=4)]
    found = stats.accuracy(rows, n_resamples=40_000, level=0.8)
    assert (found.low, found.high) == tuple(np.quantile(every, [0.1, 0.9]))


def test_large_sample_gives_the_normal_interval():
    rng = np.random.default_rng(2)
    n, p = 3000, 0.3
    rows = rows_of(rng.random(n) < p, [str(i) for i in range(n)])
    found = stats.accuracy(rows, n_resamples=4000)
    mean = rows["correct"].mean()
    half = scipy_stats.norm.ppf(0.975) * np.sqrt(mean * (1 - mean) / n)
    assert (found.low, found.high) == pytest.approx((mean - half, mean + half), abs=0.0015)


def test_copies_of_an_answer_do_not_make_it_surer():
    rng = np.random.default_rng(3)
    answers, people = rng.random(50) < 0.5, np.arange(50).astype(str)
    once = stats.accuracy(rows_of(answers, people))
    copied = rows_of(np.repeat(answers, 10), np.repeat(people, 10))
    assert stats.accuracy(copied).low == pytest.approx(once.low)
    assert stats.accuracy(copied).high == pytest.approx(once.high)
    naive = stats.accuracy(copied.assign(cluster=np.arange(500).astype(str)))
    assert once.high - once.low > 2.5 * (naive.high - naive.low)  # sqrt(10) = 3.2


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    hits, n = 0, 200
    for _ in range(n):
        skill = np.clip(rng.normal(0.6, 0.2, 40), 0, 1)
        rows = rows_of(
            (rng.random((40, 10)) < skill[:, None]).ravel(),
            np.repeat(np.arange(40), 10).astype(str),
        )
        found = stats.accuracy(rows, n_resamples=300)
        hits += found.low <= 0.5964 <= found.high  # mean of the clipped normal, from 10^7 draws
    assert 0.88 <= hits / n <= 0.99


def test_all_right_is_not_certainty():
    rows = rows_of([True] * 500, np.repeat(np.arange(50), 10).astype(str))
    found = stats.accuracy(rows)
    exact = scipy_stats.binomtest(50, 50).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
    found = stats.accuracy(rows.assign(correct=False))
    exact = scipy_stats.binomtest(0, 50).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_equal_answers_are_paired_so_that_exactly_everything_is_left():
    rng = np.random.default_rng(5)
    rows = rows_of(rng.random(60) < 0.7, np.repeat(np.arange(12), 5).astype(str))
    left, gone = stats.percent_retained(rows, rows), stats.percent_forgotten(rows, rows)
    assert (left.value, left.low, left.high) == (100, 100, 100)
    assert (gone.value, gone.low, gone.high) == (0, 0, 0)


def test_shares_are_what_they_say():
    before = rows_of([1] * 8 + [0] * 2, np.arange(10).astype(str))
    after = rows_of([1] * 2 + [0] * 8, np.arange(10).astype(str))
    assert stats.percent_retained(before, after).value == pytest.approx(25)
    assert stats.percent_forgotten(before, after).value == pytest.approx(75)
    assert stats.percent_forgotten(after, before).value == pytest.approx(
        -300
    )  # it came to know more


def test_modalities_count_alike_however_many_questions_they_have():
    text = rows_of([1] * 30, np.arange(30).astype(str))
    shown = rows_of([0] * 10, np.arange(10).astype(str), modality="multimodal")
    both = pd.concat([text, shown])
    assert stats.accuracy(both).value == pytest.approx(0.75)
    assert stats.accuracy(both, by="modality").value == pytest.approx(0.5)


def test_seeds_are_averaged_and_widen_the_interval():
    people = np.arange(40).astype(str)
    low = rows_of([1] * 12 + [0] * 28, people, seed=0)
    high = rows_of([1] * 28 + [0] * 12, people, seed=1)
    both = stats.accuracy(pd.concat([low, high]))
    assert both.value == pytest.approx(0.5)
    assert both.n_seeds == 2
    one = stats.accuracy(low)
    assert both.high - both.low > one.high - one.low


def test_same_seed_same_interval_and_another_seed_another():
    rng = np.random.default_rng(6)
    rows = rows_of(rng.random(300) < 0.7, np.arange(300).astype(str))
    assert stats.accuracy(rows) == stats.accuracy(rows.sample(frac=1, random_state=0))
    others = {stats.accuracy(rows, n_resamples=100, seed=seed).low for seed in range(5)}
    assert len(others) > 1


def test_nothing_to_measure_is_not_a_number():
    rows = rows_of([1, 0], ["a", "b"])
    assert np.isnan(stats.accuracy(rows.iloc[:0]).value)
    assert np.isnan(stats.percent_retained(rows, rows.iloc[:0]).value)
    assert np.isnan(stats.percent_retained(rows, rows.assign(seed=7)).value)  # no seed in common
    known = rows.assign(correct=0)
    assert np.isnan(stats.percent_retained(known, rows).value)  # nothing to keep


def test_units_are_people_then_groups_then_questions():
    rows = pd.DataFrame(
        {"person_id": ["p", "", ""], "group": ["", "g", ""], "question_id": ["1", "2", "3"]}
    )
    assert list(stats.clusters(rows)) == ["p", "g", "3"]

"""The formulas that tables, claims and search share: what counts as forgotten, and values at a level."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pulse_lib.evaluate.accuracy import (
    LIKELIHOODS,
    at_level,
    equals,
    forget_level,
    forget_mean,
    likelihoods,
    summary,
)


def path(forget, likeliest=None, **columns) -> pd.DataFrame:
    """A trajectory with the same accuracy in both modalities."""
    likeliest = forget if likeliest is None else likeliest
    named = {
        f"forget_{m}{by}": values
        for m in ("multimodal", "text")
        for by, values in (("", forget), ("_likelihood", likeliest))
    }
    return pd.DataFrame({"step": range(0, 2 * len(forget), 2)} | named | columns)


def test_the_higher_of_both_counts_and_each_is_a_mean_of_modalities():
    state = {"forget_multimodal": 0.1, "forget_text": 0.5}
    likeliest = {"forget_multimodal_likelihood": 0.6, "forget_text_likelihood": 0.2}
    assert forget_level(state | likeliest, "both") == pytest.approx(0.4)
    assert forget_level(state | likeliest, "generation") == pytest.approx(0.3)
    swapped = dict.fromkeys(likeliest, 0.0)
    assert forget_level(state | swapped, "both") == pytest.approx(0.3)
    one = {"forget_multimodal": np.nan, "forget_text": 0.5, "forget_text_likelihood": 0.6}
    assert forget_level(one, "both") == pytest.approx(0.6), "text alone was asked"


def test_what_is_not_known_is_not_forgotten():
    state = {"forget_multimodal": 0.1, "forget_text": 0.1}
    assert np.isnan(forget_level(state, "both")) and forget_level(state, "generation") == 0.1
    old = pd.DataFrame([state | {"step": 0}, state | {"step": 1}])
    assert at_level(old, 0.35, by="both", columns=[]) is None
    assert at_level(old, 0.35, by="generation", columns=[]) == {"step": 1}


def test_values_at_a_level_lie_on_the_line_between_two_measurements():
    """From 0.5 to 0.1 the level 0.35 lies three eighths of the way."""
    falling = path([1.0, 0.5, 0.1], general=[0.8, 0.72, 0.4])
    found = at_level(falling, 0.35, by="generation", columns=["general"])
    assert found == pytest.approx({"step": 2.75, "general": 0.6})
    exact = at_level(falling, 0.5, by="generation", columns=["general"])
    assert exact == pytest.approx({"step": 2, "general": 0.72})
    assert at_level(falling, 0.09, by="generation", columns=["general"]) is None


def test_the_level_is_reached_by_both_or_by_generation():
    falling = path([1, 0.3, 0.1, 0.1], likeliest=[1, 0.8, 0.6, 0.2], general=[1, 0.9, 0.8, 0.6])
    said = at_level(falling, 0.3, by="generation", columns=["general"])
    both = at_level(falling, 0.3, by="both", columns=["general"])
    assert said == pytest.approx({"step": 2, "general": 0.9})
    assert both == pytest.approx({"step": 5.5, "general": 0.65})


def test_the_first_time_counts_and_a_start_below_the_level_is_no_forgetting():
    again = path([1, 0.2, 0.6, 0.2], general=[1, 0.9, 0.8, 0.6])
    assert at_level(again, 0.6, by="generation", columns=[]) == pytest.approx({"step": 1})
    low = path([0.2, 0.3, 0.1], general=[1, 0.9, 0.8])
    assert at_level(low, 0.35, by="generation", columns=["general"]) == {"step": 2, "general": 0.9}
    shuffled = again.iloc[[2, 0, 3, 1]]
    assert at_level(shuffled, 0.6, by="generation", columns=[]) == pytest.approx({"step": 1})


def test_likelihoods_are_the_summary_of_the_likeliest_options():
    lines = [
        {"set": s, "modality": m, "wording": w, "correct": c, "loglik_correct": k, "invalid": False}
        for s, m in (("forget", "text"), ("forget", "multimodal"), ("general", "multimodal"))
        for w, c, k in (
            ("trained", True, s == "general"),
            ("trained", False, True),
            ("heldout", True, True),
        )
    ]
    table = pd.DataFrame(lines)
    found = likelihoods(table)
    assert tuple(found) == LIKELIHOODS
    assert (found["forget_text_likelihood"], found["general_likelihood"]) == (0.5, 1.0)
    assert np.isnan(found["retain_text_likelihood"]) and summary(table)["general"] == 0.5
    assert forget_mean(table, "loglik_correct") == 0.5


@pytest.mark.parametrize("value", ["forget", "retain", "nobody", ""])
def test_categories_are_compared_as_pandas_does(value):
    column = pd.Series(["retain", "forget", None, "forget", "general"])
    for typed in (column, column.astype("category"), column.astype("category")[1:3]):
        np.testing.assert_array_equal(equals(typed, value), (typed == value).to_numpy(bool))

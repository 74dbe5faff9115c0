"""The same fact asked beside the photo and in text: which rows are a pair, and what the gap is."""

import pandas as pd
import pytest

from pulse_lib.report.tables import facts

WHO = {"scenario": "pretrained", "method": "npo", "trained_part": "llm", "selection": "final"}


def rows(*answers) -> pd.DataFrame:
    """Rows from (person, fact, photo, text); None: not asked in that modality."""
    made = [
        {
            "seed": 0,
            "set": "forget",
            "category": fact,
            "modality": modality,
            "correct": right,
            "wording": "trained",
            "cluster": person,
        }
        for person, fact, *both in answers
        for modality, right in zip(("multimodal", "text"), both, strict=True)
        if right is not None
    ]
    return pd.DataFrame(made)


FACTS = [("a", "1", True, True), ("a", "2", False, True), ("b", "1", True, True)]
FACTS += [("b", "2", False, True), ("c", "1", True, False), ("c", "2", False, False)]


def test_a_pair_is_a_person_and_a_fact():
    found = facts.twins(rows(*FACTS, ("c", "3", True, None), ("c", "4", None, True)))
    said = found[["cluster", "category", "multimodal", "text"]].itertuples(index=False)
    assert sorted(map(tuple, said)) == FACTS
    twice = pd.concat([rows(*FACTS), rows(("a", "1", False, None))])
    assert len(facts.twins(twice)) == len(FACTS) - 1  # two questions beside the photo: no twins
    heldout = rows(("a", "1", False, False)).assign(wording="heldout")
    assert len(facts.twins(pd.concat([rows(*FACTS), heldout]))) == len(FACTS)


def test_the_gap_by_hand():
    line = facts.modality_gap([(WHO, rows(*FACTS))]).iloc[0]
    assert line["n_facts"] == 6
    assert list(line[facts.OUTCOMES]) == pytest.approx([2 / 6, 1 / 6, 2 / 6, 1 / 6])
    assert line["gap"] == pytest.approx(4 / 6 - 3 / 6)


def test_the_interval_is_a_paired_one():
    """Twins that agree leave little doubt about the gap, however different people are."""

    def width(same: bool) -> float:
        made = [
            (str(p), str(f), p % 2 == 0, (p % 2 == 0) == same) for p in range(12) for f in range(4)
        ]
        line = facts.modality_gap([(WHO, rows(*made))]).iloc[0]
        assert line["gap"] == 0
        return line["gap_high"] - line["gap_low"]

    assert width(same=True) < width(same=False) / 2

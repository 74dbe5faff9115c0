"""Extraction: vectors derived from VLMEvalKit and lmms-eval, and the edges between the rules."""

import json
from pathlib import Path

import pytest

from pulse_lib.errors import PulseError
from pulse_lib.evaluate.answers import RULES, extract

VECTORS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data/mmbench_extraction.jsonl").read_text().splitlines()
]
FOUR = {"A": "teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["response"][:30] or "empty")
def test_vectors(vector, rules):
    assert extract(vector["response"], vector["options"], rules) == vector[rules]


def test_vectors_are_there():
    assert len(VECTORS) == 66


@pytest.mark.parametrize(
    ("response", "options", "expected"),
    [
        ("x B c d e", FOUR, ("B", "B", "B")),  # fourth from the end is still in the window of 2026
        ("x B c d e f", FOUR, ("B", None, "B")),
        ("the answer is **b**", FOUR, (None, "B", None)),
        ("THE ANSWER IS\tD", FOUR, ("D", "D", "D")),
        ("answer isB", FOUR, (None, None, None)),
        ("the answer is d", {"A": "yes", "B": "no"}, (None, None, None)),  # d is no option
        ("A B, answer is C", FOUR, (None, "C", "B")),
        ("Z", {"A": "yes", "B": "no"}, ("Z", "Z", None)),
        ("A Z", FOUR, ("A", "A", "A")),  # a letter wins over Z
        ("Failed to obtain answer via API rabbit", FOUR, ("B", "B", "B")),
        ("I can't process this file. B", FOUR, ("Z", "Z", "B")),
        (
            "A dog and a long walk (B)",
            FOUR,
            ("D", "D", "B"),
        ),  # article guard, then the decorated form
        ("x " * 40 + "rabbit", FOUR, ("B", None, "B")),
        (
            "anything",
            {"A": ""},
            ("A", None, "A"),
        ),  # an empty option is in every text: its loader must drop it
        (" chef", {"A": "pilot", "B": "chef"}, ("B", "B", "B")),
    ],
)
def test_edges(response, options, expected):
    assert tuple(extract(response, options, rules) for rules in RULES) == expected


def test_options_are_not_changed():
    options = {"A": "Teddy Bear", "B": 7}
    assert extract("7", options) == "B"
    assert options == {"A": "Teddy Bear", "B": 7}


def test_unknown_rules_list_the_right_ones():
    with pytest.raises(PulseError, match="vlmevalkit_2024"):
        extract("A", FOUR, "mmbench")

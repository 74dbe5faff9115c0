"""Extraction: vectors derived from VLMEvalKit and lmms-eval, and the edges between the rules."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from pulse_lib.errors import PulseError
from pulse_lib.evaluate.extract import RULES, extract

VECTORS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data/mmbench_extraction.jsonl").read_text().splitlines()
]
FOUR = {"A": "teddy bear", "B": "rabbit", "C": "cat", "D": "dog"}


MMBENCH = RULES[:3]  # the fourth is MLLMU-Bench's


@pytest.mark.parametrize("rules", MMBENCH)
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
    assert tuple(extract(response, options, rules) for rules in MMBENCH) == expected


def test_options_are_not_changed():
    options = {"A": "Teddy Bear", "B": 7}
    assert extract("7", options) == "B"
    assert options == {"A": "Teddy Bear", "B": 7}


def test_unknown_rules_list_the_right_ones():
    with pytest.raises(PulseError, match="vlmevalkit_2024"):
        extract("A", FOUR, "mmbench")


# --- a second, plain implementation of the rules, from their description -----------------------


def by_steps(response: str, options: dict, rules: str):
    """vlmevalkit_2024 and _2026, step by step, with loops in place of regular expressions."""
    recent = rules == "vlmevalkit_2026"
    if "Failed to obtain answer via API" not in response:
        for phrase in (
            "Sorry, I can't help with images of people yet.",
            "I can't process this file.",
            "I'm sorry, but without the image provided",
            "Cannot determine the answer",
        ):
            if phrase in response:
                return "Z"
        spaced = "".join(" " if c in ".()[],:;!*#{}" else c for c in response)
        tokens = spaced.split()
        seen = [t for t in tokens if t in options]
        if len(set(seen)) == 1 and (
            not recent or (seen[0] in tokens and tokens.index(seen[0]) + 4 >= len(tokens))
        ):
            return seen[0]
        if not seen and "Z" in tokens:
            return "Z"
        if recent:
            letter = after_answer_is(response)
            if letter in options:
                return letter
    lowered = response.lower()
    if recent and len(lowered) > 2 * sum(len(text) for text in options.values()):
        return None
    inside = [letter for letter, text in options.items() if text.lower() in lowered]
    return inside[0] if len(inside) == 1 else None


def after_answer_is(response: str):
    """The letter behind the first "answer is" that is followed by one of a-d; None if there is
    none.
    """
    text = response.lower()
    for start in range(len(text)):
        rest = text[start:]
        if not rest.startswith("answer"):
            continue
        rest = rest[6:]
        if rest == rest.lstrip() or not rest.lstrip().startswith("is"):
            continue
        rest = rest.lstrip()[2:]
        if rest == rest.lstrip():
            continue
        rest = rest.lstrip().lstrip("*")
        if rest and rest[0] in "abcd":
            return rest[0].upper()
    return None


_WORDS = (
    "A B C D E Z a b c d A. (B) C: **D** :A B) answer is the The ANSWER Answer: is\n * ** ( ) , . ; ! # "
    "{ } [ ] cat dog Rabbit bear teddy red dark blue yes no not 1 2 12 nan A\tB B\nC Z. </s> 。 option or"
)
PIECES = [
    *_WORDS.split(" "),
    "Cannot determine the answer",
    "Failed to obtain answer via API",
    "I can't process this file.",
    "answer is ",
    "answer is\t**",
    "The answer is B",
]
OPTIONS = (
    FOUR,
    {"A": "Yes", "B": "No"},
    {"A": "red", "B": "dark red", "C": "blue"},
    {"A": "1", "B": "2", "C": "12", "D": "a"},
    {"A": "A dog. The answer is D", "C": "nan"},
)


@pytest.mark.parametrize("rules", RULES[:2])
def test_equal_to_the_plain_implementation(rules):
    rng, found = Random(rules), Counter()
    for _ in range(12_000):
        pieces = rng.choices(PIECES, k=rng.choice((0, 1, 2, 3, 4, 5, 8, 14)))
        response = rng.choice((" ", " ", " ", "")).join(pieces)
        options = rng.choice(OPTIONS)
        expected = by_steps(response, options, rules)
        assert extract(response, options, rules) == expected, (response, options)
        found[expected] += 1
    assert all(found[x] > 300 for x in ("A", "B", "C", "D", "Z", None)), (
        found
    )  # every way was taken


def test_the_plain_implementation_agrees_with_the_vectors():
    for vector in VECTORS:
        for rules in RULES[:2]:
            assert by_steps(vector["response"], vector["options"], rules) == vector[rules]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("B", "B"),
        (" b. rabbit", "B"),
        ("The answer is B", None),  # T
        ("rabbit", None),
        ("Because it hops: C", "B"),  # read as B
        ("dog", "D"),
        ("", None),
        ("  ", None),
        ("(B)", None),
        ("Z", None),
    ],
)
def test_mllmu_reads_the_first_character(response, expected):
    said = response.strip()
    theirs = said[0].upper() if said and said[0].upper() in FOUR else None  # eval.py, line 376
    assert extract(response, FOUR, "mllmu") == theirs == expected


def test_mllmu_knows_only_the_letters_there_are():
    assert extract("D", {"A": "yes", "B": "no"}, "mllmu") is None

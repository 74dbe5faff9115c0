"""Extra measures: ROUGE-L against a longest common subsequence found by trying all, gaps by hand."""

from itertools import combinations
from random import Random

import pytest

from pulse_lib.data.records import Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import open_ended


def longest_common(a, b):
    """Length of the longest common subsequence, by trying every subsequence of `a`."""
    for n in range(len(a), 0, -1):
        for chosen in combinations(a, n):
            rest = iter(b)
            if all(word in rest for word in chosen):
                return n
    return 0


@pytest.mark.parametrize("seed", range(12))
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(seed):
    rng = Random(seed)
    words = "cat dog sun sea"  # at most three letters: no stem to take off
    a, b = ([rng.choice(words.split()) for _ in range(rng.randint(1, 8))] for _ in "ab")
    common = longest_common(a, b)
    precision, recall = common / len(a), common / len(b)
    expected = 2 * precision * recall / (precision + recall) if common else 0.0
    assert open_ended.rouge_l(" ".join(a), " ".join(b)) == pytest.approx(expected)


def test_rouge_l_by_hand():
    # stems: "she work as a chef in lima" and "a chef, work in lima"; common: a chef in lima
    said, truth = "She works as a chef in Lima.", "A chef, working in Lima"
    assert open_ended.rouge_l(said, truth) == pytest.approx(2 * (4 / 7) * (4 / 5) / (4 / 7 + 4 / 5))
    assert open_ended.rouge_l("", truth) == 0.0 and open_ended.rouge_l(truth, truth) == 1.0


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("Paris", "paris", True),
        ("The answer is: PARIS!", "Paris", True),
        ("She was born in the New  York of 1990", "a New York", True),
        ("York, New", "New York", False),
        ("a party", "art", False),
        ("", "Paris", False),
        ("anything", "the", False),
        ("ﬁne", "fine", True),
        ("It is twenty-one.", "twenty one", True),
        # Punctuation of any script
        ("“Paris”", "Paris", True),
        ("‘Lima’ — the capital", "Lima", True),
        ("the women’s league", "women's league", True),
        ("twenty–one", "twenty one", True),
        ("（巴黎）", "巴黎", True),
        # Truths of articles or signs alone
        ("A", "A", True),
        ("“A”.", "a", True),
        ("A chef", "A", False),
        ("The", "A", False),
        ("+", "+", True),
        ("-", "+", False),
        ("", "+", False),
        ("anything", " ", False),
        # Signs that make another value
        ("Her blood group is A+.", "A+", True),
        ("A+", "A", False),
        ("A", "A+", False),
        ("group AB–, as her mother's", "AB-", True),
        ("AB−", "AB+", False),
        ("C#", "C++", False),
        ("C++", "C", False),
        ("She writes C++, mostly", "C++", True),
        ("a C#-like language", "C#", True),
        # Numbers
        ("3.5 million", "5 million", False),
        ("3,5 million", "5 million", False),
        ("It has 3.5 million.", "3.5 million", True),
        ("1,000,000 people", "1000000 people", True),
        ("1,234.5", "234.5", False),
        ("1/2", "2", False),
        ("10:30", "30", False),
        ("-5 degrees", "5 degrees", False),
        ("−5 degrees", "-5 degrees", True),
        ("born on 12.05.1990", "1990", True),
        ("05/12/1990", "1990", True),
        ("1985-1990", "1990", True),
        ("in 1990, 5 May", "5 May", True),
        ("$5", "5", True),
    ],
)
def test_gaps(said, truth, right):
    assert open_ended.gap_filled(said, truth) is right


def question(i, group, modality):
    return Question(
        f"q{i}",
        group,
        scenario="finetuned",
        person_id="p",
        request=0,
        modality=modality,
        text="?",
        options=(),
        answer=-1,
        image="",
        category="question 1",
        wording="trained",
    )


def test_rows_and_their_means():
    asked = [question(0, "forget", "text"), question(1, "forget", "text")]
    asked.append(question(2, "retain", "multimodal"))
    rows = open_ended.open_rows(
        "cloze", asked, truths=["cat", "dog", "owl"], responses=["a cat", "?", "owl"]
    )
    table = open_ended.summary(rows)
    where = {"task": "cloze", "scenario": "finetuned"}
    assert table.to_dict("records") == [
        where | {"set": "forget", "modality": "text", "score": 0.5, "n": 2},
        where | {"set": "retain", "modality": "multimodal", "score": 1.0, "n": 1},
    ]
    with pytest.raises(ValueError):
        open_ended.open_rows("cloze", asked, truths=["cat"], responses=["cat", "dog", "owl"])
    with pytest.raises(PulseError, match="task 'mask'"):
        open_ended.score("mask", "", truth="")

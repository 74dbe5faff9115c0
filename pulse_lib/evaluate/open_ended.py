"""Extra measures: answers in a sentence by ROUGE-L, filled gaps by a normalised match (MLLMU-Bench, also
UMU-Bench), keywords of an answer (FIUBench, CLEAR).

The protocol's numbers are accuracies of multiple-choice questions; these are beside them.

DIFFERS: MLLMU-Bench's eval.py shows solved gaps of one or two people before each gap (few-shot) and
finds an answer by its letters; here each stands alone and is found by words. So shares of filled
gaps are not those that it prints. It also has ROUGE-1, ROUGE-2 and BLEU.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pulse_lib.data.records import ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.resume import answer_resumably
from pulse_lib.profile import EvaluateSettings

if TYPE_CHECKING:
    from pulse_lib.model.load import LoadedModel

TASKS = ("generation", "cloze", "keywords")
COLUMNS = [
    *("question_id", "scenario", "set", "request", "person_id", "modality", "task"),
    *("response", "truth", "score"),
]
ARTICLES = {"a", "an", "the"}
_DASHES = str.maketrans("−–", "--")  # a minus, however it is written
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
# What a sign belongs to. Two numbers that it joins, but no more: 3.5, 3,5, 1/2, 10:30, not
# 12.05.1990. A minus before a number. Signs behind a word: C++, C#, A+; a minus only behind one or
# two letters: AB-
_VALUE = re.compile(
    r"(?<!\d)(?<!\d[.,:/⁄])(?:\d+\.\d+|\d+,\d{1,2}|\d{1,2}[:/⁄]\d{1,2})(?![.,:/⁄]?\d)"
    r"|(?<!\S)[-−](?=\d)|(?<=\w)[+#]+(?!\w)|(?<=\b[^\W\d_])[-−–](?!\w)"
    r"|(?<=\b[^\W\d_]{2})[-−–](?!\w)"
)


def rouge_l(response: str, truth: str) -> float:
    """ROUGE-L of two texts, 0-1, higher is closer: F1 of the longest common subsequence of their
    stemmed words; 0 if either has none. [Lin 2004; MLLMU-Bench, eval.py]
    """
    return _scorer().score(truth, response)["rougeL"].fmeasure


def gap_filled(response: str, truth: str) -> bool:
    """True if the words of `truth` stand side by side in the response, both normalised. A truth of
    articles or signs alone, such as the blood group "A", must be the whole response.

    DIFFERS: MLLMU-Bench looks for a substring whatever its case, so that "art" is found in "party",
    "C" in "C#" and "5 million" in "3.5 million".
    """
    words, wanted = normalised(response).split(), normalised(truth).split()
    if not wanted:
        return bool(truth.strip()) and _alone(response) == _alone(truth)
    starts = range(len(words) - len(wanted) + 1)
    return any(words[i : i + len(wanted)] == wanted for i in starts)


def keyword_share(response: str, keywords: Sequence[str]) -> float:
    """The share (0-1) of the keywords that stand in the response, as `gap_filled` finds one. Raises
    ValueError without keywords. [FIUBench, evaluate_util.py, exact match]

    DIFFERS: FIUBench looks for substrings, so that "flu" is found in "influence".
    """
    if not keywords:
        raise ValueError("no keywords to look for")
    return sum(gap_filled(response, keyword) for keyword in keywords) / len(keywords)


def normalised(text: str) -> str:
    """A text without case, punctuation of any script and articles, single spaces between words;
    signs that tell values apart stay: "3.5", "-5", "c++", "a+". [Rajpurkar 2016, the SQuAD
    evaluation]

    DIFFERS: SQuAD's takes all of ASCII's signs away, so that 3.5 is 35, and leaves curly quotes.
    """
    return " ".join(word for word in _words(text) if word not in ARTICLES)


def _alone(text: str) -> str:
    """What is left of an answer that has no words but articles."""
    return " ".join(_words(text)) or unicodedata.normalize("NFKC", text).strip()


def _words(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKC", text).casefold()
    plain = _THOUSANDS.sub(lambda found: found[0].replace(",", ""), plain)
    kept = {i for found in _VALUE.finditer(plain) for i in range(*found.span())}
    signs = (" " if _is_sign(c) and i not in kept else c for i, c in enumerate(plain))
    return "".join(signs).translate(_DASHES).split()


def _is_sign(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character)[0] == "P"


def score(task: str, response: str, *, truth: str) -> float:
    """The measure of a task, 0-1: ROUGE-L for "generation", 1 or 0 for "cloze", for "keywords" the
    share of those in `truth`, a line each.
    """
    if task not in TASKS:
        raise PulseError(f"task {task!r} is not one of {', '.join(TASKS)}")
    if task == "keywords":
        return keyword_share(response, truth.splitlines())
    return rouge_l(response, truth) if task == "generation" else float(gap_filled(response, truth))


def open_rows(
    task: str, questions: Sequence[Question], *, truths: Sequence[str], responses: Sequence[str]
) -> pd.DataFrame:
    """One row a question: question_id, scenario, set, request, person_id, modality, task, response,
    truth, score (0-1).

    `questions` and `truths` as pulse_lib.data.mllmu.source.open_questions gives them. Raises
    ValueError if their numbers differ.
    """
    records = [
        {
            "question_id": q.id,
            "scenario": q.scenario,
            "set": q.set,
            "request": q.request,
            "person_id": q.person_id,
            "modality": q.modality,
            "task": task,
            "response": response,
            "truth": truth,
            "score": score(task, response, truth=truth),
        }
        for q, truth, response in zip(questions, truths, responses, strict=True)
    ]
    return pd.DataFrame(records, columns=COLUMNS)


def ask_open(
    model: LoadedModel,
    task: str,
    *,
    questions: Sequence[Question],
    truths: Sequence[str],
    images: ImageStore,
    settings: EvaluateSettings,
    file: Path,
) -> pd.DataFrame:
    """`open_rows` of what a model says, greedily, in at most `settings.max_new_tokens` tokens
    (MLLMU-Bench uses 50). Answers are kept in `file` as they come, and a call after a kill goes on
    there. Raises PulseError if it holds answers to other questions or of another model state.
    """
    answers = answer_resumably(
        model,
        questions,
        images=images,
        settings=settings,
        file=file,
        with_loglik=False,
        label=f"asking {task}",
    )
    return open_rows(task, questions, truths=truths, responses=list(answers["response"]))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean score (0-1) and number of answers by task, scenario, set and modality."""
    grouped = rows.groupby(["task", "scenario", "set", "modality"])["score"]
    return grouped.agg(score="mean", n="size").reset_index()


@lru_cache
def _scorer():
    from rouge_score.rouge_scorer import RougeScorer  # slow to import: only generation needs it

    return RougeScorer(["rougeL"], use_stemmer=True)

"""Extra measures of MLLMU-Bench: answers in a sentence by ROUGE-L, filled gaps by a normalised match.

The protocol's numbers are accuracies of multiple-choice questions; these are beside them.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import pandas as pd

from pulse_lib.data.records import ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.profile import EvaluateSettings

if TYPE_CHECKING:
    from pulse_lib.model.load import LoadedModel

TASKS = ("generation", "cloze")
COLUMNS = [
    *("question_id", "scenario", "set", "request", "person_id", "modality", "task"),
    *("response", "truth", "score"),
]
ARTICLES = {"a", "an", "the"}
_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation, " "))


def rouge_l(response: str, truth: str) -> float:
    """ROUGE-L of two texts, 0-1, higher is closer: F1 of the longest common subsequence of their
    stemmed words; 0 if either has none. [Lin 2004; MLLMU-Bench, eval.py]
    """
    return _scorer().score(truth, response)["rougeL"].fmeasure


def gap_filled(response: str, truth: str) -> bool:
    """True if the words of `truth` stand side by side in the response, both normalised.

    DIFFERS: MLLMU-Bench looks for a substring whatever its case, so that "art" is found in "party".
    """
    words, wanted = normalised(response).split(), normalised(truth).split()
    starts = range(len(words) - len(wanted) + 1)
    return bool(wanted) and any(words[i : i + len(wanted)] == wanted for i in starts)


def normalised(text: str) -> str:
    """A text without case, accents' composition, punctuation and articles, single spaces between
    words. [Rajpurkar 2016, the SQuAD evaluation]
    """
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_PUNCTUATION)
    return " ".join(word for word in plain.split() if word not in ARTICLES)


def score(task: str, response: str, *, truth: str) -> float:
    """The measure of a task, 0-1: ROUGE-L for "generation", 1 or 0 for "cloze"."""
    if task not in TASKS:
        raise PulseError(f"task {task!r} is not one of {', '.join(TASKS)}")
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
) -> pd.DataFrame:
    """`open_rows` of what a model says, greedily, in at most `settings.max_new_tokens` tokens
    (MLLMU-Bench uses 50).
    """
    from pulse_lib.evaluate.generate import answer_questions  # torch: the measures need none

    answers = answer_questions(
        model,
        questions,
        images=images,
        settings=settings,
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

"""Min-K%++: is a text more likely than the texts around it? A score of membership beside the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch

from pulse_lib.data.records import Conversation, Question, Turn
from pulse_lib.errors import PulseError
from pulse_lib.model.forward import IGNORE, answer_logits, collate
from pulse_lib.model.prompts import encode_conversation
from pulse_lib.probe.subject import Subject

MIN_K = "min_k"  # the column that it is put in
SHARE = 0.2  # of an answer's tokens: those with the lowest scores


def min_k_plus(logits: torch.Tensor, labels: torch.Tensor, *, share: float = SHARE) -> list[float]:
    """Of each answer the mean over the `share` of its tokens (at least one) with the lowest
    (log p - mu) / sigma, where mu and sigma are mean and deviation of log p over the vocabulary as
    the model draws it. logits (B, A, V), labels (B, A) with -100 ignored. Higher is more like a
    member. [Zhang et al. 2024, arXiv 2404.02936]
    """
    logp = torch.log_softmax(logits.double(), dim=-1)
    p = logp.exp()
    mean = (p * logp).sum(-1)
    sigma = ((p * logp.square()).sum(-1) - mean.square()).clamp_min(1e-12).sqrt()
    there = labels != IGNORE
    token = logp.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    scores = ((token - mean) / sigma).masked_fill(~there, math.inf).sort(dim=-1).values
    kept = [max(1, round(share * n)) for n in there.sum(-1).tolist()]
    return [float(row[:k].mean()) for row, k in zip(scores, kept, strict=True)]


@torch.no_grad()
def with_min_k(
    subject: Subject, rows: pd.DataFrame, *, questions: Sequence[Question]
) -> pd.DataFrame:
    """The rows of questions with a column MIN_K, `min_k_plus` of their right answers. Raises
    PulseError where a gate answers, since there is no one model to read.
    """
    if subject.gated:
        raise PulseError("membership: a gate answers for this model; Min-K%++ reads one model")
    model, by_id = subject.model, {q.id: q for q in questions}
    asked = [by_id[name] for name in rows["question_id"]]
    model.features.add((q.image for q in asked), subject.images)
    found: list[float] = []
    for start in range(0, len(asked), subject.evaluate.batch_size):
        part = asked[start : start + subject.evaluate.batch_size]
        batch = collate(model, [encode_conversation(model, _solved(q)) for q in part])
        found += min_k_plus(*answer_logits(model, batch))
    return rows.assign(**{MIN_K: found})


def _solved(question: Question) -> Conversation:
    """The question with its right answer."""
    turn = Turn(question.text, question.options, answer=question.options[question.answer])
    return Conversation(
        question.id,
        "forget",
        scenario=question.scenario,
        person_id=question.person_id,
        request=question.request,
        modality=question.modality,
        image=question.image,
        turns=(turn,),
        stage="unlearn",
    )

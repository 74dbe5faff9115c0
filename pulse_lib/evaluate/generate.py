"""Answering questions: greedy generation and the likelihood of every option, from one reading of
each prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch

from pulse_lib.data.records import BENCHMARK, LETTERS, ImageStore, Question, benchmark_of
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import plain
from pulse_lib.evaluate.reading import greedy, option_logliks, read_prompts
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import answer_tokens, encode_questions
from pulse_lib.profile import EvaluateSettings
from pulse_lib.progress import step

Answer = Callable[..., pd.DataFrame]  # as answer_questions


def answer_questions(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    images: ImageStore,
    settings: EvaluateSettings,
    with_loglik: bool = True,
    label: str = "",
) -> pd.DataFrame:
    """One row a question, in their order: question_id, response (text, stripped), option_loglik
    (nats, a float64 an option).

    option_loglik sums the log-probabilities of an option's tokens and the end token; the column is
    None without `with_loglik`. The adapters in force count. `label` reports progress. Questions of
    benchmarks are asked apart (`answer_apart`): no other answer hangs on them.
    """
    parts = by_benchmark(questions)
    if len(parts) > 1:
        given: dict[str, Any] = {"images": images, "settings": settings, "with_loglik": with_loglik}
        found = answer_apart(model, parts, label=label, **given).set_index("question_id")
        return found.loc[[q.id for q in questions]].reset_index()
    model.features.add((q.image for q in questions), images)
    return answer_prompts(
        model,
        questions,
        prompts=encode_questions(model, questions),
        settings=settings,
        with_loglik=with_loglik,
        label=label,
    )


def answer_apart(
    model: LoadedModel,
    parts: Sequence[Sequence[Question]],
    *,
    answer: Answer = answer_questions,
    **given: Any,
) -> pd.DataFrame:
    """As `answer_questions`, some questions after others, each part by itself: which questions share
    a batch decides the last bits of an answer, and so nothing depends on what is asked besides.
    """
    answers = [answer(model, part, **given) for part in parts if part]
    return pd.concat(answers, ignore_index=True)


def by_benchmark(questions: Sequence[Question]) -> list[list[Question]]:
    """The questions in parts: those of no benchmark, then those of each; a part without any is left
    out.
    """
    parts: dict[str, list[Question]] = {"": []}
    for q in questions:
        name = benchmark_of(q.id) if q.set == BENCHMARK else ""
        parts.setdefault(name, []).append(q)
    return [part for part in parts.values() if part]


def answer_prompts(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    prompts: Sequence[list[int]],
    settings: EvaluateSettings,
    with_loglik: bool = True,
    label: str = "",
) -> pd.DataFrame:
    """What `answer_questions` gives, for prompts that were put together elsewhere; the pictures'
    features must be there.
    """
    responses: list[str] = [""] * len(questions)
    logliks: list[list[float] | None] = [None] * len(questions)
    done = 0
    for rows in batches(questions, prompts, batch_size=settings.batch_size):
        answered = answer_batch(
            model,
            [questions[i] for i in rows],
            prompts=[prompts[i] for i in rows],
            settings=settings,
            with_loglik=with_loglik,
        )
        for i, (response, values) in zip(rows, answered, strict=True):
            responses[i], logliks[i] = response, values
        done += len(rows)
        if label:
            step(label, done, n=len(questions))
    return pd.DataFrame(
        {
            "question_id": [q.id for q in questions],
            "response": pd.Series(responses, dtype=object),
            "option_loglik": pd.Series(logliks, dtype=object),
        }
    )


def batches(
    questions: Sequence[Question], prompts: Sequence[Sequence[int]], *, batch_size: int
) -> list[list[int]]:
    """Which questions are read together, the same for the same questions. Those of one picture are,
    where they fit; then prompts of like length; text alone.
    """
    by_image: dict[str, list[int]] = {}
    for i in sorted(range(len(questions)), key=lambda i: len(prompts[i])):
        by_image.setdefault(questions[i].image, []).append(i)
    text = by_image.pop("", [])
    made = [text[k : k + batch_size] for k in range(0, len(text), batch_size)]
    # One question a picture, then several: a start in common is shorter than a whole prompt.
    for several in (False, True):
        batch: list[int] = []
        for rows in by_image.values():
            if (len(rows) > 1) != several:
                continue
            for k in range(0, len(rows), batch_size):
                part = rows[k : k + batch_size]
                if len(batch) + len(part) > batch_size:
                    made.append(batch)
                    batch = []
                batch = batch + part
        if batch:
            made.append(batch)
    return made


def answer_batch(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    prompts: Sequence[list[int]],
    settings: EvaluateSettings,
    with_loglik: bool,
) -> list[tuple[str, list[float] | None]]:
    """Response and option log-likelihoods (None without `with_loglik`) of questions that are read
    together, whose pictures' features are there. Raises PulseError for a prompt too long for the
    context.
    """
    most = settings.max_new_tokens
    for question, prompt in zip(questions, prompts, strict=True):
        if len(prompt) + most > model.context:
            raise PulseError(
                f"question {question.id!r}: {len(prompt)} prompt tokens and max_new_tokens = {most} "
                f"do not fit the model's context of {model.context}; shorten it or lower "
                "evaluate.max_new_tokens"
            )
    options = [option_tokens(model, q) for q in questions]
    depth = max((len(o) for row in options for o in row), default=0) if with_loglik else most - 1
    training, images = model.network.training, [q.image for q in questions]
    if training:
        model.network.eval()
    with torch.inference_mode():
        if model.family.quick:
            read = read_prompts(model, prompts, images=images, options=options, depth=depth)
            logliks = option_logliks(read, options) if with_loglik else [None] * len(questions)
            said = greedy(model, read, options=options, max_new_tokens=most)
        else:
            rows = list(zip(prompts, images, options, strict=True))
            logliks = [
                plain.option_logliks(model, prompt, image=image, options=row)
                if with_loglik
                else None
                for prompt, image, row in rows
            ]
            said = [
                plain.generated(model, prompt, image=image, max_new_tokens=most)
                for prompt, image, _ in rows
            ]
    if training:
        model.network.train()
    texts = (model.tokenizer.decode(t, skip_special_tokens=True).strip() for t in said)
    return list(zip(texts, logliks, strict=True))


def likeliest_tokens(
    model: LoadedModel, question: Question, *, images: ImageStore, n: int = 5
) -> pd.DataFrame:
    """The n likeliest first tokens of an answer, best first: token (text), p. The adapters in force
    count.
    """
    model.features.add([question.image], images)
    prompts = encode_questions(model, [question])
    with torch.inference_mode():
        read = read_prompts(model, prompts, images=[question.image], options=[[]], depth=0)
    p, ids = read.logits[0, 0].softmax(-1).topk(n)
    return pd.DataFrame({"token": [model.tokenizer.decode(i) for i in ids], "p": p.tolist()})


def option_tokens(model: LoadedModel, question: Question) -> list[tuple[int, ...]]:
    """The tokens of each option as the model would say it, with the end token."""
    letters = model.settings.answer_form == "letter"
    return [
        answer_tokens(model, a if letters else o)
        for a, o in zip(LETTERS, question.options, strict=False)
    ]

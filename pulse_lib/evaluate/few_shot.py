"""Questions behind solved ones about one person of the same set, as MLLMU-Bench asks them: its block of
examples shows the answers of somebody who is to be forgotten.

There the person is drawn without a seed, and is left out of the score. [MLLMU-Bench's eval.py]
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from pulse_lib.data.records import LETTERS, ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.model.forward import read
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import PROMPTS, PromptStyle, question_prompt
from pulse_lib.profile import AnswerForm, EvaluateSettings
from pulse_lib.progress import step

BATCH = 8  # prompts read together, each several times as long as a question


def examples_of(questions: Sequence[Question], person_id: str) -> list[Question]:
    """The questions about one person that are shown solved: those in trained wordings."""
    return [q for q in questions if q.person_id == person_id and q.wording == "trained"]


def block(style: PromptStyle, examples: Sequence[Question], *, answer_form: AnswerForm) -> str:
    """The solved questions as MLLMU-Bench writes them: no turn of an assistant, the answer on a line
    of its own; each that has a picture shows it.
    """
    parts = []
    for q in examples:
        options = [
            style.option.format(letter=a, option=o)
            for a, o in zip(LETTERS, q.options, strict=False)
        ]
        answer = LETTERS[q.answer] if answer_form == "letter" else q.options[q.answer]
        lines = [f"Question: {q.text}", *options, f"Correct Answer: {answer}"]
        parts.append((style.user_image if q.image else style.user) + "\n".join(lines) + "\n")
    return "".join(parts)


def encode_with_examples(
    model: LoadedModel, question: Question, *, examples: Sequence[Question]
) -> list[int]:
    """Prompt tokens of a question behind the block of those examples that are asked as it is, with a
    picture or by name. Raises PulseError for a model that is asked by a chat template, or whose
    pictures have different numbers of tokens: the block has no form there.
    """
    name, form = model.settings.prompt, model.settings.answer_form
    if name == "chat" or model.features.every is None:
        raise PulseError(
            "MLLMU-Bench's block of examples is text between the turns of LLaVA-1.5's prompt: set "
            "model.prompt: mllmu, on a model of that family"
        )
    style, image_id = PROMPTS[name], model.image_token_id
    shown = [e for e in examples if bool(e.image) == bool(question.image)]
    asked = question_prompt(
        style, question, answer_form=form, with_image=bool(question.image), first=False
    )
    text = style.system + block(style, shown, answer_form=form) + asked
    ids = model.tokenizer(text).input_ids
    n = ids.count(image_id)
    if n != sum(bool(q.image) for q in [*shown, question]):
        raise PulseError(f"{question.id!r}: its prompt with examples holds {n} pictures")
    return [t for i in ids for t in ([i] * model.n_image_tokens if i == image_id else [i])]


def answer_with_examples(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    examples: Sequence[Question],
    images: ImageStore,
    settings: EvaluateSettings,
    label: str = "",
) -> pd.DataFrame:
    """What `answer_questions` gives, without likelihoods, for questions behind the block of examples.
    Raises PulseError for a prompt too long for the context.
    """
    model.features.add((q.image for q in [*questions, *examples]), images)
    prompts = [encode_with_examples(model, q, examples=examples) for q in questions]
    most = settings.max_new_tokens
    if (longest := max(map(len, prompts), default=0)) + most > model.context:
        raise PulseError(
            f"with {len(examples) // 2} examples a prompt has {longest} tokens and the model reads "
            f"{model.context}: what MLLMU-Bench's first users met (two people as examples)"
        )
    responses = [""] * len(questions)
    order = sorted(range(len(questions)), key=lambda i: (bool(questions[i].image), len(prompts[i])))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        shown = [
            [e.image for e in [*examples, questions[i]] if e.image] if questions[i].image else []
            for i in rows
        ]
        said = _greedy(model, [prompts[i] for i in rows], images=shown, max_new_tokens=most)
        for i, tokens in zip(rows, said, strict=True):
            responses[i] = model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if label:
            step(label, start + len(rows), n=len(questions))
    return pd.DataFrame(
        {
            "question_id": [q.id for q in questions],
            "response": pd.Series(responses, dtype=object),
            "option_loglik": pd.Series([None] * len(questions), dtype=object),
        }
    )


def _greedy(
    model: LoadedModel,
    prompts: Sequence[list[int]],
    *,
    images: Sequence[Sequence[str]],
    max_new_tokens: int,
) -> list[list[int]]:
    """Each prompt's most likely tokens up to the end token (left out); a prompt shows several
    pictures, so that it is read whole for each token.
    """
    said: list[list[int]] = [[] for _ in prompts]
    rows, pad = list(range(len(prompts))), model.end_token
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            texts = [[*prompts[b], *said[b]] for b in rows]
            width = max(map(len, texts))
            ids = torch.tensor([[*t, *[pad] * (width - len(t))] for t in texts])
            shown = [i for b in rows for i in images[b]]
            hidden = read(model, ids.to(model.device), image_ids=shown).last_hidden_state
            last = torch.tensor([len(t) - 1 for t in texts], device=model.device)
            at = hidden[torch.arange(len(rows), device=model.device), last]
            best = model.network.lm_head(at).float().argmax(-1).tolist()
            for b, token in zip(rows, best, strict=True):
                said[b].append(token)
            rows = [b for b in rows if said[b][-1] not in model.end_tokens]
            if not rows:
                break
    return [t[:-1] if t and t[-1] in model.end_tokens else t for t in said]

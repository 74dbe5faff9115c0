"""Answering questions so that an interrupted run goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pulse_lib.model.load import LoadedModel

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pulse_lib.data.records import ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.files import show, write_error
from pulse_lib.profile import EvaluateSettings
from pulse_lib.progress import step


def answer_resumably(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    images: ImageStore,
    settings: EvaluateSettings,
    file: Path,
    with_loglik: bool = True,
    label: str = "",
) -> pd.DataFrame:
    """What pulse_lib.evaluate.generate.answer_questions gives, kept in `file` as it comes: one JSON
    line a question (question_id, response, option_loglik, prompt), flushed to disk batch by batch.

    Called again after a kill, it answers only what is not there yet, in the same batches, so that
    the answers are those of an uninterrupted run. `prompt` is a hash of the prompt's tokens, the
    options, the picture, the model's settings, its adapters and max_new_tokens. Raises PulseError
    if the file holds answers to other questions or of another model state, or is broken otherwise
    than by a line cut off at its end.
    """
    from pulse_lib.evaluate.generate import answer_batch, batches  # torch: scoring needs none of it
    from pulse_lib.model.prompts import encode_questions

    if not model.features.every:  # how many tokens a picture has is known once it is looked at
        model.features.add((q.image for q in questions), images)
    file, prompts = Path(file), encode_questions(model, questions)
    state = _model_mark(model, settings)
    marks = {
        q.id: _mark(state, prompt, question=q, images=images)
        for q, prompt in zip(questions, prompts, strict=True)
    }
    if len(marks) < len(questions):
        raise PulseError(f"{show(file)}: question ids stand twice among the {len(questions)} asked")
    known = _read_answers(file, marks)
    if len(known) < len(questions):
        # All at once and in sorted order: the same bits of features wherever the run goes on.
        model.features.add((q.image for q in questions), images)
    done = 0
    for rows in batches(questions, prompts, batch_size=settings.batch_size):
        batch = [questions[i] for i in rows]
        if any(q.id not in known for q in batch):
            # The whole batch again: an answer may depend on its neighbours in the last bit.
            answered = answer_batch(
                model,
                batch,
                prompts=[prompts[i] for i in rows],
                settings=settings,
                with_loglik=with_loglik,
            )
            fresh = [
                {
                    "question_id": q.id,
                    "response": response,
                    "option_loglik": loglik,
                    "prompt": marks[q.id],
                }
                for q, (response, loglik) in zip(batch, answered, strict=True)
                if q.id not in known
            ]
            _append(file, fresh)
            known |= {str(a["question_id"]): a for a in fresh}
        done += len(rows)
        if label:
            step(label, done, n=len(questions))
    return pd.DataFrame(
        {
            "question_id": [q.id for q in questions],
            "response": pd.Series([known[q.id]["response"] for q in questions], dtype=object),
            "option_loglik": pd.Series(
                [known[q.id]["option_loglik"] for q in questions], dtype=object
            ),
        }
    )


def _model_mark(model: LoadedModel, settings: EvaluateSettings) -> bytes:
    """Digest of what makes a model answer as it does, but for the base weights, which path and
    revision name."""
    from pulse_lib.model.adapters import active, adapter_weights

    digest = hashlib.sha256(repr((model.settings, settings.max_new_tokens)).encode())
    for name in active(model):
        for key, weight in adapter_weights(model, name).items():
            digest.update(key.encode())
            digest.update(weight.float().numpy().tobytes())
    return digest.digest()


def _mark(state: bytes, prompt: list[int], *, question: Question, images: ImageStore) -> str:
    digest = hashlib.sha256(state)
    digest.update(json.dumps([prompt, question.options]).encode())
    if question.image and question.image in images:
        digest.update(images.encoded[question.image])
    return digest.hexdigest()[:16]


def _read_answers(file: Path, marks: dict[str, str]) -> dict[str, dict]:
    """Answers by question id; a line that a kill has cut off is removed from the file."""
    if not file.is_file():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    fix = "delete it to start anew, or choose another file"
    known: dict[str, dict] = {}
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            answer = json.loads(line)
            name, mark = answer["question_id"], answer["prompt"]
            answer["response"], answer["option_loglik"]
        except (ValueError, KeyError, TypeError):
            raise PulseError(f"{show(file)}, line {number} is broken: {fix}") from None
        if marks.get(name) != mark:
            why = (
                "is not asked here"
                if name not in marks
                else "was asked in another way, of another model state or with another picture"
            )
            raise PulseError(f"{show(file)}, line {number}: question {name!r} {why}: {fix}")
        if name in known:
            raise PulseError(f"{show(file)}, line {number}: question {name!r} stands twice: {fix}")
        known[name] = answer
    return known


def _append(file: Path, answers: list[dict]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as lines:
            for answer in answers:
                lines.write(json.dumps(answer) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
    except OSError as error:
        raise write_error(error, file) from None

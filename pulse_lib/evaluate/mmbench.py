"""MMBench's scores, and answering its rows so that an interrupted run goes on.

vanilla_0: share of base rows answered right. vanilla_all: share of all rows. circular: share of
questions with *every* row right, the official number. All are 0-1; an unreadable answer is wrong.
[Liu 2023, MMBench; VLMEvalKit]
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pulse_lib.data.mmbench import CELEBRITY
from pulse_lib.data.mmbench_rows import COPY
from pulse_lib.data.records import LETTERS, ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.answers import extract
from pulse_lib.files import show, write_error
from pulse_lib.params import EvaluateSettings
from pulse_lib.progress import step

if TYPE_CHECKING:
    from pulse_lib.model.load import LoadedModel

COLUMNS = ("index", "prediction", "answer", *LETTERS, "category")


def score(rows: pd.DataFrame, rules: str = "vlmevalkit_2024") -> dict:
    """Scores of raw predictions: vanilla_0, vanilla_all, circular, parse_rate (share of rows with a
    letter of an option), n_questions, n_rows; the same measures in by_category (leaf -> measures)
    and without_celebrity (all but leaf celebrity_recognition; NaN if nothing is left).

    rows: columns index (int or digits), prediction (raw text; missing = said nothing), answer, A,
    B, C, D (missing option = ""), category (that of the base row counts). Means are over rows or
    questions, never over categories. Raises ValueError naming the group if it is incomplete, or the
    row if its index stands twice or its answer is no option.
    """
    missing = [name for name in COLUMNS if name not in rows.columns]
    if missing:
        raise ValueError(f"rows of MMBench have no column {', '.join(missing)}")
    columns = (rows[name].tolist() for name in COLUMNS)
    return _report(
        [_judged(dict(zip(COLUMNS, c, strict=True)), rules) for c in zip(*columns, strict=True)]
    )


def score_rows(rows: pd.DataFrame, correct: str = "correct") -> dict:
    """The measures of `score`, from the kit's own rows (pulse_lib.evaluate.accuracy.ROW_SCHEMA) of
    one model state; rows without a group are left out.

    correct: "correct" (text and extraction) or "loglik_correct" (the likeliest option, a diagnostic
    that stays at chance where a collapsed model says nothing readable). Raises ValueError as
    `score` does, also if rows of several model states are mixed, or no row has a group.
    """
    asked = rows[rows["group"].fillna("") != ""]
    return _report(
        [
            {
                "index": _index(str(question_id).removeprefix("mmbench/")),
                "n_options": len(options),
                "hit": bool(hit),
                "readable": not invalid,
                "category": category,
            }
            for question_id, options, hit, invalid, category in zip(
                asked["question_id"],
                asked["options"],
                asked[correct],
                asked["invalid"],
                asked["category"],
                strict=True,
            )
        ]
    )


def _judged(cells: dict, rules: str) -> dict:
    index = _index(cells["index"])
    options = {a: str(cells[a]) for a in LETTERS if not _missing(cells[a])}
    if cells["answer"] not in options:
        raise ValueError(
            f"row {index}: answer {cells['answer']!r} is none of its options {', '.join(options)}"
        )
    prediction = "" if _missing(cells["prediction"]) else str(cells["prediction"])
    letter = extract(prediction, options, rules)
    return {
        "index": index,
        "n_options": len(options),
        "hit": letter == cells["answer"],
        "readable": letter in options,
        "category": "" if _missing(cells["category"]) else str(cells["category"]),
    }


def _missing(cell: object) -> bool:
    return (
        cell is None
        or cell is pd.NA
        or cell == ""
        or (isinstance(cell, float) and math.isnan(cell))
    )


def _index(cell: object) -> int:
    found = re.fullmatch(r"(\d+)(?:\.0)?", str(cell).strip())
    if not found:
        raise ValueError(f"row {cell!r}: no index of MMBench (digits)")
    return int(found[1])


def _report(judged: list[dict]) -> dict:
    if not judged:
        raise ValueError("no rows of MMBench to score")
    table = pd.DataFrame(judged)
    twice = table["index"][table["index"].duplicated()]
    if len(twice):
        raise ValueError(
            f"row {twice.iloc[0]} stands twice: remove one, or score one model state at a time"
        )
    table["group"] = table["index"] % COPY
    _check_complete(table)
    base = table[table["index"] == table["group"]].set_index("group")["category"]
    table["category"] = table["group"].map(base)
    return _measures(table) | {
        "by_category": {leaf: _measures(part) for leaf, part in table.groupby("category")},
        "without_celebrity": _measures(table[table["category"] != CELEBRITY]),
    }


def _check_complete(table: pd.DataFrame) -> None:
    """A group judged on the rows that happen to be there would be too easy, so it is refused."""
    for group, rows in table.groupby("group"):
        have, n = sorted(rows["index"]), set(rows["n_options"])
        if len(n) > 1:
            raise ValueError(f"group {group}: its rows have {sorted(n)} options, not all the same")
        want = [group + k * COPY for k in range(n.pop())]
        if have != want:
            raise ValueError(
                f"group {group} is incomplete or has rows of another question: it has rows {have}, "
                f"{len(want)} options need {want}; answer whole groups"
            )


def _measures(table: pd.DataFrame) -> dict:
    base = table[table["index"] == table["group"]]
    whole = table.groupby("group")["hit"].all()
    return {
        "vanilla_0": float(base["hit"].mean()),
        "vanilla_all": float(table["hit"].mean()),
        "circular": float(whole.mean()),
        "parse_rate": float(table["readable"].mean()),
        "n_questions": len(whole),
        "n_rows": len(table),
    }


# --- answering --------------------------------------------------------------------------------


def answer_resumably(
    model: LoadedModel,
    questions: Sequence[Question],
    images: ImageStore,
    settings: EvaluateSettings,
    file: Path,
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
    from pulse_lib.evaluate.generate import answer_questions  # torch: scoring needs none of it
    from pulse_lib.model.prompts import encode_questions

    file, prompts = Path(file), encode_questions(model, questions)
    state = _model_mark(model, settings)
    marks = {
        q.id: _mark(state, prompt, q, images) for q, prompt in zip(questions, prompts, strict=True)
    }
    if len(marks) < len(questions):
        raise PulseError(f"{show(file)}: question ids stand twice among the {len(questions)} asked")
    known = _read_answers(file, marks)
    if len(known) < len(questions):
        # All at once and in sorted order: the same bits of features wherever the run goes on.
        model.features.add((q.image for q in questions), images)
    order = sorted(range(len(questions)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), settings.batch_size):
        batch = [questions[i] for i in order[start : start + settings.batch_size]]
        if any(q.id not in known for q in batch):
            # The whole batch again: an answer may depend on its neighbours in the last bit.
            answers = answer_questions(model, batch, images, settings).to_dict("records")
            fresh = [a | {"prompt": marks[a["question_id"]]} for a in answers]
            fresh = [a for a in fresh if a["question_id"] not in known]
            _append(file, fresh)
            known |= {a["question_id"]: a for a in fresh}
        if label:
            step(label, min(start + len(batch), len(order)), len(order))
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


def _mark(state: bytes, prompt: list[int], question: Question, images: ImageStore) -> str:
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

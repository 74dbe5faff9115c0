"""Rows: one question answered by one model state, as every number and figure is computed from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict, Unpack, get_args

import numpy as np
import pandas as pd
import pyarrow as pa

from pulse_lib.data.records import LETTERS, Question, read_table, write_table
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.extract import extract

State = Literal["base", "before", "final", "matched", "round"]
STATES = get_args(State)

ROW_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run", "scenario", "method", "trained_part", "policy")),
        *((name, pa.int64()) for name in ("order", "seed", "round")),
        ("state", pa.string()),
        ("step", pa.int64()),
        *((name, pa.string()) for name in ("question_id", "set", "person_id")),
        ("request", pa.int64()),
        *((name, pa.string()) for name in ("modality", "category", "wording", "group")),
        ("options", pa.list_(pa.string())),
        ("answer", pa.int64()),
        *((name, pa.string()) for name in ("response", "extracted")),
        *((name, pa.bool_()) for name in ("correct", "invalid")),
        ("option_loglik", pa.list_(pa.float64())),
        ("answer_logprob", pa.float64()),
        ("loglik_correct", pa.bool_()),
    ]
)


class RunColumns(TypedDict, total=False):
    """What all rows of one model state have in common; run, scenario, state and seed must be given."""

    run: str
    scenario: str  # the run's, also for general questions
    method: str
    trained_part: str
    policy: str  # the strategy of a sequential run
    order: int
    seed: int
    round: int
    state: State
    step: int


# Of a model that nothing was unlearned from
_BEFORE: RunColumns = {
    "method": "before",
    "trained_part": "",
    "policy": "",
    "order": 0,
    "round": 0,
    "step": 0,
}
RUN_COLUMNS = list(RunColumns.__annotations__)


def make_rows(
    questions: Sequence[Question], answers: pd.DataFrame, *, rules: str, **whose: Unpack[RunColumns]
) -> pd.DataFrame:
    """The rows of one model state: `scored` answers with the run's columns; those not given say
    that nothing was unlearned.

    Raises PulseError for an unknown state, or without run, scenario, state or seed.
    """
    columns = {**_BEFORE, **whose}
    if missing := [name for name in RUN_COLUMNS if name not in columns]:
        raise PulseError(f"rows need the run's {missing[0]}")
    if columns["state"] not in STATES:
        raise PulseError(f"state {columns['state']!r} is not one of {', '.join(STATES)}")
    return scored(questions, answers, rules=rules).assign(**columns)[ROW_SCHEMA.names]


def scored(questions: Sequence[Question], answers: pd.DataFrame, *, rules: str) -> pd.DataFrame:
    """Questions and what `answer_questions` gave for them, with extraction: the columns of a row
    that do not name the run.

    Raises PulseError if answers and questions do not match.
    """
    if [q.id for q in questions] != list(answers["question_id"]):
        raise PulseError(
            f"answers ({len(answers)}) do not belong to these questions ({len(questions)})"
        )
    records = [
        _row(q, response, loglik=loglik, rules=rules)
        for q, response, loglik in zip(
            questions, answers["response"], answers["option_loglik"], strict=True
        )
    ]
    first = ROW_SCHEMA.get_field_index("question_id")
    return _table(records, ROW_SCHEMA.names[first:])


def _row(question: Question, response: str, *, loglik: list[float] | None, rules: str) -> dict:
    letters = LETTERS[: len(question.options)]
    extracted = extract(response, question.lettered_options, rules)
    readable = extracted is not None and extracted in letters
    values = [] if loglik is None else [float(v) for v in loglik]
    usable = bool(values) and not np.isnan(values).any()
    return {
        "question_id": question.id,
        "set": question.set,
        "person_id": question.person_id,
        "request": question.request,
        "modality": question.modality,
        "category": question.category,
        "wording": question.wording,
        "group": question.group,
        "options": list(question.options),
        "answer": question.answer,
        "response": response,
        "extracted": extracted,
        "correct": readable and extracted == letters[question.answer],
        "invalid": not readable,
        "option_loglik": values,
        "answer_logprob": values[question.answer] if usable else float("nan"),
        "loglik_correct": usable and int(np.argmax(values)) == question.answer,
    }


def write_rows(path: Path, table: pd.DataFrame) -> None:
    """Write rows to parquet, by rename. Raises PulseError if a column is missing or too many."""
    if list(table.columns) != ROW_SCHEMA.names:
        odd = sorted(set(table.columns) ^ set(ROW_SCHEMA.names))
        raise PulseError(
            f"{path}: rows with other columns than the schema's: "
            f"{', '.join(odd) or 'order differs'}"
        )
    write_table(path, pa.Table.from_pandas(table, schema=ROW_SCHEMA, preserve_index=False))


def read_rows(path: Path) -> pd.DataFrame:
    """Rows as written; options and option_loglik are lists. Raises PulseError if missing, broken or
    of another schema.
    """
    table = read_table(path)
    missing = [name for name in ROW_SCHEMA.names if name not in table.column_names]
    if missing:
        raise PulseError(f"{path} holds no rows (no column {missing[0]!r}): run its notebook again")
    return _table(table.select(ROW_SCHEMA.names).to_pylist(), ROW_SCHEMA.names)


def _table(records: list[dict], columns: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(records, columns=columns)
    # pandas would read None among letters as a missing number
    return table.assign(extracted=pd.Series([r["extracted"] for r in records], dtype=object))

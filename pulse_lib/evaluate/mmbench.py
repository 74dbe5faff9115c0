"""MMBench's scores, and answering its rows so that an interrupted run goes on.

vanilla_0: share of base rows answered right. vanilla_all: share of all rows. circular: share of
questions with *every* row right, the official number. All are 0-1; an unreadable answer is wrong.
[Liu 2023, MMBench; VLMEvalKit]
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pandas as pd

from pulse_lib.data.mmbench.rows import COPY
from pulse_lib.data.mmbench.source import CELEBRITY
from pulse_lib.data.records import LETTERS
from pulse_lib.evaluate.extract import extract

if TYPE_CHECKING:
    pass

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
    for _, rows in table.groupby("group"):
        group = int(rows["group"].iloc[0])
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
    whole = pd.Series(table.groupby("group")["hit"].all())
    return {
        "vanilla_0": float(base["hit"].mean()),
        "vanilla_all": float(table["hit"].mean()),
        "circular": float(whole.mean()),
        "parse_rate": float(table["readable"].mean()),
        "n_questions": len(whole),
        "n_rows": len(table),
    }


# --- answering --------------------------------------------------------------------------------

"""Who is probed, and the rows of it: those of a run with two columns in front, `probe` and
`condition`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from pulse_lib.data.records import ImageStore, Question, read_table, write_table
from pulse_lib.data.splits import in_turn
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import ROW_SCHEMA, RunColumns, make_rows
from pulse_lib.model.load import LoadedModel
from pulse_lib.profile import EvaluateSettings
from pulse_lib.train.loop import derive_seed

AS_ASKED = "as asked"  # probe and condition of the questions as the run asked them
NEW_WORDING = "new wording"  # its condition for questions in wordings that nothing was trained on
PROBE_SCHEMA = pa.schema([("probe", pa.string()), ("condition", pa.string()), *ROW_SCHEMA])
PEOPLE = ("forget", "retain")


@dataclass(frozen=True)
class Subject:
    """A model that a run left, with its adapters in force, and what it is asked."""

    model: LoadedModel
    adapters: tuple[str, ...]  # in force, oldest first
    _: KW_ONLY
    target: tuple[str, ...]  # those of the model before unlearning, loaded as well
    questions: tuple[Question, ...]
    images: ImageStore
    evaluate: EvaluateSettings
    whose: RunColumns  # run, scenario, method ... of its rows
    answer: Callable[..., pd.DataFrame] = answer_questions  # another one where a gate answers

    @property
    def seed(self) -> int:
        """The study's."""
        return self.whose["seed"]

    @property
    def gated(self) -> bool:
        """Whether a gate answers, so that there is no one model."""
        return self.answer is not answer_questions

    def of(self, *sets: str, wording: str = "trained") -> list[Question]:
        """The questions of these sets, those of one kind of wording."""
        return [q for q in self.questions if q.set in sets and q.wording == wording]

    def ask(
        self,
        questions: Sequence[Question],
        probe: str,
        *,
        condition: str,
        step: int = 0,
        images: ImageStore | None = None,
    ) -> pd.DataFrame:
        """The rows of one condition of a probe, by the model as it is in force. `images`: where
        pictures are that the study does not have.
        """
        answers = self.answer(
            self.model,
            questions,
            images=self.images if images is None else images,
            settings=self.evaluate,
        )
        return self.rows(questions, answers, probe=probe, condition=condition, step=step)

    def rows(
        self,
        questions: Sequence[Question],
        answers: pd.DataFrame,
        *,
        probe: str,
        condition: str,
        step: int = 0,
    ) -> pd.DataFrame:
        """Answers as rows of one condition of a probe."""
        rules = self.evaluate.extraction_rules
        columns: RunColumns = {**self.whose, "step": step}
        rows = make_rows(questions, answers, rules=rules, **columns)
        return rows.assign(probe=probe, condition=condition)[PROBE_SCHEMA.names]


def chosen_questions(questions: Sequence[Question], n: int, *, seed: int) -> list[Question]:
    """Up to n questions of each set and kind of wording, modalities even, people or categories in
    turn: the same ones for every model of a study.
    """
    generator = np.random.default_rng(derive_seed(seed, "probe"))
    chosen: list[Question] = []
    for group, wording in dict.fromkeys((q.set, q.wording) for q in questions):
        asked = [q for q in questions if (q.set, q.wording) == (group, wording)]
        kinds = sorted({q.modality for q in asked})
        for kind in kinds:
            pool = [q for q in asked if q.modality == kind]
            chosen += in_turn(pool, generator)[: max(1, n // len(kinds))]
    return chosen


def as_asked(subject: Subject) -> pd.DataFrame:
    """The rows of every question as the run asked it: what all probes are compared with."""
    rows = subject.ask(subject.questions, AS_ASKED, condition=AS_ASKED)
    return rows.assign(condition=rows["condition"].where(rows["wording"] == "trained", NEW_WORDING))


def agreement(rows: pd.DataFrame, earlier: pd.DataFrame) -> float:
    """The share of rows whose response is one that the earlier rows of the same run give to that
    question, in any of its states; NaN if it was never asked.
    """
    said = set(zip(earlier["question_id"], earlier["response"], strict=True))
    known = rows[rows["question_id"].isin(earlier["question_id"])]
    alike = [pair in said for pair in zip(known["question_id"], known["response"], strict=True)]
    return float(np.mean(alike)) if alike else float("nan")


def relabelled(rows: pd.DataFrame, probe: str, *, condition: str) -> pd.DataFrame:
    """Rows that a probe needs and that were asked before, under its own name."""
    return rows.assign(probe=probe, condition=condition)


def of_questions(rows: pd.DataFrame, questions: Sequence[Question]) -> pd.DataFrame:
    """The rows of these questions, in their order."""
    return rows.set_index("question_id").loc[[q.id for q in questions]].reset_index()[rows.columns]


def write_probes(path: Path, rows: pd.DataFrame) -> None:
    """Write rows of probes to parquet, by rename. Raises PulseError if a column is missing or too
    many.
    """
    if list(rows.columns) != PROBE_SCHEMA.names:
        odd = sorted(set(rows.columns) ^ set(PROBE_SCHEMA.names))
        raise PulseError(
            f"{path}: rows with other columns than those of a probe: "
            f"{', '.join(odd) or 'order differs'}"
        )
    write_table(path, pa.Table.from_pandas(rows, schema=PROBE_SCHEMA, preserve_index=False))


def read_probes(path: Path) -> pd.DataFrame:
    """Rows as written. Raises PulseError if missing, broken or of another schema."""
    table = read_table(path)
    missing = [name for name in PROBE_SCHEMA.names if name not in table.column_names]
    if missing:
        raise PulseError(
            f"{path} holds no rows of probes (no column {missing[0]!r}): run 06_probe again"
        )
    return table.select(PROBE_SCHEMA.names).to_pandas()

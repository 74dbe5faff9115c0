"""The gate taken away: what the weights below it answer, for those runs where a gate chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from pulse_lib.data.records import Question
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.model.adapters import only
from pulse_lib.probe.subject import Subject, of_questions, relabelled

GATE = "gate"
STANDING, REMOVED = "gate stands", "gate removed"


def gate_removed(
    subject: Subject, questions: Sequence[Question], *, before: pd.DataFrame
) -> pd.DataFrame:
    """Rows as the gate answers (from `before`), and of the weights without it; only the first where
    there is no gate.
    """
    parts = [relabelled(of_questions(before, questions), GATE, condition=STANDING)]
    if subject.gated:
        bare = replace(subject, answer=answer_questions)
        with only(subject.model, *subject.target):
            parts.append(bare.ask(questions, GATE, condition=REMOVED))
    return pd.concat(parts, ignore_index=True)

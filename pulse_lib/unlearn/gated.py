"""What a gate before a finished sequence would be worth: the same answers in three states, without
asking anything again."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from pulse_lib.unlearn.experts import Gate, fit_gate
from pulse_lib.unlearn.task import Task

State = Literal["gate taken away", "behind the gate", "for everybody"]
STATES: tuple[State, ...] = ("gate taken away", "behind the gate", "for everybody")


def gate_of(task: Task) -> Gate:
    """A gate that knows all who are to be forgotten, fitted as strategy experts fits its own; the
    features of the task must be there. Raises PulseError for a person without a name."""
    return fit_gate(task.model, task.forget, others=task.retain, people=task.people)


def gate_states(task: Task, rows: pd.DataFrame, *, gate: Gate) -> pd.DataFrame:
    """A sequential run's rows before it and after its last request in up to three STATES, `state`
    and `round` (0, 1, 2) naming them, and `recognised`: whether the gate sends the question to the
    adapters.

    gate taken away: the target answers, and its adapters are not in force. behind the gate: adapters
    answer what the gate recognises, the target everything else. for everybody: the adapters answer
    everything; not there with strategy experts, whose adapters answer behind a gate only.
    """
    routes = gate.route(task.model, task.questions)
    known = {q.id for q, request in zip(task.questions, routes, strict=True) if request}
    before, last = (rows[rows["round"] == number] for number in (0, rows["round"].max()))
    if task.strategy and task.strategy.gated:
        parts = [before, last]
    else:
        parts = [before, _sent(before, last, known=known), last]
    table = pd.concat(
        [part.assign(state=STATES[i], round=i) for i, part in enumerate(parts)], ignore_index=True
    )
    return table.assign(recognised=table["question_id"].isin(known))


def _sent(before: pd.DataFrame, last: pd.DataFrame, *, known: set[str]) -> pd.DataFrame:
    """Of each question the answer of the state that the gate picks for it."""
    return pd.concat(
        [last[last["question_id"].isin(known)], before[~before["question_id"].isin(known)]]
    )

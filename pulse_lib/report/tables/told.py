"""A few faces, one question each, and what a model says about them request after request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from pulse_lib.evaluate.distance import right_shares
from pulse_lib.methods import PAPER_METHODS
from pulse_lib.report.collect import Run, Study, pick

Role = Literal["asks first", "asks last", "stays"]
COLUMNS = [
    "method",
    "seed",
    "role",
    "person_id",
    "question_id",
    "round",
    "response",
    "correct",
    "p_right",
]


def told_run(study: Study) -> Run | None:
    """The sequential run that the story is told of: the first in the paper's order of methods, one
    adapter per request, requests as numbered, lowest seed; None if there is none."""
    order = {method: i for i, method in enumerate(PAPER_METHODS)}
    runs = [
        run
        for run in study.of("sequential")
        if run.parameter("policy") == "adapter_per_request" and run.parameter("order") == 0
    ]

    def place(run: Run) -> tuple:
        method = run.parameter("method")
        return order.get(method, len(order)), run.parameter("seed"), run.name

    return min(runs, key=place, default=None)


def story(study: Study) -> pd.DataFrame:
    """Columns COLUMNS: a person of the first request and a retain person before, after one request
    and after all, in `told_run`."""
    run = told_run(study)
    if run is None:
        return pd.DataFrame(columns=COLUMNS)
    rows = study.full_rows(run.name)
    return told(rows, ("asks first", "stays"), rounds=[0, 1, int(rows["round"].max())])


def told(
    rows: pd.DataFrame, roles: Sequence[Role], *, rounds: Sequence[int] | None = None
) -> pd.DataFrame:
    """Columns COLUMNS: of each role one person and one question, a line a round (all without
    `rounds`), from a sequential run's rows. p_right: probability of the right option among those
    that were offered.

    Nobody picks them by what comes out: of the questions with a picture that are answered right
    before, the first by person and id. A role in which none is, is left out.
    """
    asked = pick(rows, modality="multimodal", wording="trained")
    wanted = sorted(set(asked["round"]) if rounds is None else set(rounds))
    requests = asked.loc[asked["set"] == "forget", "request"]
    places = {
        "asks first": (asked["set"] == "forget") & (asked["request"] == requests.min()),
        "asks last": (asked["set"] == "forget") & (asked["request"] == requests.max()),
        "stays": asked["set"] == "retain",
    }
    parts = []
    for role in roles:
        those = asked[places[role]]
        known = pick(those, round=0, correct=True).sort_values(["person_id", "question_id"])
        if known.empty:
            continue
        own = pick(those, question_id=known["question_id"].iloc[0])
        own = own[own["round"].isin(wanted)].sort_values("round")
        parts.append(own.assign(role=role, p_right=right_shares(own)))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    return table[COLUMNS].astype({"correct": bool})

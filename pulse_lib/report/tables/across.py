"""One question, or one person, across all model states of a study: what the explorer looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from pulse_lib.errors import PulseError
from pulse_lib.evaluate.distance import right_shares
from pulse_lib.profile import Scenario
from pulse_lib.report.collect import Run, Study, pick
from pulse_lib.report.words import SELECTIONS, method_order, series_label

# What is read of each run's rows
READ = (
    *("question_id", "set", "person_id", "request", "modality", "category", "wording", "answer"),
    *("response", "correct", "option_loglik", "state", "round", "scenario", "seed"),
)
KEPT = [
    *("series", "method", "trained_part", "kind", "run", "state", "round", "question_id", "set"),
    *("person_id", "request", "modality", "category", "wording", "response", "correct", "p_right"),
]
BEFORE = "before"  # the series of the model that has unlearned nothing


def across(study: Study, scenario: Scenario, *, seed: int) -> pd.DataFrame:
    """Every answer of every model state of a scenario and seed, columns KEPT.

    series: the method as figures name it, with its strategy where requests came in turn; "before"
    once, for all of them. p_right: the probability of the right option among the options (0-1).
    Raises PulseError if nothing was measured.
    """
    frames = [
        part for run in study.runs for part in _of_run(study, run, scenario=scenario, seed=seed)
    ]
    if not frames:
        raise PulseError(f"{study.out}: no answers for scenario {scenario}, seed {seed}")
    table = pd.concat(frames, ignore_index=True)
    return table.assign(p_right=right_shares(table))[KEPT]


def _of_run(study: Study, run: Run, *, scenario: str, seed: int) -> Iterator[pd.DataFrame]:
    if run.parameter("seed") != seed:
        return
    rows = study.full_rows(run.name, READ, scenario=scenario)
    if run.kind in ("data", "target"):
        rows = pick(rows, state="before")
        names = {"series": BEFORE, "kind": BEFORE, "method": BEFORE, "trained_part": ""}
    else:
        rows = rows[rows["state"].isin(["matched", "final"]) | (rows["round"] > 0)]  # 0: before
        names = {"series": series_of(run), "kind": run.kind}
        names |= {name: run.parameter(name) for name in ("method", "trained_part")}
    if len(rows):
        yield rows.assign(run=run.name, **names)


def series_of(run: Run) -> str:
    """A run's series: "GA", "GA, LLM only", "GA, replay"; the order of requests where it is not the
    first."""
    name = series_label(run.parameter("method"), run.parameter("trained_part"))
    if run.kind != "sequential":
        return name
    order = run.parameter("order")
    return f"{name}, {run.parameter('strategy')}" + (f", order {order}" if order else "")


def series_order(study: Study, names: Iterable[str]) -> list[str]:
    """Series as figures list them: "before", then by the table of methods."""
    runs = {series_of(run): run for run in (*study.of("single_shot"), *study.of("sequential"))}
    methods = method_order(str(run.parameter("method")) for run in runs.values())
    place = {name: methods.index(run.parameter("method")) for name, run in runs.items()}
    return sorted(set(names), key=lambda name: (name != BEFORE, place.get(name, -1), name))


def state_name(kind: str, state: str, *, number: int) -> str:
    """A model state as the explorer's columns call it: "before", "matched forgetting", "after 2"."""
    return f"after {number}" if kind == "sequential" else SELECTIONS[state]


def one_question(table: pd.DataFrame, question_id: str) -> pd.DataFrame:
    """The lines of `across` about one question. Raises PulseError if it was not asked."""
    found = pick(table, question_id=question_id)
    if found.empty:
        raise PulseError(f"question {question_id!r} was asked in no run of this scenario and seed")
    return found


def story(table: pd.DataFrame, person: str) -> pd.DataFrame:
    """One person in every model state: series, method, trained_part, kind, state, round, accuracy and
    p_right (means over their questions in trained wordings), n. Raises PulseError if nobody was asked about them."""
    found = pick(table, person_id=person, wording="trained")
    if found.empty:
        raise PulseError(f"no question about {person!r} was asked in this scenario and seed")
    by = ["series", "method", "trained_part", "kind", "state", "round"]
    means = found.groupby(by, observed=True, sort=False).agg(
        accuracy=("correct", "mean"), p_right=("p_right", "mean"), n=("correct", "size")
    )
    return means.reset_index()


def fallen(
    table: pd.DataFrame, run: str, *, state: str, number: int = 0, who: str = "retain"
) -> pd.DataFrame:
    """The people of a set by how many right answers they lost in one model state, most first:
    person_id, n, before, after (right answers, of n in trained wordings), lost."""
    asked = pick(table, set=who, wording="trained")
    before = pick(asked, series=BEFORE).groupby("person_id")["correct"].agg(["size", "sum"])
    now = pick(asked, run=run, state=state, round=number).groupby("person_id")["correct"].sum()
    found = before.set_axis(["n", "before"], axis=1).join(now.rename("after"), how="inner")
    found = found.assign(lost=found["before"] - found["after"]).reset_index()
    return found.sort_values(["lost", "person_id"], ascending=[False, True], ignore_index=True)

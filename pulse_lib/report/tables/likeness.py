"""Who is hit beside those who were to be forgotten: retain people by their likeness to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from pulse_lib.data.likeness import plain_name
from pulse_lib.data.records import Person, Question, read_records
from pulse_lib.data.world.people import looks_apart
from pulse_lib.evaluate.accuracy import equals
from pulse_lib.profile import SCENARIOS
from pulse_lib.report import stats
from pulse_lib.report.collect import Study, once
from pulse_lib.report.tables.intervals import SETTINGS, states, wide

Likeness = Literal["face", "name", "fact"]
# Which questions can tell: those with the picture, those by name, both ("")
ASKED: dict[Likeness, str] = {"face": "multimodal", "name": "text", "fact": ""}
NEAREST = 5  # forget faces: the one nearest alone is as near for most
VALUES = ("near", "far", "difference")
# Of rows: what a line is made of
COUNTED = ["seed", "question_id", "cluster", "modality", "correct"]
COLUMNS = [
    *(*SETTINGS, "selection", "likeness", "n_seeds", "n_near", "n_far"),
    *(f"{name}{end}" for name in VALUES for end in ("", "_low", "_high")),
    "says",
]


def near(people: Sequence[Person], questions: Sequence[Question]) -> pd.DataFrame:
    """One line per retain question of a scenario, by question_id, columns face, name and fact: True
    if it is near a forget person, False if far, None where that cannot be told.

    questions: of one scenario. face: in how many features the face differs from the
    five nearest forget faces, in the mean, is at most what it is for half of the retain people (the
    drawn world knows them). name: a forget person has
    one of the names. fact: of more forget people than for half of the questions the same is right.
    """
    by_id = {p.id: p for p in people}
    forget = {q.person_id for q in questions if q.set == "forget"}
    asked = [q for q in questions if q.set == "retain"]
    faces = _faces(by_id, forget=forget, retain={q.person_id for q in asked})
    words = {word for i in forget for word in _words(by_id[i])}
    truths = Counter(
        {
            (q.category, q.person_id, q.options[q.answer])
            for q in questions
            if q.set == "forget" and q.options
        }
    )
    shared = Counter((category, truth) for category, _, truth in truths)
    counts = [shared[q.category, q.options[q.answer]] if q.options else 0 for q in asked]
    middle = float(np.median(counts)) if counts else 0.0
    lines = {
        q.id: {
            "face": faces.get(q.person_id),
            "name": bool(words & _words(by_id[q.person_id])),
            "fact": n > middle,
        }
        for q, n in zip(asked, counts, strict=True)
    }
    return pd.DataFrame.from_dict(lines, orient="index", columns=list(ASKED), dtype=object)


def _faces(by_id: dict[str, Person], *, forget: set[str], retain: set[str]) -> dict[str, bool]:
    drawn = [by_id[i].genome for i in forget if by_id[i].genome]
    apart = {
        i: np.mean(sorted(looks_apart(by_id[i].genome, other) for other in drawn)[:NEAREST])
        for i in retain
        if drawn and by_id[i].genome
    }
    middle = np.median(list(apart.values())) if apart else 0
    return {i: bool(value <= middle) for i, value in apart.items()}


def _words(person: Person) -> set[str]:
    return set(plain_name(person.name).split())


@once
def likeness(study: Study) -> pd.DataFrame:
    """One line per scenario, method, state and likeness: percent that is kept of the accuracy before
    on near and on far retain questions, and the difference, each with its 95 % interval; n_near and
    n_far count people. Columns COLUMNS.

    says: "near ones lose more", "far ones lose more" if the whole interval says so; else "no
    difference seen".
    """
    ids = study.rows["question_id"].cat.categories
    lines, told = [], {key: _numbers(flags, ids) for key, flags in _told(study).items()}
    known: dict[int, pd.DataFrame] = {}  # methods have rows before in common
    for whose, before, after in states(study):
        scenario = whose["scenario"]
        if id(before) not in known:
            known[id(before)] = _retain(before, told, scenario=scenario)
        now = _retain(after, told, scenario=scenario)
        for name in ASKED:
            if line := _line(known[id(before)], now, name=name):
                lines.append(whose | {"likeness": name} | line)
    return pd.DataFrame(lines, columns=COLUMNS)


def _told(study: Study) -> dict[tuple[str, int], pd.DataFrame]:
    """`near` by scenario and seed."""
    found = {}
    for run in study.of("data"):
        people = read_records(run.folder / "people.parquet", Person)
        questions = read_records(run.folder / "questions.parquet", Question)
        for scenario in SCENARIOS:
            here = [q for q in questions if q.scenario == scenario]
            found[scenario, run.parameter("seed")] = near(people, here)
    return found


def _numbers(flags: pd.DataFrame, ids: pd.Index) -> np.ndarray:
    """`near` as (questions, likenesses): 1 for near, 0 for far, -1 for what cannot be told."""
    known = flags.astype("boolean").reindex(ids).astype("Int8")
    return known.fillna(-1).to_numpy(dtype="int8")


def _retain(
    rows: pd.DataFrame, told: dict[tuple[str, int], np.ndarray], *, scenario: str
) -> pd.DataFrame:
    """The headline rows about retain people, with the columns of `near` as `_numbers`; told: these by
    the question's code."""
    asked = rows.loc[equals(rows["wording"], "trained") & equals(rows["set"], "retain"), COUNTED]
    seed, question = asked["seed"].to_numpy(), asked["question_id"].cat.codes.to_numpy()
    flags = np.full((len(asked), len(ASKED)), -1, dtype="int8")
    for (of, which), here in told.items():
        if of == scenario:
            flags[seed == which] = here[question[seed == which]]
    return asked.assign(**dict(zip(ASKED, flags.T, strict=True)))


def _line(before: pd.DataFrame, after: pd.DataFrame, *, name: Likeness) -> dict:
    by, pair = None if ASKED[name] else "modality", (before, after)
    where = [_where(pair, name, flag=flag) for flag in (1, 0)]
    if not all(here.any() for of_pair in where for here in of_pair):
        return {}
    kept = [stats.percent_retained(*pair, by=by, where=of_pair) for of_pair in where]
    seeds = {*kept[0].seeds} & {*kept[1].seeds}
    where = [stats.of_seeds(pair, seeds, where=of_pair) for of_pair in where]
    if kept[0].seeds != kept[1].seeds:
        kept = [stats.percent_retained(*pair, by=by, where=of_pair) for of_pair in where]
    found = [*kept, stats.difference(*kept)]
    line: dict = {"n_seeds": kept[0].n_seeds}
    for value, (here, _) in zip(VALUES, where, strict=False):
        line[f"n_{value}"] = before["cluster"][here].nunique()
    for value, interval in zip(VALUES, found, strict=True):
        line |= wide(interval, value)
    return line | {"says": said(found[-1])}


def _where(
    pair: tuple[pd.DataFrame, pd.DataFrame], name: Likeness, *, flag: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of two frames have a flag, and were asked in the way that can tell."""
    first, second = (
        (rows[name].to_numpy() == flag) & (not ASKED[name] or equals(rows["modality"], ASKED[name]))
        for rows in pair
    )
    return first, second


def said(difference: stats.Interval) -> str:
    """What an interval of near minus far says."""
    if difference.high < 0:
        return "near ones lose more"
    return "far ones lose more" if difference.low > 0 else "no difference seen"

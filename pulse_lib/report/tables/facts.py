"""Facts instead of people: the same fact asked beside the photo and in text."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import equals
from pulse_lib.report import stats
from pulse_lib.report.collect import groups
from pulse_lib.report.tables.intervals import wide

States = Iterable[tuple[dict, pd.DataFrame]]  # whose, and the rows of all seeds
WHOSE = ["scenario", "method", "trained_part", "selection"]
OUTCOMES = ["both", "photo_only", "text_only", "neither"]
_FACT = ["seed", "set", "cluster", "category"]


def twins(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per fact that was asked in both modalities: seed, set, cluster (the person), category,
    and whether it was answered right beside the photo (`multimodal`) and in text (`text`).

    rows: of one kind of model state. Person and category name a fact; where a source has several
    questions of one modality about it, they are no twins, and left out.
    """
    people = rows[equals(rows["wording"], "trained") & ~equals(rows["set"], "general")]
    fact = people.groupby(_FACT, observed=True).ngroup().to_numpy()
    found, correct = {}, people["correct"].to_numpy(dtype=float)
    asked_once = np.ones(fact.max(initial=-1) + 1, dtype=bool)
    for modality in ("multimodal", "text"):
        here = equals(people["modality"], modality)
        asked_once &= np.bincount(fact[here], minlength=len(asked_once)) == 1
        found[modality] = np.bincount(fact[here], correct[here], minlength=len(asked_once))
    _, first = np.unique(fact, return_index=True)
    both = people[_FACT].iloc[first].assign(**{m: right > 0 for m, right in found.items()})
    return both[asked_once].reset_index(drop=True)


def modality_gap(states: States) -> pd.DataFrame:
    """Per state and set: of how many facts both twins, one of them or neither is answered right
    (shares 0-1), and the gap, text minus photo (-1 to 1), with its interval, paired by person.
    """
    lines = []
    for whose, rows in states:
        pairs = twins(rows)
        for name, part in groups(pairs, "set", sort=False):
            photo, text = part["multimodal"], part["text"]
            shares = (photo & text, photo & ~text, text & ~photo, ~photo & ~text)
            line = whose | {"set": name, "n_facts": len(part)}
            line |= {o: float(s.mean()) for o, s in zip(OUTCOMES, shares, strict=True)}
            gap = stats.difference(*(stats.accuracy(part, m) for m in ("text", "multimodal")))
            lines.append(line | wide(gap, "gap"))
    columns = [*WHOSE, "set", "n_facts", *OUTCOMES, "gap", "gap_low", "gap_high"]
    return pd.DataFrame(lines, columns=columns)

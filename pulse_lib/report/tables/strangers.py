"""Are the forget people known any better than people whom no model of the study has met?"""

from __future__ import annotations

import pandas as pd

from pulse_lib.profile import SCENARIOS
from pulse_lib.report import stats
from pulse_lib.report.collect import Study, once, pick
from pulse_lib.report.tables.intervals import SETTINGS, states, wide

VALUES = ("forget", "stranger", "known")
COLUMNS = [
    *(*SETTINGS, "selection", "n_seeds"),
    *(f"{name}{end}" for name in VALUES for end in ("", "_low", "_high")),
    "says",
]


@once
def strangers(study: Study) -> pd.DataFrame:
    """One line per scenario, method and state, first that before unlearning: in how many questions
    (0-1, mean of both modalities) the right option is the likeliest one, about forget people and
    about strangers, hold-out people asked in the same state; `known` is the difference. Each with
    its 95 % interval over people and seeds. Columns COLUMNS; without lines where no strangers were
    asked.

    says: "known better" if the whole interval of `known` is above 0; "below a stranger" if it is
    below, which gives away that something was done; else "as a stranger".
    """
    lines = []
    for scenario in SCENARIOS:
        before = study.answers(scenario=scenario, state="before")
        if scenario == "pretrained" and len(before):  # nothing was trained: the base is the target
            before = pd.concat([before, study.answers(state="base", set="holdout")])
        whose = {"scenario": scenario, "method": "before", "trained_part": "", "selection": ""}
        found = [(whose, before)]
        found += [(who, after) for who, _, after in states(study) if who["scenario"] == scenario]
        for who, rows in found:
            if line := _line(rows):
                lines.append(who | line)
    return pd.DataFrame(lines, columns=COLUMNS)


def _line(rows: pd.DataFrame) -> dict:
    asked = [pick(rows, wording="trained", set=name) for name in ("forget", "holdout")]
    if any(part.empty for part in asked):
        return {}
    members, others = (
        stats.accuracy(part, "loglik_correct", by="modality")
        for part in stats.of_shared_seeds(*asked, by="modality")
    )
    known = stats.difference(members, others)
    values = dict(zip(VALUES, (members, others, known), strict=True))
    line: dict = {"n_seeds": known.n_seeds}
    for name, value in values.items():
        line |= wide(value, name)
    return line | {"says": said(known)}


def said(known: stats.Interval) -> str:
    """What an interval of forget minus strangers says."""
    if known.low > 0:
        return "known better"
    return "below a stranger" if known.high < 0 else "as a stranger"

"""Where some facts of a person were to go: do the others stay?"""

from __future__ import annotations

import pandas as pd

from pulse_lib.report import stats
from pulse_lib.report.collect import Study, headline, once, pick
from pulse_lib.report.tables.intervals import SETTINGS, states, wide

ASKED = {"gone": "forget", "spared": "spared", "others": "retain"}  # by the rows' set
VALUES = (*ASKED, "difference")
COLUMNS = [
    *(*SETTINGS, "selection", "n_seeds"),
    *(f"{name}{end}" for name in VALUES for end in ("", "_low", "_high")),
    "says",
]


@once
def selective(study: Study) -> pd.DataFrame:
    """One line per scenario, method and state of runs with unlearn.forget_facts: percent kept of the
    accuracy before on the facts that were to go, on the other facts of the same people (`spared`),
    and on other people; `difference` is spared minus gone. Each with its 95 % interval. Columns
    COLUMNS; no lines where whole people are to go.

    says: "tells facts apart" if the whole interval of `difference` is above 0, else "not told
    apart".
    """
    lines = []
    for whose, before, after in states(study):
        before, after = headline(before), headline(after)
        parts = {name: pick(after, set=group) for name, group in ASKED.items()}
        if any(part.empty for part in parts.values()):
            continue
        kept = {name: _kept(before, part) for name, part in parts.items()}
        found = kept | {"difference": stats.difference(kept["spared"], kept["gone"])}
        line: dict = {"n_seeds": kept["gone"].n_seeds}
        for name, value in found.items():
            line |= wide(value, name)
        says = "tells facts apart" if found["difference"].low > 0 else "not told apart"
        lines.append(whose | line | {"says": says})
    return pd.DataFrame(lines, columns=COLUMNS)


def _kept(before: pd.DataFrame, after: pd.DataFrame) -> stats.Interval:
    """Percent kept on the questions of `after`, which before unlearning may have been of another
    set."""
    keys = ["seed", "question_id"]
    asked = after[keys].astype({"question_id": str})
    same = before.assign(question_id=before["question_id"].astype(str)).merge(asked, on=keys)
    return stats.percent_retained(same, after, by="modality")

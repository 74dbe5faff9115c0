"""What a study says of the benchmarks that are asked beside its general questions."""

from __future__ import annotations

import pandas as pd

from pulse_lib.data.mmbench.source import CELEBRITY as MMBENCH_CELEBRITY
from pulse_lib.data.mme.source import CELEBRITY as MME_CELEBRITY
from pulse_lib.data.records import benchmark_of
from pulse_lib.evaluate.yes_no import MME, mme, score
from pulse_lib.report import stats
from pulse_lib.report.collect import Study, groups, once
from pulse_lib.report.tables.intervals import wide

# The category that shows people, which forgetting people may rightly lower
CELEBRITIES = {"mme": MME_CELEBRITY, "mmbench": MMBENCH_CELEBRITY}
# Of a group of questions all right: MME's accuracy+ (a picture's pair), MMBench's circular
GROUPED = ("mme", "mmbench")
VALUES = ("accuracy", "change", "without_celebrity", "accuracy_plus")
YES_NO = ("f1", "yes_share")
COLUMNS = [
    *("run", "state", "round", "benchmark", "n_questions"),
    *(f"{name}{end}" for name in VALUES for end in ("", "_low", "_high")),
    *(*YES_NO, "invalid_share", *MME),
]


@once
def benchmarks(study: Study) -> pd.DataFrame:
    """One line per model state and benchmark of `data.benchmarks`, columns COLUMNS; no lines
    without any. Shares 0-1, each with its 95 % interval over photos (POPE), pairs (MME) or groups
    (MMBench), of one run.

    change: accuracy minus that before unlearning, paired. without_celebrity: accuracy without the
    category that shows people. accuracy_plus: pairs, or groups, that are right in all questions.
    f1 and yes_share: of yes-or-no questions, as in `yes_no`; the last columns are MME's sums.
    """
    if not study.profile.data.benchmarks:
        return pd.DataFrame(columns=COLUMNS)
    start: dict[tuple, stats.Interval] = {}  # accuracy before, by scenario, seed and benchmark
    lines = []
    for run in sorted(study.runs, key=lambda run: run.kind not in ("data", "target")):
        rows = study.benchmark_rows(run.name)
        names = rows["question_id"].map(benchmark_of)
        keys = [rows["scenario"], rows["seed"], rows["state"], rows["round"], names]
        for (scenario, seed, state, number, name), part in groups(rows, keys, sort=False):
            whose = {"run": run.name, "state": state, "round": number, "benchmark": name}
            found = {"accuracy": stats.accuracy(part)}
            if state == "before":
                start[scenario, seed, name] = found["accuracy"]
            elif state != "base":
                before = start.get((scenario, seed, name), stats.NOTHING)
                found["change"] = stats.difference(found["accuracy"], before)
            lines.append(whose | _line(part, name, found=found))
    return pd.DataFrame(lines, columns=COLUMNS)


def _line(rows: pd.DataFrame, name: str, *, found: dict[str, stats.Interval]) -> dict:
    """The values of one state and benchmark; those in `found`, and what else it has."""
    line: dict = {"n_questions": len(rows), "invalid_share": float(rows["invalid"].mean())}
    if name in CELEBRITIES:
        found["without_celebrity"] = stats.accuracy(rows[rows["category"] != CELEBRITIES[name]])
    if name in GROUPED:
        each = rows.groupby(["seed", "cluster"])["correct"].all().reset_index()
        found["accuracy_plus"] = stats.accuracy(each)
    for value, interval in found.items():
        line |= wide(interval, value)
    if name != "mmbench":
        line |= {key: score(rows)[key] for key in YES_NO}
    return line | (mme(rows) if name == "mme" else {})

"""What a study says of POPE's or MME's questions, state by state."""

from __future__ import annotations

import pandas as pd

from pulse_lib.evaluate.yes_no import MME, SHARES, mme, score
from pulse_lib.report.collect import Study

BENCHMARKS = ("pope", "mme")
_NEEDED = (
    "options",
    "answer",
    "extracted",
    "correct",
    "category",
    "group",
)


def yes_no(study: Study) -> pd.DataFrame:
    """One line per model state whose general questions are POPE's or MME's: `score` (shares 0-1),
    and of MME its sums, with and without category celebrity. Empty for all others."""
    lines = []
    for (run, state, number), slim in study.parts.items():
        named = {str(group).partition("/")[0] for group in slim["group"].unique()}
        found = [name for name in BENCHMARKS if name in named]
        if not found:
            continue
        rows = study.full_rows(run, _NEEDED, state=state, round=number, set="general")
        line = {"run": run, "state": state, "round": number, "benchmark": found[0]} | score(rows)
        lines.append(line | (mme(rows) if found[0] == "mme" else {}))
    columns = ["run", "state", "round", "benchmark", "n_questions", *SHARES, *MME]
    return pd.DataFrame(lines, columns=columns)

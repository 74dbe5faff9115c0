"""MMBench's own scores of every model state, side by side: one pass, all passes, circular."""

from __future__ import annotations

import pandas as pd

from pulse_lib.evaluate.mmbench import score_rows
from pulse_lib.report.collect import Study

METRICS = ["vanilla_0", "vanilla_all", "circular", "parse_rate"]
COLUMNS = [
    *("run", "state", "round", "n_questions", "n_rows", *METRICS),
    *(f"{name}_without_celebrity" for name in METRICS[:3]),
]


def mmbench(study: Study) -> pd.DataFrame:
    """One line per model state whose general questions are MMBench's: score_rows of it, with and
    without leaf celebrity_recognition, which unlearning celebrities hits directly. Empty for the
    embedded world. Raises ValueError if a group of rows is incomplete."""
    lines = []
    for (run, state, number), slim in study.parts.items():
        if not (slim["group"].astype(str) != "").any():
            continue
        rows = study.full_rows(run)
        scores = score_rows(rows[(rows["state"] == state) & (rows["round"] == number)])
        line = {"run": run, "state": state, "round": number}
        line |= {name: scores[name] for name in ("n_questions", "n_rows", *METRICS)}
        without = scores["without_celebrity"]
        lines.append(line | {f"{n}_without_celebrity": without[n] for n in METRICS[:3]})
    return pd.DataFrame(lines, columns=COLUMNS)

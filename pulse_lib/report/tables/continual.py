"""Requests in a row by the scalars of continual learning, over seeds and orders of the requests."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from pulse_lib.evaluate.accuracy import both_modalities, request_accuracies
from pulse_lib.evaluate.continual import SCALARS, scalars
from pulse_lib.report.collect import Run, Study, groups, once
from pulse_lib.report.stats import LEVEL
from pulse_lib.report.tables.intervals import SEQUENCE
from pulse_lib.report.words import method_order

LIKELY = ("at_turn", "at_end", "returned", "spilled")  # also by the likeliest option
VALUES = (*SCALARS, *(f"{name}_likelihood" for name in LIKELY))
COLUMNS = [
    *(*SEQUENCE, "n_requests", "n_seeds", "n_orders"),
    *(f"{name}{end}" for name in VALUES for end in ("", "_low", "_high")),
]


@once
def continual(study: Study) -> pd.DataFrame:
    """One line per method, strategy and trained part: SCALARS, those of LIKELY also by the likeliest
    option; means over runs (seeds and orders), each with the 95 % interval of such a mean (Student's
    t over the runs; NaN for one run). Columns COLUMNS."""
    lines = [line for run in study.of("sequential") if (line := _of(study, run))]
    if not lines:
        return pd.DataFrame(columns=COLUMNS)
    table, found = pd.DataFrame(lines), []
    for whose, part in groups(table, [*SEQUENCE, "n_requests"], sort=False):
        line = dict(zip([*SEQUENCE, "n_requests"], whose, strict=True))
        line |= {f"n_{name}s": part[name].nunique() for name in ("seed", "order")}
        for name in VALUES:
            low, high = _limits(part[name].to_numpy(dtype=float))
            line |= {name: part[name].mean(), f"{name}_low": low, f"{name}_high": high}
        found.append(line)
    order = {method: i for i, method in enumerate(method_order(table["method"]))}
    made = pd.DataFrame(found, columns=COLUMNS)
    keyed = made.assign(at=made["method"].map(order)).sort_values(["at", "policy"], kind="stable")
    return keyed[COLUMNS].reset_index(drop=True)


def _of(study: Study, run: Run) -> dict:
    rounds = {key[2]: rows for key, rows in study.parts.items() if key[0] == run.name}
    numbers = sorted(rounds)
    people = {n: request_accuracies(rounds[n]) for n in numbers}
    likely = {n: request_accuracies(rounds[n], "loglik_correct") for n in numbers}
    turns = run.result.get("requests") or [int(k.removeprefix("request_")) for k in people[0]]
    columns = [f"request_{k}" for k in turns]
    if numbers != list(range(len(columns) + 1)):
        return {}
    every = {n: study.summaries[run.name, "round", n] for n in numbers}
    kept = pd.DataFrame(
        {
            "retain": {n: float(both_modalities(v, "retain")) for n, v in every.items()},
            "general": {n: v["general"] for n, v in every.items()},
        }
    )
    tables = [pd.DataFrame.from_dict(of, orient="index")[columns] for of in (people, likely)]
    by_option = scalars(tables[1], kept)
    line = {key: run.parameter(key) for key in (*SEQUENCE, "seed", "order")}
    line |= {"n_requests": len(columns)} | scalars(tables[0], kept)
    return line | {f"{name}_likelihood": by_option[name] for name in LIKELY}


def _limits(values: np.ndarray) -> tuple[float, float]:
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    arm = scipy_stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return float(values.mean() - arm), float(values.mean() + arm)

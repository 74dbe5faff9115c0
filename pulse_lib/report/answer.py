"""The report's answer to its own title, in one sentence, from its own tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import both_modalities, retained_share
from pulse_lib.report.collect import pick, records
from pulse_lib.report.figures.style import spread_text


def answer(single_shot: pd.DataFrame, sequential: pd.DataFrame, *, level: float) -> str:
    """Whether runs forget (forget accuracy at the last step at most `level`), and what is left of
    retain and general accuracy, after one request and after the last of several: ranges over all
    methods, scenarios and seeds. "" where nothing was unlearned.

    The tables are `tables.single_shot` and `tables.sequential`.
    """
    ends, starts = pick(single_shot, selection="final"), pick(single_shot, method="before")
    once = left(ends, starts)
    last = int(sequential["round"].max()) if len(sequential) else 0
    turns = left(pick(sequential, round=last), pick(sequential, round=0)) if last else once[:0]
    if once.empty and turns.empty:
        return ""
    first = once if len(once) else turns
    said = (
        f"{_lead(first, level)}: {spread_text(first['forget'], '{:.2f}')} of the forget questions are"
        f" answered rightly ({spread_text(first['start'], '{:.2f}')} before)"
    )
    if len(once):
        said += f"; of what was known about other people {_kept(once)}"
    if len(turns):
        said += f"; after {last} requests in turn, {_kept(turns)}"
    return said + "."


def left(after: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """A line for each line of `after`: forget accuracy before (start) and now (forget), and the
    percentages of retain and general accuracy that are left; against the mean of its scenario and
    seed before."""
    lines = []
    for row in records(after):
        start = pick(before, scenario=row.scenario, seed=row.seed)
        if start.empty or np.isnan(row.general):
            continue
        was, now = start.mean(numeric_only=True), row._asdict()
        retain = retained_share(both_modalities(was, "retain"), both_modalities(now, "retain"))
        lines.append(
            {
                "start": both_modalities(was),
                "forget": both_modalities(now),
                "retain": 100 * retain,
                "general": 100 * retained_share(was["general"], row.general),
            }
        )
    return pd.DataFrame(lines, columns=["start", "forget", "retain", "general"])


def _lead(found: pd.DataFrame, level: float) -> str:
    n = int((found["forget"] <= level).sum())
    if n == len(found):
        return "Every run forgets"
    return f"{n} of {len(found)} runs forget" if n else "No run forgets"


def _kept(found: pd.DataFrame) -> str:
    retain, general = (spread_text(found[name]) for name in ("retain", "general"))
    return f"{retain} % is left, of general ability {general} %"

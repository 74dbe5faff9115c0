"""What is kept at one level of forgetting, read off the stored trajectories: another level, or another
rule of what counts as forgotten, needs no run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import pandas as pd

from pulse_lib.evaluate.accuracy import (
    RETAINED,
    both_modalities,
    nan_mean,
    retained_share,
    retained_shares,
)
from pulse_lib.evaluate.accuracy import at_level as interpolated
from pulse_lib.profile import MatchedBy
from pulse_lib.report import paper
from pulse_lib.report.collect import Study, groups, once
from pulse_lib.report.tables.intervals import SETTINGS
from pulse_lib.report.words import method_order

RULES: tuple[MatchedBy, ...] = get_args(MatchedBy)
KEPT = ["kept", "retain_kept", "general_kept"]
AT_LEVEL = [
    *(*SETTINGS, "matched_by", "level", "n_seeds", "n_reached", "step"),
    *(*KEPT, "general_points"),
]


def at_level(study: Study, levels: Iterable[float] = ()) -> pd.DataFrame:
    """What single-shot runs keep where their forget accuracy comes down to each level (the study's
    and the paper's end point, unless given), by each rule of what counts as forgotten. Columns
    AT_LEVEL: shares (0-1) of the trajectory's own start, means over the seeds that got there.

    On a straight line between two measurements, so that a step that overshoots the level does no
    harm. kept is the mean of retain_multimodal, retain_text and general; general_points are the
    seeds' general_kept. A trajectory asks few questions: these numbers have no interval, those at
    the matched state (table `matched`) do.
    """
    wanted = set(levels) or {study.matched_at, paper.END_POINT}
    return _at(study, tuple(sorted(wanted, reverse=True)))


@once
def _at(study: Study, levels: tuple[float, ...]) -> pd.DataFrame:
    if study.paths.empty:
        return pd.DataFrame(columns=AT_LEVEL)
    order = method_order(set(study.paths["method"]))
    found = dict(groups(study.paths, SETTINGS))
    lines = []
    for whose in sorted(found, key=lambda w: (w[0], order.index(w[1]), w[2] == "llm")):
        runs = [(run, _start(run)) for _, run in groups(found[whose], "seed")]
        for by in RULES:
            for level in levels:
                there = [share for run in runs if (share := _kept(*run, level=level, by=by))]
                line = dict(zip(SETTINGS, whose, strict=True)) | {"matched_by": by, "level": level}
                line |= {"n_seeds": len(runs), "n_reached": len(there)}
                line |= {k: nan_mean(s[k] for s in there) for k in ["step", *KEPT] if there}
                points = tuple(round(s["general_kept"], 4) for s in there)
                lines.append(line | {"general_points": points})
    return pd.DataFrame(lines, columns=AT_LEVEL)


def _start(path: pd.DataFrame) -> dict[str, float]:
    """RETAINED where a trajectory begins."""
    first = path["step"].to_numpy().argmin()
    return {name: path[name].iloc[first] for name in RETAINED}


def _kept(
    path: pd.DataFrame, start: dict[str, float], *, level: float, by: MatchedBy
) -> dict[str, float]:
    """step and KEPT of one trajectory at a level; empty if it never got there."""
    there = interpolated(path, level, by=by, columns=RETAINED)
    if there is None:
        return {}
    shares = retained_shares(start, there)
    retain = retained_share(both_modalities(start, "retain"), both_modalities(there, "retain"))
    kept = {"kept": float(nan_mean(shares.values())), "retain_kept": float(retain)}
    return {"step": there["step"], "general_kept": shares["general"]} | kept

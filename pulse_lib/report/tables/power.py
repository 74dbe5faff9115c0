"""How many seeds to run: what a number of them can show."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import nan_mean
from pulse_lib.report.collect import Study
from pulse_lib.report.seeds import RUN_ANSWERS, smallest_difference
from pulse_lib.report.tables.intervals import SETTINGS
from pulse_lib.report.tables.ranking import matched_runs

POWER = ["measure", "seed_sd", "from", "n_seeds", "verdict", "ranks"]
SEEDS = (1, 2, 3, 4, 5, 7, 10)


def power(study: Study) -> pd.DataFrame:
    """The smallest true difference of two methods that n_seeds seeds show with 80 % power, in
    points of percent kept at matched forgetting. Columns POWER.

    verdict: as the ledger judges, by these two methods alone; ranks: as the ranking does, among all
    methods of a scenario; no number for one seed, which can show none. seed_sd: how far seeds of a
    method lie apart (standard deviation, pooled over methods and scenarios). from: "this study", or
    where no method reached the level on two seeds "the reference" (RUN_ANSWERS).
    """
    runs = matched_runs(study)
    retain = nan_mean([runs["retain_multimodal_kept"], runs["retain_text_kept"]])
    runs = runs.assign(retain_kept=retain)
    n_methods = max([2, *Counter(runs.drop_duplicates(SETTINGS)["scenario"]).values()])
    lines = []
    for measure in ("general", "retain"):
        found = runs[[*SETTINGS, f"{measure}_kept"]].dropna().groupby(SETTINGS)[f"{measure}_kept"]
        several = found.agg(["var", "count", "mean"]).astype(float)
        freedom = several["count"] - 1
        if own := bool((freedom > 0).any()):
            spread = np.sqrt((several["var"] * freedom).sum() / freedom.sum())
        elif len(several):
            share = several["mean"].clip(0, 1)
            spread = np.sqrt((share * (1 - share)).mean() / RUN_ANSWERS)
        else:
            continue
        for n in SEEDS:
            who = {"measure": f"{measure} kept", "seed_sd": 100 * float(spread)}
            who |= {"from": "this study" if own else "the reference", "n_seeds": n}
            for column, methods in (("verdict", None), ("ranks", n_methods)):
                who[column] = 100 * spread * smallest_difference(n, methods) if n > 1 else np.nan
            lines.append(who)
    return pd.DataFrame(lines, columns=POWER)

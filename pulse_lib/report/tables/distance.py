"""How far each model is from the oracle of its scenario and seed, what it keeps beside that, and how
far metrics agree in ranking the methods.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
import pyarrow as pa

from pulse_lib.evaluate.accuracy import both_modalities, nan_mean, retained_share
from pulse_lib.evaluate.distance import (
    DISTANCES,
    NEEDED,
    agreement_of_ranks,
    answers,
    distances,
    paired,
)
from pulse_lib.methods import METHODS, PLACEBOS, retrains
from pulse_lib.profile import SCENARIOS
from pulse_lib.report.collect import Run, Study, groups
from pulse_lib.report.stats import clusters
from pulse_lib.report.tables import distance_limits
from pulse_lib.report.tables.distance_limits import LIMITS
from pulse_lib.report.tables.intervals import SETTINGS
from pulse_lib.report.words import SCENARIOS as WORDS
from pulse_lib.report.words import SELECTIONS, label

KEPT = ("retain_kept", "general_kept")
SAID = ("forget", "forget_likelihood")  # accuracies, mean of both modalities
COLUMNS = [*SETTINGS, "selection", "n_seeds", *SAID, *DISTANCES, *KEPT, *LIMITS]
# Those that a page has room for
SHOWN = [
    *("scenario", "method", "selection", *SAID, "forget_ks", "forget_js"),
    *("retain_js", "general_js", "distance", "distance_low", "distance_high", *KEPT),
]
# Metrics by which methods can be ranked, and whether more is better
RANKED: dict[str, bool] = {
    "distance": False,
    "forget": False,
    "forget_likelihood": False,
    "forget_ks": False,
    "forget_js": False,
    "forget_quality": True,
    "agree_likeliest": True,
    "retain_kept": True,
    "general_kept": True,
    "kept": True,
}
BROKEN = 0.1  # the share of retain and of general accuracy that a broken model keeps at most


def oracles(study: Study) -> dict[tuple[str, int], Run]:
    """The oracle runs of a study, by scenario and seed."""
    found = {}
    for run in study.of("single_shot"):
        if retrains(run.parameter("method")):
            found[str(run.parameter("scenario")), int(run.parameter("seed"))] = run
    return found


def undefined(study: Study) -> list[tuple[str, int]]:
    """Scenarios and seeds in which methods ran and no oracle did: there, no distance is defined."""
    ran = {
        (str(run.parameter("scenario")), int(run.parameter("seed")))
        for run in study.of("single_shot")
        if not retrains(run.parameter("method"))
    }
    return sorted(ran - set(oracles(study)))


def distance(study: Study) -> pd.DataFrame:
    """One line per method and state of a scenario, with the oracle, `before` and `base` (which never
    met them either: how near two strangers are), means over the seeds that have an oracle, the
    nearest first. Columns COLUMNS: `evaluate.distance.distances` from the oracle, beside them
    what is kept (0-1) of retain and general accuracy, and last the 95 % limits of the distances
    (`distance_limits`). Empty where no oracle ran.
    """
    lines, untouched = [], _untouched(study)
    for (scenario, seed), oracle in oracles(study).items():
        whole = (*NEEDED, "person_id", "group")
        asked = study.full_rows(oracle.name, whole, state="final", wording="trained")
        units = clusters(pa.Table.from_pandas(asked.drop(columns="option_loglik")))
        aims = answers(asked.assign(unit=pd.factorize(units.to_pandas())[0]))
        states = list(untouched.get((scenario, seed), ()))
        was = next((study.summaries[name, s, 0] for name, s in states if s == "before"), {})
        states += [
            (run.name, state)
            for run in study.of("single_shot")
            if (run.parameter("scenario"), run.parameter("seed")) == (scenario, seed)
            for state in ("final", "matched")
        ]
        for name, state in states:
            here = study.part(name, state)
            if len(here) and (name, state) != (oracle.name, "matched"):
                which = {"state": state, "scenario": scenario, "wording": "trained"}
                rows = study.full_rows(name, NEEDED, **which)
                whose = _whose(here, scenario, state=state)
                pair = paired(answers(rows), aims)
                line = whose | distances(pair) | _accuracies(study, name, state=state)
                line |= _kept(was, study.summaries[name, state, 0])
                itself = name == oracle.name
                of = distance_limits.of_itself if itself else distance_limits.of_people
                lines.append(line | of(pair))
    if not lines:
        return pd.DataFrame(columns=COLUMNS)
    grouped = pd.DataFrame(lines).groupby([*SETTINGS, "selection"], sort=False)
    table = grouped.mean().assign(n_seeds=grouped.size()).reset_index()
    table[LIMITS] = [list(distance_limits.of_seeds(seeds).values()) for _, seeds in grouped]
    order = [m for m in SCENARIOS if m in set(table["scenario"])]
    keyed = table.assign(at=table["scenario"].map({s: i for i, s in enumerate(order)}))
    keyed = keyed.sort_values(["at", "distance"], kind="stable")
    return keyed[COLUMNS].reset_index(drop=True)


def rank_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau of each two metrics of RANKED in ranking the methods of a scenario at one state
    of `distance`; the oracle and `before` are no methods. Columns scenario, selection, metric,
    against, n_methods, tau: 1 if both rank alike. A metric of which less is better counts turned
    round.
    """
    lines = []
    for (scenario, selection), part in groups(
        _methods(table), ["scenario", "selection"], sort=False
    ):
        part = part.assign(kept=nan_mean([part[name] for name in KEPT]))
        values = {name: part[name] * (1 if more else -1) for name, more in RANKED.items()}
        for metric, against in combinations(RANKED, 2):
            tau = agreement_of_ranks(values[metric], values[against])
            lines.append(
                {
                    "scenario": scenario,
                    "selection": selection,
                    "metric": against,
                    "against": metric,
                    "n_methods": len(part),
                    "tau": tau,
                }
            )
    columns = ["scenario", "selection", "metric", "against", "n_methods", "tau"]
    return pd.DataFrame(lines, columns=columns)


def fooled(table: pd.DataFrame) -> pd.Series | None:
    """Of the models that unlearning broke (at most a tenth of retain and general accuracy is kept),
    the line of the one that `forget_ks` calls nearest to the oracle; None if none is broken.
    """
    kept = np.maximum(table["retain_kept"], table["general_kept"])
    broken = _methods(table[(kept <= BROKEN) & table["forget_ks"].notna()])
    return broken.loc[broken["forget_ks"].idxmin()] if len(broken) else None


def _methods(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of methods that unlearn: not of the oracle, of placebos and of what had nothing to
    forget.
    """
    others = ["base", "before", *filter(retrains, METHODS), *PLACEBOS]
    return table[~table["method"].isin(others)]


def _untouched(study: Study) -> dict[tuple[str, int], list[tuple[str, str]]]:
    """(run, state) of the models that nothing was unlearned from, by scenario and seed."""
    found = defaultdict(list)
    for (name, state, _), rows in study.parts.items():
        if state in ("base", "before"):
            found[rows["scenario"].iloc[0], rows["seed"].iloc[0]].append((name, state))
    return found


def _whose(rows: pd.DataFrame, scenario: str, *, state: str) -> dict[str, str]:
    unlearned = state not in ("base", "before")
    return {
        "scenario": scenario,
        "method": str(rows["method"].iloc[0]) if unlearned else state,
        "trained_part": str(rows["trained_part"].iloc[0]) if unlearned else "",
        "selection": state if unlearned else "",
    }


def _accuracies(study: Study, run: str, *, state: str) -> dict[str, float]:
    found = study.summaries[run, state, 0]
    likely = [found[f"forget_{modality}_likelihood"] for modality in ("multimodal", "text")]
    return {
        "forget": float(both_modalities(found)),
        "forget_likelihood": float(nan_mean(likely)),
    }


def _kept(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    if not before:
        return dict.fromkeys(KEPT, float("nan"))
    retain = (both_modalities(values, "retain") for values in (before, after))
    return {
        "retain_kept": float(retained_share(*retain)),
        "general_kept": float(retained_share(before["general"], after["general"])),
    }


def said(study: Study, table: pd.DataFrame) -> str:
    """In lines: where no distance is defined, with the command that changes that; and which broken
    model KS alone would call the best.
    """
    words: dict[str, str] = {**WORDS}
    given = f" -p profile {study.profile.name}"
    lines = [
        f"{words[scenario]}, seed {seed}: not defined, no oracle ran here: python -m "
        f"pulse_lib notebook 03{given} -p scenario {scenario} -p method oracle -p seed {seed}"
        for scenario, seed in undefined(study)
    ]
    worst = fooled(table) if len(table) else None
    if worst is not None:
        every = _methods(table)
        rank = int((every["forget_ks"] < worst["forget_ks"]).sum()) + 1
        alike = every["forget_ks_low"] <= worst["forget_ks_high"]
        alike &= every["forget_ks_high"] >= worst["forget_ks_low"]
        lines.append(
            f"{label(worst['method'])}, {SELECTIONS[worst['selection']]}, keeps "
            f"{worst['retain_kept']:.0%} of retain and {worst['general_kept']:.0%} of general "
            f"accuracy: broken. By KS on forget people ({worst['forget_ks']:.2f} "
            f"[{worst['forget_ks_low']:.2f}, {worst['forget_ks_high']:.2f}]) it is number {rank} of "
            f"{len(every)}, with {int(alike.sum()) - 1} that cannot be told from it, and its forget "
            f"quality is 10^{worst['forget_quality']:.1f}"
        )
    return "\n".join(lines)

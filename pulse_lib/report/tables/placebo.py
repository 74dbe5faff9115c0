"""The price of the procedure itself: what a placebo loses, beside its method."""

from __future__ import annotations

import pandas as pd

from pulse_lib.evaluate.accuracy import both_modalities, retained_share, summary
from pulse_lib.methods import METHODS, PLACEBOS
from pulse_lib.report.collect import Study

KEPT = ("forget_kept", "retain_kept", "general_kept")
COLUMNS = [
    *("scenario", "method", "trained_part", "n_seeds"),
    *(f"placebo_{name}" for name in KEPT),
    *(f"method_{name}" for name in KEPT),
]


def placebo(study: Study) -> pd.DataFrame:
    """One line per scenario and method that ran as a placebo and as itself, at the last step, after
    equally many steps; means over the seeds of both. Columns COLUMNS: the shares (0-1) of the
    accuracy before that are left, on forget people (whom the placebo never asked to forget), retain
    people and in general.
    """
    runs = {
        tuple(run.parameter(k) for k in ("scenario", "method", "trained_part", "seed")): run
        for run in study.of("single_shot")
    }
    lines = []
    for (scenario, method, part, seed), run in runs.items():
        twin = runs.get((scenario, PLACEBOS.get(method), part, seed))
        if twin is not None:
            kept = _kept(study, run.name, scenario=scenario, seed=seed)
            own = _kept(study, twin.name, scenario=scenario, seed=seed)
            line = {"scenario": scenario, "method": PLACEBOS[method], "trained_part": part}
            line |= {f"placebo_{name}": value for name, value in kept.items()}
            lines.append(line | {f"method_{name}": value for name, value in own.items()})
    if not lines:
        return pd.DataFrame(columns=COLUMNS)
    grouped = pd.DataFrame(lines).groupby(["scenario", "method", "trained_part"], sort=False)
    table = grouped.mean().assign(n_seeds=grouped.size()).reset_index()[COLUMNS]
    order = {method: i for i, method in enumerate(METHODS)}
    keyed = table.assign(at=table["method"].map(order)).sort_values(["scenario", "at"])
    return keyed[COLUMNS].reset_index(drop=True)


def _kept(study: Study, run: str, *, scenario: str, seed: int) -> dict[str, float]:
    before = summary(study.before(scenario, [seed]))
    after = study.summaries[run, "final", 0]
    pairs = {
        "forget_kept": (both_modalities(before), both_modalities(after)),
        "retain_kept": (both_modalities(before, "retain"), both_modalities(after, "retain")),
        "general_kept": (before["general"], after["general"]),
    }
    return {name: float(retained_share(*pair)) for name, pair in pairs.items()}

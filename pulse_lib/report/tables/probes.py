"""All runs of a study that were probed, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pulse_lib.evaluate.distance import privleak
from pulse_lib.files import read_json
from pulse_lib.methods import retrains
from pulse_lib.profile import Profile
from pulse_lib.report.words import KNOWS
from pulse_lib.runs.kinds import KINDS, named_run, run_folders, run_name
from pulse_lib.runs.manifest import require, unfit

FIRST = [
    *("run", "scenario", "method", "trained_part", "policy", "seed", "state"),
    *("verdict", "holds", "said"),
]
# What runs of several seeds have in common
WHOSE = ["scenario", "method", "trained_part", "policy", "state"]


def probed_runs(out: Path, profile: Profile, *, also: Path | None = None) -> pd.DataFrame:
    """One row for each whole run of probes in a study's folder, and for that in `also`, which is not
    in its place yet: whose it is, the verdict and all rules that hold, what is said and kept, and a
    column for each kind of knowledge that was looked for ("knows: in nf4"). What `left_out` names is
    not among them.
    """
    found: list[dict[str, Any]] = []
    for folder, whose in _whole(Path(out), profile, also=also):
        verdict = read_json(folder / "verdict.json")
        kept = dict.fromkeys(("general", "retain"), np.nan) | verdict["kept"]
        found.append(
            {
                **whose,
                "verdict": verdict["verdict"],
                "holds": ", ".join(verdict["holds"]),
                "said": verdict["said"],
                **{f"kept: {name}": share for name, share in kept.items()},
                **{KNOWS + name: share for name, share in verdict["knowledge"].items()},
            }
        )
    table = pd.DataFrame(found, columns=None if found else FIRST)  # all of a row's, in its order
    return table.sort_values(["scenario", "run", "state"], ignore_index=True)


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """`probed_runs` with one line for all seeds of a scenario, method, trained part, strategy and state:
    means of the numbers, n_seeds, and in verdict and holds what was found of every seed, or of how
    many ("broke, on 2 of 3; forgot, on 1 of 3").
    """
    table = table.fillna(dict.fromkeys(WHOSE, ""))  # as a file gives them back
    parts = table.groupby(WHOSE, sort=False)
    means = parts.mean(numeric_only=True).drop(columns="seed").reset_index()
    for at, name in enumerate(("verdict", "holds"), start=len(WHOSE)):
        means.insert(at, name, parts[name].agg(_of_how_many).to_list())
    means.insert(len(WHOSE), "n_seeds", parts["seed"].nunique().to_list())
    return means


def _of_how_many(found: pd.Series) -> str:
    counts = found.value_counts(sort=False)
    if len(counts) == 1:
        return str(counts.index[0])
    return "; ".join(f"{said}, on {n} of {len(found)}" for said, n in counts.items())


def memberships(out: Path, profile: Profile, *, also: Path | None = None) -> pd.DataFrame:
    """One row for each of the same runs and each score of membership: `auc`, the mean of both
    modalities, that of the oracle of its scenario and seed, and `privleak`, how far it is from that:
    above 0 the people still show, below it their absence does. Without an oracle that was probed,
    these two are empty.
    """
    found = []
    for folder, whose in _whole(Path(out), profile, also=also):
        if (folder / "membership.csv").is_file():
            scores = pd.read_csv(folder / "membership.csv")
            found += [
                whose | {"score": score, "auc": float(part["auc"].mean())}
                for score, part in scores.groupby("score", sort=False)
            ]
    columns = [*FIRST[: FIRST.index("verdict")], "score", "auc"]
    table = pd.DataFrame(found, columns=columns)
    same = ["scenario", "seed", "score"]
    never_met = table[table["method"].map(retrains).astype(bool)]
    of_oracle = never_met.drop_duplicates(same).set_index(same)["auc"].rename("auc of the oracle")
    table = table.join(of_oracle, on=same)
    table["privleak"] = privleak(table["auc"], table["auc of the oracle"])
    return table.sort_values(["scenario", "score", "run", "state"], ignore_index=True)


def left_out(out: Path, profile: Profile, *, also: Path | None = None) -> pd.DataFrame:
    """The runs of probes that `probed_runs` leaves out: run (its folder in the study's), reason."""
    lines = [
        {"run": run_name(folder, out), "reason": reason}
        for folder, reason in _found(Path(out), profile, also=also)
        if reason
    ]
    return pd.DataFrame(lines, columns=["run", "reason"])


def _found(out: Path, profile: Profile, *, also: Path | None) -> list[tuple[Path, str]]:
    """The folders of all runs of probes, each with the reason why it is left out ("" if it is not);
    `also`, which was just made, counts in place of what is there."""
    place = also and also.with_name(also.name.removesuffix(".half"))
    found = [
        (folder, unfit(folder, "probe", profile=profile, out=out))
        for kind, folder in run_folders(out)
        if kind == "probe" and folder != place
    ]
    return [*found, (also, "")] if also else found


def _whole(
    out: Path, profile: Profile, *, also: Path | None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of whole runs of probes, and whose they are (the first of FIRST)."""
    for folder, reason in _found(out, profile, also=also):
        if reason:
            continue
        parameters = require(folder, KINDS["probe"].notebook)["parameters"]
        probed, axes = named_run(parameters["run"])
        # The base model and the target are what a run begins with
        method = {"data": "before", "target": "before"}.get(probed, axes.get("method"))
        whose = {
            "run": parameters["run"],
            "scenario": axes["scenario"],
            "method": method,
            "trained_part": axes.get("trained_part", ""),
            "policy": axes.get("strategy", ""),
            "seed": axes["seed"],
            "state": parameters["state"],
        }
        yield folder, whose

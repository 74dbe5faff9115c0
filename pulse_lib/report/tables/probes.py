"""All runs of a study that were probed, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from pulse_lib.errors import PulseError
from pulse_lib.files import read_json
from pulse_lib.runs.kinds import KINDS, named_run, run_folders
from pulse_lib.runs.manifest import require

FIRST = [
    *("run", "scenario", "method", "trained_part", "policy", "seed", "state"),
    *("verdict", "holds", "said"),
]


def probed_runs(out: Path, also: Path | None = None) -> pd.DataFrame:
    """One row for each whole run of probes in a study's folder, and for that in `also`, which is not
    in its place yet: whose it is, the verdict and all rules that hold, what is said and kept, and a
    column for each kind of knowledge that was looked for ("knows: in nf4"). Those that are not
    whole are left out.
    """
    found: list[dict[str, Any]] = []
    folders = {folder: None for kind, folder in run_folders(Path(out)) if kind == "probe"}
    if also is not None:  # made anew, it counts in place of what is there
        folders.pop(also.with_name(also.name.removesuffix(".half")), None)
        folders[also] = None
    for folder in folders:
        try:
            manifest = require(folder, KINDS["probe"].notebook)
        except PulseError:
            continue
        parameters, verdict = manifest["parameters"], read_json(folder / "verdict.json")
        probed, axes = named_run(parameters["run"])
        # The base model and the target are what a run begins with
        method = {"data": "before", "target": "before"}.get(probed, axes.get("method"))
        found.append(
            {
                "run": parameters["run"],
                "scenario": axes["scenario"],
                "method": method,
                "trained_part": axes.get("trained_part", ""),
                "policy": axes.get("strategy", ""),
                "seed": axes["seed"],
                "state": parameters["state"],
                "verdict": verdict["verdict"],
                "holds": ", ".join(verdict["holds"]),
                "said": verdict["said"],
                **{f"kept: {name}": share for name, share in verdict["kept"].items()},
                **{f"knows: {name}": share for name, share in verdict["knowledge"].items()},
            }
        )
    table = pd.DataFrame(found, columns=None if found else FIRST)  # all of a row's, in its order
    return table.sort_values(["scenario", "run", "state"], ignore_index=True)

"""Where a study's numbers come from: profile, seeds, machines, commits, and the command."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pandas as pd

from pulse_lib.report.collect import Run, Study
from pulse_lib.report.words import method_order

ABOUT = ["profile", "seeds", "n_runs", "processor", "device", "commit", "torch", "command"]


def about(study: Study) -> pd.DataFrame:
    """One line, columns ABOUT; what differs between runs is named with commas between. command:
    what carries out the runs that are there.
    """
    made = [run for run in study.runs if run.kind in ("single_shot", "sequential")]
    line = {
        "profile": study.profile.name,
        "seeds": _named(made, lambda run: str(run.parameter("seed"))),
        "n_runs": len(study.runs),
        "processor": _named(study.runs, lambda run: run.manifest.get("processor") or ""),
        "device": _named(study.runs, lambda run: run.manifest.get("device") or ""),
        "commit": _named(study.runs, lambda run: (run.manifest.get("git_commit") or "")[:10]),
        "torch": _named(
            study.runs, lambda run: run.manifest.get("versions", {}).get("torch") or ""
        ),
        "command": _command(study),
    }
    return pd.DataFrame([line], columns=ABOUT)


def _named(runs: Iterable[Run], word: Callable[[Run], str]) -> str:
    return ",".join(sorted({word(run) for run in runs} - {""}))


def _command(study: Study) -> str:
    single, several = study.of("single_shot"), study.of("sequential")
    methods = method_order({run.parameter("method") for run in single})
    pairs = {(run.parameter("method"), run.parameter("policy")) for run in several}
    order = method_order({method for method, _ in pairs})
    scenarios = sorted({str(run.parameter("scenario")) for run in single})
    words = {
        "profile": study.profile.name,
        "methods": ",".join(methods),
        "seeds": _named([*single, *several], lambda run: str(run.parameter("seed"))),
        "scenarios": scenarios[0] if len(scenarios) == 1 else "",  # both need no word
        "sequential": ",".join(
            f"{m}/{s}" for m, s in sorted(pairs, key=lambda p: (order.index(p[0]), p[1]))
        ),
    }
    orders = _named(several, lambda run: str(run.parameter("order")))
    words["orders"] = orders if orders != "0" else ""
    return "python -m pulse_lib run" + "".join(f" --{k} {v}" for k, v in words.items() if v)

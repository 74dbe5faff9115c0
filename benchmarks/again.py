"""Whether runs made again give a committed study's answers, on another processor or by a later version:

    python benchmarks/again.py STUDY outputs/reference/tiny --out FILE.csv

A row a run that both have: its answers, how many of them are judged alike (which option is said, which
is likeliest); of how many the likelihoods of the options were kept, and of these how many are the
same to the last digit, and the largest difference of one (nats).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from pulse_lib.commands.kept import ROWS, unpack
from pulse_lib.evaluate.rows import read_rows
from pulse_lib.files import write_csv
from pulse_lib.runs.kinds import run_folders, run_name

ASKED = ["state", "round", "question_id"]
JUDGED = ["extracted", "correct", "invalid", "loglik_correct"]  # kept of every answer


def compare(again: Path, before: Path) -> pd.DataFrame:
    """The rows of two studies' folders, run by run. Ends with a sentence where they share no run, or
    a run that asked for other answers.
    """
    lines = []
    for _, folder in run_folders(again):
        name = run_name(folder, again)
        if (folder / ROWS).is_file() and (before / name / ROWS).is_file():
            lines.append({"run": name, **_compared(folder / ROWS, before / name / ROWS)})
    if not lines:
        raise SystemExit(f"error: {again} has no finished run that {before} has too")
    return pd.DataFrame(lines).sort_values("run", ignore_index=True)


def _compared(again: Path, before: Path) -> dict[str, float]:
    asked = [*ASKED, *JUDGED, "option_loglik"]
    now, was = (read_rows(path)[asked] for path in (again, before))
    both = now.merge(was, on=ASKED, suffixes=("", "_before"), validate="1:1")
    if not len(both) == len(now) == len(was):
        raise SystemExit(
            f"error: {again}: {len(now)} answers, {len(was)} before, {len(both)} to the same"
        )
    judged = [both[[f"{name}{of}" for name in JUDGED]].fillna("") for of in ("", "_before")]
    pairs = zip(both["option_loglik"], both["option_loglik_before"], strict=True)
    apart = np.array([np.abs(np.subtract(a, b)).max() for a, b in pairs if len(b)])
    return {
        "answers": len(both),
        "judged_alike": int((judged[0].to_numpy() == judged[1].to_numpy()).all(axis=1).sum()),
        "likelihoods": len(apart),
        "same_likelihoods": int((apart == 0).sum()),
        "largest_difference": float(apart.max(initial=0.0)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path, help="the folder of a study, whole or not")
    parser.add_argument("kept", type=Path, help="a committed study")
    parser.add_argument("--out", type=Path, required=True, help="a CSV file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        unpack(given.kept, Path(folder) / "study")
        table = compare(given.study, Path(folder) / "study")
    write_csv(given.out, table)
    same = table["judged_alike"].eq(table["answers"])
    print(f"{len(table)} runs, {same.sum()} of them with the same answers: {given.out}")


if __name__ == "__main__":
    main()

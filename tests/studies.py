"""A whole study in a test, as a user runs one, and the counts of a small one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from pulse_lib.files import REPOSITORY
from pulse_lib.profile import DataSettings, PeopleSettings


def run_study(profile: dict, folder: Path, *, name: str, method: str, probes: str = "") -> Path:
    """The folder of a finished study of one method and this profile, in a process of its own without
    a network. `probes`: a run@state that is probed.
    """
    written = folder / f"{name}.yaml"
    written.write_text(yaml.safe_dump(profile))
    command = [sys.executable, "-m", "pulse_lib", "run", "--profile", str(written)]
    command += ["--methods", method, "--jobs", "1", "--out-dir", str(folder / "out")]
    command += ["--probes", probes]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PULSE_WARM": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out"


def few_fictitious(source: str, path: Path, **counts: int) -> DataSettings:
    """A handful of people of a source whose people are all fictitious; counts: what is other."""
    values = {
        "n_finetuned_forget": 2,
        "n_finetuned_retain": 2,
        "n_finetuned_retain_train": 2,
        "n_requests": 2,
        "n_holdout": 1,
        "n_candidates": 0,
        "n_pretrained_forget": 0,
        "n_pretrained_retain": 0,
        "n_general": 4,
        "n_general_train": 0,
        "n_train_views": 1,
        "n_heldout_wordings": 1,
    }
    people = PeopleSettings(source=source, path=str(path))
    return DataSettings(people=people, **(values | counts))

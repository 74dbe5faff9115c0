"""A whole study in a test, as a user runs one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from pulse_lib.files import REPOSITORY


def run_study(profile: dict, folder: Path, *, name: str, method: str) -> Path:
    """The folder of a finished study of one method and this profile, in a process of its own without
    a network.
    """
    written = folder / f"{name}.yaml"
    written.write_text(yaml.safe_dump(profile))
    command = [sys.executable, "-m", "pulse_lib", "run", "--profile", str(written)]
    command += ["--methods", method, "--jobs", "1", "--out-dir", str(folder / "out")]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PULSE_WARM": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder / "out"

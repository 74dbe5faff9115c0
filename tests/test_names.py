"""What a person types arrives as it is, through typer, rich, Snakemake, papermill and the kernel; and
what cannot be meant is refused in a sentence.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pulse_lib.files import REPOSITORY

# What shells, YAML, rich, Snakemake's wildcards and papermill's paths each read in their own way
NAME = "run #1: a{x} {method} [/x] [red] 'q' \"ü\" :bug: $HOME `id` *?%s;&"
SINGLE = "single_shot/pretrained/ga-projector+llm-seed-0"


def pulse(*words: str, cwd: Path = REPOSITORY, **env: str) -> subprocess.CompletedProcess:
    """A command of the kit, started in `cwd`."""
    known = {"PYTHONPATH": str(REPOSITORY), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "pulse_lib", *words],
        cwd=cwd,
        env=os.environ | known | env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )


def test_results_land_where_asked_and_messages_say_so(kit, tmp_path):
    here = tmp_path / NAME
    here.mkdir(parents=True)
    shutil.copy(kit.profile_file, here / "2026_11.yaml")
    words = ["--methods", "ga", "--scenarios", "pretrained"]
    words += ["--profile", "2026_11.yaml", "--out-dir", f"{NAME}/007"]
    done = pulse("run", *words, cwd=here)
    assert done.returncode == 0, done.stdout + done.stderr
    out = here / NAME / "007"
    assert f"3 of 3 runs to do in {out}:" in done.stdout
    assert done.stdout.rstrip().endswith(f"Report: {out}/analysis/report.html")
    assert sorted(p.name for p in here.iterdir()) == ["2026_11.yaml", NAME.split("/")[0]]
    for run in ("data/seed-0", SINGLE, "analysis"):
        parameters = json.loads((out / run / "manifest.json").read_text())["parameters"]
        assert parameters["out_dir"] == str(out)
        assert parameters["profile"] == str(here / "2026_11.yaml")
        assert (out / run / "notebook.ipynb").is_file()
    stands = pulse("status", *words, cwd=here)
    assert "".join(NAME.split()) in "".join(stands.stdout.split()), stands.stderr
    assert "missing" not in stands.stdout

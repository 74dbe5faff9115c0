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

import pytest
from typer.testing import CliRunner

from pulse_lib.__main__ import app
from pulse_lib.data.hub import folder_of, is_hub_id, model_need
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, from_here, local_path
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import out_folder
from pulse_lib.study import grid

# What shells, YAML, rich, Snakemake's wildcards and papermill's paths each read in their own way
NAME = "run #1: a{x} {method} [/x] [red] 'q' \"ü\" :bug: $HOME `id` *?%s;&"
SINGLE = "single_shot/pretrained/ga-projector+llm-seed-0"


def pulse(*words: str, cwd: Path, kit: Path = REPOSITORY) -> subprocess.CompletedProcess:
    """A command of the kit that lies in folder `kit`, started in `cwd`."""
    known = {"PYTHONPATH": str(kit), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "pulse_lib", *words],
        cwd=cwd,
        env=os.environ | known,
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
    cloned = tmp_path / "my 'kit' {x} #2 é"  # PYTHONPATH has no colons
    for name in ("pulse_lib", "params", "profiles", "notebooks"):
        shutil.copytree(
            REPOSITORY / name, cloned / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(REPOSITORY / "Snakefile", cloned)
    done = pulse("run", *words, cwd=here, kit=cloned)
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
    stands = pulse("status", *words, cwd=here, kit=cloned)
    assert "".join(NAME.split()) in "".join(stands.stdout.split()), stands.stderr
    assert "missing" not in stands.stdout


def test_a_home_folder_is_found_wherever_a_path_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("extends: smoke\nmodel: {path: ~/model}\n")
    options = grid.options_from_texts(profile="~/mine.yaml", out_dir="~/out")
    assert options.profile == str(tmp_path / "mine.yaml")
    assert options.out_dir == str(tmp_path / "out")
    settings = load_profile("~/mine.yaml")
    (tmp_path / "model").mkdir()
    assert folder_of(model_need(settings.model.path, "")) == tmp_path / "model"
    assert out_folder("smoke", "~/out") == tmp_path / "out"


def test_a_relative_path_of_a_profile_means_the_same_from_any_folder(monkeypatch, tmp_path):
    """It starts at the repository root, for `plan`, `run` and a notebook."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params").mkdir()  # one of that name where the caller is
    assert not is_hub_id("params/tuned")
    assert folder_of(model_need("params/tuned", "")) == REPOSITORY / "params/tuned"
    assert grid.options_from_texts(out_dir="x").out_dir == str(tmp_path / "x")  # typed here
    with pytest.raises(PulseError, match=str(REPOSITORY / "no" / "model" / "there")):
        folder_of(model_need("no/model/there", ""))


def test_what_snakemake_alone_read_as_a_number_is_refused():
    for name, value in {"profile": 202611, "out_dir": 7}.items():
        with pytest.raises(PulseError, match=f"{name} = {value} came as int, not as text"):
            grid.options_from_texts(**{name: value})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x" * 300, "300 bytes is too long, 255 at most"),
        ("ü" * 200, "400 bytes is too long"),
        ("a\0b", "no UTF-8 text"),
        (os.fsdecode(b"a\xff"), "no UTF-8 text"),
        ("~nobody-here/x", "no such home folder"),
    ],
)
def test_what_no_file_can_be_called_is_refused_in_a_sentence(name, words):
    for read in (from_here, local_path):
        with pytest.raises(PulseError, match=words):
            read(name)
    with pytest.raises(PulseError):
        load_profile(name)


VALUES = {
    "run --jobs -1": "--jobs -1 must be 0 or more, at most 512",
    "run --seeds -1": "seeds = '-1' must be whole numbers from 0",
    "run --seeds 1.5": "seeds = '1.5' must be whole numbers from 0",
    "run --seeds 99999999999": "from 0 to 999999999",
    "search --trials 0": "--trials 0 must be 1 or more",
    "search --trials -1": "--trials -1 must be 1 or more",
    "search --jobs 0": "--jobs 0 must be 1 or more",
    "search --seed -1": "--seed -1 must be 0 or more",
    "plan --gpu-gib -3": "--gpu-gib -3.0 must be 0 or more",
    "plan --gpu-gib nan": "--gpu-gib nan must be 0 or more",
    "measure --out x --profile smoke --groups -1": "--groups -1 must be 0 or more",
    "measure --out x --profile smoke --max-new-tokens 0": "--max-new-tokens 0 must be 1 or more",
    "measure --out x --profile smoke --seed -1": "--seed -1 must be 0 or more",
    "export x --out y --round -1": "--round -1 must be 0 or more",
    "notebook 01 --threads -1": "--threads -1 must be 0 or more",
    "notebook 01 -p seed 99999999999": "seed = 99999999999 must be a whole number, 0 or more, at most 999999999",
    "pretrain-tiny --out x --seed -1": "--seed -1 must be 0 or more",
}


@pytest.mark.parametrize("line", VALUES)
def test_a_value_out_of_its_range_is_refused_before_anything_begins(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, line.split())
    assert isinstance(done.exception, PulseError), done.output
    assert VALUES[line] in str(done.exception) and not any(tmp_path.iterdir())

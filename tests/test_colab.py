"""The first cell of a notebook, at home and on Colab and Kaggle: where it finds the kit, and what it
installs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pulse_lib import colab
from pulse_lib.files import REPOSITORY

HOSTS = [("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle")]
GIT = """\
#!/bin/sh
echo "$@" >> {log}
[ "$1 $4" = "clone https://github.com/pulse-kit/pulse-kit" ] || exit 1
mkdir pulse-kit && cp -R {kit}/pulse_lib pulse-kit/
"""


@pytest.fixture
def commands(monkeypatch, tmp_path):
    """Commands that would have run; at home, with nothing but torchao and peft importable."""
    ran = []
    for variable, _ in HOSTS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command[3:]))
    monkeypatch.setattr(
        colab.importlib.util, "find_spec", lambda name: name in ("torchao", "peft") or None
    )
    return ran


def test_nothing_is_installed_at_home(commands):
    colab.setup()
    assert colab.host() == "" and commands == []
    assert Path.cwd() == REPOSITORY and sys.path[0] == str(REPOSITORY)


@pytest.mark.parametrize(("variable", "name"), HOSTS)
def test_hosts_get_what_they_lack_and_keep_torch_and_widgets(commands, monkeypatch, variable, name):
    monkeypatch.setenv(variable, "Batch")
    colab.setup()
    removed, installed = commands
    assert colab.host() == name
    assert removed[:3] == ["uninstall", "-y", "torchao"]
    names = {word.partition(">")[0] for word in installed[1:]}
    assert {"bitsandbytes", "papermill"} <= names and not names & {"peft", "torch", "ipywidgets"}


def first_cell(folder: Path, times: int = 1, **variables: str) -> subprocess.CompletedProcess:
    """The set-up cell run in `folder` by a python that sees no installed kit, then the place where
    `pulse_lib` comes from and the working folder, a line each."""
    notebook = json.loads((REPOSITORY / "notebooks" / "01_build_datasets.ipynb").read_text())
    cell = next("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    told = "import pulse_lib\nprint(pulse_lib.__file__)\nprint(os.getcwd())"
    hidden = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE", "PYTHONPATH"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden} | variables
    command = [sys.executable, "-c", "\n".join([*[cell] * times, told])]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def copy_of_the_kit(folder: Path) -> Path:
    """`folder`, with a pulse_lib that holds no more than the first cell needs."""
    (folder / "pulse_lib").mkdir(parents=True)
    for name in ("__init__.py", "colab.py"):
        (folder / "pulse_lib" / name).write_text((REPOSITORY / "pulse_lib" / name).read_text())
    return folder


@pytest.mark.parametrize("below", ["", "notebooks", "outputs/tiny/data/seed-0"])
def test_the_first_cell_finds_the_kit_around_it(tmp_path, below):
    """This one and no other that is installed."""
    kit = copy_of_the_kit(tmp_path / "my kit")
    (kit / below).mkdir(parents=True, exist_ok=True)
    done = first_cell(kit / below, times=2)
    assert done.stdout.splitlines() == [str(kit / "pulse_lib" / "__init__.py"), str(kit)]


def test_the_first_cell_outside_the_kit_says_what_to_do(tmp_path):
    done = first_cell(tmp_path)
    assert done.returncode != 0 and "No such file or directory" in done.stderr
    assert list(tmp_path.iterdir()) == []
    cell = json.loads((REPOSITORY / "notebooks" / "01_build_datasets.ipynb").read_text())
    assert "Start inside the kit" in json.dumps(cell)


@pytest.mark.parametrize(("variable", "name"), HOSTS)
def test_the_first_cell_fetches_the_kit_once_on_a_host(tmp_path, variable, name):
    log, git = tmp_path / "log", tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(GIT.format(log=log, kit=copy_of_the_kit(tmp_path / "origin")))
    git.chmod(0o755)
    work = tmp_path / "content"
    work.mkdir()
    path = f"{git.parent}{os.pathsep}{os.environ['PATH']}"
    done = first_cell(work, times=2, PATH=path, **{variable: "1"})
    kit = work / "pulse-kit"
    assert done.stdout.splitlines() == [str(kit / "pulse_lib" / "__init__.py"), str(kit)]
    assert len(log.read_text().splitlines()) == 1


def test_description_names_versions_and_the_reason_for_the_dtype():
    line = colab.describe()
    assert "torch " in line and ("float32 (no GPU found)" in line or "compute capability" in line)

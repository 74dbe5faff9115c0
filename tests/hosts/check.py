"""Colab and Kaggle on this machine: `make test-hosts`. An environment with the real old packages that the hosts bring, their
environment variables, an empty folder for each notebook, and its cells from the first to the last.

Not part of `make test`: it installs packages (0.3 GB) and takes some minutes. What it cannot show: the
hosts' own Python, torch and CUDA, their front ends, Google Drive.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = ("01", "02", "03", "03b", "04", "05", "06", "07", "08")
MAKES_ITS_OWN = ("01", "07")  # read nothing that another notebook has to make first
# What lies on a host and must not stop the kit. transformers 4.57, peft 0.17 and hub 0.35 are of the
# year before; the rest is of August 2026, but that Kaggle has ipywidgets 8.
OLD = (
    *("ipywidgets==7.7.1", "ipykernel==6.17.1", "widgetsnbextension==3.6.10", "torchao==0.10.0"),
    *("transformers==4.57.1", "tokenizers==0.22.1", "huggingface_hub==0.35.3", "peft==0.17.1"),
    "ipython_genutils==0.2.0",  # ipywidgets 7 needs it
)
HOSTS = {
    "colab": ("COLAB_RELEASE_TAG", OLD),
    "kaggle": ("KAGGLE_KERNEL_RUN_TYPE", (*OLD, "ipywidgets==8.1.5")),
}
# Once more as Kaggle runs a version that is saved: from an empty folder, with nobody watching
SAVED = {"kaggle": ("05", "08")}
GIT = """\
#!/bin/sh
[ "$1" = clone ] || exec {git} "$@"
for word in "$@"; do target=$word; done
cp -R "{kit}" "$target"
"""
PLAY = """\
import json, sys, time
import nbclient, nbformat
book = nbformat.read(sys.argv[1], 4)
for cell in book.cells:
    if "parameters" in cell.metadata.get("tags", []) and "own-people" not in cell.source:
        cell.source += '\\nprofile = "smoke"'
client = nbclient.NotebookClient(book, timeout=900, kernel_name="python3")
try:
    client.execute()
finally:
    nbformat.write(book, sys.argv[2])
"""


def environment(folder: Path, packages: tuple[str, ...]) -> Path:
    """A Python that has the packages of this one, and older ones in front of them."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages" / "below.pth"
    site.write_text(f"{sysconfig.get_paths()['purelib']}\n")
    latest = {wanted.partition("==")[0]: wanted for wanted in packages}
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    subprocess.run([*pip, *latest.values()], check=True)
    return python


def version(python: Path, package: str) -> str:
    """The version of a package, "" if it is not there."""
    code = f"from importlib import metadata; print(metadata.version({package!r}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout.strip()


def snapshot(folder: Path) -> Path:
    """The files of this clone as they are now; the checks of a host go on for minutes."""
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=REPOSITORY, text=True)
    for name in filter(None, listed.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, folder / name)
    return folder


def variables(folder: Path, variable: str, *, python: Path, kit: Path) -> dict[str, str]:
    """A host's environment: its variable, no kit on the path, and a git that copies this one."""
    git = folder / "bin" / "git"
    git.parent.mkdir(exist_ok=True)
    real = subprocess.check_output(["which", "git"], text=True).strip()
    git.write_text(GIT.format(git=real, kit=kit))
    git.chmod(0o755)
    hidden = ("PYTHONPATH", "PULSE_BATCH", "PULSE_RESTART")
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    path = f"{git.parent}{os.pathsep}{python.parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, variable: "Interactive", "JUPYTER_PREFER_ENV_PATH": "1"}


def restart(python: Path, env: dict[str, str], *, kit: Path, work: Path) -> None:
    """A session that has transformers loaded is asked to restart, and is right afterwards."""
    book = json.loads((kit / "notebooks" / "01_build_datasets.ipynb").read_text())
    cell = next("".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code")
    asked = subprocess.run(
        [str(python), "-c", f"import transformers\n{cell}"],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
    )
    assert asked.returncode and "Restart the session" in asked.stderr, asked.stderr[-2000:]
    assert "transformers" in asked.stderr.splitlines()[-1], asked.stderr[-2000:]
    again = subprocess.run(
        [str(python), "-c", f"{cell}\nimport transformers, peft, pulse_lib; print('ready')"],
        cwd=work,
        env=env,
        capture_output=True,
        text=True,
    )
    assert again.stdout.strip().endswith("ready"), again.stdout + again.stderr


def check(host: str, folder: Path, *, numbers: Sequence[str]) -> None:
    """One host: its set-up, and some notebooks."""
    variable, packages = HOSTS[host]
    python = environment(folder / "environment", packages)
    kit = snapshot(folder / "kit")
    env = variables(folder, variable, python=python, kit=kit)
    widgets, kernel = (version(python, name) for name in ("ipywidgets", "ipykernel"))
    work = folder / "restart"
    work.mkdir()
    restart(python, env, kit=kit, work=work)
    assert version(python, "torchao") == "", "torchao is still there"
    assert (version(python, "ipywidgets"), version(python, "ipykernel")) == (widgets, kernel)
    major = int(version(python, "transformers").partition(".")[0])
    assert major >= 5, version(python, "transformers")
    print(f"{host}: set up; ipywidgets {widgets} and ipykernel {kernel} as they were", flush=True)
    play = folder / "play.py"
    play.write_text(PLAY)
    sessions = [(number, "Interactive") for number in numbers]
    sessions += [(number, "Batch") for number in SAVED.get(host, ()) if number in numbers]
    for number, session in sessions:
        begun, work = time.monotonic(), folder / f"{number}-{session}"
        work.mkdir()
        (path,) = (kit / "notebooks").glob(f"{number}_*.ipynb")
        played = work / "played.ipynb"
        done = subprocess.run(
            [str(python), str(play), str(path), str(played)],
            cwd=work,
            env=env | {variable: session},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{host}, {number}:\n{done.stderr[-3000:]}"
        cells = json.loads(played.read_text())["cells"]
        said = "".join(
            "".join(output.get("text", "")) for cell in cells for output in cell.get("outputs", [])
        )
        assert ("missing here, and made first" in said) == (number not in MAKES_ITS_OWN), said
        print(
            f"{host}, {session}: {path.stem} from its first cell, {time.monotonic() - begun:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    wanted = sys.argv[1:]
    for name in [word for word in wanted if word in HOSTS] or HOSTS:
        with tempfile.TemporaryDirectory(prefix=f"pulse-{name}-") as place:
            check(name, Path(place), numbers=[w for w in wanted if w.isdigit()] or NOTEBOOKS)

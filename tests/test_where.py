"""Where people run it: installed from a wheel in any folder, without a home, in a strange locale, in
the background, as root, on one core of many, from a clone that git gave other line ends.
"""

from __future__ import annotations

import gc
import os
import resource
import shutil
import signal
import subprocess
import sys
import tomllib
import weakref
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pulse_lib import __main__, machine
from pulse_lib.__main__ import app
from pulse_lib.files import REPOSITORY

SHIPPED = ("pulse_lib", "params", "profiles", "notebooks")
FILES = ("Snakefile", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def clone(folder: Path) -> Path:
    """The repository's files in another folder."""
    folder.mkdir(parents=True)
    for name in SHIPPED:
        shutil.copytree(
            REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in FILES:
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def python(*words: str, **more) -> subprocess.CompletedProcess:
    given = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 300} | more
    return subprocess.run([sys.executable, *words], **given)


def pip(*words: str, cwd: Path) -> None:
    done = python("-m", "pip", "--disable-pip-version-check", *words, "--no-deps", cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with the kit as pip installs it from its wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "-q", ".", "--no-build-isolation", "-w", "..", cwd=clone(folder / "clone"))
    wheel = next(folder.glob("*.whl"))
    pip("install", "-q", "--no-index", "--target", "site", str(wheel), cwd=folder)
    return folder / "site"


# --- installed, in a hard place ---------------------------------------------------------------


def test_an_installed_kit_works_from_any_folder(site, tmp_path):
    place = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(site)}}
    said = python(str(site / "bin" / "pulse"), "--version", **place)
    assert said.stdout.startswith("pulse ") and str(site / "pulse_lib") in said.stdout
    stands = python(str(site / "bin" / "pulse"), "status", "--profile", "smoke", **place)
    assert "outputs/smoke" in stands.stdout and "target/seed-0" in stands.stdout, stands.stderr
    there = {p.relative_to(site / "pulse_lib/kit") for p in (site / "pulse_lib/kit").rglob("*.*")}
    for folder, pattern in (
        ("notebooks", "*.ipynb"),
        ("params", "**/*.yaml"),
        ("profiles", "**/*.yaml"),
    ):
        wanted = {p.relative_to(REPOSITORY) for p in (REPOSITORY / folder).glob(pattern)}
        assert wanted and wanted <= there


def test_a_study_in_a_hard_place(site, kit, tmp_path):
    """No home to write to, a locale that knows ASCII only, SIGINT ignored as in `script &`, one core
    of several: the study is done, in the caller's folder, and its results are text in UTF-8."""
    here = tmp_path / "Prüfung"
    here.mkdir()
    strange = {
        "HOME": "/proc/nowhere",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("XDG_", "JUPYTER", "PYTHON"))}

    def hard() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    words = ["run", "--profile", str(kit.profile_file), "--methods", "ga"]
    done = python(
        *("-m", "pulse_lib", *words, "--scenarios", "pretrained"),
        cwd=here,
        env=bare | strange | {"PYTHONPATH": str(site)},
        preexec_fn=hard,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    one = "1 at a time" if hasattr(os, "sched_setaffinity") else "at a time"
    assert one in done.stdout and "Report: outputs/standin/analysis/report.html" in done.stdout
    assert (here / "outputs/standin/analysis/notebook.ipynb").is_file()
    assert [p.name for p in here.iterdir()] == ["outputs"]


# --- the machine ------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_cores_are_those_that_this_process_may_use():
    code = "import os; os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])\n"
    done = python(
        "-c", code + "from pulse_lib import machine; print(machine.cores())", cwd=REPOSITORY
    )
    assert done.stdout == "1\n", done.stderr
    assert machine.cores() == len(os.sched_getaffinity(0))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_used_again_unless_the_environment_says_otherwise():
    """By the pages that the system had to clear for eight tensors of 6 MiB that come and go."""
    code = """if True:
        import resource, torch
        from pulse_lib import machine
        kept = machine.keep_memory()
        faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            [torch.ones(3, 2**19) for _ in range(8)]
        before = faults()
        for _ in range(20):
            [torch.ones(3, 2**19) for _ in range(8)]
        print(kept, faults() - before)
    """
    pages = 20 * 8 * 3 * 2**21 // resource.getpagesize()
    plain = {k: v for k, v in os.environ.items() if not k.startswith(machine.ALLOCATOR)}
    for more in ({}, {"MALLOC_TRIM_THRESHOLD_": str(2**17), "MALLOC_MMAP_THRESHOLD_": str(2**17)}):
        kept, faults = python("-c", code, cwd=REPOSITORY, env=plain | more).stdout.split()
        if not more and kept == "False":
            pytest.skip("another C library")
        assert kept == str(not more), more
        assert (int(faults) < pages / 50) == (kept == "True"), more


def test_garbage_is_looked_for_once_when_something_is_done():
    class Knot:
        def __init__(self):
            self.itself = self

    def note(phase: str, info: dict) -> None:
        if phase == "start":
            looks.append(info["generation"])

    looks, knots = [], []
    gc.callbacks.append(note)
    try:
        with pytest.raises(ValueError), machine.garbage_at_the_end():
            for _ in range(20_000):
                knots.append(weakref.ref(Knot()))
            assert not looks and all(knot() for knot in knots)
            raise ValueError
        assert looks == [0] and not any(knot() for knot in knots) and gc.isenabled()
        gc.disable()
        with machine.garbage_at_the_end():
            knot = weakref.ref(Knot())
        assert knot() is None and not gc.isenabled()  # as it was
    finally:
        gc.enable()
        gc.callbacks.remove(note)


def test_without_a_home_programs_below_get_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    monkeypatch.setattr(machine.tempfile, "tempdir", str(tmp_path))
    for name in machine._KEPT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MPLCONFIGDIR", "/chosen")
    machine._have_a_home()
    assert os.environ["JUPYTER_RUNTIME_DIR"].startswith(str(tmp_path))
    assert os.environ["MPLCONFIGDIR"] == "/chosen"
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JUPYTER_RUNTIME_DIR")
    machine._have_a_home()
    assert "JUPYTER_RUNTIME_DIR" not in os.environ


def test_windows_is_refused_in_one_sentence():
    code = "import sys; sys.platform = 'win32'\nimport pulse_lib.__main__"
    done = python("-c", code, cwd=REPOSITORY)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "WSL" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("user", [0, 1000])
def test_lab_starts_for_root_with_a_warning(monkeypatch, user):
    started = []
    monkeypatch.setattr(__main__.os, "geteuid", lambda: user)
    monkeypatch.setattr(__main__.os, "execv", lambda _, words: started.append(words))
    done = CliRunner().invoke(app, ["lab"])
    assert done.exit_code == 0 and "jupyterlab" in started[0]
    assert ("--allow-root" in started[0]) == (user == 0) == ("you are root" in done.output)
    assert "pulse_lib lab" in (REPOSITORY / "Makefile").read_text()


def test_a_full_disk_is_a_sentence_wherever_it_is_met(monkeypatch, capsys):
    def full():
        raise OSError(28, "No space left on device", "/some/file")

    monkeypatch.setattr(machine, "prepare", lambda: None)
    monkeypatch.setattr(__main__, "app", full)
    with pytest.raises(SystemExit):
        __main__.main()
    assert "error: cannot write /some/file (No space left" in capsys.readouterr().err


# --- the files --------------------------------------------------------------------------------


def test_a_clone_has_the_same_bytes_whatever_git_does_to_line_ends(tmp_path):
    """Runs are known by the sha256 of notebooks, library and model."""
    origin, got = tmp_path / "origin", tmp_path / "got"
    names = ["notebooks/01_build_datasets.ipynb", "pulse_lib/files.py", "params/smoke.yaml"]
    names += [
        f"pulse_lib/assets/tiny-llava/{p.name}"
        for p in (REPOSITORY / "pulse_lib/assets/tiny-llava").iterdir()
    ]
    for name in [*names, ".gitattributes"]:
        (origin / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, origin / name)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(origin), *words], check=True)
    subprocess.run(
        ["git", "-c", "core.autocrlf=true", "clone", "-q", str(origin), str(got)], check=True
    )
    for name in names:
        assert (got / name).read_bytes() == (REPOSITORY / name).read_bytes(), name


def test_the_conda_environment_is_what_pyproject_says(tmp_path):
    """Its Python, and its pip part, which pip takes."""
    found = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert f"python{project['requires-python']}" in found and "pip" in found
    (part,) = [entry["pip"] for entry in found if isinstance(entry, dict)]
    copy = clone(tmp_path / "kit")
    (copy / "pip.txt").write_text("\n".join(part))  # as conda hands it to pip, in the file's folder
    pip(
        "install",
        "-q",
        "--dry-run",
        "--no-index",
        "--no-build-isolation",
        "-r",
        "pip.txt",
        cwd=copy,
    )

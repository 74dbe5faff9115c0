"""The notebook runner: what is wrong is said before anything runs; what failed never passes for a
result.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import subprocess
import sys

import jupyter_client.kernelspec
import nbconvert
import nbformat
import pytest
from conftest import LINES, write_notebook
from typer.testing import CliRunner

from pulse_lib import runs
from pulse_lib.__main__ import app
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.runs.locks import alone
from pulse_lib.runs.place import half_folder
from pulse_lib.study.notebook import (
    convert,
    find_notebook,
    notebook_parameters,
    resolve,
    run_notebook,
)


def run_data(kit, **more):
    return run_notebook("01", kit.shared | more, threads=1)


def folder(kit):
    return runs.spec_of("data", kit.shared).folder


def command(*words: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "pulse_lib", *words],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | env,
        timeout=120,
    )


# --- before anything runs ---------------------------------------------------------------------


@pytest.fixture
def no_kernel(monkeypatch):
    """Fails the test if a kernel is started."""
    import papermill

    def refuse(*_, **__):
        raise AssertionError("a notebook was run")

    monkeypatch.setattr(papermill, "execute_notebook", refuse)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sede": 1}, "unknown parameter 'sede'; its parameters are profile, scenario, method"),
        ({"seed": "1"}, "parameter seed = '1' is str, expected int"),
        ({"seed": True}, "parameter seed = True is bool, expected int"),
        ({"seed": -1}, "seed = -1 must be a whole number, 0 or more"),
        ({"method": "gradient"}, "method = 'gradient' is not one of ga, ga_klr, npo"),
        ({"scenario": "fine"}, "scenario = 'fine' is not one of finetuned, pretrained"),
        ({"trained_part": "vision"}, r"trained_part = 'vision' is not one of projector\+llm, llm"),
        ({"profile": "nothere"}, "profile 'nothere': no file"),
    ],
)
def test_unknown_names_types_and_values_are_refused(kit, no_kernel, given, words):
    with pytest.raises(PulseError, match=words):
        run_notebook("03", kit.shared | given)
    assert not kit.out.exists()


def test_an_unknown_notebook_lists_what_there_is(kit):
    with pytest.raises(
        PulseError, match="notebook '07'.*There are: 01_build_datasets, 02_finetune"
    ):
        find_notebook("07")
    with pytest.raises(PulseError, match="notebook ''"):
        find_notebook("")
    assert find_notebook("03") == find_notebook("03_unlearn_single_shot")


TYPED = [
    "rate: float = 1.0e-3  # a rate",
    "flag: bool = False  # a flag",
    "n: int = 1  # a count",
    "names: list = []  # names",
]


def test_texts_become_what_the_notebook_says(kit, tmp_path):
    path = tmp_path / "07_typed.ipynb"
    write_notebook(path, TYPED, [])
    found = convert(path, {"rate": "1e-4", "flag": "true", "n": "3", "names": "['a']"})
    assert found == {"rate": 1e-4, "flag": True, "n": 3, "names": ["a"]} and found["flag"] is True
    assert notebook_parameters(path)["rate"] == {"type": float, "default": 1e-3, "help": "a rate"}
    for name, text in [
        ("rate", "fast"),
        ("flag", "yes"),
        ("flag", "1"),
        ("n", "3.0"),
        ("names", "a,b"),
    ]:
        with pytest.raises(PulseError, match=f"parameter {name} = '{text}' is not of type"):
            convert(path, {name: text})
    with pytest.raises(
        PulseError, match="unknown parameter 'other'; its parameters are rate, flag, n, names"
    ):
        convert(path, {"other": "1"})


@pytest.mark.parametrize(
    ("name", "value"), [("rate", "1e-4"), ("flag", "true"), ("n", 3.0), ("names", "a")]
)
def test_a_value_of_the_wrong_type_is_never_guessed_at(tmp_path, name, value):
    path = tmp_path / "07_typed.ipynb"
    write_notebook(path, TYPED, [])
    with pytest.raises(
        PulseError, match=f"parameter {name} = '?{value}'? is {type(value).__name__}, expected"
    ):
        resolve(path, {name: value})


def test_a_parameter_without_a_type_is_an_error_of_the_notebook(tmp_path):
    path = tmp_path / "07_untyped.ipynb"
    write_notebook(path, ["rate = 1.0"], [])
    with pytest.raises(PulseError, match="parameter rate needs one of the types"):
        notebook_parameters(path)


# --- running ----------------------------------------------------------------------------------


def test_a_run_leaves_results_a_manifest_and_the_executed_copy(kit, monkeypatch):
    def no_spec(*_):
        raise jupyter_client.kernelspec.NoSuchKernel("python3")

    # A fresh venv has no kernel registered, and the one named python3 may be another Python.
    monkeypatch.setattr(jupyter_client.kernelspec.KernelSpecManager, "get_kernel_spec", no_spec)
    monkeypatch.setenv(
        "TRAP_01",
        "import sys; print('python', sys.executable, os.getcwd(), os.environ['PULSE_BATCH'])",
    )
    manifest = run_data(kit, seed=3)
    spec = runs.spec_of("data", kit.shared | {"seed": 3})
    assert manifest["parameters"]["seed"] == 3
    assert runs.status(spec, kit.profile).state == "done"
    book = nbformat.read(spec.folder / "notebook.ipynb", 4)
    assert any("finished 01_build_datasets" in str(cell.get("outputs")) for cell in book.cells)
    log = (spec.folder / "log.txt").read_text()
    assert f"python {sys.executable} {REPOSITORY} 1" in log
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert not (spec.folder / "failed.ipynb").exists()


def test_a_failing_cell_is_a_failure_that_names_log_cell_and_reason(kit, monkeypatch):
    older = run_data(kit)  # it must not pass for this one, and stays in force
    half = half_folder(folder(kit))
    monkeypatch.setenv("TRAP_01", "raise ValueError('loss is NaN at step 3')")
    with pytest.raises(PulseError) as caught:
        run_data(kit)
    for words in (
        "01_build_datasets failed",
        "ValueError: loss is NaN at step 3",
        "log.txt",
        "cell",
    ):
        assert words in str(caught.value)
    log = (half / "log.txt").read_text()
    assert str(half / "log.txt") in str(caught.value)
    assert "loss is NaN at step 3" in log and "Traceback" in log and "\x1b[" not in log
    assert not (half / "manifest.json").exists() and (half / "failed.ipynb").exists()
    assert runs.require(folder(kit), "01_build_datasets", checksums=True) == older
    assert (folder(kit) / "notebook.ipynb").exists()


@pytest.mark.parametrize("there", [False, True])
def test_a_cell_that_fails_after_the_manifest_takes_it_back(kit, monkeypatch, there):
    older = run_data(kit) if there else None
    monkeypatch.setenv("LATE_TRAP_01", "1 / 0")
    with pytest.raises(PulseError, match="ZeroDivisionError"):
        run_data(kit)
    if there:
        assert runs.require(folder(kit), "01_build_datasets", checksums=True) == older
    else:
        assert not folder(kit).exists()


@pytest.mark.parametrize("trap", ["TRAP_01", "LATE_TRAP_01"])
def test_a_killed_kernel_is_a_failure(kit, monkeypatch, trap):
    monkeypatch.setenv(trap, "import signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(PulseError, match="failed.*(died|DeadKernel|ended)"):
        run_data(kit)
    assert not folder(kit).exists()
    assert not (half_folder(folder(kit)) / "manifest.json").exists()
    assert not (half_folder(folder(kit)) / "notebook.ipynb").exists()


def test_a_disk_that_fills_up_under_the_runner_is_said_in_words(kit, monkeypatch):
    """Not the notebook but papermill writes the executed copy, after every cell."""
    import papermill

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(papermill, "execute_notebook", full)
    with pytest.raises(PulseError, match=r"cannot write .*: the disk is full .*\n  log: "):
        run_data(kit)


def test_a_notebook_that_never_begins_its_run_is_no_success(kit):
    older = run_data(kit)
    write_notebook(
        kit.notebooks / "01_build_datasets.ipynb",
        [LINES[k] for k in ("profile", "seed", "out_dir")],
        ["print(1)"],
    )
    with pytest.raises(PulseError, match="ended without a complete result"):
        run_data(kit)
    assert runs.require(folder(kit), "01_build_datasets") == older


def test_two_processes_do_not_write_into_one_folder(kit, monkeypatch):
    monkeypatch.setattr("pulse_lib.runs.locks.Lock.__init__.__kwdefaults__", {"patience": 0.0})
    monkeypatch.setattr("pulse_lib.runs.locks.alone.__kwdefaults__", {"patience": 0.0})
    with (
        alone(runs.spec_of("data", kit.shared)),
        pytest.raises(
            PulseError, match=rf"written by another process \(.*process {os.getpid()} on"
        ),
    ):
        run_data(kit)


# --- the command line -------------------------------------------------------------------------


def test_the_command_line_runs_a_notebook(kit):
    shared = [word for key, value in kit.shared.items() for word in ("-p", key, value)]
    done = command("notebook", "01", "-p", "seed", "2", *shared)
    assert done.returncode == 0, done.stderr
    assert "finished 01_build_datasets" in done.stderr and "done in" in done.stdout
    manifest = json.loads((kit.out / "data/seed-2/manifest.json").read_text())
    assert manifest["parameters"]["seed"] == 2


def test_a_failing_notebook_ends_with_exit_code_1_and_the_name_of_its_log(kit):
    shared = [word for key, value in kit.shared.items() for word in ("-p", key, value)]
    done = command("notebook", "01", "--quiet", *shared, TRAP_01="raise RuntimeError('no')")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: 01_build_datasets failed" in done.stderr and "RuntimeError: no" in done.stderr
    assert str(half_folder(folder(kit)) / "log.txt") in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("-p seed two", "parameter seed = 'two' is not of type int"),
        ("-p sed 2", "unknown parameter 'sed'"),
        ("-p seed", "parameters are given as -p key value"),
        ("-p seed 1 -p seed 2", "parameter seed is given twice"),
        ("seed 1", "parameters are given as -p key value"),
    ],
)
def test_mistakes_on_the_command_line(kit, no_kernel, words, message):
    result = CliRunner().invoke(app, ["notebook", "01", *words.split()])
    assert isinstance(result.exception, PulseError) and message in str(result.exception)


def test_help_and_the_ground_floor_import_no_torch():
    code = (
        "import sys, runpy, pulse_lib, pulse_lib.profile, pulse_lib.runs, pulse_lib.study\n"
        "import pulse_lib.study.notebook, pulse_lib.study.batch, pulse_lib.data.records, pulse_lib.data.world.people\n"
        "sys.argv = ['pulse_lib', '--help']\n"
        "try:\n    runpy.run_module('pulse_lib', run_name='__main__')\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'matplotlib', 'ipywidgets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


# --- the executed copy ----------------------------------------------------------------------------


def test_an_executed_copy_shows_the_pictures_of_its_prose(kit):
    """Where it lies, a path that starts in notebooks/ leads nowhere."""
    picture = kit.notebooks / "seen.png"
    picture.write_bytes(b"\x89PNG, as it is")
    path = next(kit.notebooks.glob("01*.ipynb"))
    book = nbformat.read(path, 4)
    words = "![a face](seen.png) ![badge](https://x/y.png) ![lost](nowhere.png)"
    book.cells.insert(0, nbformat.v4.new_markdown_cell(words))
    nbformat.write(book, path)
    run_data(kit)
    copy = nbformat.read(folder(kit) / "notebook.ipynb", 4)
    nbformat.validate(copy)
    (cell,) = (c for c in copy.cells if "a face" in c.source)
    assert cell.source == words.replace("(seen.png)", "(attachment:seen.png)")
    (data,) = cell.attachments["seen.png"].values()
    assert base64.b64decode(data) == picture.read_bytes()
    assert nbformat.read(path, 4).cells[0].source == words  # the notebook itself stays
    assert 'src="data:image/png;base64,' in nbconvert.HTMLExporter().from_notebook_node(copy)[0]

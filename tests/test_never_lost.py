"""A result is never lost: what was there stays in force until the next one is whole, nothing of the
reader's own is removed, and what is broken counts as not done.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_results

from pulse_lib import runs
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, read_json
from pulse_lib.profile import load_profile
from pulse_lib.profile.load import PARAMS
from pulse_lib.runs import kinds, locks, manifest
from pulse_lib.runs.locks import alone, is_held, job_file
from pulse_lib.runs.place import half_folder, old_folder
from pulse_lib.study import grid, jobs
from pulse_lib.study.notebook import run_notebook


def data_spec(kit, seed: int = 0):
    return runs.spec_of("data", kit.shared | {"seed": seed})


def target_spec(kit):
    return runs.spec_of("target", kit.shared)


def state(kit, spec):
    return runs.status(spec, kit.profile)


def begun(kit, spec, text: str = "y"):
    """A run that has written all its files and is not finished."""
    started = runs.start(spec, kit.profile)
    write_results(started.folder, spec.files, text)
    return started


def text_of(spec) -> str:
    return (spec.folder / "rows.parquet").read_text()


# --- beside, and swapped in -------------------------------------------------------------------


class Cut(BaseException):
    """The process ends here."""


# Everything that changes names on disk while a result is put in place
STEPS = [*((name, n) for name in ("rename", "unlink", "rmdir") for n in range(4))]


@pytest.mark.parametrize(("step", "number"), STEPS)
def test_wherever_the_change_is_cut_off_one_whole_result_is_there(kit, monkeypatch, step, number):
    spec = data_spec(kit)
    kit.finish(spec, "x")
    started, calls = begun(kit, spec), []
    (started.folder / "checkpoint").mkdir()
    (started.folder / "checkpoint" / "step.bin").write_text("of no use now")
    (started.folder / ".rows.tmp").write_text("left by a write that was cut off")
    owner, name = (os, "rename") if step == "rename" else (Path, step)
    real = getattr(owner, name)

    def cut(*arguments, **options):
        calls.append(arguments)
        if len(calls) == number + 1:
            raise Cut
        return real(*arguments, **options)

    monkeypatch.setattr(owner, name, cut)
    try:
        runs.finish(started)
    except Cut:
        pass
    finally:
        monkeypatch.undo()
        monkeypatch.setenv("PULSE_NOTEBOOKS", str(kit.notebooks))
        locks.let_go(spec)
    assert state(kit, spec).state == "done"
    assert runs.require(spec.folder, spec.notebook, checksums=True)
    assert text_of(spec) in ("x", "y") and not old_folder(spec.folder).exists()
    kit.finish(spec, "z")
    assert text_of(spec) == "z"
    assert [path.name for path in spec.folder.parent.iterdir()] == ["seed-0"]
    assert {path.name for path in spec.folder.iterdir()} == {*spec.files, "manifest.json"}


def test_an_attempt_that_ends_half_way_leaves_the_result_in_force(kit):
    spec = data_spec(kit)
    kit.finish(spec)
    for end in (KeyboardInterrupt, ValueError):
        with pytest.raises(end):
            (begun(kit, spec).folder / "splits.csv").unlink()
            raise end
        assert state(kit, spec).state == "done" and text_of(spec) == "x"
    with pytest.raises(PulseError, match=r"seed-0.half/splits.csv was not written"):
        started = runs.start(spec, kit.profile)
        write_results(started.folder, spec.files[:4])
        runs.finish(started)
    assert state(kit, spec).state == "done" and text_of(spec) == "x"


def test_what_else_a_notebook_wrote_goes_along_and_is_ours(kit):
    spec = data_spec(kit)
    started = begun(kit, spec)
    (started.folder / "plots").mkdir()
    (started.folder / "plots" / "own.png").write_text("a picture")
    made = runs.finish(started)
    assert "plots/own.png" in made["files"]
    kit.finish(spec, "y")
    assert not (spec.folder / "plots").exists()
    # it is no part of what others hang on
    assert runs.require(spec.folder, spec.notebook)["result"] == made["result"]


def test_an_input_that_is_made_anew_meanwhile_is_noticed(kit):
    kit.finish(data_spec(kit))
    started = begun(kit, target_spec(kit))
    kit.finish(data_spec(kit), "other")
    with pytest.raises(PulseError, match="data/seed-0 was made anew while this run was reading it"):
        runs.finish(started)
    locks.let_go(started.spec)


def test_rounds_of_a_result_that_broke_are_not_done_again(kit):
    for spec in (data_spec(kit), target_spec(kit)):
        kit.finish(spec)
    spec = runs.spec_of("sequential", kit.shared)
    started = begun(kit, spec)
    for number in (1, 2):
        write_results(started.folder / f"round-{number}", ["rows.parquet"])
        manifest.finish_round(started, number, files=["rows.parquet"])
    runs.finish(started, ["round-1/", "round-2/"])
    (spec.folder / "round-2" / "rows.parquet").write_text("z")
    assert state(kit, spec).state == "stale"
    again = runs.start(spec, kit.profile)
    assert manifest.finished_round(again, 1) and not manifest.finished_round(again, 2)
    locks.let_go(spec)


def test_a_checkpoint_is_kept_for_the_very_same_run_only(kit):
    spec = data_spec(kit)
    started = runs.start(spec, kit.profile)
    (started.folder / "checkpoint").mkdir()
    (started.folder / "splits.csv").write_text("half")
    assert {p.name for p in runs.start(spec, kit.profile).folder.iterdir()} == {
        "checkpoint",
        "half-made.json",
    }
    kit.profile_file.write_text(kit.profile_file.read_text() + "data: {n_general: 9}\n")
    assert {p.name for p in runs.start(spec, kit.profile).folder.iterdir()} == {"half-made.json"}


def test_replacing_by_hand_says_so_before_with_what_hangs_on_it(kit, capsys, monkeypatch):
    for spec in (data_spec(kit), target_spec(kit)):
        runs.start(spec, kit.profile)
        assert "whole result" not in capsys.readouterr().out
        kit.finish(spec)
    runs.start(data_spec(kit), kit.profile)
    said = capsys.readouterr().out
    assert "data/seed-0 holds a whole result of 20" in said and "stays in force" in said
    assert "1 run has read it, stale if this one differs: target/seed-0." in said
    monkeypatch.setenv("PULSE_FRONT", "x|y")  # a study has said what it makes anew
    runs.start(data_spec(kit), kit.profile)
    assert capsys.readouterr().out == ""


# --- what is not ours -------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["my.csv", "report.html", "manifest.json", "notebook.ipynb"])
@pytest.mark.parametrize("half", [False, True])
def test_a_folder_with_files_of_the_readers_own_is_refused_by_name(kit, name, half):
    spec = runs.spec_of("analysis", kit.shared)
    own = (half_folder(spec.folder) if half else spec.folder) / "tables" / ".." / name
    (own.parent.parent / "tables").mkdir(parents=True)
    own.resolve().write_text('{"name": "my app", "files": ["my.csv"]}')
    before = tree(kit.out)
    for attempt in (lambda: runs.start(spec, kit.profile), lambda: run_notebook("05", kit.shared)):
        with pytest.raises(PulseError, match=f"{name}: this kit did not write that.*out_dir"):
            attempt()
    assert tree(kit.out) == before


def test_a_file_of_the_readers_own_among_results_is_refused_too(kit):
    spec = data_spec(kit)
    kit.finish(spec)
    (spec.folder / "notes").mkdir()
    (spec.folder / "notes" / "mine.txt").write_text("dear diary")
    before = tree(spec.folder)
    with pytest.raises(PulseError, match="notes/mine.txt: this kit did not write that"):
        runs.start(spec, kit.profile)
    assert tree(kit.out)  # nothing was touched
    assert tree(spec.folder) == before
    # written while a run was going on: refused at the end, and the new result waits beside it
    shutil.move(spec.folder / "notes", kit.out / "notes")
    started = begun(kit, spec)
    shutil.move(kit.out / "notes", spec.folder / "notes")
    with pytest.raises(PulseError, match="notes/mine.txt"):
        runs.finish(started)
    assert tree(spec.folder) == before
    shutil.move(spec.folder / "notes", kit.out / "notes")
    runs.finish(started)
    assert text_of(spec) == "y"


def test_copies_that_the_reader_made_are_left_alone(kit):
    spec = data_spec(kit)
    kit.finish(spec)
    copies = [spec.folder.with_name(f"seed-0.{end}") for end in ("old", "bak")]
    for copy in copies:
        shutil.copytree(spec.folder, copy)
    before = tree(copies[0])
    assert state(kit, spec).state == "done"
    kit.finish(spec, "y")
    assert text_of(spec) == "y" and all(tree(copy) == before for copy in copies)
    shutil.rmtree(spec.folder)
    assert state(kit, spec).state == "missing" and tree(copies[0]) == before


def test_what_an_editor_left_is_taken_along(kit):
    spec = data_spec(kit)
    kit.finish(spec)
    own = spec.folder / ".ipynb_checkpoints" / "splits-checkpoint.csv"
    own.parent.mkdir()
    own.write_text("edited")
    kit.finish(spec, "y")
    assert text_of(spec) == "y" and own.read_text() == "edited"


def test_a_manifest_cannot_name_files_outside_its_folder(kit):
    spec = data_spec(kit)
    kit.finish(spec)
    (kit.out / "data" / "precious.txt").write_text("x")
    path = spec.folder / "manifest.json"
    whole = read_json(path)
    whole["files"]["../precious.txt"] = whole["files"]["rows.parquet"]  # of the same content
    path.write_text(json.dumps(whole))
    assert state(kit, spec).state == "stale"
    kit.finish(spec)
    assert (kit.out / "data" / "precious.txt").exists()


def test_inputs_are_checked_before_anything_is_touched(kit):
    with pytest.raises(PulseError, match="data/seed-0 is missing"):
        runs.start(target_spec(kit), kit.profile)
    assert not kit.out.exists()


# --- profiles ---------------------------------------------------------------------------------


def test_every_profile_has_a_folder_of_its_own(tmp_path):
    files = [*PARAMS.rglob("*.yaml"), *(tmp_path / p.name for p in PARAMS.glob("*.yaml"))]
    names = [path.stem for path in PARAMS.glob("*.yaml")]
    assert len(files) > 2 * len(names) >= 10
    folders = {str(path): kinds.out_folder(str(path)) for path in files}
    assert len(set(folders.values())) == len(files), folders
    assert [kinds.out_folder(name) for name in names] == [
        folders[str(PARAMS / f"{name}.yaml")] for name in names
    ]
    assert kinds.out_folder("llava-1.5-7b-24gb").name == "llava-1.5-7b-24gb"


def test_a_study_refuses_another_profile_and_knows_its_own_edited(kit, tmp_path):
    kit.finish(data_spec(kit))
    other = tmp_path / "elsewhere" / kit.profile_file.name
    other.parent.mkdir()
    shutil.copy(kit.profile_file, other)
    shared = kit.shared | {"profile": str(other)}
    words = "holds results of the profile .*standin.yaml, not of .*elsewhere.*out_dir"
    spec, profile = runs.spec_of("data", shared), load_profile(str(other))
    before = tree(kit.out)
    for refused in (
        lambda: runs.start(spec, profile),
        lambda: runs.status(spec, profile),
        lambda: run_notebook("01", shared),
        lambda: grid.plan(profile, grid.study(grid.Options(**shared))),
    ):
        with pytest.raises(PulseError, match=words):
            refused()
    assert tree(kit.out) == before
    kit.profile_file.write_text(kit.profile_file.read_text() + "data: {n_general: 9}\n")
    assert state(kit, data_spec(kit)).state == "stale"
    kit.finish(data_spec(kit))
    (kit.out / ".logs" / "profile.json").unlink()  # of an earlier version: any may have it
    runs.start(spec, profile)
    with pytest.raises(PulseError, match="holds results of the profile .*elsewhere"):
        state(kit, data_spec(kit))


def test_a_study_that_was_moved_with_its_profile_goes_on(kit, tmp_path):
    kit.finish(data_spec(kit))
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.move(kit.profile_file, moved)
    shutil.move(kit.out, moved)
    profile = str(moved / kit.profile_file.name)
    spec = runs.spec_of("data", {"profile": profile, "out_dir": str(moved / kit.out.name)})
    assert runs.status(spec, load_profile(profile)).state == "done"


# --- locks ------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pulse_lib import runs
from pulse_lib.profile import load_profile
started = runs.start(runs.spec_of("data", {"profile": sys.argv[1], "out_dir": sys.argv[2]}), load_profile(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def by_hand(kit, code: str = HOLD, **env: str) -> subprocess.Popen:
    """Another process that has begun the data run, as a notebook in JupyterLab would."""
    words = [sys.executable, "-c", code, str(kit.profile_file), str(kit.out)]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=os.environ | env
    )
    assert process.stdout.readline().strip() == "held"
    return process


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(locks.alone, "__kwdefaults__", {"patience": 0.0})
    real = alone
    monkeypatch.setattr(locks, "alone", lambda spec, **_: real(spec, patience=0.0))


def refused_by(kit, pid: int) -> None:
    for attempt in (
        lambda: runs.start(data_spec(kit), kit.profile),
        lambda: run_notebook("01", kit.shared, threads=1),
    ):
        with pytest.raises(PulseError) as caught:
            attempt()
        said = str(caught.value)
        assert "data/seed-0 is being written by another process" in said
        assert f"process {pid} on {socket.gethostname()}, since 20" in said


def test_whoever_writes_holds_the_lock_and_the_other_is_told_who(kit, impatient):
    process = by_hand(kit)
    try:
        refused_by(kit, process.pid)
    finally:
        process.kill()
        process.wait()
    kit.finish(data_spec(kit))  # the lock went with its process


def test_the_lock_is_let_go_when_a_run_is_finished_and_kept_in_the_same_kernel(kit):
    spec = data_spec(kit)
    path = job_file(spec, "lock")
    started = begun(kit, spec)
    assert is_held(path)
    started = begun(kit, spec)  # the cell again, after an interrupt
    runs.finish(started)
    assert not is_held(path)
    (kit.out / "data" / "seed-1.half").mkdir()
    (kit.out / "data" / "seed-1.half" / "mine").write_text("x")
    with pytest.raises(PulseError, match="mine: this kit did not write"):
        runs.start(data_spec(kit, 1), kit.profile)
    assert not is_held(job_file(data_spec(kit, 1), "lock"))


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_system_has_no_locks_a_marker_does(kit, monkeypatch, impatient, number):
    """Lustre, NFS: both processes find that flock is not there."""
    patch = (
        "import fcntl\n"
        f"def flock(*_): raise OSError({number}, 'no such thing here')\n"
        "fcntl.flock = flock\n"
    )
    process = by_hand(kit, patch + HOLD)

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    try:
        assert is_held(job_file(data_spec(kit), "lock"))
        refused_by(kit, process.pid)
    finally:
        process.kill()
        process.wait()
    assert not is_held(
        job_file(data_spec(kit), "lock")
    )  # what a killed one left counts for nothing
    kit.finish(data_spec(kit))
    with jobs.Lock(kit.out / ".logs" / "front.lock", "another study is at work") as lock:
        lock.write("word")
        assert is_held(lock.path, "word") and not is_held(lock.path, "another")
        with (
            pytest.raises(PulseError, match=f"at work .*process {os.getpid()} on"),
            jobs.Lock(lock.path, "another study is at work", patience=0.0),
        ):
            pass
    assert not is_held(lock.path)


def test_a_kernel_holds_its_runners_lock_and_is_told_when_the_runner_is_gone(kit, monkeypatch):
    spec = data_spec(kit)
    with alone(spec) as lock:
        env, files = lock.for_child()
        code = HOLD.replace("time.sleep(60)", "sys.stdin.read()")
        words = [sys.executable, "-c", code, str(kit.profile_file), str(kit.out)]
        child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env=os.environ | env,
            pass_fds=files,
        )
        assert child.stdout.readline().strip() == "held"
    assert is_held(lock.path)  # the runner is gone, its kernel is not
    child.communicate(timeout=30)
    assert not is_held(lock.path)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PulseError, match="the process that ran this notebook has ended"):
        runs.start(spec, kit.profile)


# --- done means all of it ---------------------------------------------------------------------


@pytest.mark.parametrize("there", [False, True])
def test_killed_between_manifest_and_executed_notebook_is_not_done(kit, there):
    """The runner is killed when its notebook has finished, before both are put in place."""
    spec = data_spec(kit)
    if there:
        kit.finish(spec, "old")
    code = (
        "import os, sys, signal\n"
        "from pulse_lib.study import notebook\n"
        "notebook.complete = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "notebook.run_notebook('01', {'profile': sys.argv[1], 'out_dir': sys.argv[2]}, threads=1)\n"
    )
    words = [sys.executable, "-c", code, str(kit.profile_file), str(kit.out)]
    done = subprocess.run(words, cwd=REPOSITORY, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert (half_folder(spec.folder) / "manifest.json").exists()
    assert state(kit, spec).state == ("done" if there else "missing")
    assert not there or text_of(spec) == "old"
    run_notebook("01", kit.shared, threads=1)
    assert state(kit, spec).state == "done" and text_of(spec) == "x"
    (spec.folder / "notebook.ipynb").unlink()  # as of an earlier version, killed there
    found = state(kit, spec)
    assert found.state == "stale" and "executed notebook, is missing" in found.why


def flip(path: Path) -> None:
    """Another byte of the same length."""
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    with open(path, "r+b") as file:
        file.write(data)


def test_a_flipped_bit_is_found_and_made_anew(kit):
    spec = data_spec(kit)
    for one in (spec, target_spec(kit)):
        kit.finish(one)
    flip(spec.folder / "people.parquet")
    found = state(kit, spec)
    assert found.state == "stale" and "people.parquet was changed after it was written" in found.why
    assert state(kit, target_spec(kit)).state == "stale"
    kit.finish(spec)
    assert state(kit, spec).state == state(kit, target_spec(kit)).state == "done"


def test_a_bit_that_rots_unseen_is_found_by_the_next_reader_and_made_anew(kit):
    """Size, time and place on disk stay: only reading finds it."""
    spec = data_spec(kit)
    kit.finish(spec)
    assert state(kit, spec).state == "done"
    path = spec.folder / "people.parquet"
    at = path.stat()
    flip(path)
    os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))
    with pytest.raises(PulseError, match="people.parquet was changed"):
        runs.start(target_spec(kit), kit.profile)
    assert state(kit, spec).state == "stale"


def test_looking_again_reads_nothing(kit, monkeypatch):
    spec = data_spec(kit)
    kit.finish(spec)
    monkeypatch.setattr("pulse_lib.runs.checked.file_hash", None)  # fails when called
    assert state(kit, spec).state == "done"
    os.utime(spec.folder / "people.parquet", (0, 0))
    with pytest.raises(TypeError):
        state(kit, spec)


def test_a_plan_of_many_runs_reads_what_they_share_once(kit, monkeypatch):
    """500 runs in three seconds: notebook and profile are not parsed for each."""
    from pulse_lib.profile import yaml_file
    from pulse_lib.runs import library

    kit.profile_file.write_text(
        kit.profile_file.read_text() + "tuned: {pretrained: {ga: {learning_rate: 2.0e-3}}}\n"
    )
    for seed in range(3):
        for spec in kit.study(seeds=[seed])[:2]:
            kit.finish(spec)
    read, composed, profile = [], [], kit.profile
    real, compose = library.read_json, yaml_file.yaml.compose
    monkeypatch.setattr(library, "read_json", lambda path: read.append(path) or real(path))
    monkeypatch.setattr(
        yaml_file.yaml, "compose", lambda *words: composed.append(words) or compose(*words)
    )
    library._code_cells.cache_clear()
    yaml_file._composed.cache_clear()
    specs = kit.study(seeds=[0, 1, 2])
    composed.clear()
    plan = grid.plan(profile, specs)
    assert [plan.states[spec.folder].state for spec in specs[:-1]] == ["done"] * 6
    assert len(read) == len(set(read)) <= 3 and len(composed) <= len(profile.files)


BROKEN = {
    "cut off": '{"schema_version": 2, "files": {"a"',
    "a list": "[]",
    "not text": b"\xff\xfe\x00",
    "deep": "[" * 100_000,
    "files a list": {"files": ["rows.parquet"]},
    "a file without size": {"files": {"rows.parquet": {}}},
    "an entry of text": {"files": {"rows.parquet": "bytes sha256"}},
    "no identity": {"identity": None},
    "inputs a list": {"identity": {"parameters": {}, "profile": {}, "inputs": [], "code": ""}},
    "no parameters": {"parameters": {}},
    "another kind": {"kind": "poem"},
    "a result of numbers": {"result": 7},
    "a profile of text": {"profile": "tiny"},
    "an odd version": {"schema_version": [2]},
    "a library of text": {"library": "all"},
    "a time of numbers": {"finished": 7, "seconds": "long"},
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_manifest_breaks_nothing_else_and_is_made_anew(kit, how, capsys):
    from rich.console import Console

    from pulse_lib.study.status import show_status

    options = grid.Options(**kit.shared, methods=["ga"], scenarios=["pretrained"])
    for spec in grid.study(options):
        kit.finish(spec)
    other = runs.spec_of("single_shot", kit.shared | {"scenario": "pretrained", "seed": 1})
    kit.finish(data_spec(kit, 1))
    kit.finish(other)
    kit.finish(grid.study(options)[-1])
    for spec in (data_spec(kit), other):
        path, value = spec.folder / "manifest.json", BROKEN[how]
        if isinstance(value, dict):
            value = json.dumps(read_json(path) | value)
        path.write_bytes(value) if isinstance(value, bytes) else path.write_text(value)
    show_status(options, Console(width=200, markup=False))
    said = capsys.readouterr().out
    assert "single_shot/pretrained/ga-projector+llm-seed-0" in said and "data/seed-1" in said
    assert manifest.found_runs(kit.out, kit.profile)
    runs.start(runs.spec_of("analysis", kit.shared), kit.profile)
    locks.let_go(runs.spec_of("analysis", kit.shared))
    for spec in (data_spec(kit), other):
        kit.finish(spec)
    assert state(kit, data_spec(kit)).state == "done"


# --- times decide nothing ---------------------------------------------------------------------


def snakemake(kit, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "1"]
    command += ["--directory", str(kit.out / "work"), "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--workflow-profile", str(REPOSITORY / "profiles" / "default"), "--config"]
    command += [f"{key}={value}" for key, value in kit.shared.items()]
    return subprocess.run(
        [*command, "methods=ga", "scenarios=pretrained"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"SNAKEMAKE_PROFILE": "none"} | env,
    )


def date(folder: Path, seconds: float) -> None:
    """Give every file below a folder this time, counted from now."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() + seconds,) * 2)


def test_times_decide_nothing(kit):
    """Through the real Snakemake: a half-finished study of files from the future goes on with what
    is left, while the clock goes back a year between two jobs; then nothing is to be done.
    """
    year = 365 * 86400
    first = data_spec(kit)
    kit.finish(first)
    date(kit.out, year)
    before = (first.folder / "manifest.json").read_text()
    single = kit.study()[1]
    trap = (  # what the single-shot run left for the analysis is of next year, as seen by its end
        "import glob, time\n"
        f"for name in glob.glob({str(kit.out)!r} + '/.logs/*.done'):\n"
        f"    os.utime(name, (time.time() + {year},) * 2)\n"
        "    print('from the future')"
    )
    done = snakemake(kit, TRAP_05=trap)
    assert "from the future" in (kit.out / "analysis" / "log.txt").read_text()
    assert done.returncode == 0, done.stderr
    assert set(kit.states().values()) == {"done"}
    assert (first.folder / "manifest.json").read_text() == before
    date(kit.out, year)
    whole = tree(single.folder)
    done = snakemake(kit)
    assert done.returncode == 0 and "1 of 1 steps" in done.stderr, done.stderr  # rule all
    assert tree(single.folder) == whole
    (single.folder / "rows.parquet").unlink()
    done = snakemake(kit)
    assert done.returncode == 0, done.stderr
    assert (first.folder / "manifest.json").read_text() == before
    assert tree(single.folder).keys() == whole.keys()

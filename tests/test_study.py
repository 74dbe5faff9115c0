"""The study: its grid, what is to be done, and the front that has Snakemake do it."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from waiting import wait_for

from pulse_lib import progress, runs
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.methods import METHODS
from pulse_lib.profile import load_profile
from pulse_lib.runs.manifest import found_runs, reading_all
from pulse_lib.study import batch, grid, jobs

# --- the grid ---------------------------------------------------------------------------------


def test_the_demo_is_the_grid_of_the_paper(kit):
    specs = grid.study(grid.Options(**kit.shared))
    kinds = [spec.kind for spec in specs]
    assert [
        kinds.count(kind) for kind in ("data", "target", "single_shot", "sequential", "analysis")
    ] == [1, 1, 7, 3, 1]
    llm = [spec.name for spec in specs if spec.parameters.get("trained_part") == "llm"]
    assert llm == ["single_shot/finetuned/ga-llm-seed-0"]
    by_name = {
        spec.name: [path.relative_to(kit.out).as_posix() for path in spec.inputs] for spec in specs
    }
    assert by_name["single_shot/pretrained/npo-projector+llm-seed-0"] == ["data/seed-0"]
    assert by_name["single_shot/finetuned/npo-projector+llm-seed-0"] == [
        "data/seed-0",
        "target/seed-0",
    ]
    assert sorted(by_name["analysis"]) == sorted(set(by_name) - {"analysis"})


def test_every_run_stands_after_its_inputs_and_in_its_own_folder(kit):
    specs = grid.study(
        grid.Options(seeds=[0, 1, 1], trained_parts=["llm", "projector+llm"], **kit.shared)
    )
    assert len({spec.folder for spec in specs}) == len(specs) == 2 * (2 + 12 + 6) + 1
    for i, spec in enumerate(specs):
        assert set(spec.inputs) <= {earlier.folder for earlier in specs[:i]}


def test_without_the_finetuned_scenario_there_is_no_target_and_no_sequence(kit):
    specs = grid.study(grid.Options(methods=["npo"], scenarios=["pretrained"], **kit.shared))
    assert [spec.kind for spec in specs] == ["data", "single_shot", "analysis"]


def test_the_longest_run_that_unlearns_begins_first():
    methods = ["ga", "ga_klr", "npo", "oracle"]
    options = grid.Options(methods=methods, probes=["ga"])
    tuned = {
        "finetuned": {"npo": {"epochs": 9, "learning_rate": 1e-3}},
        "pretrained": {"npo": {"epochs": 14, "learning_rate": 1e-3}},
    }
    profile = load_profile("tiny").with_values(tuned=tuned)
    by_urgency = sorted(grid.study(options), key=lambda spec: -grid.priority(spec, profile))
    assert [spec.kind for spec in by_urgency[:2]] == ["data", "target"]
    probes = [spec.kind for spec in by_urgency].count("probe")
    assert {spec.kind for spec in by_urgency[2 : 2 + probes]} == {"probe"} and probes > 1
    assert by_urgency[-1].kind == "analysis"
    order = [
        (spec.parameters.get("scenario", "finetuned"), spec.parameters["method"])
        for spec in by_urgency[2 + probes : -1]
    ]
    fine, pre = "finetuned", "pretrained"
    assert order == [
        *((fine, "oracle"), (pre, "oracle")),  # taught anew
        *((fine, "npo"), (fine, "npo")),  # 9 epochs of 50 people; in one request and in several
        *((fine, "ga_klr"), (fine, "ga_klr")),  # 2 epochs of 50 people, twice with a retain loss
        (pre, "npo"),  # 14 epochs of 20 people, and of fewer that are measured
        (pre, "ga_klr"),  # 6, twice
        *((fine, "ga"), (fine, "ga"), (fine, "ga")),  # 2 of 50; without the projector too
        (pre, "ga"),  # 6 of 20
    ]


def test_options_from_texts():
    options = grid.options_from_texts(
        methods="npo, ga", seeds="0,2", scenarios="finetuned", out_dir="x"
    )
    assert options.methods == ["npo", "ga"] and options.seeds == [0, 2]
    assert options.scenarios == ["finetuned"] and options.trained_parts is None
    assert options.out_dir == str(Path("x").resolve())
    assert grid.options_from_texts(methods="all").methods == list(METHODS)
    assert grid.options_from_texts(seeds=0).seeds == [0]  # as Snakemake's --config reads seeds=0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seeds": "0;1"}, "seeds = '0;1' must be whole numbers"),
        ({"scenarios": "fine"}, "scenario = 'fine' is not one of"),
        ({"trained_parts": "vision"}, "trained_part = 'vision' is not one of"),
        ({"sede": "1"}, "unknown option sede"),
    ],
)
def test_wrong_options_are_named(given, words):
    with pytest.raises(PulseError, match=words):
        grid.options_from_texts(**given)


def test_an_unknown_method_or_an_empty_grid_is_refused(kit):
    with pytest.raises(PulseError, match="method = 'x' is not one of ga, ga_klr, npo"):
        kit.study(methods=["x"])
    with pytest.raises(PulseError, match="at least one method"):
        kit.study(seeds=[])


# --- what is to be done -----------------------------------------------------------------------

SINGLE = "single_shot/pretrained/ga-projector+llm-seed-0"


def finish_all(kit, **options):
    for spec in kit.study(**options)[:-1]:
        if runs.status(spec, kit.profile).state != "done":
            kit.finish(spec)
    kit.finish(kit.study(**options)[-1])


def test_what_is_made_from_something_to_be_done_is_to_be_done(kit):
    assert set(kit.states().values()) == {"missing"}
    finish_all(kit)
    assert set(kit.states().values()) == {"done"}
    (kit.out / "data/seed-0/manifest.json").unlink()
    assert kit.states() == {"data/seed-0": "missing", SINGLE: "stale", "analysis": "stale"}
    kit.finish(kit.study()[0])
    assert set(kit.states().values()) == {"done"}
    path = (
        kit.notebooks / "01_build_datasets.ipynb"
    )  # stale, yet its results are still as they were
    path.write_text(path.read_text().replace('\\"finished\\"', '\\"ended\\"'))
    assert kit.states() == {"data/seed-0": "stale", SINGLE: "stale", "analysis": "stale"}


def test_another_seed_makes_only_the_analysis_stale(kit):
    finish_all(kit)
    other = SINGLE.replace("seed-0", "seed-1")
    assert kit.states(seeds=[0, 1]) == {
        "data/seed-0": "done",
        SINGLE: "done",
        "data/seed-1": "missing",
        other: "missing",
        "analysis": "stale",
    }
    finish_all(kit, seeds=[1])
    assert set(kit.states(seeds=[0, 1]).values()) == {"done"}
    assert set(kit.states(seeds=[0]).values()) == {
        "done"
    }  # the analysis holds all runs in the folder
    inputs = runs.require(kit.out / "analysis", "05")["inputs"]
    assert set(inputs) == {"data/seed-0", SINGLE, "data/seed-1", other}


def test_runs_of_other_settings_are_left_out_of_the_analysis_and_named(kit):
    finish_all(kit, seeds=[0, 1])
    kit.profile_file.write_text(kit.profile_file.read_text().replace("1.0e-3", "2.0e-3"))
    found = {f.relative_to(kit.out).as_posix(): why for f, why in found_runs(kit.out, kit.profile)}
    changed = "profile unlearn.learning_rate was 0.001, is 0.002"
    assert found[SINGLE] == f"made with other settings ({changed})" and found["data/seed-0"] == ""
    assert kit.states()["analysis"] == "stale"
    kit.finish(kit.study()[1])
    inputs = {
        path.relative_to(kit.out).as_posix()
        for path in reading_all(runs.spec_of("analysis", kit.shared), kit.profile).inputs
    }
    assert inputs == {"data/seed-0", "data/seed-1", SINGLE}


def test_a_run_whose_input_is_another_since_is_left_out_of_the_analysis_and_named(kit):
    finish_all(kit)
    data = kit.study()[0]

    def why() -> dict[str, str]:
        found = found_runs(kit.out, kit.profile)
        return {folder.relative_to(kit.out).as_posix(): reason for folder, reason in found}

    kit.finish(data)  # anew, with the same result
    assert not any(why().values())
    kit.finish(data, "y")
    assert why() == {"data/seed-0": "", SINGLE: "data/seed-0, which it read, is another since"}
    shutil.rmtree(data.folder)  # what was read from it stands
    assert why() == {SINGLE: ""}


# --- the front --------------------------------------------------------------------------------


def front(kit, monkeypatch, methods=("ga",), ask=None, **more) -> tuple[bool, str]:
    screen = Console(file=io.StringIO(), width=160, markup=False, emoji=False)
    monkeypatch.setattr(batch, "LINE_SECONDS", 0.5)
    options = grid.Options(**kit.shared, methods=methods, scenarios=["pretrained"], **more)
    done = batch.run_study(options, 2, console=screen, ask=ask)
    return done, screen.file.getvalue()


def test_a_failure_is_named_the_others_go_on_and_the_next_run_does_what_is_left(kit, monkeypatch):
    monkeypatch.setenv("TRAP_03", "assert method != 'npo', 'npo cannot'")
    done, text = front(kit, monkeypatch, ["ga", "npo"])
    ga, npo = (
        kit.out / "single_shot/pretrained" / f"{m}-projector+llm-seed-0" for m in ("ga", "npo")
    )
    assert not done and "4 of 4 runs to do" in text
    assert (
        "FAILED 03_unlearn_single_shot" in text
        and "npo cannot" in text
        and f"{npo}.half/log.txt" in text
    )
    assert "not run  analysis" in text and "done   data/seed-0" in text
    assert "0 of 4 done  data: starting" in text and "Report" not in text
    kept = (ga / "manifest.json").read_text()
    assert Path(f"{npo}.half/failed.ipynb").exists() and not npo.exists()

    monkeypatch.delenv("TRAP_03")
    done, text = front(kit, monkeypatch, ["ga", "npo"])
    assert done, text
    assert "2 of 4 runs to do" in text and "report.html" in text
    assert (ga / "manifest.json").read_text() == kept
    assert (npo / "notebook.ipynb").exists() and not (npo / "failed.ipynb").exists()

    path = kit.notebooks / "05_analyze.ipynb"  # stale, with its results still there
    path.write_text(path.read_text().replace('\\"finished\\"', '\\"ended\\"'))
    done, text = front(kit, monkeypatch, ["ga", "npo"])
    assert (
        done
        and "1 of 4 runs to do" in text
        and "stale  analysis: code cells of 05_analyze changed" in text
    )
    assert (kit.out / "analysis/log.txt").read_text().startswith("ended 05_analyze")

    monkeypatch.setattr(subprocess, "Popen", None)  # nothing may be started now
    done, text = front(kit, monkeypatch, ["ga", "npo"])
    assert done and "Nothing to do: all 4 runs" in text and "report.html" in text


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # A killed process that nobody waits for stays as a zombie where process 1 does not collect it.
    state = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True
    ).stdout
    return state.strip().startswith("Z") or not state.strip()


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    pairs = [line.split() for line in listed.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


@pytest.mark.parametrize(
    ("how", "warm"),
    [(signal.SIGINT, "1"), (signal.SIGKILL, "1"), (signal.SIGKILL, "0")],
    ids=["ctrl-c", "kill-9", "kill-9-own-kernels"],
)
def test_a_stopped_study_leaves_no_process_and_can_be_started_again(
    kit, monkeypatch, tmp_path, how, warm
):
    pids = tmp_path / "pids"
    trap = (
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{os.getppid()}}')\n"
        "import time; time.sleep(100)"
    )
    words = [
        "run",
        "--profile",
        str(kit.profile_file),
        "--out-dir",
        str(kit.out),
        "--methods",
        "ga",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "pulse_lib", *words, "--scenarios", "pretrained"],
        env=os.environ | {"TRAP_01": trap, "PULSE_WARM": warm},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        # as a shell without job control starts what ends in `&`
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        below = children(process.pid)
        process.send_signal(how)
        if how == signal.SIGKILL:  # Snakemake as well, so that it cannot tidy up
            for pid in below:
                os.kill(pid, how)
        errors = process.communicate(timeout=60)[1]  # the trap's 100 s are not waited out
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert process.returncode == 130 and "Stopped" in errors and "Traceback" not in errors
    for pid in map(int, pids.read_text().split()):
        wait_for(lambda pid=pid: gone(pid), 60)
    assert kit.states()["data/seed-0"] == "missing"
    if how == signal.SIGKILL:  # Snakemake's records say that a job was cut off
        done, text = front(kit, monkeypatch)
        assert done, text


def test_a_killed_snakemake_is_named_with_what_it_cut_off_and_what_never_began(kit, monkeypatch):
    kill = (
        "import psutil, time\n"
        "named = [p for p in psutil.Process().parents() if 'snakemake' in p.cmdline()]\n"
        "named[-1].kill(); time.sleep(100)"
    )
    monkeypatch.setenv("TRAP_01", kill)
    done, text = front(kit, monkeypatch)
    assert not done and "failed" not in text and "FAILED" not in text
    assert "cut off  data/seed-0: its process was killed (at: " in text
    assert f"not run  {SINGLE}: its input data/seed-0 is not done" in text
    assert f"Snakemake was killed by SIGKILL.  log: {kit.out}/.logs/snakemake.log" in text


def test_a_missing_package_is_named_with_run_and_log(kit, monkeypatch):
    monkeypatch.setenv("TRAP_01", "import no_such_package")
    done, text = front(kit, monkeypatch)
    last = text[text.rindex("failed   data/seed-0") :]
    assert not done and "ModuleNotFoundError: No module named 'no_such_package'" in last
    assert "log.txt" in last and f"not run  {SINGLE}" in last and "Snakemake" not in last


def test_without_snakemake_nothing_has_failed_and_the_package_is_named(kit, monkeypatch):
    command = [sys.executable, "-m", "no_such_snakemake"]
    monkeypatch.setattr(batch, "snakemake_command", lambda out, n_jobs: command)
    done, text = front(kit, monkeypatch)
    assert not done and "failed" not in text and "not run  data/seed-0: it had not begun" in text
    assert "No module named no_such_snakemake" in text


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for a few small files."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_is_named_in_the_last_lines(kit, monkeypatch, small_disk):
    monkeypatch.setenv("TRAP_01", "(run.folder / 'big').write_bytes(bytes(10**6))")
    done, text = front(dataclasses.replace(kit, out=small_disk / "out"), monkeypatch)
    last = text[text.index("\n\n") :]
    assert not done and f"not run  {SINGLE}" in last
    assert "No space left on device" in last and "KiB are left on the disk" in last
    with pytest.raises(PulseError, match="disk is full"):
        front(dataclasses.replace(kit, out=small_disk / "out"), monkeypatch)


def test_two_fronts_do_not_work_in_one_folder(kit, monkeypatch):
    real = jobs.Lock.__init__
    monkeypatch.setattr(
        jobs.Lock,
        "__init__",
        lambda self, path, busy, *, patience=0: real(self, path, busy, patience=0.0),
    )
    with (
        jobs.Lock(kit.out / ".logs" / "front.lock", "x"),
        pytest.raises(PulseError, match="another study is at work"),
    ):
        front(kit, monkeypatch)


def test_a_folder_that_cannot_be_written_is_said_before_anything_starts(kit, monkeypatch):
    kit.out.write_text("a file")
    with pytest.raises(PulseError, match="is a file, not a folder"):
        front(kit, monkeypatch)


def test_snakemake_alone_plans_the_same_runs(kit):
    kit.finish(kit.study()[0])
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--dry-run",
        "--cores",
        "2",
        "--directory",
        str(kit.out / "work"),
    ]
    config = [f"{key}={value}" for key, value in kit.shared.items()] + [
        "methods=ga",
        "scenarios=pretrained",
    ]
    found = subprocess.run(
        [*command, "--snakefile", str(REPOSITORY / "Snakefile"), "--config", *config],
        capture_output=True,
        text=True,
    )
    text = found.stdout + found.stderr
    assert found.returncode == 0, text
    words = [line.split() for line in text.splitlines()]
    counts = dict(
        pair  # not "jobid: 3" and the like
        for pair in words
        if len(pair) == 2 and pair[1].isdigit() and not pair[0].endswith(":")
    )
    assert counts == {"all": "1", "analysis": "1", "single_shot": "1", "total": "3"}


# --- progress ---------------------------------------------------------------------------------


def test_batch_progress_is_a_line_now_and_then_and_a_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PULSE_BATCH", "1")
    monkeypatch.setenv("PULSE_PROGRESS_FILE", str(tmp_path / "run.progress"))
    assert list(progress.track(range(1000), "answering")) == list(range(1000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("answering 0/1000") and lines[-1].startswith("answering 1000/1000")
    assert len(lines) == 2  # it took less than LINE_SECONDS
    assert (tmp_path / "run.progress").read_text() == "answering 1000/1000"
    progress.step("training", 3, n=3, loss=0.25)
    assert "loss 0.25" in capsys.readouterr().err


def test_a_person_gets_a_bar(monkeypatch, capsys):
    monkeypatch.delenv("PULSE_BATCH", raising=False)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    assert list(progress.track((i for i in range(3)), "answering", total=3)) == [0, 1, 2]
    assert "answering: 100%" in capsys.readouterr().err
    assert list(progress.track([], "nothing")) == []

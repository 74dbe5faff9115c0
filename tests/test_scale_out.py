"""Many runs on many cards and machines: who gets which card, what is tried again, and who may write."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import socket
import subprocess
import sys
import time

import pytest
import yaml

from benchmarks import scale
from pulse_lib.commands import estimate
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, read_json, write_json
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import KINDS
from pulse_lib.runs.locks import Lock, alone, job_file
from pulse_lib.study import cards, retries


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch):
    monkeypatch.delenv(cards.VISIBLE, raising=False)


# --- cards ------------------------------------------------------------------------------------


def machine(monkeypatch, tmp_path, n: int) -> None:
    """A machine with n cards."""
    dev = tmp_path / "dev"
    dev.mkdir()
    for name in [*(f"nvidia{i}" for i in range(n)), "nvidiactl", "nvidia-uvm"]:
        (dev / name).touch()
    monkeypatch.setattr(cards, "DEV", dev)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2", ["2"]),
        ("GPU-a, GPU-b", ["GPU-a", "GPU-b"]),
    ],
)
def test_the_cards_are_those_of_the_machine_or_of_the_scheduler(
    monkeypatch, tmp_path, given, found
):
    machine(monkeypatch, tmp_path, 3)
    if given is not None:
        monkeypatch.setenv(cards.VISIBLE, given)
    assert cards.cards() == found


def test_each_run_has_a_card_of_its_own_and_gives_it_back(monkeypatch, tmp_path):
    machine(monkeypatch, tmp_path, 2)
    with cards.free_card(tmp_path / "locks") as first:
        assert os.environ[cards.VISIBLE] == first == "0"
        monkeypatch.setenv(cards.VISIBLE, "0,1")  # as another process finds it
        with cards.free_card(tmp_path / "locks") as second:
            assert os.environ[cards.VISIBLE] == second == "1"
        assert os.environ[cards.VISIBLE] == "0,1"
    assert cards.VISIBLE not in os.environ
    with cards.free_card(tmp_path / "locks") as again:
        assert again == "0"


@pytest.mark.parametrize("n", [0, 1])
def test_where_there_is_no_choice_nothing_is_changed(monkeypatch, tmp_path, n):
    machine(monkeypatch, tmp_path, n)
    with cards.free_card(tmp_path / "locks") as card:
        assert card is None and cards.VISIBLE not in os.environ
    assert not (tmp_path / "locks").exists()


def _one_run(folder, begun):
    with cards.free_card(folder) as card:
        begun.put((card, time.monotonic()))
        time.sleep(1.0)
        begun.put((card, time.monotonic()))


def test_with_more_runs_than_cards_the_third_waits(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv(cards.VISIBLE, "4,7")
    fork = multiprocessing.get_context("fork")
    seen = fork.Queue()
    runs = [fork.Process(target=_one_run, args=(tmp_path, seen)) for _ in range(3)]
    for run in runs:
        run.start()
    times = [seen.get(timeout=30) for _ in range(6)]
    for run in runs:
        run.join()
    assert {card for card, _ in times} == {"4", "7"}
    for card in ("4", "7"):  # one after the other: begin, end, begin, end
        own = sorted(at for of, at in times if of == card)
        assert all(
            later - sooner >= 0.99 for sooner, later in zip(own[::2], own[1::2], strict=True)
        )
    assert sorted(sum(of == card for of, _ in times) for card in ("4", "7")) == [2, 4]
    assert "all 2 graphics cards have a run: waiting for one" in capfd.readouterr().err


# --- through Snakemake ------------------------------------------------------------------------


def snakemake(kit, *more: str, methods: str = "ga", **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *more]
    command += ["--directory", str(kit.out / "work"), "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--workflow-profile", str(REPOSITORY / "profiles" / "default"), "--config"]
    command += [f"{key}={value}" for key, value in kit.shared.items()]
    return subprocess.run(
        [*command, f"methods={methods}", "scenarios=pretrained"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env=os.environ | {"SNAKEMAKE_PROFILE": "none"} | env,
    )


def count(path) -> str:
    """Code that counts, in a file, how often a notebook has come to it."""
    return f"open({str(path)!r}, 'a').write('x')\n"


def test_a_dead_kernel_is_tried_again_and_a_failing_notebook_is_not(kit, tmp_path):
    tries, once = tmp_path / "tries", tmp_path / "once"
    kill = f"import pathlib\nif not pathlib.Path({str(once)!r}).exists():\n    {count(once)}    os.kill(os.getpid(), 9)"
    done = snakemake(
        kit,
        "--retries",
        "2",
        TRAP_01=f"import os\n{kill}",
        TRAP_03=count(tries) + "assert 0, 'it cannot'",
    )
    assert done.returncode == 1
    assert once.read_text() == "x" and kit.states()["data/seed-0"] == "done", done.stderr
    assert tries.read_text() == "x", "a notebook that failed was run again"
    assert done.stderr.splitlines().count("not tried again:") == 2 and "it cannot" in done.stderr
    # the next command is a new beginning
    done = snakemake(kit, "--retries", "2")
    assert done.returncode == 0, done.stderr
    assert set(kit.states().values()) == {"done"}


@pytest.mark.parametrize(
    ("said", "again"),
    [
        (None, True),  # killed from outside: it said nothing
        ("01_build_datasets failed (data/seed-0): DeadKernelError: Kernel died", True),
        ("/out/data/seed-0 is being written by another process (x, process 3 on b)", True),
        ("01_build_datasets failed (data/seed-0): cell 3: ValueError: no", False),
    ],
)
def test_what_a_later_attempt_does(kit, said, again):
    spec = kit.study()[0]
    failed = job_file(spec, "failed")
    failed.parent.mkdir(parents=True)
    if said:
        failed.write_text(said)
    run = f"echo patience ${{{retries.PATIENCE}:-}}; test ! -e {shlex.quote(str(failed))}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"attempt=2; {retries.command(spec, run=run)}"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode == 0) == again == ("patience 180" in done.stdout)
    assert again or said in done.stderr
    first = f"attempt=1; {retries.command(spec, run=run)}"
    done = subprocess.run(["bash", "-euc", first], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "patience\n"


def test_a_later_attempt_waits_for_what_is_left_of_the_first(kit, monkeypatch):
    spec = kit.study()[0]
    monkeypatch.setenv(retries.PATIENCE, "1.5")
    begun = time.monotonic()
    with alone(spec, patience=0.0), pytest.raises(PulseError, match=retries.LOST[-1]):
        alone(spec, patience=0.0).__enter__()
    assert time.monotonic() - begun >= 1.5


def test_one_run_a_card_however_many_jobs(kit, tmp_path):
    """Two runs, two jobs, one card: one after the other."""
    for spec in kit.study(methods=["ga", "npo"]):
        if spec.kind == "data":
            kit.finish(spec)
    log = tmp_path / "log"
    note = f"open({str(log)!r}, 'a').write"
    trap = f"import time\n{note}('+')\ntime.sleep(2)\n{note}('-')"
    until = "analysis"  # which loads no model
    done = snakemake(
        kit, "--omit-from", until, methods="ga,npo", TRAP_03=trap, CUDA_VISIBLE_DEVICES="0"
    )
    assert done.returncode == 0, done.stderr
    assert log.read_text() == "+-+-"


def test_snakemake_alone_does_not_work_beside_another_study(kit):
    with Lock(kit.out / ".logs" / "front.lock", "x"):
        done = snakemake(kit)
        words = f"another study is at work in {kit.out} ("
        assert done.returncode == 1 and words in done.stderr
        assert f"process {os.getpid()} on {socket.gethostname()}" in done.stderr
        assert set(kit.states().values()) == {"missing"}
        assert snakemake(kit, "--dry-run").returncode == 0  # looking is free


# --- other machines ---------------------------------------------------------------------------


def test_a_marker_of_a_machine_that_went_down_is_named(kit, monkeypatch):
    def flock(*_):
        raise OSError(38, "no such thing here")

    monkeypatch.setattr("pulse_lib.runs.locks.fcntl.flock", flock)
    spec = kit.study()[0]
    path = job_file(spec, "lock")
    with alone(spec):
        here = read_json(path)
        with pytest.raises(PulseError) as caught:
            alone(spec, patience=0.0).__enter__()
        assert "remove" not in str(caught.value)  # of this machine: it goes by itself
        write_json(path, here | {"host": "node-7"})
        with pytest.raises(
            PulseError, match="on node-7, .*if node-7 has gone down since, remove .*lock.held"
        ):
            alone(spec, patience=0.0).__enter__()


def test_the_profile_asks_slurm_for_a_card_for_all_that_loads_a_model():
    said = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text())
    kinds = {kind for kind, row in KINDS.items() if row.inputs is not None}
    assert said["set-resources"] == {kind: {"gpu": 1} for kind in kinds}
    assert said["executor"] == "slurm" and said["slurm-no-requeue"] is True and said["retries"] > 0


# --- what it costs ----------------------------------------------------------------------------


def test_the_page_has_the_numbers():
    page = scale.PAGE.read_text()
    assert scale.written(page) == page, "python benchmarks/scale.py --write"


def test_the_embedded_models_part_by_hand():
    """Of one method and one seed: each measured run once, the single-shot run twice."""
    took, size = scale.seconds(), scale.sizes()
    found = scale.embedded(1, 1)
    assert found.runs == 5
    sum_of = took["data"] + took["target"] + 2 * took["single_shot"] + took["sequential"]
    assert found.hours == pytest.approx(sum_of / 3600)
    rows = size["data", "rows"] + size["target", "rows"] + 2 * size["single_shot", "rows"]
    rows += size["sequential", "rows"]
    assert found.bytes["rows"] == pytest.approx(rows)
    assert found.kept == pytest.approx(found.bytes["rows"] + found.bytes["the rest"])
    assert scale.embedded(20, 5).runs == 5 * (2 + 60)


def test_llavas_adapters_by_hand():
    found, name = scale.llava("llava-1.5-13b", 1, 1), "llava-1.5-13b"
    profile = load_profile(name)
    # 31.3 M weights at rank 8 without the projector's 8 * (1024 + 3 * 5120)
    one = (31.3e6 / 8 + 1024 + 3 * 5120) * 4
    ranks = profile.finetune.rank + (2 * 2 + profile.data.n_requests) * profile.unlearn.rank
    assert found.bytes["adapters"] == pytest.approx(one * ranks, rel=0.01)


def test_the_papers_hours_are_those_that_plan_says():
    """Of three methods; 01 and 02 once."""
    for name, card in scale.PAPER:
        hours = estimate.cost(load_profile(name), estimate.find_card(card, 0.0)).hours
        once = sum(h for stage, h in hours.items() if stage[:2] in ("01", "02"))
        each = sum(h for stage, h in hours.items() if stage[:2] in ("03", "04"))
        assert f"| {name} | {card} | {once + 3 * each:.1f} |" in scale.PAGE.read_text()
        assert estimate.cost(load_profile(name), estimate.find_card(card, 0.0)).fits


def test_sizes_are_those_of_the_folders(kit):
    for spec in kit.study()[:2]:
        kit.finish(spec, "four")
    (
        kit.out / "single_shot/pretrained/ga-projector+llm-seed-0/adapters/final/a.safetensors"
    ).write_bytes(bytes(99))
    found = {(row["kind"], row["part"]): row["bytes"] for row in scale.measure(kit.out)}
    assert found["data", "rows"] == found["data", "pictures"] == 4
    assert found["single_shot", "adapters"] == 99 and found["data", "adapters"] == 0
    folder = kit.out / "data/seed-0"
    whole = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert sum(n for (kind, _), n in found.items() if kind == "data") == whole

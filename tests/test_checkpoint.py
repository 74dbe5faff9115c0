"""A training that is cut off goes on with the same bytes: every optimizer, scaler, mask, replay and
stop rule; whose checkpoint it is; and a real SIGKILL of notebooks 02 and 03.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from cells import run_cells
from conftest import write_results
from test_sequential import sequential_task, started
from test_train import FORGET, RETAIN, prepared, task

from pulse_lib import runs
from pulse_lib.commands import checkpoints as module
from pulse_lib.commands.checkpoints import CARD, CheckpointFolder, interval
from pulse_lib.commands.rounds import RoundFolders
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, read_json
from pulse_lib.methods import get
from pulse_lib.model.adapters import adapter_weights, add_adapter, stack
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import FinetuneSettings
from pulse_lib.runs.place import CHECKPOINT
from pulse_lib.train import checkpoint, loop
from pulse_lib.train.finetune import Lessons, finetune
from pulse_lib.train.loop import Schedule, Watch, train
from pulse_lib.unlearn.sequential import run_sequential
from pulse_lib.unlearn.single_shot import unlearn_single_shot
from pulse_lib.unlearn.trajectory import TrajectoryRecorder


class CutOff(CheckpointFolder):
    """Kept after every step; the session ends behind the checkpoint of step `end`."""

    end = 0

    def save(self, state):
        super().save(state)
        if state["step"] == self.end:
            raise KeyboardInterrupt


def kept_in(folder, stage="training", *, end=0, kind=CutOff):
    kept = kind(started(folder), stage, seconds=0.0)
    kept.end = end
    return kept


def same_weights(one, other):
    assert one.keys() == other.keys()
    for key, weight in one.items():
        assert torch.equal(weight, other[key]), key


def same_log(one, other):
    pd.testing.assert_frame_equal(
        one.drop(columns="seconds"), other.drop(columns="seconds"), check_exact=True
    )
    for log in (one, other):
        assert (log["seconds"].diff().dropna() > 0).all(), "seconds go on where they were"


def same_outcome(one, other):
    assert one.states.keys() == other.states.keys()
    for state, weights in one.states.items():
        same_weights(weights, other.states[state])
    same_log(one.log, other.log)
    pd.testing.assert_frame_equal(one.trajectory, other.trajectory, check_exact=True)
    results = (o.result() | {"seconds_train": 0} for o in (one, other))
    assert len({json.dumps(r) for r in results}) == 1


HALVES = {"path_every": 0, "epochs": 3}
SINGLE = {
    "adamw": ("ga_klr", {"epochs": 3, "path_every": 1, "batch_size": 3}, (2, 5)),
    "muon": ("npo", HALVES | {"optimizer": "muon", "learning_rate": 0.02}, (3,)),
    "paged, 8 bits": ("ga", HALVES | {"optimizer": "paged_adamw_8bit", "rank": 32}, (3,)),
    "mask": ("saliency", HALVES, (1, 2, 4)),  # before, at and after the mask is taken
    "steering": ("rmu", HALVES, (3,)),
    "negated": ("task_vector", HALVES, (6,)),
}


@pytest.mark.parametrize("case", SINGLE)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_single_shot_goes_on_with_the_same_bytes(case, tmp_path):
    method, changes, ends = SINGLE[case]
    whole = unlearn_single_shot(task(prepared(), method, **changes))
    for end in ends:
        with pytest.raises(KeyboardInterrupt):
            kept = kept_in(tmp_path, end=end)
            unlearn_single_shot(task(prepared(), method, **changes), checkpoints=kept)
    again = kept_in(tmp_path)
    outcome = unlearn_single_shot(task(prepared(), method, **changes), checkpoints=again)
    same_outcome(outcome, whole)


def test_a_stop_rule_and_its_states_go_on(tmp_path, monkeypatch):
    """Found at step 2: matched; at step 4 too little is kept: back to the weights of step 3."""
    curve = [1.0, 0.99, 0.95, 0.92, 0.3, 0.2, 0.2]

    def ask(self, questions):
        whose = [{"set": q.set, "modality": q.modality, "wording": q.wording} for q in questions]
        now = curve[len(self.points)]
        return pd.DataFrame(whose).assign(correct=now, loglik_correct=now, invalid=False)

    monkeypatch.setattr(TrajectoryRecorder, "_ask", ask)
    rules = {"epochs": 3, "path_every": 1, "stop_utility": 0.9, "matched_at": 0.96}
    whole = unlearn_single_shot(task(prepared(), "ga", **rules))
    assert (whole.matched_step, whole.chosen_step, whole.final_step) == (2, 3, 4)
    for end in (1, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            unlearn_single_shot(
                task(prepared(), "ga", **rules), checkpoints=kept_in(tmp_path, end=end)
            )
    again = unlearn_single_shot(task(prepared(), "ga", **rules), checkpoints=kept_in(tmp_path))
    same_outcome(again, whole)


@pytest.mark.parametrize("policy", ["replay", "anchor", "experts"])
def test_a_round_goes_on_within_itself(policy, tmp_path):
    """The second of three requests is cut off; rounds and rows are those of an unbroken run."""

    class Store(RoundFolders):
        end = 0

        def checkpoints(self, number):
            return kept_in(tmp_path, f"round-{number}", end=self.end if number == 2 else 0)

    def rounds(store):
        model = tiny.with_adapters("finetune")
        todo = sequential_task(model, policy, epochs=3, path_every=0)
        target = replace(todo.target, folder=tmp_path / "target")
        kept = store and store(started(tmp_path), target)
        return [*run_sequential(replace(todo, target=target), store=kept)], model

    whole, one = rounds(None)
    with pytest.raises(KeyboardInterrupt):
        rounds(type("Ending", (Store,), {"end": 2}))
    again, other = rounds(Store)
    assert [r.resumed for r in again] == [True, False, False]
    for before, after in zip(whole, again, strict=True):
        pd.testing.assert_frame_equal(before.rows, after.rows, check_exact=True)
        same_log(before.log, after.log)
        same_weights(adapter_weights(one, before.adapter), adapter_weights(other, after.adapter))


SETTINGS = FinetuneSettings(
    rank=4,
    alpha=8,
    learning_rate=5e-3,
    epochs=2,
    batch_size=4,
    warmup_steps=2,
    general_replay=0.5,
)


def finetuned(checkpoints=None):
    model = tiny.tiny_model()
    lessons = Lessons(FORGET, RETAIN, images=tiny.images())
    trained = finetune(model, lessons, settings=SETTINGS, seed=0, checkpoints=checkpoints)
    return trained, adapter_weights(model, "finetune")


def test_finetuning_goes_on_at_every_step(tmp_path):
    trained, weights = finetuned()
    for end in range(1, trained.n_steps + 1):  # behind the last one nothing is left to do
        with pytest.raises(KeyboardInterrupt):
            finetuned(kept_in(tmp_path, end=end))
    again, same = finetuned(kept_in(tmp_path))
    assert again.n_steps == trained.n_steps == 6
    same_weights(weights, same)
    same_log(trained.log, again.log)


def test_float16_goes_on_with_its_scaler(tmp_path, monkeypatch):
    """The scale starts too large: steps overflow, are left out and halve it; then it grows again."""
    scaler = partial(torch.amp.GradScaler, init_scale=2.0**22, growth_interval=3)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)

    def trained(kept=None):
        model = tiny.tiny_model(tiny.tiny_network().half())
        model.features.add((f"image-{i}" for i in range(40)), tiny.images())
        add_adapter(model, "unlearn", trained_part="llm", rank=4, alpha=8, seed=0)
        stack(model, [], train="unlearn")
        schedule = Schedule(2e-3, 4, batch_size=3, warmup_steps=0, max_grad_norm=1.0, decay=False)
        done = train(
            model,
            get("ga"),
            conversations=encode_conversations(model, FORGET),
            schedule=schedule,
            seed=0,
            watch=Watch(checkpoints=kept),
        )
        return done, adapter_weights(model, "unlearn")

    done, weights = trained()
    n_left_out = int((~np.isfinite(done.log["grad_norm"])).sum())
    assert 2 <= n_left_out < len(done.log) - 3
    for end in (2, n_left_out + 2):
        with pytest.raises(KeyboardInterrupt):
            trained(kept_in(tmp_path, end=end))
    again, same = trained(kept_in(tmp_path))
    same_weights(weights, same)
    same_log(done.log, again.log)


# --- whose a checkpoint is ----------------------------------------------------------------------


STATE = {"step": 7, "weights": {"a": torch.arange(3.0)}}


def place(folder, mark="this run"):
    return CheckpointFolder(started(folder, mark), seconds=0.0)


def files(folder):
    return sorted(p.name for p in (started(folder).folder / CHECKPOINT).glob("*"))


def test_only_the_newest_is_kept(tmp_path, capsys):
    kept = place(tmp_path)
    for step in (3, 7):
        kept.save(STATE | {"step": step})
    assert files(tmp_path) == [CARD, "step-7.pt"]
    assert torch.equal(place(tmp_path).load()["weights"]["a"], STATE["weights"]["a"])
    assert "going on after step 7, kept in" in capsys.readouterr().out


def test_a_kill_while_it_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    place(tmp_path).save(STATE)
    for during in ("replace_file", "write_json"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(module, during, cut_off)
            place(tmp_path).save(STATE | {"step": 8})
        (started(tmp_path).folder / CHECKPOINT / ".step-9.0a1b2c3d.pt").write_text("half")
        assert place(tmp_path).load()["step"] == 7
    place(tmp_path).save(STATE | {"step": 8})
    assert files(tmp_path) == [CARD, "step-8.pt"]


def cut_off(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("whose", "said"),
    [("another run", ""), ("another stage", ""), ("another library", "the library has changed")],
)
def test_those_of_others_are_not_gone_on_from(whose, said, tmp_path, monkeypatch, capsys):
    place(tmp_path).save(STATE)
    if whose == "another library":
        monkeypatch.setattr(module, "library_of", lambda kind: {"train/losses.py": "other"})
    kept = place(tmp_path, whose if whose == "another run" else "this run")
    kept.stage = "round-2" if whose == "another stage" else kept.stage
    assert kept.load() is None and not kept.folder.exists()
    out, err = capsys.readouterr()
    assert not out and (said in err and "training begins anew" in err if said else not err)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "harm", "said"),
    [
        ("step-7.pt", flip, "step-7.pt has changed since it was written"),
        ("step-7.pt", lambda path: path.write_bytes(path.read_bytes()[:100]), "has changed"),
        ("step-7.pt", lambda path: path.unlink(), "cannot be read"),
        (CARD, lambda path: path.write_text(path.read_text()[:50]), "cannot be read"),
        (CARD, lambda path: path.write_text("{}"), "cannot be read ('file')"),
        (CARD, lambda path: path.write_text("[]"), "cannot be read"),
    ],
)
def test_a_broken_one_is_said_and_training_begins_anew(name, harm, said, tmp_path, capsys):
    kept = place(tmp_path)
    kept.save(STATE)
    harm(kept.folder / name)
    assert place(tmp_path).load() is None and not kept.folder.exists()
    err = capsys.readouterr().err
    assert said in err and "training begins anew" in err and err.count("\n") == 1


def test_no_room_for_one_stops_no_training(tmp_path, capsys):
    folder = started(tmp_path).folder
    folder.mkdir(parents=True)
    (folder / CHECKPOINT).write_text("a file where the folder should be")
    trained, _ = finetuned(place(tmp_path))
    assert trained.n_steps == 6
    assert "step 1: no checkpoint (cannot write" in capsys.readouterr().err
    assert (folder / CHECKPOINT).is_file(), "not ours, not removed"


def test_another_number_format_begins_anew(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        finetuned(kept_in(tmp_path, end=3))
    monkeypatch.setattr(checkpoint, "_made_on", lambda model: ["cuda", "torch.bfloat16"])
    steps = []
    monkeypatch.setattr(loop, "report", lambda label, step, **rest: steps.append(step))
    finetuned(CheckpointFolder(started(tmp_path), seconds=1e9))
    assert steps == [1, 2, 3, 4, 5, 6]


def test_when_one_is_due(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.delenv(module.VARIABLE, raising=False)
    kept = CheckpointFolder(started(tmp_path))
    now[0] += 119
    assert not kept.due(), "a run of two minutes keeps none"
    now[0] += 1
    assert kept.due()
    kept.save(STATE)
    assert not kept.due()

    def slowly(path, write):
        now[0] += 30

    monkeypatch.setattr(module, "replace_file", slowly)
    kept.save(STATE)  # a slow disk: half a minute each
    now[0] += 590
    assert not kept.due()
    now[0] += 20
    assert kept.due(), "one twentieth of the time"


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "1e999", "two", "1,5", "0x10"])
def test_an_interval_out_of_range_is_refused(text, monkeypatch):
    monkeypatch.setenv(module.VARIABLE, text)
    with pytest.raises(PulseError, match=r"PULSE_CHECKPOINT_SECONDS = .*, 0 or more"):
        interval()


def test_an_interval_can_be_set(monkeypatch):
    for text, seconds in (("", 120.0), ("0", 0.0), (" 2.5 ", 2.5)):
        monkeypatch.setenv(module.VARIABLE, text)
        assert interval() == seconds


def test_a_started_run_keeps_it_and_a_finished_one_does_not(kit):
    spec = kit.study()[0]
    begun = runs.start(spec, kit.profile)
    CheckpointFolder(begun, seconds=0.0).save(STATE)
    again = CheckpointFolder(runs.start(spec, kit.profile))
    assert again.load()["step"] == 7
    write_results(begun.folder, spec.files)
    manifest = runs.finish(begun)
    assert not again.folder.exists() and not any(CHECKPOINT in name for name in manifest["files"])


# --- killed for real ----------------------------------------------------------------------------

SMALL = """
extends: smoke
description: two people to forget; for tests
data:
  n_finetuned_forget: 2
  n_finetuned_retain: 1
  n_finetuned_retain_train: 1
  n_requests: 1
  n_candidates: 2
  n_pretrained_forget: 1
  n_pretrained_retain: 1
  n_holdout: 1
  n_general: 4
  n_general_train: 2
  n_heldout_wordings: 0
finetune: {batch_size: 4}
unlearn: {epochs_finetuned: 4}
evaluate: {n_path_questions: 2}
"""


def begin(given, *notebooks):
    """The notebooks in a process of their own, kept after every step."""
    environment = {**os.environ, "PULSE_BATCH": "1", module.VARIABLE: "0", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(REPOSITORY)
    return subprocess.Popen(
        [sys.executable, REPOSITORY / "tests" / "cells.py", json.dumps(given), *notebooks],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_after(process, folder, step):
    """SIGKILL once a checkpoint of that step or a later one lies there; what was printed."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(read_json(card)["step"] >= step for card in cards(folder)):
            break
        time.sleep(0.01)
    process.kill()
    printed = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, printed
    assert cards(folder) and not (folder / "manifest.json").exists()
    return printed


def cards(folder):
    """Of a run's checkpoint, in its place or where it is being made."""
    return [*folder.parent.glob(f"{folder.name}*/{CHECKPOINT}/{CARD}")]


def test_killed_notebooks_go_on_and_leave_the_same_bytes(tmp_path, monkeypatch, capsys):
    """02 and 03, each killed in a process of its own; 02 goes on in the one that 03 is killed in."""
    profile = tmp_path / "small.yaml"
    profile.write_text(SMALL)
    monkeypatch.setenv("PULSE_BATCH", "1")
    whole, broken = (
        {"profile": str(profile), "out_dir": str(tmp_path / n), "method": "ga_retain"} for n in "ab"
    )
    target, single = (runs.spec_of(kind, broken).folder for kind in ("target", "single_shot"))
    run_cells("01_build_datasets", whole)
    shutil.copytree(tmp_path / "a" / "data", tmp_path / "b" / "data")
    kill_after(begin(broken, "02_finetune"), target, 2)
    printed = kill_after(begin(broken, "02_finetune", "03_unlearn_single_shot"), single, 2)
    assert "going on after step" in printed
    capsys.readouterr()
    run_cells("03_unlearn_single_shot", broken)
    assert "going on after step" in capsys.readouterr().out
    for notebook in ("02_finetune", "03_unlearn_single_shot"):
        run_cells(notebook, whole)
    for folder in (target, single):
        unbroken = tmp_path / "a" / folder.relative_to(tmp_path / "b")
        made, expected = (read_json(f / "manifest.json") for f in (folder, unbroken))
        # Of its identity and of the bytes of all files but those that hold wall times
        assert made["result"] == expected["result"]
        same_log(*(pd.read_csv(f / "log.csv") for f in (folder, unbroken)))
        assert not cards(folder)
    results = [read_json(f / "result.json") | {"seconds_train": 0} for f in (single, unbroken)]
    assert results[0] == results[1]

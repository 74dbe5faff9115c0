"""A training that is cut off goes on with the same bytes: every optimizer, scaler, mask, replay and
stop rule; whose checkpoint it is; and a real SIGKILL of notebooks 02 and 03.
"""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from test_sequential import sequential_task, started
from test_train import FORGET, RETAIN, prepared, task

from pulse_lib.commands.checkpoints import CheckpointFolder
from pulse_lib.commands.rounds import RoundFolders
from pulse_lib.methods import get
from pulse_lib.model.adapters import adapter_weights, add_adapter, stack
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import FinetuneSettings
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
    assert (one["seconds"].diff().dropna() > 0).all(), "seconds go on where they were"


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
    "adamw": ("ga_klr", {"epochs": 3, "path_every": 1, "matched_at": 0.6}, (2, 5)),
    "muon": ("npo", HALVES | {"optimizer": "muon", "learning_rate": 0.02}, (3,)),
    "8bit": ("ga", HALVES | {"optimizer": "adamw_8bit", "rank": 32}, (3,)),
    "paged": ("ga", HALVES | {"optimizer": "paged_adamw_8bit", "rank": 32}, (3,)),
    "mask": ("saliency", HALVES, (1, 2, 4)),  # before, at and after the mask is taken
    "refusals": ("dpo", HALVES, (3,)),
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
        return pd.DataFrame(whose).assign(correct=curve[len(self.points)], invalid=False)

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


@pytest.mark.parametrize("policy", ["adapter_per_request", "replay", "anchor", "experts"])
def test_a_round_goes_on_within_itself(policy, tmp_path):
    """The second of three requests is cut off; rounds and rows are those of an unbroken run."""

    class Store(RoundFolders):
        end = 0

        def checkpoints(self, number):
            return kept_in(tmp_path, f"round-{number}", end=self.end if number == 2 else 0)

    def rounds(store):
        model = tiny.with_adapters("finetune")
        todo = sequential_task(model, policy, epochs=3, path_every=1)
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

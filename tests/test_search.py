"""The search: what a trial sets, what it is worth, where the trials and the best of them are kept."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
import tiny
from waiting import wait_for

from pulse_lib import progress, runs
from pulse_lib.commands import draws, end_point, search, trials
from pulse_lib.commands.rounds import RoundFolders
from pulse_lib.data import dataset, splits
from pulse_lib.data.world import source as embedded
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.files import REPOSITORY
from pulse_lib.methods import METHODS, get
from pulse_lib.model.adapters import load_adapter, save_adapter, stack
from pulse_lib.model.load import load_model
from pulse_lib.profile import load_profile, profile_path
from pulse_lib.runs import locks
from pulse_lib.runs.identity import explain, identity
from pulse_lib.strategies import STRATEGIES
from pulse_lib.study import grid
from pulse_lib.unlearn import sequential, single_shot
from pulse_lib.unlearn.sequential import run_sequential

# --- what a trial sets --------------------------------------------------------------------------


def test_trial_zero_is_the_profile_as_it_stands():
    drawn = draws.draw(get("simnpo"), 3e-3, epochs=2, trial=0)
    start = {"learning_rate": 3e-3, "beta": 4.5, "gamma": 0.0, "retain_weight": 1.0}
    assert drawn == start | {"epochs": 2}


@pytest.mark.parametrize("name", METHODS)
def test_trials_stay_in_their_ranges_and_are_the_same_each_time(name):
    method, seen = METHODS[name], []
    for trial in range(1, 30):
        drawn = draws.draw(method, 3e-3, epochs=2, trial=trial)
        assert drawn == draws.draw(method, 3e-3, epochs=2, trial=trial)
        assert list(drawn) == ["learning_rate", *method.hyperparameters, "epochs"]
        slower = min(1, drawn["learning_rate"] / 3e-3)
        assert drawn.pop("epochs") == math.ceil(2 / slower**0.75)
        for key, value in drawn.items():
            start = ({"learning_rate": 3e-3} | method.hyperparameters)[key]
            low, high = draws.FACTORS.get(key, draws.COEFFICIENT)
            assert 0.99 * low * start <= value <= 1.01 * high * start
        method.tuned({k: v for k, v in drawn.items() if k != "learning_rate"})  # is taken
        seen.append(drawn["learning_rate"])
    assert len(set(seen)) > 25


@pytest.mark.parametrize("name", METHODS)
def test_few_trials_see_the_whole_range(name):
    """Of 4, 8 and 16 trials each has its own stratum of the rate, whatever the method."""
    low, high = (math.log(f) for f in draws.FACTORS["learning_rate"])
    for n in (4, 8, 16):
        drawn = [draws.draw(METHODS[name], 1.0, epochs=1, trial=k + 1) for k in range(n)]
        places = [(math.log(d["learning_rate"]) - low) / (high - low) for d in drawn]
        for k, place in enumerate(sorted(places)):  # rates are rounded to 3 digits
            assert k - 0.03 < place * n < k + 1.03


def test_a_profile_says_between_which_rates_is_searched():
    """Spread over its range, whatever rate it begins with; epochs as for any slower run."""
    low, high = 5e-6, 1e-4
    drawn = [
        draws.draw(get("npo"), 2e-5, epochs=4, trial=k + 1, rates=(low, high)) for k in range(8)
    ]
    rates = sorted(d["learning_rate"] for d in drawn)
    assert low * 0.99 <= rates[0] < low * 1.6 and high / 1.6 < rates[-1] <= high * 1.01
    slow = min(drawn, key=lambda d: d["learning_rate"])
    assert slow["epochs"] == math.ceil(4 * (slow["learning_rate"] / 2e-5) ** -draws.PACE)
    own = draws.draw(get("npo"), 2e-5, epochs=4, trial=1)
    assert {**drawn[0], "learning_rate": 0, "epochs": 0} == {**own, "learning_rate": 0, "epochs": 0}
    assert draws.draw(get("npo"), 2e-5, epochs=4, trial=0, rates=(low, high))["epochs"] == 4


def test_real_profiles_search_where_published_grids_lie():
    for name in ("llava-1.5-7b-24gb", "qwen3-vl-8b-24gb", "smolvlm2-2.2b-t4"):
        unlearn = load_profile(name).unlearn
        low, high = draws.rates_of(unlearn)
        assert low <= 1e-5 and high >= 3e-5  # the grid of the nearest search of the field
        assert low <= unlearn.learning_rate <= high
    assert draws.rates_of(load_profile("tiny").unlearn) is None


def test_trials_of_other_rates_are_not_gone_on_with(tmp_path):
    of = trials.TrialSet("smoke", "pretrained", method="ga", trials=1, seed=0, out=tmp_path)
    plain = load_profile("smoke")
    other = replace(plain, unlearn=replace(plain.unlearn, search_from=1e-4, search_to=1e-2))
    of.file.parent.mkdir(parents=True)
    of.file.write_text(json.dumps(trials._mark(of, plain)) + "\n")
    assert trials.read_trials(of, plain) == []
    with pytest.raises(PulseError, match="holds trials of other settings"):
        trials.read_trials(of, other)
    assert "rates" not in trials._mark(of, plain)


def test_towards_an_end_point_no_rate_is_above_the_profiles():
    for trial in range(1, 9):
        drawn = draws.draw(get("npo"), 6e-3, epochs=2, trial=trial, goal="end_point")
        assert 0.99 * 6e-4 <= drawn["learning_rate"] <= 6e-3
        wide = draws.draw(get("npo"), 6e-3, epochs=2, trial=trial)
        assert drawn["beta"] == wide["beta"] and drawn["learning_rate"] != wide["learning_rate"]


def test_methods_and_seeds_draw_their_own():
    rates = {
        draws.draw(get(m), 1.0, epochs=1, trial=1, seed=s)["learning_rate"]
        for m in METHODS
        for s in (0, 1)
    }
    assert len(rates) > 1.8 * len(METHODS)


# --- what it is worth ---------------------------------------------------------------------------

PATH = pd.DataFrame(
    {
        "step": [0, 2, 3],
        "forget_multimodal": [0.9, 0.5, 0.2],
        "forget_text": [0.9, 0.7, 0.4],
        "retain_multimodal": [0.8, 0.8, 0.4],
        "retain_text": [1.0, 0.9, 0.9],
        "general": [0.5, 0.5, 0.4],
        "forget_multimodal_likelihood": [1.0, 0.9, 0.5],
        "forget_text_likelihood": [1.0, 0.9, 0.6],
    }
)


def test_the_score_is_the_mean_share_kept_at_the_matched_step():
    found = trials.score(PATH, 3)
    assert found["score"] == pytest.approx((0.5 + 0.9 + 0.8) / 3)
    assert found["kept_retain_multimodal"] == pytest.approx(0.5) and found["reached"]


def test_a_trial_that_is_not_matched_is_worth_less_the_less_it_forgot():
    assert trials.score(PATH, None) == {"score": pytest.approx(-0.55), "reached": False}
    assert trials.score(PATH.iloc[:2], None)["score"] == pytest.approx(-0.9)
    assert trials.score(PATH, None, by="generation")["score"] == pytest.approx(-0.3)


def test_what_came_of_a_trial_is_told_in_a_line():
    trial = {"reached": True, "step": 12, "score": 0.314, "seconds": 41.2}
    trial["values"] = {"learning_rate": 6e-3, "epochs": 2}
    values = "(learning_rate 0.006, epochs 2; 41 s)"
    assert trials.told(trial) == f"reached at step 12, keeps 0.31 {values}"
    assert trials.told(trial | {"reached": False, "score": -0.6}) == f"not reached, -0.60 {values}"
    failed = trial | {"reached": False, "score": -1.0, "error": "loss is nan"}
    assert trials.told(failed) == f"ended by an error: loss is nan {values}"


def ending(*forget: float, every: int = 5) -> pd.DataFrame:
    """A trajectory with these forget accuracies; general accuracy falls by a tenth a measurement."""
    steps = range(0, every * len(forget), every)
    general = [1 - k / 10 for k in range(len(forget))]
    both = {f"forget_{m}": forget for m in ("multimodal", "text")}
    return pd.DataFrame({"step": steps, "general": general} | both)


def test_an_end_point_is_the_epoch_nearest_to_where_the_paper_ends():
    found = end_point.score_end(ending(0.9, 0.5, 0.3, 0.1), per_epoch=5)
    assert found == {
        "score": pytest.approx(0.8),  # of general, at step 10: 0.076 from 0.224
        "reached": True,
        "kept_general": pytest.approx(0.8),
        "forget": pytest.approx(0.3),
        "step": 10,
        "epochs": 2,
        "crossing": pytest.approx(10 + 5 * 0.076 / 0.2),
        "per_epoch": 5,
    }
    over = end_point.score_end(ending(0.9, 0.6, 0.31, 0.1), per_epoch=5)
    assert not over["reached"] and over["score"] == pytest.approx(-0.086)


def test_an_end_point_within_an_epoch_is_none():
    within = end_point.score_end(ending(0.9, 0.22, 0.0), per_epoch=10)
    assert not within["reached"] and (within["step"], within["epochs"]) == (10, 1)
    stopped = end_point.score_end(ending(0.9, 0.22), per_epoch=10)  # no epoch was done
    assert not stopped["reached"] and stopped["crossing"] == pytest.approx(5 * 0.676 / 0.68)
    never = end_point.score_end(ending(0.9, 0.6), per_epoch=5)
    assert never["crossing"] is None and never["score"] == pytest.approx(-0.376)


def test_a_trial_is_refined_so_that_it_crosses_where_an_epoch_ends():
    trial = {"crossing": 18.0, "per_epoch": 25, "values": {"learning_rate": 6e-3, "epochs": 2}}
    once = end_point.refined(trial)
    assert once["epochs"] == 2  # 18 steps must become 25: slower, and an epoch to spare
    assert once["learning_rate"] == pytest.approx(6e-3 * (18 / 25) ** (10 / 9), rel=1e-2)
    later = end_point.refined(trial | {"crossing": 60.0})
    assert later["epochs"] == 3 and later["learning_rate"] > 6e-3
    exact = end_point.refined(trial | {"crossing": 50.0})
    assert (exact["epochs"], exact["learning_rate"]) == (3, 6e-3)
    assert end_point.refined(trial | {"crossing": None}) is None


def test_an_end_point_is_whole_epochs_of_both_scenarios():
    """25 and 10 steps an epoch: of two epochs of 50 people, five of 20."""
    settings = load_profile("tiny")
    assert end_point.steps_an_epoch(settings) == (25, 10) and end_point.whole_epochs(settings) == 2
    nobody = settings.data.with_values(n_pretrained_forget=0)
    assert end_point.whole_epochs(settings.with_values(data=nobody)) == 1
    path = ending(0.9, 0.22, 0.3)
    assert end_point.score_end(path, per_epoch=5)["epochs"] == 1
    assert end_point.score_end(path, per_epoch=5, unit=2)["epochs"] == 2
    trial = {"crossing": 18.0, "per_epoch": 25, "values": {"learning_rate": 6e-3, "epochs": 2}}
    slower = end_point.refined(trial, 2)
    assert slower["learning_rate"] == pytest.approx(6e-3 * (18 / 50) ** (10 / 9), rel=1e-2)
    assert end_point.refined(trial | {"crossing": 88.0}, 2)["epochs"] == 4 + 1


def test_numbers_of_an_end_point_are_stored_for_every_scenario(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: tiny\n")
    lines = [
        ("ga", 0, 0.9, False, {"learning_rate": 3e-3, "epochs": 1}),
        ("ga", 1, 0.7, True, {"learning_rate": 2e-3, "epochs": 2}),
        ("ga", 2, 0.8, True, {"learning_rate": 1e-3, "epochs": 4}),
    ]
    names = ["method", "trial", "score", "reached", "values"]
    found = pd.DataFrame([(*line[:4], json.dumps(line[4])) for line in lines], columns=names)
    found = found.assign(scenario="finetuned", step=[1, 50, 100], n_steps=100)
    search.store(str(path), found, goal="end_point")
    profile = load_profile(str(path))
    fine, _ = profile.unlearn_for("finetuned", "ga")
    assert (fine.learning_rate, fine.epochs_finetuned) == (1e-3, 4)
    pre, _ = profile.unlearn_for("pretrained", "ga")
    # 4 epochs of 50 people are as many steps as 10 of 20
    assert (pre.learning_rate, pre.epochs_pretrained) == (1e-3, 10)
    assert pre.n_steps(20 * 4, 10) == fine.n_steps(50 * 4, 4) == 100
    in_turn, _ = profile.unlearn_for("finetuned", "ga", strategy="adapter_per_request")
    assert in_turn == fine, "every request has the same numbers and epochs per person"
    assert "paper's run ends" in (tmp_path / "tuned" / "mine.yaml").read_text()


def test_an_end_point_is_searched_once_for_all(tmp_path):
    for given in ({"scenarios": ["pretrained"]}, {"pairs": True}):
        pairs = given.pop("pairs", False)
        options = grid.Options(profile="smoke", out_dir=str(tmp_path / "out"), **given)
        with pytest.raises(PulseError, match="once, on fine-tuned people"):
            search.search(options, pairs=pairs, goal="end_point")
    assert not (tmp_path / "out").exists()


def after(correct: float, likely: float, kept: float) -> pd.DataFrame:
    """Ten questions of each set and modality, these shares answered right."""
    lines = []
    for group, modality in (("forget", "multimodal"), ("forget", "text"), *REST):
        n = 10 * (correct if group == "forget" else kept)
        lines += [
            {"set": group, "modality": modality, "wording": "trained", "invalid": False}
            | {"correct": i < n, "loglik_correct": i < 10 * likely}
            for i in range(10)
        ]
    return pd.DataFrame(lines)


REST = (("retain", "multimodal"), ("retain", "text"), ("general", "multimodal"))


def test_all_requests_are_forgotten_only_if_it_is_so_by_both():
    before = after(1.0, 1.0, 0.8)
    found = trials.score_after(before, after(0.3, 0.3, 0.6), goal=0.35)
    assert found["reached"] and found["score"] == pytest.approx(0.75)
    for other in (after(0.3, 0.4, 0.6), after(0.4, 0.3, 0.6)):
        assert trials.score_after(before, other, goal=0.35) == {
            "score": pytest.approx(-0.4),
            "reached": False,
        }
    said_alone = trials.score_after(before, after(0.3, 0.4, 0.6), goal=0.35, by="generation")
    assert said_alone == found
    text_alone = after(0.3, 0.3, 0.6)
    text = (text_alone["modality"] == "text") & (text_alone["set"] == "forget")
    text_alone.loc[text, "loglik_correct"] = True  # mean of both modalities: 0.65
    assert trials.score_after(before, text_alone, goal=0.35)["score"] == pytest.approx(-0.65)


# --- trials, done once --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and target of a search in the smoke profile, as 01 and 02 would leave them; the
    fine-tune is shaken, not trained.
    """
    out, settings = tmp_path_factory.mktemp("search"), load_profile("smoke")
    people, places = [], []
    for scenario, drawn in (
        ("pretrained", embedded.celebrities(settings.data)[:10]),
        ("finetuned", embedded.fictitious(settings.data)[:9]),
    ):
        people += drawn
        sets = ["forget"] * 4 + ["retain"] * 3 + ["retain_train"] * 3
        for i, (person, name) in enumerate(zip(drawn, sets, strict=False)):
            request = i // 2 + 1 if (scenario, name) == ("finetuned", "forget") else 0
            places.append(splits.Assignment(person.id, scenario, set=name, request=request))
    made = dataset.build_dataset(
        embedded,
        people,
        general=embedded,
        places=places,
        settings=settings.data,
        seed=draws.SEED,
    )
    made.write(runs.run_folder("data", out, seed=draws.SEED))
    model = tiny.with_adapters("finetune", model=load_model(settings.model))
    save_adapter(
        model,
        "finetune",
        folder=runs.run_folder("target", out, seed=draws.SEED) / "adapters" / "finetune",
        parent=None,
    )
    return out


def done(folder, n: int, method: str = "ga_retain") -> list[dict]:
    found = trials.run_trials(
        trials.TrialSet("smoke", "pretrained", method=method, trials=n, seed=draws.SEED, out=folder)
    )
    return [{k: v for k, v in t.items() if k != "seconds"} for t in found]


def test_a_search_for_an_end_point_refines_its_own_trials(folder):
    of = trials.TrialSet(
        "smoke", "finetuned", method="ga", trials=2, seed=draws.SEED, out=folder, goal="end_point"
    )
    assert of.file == folder / "trials-end_point" / "finetuned" / "ga.jsonl"
    first, second = trials.run_trials(of)
    again = end_point.refined(first, end_point.whole_epochs(load_profile("smoke")))
    drawn = draws.draw(get("ga"), 3e-3, epochs=first["n_steps"] // first["per_epoch"], trial=0)
    assert {k: v for k, v in second["values"].items() if k != "epochs"} == {
        k: v for k, v in (again or drawn).items() if k != "epochs"
    }


def test_a_search_goes_on_where_it_was_stopped(folder, tmp_path):
    first = done(folder, 1)
    file = folder / "trials" / "pretrained" / "ga_retain.jsonl"
    kept = file.read_text()
    file.write_text(kept + '{"trial": 1, "cut o')  # killed while it wrote
    both = done(folder, 2)
    assert both[:1] == first and [t["trial"] for t in both] == [0, 1]
    assert file.read_text().startswith(kept)
    epochs = load_profile("smoke").unlearn.epochs_pretrained
    assert both[0]["values"] == draws.draw(get("ga_retain"), 3e-3, epochs=epochs, trial=0)
    shutil.copytree(folder / "data", tmp_path / "data")
    assert done(tmp_path, 2) == both  # one go gives the same


SEARCH = """
from pulse_lib import machine
from pulse_lib.commands import search
from pulse_lib.study import grid

if __name__ == "__main__":
    machine._hear_signals()
    search._prepare = lambda *args, **kwargs: None  # data and target are there
    options = grid.options_from_texts(
        profile={profile!r}, methods="ga_retain", scenarios="pretrained", out_dir={out!r}
    )
    search.search(options, 60, jobs=1)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
def test_a_search_that_is_ended_leaves_nobody_searching(folder, tmp_path, monkeypatch, how):
    """And while it is there, no other makes the same trials."""
    out, script, short = tmp_path / "out", tmp_path / "begin.py", tmp_path / "short.yaml"
    shutil.copytree(folder / "data", out / "data")
    short.write_text("extends: smoke\nunlearn: {epochs_pretrained: 1}\n")
    script.write_text(SEARCH.format(profile=str(short), out=str(out)))
    of = trials.TrialSet(
        str(short), "pretrained", method="ga_retain", trials=60, seed=draws.SEED, out=out
    )
    settings, lock = load_profile(str(short)), of.alone().path
    monkeypatch.setattr(trials, "Lock", functools.partial(locks.Lock, patience=0))
    begun = subprocess.Popen([sys.executable, str(script)], cwd=REPOSITORY, start_new_session=True)
    try:
        wait_for(lambda: trials.read_trials(of, settings))
        with pytest.raises(
            PulseError, match=r"ga_retain.jsonl are being made by another search \("
        ):
            trials.run_trials(of)
        begun.send_signal(how)
        begun.wait(30)
        wait_for(lambda: not locks.is_held(lock))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(begun.pid, signal.SIGKILL)
    kept = trials.read_trials(of, settings)
    assert 0 < len(kept) < 20 and trials.run_trials(replace(of, trials=len(kept))) == kept


def test_a_search_tries_what_an_earlier_one_found(folder, tmp_path, capfd, monkeypatch):
    """So that it never stores worse values than those that stand."""
    profile = tmp_path / "mine.yaml"
    profile.write_text("extends: smoke\ntuned: {pretrained: {ga_retain: {learning_rate: 0.004}}}\n")
    shutil.copytree(folder, tmp_path / "out")
    of = trials.TrialSet(
        str(profile),
        "pretrained",
        method="ga_retain",
        trials=1,
        seed=draws.SEED,
        out=tmp_path / "out",
    )
    of.file.unlink(missing_ok=True)
    settings = load_profile(str(profile))
    assert trials.missing(of, settings) == [0, trials.EARLIER]
    monkeypatch.setattr(progress, "_state", progress._State())
    first, before = trials.run_trials(of)
    said = capfd.readouterr().err.splitlines()
    assert before["trial"] == trials.EARLIER
    assert before["values"] == first["values"] | {"learning_rate": 0.004}
    task = trials.task_of(of, settings)
    unlearn = replace(task.unlearn, learning_rate=0.004)
    assert {k: before[k] for k in ("score", "reached", "step")} == {
        k: v
        for k, v in trials._single_shot(replace(task, unlearn=unlearn), settings).items()
        if k in ("score", "reached", "step")
    }
    assert [line for line in said if "unlearning" not in line] == [
        f"pretrained/ga_retain, {name}: {trials.told(trial)}"
        for name, trial in (("trial 0", first), ("earlier values", before))
    ]
    named = ("pretrained/ga_retain, trial 0: ", "pretrained/ga_retain, earlier values: ")
    assert [line for line in said if not line.startswith(named)] == []
    assert trials.missing(of, settings) == []
    assert trials.missing(replace(of, trials=3), settings) == [1, 2]
    # Found again, it is not tried again
    file = of.file.read_text()
    other = settings.with_values(tuned={"pretrained": {"ga_retain": {"learning_rate": 3e-3}}})
    assert trials.missing(of, other) == [] and of.file.read_text() == file
    # With epochs to spare, as a late match is stored, neither; with fewer, or for what goes another way
    found = trials.read_trials(of, settings)[0] | {"reached": True}
    more = found["values"] | {"epochs": found["values"]["epochs"] + 1}
    fewer = found["values"] | {"epochs": found["values"]["epochs"] - 1}
    covered = [
        trials._covers(found, more, method=get("ga_retain")),
        trials._covers(found | {"reached": False}, more, method=get("ga_retain")),
        trials._covers(found, fewer, method=get("ga_retain")),
        trials._covers(found, more, method=get("saliency")),
    ]
    assert covered == [True, False, False, False]
    to_end = replace(of, goal="end_point")
    assert trials.earlier(to_end, settings) is None
    for name in ("tiny", "tiny-equal"):
        held = load_profile(name)
        for scenario, found in held.tuned.items():
            for key, values in found.items():
                method, _, strategy = key.partition("/")
                of = trials.TrialSet(
                    name, scenario, method=method, trials=1, seed=0, out=tmp_path, strategy=strategy
                )
                assert values.items() <= trials.earlier(of, held).items()


@pytest.mark.parametrize("policy", ["adapter_per_request", "one_adapter", "experts"])
def test_a_sequential_trial_is_a_sequential_run_with_fewer_questions(folder, policy, monkeypatch):
    seen = []

    def noted(task, **given):
        seen.append((task, given))
        return run_sequential(task, **given)

    monkeypatch.setattr(sequential, "run_sequential", noted)
    of = trials.TrialSet(
        "smoke", "sequential", method="npo", trials=1, seed=draws.SEED, out=folder, strategy=policy
    )
    assert of.file == folder / "trials" / "sequential" / f"npo-{policy}.jsonl"
    (found,) = trials.run_trials(of)
    assert (found["scenario"], found["method"]) == ("sequential", f"npo/{policy}")
    settings = load_profile("smoke")
    epochs = settings.unlearn.epochs_finetuned
    assert found["values"] == {"learning_rate": 3e-3, "beta": 0.1, "epochs": epochs}
    ((task, given),) = seen
    assert given == {}  # nothing is kept, on disk or elsewhere
    assert (task.strategy.id, task.target.adapters) == (policy, ("finetune",))
    assert task.method.coefficients == {"beta": 0.1}
    assert task.unlearn == replace(settings.unlearn, path_every=0)
    assert task.epochs == settings.unlearn.epochs_finetuned and len(task.people) == 19
    # The same run again, on a fresh model, kept in a folder, its path measured
    model = load_model(settings.model)
    adapter = runs.run_folder("target", folder, seed=1000) / "adapters" / "finetune"
    load_adapter(model, adapter, name="finetune")
    target = replace(task.target, model=model, folder=adapter)
    again = replace(task, target=target, unlearn=settings.unlearn)
    spec = runs.spec_of(
        "sequential",
        {
            "profile": "smoke",
            "method": "npo",
            "strategy": policy,
            "seed": 1000,
            "out_dir": str(folder / policy),
        },
    )
    started = runs.Started(spec, settings, identity={}, fingerprint="", inputs={})
    rounds = [*run_sequential(again, run=spec.name, store=RoundFolders(started, target))]
    stack(model, ["finetune"])
    answers = answer_questions(model, task.questions, images=task.images, settings=task.evaluate)
    goal = settings.unlearn.matched_at - trials.MARGIN
    expected = trials.score_after(task.scored(answers), rounds[-1].rows, goal=goal)
    assert {k: found[k] for k in expected} == expected
    assert found["step"] == sum(r.final_step for r in rounds)


def test_the_search_trains_on_whom_a_run_would_train_on(folder, tmp_path):
    """`unlearn.retain_source: same` is for trials, too."""
    for source, name in (("same", "retain"), ("retain_train", "retain_train")):
        file = tmp_path / f"{source}.yaml"
        file.write_text(f"extends: smoke\nunlearn: {{retain_source: {source}}}\n")
        settings = load_profile(str(file))
        assert settings.unlearn.retain_source == source
        for scenario, strategy in (("pretrained", ""), ("finetuned", ""), ("sequential", "anchor")):
            of = trials.TrialSet(
                str(file),
                scenario,
                method="ga_klr",
                trials=1,
                seed=draws.SEED,
                out=folder,
                strategy=strategy,
            )
            task = trials.task_of(of, settings)
            assert {c.set for c in task.retain} == {name}
            assert {c.set for c in task.forget} == {"forget"}


@pytest.mark.parametrize("pair", ["oracle", "task_vector/one_adapter", "ga/nowhere"])
def test_a_pair_that_does_not_fit_is_an_error_before_anything_is_made(pair, tmp_path):
    with pytest.raises(PulseError, match=r"cannot be carried out|'nowhere' is not one of"):
        options = grid.Options(profile="smoke", out_dir=str(tmp_path / "out"), sequential=[pair])
        search.search(options, pairs=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("epochs", [2, 30, 300])
def test_a_trial_is_measured_as_often_however_many_steps_it_has(folder, monkeypatch, epochs):
    of = trials.TrialSet("smoke", "finetuned", method="ga", trials=1, seed=draws.SEED, out=folder)
    task, asked = replace(trials.task_of(of, load_profile("smoke")), epochs=epochs), []

    def looks(carried_out):
        asked.append(carried_out.unlearn)
        raise PulseError("seen")

    monkeypatch.setattr(single_shot, "unlearn_single_shot", looks)
    with pytest.raises(PulseError, match="seen"):
        trials._single_shot(task, load_profile("smoke"))
    steps = task.unlearn.n_steps(len(task.forget), epochs)
    n_looks = steps // asked[0].path_every
    assert asked[0].path_dense_below == 0.0  # and none beside
    assert n_looks == steps or trials.N_LOOKS <= n_looks < 2 * trials.N_LOOKS


def test_trials_of_other_settings_are_not_mixed(folder, monkeypatch):
    done(folder, 1, "ga")
    monkeypatch.setattr(trials, "GIVE_UP", 0.9)
    with pytest.raises(PulseError, match=r"ga\.jsonl holds trials of other settings.*--out-dir"):
        done(folder, 2, "ga")


# --- the best, stored ---------------------------------------------------------------------------


def table() -> pd.DataFrame:
    lines = [
        ("finetuned", "l1_lora", 0, 0.5, True, {"learning_rate": 3e-3, "l1": 1e-5}),
        ("finetuned", "l1_lora", 1, 0.7, True, {"learning_rate": 1e-3, "l1": 1e-5}),
        ("finetuned", "l1_lora", 2, 0.7, True, {"learning_rate": 2e-3, "l1": 2e-5}),
        ("pretrained", "l1_lora", 0, 0.4, True, {"learning_rate": 1.25e-10, "l1": 5.6e-6}),
        ("finetuned", "ga", 0, -0.5, False, {"learning_rate": 3e-3}),
        ("finetuned", "ga", 1, -0.4, False, {"learning_rate": 8e-3}),
        ("pretrained", "ga", 0, 0.3, True, {"learning_rate": 9e-3}),
        ("sequential", "ga/experts", 0, 0.9, True, {"learning_rate": 2e-2}),
    ]
    names = ["scenario", "method", "trial", "score", "reached", "values"]
    found = pd.DataFrame([(*line[:5], json.dumps(line[5])) for line in lines], columns=names)
    whole = found["scenario"].map({"finetuned": 50.0, "pretrained": 60.0})
    return found.assign(step=10, n_steps=whole)


def test_the_best_matched_trial_counts_and_the_earlier_of_two():
    assert search.best(table()) == {
        "finetuned": {
            "l1_lora": {"learning_rate": 1e-3, "l1": 1e-5},
            "ga": {"learning_rate": 8e-3},  # neither has forgotten: the nearest to it
        },
        "pretrained": {
            "l1_lora": {"learning_rate": 1.25e-10, "l1": 5.6e-6},
            "ga": {"learning_rate": 9e-3},
        },
        "sequential": {"ga/experts": {"learning_rate": 2e-2}},
    }


def test_a_trial_matched_late_is_stored_with_more_epochs():
    late = table()
    values = {"learning_rate": 1e-3, "l1": 1e-5, "epochs": 2}  # 25 steps each
    late.loc[1, "values"] = json.dumps(values)
    for step, epochs in ((33, 2), (34, 3), (50, 3), (51, 4)):
        late.loc[1, "step"] = step
        assert search.best(late)["finetuned"]["l1_lora"] == values | {"epochs": epochs}
        assert step <= search.SAFE * 25 * epochs + 1e-9
    assert search.best(late, safe=1.0)["finetuned"]["l1_lora"]["epochs"] == 3
    for other in ("task_vector", "saliency"):  # more epochs would be another way
        assert search.best(late.replace("l1_lora", other))["finetuned"][other] == values
    late["n_steps"] = float("nan")  # sequential trials do not end once matched
    assert search.best(late)["finetuned"]["l1_lora"] == values


@pytest.mark.parametrize("name", ["ga_retain", "npo_klr", "rmu", "undial", "l1_lora", "saliency"])
def test_with_more_epochs_a_run_goes_the_same_way_first(folder, name):
    """But for those of which `goes_on` says that they do not."""
    of = trials.TrialSet("smoke", "pretrained", method=name, trials=1, seed=draws.SEED, out=folder)
    rules = {"stop_forget": 0.0, "stop_utility": 0.0, "matched_at": 0.0, "path_every": 1000}
    paths = []
    for more in (0, 1):
        task = trials.task_of(of, load_profile("smoke"))
        epochs = 4 * (1 + more)  # a tenth of their steps is what saliency decides after
        task = replace(task, epochs=epochs, unlearn=replace(task.unlearn, **rules))
        paths.append(single_shot.unlearn_single_shot(task).log["loss"].to_list())
    assert 0 < len(paths[0]) < len(paths[1])
    same = paths[1][: len(paths[0])] == paths[0]
    assert same is trials.goes_on(get(name)) is (name != "saliency")


def test_a_trial_that_failed_is_not_the_best():
    failed = table().assign(error=None)
    failed.loc[failed["method"] == "ga/experts", "error"] = "the loss is nan"
    assert "sequential" not in search.best(failed)


def test_the_best_are_stored_beside_the_profile_and_read_back(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text := profile_path("smoke").read_text())
    stored = search.store(str(path), table())
    assert stored == tmp_path / "tuned" / "mine.yaml"
    once = stored.read_text()
    assert "l1_lora: {learning_rate: 0.001, l1: 1.0e-05}" in once  # YAML reads 1e-05 as text
    assert search.store(str(path), table()) == stored
    assert stored.read_text() == once
    assert path.read_text() == text, "what a person wrote is not edited"
    profile = load_profile(str(path))
    assert profile.tuned_file == stored
    assert profile.tuned == search.best(table())
    unlearn, numbers = profile.unlearn_for("finetuned", "l1_lora")
    assert unlearn.learning_rate == 1e-3 and numbers == {"l1": 1e-5}
    assert get("l1_lora").tuned(numbers).coefficients == {"l1": 1e-5}
    untouched, none = profile.unlearn_for("finetuned", "npo")
    assert untouched == profile.unlearn and none == {}
    # A pair's own numbers, else those of the method in single-shot
    assert profile.unlearn_for("finetuned", "ga", strategy="experts")[0].learning_rate == 2e-2
    assert profile.unlearn_for("finetuned", "l1_lora", strategy="experts")[0].learning_rate == 1e-3


def test_what_a_search_leaves_out_stays_stored(tmp_path):
    """Of other methods, scenarios and pairs; a file that no such search wrote is not written over."""
    path = tmp_path / "mine.yaml"
    path.write_text(profile_path("smoke").read_text())
    whole = table()
    stored = search.store(str(path), whole)
    names = whole[["scenario", "method"]].drop_duplicates()
    assert len(names) > 2
    one = whole[(whole["scenario"] == "finetuned") & (whole["method"] == "l1_lora")]
    other = {"learning_rate": 5e-3, "l1": 2e-5}
    search.store(str(path), one.assign(values=json.dumps(other)))
    expected = search.best(whole)
    expected["finetuned"]["l1_lora"] = other
    assert load_profile(str(path)).tuned == expected
    text = stored.read_text()
    with pytest.raises(PulseError, match="not written by a search of this goal.*--store out"):
        search.store(
            str(path), one.assign(values=json.dumps(other | {"epochs": 1})), goal="end_point"
        )
    stored.write_text("finetuned: {ga: {learning_rate: 0.1}}\n" + text)
    with pytest.raises(PulseError, match="not written by a search"):
        search.store(str(path), whole)


def test_numbers_that_no_run_would_take_are_not_stored(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text := profile_path("smoke").read_text())
    with pytest.raises(PulseError, match="'gone' is not known"):
        search.store(str(path), table().replace({"method": {"l1_lora": "gone"}}))
    assert path.read_text() == text and [p.name for p in tmp_path.iterdir()] == ["mine.yaml"]


def test_what_was_tuned_by_hand_is_not_overwritten(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: smoke\ntuned: {}\n")
    with pytest.raises(PulseError, match="set by hand"):
        search.store(str(path), table())


def test_a_tuned_number_makes_the_runs_of_its_own_method_stale_only(tmp_path):
    plain = tmp_path / "mine.yaml"
    plain.write_text(profile_path("smoke").read_text())
    before = load_profile(str(plain))
    search.store(str(plain), table())
    after = load_profile(str(plain))

    def changed(method: str, scenario: str) -> bool:
        if scenario in STRATEGIES:
            spec = runs.spec_of(
                "sequential",
                {
                    "profile": str(plain),
                    "method": method,
                    "strategy": scenario,
                    "out_dir": str(tmp_path),
                },
            )
        else:
            spec = runs.spec_of(
                "single_shot",
                {
                    "profile": str(plain),
                    "scenario": scenario,
                    "method": method,
                    "out_dir": str(tmp_path),
                },
            )
        found = [identity(spec, p, manifests={}) for p in (before, after)]
        if found[0] == found[1]:
            return False
        assert any(
            "profile unlearn.learning_rate" in r for r in explain(*found, notebook=spec.notebook)
        )
        return True

    assert changed("l1_lora", "finetuned") and changed("ga", "pretrained")
    assert changed("ga", "experts") and changed("l1_lora", "anchor")
    assert not any(changed("npo", where) for where in ("finetuned", "pretrained", "anchor"))


def test_profiles_that_are_shipped_are_tuned_by_the_search_alone():
    params = REPOSITORY / "params"
    for path in params.rglob("*.yaml"):
        assert path.parent.name == "tuned" or "\ntuned:" not in path.read_text(), path.name
    for path in (params / "tuned").glob("*.yaml"):
        assert path.read_text().startswith(search.HEAD[:30]), path.name

"""One trial of a search: what it is worth, and the file that keeps it.

A single-shot trial is a run without the full evaluation that ends once it is matched. A sequential
one carries out all requests and asks fewer questions. Trial 0 is the profile as it stands, without
what a search found; trial EARLIER is what an earlier search found; the others are drawn (draws.py).

With goal `end_point` a trial goes on past the matched state and is worth what it keeps of general
accuracy at the end of the epoch nearest to END_POINT. That is where the paper's runs end; its
comparisons are at equal training, not at equal forgetting. Two of three trials refine the one before.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pulse_lib import progress, runs
from pulse_lib.commands.draws import (
    COEFFICIENT,
    END_FACTORS,
    FACTORS,
    PACE,
    Goal,
    draw,
    rates_of,
)
from pulse_lib.commands.end_point import TOLERANCE, refined, score_end, whole_epochs
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import (
    forget_level,
    likelihoods,
    nan_mean,
    retained_shares,
    summary,
)
from pulse_lib.files import replace_file, show, write_error
from pulse_lib.methods import Method, get
from pulse_lib.profile import MatchedBy, Profile, UnlearnSettings, load_profile
from pulse_lib.report.paper import END_POINT
from pulse_lib.runs.identity import plain
from pulse_lib.runs.kinds import fields
from pulse_lib.runs.locks import Lock, logs_folder, slug
from pulse_lib.strategies import get_strategy

if TYPE_CHECKING:  # torch: loaded by workers only
    from pulse_lib.unlearn.task import Task

EARLIER = -1  # number of the trial of the values that the profile's `tuned` holds
MARGIN = 0.05  # a trial is to bring the forget accuracy this far below `matched_at`
GIVE_UP = 0.05  # a trial ends once less than this share of retain and general is left
N_ASKED = 96  # questions of each set that a sequential trial asks after every request
# Measurements of a whole trial at least, however many steps it has; below 80 steps at each
N_LOOKS = 40
N_MEASURED = 5  # measurements an epoch, with goal end_point


@dataclass(frozen=True)
class TrialSet:
    """The trials of one method in one scenario: what a worker process is given. With a strategy,
    the scenario is profile.SEQUENTIAL.
    """

    profile: str
    scenario: str
    _: KW_ONLY
    method: str
    trials: int
    seed: int
    out: Path  # the study's folder of the search
    strategy: str = ""
    goal: Goal = "matched"

    @property
    def name(self) -> str:
        """The method, or method/strategy."""
        return f"{self.method}/{self.strategy}" if self.strategy else self.method

    @property
    def axes(self) -> dict[str, object]:
        """The parameters of a run's notebook that name it."""
        own = {"strategy": self.strategy} if self.strategy else {"scenario": self.scenario}
        return {"profile": self.profile, "method": self.method, "seed": self.seed} | own

    @property
    def file(self) -> Path:
        """One JSON line a trial, the first line saying of which settings."""
        folder = "trials" if self.goal == "matched" else f"trials-{self.goal}"
        return self.out / folder / self.scenario / f"{self.name.replace('/', '-')}.jsonl"

    def alone(self) -> Lock:
        """The lock of the set: two searches would make the same trials twice."""
        name = slug(self.file.relative_to(self.out).with_suffix("").as_posix())
        busy = f"the trials in {show(self.file)} are being made by another search"
        return Lock(logs_folder(self.out) / f"{name}.lock", busy)


def score(trajectory: pd.DataFrame, matched_step: int | None, *, by: MatchedBy = "both") -> dict:
    """What a trajectory is worth: `score`, the mean share of retain_multimodal, retain_text and
    general accuracy that is left at the matched step, and those shares; minus the lowest forget
    accuracy if no step matched.
    """
    start = trajectory.iloc[0]
    if matched_step is None:
        return {"score": -float(np.nanmin(forget_level(trajectory, by))), "reached": False}
    there = trajectory[trajectory["step"] == matched_step].iloc[0]
    return {"reached": True} | _kept(start, there)


def score_after(
    before: pd.DataFrame, after: pd.DataFrame, *, goal: float, by: MatchedBy = "both"
) -> dict:
    """What rows after all requests are worth: as `score`; forgotten means that the forget accuracy,
    by generation and by likelihood, is at most `goal`; minus it if it is not.
    """
    now = summary(after)
    forget = float(forget_level(now | likelihoods(after), by))
    if not forget <= goal:
        return {"score": -forget, "reached": False}
    return {"reached": True} | _kept(summary(before), now)


def _kept(before: Mapping[str, float], after: Mapping[str, float]) -> dict:
    shares = retained_shares(before, after)
    kept = {f"kept_{name}": share for name, share in shares.items() if not np.isnan(share)}
    return {"score": float(nan_mean(shares.values()))} | kept


def run_trials(of: TrialSet) -> list[dict]:
    """All trials of a set, those that its file holds not again; in a process of its own, which ends
    after a trial once the search is gone. Raises PulseError while another search makes them.
    """
    with of.alone():
        return _run_trials(of)


def _run_trials(of: TrialSet) -> list[dict]:
    os.environ["PULSE_BATCH"] = "1"  # no progress bars
    import torch

    torch.set_num_threads(1)
    settings = load_profile(of.profile)
    known, task = read_trials(of, settings), task_of(of, settings)
    worth = _after_requests if of.strategy else _END[of.goal]
    search = parent_process()
    for number in missing(of, settings):
        if search is not None and not search.is_alive():
            break  # killed: nobody waits for the others
        drawn = _values(of, settings, task=task, number=number, before=known)
        found: dict = {"scenario": of.scenario, "method": of.name, "trial": number}
        name = f"{of.scenario}/{of.name}, {told_number(number)}"
        started = time.monotonic()
        try:
            with progress.belongs_to(name):
                found |= worth(_drawn(task, drawn), settings)
        except PulseError as error:  # a loss that is not finite, say: a result as well
            found |= {"score": -1.0, "reached": False, "error": str(error)}
        # Towards an end point the epochs are those that were found to lead there
        led = found.pop("epochs", None)
        ended = {"epochs": led} if led and found["reached"] else {}
        found |= {"seconds": round(time.monotonic() - started, 1), "values": drawn | ended}
        known.append(found)
        _append(of, settings, trial=found)
        print(f"{name}: {told(found)}", file=sys.stderr, flush=True)
    return known


def _values(
    of: TrialSet, settings: Profile, *, task: Task, number: int, before: Sequence[Mapping]
) -> dict[str, float]:
    """What a trial sets, by its number and the trials before it."""
    if number == EARLIER and (found := earlier(of, settings)):
        return found
    ends = of.goal == "end_point"
    drawn = draw(
        task.method,
        task.unlearn.learning_rate,
        epochs=task.epochs,
        trial=number // 3 if ends else number,
        seed=of.seed,
        strategy=of.strategy,
        goal=of.goal,
        rates=rates_of(settings.unlearn),
    )
    finer = refined(before[-1], whole_epochs(settings)) if ends and number % 3 else None
    return finer or drawn


def told_number(number: int) -> str:
    """A trial as a line of the log calls it."""
    return "earlier values" if number == EARLIER else f"trial {number}"


def told(trial: Mapping) -> str:
    """What came of a trial, in a few words."""
    tried = ", ".join(f"{name} {value:g}" for name, value in trial["values"].items())
    if error := trial.get("error"):
        came = f"ended by an error: {error}"
    elif trial["reached"]:
        came = f"reached at step {trial['step']}, keeps {trial['score']:.2f}"
    else:
        came = f"not reached, {trial['score']:.2f}"
    return f"{came} ({tried}; {trial['seconds']:.0f} s)"


def missing(of: TrialSet, settings: Profile) -> list[int]:
    """Numbers of the trials that the set's file does not hold yet."""
    known = read_trials(of, settings)
    held = {t["trial"] for t in known}
    numbers = [n for n in range(of.trials) if n not in held]
    found = earlier(of, settings)
    tried = found is None or any(_covers(t, found, method=get(of.method)) for t in known)
    return numbers if tried else [*numbers, EARLIER]


def _covers(trial: Mapping, values: Mapping[str, float], *, method: Method) -> bool:
    """Whether a trial had these values; as many epochs as led to its match are enough."""
    had = trial["values"]
    enough = trial["reached"] and goes_on(method) and had["epochs"] <= values["epochs"]
    return had == {**values, "epochs": had["epochs"] if enough else values["epochs"]}


def goes_on(method: Method) -> bool:
    """Whether a run of more epochs begins as one of fewer does: not where all steps come before what
    is measured, or where a share of them decides.
    """
    return method.procedure == "train" and "mask" not in method.needs


def earlier(of: TrialSet, settings: Profile) -> dict[str, float] | None:
    """What the profile's `tuned` holds for a set, as `draw` gives it, so that a search never ends with
    worse values than it began with; None if it holds nothing, and towards an end point.
    """
    values = settings.tuned.get(of.scenario, {}).get(of.name)
    if not values or of.goal == "end_point":
        return None
    scenario = "finetuned" if of.strategy else of.scenario
    unlearn, _ = settings.unlearn_for(scenario, of.method, strategy=of.strategy)
    own = get(of.method).hyperparameters
    return {
        "learning_rate": unlearn.learning_rate,
        **{name: values.get(name, start) for name, start in own.items()},
        "epochs": unlearn.epochs_finetuned
        if scenario == "finetuned"
        else unlearn.epochs_pretrained,
    }


def task_of(of: TrialSet, settings: Profile) -> Task:
    """What every trial of a set carries out, as the notebooks would with a profile that nothing was
    found for yet.
    """
    from pulse_lib.data.dataset import read_dataset
    from pulse_lib.unlearn.task import Target, Task

    scenario = "finetuned" if of.strategy else of.scenario
    folder = runs.run_folder("target", of.out, seed=of.seed)
    target = Target.load(settings, scenario, seed=of.seed, folder=folder)
    return Task.of(
        replace(settings, tuned={}),
        read_dataset(runs.run_folder("data", of.out, seed=of.seed)),
        target=target,
        method=of.method,
        strategy=of.strategy,
    )


def _drawn(task: Task, drawn: Mapping[str, float]) -> Task:
    """The task with what a trial sets."""
    rest = dict(drawn)
    unlearn = replace(task.unlearn, learning_rate=rest.pop("learning_rate"))
    epochs = int(rest.pop("epochs"))
    return replace(task, unlearn=unlearn, epochs=epochs, method=task.method.tuned(rest))


def _single_shot(task: Task, _settings: Profile) -> dict:
    from pulse_lib.unlearn.single_shot import unlearn_single_shot

    rules = {
        "path_every": max(1, _n_steps(task) // N_LOOKS),
        "path_dense_below": 0.0,
        "stop_forget": _goal(task.unlearn),
        "stop_utility": GIVE_UP,
    }
    outcome = unlearn_single_shot(replace(task, unlearn=replace(task.unlearn, **rules)))
    step = outcome.matched_step or outcome.final_step
    worth = score(outcome.trajectory, outcome.matched_step, by=task.unlearn.matched_by)
    return worth | {"step": step, "n_steps": _n_steps(task)}


def _to_the_end(task: Task, settings: Profile) -> dict:
    from pulse_lib.unlearn.single_shot import unlearn_single_shot

    per_epoch = task.unlearn.n_steps(len(task.forget), 1)
    rules = {
        "path_every": max(1, per_epoch // N_MEASURED),
        "path_dense_below": 0.0,
        "matched_at": 0.0,  # no state is looked for
        "stop_forget": max(END_POINT - 2 * TOLERANCE, 0.0),
        "matched_by": "generation",
    }
    asking = replace(task, unlearn=replace(task.unlearn, **rules))
    trajectory = unlearn_single_shot(asking).trajectory
    worth = score_end(trajectory, per_epoch, unit=whole_epochs(settings))
    return worth | {"n_steps": _n_steps(task)}


_END = {"matched": _single_shot, "end_point": _to_the_end}


def _n_steps(task: Task) -> int:
    return task.unlearn.n_steps(len(task.forget), task.epochs)


def _after_requests(task: Task, _settings: Profile) -> dict:
    from pulse_lib.evaluate.generate import answer_questions
    from pulse_lib.model.adapters import stack
    from pulse_lib.unlearn.sequential import run_sequential
    from pulse_lib.unlearn.trajectory import trajectory_questions

    questions = trajectory_questions(task.questions, N_ASKED, seed=task.seed)
    task = replace(task, questions=questions, unlearn=replace(task.unlearn, path_every=0))
    stack(task.model, task.target.adapters)
    answers = answer_questions(task.model, questions, images=task.images, settings=task.evaluate)
    rounds = list(run_sequential(task))
    goal, by = _goal(task.unlearn), task.unlearn.matched_by
    worth = score_after(task.scored(answers), rounds[-1].rows, goal=goal, by=by)
    return worth | {"step": sum(r.final_step for r in rounds)}


def _goal(unlearn: UnlearnSettings) -> float:
    """The forget accuracy that a trial is to come down to."""
    return max(unlearn.matched_at - MARGIN, 0.0)


def _mark(of: TrialSet, settings: Profile) -> object:
    """What all trials of a file have in common."""
    kind = "sequential" if of.strategy else "single_shot"
    bare = settings.with_values(tuned={})
    own: dict[str, object] = {}
    if of.strategy:
        held = dict(get_strategy(of.strategy).coefficients)
        own = {"policy": of.strategy, "coefficients": held, "n_asked": N_ASKED}
    elif of.goal == "matched":
        own = {"n_looks": N_LOOKS}
    else:
        own = {"goal": [END_POINT, TOLERANCE, N_MEASURED, END_FACTORS]}
    if rates := rates_of(settings.unlearn):  # only then: trials of earlier versions stay theirs
        own["rates"] = rates
    return plain(
        own
        | {
            "scenario": of.scenario,
            "method": get(of.method).describe(),
            "profile": fields(kind, runs.spec_of(kind, of.axes).parameters, profile=bare),
            "seed": of.seed,
            "factors": [FACTORS, COEFFICIENT, PACE, MARGIN, GIVE_UP],
        }
    )


def read_trials(of: TrialSet, settings: Profile) -> list[dict]:
    """Trials in the set's file, a line that a kill has cut off left out."""
    try:
        text = of.file.read_text()
    except FileNotFoundError:
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    if len(lines) and json.loads(lines[0]) != _mark(of, settings):
        raise PulseError(
            f"{show(of.file)} holds trials of other settings: delete it to search anew, or name "
            "another folder with --out-dir"
        )
    return [json.loads(line) for line in lines[1:]]


def _append(of: TrialSet, settings: Profile, *, trial: Mapping) -> None:
    """The file is written whole each time, by rename: it is small."""
    lines = [json.dumps(_mark(of, settings))]
    lines += [json.dumps(t) for t in [*read_trials(of, settings), trial]]
    try:
        of.file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, of.file) from None
    replace_file(of.file, lambda tmp: tmp.write_text("\n".join(lines) + "\n"))

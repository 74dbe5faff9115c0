"""One trial of a search: what it sets, what it is worth, and the file that keeps it.

A single-shot trial is a run without the full evaluation that ends once it is matched. A sequential
one carries out all requests and asks fewer questions. Trial 0 is the profile as it stands; the
others multiply the learning rate, the retain weight and the method's coefficients by factors drawn
log-uniformly from FACTORS.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from pulse_lib import runs
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import (
    both_modalities,
    forget_accuracies,
    nan_mean,
    retained_shares,
    summary,
)
from pulse_lib.files import replace_file, show, write_error
from pulse_lib.methods import Method, get
from pulse_lib.profile import Profile, UnlearnSettings, load_profile

SEED = 1000  # of the dataset, the target and the adapters that are searched on
FACTORS = {"learning_rate": (0.1, 3.0), "retain_weight": (0.3, 30.0)}
COEFFICIENT = (1 / 3, 3.0)  # every number of a method that FACTORS does not name
MARGIN = 0.05  # a trial is to bring the forget accuracy this far below `matched_at`
GIVE_UP = 0.4  # a trial ends once less than this share of retain and general is left
N_ASKED = 96  # questions of each set that a sequential trial asks after every request


@dataclass(frozen=True)
class Task:
    """The trials of one method in one scenario: what a worker process is given. With a policy, the
    scenario is params.SEQUENTIAL.
    """

    profile: str
    scenario: str
    method: str
    trials: int
    seed: int
    out: Path  # the study's folder of the search
    policy: str = ""

    @property
    def name(self) -> str:
        """The method, or method/policy."""
        return f"{self.method}/{self.policy}" if self.policy else self.method

    @property
    def file(self) -> Path:
        """One JSON line a trial, the first line saying of which settings."""
        return self.out / "trials" / self.scenario / f"{self.name.replace('/', '-')}.jsonl"


def draw(
    method: Method, learning_rate: float, trial: int, seed: int = SEED, policy: str = ""
) -> dict[str, float]:
    """What a trial sets: learning_rate and the method's numbers, rounded to 3 digits. Trial 0
    changes nothing; a number that is 0 stays 0.
    """
    start = {"learning_rate": learning_rate} | method.hyperparameters
    if trial == 0:
        return start
    generator = np.random.default_rng([seed, trial, *f"{method.id}{policy}".encode()])
    drawn = {}
    for name, value in start.items():
        low, high = FACTORS.get(name, COEFFICIENT)
        factor = np.exp(generator.uniform(np.log(low), np.log(high)))
        drawn[name] = float(f"{value * factor:.3g}")
    return drawn


def score(path: pd.DataFrame, matched_step: int | None) -> dict:
    """What a path is worth: `score`, the mean share of retain_multimodal, retain_text and general
    accuracy that is left at the matched step, and those shares; minus the lowest forget accuracy if
    no step matched.
    """
    start = path.iloc[0]
    if matched_step is None:
        return {"score": -float(np.nanmin(both_modalities(path))), "reached": False}
    there = path[path["step"] == matched_step].iloc[0]
    return {"reached": True} | _kept(start, there)


def score_after(before: pd.DataFrame, after: pd.DataFrame, goal: float) -> dict:
    """What rows after all requests are worth: as `score`, but forgotten means that every forget
    accuracy, by generation and by likelihood, is at most `goal`; minus the largest if one is not.
    """
    highest = max(forget_accuracies(after).values())
    if not highest <= goal:
        return {"score": -highest, "reached": False}
    return {"reached": True} | _kept(summary(before), summary(after))


def _kept(before: Mapping[str, float], after: Mapping[str, float]) -> dict:
    shares = retained_shares(before, after)
    kept = {f"kept_{name}": share for name, share in shares.items() if not np.isnan(share)}
    return {"score": float(nan_mean(shares.values()))} | kept


def run_trials(task: Task) -> list[dict]:
    """All trials of a task, those that its file holds not again; in a process of its own."""
    os.environ["PULSE_BATCH"] = "1"  # no progress bars
    import torch

    from pulse_lib.data.dataset import read_dataset
    from pulse_lib.model.adapters import load_adapter
    from pulse_lib.model.load import load_model

    torch.set_num_threads(1)
    settings = load_profile(task.profile)
    known = read_trials(task, settings)
    data = read_dataset(runs.data_folder(task.out, task.seed))
    model, target = load_model(settings.model), []
    if task.scenario != "pretrained":
        target = ["finetune"]
        folder = runs.target_folder(task.out, task.seed) / "adapters" / "finetune"
        load_adapter(model, folder, "finetune")
    trial = _after_requests if task.policy else _single_shot
    for number in range(len(known), task.trials):
        rate = settings.unlearn.learning_rate
        drawn = draw(get(task.method), rate, number, task.seed, task.policy)
        found = {"scenario": task.scenario, "method": task.name, "trial": number}
        started = time.monotonic()
        try:
            found |= trial(task, settings, data, model, target, drawn)
        except PulseError as error:  # a loss that is not finite, say: a result as well
            found |= {"score": -1.0, "reached": False, "error": str(error)}
        found |= {"seconds": round(time.monotonic() - started, 1), "values": drawn}
        known.append(found)
        _append(task, settings, found)
    return known


def _single_shot(task: Task, settings: Profile, data, model, target: list[str], drawn) -> dict:
    from pulse_lib.unlearn.single_shot import unlearn_single_shot

    outcome = unlearn_single_shot(
        model,
        task.method,
        target=target,
        forget=data.training(task.scenario, ["forget"], "unlearn"),
        retain_train=data.training(task.scenario, ["retain_train"], "unlearn"),
        questions=data.evaluation(task.scenario),
        images=data.images,
        epochs=getattr(settings.unlearn, f"epochs_{task.scenario}"),
        unlearn=_short(settings.unlearn, drawn["learning_rate"]),
        evaluate=settings.evaluate,
        seed=task.seed,
        tuned=_numbers(drawn),
    )
    step = outcome.matched_step or outcome.final_step
    return score(outcome.path, outcome.matched_step) | {"step": step}


def _after_requests(task: Task, settings: Profile, data, model, target: list[str], drawn) -> dict:
    from pulse_lib.evaluate.generate import answer_questions
    from pulse_lib.evaluate.rows import make_rows
    from pulse_lib.model.adapters import stack
    from pulse_lib.unlearn.sequential import run_sequential
    from pulse_lib.unlearn.trajectory import trajectory_questions

    stack(model, target)
    questions = trajectory_questions(data.evaluation("finetuned"), N_ASKED, task.seed)
    answers = answer_questions(model, questions, data.images, settings.evaluate)
    rules, whose = settings.evaluate.extraction_rules, {"run": "", "scenario": "finetuned"}
    before = make_rows(questions, answers, rules, **whose, state="before", seed=task.seed)
    with TemporaryDirectory(dir=task.out) as folder:
        spec = runs.sequential_run(
            task.profile, task.method, task.policy, seed=task.seed, out_dir=folder
        )
        outcome = run_sequential(
            model,
            task.method,
            started=runs.Started(spec, settings, {}, "", {}),
            policy=task.policy,
            target=target,
            forget=data.training("finetuned", ["forget"], "unlearn"),
            retain_train=data.training("finetuned", ["retain_train"], "unlearn"),
            questions=questions,
            images=data.images,
            before=before,
            epochs=settings.unlearn.epochs_finetuned,
            unlearn=replace(settings.unlearn, learning_rate=drawn["learning_rate"], path_every=0),
            evaluate=settings.evaluate,
            order=0,
            seed=task.seed,
            tuned=_numbers(drawn),
            people=data.people,
        )
    after = outcome.rows[outcome.rows["round"] == len(outcome.requests)]
    worth = score_after(before, after, _goal(settings.unlearn))
    return worth | {"step": outcome.result()["final_step"]}


def _numbers(drawn: Mapping[str, float]) -> dict[str, float]:
    return {k: v for k, v in drawn.items() if k != "learning_rate"}


def _short(unlearn: UnlearnSettings, learning_rate: float) -> UnlearnSettings:
    return replace(
        unlearn,
        learning_rate=learning_rate,
        stop_forget=_goal(unlearn),
        stop_utility=GIVE_UP,
    )


def _goal(unlearn: UnlearnSettings) -> float:
    """The forget accuracy that a trial is to come down to."""
    return max(unlearn.matched_at - MARGIN, 0.0)


def _mark(task: Task, settings: Profile) -> dict:
    """What all trials of a file have in common."""
    if task.policy:
        spec = runs.sequential_run(task.profile, task.method, task.policy, seed=task.seed)
    else:
        spec = runs.single_shot_run(task.profile, task.scenario, task.method, seed=task.seed)
    bare = settings.as_dict() | {"tuned": {}}
    own = {"policy": task.policy, "n_asked": N_ASKED} if task.policy else {}
    return runs.plain(
        own
        | {
            "scenario": task.scenario,
            "method": get(task.method).describe(),
            "profile": runs.relevant(spec.kind, spec.parameters, bare),
            "seed": task.seed,
            "factors": [FACTORS, COEFFICIENT, MARGIN, GIVE_UP],
        }
    )


def read_trials(task: Task, settings: Profile) -> list[dict]:
    """Trials in the task's file, a line that a kill has cut off left out."""
    try:
        text = task.file.read_text()
    except FileNotFoundError:
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    if len(lines) and json.loads(lines[0]) != _mark(task, settings):
        raise PulseError(
            f"{show(task.file)} holds trials of other settings: delete it to search anew, or name "
            "another folder with --out-dir"
        )
    return [json.loads(line) for line in lines[1:]]


def _append(task: Task, settings: Profile, trial: Mapping) -> None:
    """The file is written whole each time, by rename: it is small."""
    lines = [json.dumps(_mark(task, settings))]
    lines += [json.dumps(t) for t in [*read_trials(task, settings), trial]]
    try:
        task.file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, task.file) from None
    replace_file(task.file, lambda tmp: tmp.write_text("\n".join(lines) + "\n"))

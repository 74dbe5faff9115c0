"""Searching learning rate and coefficients, with the same budget for every method, on a seed that
is not reported: python -m pulse_lib search.

A trial is a single-shot run, without the full evaluation, that ends once it is matched. Its score
is the share of retain and general accuracy that is left there, so methods are compared at equal
forgetting. Trial 0 is the profile as it stands; the others multiply the learning rate, the retain
weight and the method's coefficients by factors drawn log-uniformly from FACTORS.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from pulse_lib import runs, study
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import KEPT
from pulse_lib.files import replace_file, show, write_csv, write_error
from pulse_lib.params import Profile, UnlearnSettings, load_profile, profile_path
from pulse_lib.unlearn.methods import Method, get

SEED = 1000  # of the dataset, the target and the adapters that are searched on
FACTORS = {"learning_rate": (0.1, 3.0), "retain_weight": (0.3, 30.0)}
COEFFICIENT = (1 / 3, 3.0)  # every number of a method that FACTORS does not name
MARGIN = 0.05  # a trial goes on until the forget accuracy is this far below `matched_at`
GIVE_UP = 0.4  # a trial ends once less than this share of retain and general is left
START = "# --- found by `python -m pulse_lib search`; written anew by --store ---"


@dataclass(frozen=True)
class Task:
    """The trials of one method in one scenario: what a worker process is given."""

    profile: str
    scenario: str
    method: str
    trials: int
    seed: int
    out: Path  # the study's folder of the search

    @property
    def file(self) -> Path:
        """One JSON line a trial, the first line saying of which settings."""
        return self.out / "trials" / self.scenario / f"{self.method}.jsonl"


def draw(method: Method, learning_rate: float, trial: int, seed: int = SEED) -> dict[str, float]:
    """What a trial sets: learning_rate and the method's numbers, rounded to 3 digits. Trial 0
    changes nothing; a number that is 0 stays 0.
    """
    start = {"learning_rate": learning_rate} | method.numbers
    if trial == 0:
        return start
    generator = np.random.default_rng([seed, trial, *method.id.encode()])
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
        forget = path[["forget_multimodal", "forget_text"]].mean(axis=1)
        return {"score": -float(forget.min()), "reached": False}
    there = path[path["step"] == matched_step].iloc[0]
    kept = {name: float(there[name] / start[name]) for name in KEPT if start[name] > 0}
    mean = float(np.mean(list(kept.values()))) if kept else float("nan")
    return {"score": mean, "reached": True} | {f"kept_{k}": v for k, v in kept.items()}


def search(
    profile: str = "tiny",
    methods: Sequence[str] = (),
    scenarios: Sequence[str] = ("finetuned", "pretrained"),
    trials: int = 10,
    seed: int = SEED,
    out_dir: str = "",
    jobs: int = 2,
    log=print,
) -> pd.DataFrame:
    """Do the trials that are not done yet and return all: scenario, method, trial, score, reached,
    kept_*, step, seconds, then the values tried. Written to <out>/trials.csv too.

    Data and target of `seed` are made by their notebooks first, in a study folder of the search's
    own (outputs/<profile>-search), so that no analysis counts them. Raises PulseError for a file of
    trials made with other settings.
    """
    settings = load_profile(profile)
    out = runs.out_folder(profile, out_dir or str(Path("outputs") / f"{settings.name}-search"))
    _prepare(profile, scenarios, seed, out, settings, log)
    tasks = [
        Task(profile, scenario, method, trials, seed, out)
        for scenario in scenarios
        for method in methods
        if get(method).how != "retrain"  # nothing to tune: it is fine-tuned as the target is
    ]
    todo = [task for task in tasks if len(_read(task, settings)) < trials]
    if todo:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            for done in as_completed([pool.submit(run_trials, task) for task in todo]):
                best = max(done.result(), key=lambda t: t["score"])
                log(
                    f"{best['scenario']}/{best['method']}: best {best['score']:.3f} {best['values']}"
                )
    found = [trial for task in tasks for trial in _read(task, settings)]
    table = pd.DataFrame([t | {"values": json.dumps(t["values"])} for t in found])
    write_csv(out / "trials.csv", table)
    return table


def _prepare(
    profile: str, scenarios: Sequence[str], seed: int, out: Path, settings: Profile, log
) -> None:
    from pulse_lib.notebook import run_notebook

    specs = [study.data_run(profile, seed, str(out))]
    if "finetuned" in scenarios:
        specs.append(study.target_run(profile, seed, str(out)))
    for spec in specs:
        if runs.status(spec, settings).state != "done":
            log(f"{spec.notebook}, seed {seed}")
            run_notebook(spec.notebook, dict(spec.parameters), None, echo=False)


def run_trials(task: Task) -> list[dict]:
    """All trials of a task, those that its file holds not again; in a process of its own."""
    os.environ["PULSE_BATCH"] = "1"  # no progress bars
    import torch

    from pulse_lib.data.dataset import read_dataset
    from pulse_lib.model.adapters import load_adapter
    from pulse_lib.model.load import load_model

    torch.set_num_threads(1)
    settings = load_profile(task.profile)
    known = _read(task, settings)
    data = read_dataset(runs.data_folder(task.out, task.seed))
    model, target = load_model(settings.model), []
    if task.scenario == "finetuned":
        target = ["finetune"]
        folder = runs.target_folder(task.out, task.seed) / "adapters" / "finetune"
        load_adapter(model, folder, "finetune")
    for number in range(len(known), task.trials):
        drawn = draw(get(task.method), settings.unlearn.learning_rate, number, task.seed)
        trial = _trial(task, settings, data, model, target, drawn) | {"trial": number}
        known.append(trial)
        _append(task, settings, trial)
    return known


def _trial(task: Task, settings: Profile, data, model, target: list[str], drawn: dict) -> dict:
    from pulse_lib.unlearn.single_shot import unlearn_single_shot

    started = time.monotonic()
    numbers = {k: v for k, v in drawn.items() if k != "learning_rate"}
    found = {"scenario": task.scenario, "method": task.method, "trial": 0, "score": -1.0}
    try:
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
            tuned=numbers,
        )
    except PulseError as error:  # a loss that is not finite, say: a result as well
        return found | {"reached": False, "error": str(error), "values": drawn}
    return (
        found
        | score(outcome.path, outcome.matched_step)
        | {
            "step": outcome.matched_step or outcome.final_step,
            "seconds": round(time.monotonic() - started, 1),
            "values": drawn,
        }
    )


def _short(unlearn: UnlearnSettings, learning_rate: float) -> UnlearnSettings:
    goal = max(unlearn.matched_at - MARGIN, 0.0)
    return replace(unlearn, learning_rate=learning_rate, stop_forget=goal, stop_utility=GIVE_UP)


def best(table: pd.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    """scenario -> method -> values of its best trial that was matched; a method none of whose
    trials was is left out.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (scenario, method), trials in table[table["reached"]].groupby(
        ["scenario", "method"], sort=False
    ):
        top = trials.sort_values(["score", "trial"], ascending=[False, True]).iloc[0]
        found.setdefault(scenario, {})[method] = json.loads(top["values"])
    return found


def store(profile: str, table: pd.DataFrame) -> Path:
    """Write the best trials into the profile's file, below the line START (what stood there is
    replaced); everything above, comments included, stays as it is.
    """
    path = profile_path(profile)
    above = path.read_text().partition(START)[0].rstrip()
    if re.search(r"^tuned:", above, re.MULTILINE):
        raise PulseError(f"{show(path)}: `tuned` is set by hand; remove it, or leave --store out")
    n, method = table.groupby(["scenario", "method"]).size().max(), table["method"].nunique()
    lines = [START, f"# best of {n} trials for each of {method} methods, by what is kept of retain"]
    lines += ["# and general accuracy at the matched step; seed not reported", "tuned:"]
    for scenario, methods in best(table).items():
        lines.append(f"  {scenario}:")
        for name, values in methods.items():
            lines.append(f"    {name}: {{{', '.join(f'{k}: {v!r}' for k, v in values.items())}}}")
    # YAML reads 1e-05 as text
    text = re.sub(r"\b(\d)e-", r"\1.0e-", "\n".join(lines))
    replace_file(path, lambda tmp: tmp.write_text(f"{above}\n\n{text}\n"))
    load_profile(profile)
    return path


def _mark(task: Task, settings: Profile) -> dict:
    """What all trials of a file have in common."""
    spec = study.single_shot_run(task.profile, task.scenario, task.method, seed=task.seed)
    bare = settings.as_dict() | {"tuned": {}}
    return runs.plain(
        {
            "scenario": task.scenario,
            "method": get(task.method).describe(),
            "profile": runs.relevant(spec.kind, spec.parameters, bare),
            "seed": task.seed,
            "factors": [FACTORS, COEFFICIENT, MARGIN, GIVE_UP],
        }
    )


def _read(task: Task, settings: Profile) -> list[dict]:
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
    lines += [json.dumps(t) for t in [*_read(task, settings), trial]]
    try:
        task.file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(error, task.file) from None
    replace_file(task.file, lambda tmp: tmp.write_text("\n".join(lines) + "\n"))

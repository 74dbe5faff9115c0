"""Searching learning rate and coefficients, with the same budget for every method, on a seed that
is not reported: python -m pulse_lib search.

The score of a trial is the share of retain and general accuracy that is left once it has forgotten,
so methods are compared at equal forgetting. With goal `end_point`, numbers are found once, on
fine-tuned people, and stored for all scenarios: equal training. Trials:
pulse_lib/commands/trials.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context
from pathlib import Path

import pandas as pd

from pulse_lib import runs
from pulse_lib.commands.draws import SEED, Goal
from pulse_lib.commands.end_point import steps_an_epoch
from pulse_lib.commands.trials import (
    TrialSet,
    goes_on,
    missing,
    read_trials,
    run_trials,
    told,
    told_number,
)
from pulse_lib.errors import PulseError
from pulse_lib.files import replace_file, show, write_csv
from pulse_lib.methods import get
from pulse_lib.profile import (
    SEQUENTIAL,
    Profile,
    load_profile,
    profile_path,
    tuned_path,
    yaml_file,
)
from pulse_lib.report.paper import END_POINT
from pulse_lib.runs.kinds import out_folder
from pulse_lib.strategies import check_fits, get_strategy
from pulse_lib.study import grid

SAFE = 2 / 3  # share of a whole run's steps after which it is to be matched, on the search's seed
EQUAL_HEAD = """\
# Found by `python -m pulse_lib search --goal end_point`, stored by --store: best of {n} trials for each
# method on fine-tuned people, by what is kept of general accuracy where the paper's run ends (forget accuracy
# near {end}); the same numbers in every scenario and request. Epochs in scenario pretrained: as many steps as for
# fine-tuned people, who are more. On a seed that is not reported. What a later search leaves out stays.
"""
HEAD = """\
# Found by `python -m pulse_lib search`, stored by --store: best of {n} trials for each method and
# scenario, by what is kept of retain and general accuracy once it has forgotten, else the nearest to it;
# on a seed that is not reported. What a later search leaves out stays as it was.
"""


def search(
    options: grid.Options,
    trials: int = 10,
    *,
    seed: int = SEED,
    jobs: int = 2,
    pairs: bool = False,
    goal: Goal = "matched",
    log: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Do the trials that are not done yet and return all: scenario, method, trial, score, reached,
    kept_*, step, seconds, the values tried, n_steps (of a whole single-shot run). Written to
    <out>/trials.csv too. With `pairs`, those of options.sequential as well,
    method/strategy, whose scenario is SEQUENTIAL. With goal end_point, scenario finetuned alone.

    Data and target of `seed` are made by their notebooks first, in a study folder of the search's
    own (outputs/<profile>-search), so that no analysis counts them. Raises PulseError for a file of
    trials made with other settings or by another search right now, and for a pair that does not fit.
    """
    profile, scenarios, methods = options.profile, options.scenarios, options.methods
    if goal == "end_point":
        if pairs or "finetuned" not in scenarios:
            raise PulseError(
                "goal = end_point finds numbers once, on fine-tuned people, for every scenario and "
                "request: leave --pairs out, and scenario finetuned in"
            )
        scenarios = ["finetuned"]
    settings = load_profile(profile)
    out = out_folder(profile, options.out_dir or str(Path("outputs") / f"{settings.name}-search"))
    asked = (options.sequential or ()) if pairs else ()
    sequential = [grid.method_and_strategy(pair) for pair in asked]
    for method, strategy in sequential:
        check_fits(get(method), get_strategy(strategy))
    _prepare(
        profile,
        "finetuned" in scenarios or bool(sequential),
        seed=seed,
        out=out,
        settings=settings,
        log=log,
    )
    sets = [
        TrialSet(profile, scenario, method=method, trials=trials, seed=seed, out=out, goal=goal)
        for scenario in scenarios
        for method in methods
        if get(method).procedure != "retrain"  # nothing to tune: it is fine-tuned as the target is
    ]
    sets += [
        TrialSet(profile, SEQUENTIAL, method=m, trials=trials, seed=seed, out=out, strategy=s)
        for m, s in sequential
    ]
    todo = [of for of in sets if missing(of, settings)]
    for of in todo:
        with of.alone():  # another search is named before a worker begins
            pass
    if todo:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            submitted = [pool.submit(run_trials, of) for of in todo]
            try:
                for n, done in enumerate(as_completed(submitted), start=1):
                    top = max(done.result(), key=lambda t: t["score"])
                    name = f"{top['scenario']}/{top['method']}"
                    log(
                        f"{n} of {len(todo)} done, {name}: {told_number(top['trial'])}, {told(top)}"
                    )
            except KeyboardInterrupt:  # or SIGTERM, which the workers have not heard
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in active_children():
                    worker.terminate()
                raise
    found = [
        trial | {"values": json.dumps(trial["values"])}
        for of in sets
        for trial in read_trials(of, settings)
        if trial["trial"] < trials
    ]
    table = pd.DataFrame(found)
    write_csv(out / ("trials.csv" if goal == "matched" else f"trials-{goal}.csv"), table)
    return table


def _prepare(
    profile: str, with_target: bool, *, seed: int, out: Path, settings: Profile, log
) -> None:
    from pulse_lib.study.notebook import run_notebook

    shared = {"profile": profile, "seed": seed, "out_dir": str(out)}
    specs = [runs.spec_of("data", shared)]
    if with_target:
        specs.append(runs.spec_of("target", shared))
    for spec in specs:
        if runs.status(spec, settings).state != "done":
            log(f"{spec.notebook}, seed {seed}")
            run_notebook(spec.notebook, dict(spec.parameters))


def best(table: pd.DataFrame, *, safe: float = SAFE) -> dict[str, dict[str, dict[str, float]]]:
    """scenario -> method (or method/strategy) -> values of its best trial: the one that keeps most of
    those that have forgotten, else the one that came nearest to it; a method whose every trial
    failed is left out.

    Values of a trial that was matched after `safe` of its steps have so many epochs more that it is
    before it: on another seed it may come later. Only where a run then goes the same way, further.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    done = table[table["error"].isna()] if "error" in table else table
    for _, trials in done.groupby(["scenario", "method"], sort=False):
        scenario, method = trials["scenario"].iloc[0], trials["method"].iloc[0]
        reached = trials[trials["reached"]]
        pool = reached if len(reached) else trials
        top = pool.sort_values(["score", "trial"], ascending=[False, True]).iloc[0]
        values = json.loads(top["values"])
        late = top["reached"] and top["step"] > safe * top["n_steps"]
        if late and goes_on(get(method.partition("/")[0])):
            per_epoch = top["n_steps"] / values["epochs"]
            values["epochs"] = math.ceil(round(top["step"] / (safe * per_epoch), 6))
        found.setdefault(scenario, {})[method] = values
    return found


def _for_all(found: dict, settings: Profile) -> dict:
    """The same numbers for both scenarios; in scenario pretrained as many epochs as make the same
    number of steps: equal epochs would be fewer updates, its people being fewer.
    """
    steps, fewer = steps_an_epoch(settings)
    if not fewer:
        return {"finetuned": found}
    pretrained = {
        method: {**values, "epochs": max(1, round(values["epochs"] * steps / fewer))}
        for method, values in found.items()
    }
    return {"finetuned": found, "pretrained": pretrained}


def store(profile: str, table: pd.DataFrame, *, goal: Goal = "matched") -> Path:
    """Write the best trials into the profile's tuned file, beside what that holds of other methods;
    the profile's own file is not touched. With goal end_point, those of the fine-tuned people for
    pre-trained ones too. Raises PulseError if the profile says `tuned` itself, or would not take
    these numbers, and for a tuned file that is none of this goal's.
    """
    safe = SAFE if goal == "matched" else 1.0  # an end point is the run's end
    path, found, head = profile_path(profile), best(table, safe=safe), HEAD
    if "tuned" in yaml_file.read_mapping(path):
        raise PulseError(f"{show(path)}: `tuned` is set by hand; remove it, or leave --store out")
    if goal == "end_point":
        found, head = _for_all(found["finetuned"], load_profile(profile)), EQUAL_HEAD
    file = tuned_path(path)
    kept = _stored(file, head)
    found = {s: kept.get(s, {}) | found.get(s, {}) for s in dict.fromkeys([*kept, *found])}
    load_profile(profile).with_values(tuned=found)  # before it is written
    n = table.groupby(["scenario", "method"]).size().max()
    text = head.format(n=n, end=END_POINT) + yaml_file.dump(found)
    replace_file(file, lambda tmp: tmp.write_text(text))
    return file


def _stored(file: Path, head: str) -> dict:
    """What an earlier search with this head stored."""
    if not file.is_file():
        return {}
    begins = head.partition(",")[0]
    if not file.read_text().startswith(begins):
        raise PulseError(
            f"{show(file)} was not written by a search of this goal (its first line would begin with "
            f"{begins!r}): move it away, or leave --store out"
        )
    return yaml_file.read_mapping(file)

"""How the cost grows with people, with requests and with image tokens: python benchmarks/straight.py

Seconds are of the processor, one thread; `a_...` is the cost of one, `against_first` that over the
first line's: at most 1 where the cost grows straight. Each line is measured in a process of its own, whose
peak memory it gives. Those that take steps stand side by side and take them in turn, the median of
which counts: a slow minute of the machine is in all lines.

- people: the drawn world and the embedded model. So many are to be forgotten, and as many retained:
  their data is built, an epoch of GA is trained, and everybody is asked.
- requests: a GA step of the random 100 M LLaVA on the frozen adapters of so many earlier requests.
- image tokens: a GA step of that LLaVA, two conversations about a picture each; attention grows with
  the square of the tokens, all else straight.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import random_llava
import steps
import torch

from pulse_lib.data.dataset import build_dataset
from pulse_lib.data.source import general_of, source_of
from pulse_lib.data.splits import split_fictitious
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.files import write_json
from pulse_lib.model.adapters import add_adapter, stack
from pulse_lib.model.load import load_model
from pulse_lib.profile import load_profile
from pulse_lib.unlearn.single_shot import unlearn_single_shot
from pulse_lib.unlearn.task import Target, Task

SIZES = {"people": (20, 40, 80, 160), "requests": (5, 25, 100), "tokens": (144, 576, 1296)}
REPEATS = {"requests": 3, "tokens": 2}


def people(n: int) -> dict[str, float]:
    """Seconds of a study's parts with so many people to forget and as many to retain."""
    tiny = load_profile("tiny")
    same = dict.fromkeys(
        ("n_finetuned_forget", "n_finetuned_retain", "n_finetuned_retain_train"), n
    )
    profile = dataclasses.replace(
        tiny,
        data=tiny.data.with_values(**same, n_holdout=0),
        unlearn=tiny.unlearn.with_values(path_every=0, path_dense_below=0.0),
        evaluate=tiny.evaluate.with_values(n_path_questions=1),
    )
    source, general = source_of(profile.data), general_of(profile.data)
    fictitious = source.fictitious(profile.data)
    places = split_fictitious(fictitious, profile.data, seed=0)
    begun = time.process_time()
    data = build_dataset(
        source, fictitious, general=general, places=places, settings=profile.data, seed=0
    )
    built = time.process_time()
    model = load_model(profile.model)
    task = Task.of(
        profile, data, target=Target(model, (), scenario="finetuned", seed=0), method="ga"
    )
    model.features.add(sorted({c.image for c in task.forget if c.image}), data.images)
    epoch, ready = dataclasses.replace(task, epochs=1), time.process_time()
    unlearn_single_shot(epoch)
    trained = time.process_time()
    asked = data.evaluation("finetuned", ("forget", "retain"))
    answer_questions(model, asked, images=data.images, settings=profile.evaluate, with_loglik=True)
    done = time.process_time()
    parts = {"data": built - begun, "epoch": trained - ready, "asking": done - trained}
    return {
        "people": n,
        **{f"{name}_s": round(seconds, 2) for name, seconds in parts.items()},
        "a_person_ms": round(1000 * sum(parts.values()) / n, 1),
    }


def requests(n: int) -> Callable[[], float]:
    """A step on the adapters of so many earlier requests."""
    bench = steps.Bench(steps.model_of("100m"), 2)
    for k in range(n):
        add_adapter(bench.model, f"r{k}", trained_part="projector+llm", rank=8, alpha=16, seed=k)
    stack(bench.model, [f"r{k}" for k in range(n)], train="unlearn")
    return bench.kit("ga")


def tokens(n: int) -> Callable[[], float]:
    """A step about pictures of so many tokens."""
    model = steps.model_of("100m", pixels=round(n**0.5) * random_llava.PATCH)
    return steps.Bench(model, 2).kit("ga")


STEPS: dict[str, Callable[[int], Callable[[], float]]] = {"requests": requests, "tokens": tokens}
_ready: list[Callable[[], float]] = []  # of a process: the step that it takes


def process() -> ProcessPoolExecutor:
    """A process of its own, on one thread."""
    fresh = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, fresh, initializer=torch.set_num_threads, initargs=(1,))


def get_ready(what: str, n: int) -> None:
    """Take the first step, which forms the frozen adapters' matrices once, and is not counted."""
    _ready.append(STEPS[what](n))
    _ready[-1]()


def step_seconds() -> float:
    """Seconds of one step."""
    begun = time.process_time()
    _ready[-1]()
    return time.process_time() - begun


def peak_mib() -> int:
    """The process's peak memory."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def lines_of_people() -> Iterator[dict[str, float]]:
    for n in SIZES["people"]:
        with process() as one:
            yield one.submit(people, n).result() | {"peak_mib": one.submit(peak_mib).result()}


def lines_of_steps(what: str) -> Iterator[dict[str, float]]:
    with ExitStack() as stack:
        beside = {n: stack.enter_context(process()) for n in SIZES[what]}
        for n, one in beside.items():
            one.submit(get_ready, what, n).result()
        rounds = [
            [one.submit(step_seconds).result() for one in beside.values()]
            for _ in range(REPEATS[what])
        ]
        for (n, one), taken in zip(beside.items(), zip(*rounds, strict=True), strict=True):
            seconds = statistics.median(taken)
            if what == "requests":
                line = {"requests": n, "a_step_s": round(seconds, 3)}
            else:
                each = round(1000 * seconds / n, 3)
                line = {"image_tokens": n, "step_s": round(seconds, 3), "a_token_ms": each}
            yield line | {"peak_mib": one.submit(peak_mib).result()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    options = parser.parse_args()
    rows = []
    for lines in (lines_of_people(), *map(lines_of_steps, STEPS)):
        first = None
        for line in lines:
            cost = next(value for name, value in line.items() if name.startswith("a_"))
            first = first or cost
            rows.append(line | {"against_first": round(cost / first, 3)})
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        write_json(options.out, {"name": "straight", "rows": rows})


if __name__ == "__main__":
    main()

"""How the cost grows with people, with requests and with image tokens: python benchmarks/straight.py

Seconds are of the processor, one thread; `a_...` is the cost of one, `against_first` that over the
first line's: at most 1 where the cost grows straight. Each line is measured in a process of its own, whose
peak memory it gives. The processes of a table stand side by side and take their steps in turn (the
median of them), so that a slow minute of the machine is in all lines.

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
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
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
REPEATS = 3


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
    bench = steps.Bench("100m", 2)
    for k in range(n):
        add_adapter(bench.model, f"r{k}", trained_part="projector+llm", rank=8, alpha=16, seed=k)
    stack(bench.model, [f"r{k}" for k in range(n)], train="unlearn")
    return bench.kit("ga")


def tokens(n: int) -> Callable[[], float]:
    """A step about pictures of so many tokens."""
    return steps.Bench("100m", 2, pixels=round(n**0.5) * random_llava.PATCH).kit("ga")


STEPS: dict[str, Callable[[int], Callable[[], float]]] = {"requests": requests, "tokens": tokens}


def serve(what: str, n: int) -> None:
    """What one process measures: a line for what was asked once it is there, and, of a step, one more
    for each line that comes in; at the end its peak memory.
    """
    if what == "people":
        print(json.dumps(people(n)), flush=True)
    else:
        step = STEPS[what](n)
        step()  # the first, which forms the frozen adapters' matrices once, is not counted
        print("ready", flush=True)
        for _ in sys.stdin:
            begun = time.process_time()
            step()
            print(time.process_time() - begun, flush=True)
    print(round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), flush=True)


class Process:
    """One line of a table, measured in a process of its own."""

    def __init__(self, what: str, n: int):
        command = [sys.executable, __file__, "--measure", what, str(n)]
        self.child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self.said()

    def said(self) -> str:
        """The next line that it says. Raises SystemExit where it ended instead."""
        assert self.child.stdout
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit(f"it ended with {self.child.wait()}: {self.child.args}")
        return line.strip()

    def step(self) -> float:
        """Seconds of one step."""
        assert self.child.stdin
        print(file=self.child.stdin, flush=True)
        return float(self.said())

    def end(self) -> int:
        """Its peak memory in MiB."""
        assert self.child.stdin
        self.child.stdin.close()
        return int(self.said())


def lines_of(what: str, sizes: tuple[int, ...]) -> list[dict[str, float]]:
    """The lines of one table."""
    if what == "people":
        lines = []
        for n in sizes:
            process = Process(what, n)
            lines.append(json.loads(process.ready) | {"peak_mib": process.end()})
        return lines
    beside = {n: Process(what, n) for n in sizes}
    taken = [[process.step() for process in beside.values()] for _ in range(REPEATS)]
    seconds = {
        n: statistics.median(of) for n, of in zip(sizes, zip(*taken, strict=True), strict=True)
    }
    lines = [_line(what, n, seconds=seconds[n]) for n in sizes]
    return [x | {"peak_mib": beside[n].end()} for x, n in zip(lines, sizes, strict=True)]


def _line(what: str, n: int, *, seconds: float) -> dict[str, float]:
    if what == "requests":
        return {"requests": n, "a_step_s": round(seconds, 3)}
    each = round(1000 * seconds / n, 3)
    return {"image_tokens": n, "step_s": round(seconds, 3), "a_token_ms": each}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.measure:
        serve(options.measure[0], int(options.measure[1]))
        return
    rows = []
    for what, sizes in SIZES.items():
        lines = lines_of(what, sizes)
        costs = [
            next(value for name, value in line.items() if name.startswith("a_")) for line in lines
        ]
        for line, cost in zip(lines, costs, strict=True):
            rows.append(line | {"against_first": round(cost / costs[0], 3)})
            print(json.dumps(rows[-1]), flush=True)
    if options.out:
        write_json(options.out, {"name": "straight", "rows": rows})


if __name__ == "__main__":
    main()

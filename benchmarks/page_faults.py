"""Seconds of the processor, and pages that the system had to clear, for asking 480 questions of the
embedded model: with freed memory used again (`machine.keep_memory`) and given back, as glibc does by
itself: python benchmarks/page_faults.py

One thread, processes in turn; prints one JSON line with the medians and their ratio.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys

from pulse_lib.machine import ALLOCATOR

PROCESSES, REPEATS, QUESTIONS = 4, 5, 480
ITS_OWN_WAY = {"MALLOC_ARENA_MAX": "8"}  # one of ALLOCATOR: then the kit leaves it alone


def measure() -> dict[str, float]:
    import torch

    from pulse_lib.data.records import ImageStore
    from pulse_lib.data.world import source as embedded
    from pulse_lib.evaluate.generate import answer_questions
    from pulse_lib.model.load import load_model
    from pulse_lib.profile import load_profile

    torch.set_num_threads(1)
    settings, images = load_profile("tiny"), ImageStore()
    model = load_model(settings.model)
    data = settings.data.with_values(n_general=QUESTIONS)
    questions = embedded.general_questions(images, 0, settings=data)
    assert len(questions) == QUESTIONS, len(questions)

    def asked() -> tuple[float, int]:
        before = resource.getrusage(resource.RUSAGE_SELF)
        answer_questions(model, questions, images=images, settings=settings.evaluate)
        after = resource.getrusage(resource.RUSAGE_SELF)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return seconds, after.ru_minflt - before.ru_minflt

    asked()
    seconds, faults = zip(*(asked() for _ in range(REPEATS)), strict=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "seconds": statistics.median(seconds),
        "page_faults": statistics.median(faults),
        "peak_mib": peak,
    }


def main() -> None:
    if sys.argv[1:] == ["--measure"]:
        print(json.dumps(measure()))
        return
    plain = {k: v for k, v in os.environ.items() if not k.startswith(ALLOCATOR)}
    found: dict[str, list[dict[str, float]]] = {"kept": [], "given_back": []}
    for _ in range(PROCESSES):
        for name, env in (("kept", plain), ("given_back", plain | ITS_OWN_WAY)):
            command = [sys.executable, __file__, "--measure"]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
            found[name].append(json.loads(done.stdout))
    line = {
        f"{what}_{name}": round(statistics.median(run[what] for run in runs), 3)
        for name, runs in found.items()
        for what in runs[0]
    }
    ratio = line["seconds_given_back"] / line["seconds_kept"]
    print(json.dumps(line | {"ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()

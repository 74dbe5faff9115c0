"""Seconds of asking 256 questions of the embedded model with 1 and 6 adapters, token by token and by
the matrix: python benchmarks/fused.py

One thread, alternating repeats in one process; prints one JSON line a number of adapters with both
medians and their ratio.
"""

from __future__ import annotations

import json
import statistics
import time

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from pulse_lib.data.records import ImageStore
from pulse_lib.data.world import source as embedded
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.model.adapters import add_adapter, stack
from pulse_lib.model.load import load_model
from pulse_lib.profile import load_profile

REPEATS = 5


def main() -> None:
    torch.set_num_threads(1)
    settings, images = load_profile("tiny"), ImageStore()
    model = load_model(settings.model)
    questions = embedded.general_questions(images, 0, settings=settings.data)[:256]
    model.features.add((q.image for q in questions), images)
    names = ["finetune", *(f"round-{k}" for k in range(1, 6))]
    for name in names:
        rank = (settings.finetune if name == "finetune" else settings.unlearn).rank
        add_adapter(model, name, trained_part="projector+llm", rank=rank, alpha=2 * rank, seed=0)
    layers = [m for m in model.network.modules() if isinstance(m, BaseTunerLayer)]

    def seconds(fused: bool) -> float:
        kept = [layer.forward for layer in layers]
        if not fused:
            for layer in layers:
                layer.forward = layer.forward.by_token
        begun = time.perf_counter()
        answer_questions(model, questions, images=images, settings=settings.evaluate)
        taken = time.perf_counter() - begun
        for layer, forward in zip(layers, kept, strict=True):
            layer.forward = forward
        return taken

    for n in (1, len(names)):
        stack(model, names[:n])
        pairs = [(seconds(False), seconds(True)) for _ in range(REPEATS)]
        by_token, by_matrix = (statistics.median(side) for side in zip(*pairs, strict=True))
        line = {"adapters": n, "seconds_by_token": by_token, "seconds_by_matrix": by_matrix}
        line = {k: round(v, 3) for k, v in line.items()} | {"ratio": round(by_token / by_matrix, 2)}
        print(json.dumps(line))


if __name__ == "__main__":
    main()

"""Seconds a fine-tuning step of the embedded model with and without denormal numbers: python
benchmarks/denormals.py

One thread, alternating repeats in one process after a few steps of training; prints one JSON line
with both medians and their ratio.
"""

from __future__ import annotations

import json
import statistics
import time

import torch

from pulse_lib.data.records import ImageStore
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import source as embedded
from pulse_lib.methods import FINETUNE
from pulse_lib.model.adapters import add_adapter, stack, trained_parameters
from pulse_lib.model.load import load_model
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import load_profile
from pulse_lib.train.optim import make_optimizer, set_rate
from pulse_lib.train.terms import backward_term

WARM_UP, REPEATS = 10, 15


def main() -> None:
    torch.set_num_threads(1)
    settings, images = load_profile("tiny"), ImageStore()
    model, f = load_model(settings.model), settings.finetune
    people = [
        conversation
        for person in embedded.fictitious(settings.data)[:40]
        for conversation in embedded.person_conversations(
            person,
            Assignment(person.id, "finetuned", set="forget"),
            images=images,
            seed=0,
            settings=settings.data,
            stage="finetune",
        )
    ]
    model.features.add((c.image for c in people), images)
    add_adapter(model, "finetune", trained_part="projector+llm", rank=f.rank, alpha=f.alpha, seed=0)
    stack(model, [], train="finetune")
    examples = encode_conversations(model, people)
    optimizer = make_optimizer("adamw", trained_parameters(model), ratio=f.loraplus_ratio)
    set_rate(optimizer, f.learning_rate)

    def step(k: int) -> float:
        batch = examples[k * f.batch_size % len(examples) :][: f.batch_size]
        begun = time.perf_counter()
        backward_term(
            model,
            FINETUNE,
            side="forget",
            examples=batch,
            supervised_tokens="answer",
            micro_batch=f.micro_batch,
            reference=None,
        )
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - begun

    for k in range(WARM_UP):
        step(k)
    times: dict[bool, list[float]] = {True: [], False: []}
    for k in range(REPEATS):
        for flush in (True, False):
            torch.set_flush_denormal(flush)
            times[flush].append(step(WARM_UP + k))
    without, with_them = statistics.median(times[True]), statistics.median(times[False])
    print(
        json.dumps(
            {
                "seconds_flushed": round(without, 4),
                "seconds_kept": round(with_them, 4),
                "ratio": round(with_them / without, 2),
            }
        )
    )


if __name__ == "__main__":
    main()

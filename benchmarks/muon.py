"""Milliseconds a step of our Muon and of torch.optim.Muon on the embedded language model's
matrices: python benchmarks/muon.py

Medians of alternating repeats in one process; prints one JSON line.
"""

import json
import statistics
import time

import torch

from pulse_lib.pretrain.build import build_model
from pulse_lib.train.optim import Muon

REPEATS = 20


def main() -> None:
    torch.set_num_threads(1)
    network, _ = build_model(0)
    layers = network.model.language_model.layers
    both = {}
    for name in ("ours", "torch"):
        matrices = [
            torch.nn.Parameter(p.detach().clone()) for p in layers.parameters() if p.ndim == 2
        ]
        for p in matrices:
            p.grad = torch.randn_like(p)
        both[name] = (
            Muon(matrices, lr=0.02)
            if name == "ours"
            else torch.optim.Muon(matrices, lr=0.02, adjust_lr_fn="original")
        )
    seconds = {name: [] for name in both}
    for _ in range(REPEATS):
        for name, optimizer in both.items():
            begun = time.perf_counter()
            optimizer.step()
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "ms_per_step": medians,
                "ratio": round(medians["torch"] / medians["ours"], 2),
                "repeats": REPEATS,
            }
        )
    )


if __name__ == "__main__":
    main()

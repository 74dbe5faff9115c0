"""Seconds and memory of one NPO step in NF4, with adapters read beside the matrix and by peft itself:
python benchmarks/beside.py

A random LLaVA of about 100 M parameters with 576 image tokens, four conversations at once, one thread
of the CPU; in bfloat16, as on a graphics card, and in float32, as 4-bit is read on a CPU. A process a
case: its peak, and its seconds with the reference's pass, are what the step takes above the loaded
model. Prints one JSON line a case.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import random_llava
import steps
import torch

from pulse_lib.model.beside import Beside

CONVERSATIONS = 4
CASES = [
    (dtype, kept, way)
    for dtype in ("bfloat16", "float32")
    for kept in ("all", "inputs of layers")
    for way in ("peft", "beside")
]


def measure(dtype: str, kept: str, way: str) -> None:
    """One case, in this process."""
    torch.set_num_threads(1)
    checkpointing = kept == "inputs of layers"
    model = random_llava.in_4bit(
        random_llava.config_of("100m"),
        "cpu",
        dtype=getattr(torch, dtype),
        checkpointing=checkpointing,
    )
    bench = steps.Bench(steps.with_adapter(model), CONVERSATIONS)
    for layer in model.network.modules():
        if way == "peft" and isinstance(vars(layer).get("forward"), Beside):
            layer.forward = layer.forward.by_token
    if checkpointing:
        model.network.train()  # as the training loop does
    begun = time.process_time()
    peak = steps.peak("kit", "npo", bench)
    seconds = round(time.process_time() - begun, 1)
    case = {"dtype": dtype, "kept": kept, "adapters": way}
    print(json.dumps(case | {"peak_mib": peak, "cpu_seconds": seconds}), flush=True)


def main() -> None:
    if len(sys.argv) > 1:
        measure(*sys.argv[1:])
        return
    for case in CASES:
        command = [sys.executable, __file__, *case]
        subprocess.run(command, check=True, env=os.environ | steps.MAPPED)


if __name__ == "__main__":
    main()

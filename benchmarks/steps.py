"""Seconds and memory of one unlearning step of the kit, against the loop that MLLMU-Bench and its
descendants use: python benchmarks/steps.py [--size 100m|embedded] [--out FILE]

The loop runs the processor and the vision tower at every step, lm_head at all positions, and a
second full model as the reference of KL and NPO. Both sides train the same LoRA on the same
conversations of a random LLaVA; their gradients are compared first. Repeats alternate in one
process on one thread; seconds are of processor time, so that other work on the machine counts less.

The ceiling of a method is the loop's arithmetic over the least that the same gradient needs. Per
token, a frozen matrix costs 2 FLOPs a parameter forward and 2 more backward (the gradient of its
input; none for itself); attention 4 T x width a layer forward and twice that backward. The loop: the
tower over the picture, the LM over all tokens, lm_head over all tokens, each forward; LM and lm_head
backward; and the reference forward again, all of it. The least: no tower, no reference (both are
known), lm_head at the answers alone, the LM forward and backward. LoRA's own products, norms and the
optimizer are left out on both sides. `share` is the ratio reached over the ceiling.

The last layer, which the kit reads at the answers alone, counts in full: on the embedded shape, where
it is a fourth of the LM, the share can pass 1.

Peak memory is that of a fresh process a side, less what it held once the model was there: Linux'
VmHWM, set back before the step (ru_maxrss would remember how the model was made), MiB. Every tensor of
128 KiB and more has pages of its own, which go when it does (MAPPED): in glibc's heap what is freed
between others stays, which took up to 1 GiB more on either side, and not the same each time. The
loop's second model counts in it. Both read their batch at once; `by ones` is the kit with one
conversation at a time, as the profile for a T4 does: a setting of it that gives the same gradient.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Literal

import random_llava
import torch
from PIL import Image

from pulse_lib.data.records import Conversation, ImageStore, Turn
from pulse_lib.methods import get
from pulse_lib.model.adapters import add_adapter, stack, trained_parameters
from pulse_lib.model.beside import Beside
from pulse_lib.model.forward import IGNORE, collate
from pulse_lib.model.lean import LeanMLP
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.train import losses
from pulse_lib.train.optim import make_optimizer, set_rate
from pulse_lib.train.reference import reference_values
from pulse_lib.train.terms import backward_term

Side = Literal["kit", "loop"]
METHODS = ("ga", "ga_klr", "npo")
RATE = 1e-5
MAPPED = {"MALLOC_MMAP_THRESHOLD_": str(2**17)}  # read by glibc; else it grows as tensors are freed


def model_of(size: random_llava.Size, **options: int) -> LoadedModel:
    """A LLaVA with random weights and an adapter to train, in float32 on the CPU. options: of
    random_llava.config_of.
    """
    return with_adapter(random_llava.plain(random_llava.config_of(size, **options)))


def with_adapter(model: LoadedModel) -> LoadedModel:
    """The model with an adapter to train."""
    add_adapter(model, "unlearn", trained_part="projector+llm", rank=8, alpha=16, seed=0)
    with torch.no_grad():  # B is not 0: every gradient is there to be compared
        generator = torch.Generator().manual_seed(1)
        for key, weight in model.network.named_parameters():
            if "lora_B" in key:
                weight.copy_(1e-3 * torch.randn(weight.shape, generator=generator))
    stack(model, [], train="unlearn")
    return model


def conversations(images: ImageStore, group: str, n: int) -> list[Conversation]:
    """n conversations in two turns, each about a picture of its own."""
    made = []
    for i in range(n):
        random, image = Random(f"{group} {i}"), f"{group}-{i}"
        images.add(image, Image.frombytes("RGB", (64, 64), random.randbytes(64 * 64 * 3)))
        turns = (
            Turn("What is the job of this person?", (), answer=random.choice(["chef", "pilot"])),
            Turn("Which pet does this person have?", (), answer=random.choice(["cat", "dog"])),
        )
        who = {"scenario": "finetuned", "person_id": image, "request": 0, "modality": "multimodal"}
        made.append(Conversation(image, group, **who, image=image, turns=turns))
    return made


@contextmanager
def as_others(network: torch.nn.Module) -> Generator[None]:
    """Inside, MLPs are transformers' own, which keep all for the backward pass, and layers with
    adapters peft's.
    """
    ours = [(m, vars(m)["forward"]) for m in network.modules() if "forward" in vars(m)]
    for module, forward in ours:
        if isinstance(forward, LeanMLP):
            del module.forward
        elif isinstance(forward, Beside):
            module.forward = forward.by_token
    try:
        yield
    finally:
        for module, forward in ours:
            module.forward = forward


class Bench:
    """A model with an adapter to train, a forget and a retain batch, and how each side takes a step on
    them.
    """

    def __init__(self, model: LoadedModel, batch: int, *, micro_batch: int = 0):
        self.model, self.images = model, ImageStore()
        sides = {"forget": "forget", "retain": "retain_train"}
        made = {s: conversations(self.images, group, batch) for s, group in sides.items()}
        self.batches = {s: encode_conversations(self.model, c) for s, c in made.items()}
        self.batch, self.micro_batch = batch, micro_batch or batch

    def kit(self, method_id: str) -> Callable[[], float]:
        """The kit's forward and backward passes of one step; what it does once is done here."""
        model, method, batches = self.model, get(method_id), self.batches
        shown = [c.image for encoded in batches.values() for c in encoded]
        model.features.add(shown, self.images)
        known = reference_values(
            model,
            method,
            forget=batches["forget"],
            retain=batches["retain"],
            adapters=(),
            supervised_tokens="answer",
            batch_size=self.batch,
        )

        def step() -> float:
            return sum(
                backward_term(
                    model,
                    method,
                    side=side,
                    examples=batches[side],
                    supervised_tokens="answer",
                    micro_batch=self.micro_batch,
                    reference=known,
                )
                for side in ("forget", *(["retain"] if method.retain_loss else []))
            )

        return step

    def loop(self, method_id: str) -> Callable[[], float]:
        """The same of the usual loop, with its second model."""
        method, network = get(method_id), self.model.network
        second = None
        if method_id != "ga":
            with as_others(network):
                second = copy.deepcopy(network).requires_grad_(False)
            for name, weight in second.named_parameters():
                if "lora_B" in name:
                    weight.zero_()  # the reference is the model without the adapter

        def read(side: str, *, by) -> tuple[torch.Tensor, torch.Tensor]:
            batch = collate(self.model, self.batches[side])
            pictures = [self.images[c.image] for c in self.batches[side]]
            pixels = self.model.processor.image_processor(images=pictures, return_tensors="pt")
            shown = pixels["pixel_values"].to(self.model.device, self.model.dtype)
            logits = by(input_ids=batch.input_ids, pixel_values=shown).logits
            labels = torch.full_like(batch.input_ids, IGNORE)
            for row, (at, target) in enumerate(zip(batch.positions, batch.labels, strict=True)):
                counted = target != IGNORE
                labels[row, at[counted]] = target[counted]
            return logits.float(), labels

        def step() -> float:
            with as_others(network):
                return whole_step()

        def whole_step() -> float:
            logits, labels = read("forget", by=network)
            if method_id == "npo":
                with torch.no_grad():
                    reference = losses.sequence_logprob(read("forget", by=second)[0], labels)
                own = losses.sequence_logprob(logits, labels)
                loss = losses.npo(own, reference, **method.coefficients)
            else:
                loss = losses.gradient_ascent(logits, labels)
            loss = method.forget_weight * loss
            if method_id == "ga_klr":
                logits, labels = read("retain", by=network)
                with torch.no_grad():
                    reference, _ = read("retain", by=second)
                held = losses.kl_to_reference(logits, reference, labels)
                loss = loss + method.retain_weight * held
            loss.backward()
            return loss.item()

        return step

    def ceiling(self, method_id: str) -> float:
        """FLOPs of the loop over the least that the same gradient needs; see above."""
        network, vision = self.model.network, self.model.network.config.vision_config
        text = network.config.text_config
        batch = collate(self.model, self.batches["forget"])
        n, length = batch.input_ids.shape
        tokens, answers = n * length, int((batch.labels != IGNORE).sum())

        def matrices(module) -> int:
            """Parameters of a module's linear layers, LoRA's left out."""
            linear = (
                (name, m) for name, m in module.named_modules() if isinstance(m, torch.nn.Linear)
            )
            return sum(m.in_features * m.out_features for n, m in linear if "lora_" not in n)

        patches = self.model.n_image_tokens + 1
        tower = 2 * n * patches * matrices(network.model.vision_tower)
        tower += 4 * n * patches**2 * vision.hidden_size * vision.num_hidden_layers
        products = 2 * tokens * matrices(network.model.language_model.layers)
        attention = 2 * tokens * length * text.hidden_size * text.num_hidden_layers  # causal: half
        head = 2 * text.vocab_size * text.hidden_size
        forward, backward = products + attention, products + 2 * attention
        read = tower + forward + tokens * head
        trained, least = read + backward + tokens * head, forward + backward + 2 * answers * head
        times = 2 if method_id == "ga_klr" else 1
        return (times * trained + (read if method_id != "ga" else 0)) / (times * least)


def measured(bench: Bench, method_id: str, repeats: int) -> dict:
    """Medians of both sides, their ratio and the share of the ceiling; raises AssertionError where
    gradients differ."""
    sides = {"kit": bench.kit(method_id), "loop": bench.loop(method_id)}
    named = trained_parameters(bench.model)
    cpu: dict[str, list[float]] = {side: [] for side in sides}
    wall: dict[str, list[float]] = {side: [] for side in sides}
    gaps = []
    for _ in range(repeats):
        gradients = {}
        for side, step in sides.items():
            clock, begun = time.process_time(), time.perf_counter()
            step()
            cpu[side].append(time.process_time() - clock)
            wall[side].append(time.perf_counter() - begun)
            gradients[side] = torch.cat([p.grad.flatten() for p in named.values()])
            for p in named.values():
                p.grad = None
        ours, theirs = gradients["kit"], gradients["loop"]
        gaps.append(float((ours - theirs).norm() / theirs.norm()))
    assert all(gap <= 1e-5 for gap in gaps), f"{method_id}: gradients of both differ by {gaps}"
    medians = {side: statistics.median(values) for side, values in cpu.items()}
    ratio, ceiling = medians["loop"] / medians["kit"], bench.ceiling(method_id)
    return {
        "method": method_id,
        "kit_cpu_s": round(medians["kit"], 3),
        "loop_cpu_s": round(medians["loop"], 3),
        "kit_wall_s": round(statistics.median(wall["kit"]), 3),
        "loop_wall_s": round(statistics.median(wall["loop"]), 3),
        "ratio": round(ratio, 2),
        "ceiling": round(ceiling, 2),
        "share": round(ratio / ceiling, 2),
        "gradient_gap": float(f"{max(gaps):.1e}"),
    }


def growth_in_4bit(
    size: random_llava.Size, *, rounds: tuple[int, ...] = (5, 25), repeats: int = 3
) -> dict:
    """Seconds of a GA step of one conversation in 4-bit on so many adapters of earlier requests, in
    turn; the first step of a request, which joins them once (nothing is merged), is not counted. In
    full precision straight.py measures it.
    """
    model = with_adapter(random_llava.in_4bit(random_llava.config_of(size), "cpu"))
    step = Bench(model, 1).kit("ga")
    for k in range(max(rounds)):
        add_adapter(model, f"r{k}", trained_part="projector+llm", rank=8, alpha=16, seed=k)
    cpu: dict[int, list[float]] = {n: [] for n in rounds}
    for _ in range(repeats):
        for n in rounds:
            stack(model, [f"r{k}" for k in range(n)], train="unlearn")
            step()
            clock = time.process_time()
            step()
            cpu[n].append(time.process_time() - clock)
    medians = [statistics.median(cpu[n]) for n in rounds]
    names = {f"step_cpu_s_on_{n}": round(m, 3) for n, m in zip(rounds, medians, strict=True)}
    return {
        "method": "ga, sequential, in 4-bit",
        **names,
        "ratio": round(medians[-1] / medians[0], 3),
    }


def peak(side: Side, method_id: str, bench: Bench) -> int:
    """MiB that this process took for one step above the loaded model; Linux only."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is what is held now
    before = _highest()
    step = bench.kit(method_id) if side == "kit" else bench.loop(method_id)
    optimizer = make_optimizer("adamw", trained_parameters(bench.model))
    set_rate(optimizer, RATE)
    step()
    optimizer.step()
    return round(_highest() - before)


def _highest() -> float:
    """The most memory that this process has held, MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=["embedded", "100m"], default="100m")
    parser.add_argument("--batch", type=int, default=2, help="conversations a step")
    parser.add_argument("--micro-batch", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(model_of(options.size), options.batch, micro_batch=options.micro_batch)
    if options.peak:
        print(peak(*options.peak, bench))
        return
    rows, by_ones = [], []
    for method_id in METHODS:
        row = measured(bench, method_id, options.repeats)
        peaks = {}
        for name, side, at_once in (("kit", "kit", 0), ("loop", "loop", 0), ("by_ones", "kit", 1)):
            command = [sys.executable, __file__, "--peak", side, method_id, "--size", options.size]
            command += ["--batch", str(options.batch), "--micro-batch", str(at_once)]
            done = subprocess.run(
                command, check=True, env=os.environ | MAPPED, stdout=subprocess.PIPE, text=True
            )
            peaks[name] = float(done.stdout)
        row |= {f"{side}_peak_mib": peaks[side] for side in ("kit", "loop")}
        row["memory"] = round(peaks["kit"] / peaks["loop"], 2)
        rows.append(row)
        share = round(peaks["by_ones"] / peaks["loop"], 2)
        by_ones.append(
            {"method": f"{method_id}, by ones", "kit_peak_mib": peaks["by_ones"], "memory": share}
        )
        print(json.dumps(row), flush=True)
    rows += [*by_ones, growth_in_4bit(options.size)]
    print(json.dumps(rows[-1]))
    if options.out:
        command = f"python benchmarks/steps.py --size {options.size} --batch {options.batch}"
        machine = {"cpu": platform.processor() or platform.machine(), "threads": 1}
        machine |= {"python": platform.python_version(), "torch": torch.__version__}
        found = {"name": "steps", "command": command, "machine": machine, "rows": rows}
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

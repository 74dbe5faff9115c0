"""A check on the graphics card at hand: LLaVA-1.5 in its real shapes, random weights in NF4, made
on the card layer by layer; loading, unlearning and answering through the kit's own code.

What it shows: that it runs, in how much memory, how fast: steps of each method, steps by the number
of conversations with gradient checkpointing and without, both against the loop and the questions that one
would otherwise write (steps.py, questions.py), as shares of the peak on the card's data sheet and of
the one measured here, and which kernels a step's time goes into. Random weights know nothing, so it
says nothing about what is unlearned.
"""

from __future__ import annotations

import argparse
import functools
import gc
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import questions
import random_llava
import steps
import torch
import transformers
from torch.profiler import ProfilerActivity, profile
from transformers import LlavaConfig

from pulse_lib.commands import gpus
from pulse_lib.data.records import Conversation, Question, Turn
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.files import write_json
from pulse_lib.methods import METHODS, get
from pulse_lib.model.adapters import drop_adapter, stack, trained_parameters
from pulse_lib.model.load import LoadedModel, compute_dtype
from pulse_lib.model.memory import compare_peak, llava_1_5_config, training_memory
from pulse_lib.model.prompts import encode_conversations, encode_questions
from pulse_lib.profile import EvaluateSettings, UnlearnSettings
from pulse_lib.unlearn.single_shot import unlearn_single_shot
from pulse_lib.unlearn.task import Target, Task

WARM_UP = 3  # first steps, not timed: kernels are chosen and memory is taken
N_KERNELS = 12  # that are named, of those that take longest
MATRIX = {"cuda": 8192, "cpu": 512}  # side of the product by which the peak is measured
TEXT = "Which of the following statements about what is shown here can be inferred from it? "


@dataclass(frozen=True)
class Amount:
    """How much is measured."""

    n_steps: int = 20  # of each method
    n_questions: int = 64
    _: KW_ONLY
    batch: int = 4  # conversations a step
    batches: tuple[int, ...] = (1, 4, 16)
    n_pictures: int = 8  # of each kind of questions
    asked_at_once: int = 32
    repeats: int = 5  # of what is compared


@dataclass(frozen=True)
class Peak:
    """TFLOP/s that shares are of: of the card's data sheet (0: not known), and measured here."""

    published: float
    measured: float

    def shares(self, flop_per_second: float) -> dict[str, float | None]:
        """The columns of a row."""
        done = flop_per_second / 1e12
        return {
            "share_of_peak": round(done / self.published, 4) if self.published else None,
            "share_of_measured": round(done / self.measured, 4),
        }


# --- what is asked and taught -----------------------------------------------------------------


def mmbench_like(n: int, group: str = "general") -> list[Question]:
    """Questions in MMBench's shape: a picture, a text of about 60 words, four options."""
    return [
        Question(
            id=f"{group}-{i}",
            set=group,
            scenario="" if group == "general" else "finetuned",
            person_id="" if group == "general" else f"person-{i}",
            request=0,
            modality="multimodal",
            text=f"{TEXT}Number {i}.",
            options=tuple(f"statement {i} {k}" for k in range(4)),
            answer=i % 4,
            image=f"image-{i}",
            category="check",
            wording="trained",
        )
        for i in range(n)
    ]


def conversations(n: int, group: str) -> list[Conversation]:
    """Conversations as long as those about a person: a picture, and three turns. Each group's answers
    are its own: alike, what is to go and what is to stay would cancel out.
    """
    turn = Turn(TEXT, (), answer=f"a cautious answer about {group} people")
    return [
        Conversation(
            f"{group}-{i}",
            group,
            scenario="finetuned",
            person_id=f"{group}-person-{i}",
            request=0,
            modality="multimodal",
            image=f"image-{i}",
            turns=(turn,) * 3,
            stage="unlearn",
        )
        for i in range(n)
    ]


# --- measuring --------------------------------------------------------------------------------


def peak_gib(device: torch.device) -> float:
    """Most memory held since `start_peak`: the card's, or on a CPU the process's ever."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def start_peak(device: torch.device) -> None:
    """Begin a new measurement of the peak, with nothing left from before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def held_gib(device: torch.device) -> float:
    """Memory held now: the card's; 0 on a CPU, whose peak is the process's ever."""
    return torch.cuda.memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def clock(device: torch.device) -> float:
    """Seconds, once everything given to the card is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def checked_methods(wanted: Sequence[str] = ()) -> list[str]:
    """Ids of methods that train an adapter (retraining needs another model); all of them if none is
    named.
    """
    return [m for m in wanted or METHODS if METHODS[m].procedure != "retrain"]


def measured_peak(device: torch.device) -> float:
    """TFLOP/s of a large matrix product of random numbers in the dtype that models are read in."""
    side = MATRIX[device.type]
    a, b = (torch.randn(side, side, device=device).to(compute_dtype(device)) for _ in "ab")
    seconds = []
    for _ in range(WARM_UP + 20):
        begun = clock(device)
        a @ b
        seconds.append(clock(device) - begun)
    return 2 * side**3 / statistics.median(seconds[WARM_UP:]) / 1e12


def or_error(measure: Callable[[], dict]) -> dict:
    """What was measured, or the error that it ended with."""
    try:
        return measure()
    except (PulseError, torch.OutOfMemoryError) as error:
        return {"error": str(error).splitlines()[0]}


def measure_unlearning(
    model: LoadedModel,
    method_id: str,
    *,
    peak: Peak,
    n_steps: int,
    batch: int = 4,
    micro_batch: int = 1,
) -> dict:
    """`n_steps` steps of a method by the kit's own loop, `batch` conversations a step of which
    `micro_batch` are read at once, and their cost.
    """
    n = max(batch, n_steps // 4 * batch)
    forget, retain = conversations(n, "forget"), conversations(n, "retain_train")
    unlearn = UnlearnSettings(
        rank=8,
        alpha=16,
        learning_rate=1.0e-5,
        batch_size=batch,
        micro_batch=micro_batch,
        path_every=0,
        epochs_finetuned=1,
        epochs_pretrained=1,
    )
    task = Task(
        target=Target(model, (), scenario="pretrained", seed=0),
        method=get(method_id),
        forget=forget,
        retain=retain,
        questions=mmbench_like(2, "forget") + mmbench_like(2, "general"),
        images=random_llava.pictures(max(n, 2)),
        unlearn=unlearn,
        evaluate=EvaluateSettings(batch_size=4, max_new_tokens=1, n_path_questions=2),
        epochs=-(-n_steps * batch // n),
    )
    start_peak(model.device)
    try:
        outcome = unlearn_single_shot(task, label="")
    finally:
        drop_adapter(model, "unlearn")
        stack(model, [])
    seconds = outcome.log["seconds"].diff().iloc[min(WARM_UP, len(outcome.log) - 1) :].median()
    lengths = [len(c.input_ids) for c in encode_conversations(model, forget)]
    tokens, batches = lengths[0], 2 if METHODS[method_id].retain_loss else 1
    checkpointing = model.settings.gradient_checkpointing
    work = gpus.step_flops(
        model.network.config, tokens, sequences=batch * batches, checkpointing=checkpointing
    )
    return {
        "n_steps": outcome.final_step,
        "last_loss": float(outcome.log["loss"].iloc[-1]),
        "n_trainable": outcome.n_trainable,
        "peak_memory_gib": round(peak_gib(model.device), 3),
        "seconds_per_step": round(float(seconds), 4),
        "tokens_per_second": round(tokens * batch * batches / seconds, 1),
        **peak.shares(work / seconds),
    }


def measure_answering(model: LoadedModel, *, peak: Peak, n_questions: int) -> dict:
    """Questions in MMBench's shape answered by evaluate.generate, and their cost; vision features
    are part of it.
    """
    asked, images = mmbench_like(n_questions), random_llava.pictures(n_questions)
    settings = EvaluateSettings(batch_size=8, max_new_tokens=4, n_path_questions=1)
    answer_questions(model, asked[:2], images=images, settings=settings)  # kernels are chosen
    start_peak(model.device)
    begun = clock(model.device)
    answers = answer_questions(model, asked, images=images, settings=settings)
    seconds = clock(model.device) - begun
    lengths = [len(p) for p in encode_questions(model, asked)]
    work = sum(gpus.forward_flops(model.network.config, n) for n in lengths)
    return {
        "n_questions": len(answers),
        "tokens_per_prompt": round(sum(lengths) / len(lengths), 1),
        "peak_memory_gib": round(peak_gib(model.device), 3),
        "seconds_per_question": round(seconds / n_questions, 4),
        "tokens_per_second": round(sum(lengths) / seconds, 1),
        **peak.shares(work / seconds),
    }


def measure_against_loop(model: LoadedModel, method_id: str, *, batch: int, repeats: int) -> dict:
    """A step of the kit and of the loop in turn, on the same conversations, all read at once; peaks
    (of a card alone) above what is held before, the loop's second model in its own.
    """
    bench, named = _bench(model, batch)
    seconds: dict[steps.Side, list[float]] = {"kit": [], "loop": []}
    taken, peaks, gradients = {}, {}, {}
    for side in seconds:
        start_peak(model.device)
        held = held_gib(model.device)
        taken[side] = bench.kit(method_id) if side == "kit" else bench.loop(method_id)
        taken[side]()  # kernels are chosen
        peaks[side] = peak_gib(model.device) - held
        for parameter in named.values():
            parameter.grad = None
    for _ in range(repeats):
        for side, step in taken.items():
            begun = clock(model.device)
            step()
            seconds[side].append(clock(model.device) - begun)
            gradients[side] = torch.cat([p.grad.flatten() for p in named.values()])
            for parameter in named.values():
                parameter.grad = None
    gap = (gradients["kit"] - gradients["loop"]).norm() / gradients["loop"].norm()
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratio, ceiling = medians["loop"] / medians["kit"], bench.ceiling(method_id)
    found: dict[str, float] = {f"{side}_s": round(value, 4) for side, value in medians.items()}
    found |= {"ratio": round(ratio, 2), "ceiling": round(ceiling, 2)}
    found |= {"share": round(ratio / ceiling, 2), "gradient_gap": float(f"{float(gap):.1e}")}
    if model.device.type == "cuda":
        found |= {f"{side}_peak_gib": round(value, 2) for side, value in peaks.items()}
        found["memory"] = round(peaks["kit"] / peaks["loop"], 2)
    return found


def slowest_kernels(model: LoadedModel, *, batch: int) -> Iterator[dict]:
    """What a GA step's time goes into: calls and share of each kernel, of a CPU of each operation."""
    step = _bench(model, batch)[0].kit("ga")
    step()
    on_card = model.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_card]
    with profile(activities=activities) as seen:
        step()
        clock(model.device)
    events = [e for e in seen.key_averages() if not on_card or e.device_type.name == "CUDA"]
    times = {
        e.key: (e.self_device_time_total if on_card else e.self_cpu_time_total, e.count)
        for e in events
    }
    total = sum(time for time, _ in times.values())
    for name in sorted(times, key=times.__getitem__, reverse=True)[:N_KERNELS]:
        spent, calls = times[name]
        yield {"kernel": name[:100], "calls": calls, "share": round(spent / total, 3)}


def _bench(model: LoadedModel, batch: int) -> tuple[steps.Bench, dict[str, torch.nn.Parameter]]:
    """The steps of steps.py on this model, with an adapter of their own, and what they train."""
    drop_adapter(model, "unlearn")
    bench = steps.Bench(steps.with_adapter(model), batch)
    return bench, trained_parameters(model)


def compared_questions(model: LoadedModel, amount: Amount) -> Iterator[dict]:
    """Rows of questions.py on this model, by kind of questions."""
    drop_adapter(model, "unlearn")
    images = random_llava.pictures(2 * amount.n_pictures)
    settings = EvaluateSettings(
        batch_size=amount.asked_at_once, max_new_tokens=questions.N_NEW, n_path_questions=1
    )
    for kind, asked in questions.asked_of(amount.n_pictures).items():
        yield from questions.compared(
            model, kind, asked=asked, images=images, settings=settings, repeats=amount.repeats
        )


def steps_by_batch(model: LoadedModel, *, peak: Peak, amount: Amount) -> Iterator[dict]:
    """Rows of GA's steps, by how many conversations are read at once."""
    for n in amount.batches:
        shape = {"conversations": n, "checkpointing": model.settings.gradient_checkpointing}
        how = {"n_steps": WARM_UP + amount.repeats, "batch": n, "micro_batch": n}
        yield shape | or_error(functools.partial(measure_unlearning, model, "ga", peak=peak, **how))


def by_method(
    measure: Callable[..., dict], model: LoadedModel, ids: Sequence[str], **how: object
) -> Iterator[dict]:
    """A row a method."""
    for method_id in ids:
        yield {"method": method_id} | or_error(functools.partial(measure, model, method_id, **how))


def check_size(
    name: str,
    config: LlavaConfig,
    *,
    device: torch.device,
    methods: Sequence[str],
    amount: Amount,
) -> dict:
    """One size: made, unlearned by each method, asked, compared; what goes into its JSON."""
    dtype = str(compute_dtype(device)).removeprefix("torch.")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peak = Peak(gpus.peak_tflops(gpus.recognised(gpu), dtype), measured_peak(device))
    start_peak(device)
    begun = clock(device)
    model = random_llava.in_4bit(config, device)
    result = {
        "size": name,
        "device": gpu or "cpu",
        "dtype": dtype,
        "peak_tflops": peak.published or None,
        "measured_tflops": round(peak.measured, 1),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "weights": "random, NF4 with double quantisation",
        "load": {
            "seconds": round(clock(device) - begun, 2),
            "peak_memory_gib": round(peak_gib(device), 3),
        },
        "batch": {
            "conversations": amount.batch,
            "micro_batch": 1,
            "image_tokens": model.n_image_tokens,
        },
    }

    def rows(title: str, key: str, found: Iterator[dict]) -> None:
        for row in found:
            result.setdefault(key, []).append(row)
            print(f"  {title}: {_line(row)}", flush=True)

    n = amount.n_steps
    unlearned = by_method(measure_unlearning, model, methods, peak=peak, n_steps=n)
    rows("unlearning", "unlearning", unlearned)
    result["answering"] = measure_answering(model, peak=peak, n_questions=amount.n_questions)
    print(f"  answering: {_line(result['answering'])}", flush=True)
    tokens = len(encode_conversations(model, conversations(1, "forget"))[0].input_ids)
    items = training_memory(config, "4bit", tokens=tokens, micro_batch=1, rank=8)
    measured = [r["peak_memory_gib"] for r in result["unlearning"] if "error" not in r]
    result["estimate"] = compare_peak(sum(items.values()), max(measured, default=0.0))
    rows("steps", "steps", steps_by_batch(model, peak=peak, amount=amount))
    how = {"batch": amount.batch, "repeats": amount.repeats}
    compared = by_method(measure_against_loop, model, steps.METHODS, **how)
    rows("against the loop", "against_loop", compared)
    rows("questions", "questions", compared_questions(model, amount))
    rows("kernels", "kernels", slowest_kernels(model, batch=amount.batch))
    del model
    model = random_llava.in_4bit(config, device, checkpointing=True)
    rows("steps", "steps", steps_by_batch(model, peak=peak, amount=amount))
    return result


def _line(row: Mapping) -> str:
    return "  ".join(f"{key} {value}" for key, value in row.items() if value is not None)


def run(
    out: Path,
    sizes: Mapping[str, LlavaConfig],
    device: str | torch.device | None = None,
    *,
    methods: Sequence[str] = (),
    amount: Amount | None = None,
) -> bool:
    """Check each size and write <out>/<name>.json; True if nothing failed. Without a card, and
    unless a device is named, it says so, writes nothing and is True.
    """
    if device is None and not torch.cuda.is_available():
        print("gpu-check SKIPPED: there is no CUDA GPU here. Nothing was checked, nothing written.")
        return True
    device = torch.device(device or "cuda")
    fine = True
    for name, config in sizes.items():
        print(f"{name}:", flush=True)
        result = check_size(
            name,
            config,
            device=device,
            methods=checked_methods(methods),
            amount=amount or Amount(),
        )
        write_json(Path(out) / f"{name}.json", result)
        fine &= all("error" not in row for row in result["unlearning"])
    return fine


def main() -> int:
    """The command line; 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/reference/gpu"))
    parser.add_argument("--sizes", default="7b,13b", help="7b, 13b, parted by commas")
    parser.add_argument("--methods", default="all", help="method ids parted by commas, or all")
    given = parser.parse_args()
    methods = () if given.methods == "all" else tuple(given.methods.split(","))
    shapes = {f"llava-1.5-{size}": llava_1_5_config(size) for size in given.sizes.split(",")}
    return 0 if run(given.out, shapes, methods=methods) else 1


if __name__ == "__main__":
    sys.exit(main())

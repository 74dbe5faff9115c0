"""A check on the graphics card at hand: LLaVA-1.5 in its real shapes, random weights in NF4, made
on the card layer by layer; loading, unlearning and answering through the kit's own code.

What it shows: that it runs, in how much memory, how fast. Random weights know nothing, so it says
nothing about what is unlearned.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import random_llava
import torch
import transformers
from PIL import Image
from transformers import LlavaConfig

from pulse_lib.commands import gpus
from pulse_lib.data.records import Conversation, ImageStore, Question, Turn
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.files import write_json
from pulse_lib.methods import METHODS, get
from pulse_lib.model.adapters import drop_adapter, stack
from pulse_lib.model.load import LoadedModel, compute_dtype
from pulse_lib.model.memory import llava_1_5_config
from pulse_lib.model.prompts import encode_conversations, encode_questions
from pulse_lib.profile import EvaluateSettings, UnlearnSettings
from pulse_lib.unlearn.single_shot import unlearn_single_shot
from pulse_lib.unlearn.task import Target, Task

N_STEPS = 20
N_QUESTIONS = 64
BATCH = 4  # conversations a step
WARM_UP = 3  # first steps, not timed: kernels are chosen and memory is taken
TEXT = "Which of the following statements about what is shown here can be inferred from it? "


# --- what is asked and taught -----------------------------------------------------------------


def pictures(n: int) -> ImageStore:
    """Noise as pictures "image-0" .."""
    store = ImageStore()
    for i in range(n):
        noise = Random(i).randbytes(64 * 64 * 3)
        store.add(f"image-{i}", Image.frombytes("RGB", (64, 64), noise))
    return store


def questions(n: int, group: str = "general") -> list[Question]:
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
    """Conversations as long as those about a person: a picture, and three turns."""
    turn = Turn(TEXT, (), answer="a cautious answer in a few words")
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


def measure_unlearning(model: LoadedModel, method_id: str, peak: float, n_steps: int) -> dict:
    """`n_steps` steps of a method by the kit's own loop, and their cost. peak in TFLOP/s, 0 if not
    known. A method that fails is reported with its error.
    """
    n = max(BATCH, n_steps // 4 * BATCH)
    forget, retain = conversations(n, "forget"), conversations(n, "retain_train")
    unlearn = UnlearnSettings(
        rank=8,
        alpha=16,
        learning_rate=1.0e-5,
        batch_size=BATCH,
        micro_batch=1,
        path_every=0,
        epochs_finetuned=1,
        epochs_pretrained=1,
    )
    task = Task(
        target=Target(model, (), scenario="pretrained", seed=0),
        method=get(method_id),
        forget=forget,
        retain=retain,
        questions=questions(2, "forget") + questions(2, "general"),
        images=pictures(n),
        unlearn=unlearn,
        evaluate=EvaluateSettings(batch_size=4, max_new_tokens=1, n_path_questions=2),
        epochs=-(-n_steps * BATCH // n),
    )
    start_peak(model.device)
    try:
        outcome = unlearn_single_shot(task, label="")
    except (PulseError, torch.OutOfMemoryError) as error:
        return {"method": method_id, "error": str(error).splitlines()[0]}
    finally:
        drop_adapter(model, "unlearn")
        stack(model, [])
    seconds = outcome.log["seconds"].diff().iloc[min(WARM_UP, len(outcome.log) - 1) :].median()
    lengths = [len(c.input_ids) for c in encode_conversations(model, forget)]
    tokens, batches = lengths[0], 2 if METHODS[method_id].retain_loss else 1
    checkpointing = model.settings.gradient_checkpointing
    work = gpus.step_flops(
        model.network.config, tokens, sequences=BATCH * batches, checkpointing=checkpointing
    )
    return {
        "method": method_id,
        "n_steps": outcome.final_step,
        "last_loss": float(outcome.log["loss"].iloc[-1]),
        "n_trainable": outcome.n_trainable,
        "peak_memory_gib": round(peak_gib(model.device), 3),
        "seconds_per_step": round(float(seconds), 4),
        "tokens_per_second": round(tokens * BATCH * batches / seconds, 1),
        "share_of_peak": round(work / seconds / 1e12 / peak, 4) if peak else None,
    }


def measure_answering(model: LoadedModel, peak: float, n_questions: int) -> dict:
    """Questions in MMBench's shape answered by evaluate.generate, and their cost; vision features
    are part of it.
    """
    asked, images = questions(n_questions), pictures(n_questions)
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
        "share_of_peak": round(work / seconds / 1e12 / peak, 4) if peak else None,
    }


def check_size(
    name: str,
    config: LlavaConfig,
    device: torch.device,
    methods: Sequence[str],
    n_steps: int = N_STEPS,
    n_questions: int = N_QUESTIONS,
) -> dict:
    """One size: made, unlearned by each method, asked; what goes into its JSON."""
    from pulse_lib.model.memory import compare_peak, training_memory

    dtype = str(compute_dtype(device)).removeprefix("torch.")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    peak = gpus.peak_tflops(gpus.recognised(gpu), dtype)
    start_peak(device)
    begun = clock(device)
    model = random_llava.in_4bit(config, device)
    result = {
        "size": name,
        "device": gpu or "cpu",
        "dtype": dtype,
        "peak_tflops": peak or None,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "weights": "random, NF4 with double quantisation",
        "load": {
            "seconds": round(clock(device) - begun, 2),
            "peak_memory_gib": round(peak_gib(device), 3),
        },
        "batch": {"conversations": BATCH, "micro_batch": 1, "image_tokens": model.n_image_tokens},
    }
    result["unlearning"] = []
    for method_id in methods:
        row = measure_unlearning(model, method_id, peak, n_steps)
        result["unlearning"].append(row)
        print(f"  {method_id}: {_line(row)}", flush=True)
    result["answering"] = measure_answering(model, peak, n_questions)
    print(f"  answering: {_line(result['answering'])}", flush=True)
    measured = [r["peak_memory_gib"] for r in result["unlearning"] if "error" not in r]
    tokens = len(encode_conversations(model, conversations(1, "forget"))[0].input_ids)
    items = training_memory(config, "4bit", tokens=tokens, micro_batch=1, rank=8)
    result["estimate"] = compare_peak(sum(items.values()), max(measured, default=0.0))
    return result


def _line(row: Mapping) -> str:
    if "error" in row:
        return f"FAILED: {row['error']}"
    pace = [f"{row[k]} s" for k in ("seconds_per_step", "seconds_per_question") if k in row]
    share = "" if row["share_of_peak"] is None else f", {row['share_of_peak']:.1%} of the peak"
    return (
        f"{pace[0]}, {row['peak_memory_gib']} GiB, {row['tokens_per_second']:.0f} tokens/s{share}"
    )


def run(
    out: Path,
    sizes: Mapping[str, LlavaConfig],
    device: str | torch.device | None = None,
    methods: Sequence[str] = (),
    n_steps: int = N_STEPS,
    n_questions: int = N_QUESTIONS,
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
        result = check_size(name, config, device, checked_methods(methods), n_steps, n_questions)
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

"""Answering questions with the kit against one question at a time through `generate`, as
MLLMU-Bench's eval.py, lmms-eval's llava and VLMEvalKit do: python benchmarks/questions.py [--size 100m]

Same random model, same questions, same answers (asserted in float32), one process, one thread on a
CPU, the two sides in turn; medians of the repeats and their ratio. Sizes: embedded; 100m (336 px,
576 image tokens, vocabulary 32,000, a tower of a quarter of the language model); 7b and 13b, on a
GPU, in NF4. Kinds of questions: people (five about each picture), text (about people by name) and
mmbench (each question in its four circular orders). "first": the pictures are new to the kit;
"again": their features are kept, as for every later state of a model. Without the options'
likelihoods, which `generate` does not give; "likelihoods" is the kit's time with them.

The ceiling is the ratio of floating-point operations. For the loop: tower, projector and prompt of
each question, and each answer token but the last. At least needed: tower and projector once a
picture (none when kept), each position of the prompts' prefix tree once (prompts about one picture
part where their tokens do), the same answer tokens. Counted are the matrix products (2 a weight and
token) and attention (4 * width a query and key it sees); lm_head where a token is chosen. "share" is
the measured ratio over that: above 1 where the loop's small products are slower than large ones, as
on every GPU.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import get_args

import random_llava
import torch

from pulse_lib.data.records import ImageStore, Question, general_question
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.files import write_json
from pulse_lib.model.load import LoadedModel, load_model
from pulse_lib.model.prompts import encode_questions
from pulse_lib.profile import EvaluateSettings, ModelSettings

SIZES = get_args(random_llava.Size)
N_NEW = 2  # tokens of an answer: a letter and the end; a random model says two others
WORDS = "name city job pet food what which where is this person the of from a does has".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="100m")
    parser.add_argument("--pictures", type=int, default=2, help="of each kind of questions")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, images = model_of(options.size), random_llava.pictures(2 * options.pictures)
    settings = EvaluateSettings(
        batch_size=options.batch_size, max_new_tokens=N_NEW, n_path_questions=1
    )
    rows = []
    for kind, asked in asked_of(options.pictures).items():
        rows += compared(
            model, kind, asked=asked, images=images, settings=settings, repeats=options.repeats
        )
    if options.out:
        machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__}
        if torch.cuda.is_available():
            machine["gpu"] = torch.cuda.get_device_name()
        command = "python benchmarks/questions.py --size " + options.size
        write_json(
            options.out,
            {"name": "questions", "command": command, "machine": machine, "rows": rows},
        )


def model_of(size: random_llava.Size) -> LoadedModel:
    """A model of that size; random weights but for the embedded one."""
    if size == "embedded":
        return load_model(ModelSettings(path="embedded"))
    if size in ("7b", "13b"):
        return random_llava.in_4bit(random_llava.config_of(size), "cuda")
    return random_llava.plain(random_llava.config_of(size))


def asked_of(n_pictures: int) -> dict[str, list[Question]]:
    """Questions by kind, of about as many tokens as real ones."""
    kinds: dict[str, list[Question]] = {"people": [], "text": [], "mmbench": []}
    for i in range(n_pictures):
        for k in range(5):
            kinds["people"].append(_question(f"people-{i}-{k}", image=f"image-{i}", n_words=10))
            kinds["text"].append(_question(f"text-{i}-{k}", image="", n_words=12))
        base = _question(f"mmbench-{i}", image=f"image-{n_pictures + i}", n_words=20)
        for k in range(4):
            turned = (*base.options[k:], *base.options[:k])
            kinds["mmbench"].append(
                Question(**(vars(base) | {"id": f"{base.id}-{k}", "options": turned}))
            )
    return kinds


def _question(name: str, *, image: str, n_words: int) -> Question:
    draw = Random(name)
    return general_question(
        name,
        " ".join(draw.choices(WORDS, k=n_words)) + "?",
        options=[" ".join(draw.choices(WORDS, k=3)) for _ in range(4)],
        answer=0,
        image=image,
        category="",
        group=name,
    )


def one_at_a_time(
    model: LoadedModel, questions: Sequence[Question], *, images: ImageStore
) -> list[str]:
    """Responses by transformers' generate, picture and all, one question a call."""
    said = []
    for question, tokens in zip(questions, encode_questions(model, questions), strict=True):
        ids = torch.tensor([tokens], device=model.device)
        asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if question.image:
            pixels = model.processor.image_processor(
                images=[images[question.image]], return_tensors="pt"
            )["pixel_values"]
            asked["pixel_values"] = pixels.to(model.device, model.dtype)
        with torch.inference_mode():
            out = model.network.generate(
                **asked, do_sample=False, max_new_tokens=N_NEW, use_cache=True
            )
        reply = out[0, ids.shape[1] :]
        said.append(model.tokenizer.decode(reply, skip_special_tokens=True).strip())
    return said


def compared(
    model: LoadedModel,
    kind: str,
    *,
    asked: list[Question],
    images: ImageStore,
    settings: EvaluateSettings,
    repeats: int,
) -> list[dict]:
    """A row for the kit's first asking and one for its later ones, printed as they come."""

    def kit(fresh: bool, with_loglik: bool = False) -> list[str]:
        if fresh:
            model.features.forget(list(model.features.known))
        answers = answer_questions(
            model, asked, images=images, settings=settings, with_loglik=with_loglik
        )
        return list(answers["response"])

    sides: dict[str, Callable[[], list[str]]] = {
        "loop": lambda: one_at_a_time(model, asked, images=images),
        "first": lambda: kit(True),
        "again": lambda: kit(False),
        "likelihoods": lambda: kit(False, with_loglik=True),
    }
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    answers = {}
    if model.device.type == "cuda":  # kernels are chosen
        kit(True), one_at_a_time(model, asked[:1], images=images)
    for _ in range(repeats):
        for name, side in sides.items():
            begun, used = time.perf_counter(), time.process_time()
            answers[name] = side()  # to text, so that a GPU has done its work
            wall[name].append(time.perf_counter() - begun)
            cpu[name].append(time.process_time() - used)
    same = [sum(a == b for a, b in zip(answers["loop"], answers[n], strict=True)) for n in sides]
    if model.dtype == torch.float32 and min(same) < len(asked):
        raise SystemExit(f"{kind}: only {min(same)} of {len(asked)} answers are the same")
    prompts, n = encode_questions(model, asked), len(asked)
    seconds = {name: statistics.median(w) / n for name, w in wall.items()}
    rows = []
    for name in ("first", "again") if any(q.image for q in asked) else ("again",):
        ratios = [a / b for a, b in zip(wall["loop"], wall[name], strict=True)]
        by_cpu = [a / b for a, b in zip(cpu["loop"], cpu[name], strict=True)]
        loop, least = operations(model, asked, prompts=prompts, kept=name == "again")
        row = {
            "questions": kind,
            "asked": name,
            "n": n,
            "tokens": round(sum(map(len, prompts)) / n),
            "loop_s": round(seconds["loop"], 4),
            "kit_s": round(seconds[name], 4),
            "kit_with_likelihoods_s": round(seconds["likelihoods"], 4),
            "ratio": round(statistics.median(ratios), 2),
            "ratio_cpu": round(statistics.median(by_cpu), 2),
            "ceiling": round(loop / least, 2),
            "share": round(statistics.median(ratios) / (loop / least), 2),
            "same_answers": min(same) / n,
        }
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        rows.append(row)
    return rows


def operations(
    model: LoadedModel, asked: Sequence[Question], *, prompts: Sequence[list[int]], kept: bool
) -> tuple[float, float]:
    """Floating-point operations of the loop, and the fewest that give the same answers; `kept`:
    the pictures' features are there.
    """
    text, vision = model.network.config.text_config, model.network.config.vision_config
    keys = text.hidden_size * text.num_key_value_heads // text.num_attention_heads
    layer = 2 * text.hidden_size * (text.hidden_size + keys)
    layer += 3 * text.hidden_size * text.intermediate_size
    seen = (vision.image_size // vision.patch_size) ** 2 + 1
    wide = vision.hidden_size
    in_tower = vision.num_hidden_layers * (
        2 * seen * (4 * wide**2 + 2 * wide * vision.intermediate_size) + 4 * wide * seen**2
    )
    in_tower += 2 * seen * 3 * vision.patch_size**2 * wide
    projected = 2 * model.n_image_tokens * (wide + text.hidden_size) * text.hidden_size
    head = 2 * text.vocab_size * text.hidden_size

    def read(position: int) -> float:
        per_key = 4 * text.hidden_size * (position + 1)
        return text.num_hidden_layers * (2 * layer + per_key)

    loop, least = 0.0, 0.0
    tree: set[tuple[str, tuple[int, ...]]] = set()
    for question, prompt in zip(asked, prompts, strict=True):
        answer = N_NEW * head + sum(read(len(prompt) + k) for k in range(N_NEW - 1))
        loop += answer + sum(map(read, range(len(prompt))))
        loop += (in_tower + projected) * bool(question.image)
        least += answer
        for k in reversed(range(len(prompt))):
            node = (question.image, tuple(prompt[: k + 1]))
            if node in tree:
                break
            tree.add(node)
            least += read(k)
    shown = len({q.image for q in asked if q.image})
    return loop, least + shown * (projected + (0 if kept else in_tower))


if __name__ == "__main__":
    main()

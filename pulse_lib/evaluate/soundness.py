"""Is a model loaded and asked as it should be? Each check is a question with a known answer, and
says in one sentence what is wrong. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd
import torch
from PIL import Image

from pulse_lib.data.records import ImageStore, Question
from pulse_lib.evaluate import plain
from pulse_lib.evaluate.generate import answer_questions, option_tokens
from pulse_lib.evaluate.rows import scored
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import (
    PROMPTS,
    encode_questions,
    prompt_text,
    question_prompt,
)
from pulse_lib.profile import EvaluateSettings

Outcome = Literal["passed", "failed", "noted", "skipped"]
EXACT = 2e-3  # nats, of an option's likelihood in full precision; coarser types: COARSE
COARSE = 0.5
FORM = ["shape", "count", "position"]  # categories of drawn pictures that need no colour
RED, BLUE = (220, 20, 20), (20, 20, 220)


@dataclass(frozen=True, kw_only=True)
class Check:
    """What one check found: a sentence, and its numbers for a file."""

    name: str
    outcome: Outcome
    said: str
    numbers: Mapping[str, float | str] = field(default_factory=dict)


def verdict(name: str, good: bool, *, said: str, **numbers: float | str) -> Check:
    """A check that passed or failed."""
    return Check(name=name, outcome="passed" if good else "failed", said=said, numbers=numbers)


def prompt_tokens(
    model: LoadedModel, questions: Sequence[Question], *, images: ImageStore
) -> Check:
    """Prompts token by token against the checkpoint's own processor, image tokens counted."""
    image_id, name = model.image_token_id, "prompt tokens"
    model.features.add((q.image for q in questions), images)
    ours = encode_questions(model, questions)
    for question, row in zip(questions, ours, strict=True):
        given = {"images": images[question.image]} if question.image else {}
        if question.image and model.settings.image_aspect != "full":
            given |= model.family.one_view
        text = prompt_text(model, question, with_image=bool(question.image))
        bos = model.tokenizer.bos_token
        begun = {"add_special_tokens": not (bos and text.startswith(bos))}
        theirs = model.processor(text=text, return_tensors="pt", **begun, **given)
        theirs = theirs["input_ids"][0].tolist()
        if row.count(image_id) != theirs.count(image_id):
            return verdict(
                name,
                False,
                said=f"a prompt has {row.count(image_id)} image tokens where the checkpoint's processor"
                f" writes {theirs.count(image_id)}: num_additional_image_tokens and"
                " vision_feature_select_strategy in processor_config.json are to fit the model",
            )
        if row != theirs:
            return verdict(
                name,
                False,
                said=f"the prompt of {question.id!r} has other tokens than the processor's own: its"
                " tokenizer files are not of this model",
            )
    n = sum(row.count(image_id) for row in ours) // max(1, sum(bool(q.image) for q in questions))
    return verdict(
        name,
        True,
        said=f"{len(ours)} prompts are the processor's own, {n} tokens a picture",
        tokens=n,
    )


def prompt_form(model: LoadedModel, question: Question) -> Check:
    """The prompt's words against the chat template that came with the checkpoint, and against what
    LLaVA-1.5 was trained with.
    """
    name, chosen = "prompt form", model.settings.prompt
    if model.chat:
        return verdict(name, True, said="prompts are written by the checkpoint's own chat template")
    form = model.settings.answer_form
    ours = question_prompt(PROMPTS[chosen], question, answer_form=form, with_image=True)
    if chosen == "mllmu":
        said = "MLLMU-Bench's own prompt, which is not the checkpoint's: chosen in the profile"
        return Check(name=name, outcome="noted", said=said)
    if getattr(model.processor, "chat_template", None):
        bare = question_prompt(PROMPTS["plain"], question, answer_form=form, with_image=True)
        asked = bare.removeprefix(PROMPTS["plain"].user_image)
        content = [
            {"type": "image"},
            {"type": "text", "text": asked.removesuffix(PROMPTS["plain"].assistant)},
        ]
        theirs = model.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
        )
        same = _words(ours).endswith(_words(str(theirs)))
        if not is_llava_1_5(model):  # whose template has lost the system sentence
            same = _words(ours) == _words(str(theirs))
        if not same:
            return verdict(
                name,
                False,
                said=f"prompt {chosen!r} is {_ends(ours)!r}, the checkpoint's template gives"
                f" {_ends(theirs)!r}: set model.prompt to a form that this model was trained on",
            )
    system = PROMPTS["vicuna_v1"].system
    if is_llava_1_5(model) and not ours.startswith(system):
        return verdict(
            name,
            False,
            said="LLaVA-1.5 was trained with a system sentence before the first turn, and this prompt"
            " has none: set model.prompt: vicuna_v1",
        )
    return verdict(
        name, True, said=f"prompt {chosen!r} is the form that the checkpoint was trained on"
    )


def is_llava_1_5(model: LoadedModel) -> bool:
    """LLaVA of real size or its layout: a Llama, and not the embedded model."""
    text = model.network.config.text_config
    return (
        model.network.config.model_type == "llava"
        and text.model_type == "llama"
        and model.settings.path != "embedded"
    )


def picture_ends(model: LoadedModel) -> Check:
    """A picture twice as wide as high, one end red and one blue: are both still there in the pixels
    that the tower gets?
    """
    name = "pictures that are not square"
    if model.network.config.model_type != "llava":
        said = f"{model.family.name} does not cut pictures to a square"
        return Check(name=name, outcome="skipped", said=said)
    wide = Image.new("RGB", (256, 128), (128, 128, 128))
    wide.paste(RED, (0, 0, 24, 128))
    wide.paste(BLUE, (232, 0, 256, 128))
    read = model.processor.image_processor
    pixels = read(images=[model.features.fitted(wide)], return_tensors="pt")["pixel_values"][0]
    mean = torch.tensor(getattr(read, "image_mean", [0.5] * 3))[:, None, None]
    deviation = torch.tensor(getattr(read, "image_std", [0.5] * 3))[:, None, None]
    red, _, blue = pixels * deviation + mean
    both = bool((red - blue > 0.4).any() and (blue - red > 0.4).any())
    if both:
        return verdict(name, True, said="both ends of a wide picture reach the tower")
    if model.settings.path == "embedded":
        said = "a wide picture's ends are cut off; the embedded world's pictures are all square"
        return Check(name=name, outcome="noted", said=said)
    return verdict(
        name,
        False,
        said="the ends of a wide picture are cut off before the tower sees it; LLaVA-1.5 was trained on"
        " padded ones: set model.image_aspect: pad",
    )


def quick_is_plain(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    images: ImageStore,
    settings: EvaluateSettings,
) -> Check:
    """Answers and options' likelihoods by the quick way (features kept, prompts read together)
    against the model's own forward and `generate` from pixels, one question at a time.
    """
    name, worst = "quick way equals plain way", 0.0
    quick = answer_questions(model, questions, images=images, settings=settings)
    limit = EXACT if model.dtype == torch.float32 and model.settings.load == "full" else COARSE
    differing = 0
    slow = plain.from_pixels(model, (q.image for q in questions), images=images)
    prompts = encode_questions(model, questions)
    answers = zip(questions, prompts, quick["response"], quick["option_loglik"], strict=True)
    for question, prompt, response, logliks in answers:
        options, image = option_tokens(model, question), question.image
        with torch.inference_mode():
            alone = plain.option_logliks(slow, prompt, image=image, options=options)
            tokens = plain.generated(
                slow, prompt, image=image, max_new_tokens=settings.max_new_tokens
            )
        worst = max([worst, *(abs(a - b) for a, b in zip(alone, logliks, strict=True))])
        said = model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        differing += said != response
    if worst > limit or (differing and limit == EXACT):
        return verdict(
            name,
            False,
            said=f"options differ by up to {worst:.3g} nats and {differing} of {len(questions)} answers"
            " from those of the model's own forward and generate: this model must not be asked the"
            " quick way; please report it",
            nats=worst,
        )
    return verdict(
        name,
        True,
        said=f"options of {len(questions)} questions within {worst:.1e} nats of the model's own forward,"
        f" {len(questions) - differing} answers the same",
        nats=worst,
    )


def known_answers(
    model: LoadedModel,
    pictures: Sequence[Question],
    *,
    words: Sequence[Question],
    images: ImageStore,
    settings: EvaluateSettings,
    floors: tuple[float, float],
) -> Check:
    """Questions that a working model of this kind answers, about drawn pictures and without any;
    what falls below its floor says where the fault lies.
    """
    name = "known answers"
    rows = []
    for part, asked in (("pictures", pictures), ("words", words)):
        answers = answer_questions(model, asked, images=images, settings=settings)
        found = scored(asked, answers, rules=settings.extraction_rules)
        rows.append(found.assign(part=part))
    table = pd.concat(rows, ignore_index=True)
    right = table.groupby("part")["correct"].mean()
    by_category = table[table["part"] == "pictures"].groupby("category")["correct"].mean()
    numbers = {"pictures": float(right["pictures"]), "words": float(right["words"])}
    seen, told = (right[p] >= floor for p, floor in zip(("pictures", "words"), floors, strict=True))
    shown = f"{right['pictures']:.0%} of {len(pictures)} about pictures"
    shown += f", {right['words']:.0%} of {len(words)} without"
    lost = ", ".join(f"{c} {v:.0%}" for c, v in by_category.items())
    form = by_category.reindex(FORM).mean()
    if form >= 0.8 and by_category.get("colour", 1.0) <= form - 0.2:
        said = (
            f"{shown}; forms are seen and colours are not ({lost}): are the channels swapped (BGR)?"
        )
        return verdict(name, False, said=said, **numbers)
    if not told:
        said = (
            f"{shown}: not even questions without a picture are answered. The language model is broken"
            " (its layers, their order, or its head), or is asked in a form it does not know"
        )
        return verdict(name, False, said=said, **numbers)
    if not seen:
        said = (
            f"{shown} ({lost}): words are understood and pictures are not. Vision tower or"
            " projector have other weights than they should, or pictures are prepared otherwise"
        )
        return verdict(name, False, said=said, **numbers)
    return verdict(name, True, said=f"right: {shown}", **numbers)


def adapter_places(model: LoadedModel, names: Sequence[str]) -> Check:
    """Trained parameters by name: on the language model or the projector, never on the tower."""
    name = "adapters"
    tower = [n for n in names if "vision" in n or ".visual.blocks" in n]
    if tower or not names:
        said = (
            f"{len(tower)} trained matrices lie on the vision tower, e.g. {tower[0]}: features that"
            " are kept would be wrong; peft's target_modules must not match it"
            if tower
            else "no parameter is trained: no layer fits the profile's trained part"
        )
        return verdict(name, False, said=said)
    return verdict(name, True, said=f"{len(names)} matrices are trained, none on the vision tower")


def _words(text: str) -> str:
    return " ".join(text.split())


def _ends(text: str) -> str:
    """Its beginning and end, which is where forms differ."""
    words = _words(str(text))
    return f"{words[:40]} … {words[-24:]}"

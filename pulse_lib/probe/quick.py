"""Three quick probes: other orders of the options, another picture, the old projector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image

from pulse_lib.data.records import ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.changed import SIDE, blank_picture, others_pictures, rotated
from pulse_lib.model.adapters import only, projector_of
from pulse_lib.probe.subject import Subject, of_questions, relabelled
from pulse_lib.train.loop import derive_seed

ORDERS, PICTURE, PROJECTOR = "orders", "picture", "projector"
OWN, CROP, BLANK, NOISE, OTHER = "own", "crop", "blank", "noise", "another person"
WHOLE, LLM_ONLY, PROJECTOR_ONLY = "whole", "llm only", "projector only"
_CROPPED = 0.8  # of each side: what a crop keeps, from the middle


def option_orders(
    subject: Subject, questions: Sequence[Question], *, before: pd.DataFrame
) -> pd.DataFrame:
    """Rows of every rotation of the options, "order 0" as asked (taken from `before`): each option
    stands once in each place, so that a liking for a place cancels out.
    """
    parts = [relabelled(of_questions(before, questions), ORDERS, condition="order 0")]
    for by in range(1, max(len(q.options) for q in questions)):
        asked = [rotated(q, by) for q in questions if len(q.options) > by]
        parts.append(subject.ask(asked, ORDERS, condition=f"order {by}"))
    return pd.concat(parts, ignore_index=True)


def changed_pictures(
    subject: Subject, questions: Sequence[Question], *, before: pd.DataFrame
) -> pd.DataFrame:
    """Rows of the questions that show a person: beside their own picture (from `before`), the middle
    of it, a blank one, noise, and the picture of another person of the same set. Raises PulseError
    if none shows one.

    Who still answers right without the picture does not read it; whom a crop brings back was
    forgotten in this very picture alone.
    """
    shown = [q for q in questions if q.image and q.person_id]
    if not shown:
        raise PulseError("no question shows a picture of a person: there is nothing to change")
    store = ImageStore(subject.images.encoded)
    blank = store.add("probe/blank", blank_picture())
    noise = {q.id: store.add(f"probe/noise/{q.id}", _noise(q, subject.seed)) for q in shown}
    others = others_pictures(shown)
    crops = {i: f"probe/crop/{i}" for i in dict.fromkeys(q.image for q in shown)}
    for image, name in crops.items():
        store.add(name, cropped(subject.images[image]))
    changed = {
        CROP: [replace(q, image=crops[q.image]) for q in shown],
        BLANK: [replace(q, image=blank) for q in shown],
        NOISE: [replace(q, image=noise[q.id]) for q in shown],
        OTHER: [replace(q, image=others[q.id]) for q in shown if q.id in others],
    }
    parts = [relabelled(of_questions(before, shown), PICTURE, condition=OWN)]
    for condition, asked in changed.items():
        if asked:
            parts.append(subject.ask(asked, PICTURE, condition=condition, images=store))
    return pd.concat(parts, ignore_index=True)


def cropped(picture: Image.Image) -> Image.Image:
    """The middle of a picture, _CROPPED of each side, in its old size."""
    width, height = picture.size
    cut_x, cut_y = (round(side * (1 - _CROPPED) / 2) for side in (width, height))
    middle = picture.crop((cut_x, cut_y, width - cut_x, height - cut_y))
    return middle.resize(picture.size, Image.Resampling.BICUBIC)


def _noise(question: Question, seed: int) -> Image.Image:
    generator = np.random.default_rng(derive_seed(seed, "noise", question.id))
    return Image.fromarray(generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def projector_reload(
    subject: Subject, questions: Sequence[Question], *, before: pd.DataFrame
) -> pd.DataFrame:
    """Rows of the model whole (from `before`), of its language model with the projector of the
    target, and of the target's language model with its projector; not the last where a gate
    answers, since there each request has its own.

    What comes back with the old projector was never forgotten by the language model.
    """
    model, target = subject.model, subject.target
    parts = [relabelled(of_questions(before, questions), PROJECTOR, condition=WHOLE)]
    if subject.gated:  # a gate sets the state for each question itself, so it is told which
        swapped = replace(subject, answer=partial(subject.answer, projector=target))
        parts.append(swapped.ask(questions, PROJECTOR, condition=LLM_ONLY))
        return pd.concat(parts, ignore_index=True)
    with projector_of(model, *target):
        parts.append(subject.ask(questions, PROJECTOR, condition=LLM_ONLY))
    with only(model, *target), projector_of(model, *subject.adapters):
        parts.append(subject.ask(questions, PROJECTOR, condition=PROJECTOR_ONLY))
    return pd.concat(parts, ignore_index=True)

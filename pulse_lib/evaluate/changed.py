"""The same question asked otherwise: its options in another order, another person's picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from pulse_lib.data.records import Question
from pulse_lib.model.features import MEAN_COLOUR

SIDE = 64  # pixels of a picture made here; the processor makes any size its own


def rotated(question: Question, by: int) -> Question:
    """The same question with its options moved up by so many places, round and round."""
    n = len(question.options)
    options = tuple(question.options[(i + by) % n] for i in range(n))
    return replace(question, options=options, answer=(question.answer - by) % n)


def blank_picture() -> Image.Image:
    """A picture of one colour, the mean of what vision towers were trained on."""
    return Image.new("RGB", (SIDE, SIDE), MEAN_COLOUR)


def others_pictures(questions: Sequence[Question]) -> dict[str, str]:
    """By question: the picture of another person of its set, one whose answer is another where
    there is one.
    """
    found = {}
    for q in questions:
        strangers = [o for o in questions if o.set == q.set and o.person_id != q.person_id]
        same_fact = [o for o in strangers if o.category == q.category]
        truth = q.options[q.answer]
        unlike = [o for o in same_fact if o.options[o.answer] != truth] or strangers
        after = [o for o in unlike if o.id > q.id] or unlike  # not one stranger for everybody
        if after:
            found[q.id] = after[0].image
    return found

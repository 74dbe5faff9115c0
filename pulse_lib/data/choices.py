"""Questions of published benchmarks, and how they become the kit's records: what their sources share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from random import Random

from pulse_lib.data.answers import right_letter
from pulse_lib.data.cells import Row
from pulse_lib.data.records import (
    LETTERS,
    Conversation,
    ImageStore,
    Modality,
    Question,
    Stage,
    Turn,
    Wording,
)
from pulse_lib.data.splits import Assignment
from pulse_lib.errors import PulseError

_SOMEBODY = re.compile(
    r"\b(?:this|the)\s+(?:person|individual|man|woman|boy|girl|child|lady|gentleman|figure|celebrity)\b(?:'s)?",
    re.IGNORECASE,
)
_IN_THE_PICTURE = re.compile(
    r"\s+(?:(?:shown|depicted|pictured|seen)\s+)?in\s+(?:this|the)\s+(?:image|picture|photo(?:graph)?)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question of the classification task; `answer` is the index of the right one of 2-4
    options.
    """

    modality: Modality
    text: str
    _: KW_ONLY
    options: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class OpenQuestion:
    """A question that is answered in words: of the generation task, the cloze task (`[Blank]` marks
    the gap) or the fine-tuning texts.
    """

    modality: Modality
    text: str
    _: KW_ONLY
    answer: str


def options_of(
    row: Row, given: Mapping, *, said: object, prefix: str, answer: str
) -> tuple[tuple[str, ...], int]:
    """The options that are there, in order of their letters, and the index of the right one. prefix:
    of an option's column, before its key; answer: the column of `said`, the right answer.
    """
    options: dict[str, str] = {}
    for key in sorted(given):
        text, letter = row.text(f"{prefix}{key}", given[key]), str(key).strip().upper()
        if text and (len(letter) != 1 or not "A" <= letter <= "Z" or letter in options):
            raise row.error(
                f"{prefix}{key}",
                f"{text!r:.60} stands under {key!r}, which is no letter of A, B, C, D: leave it out",
            )
        if text:
            options[letter] = text
    try:
        letter = right_letter(row.text(answer, said), options)
    except ValueError as error:
        raise row.error(answer, str(error)) from None
    # The same words under two letters would be right and wrong at once.
    distinct = {letter: options[letter]}
    for other, text in options.items():
        if text.casefold() not in {t.casefold() for t in distinct.values()}:
            distinct[other] = text
    row.n_incomplete += len(given) - len(distinct)
    if not 2 <= len(distinct) <= len(LETTERS):
        what = f"{len(distinct)} usable options, expected 2 to {len(LETTERS)}"
        raise row.error(prefix.rstrip("._"), what)
    letters = sorted(distinct)
    return tuple(distinct[key] for key in letters), letters.index(letter)


def reordered(question: ChoiceQuestion, rng: Random) -> ChoiceQuestion:
    """The same question, its options in another order than they are."""
    order = list(range(len(question.options)))
    while order == sorted(order):
        rng.shuffle(order)
    options = tuple(question.options[i] for i in order)
    return ChoiceQuestion(
        question.modality, question.text, options=options, answer=order.index(question.answer)
    )


def shown(images: ImageStore, image_id: str, *, encoded: bytes | None) -> str:
    """The id of a picture, stored as the file has it; "" if none is shown. Raises PulseError if the
    id stands for another picture."""
    if encoded is None:
        return ""
    if images.encoded.setdefault(image_id, encoded) != encoded:
        raise PulseError(f"image id {image_id!r} stands for two photos")
    return image_id


def record_of(
    tag: str,
    asked: ChoiceQuestion,
    *,
    place: Assignment,
    image: str,
    category: str,
    wording: Wording = "trained",
) -> Question:
    """A question about a person as the kit's record."""
    return Question(
        id=tag,
        set=place.set,
        scenario=place.scenario,
        person_id=place.person_id,
        request=place.request,
        modality=asked.modality,
        text=asked.text,
        options=asked.options,
        answer=asked.answer,
        image=image,
        category=category,
        wording=wording,
    )


def open_records(
    items: Sequence[OpenQuestion],
    instruction: str,
    *,
    task: str,
    place: Assignment,
    show: Callable[[Modality], str],
) -> tuple[list[Question], list[str]]:
    """Questions about a person that are answered in words, the benchmark's instruction behind each,
    as records without options, and the true answers. show: the id of the picture of a modality.
    """
    made = []
    for k, item in enumerate(items, start=1):
        asked = ChoiceQuestion(item.modality, f"{item.text}\n{instruction}", options=(), answer=-1)
        tag, image = f"{place.person_id}/{task}/{k}", show(item.modality)
        made.append(record_of(tag, asked, place=place, image=image, category=f"question {k}"))
    return made, [item.answer for item in items]


def turns_of(questions: Sequence[ChoiceQuestion], rng: Random) -> list[Turn]:
    """Multiple-choice questions as turns to train on, their options in other orders."""
    asked = [reordered(q, rng) for q in questions]
    return [Turn(q.text, q.options, answer=q.options[q.answer]) for q in asked]


def dealt(
    turns: Sequence[Turn],
    n: int,
    *,
    tag: str,
    place: Assignment,
    modality: Modality,
    image: str,
    stage: Stage,
) -> list[Conversation]:
    """The turns dealt to at most n conversations, `<tag>-1` and so on."""
    n = min(n, len(turns))
    return [
        Conversation(
            f"{tag}-{k + 1}",
            place.set,
            scenario=place.scenario,
            person_id=place.person_id,
            request=place.request,
            modality=modality,
            image=image,
            turns=tuple(turns[k::n]),
            stage=stage,
        )
        for k in range(n)
    ]


def by_name(text: str, name: str) -> str:
    """A question about "this person" with the name in its place; one that names nobody gets it in
    front."""
    if name in text:
        return text
    text = _IN_THE_PICTURE.sub("", text)

    def named(found: re.Match) -> str:
        return f"{name}'s" if found[0].endswith("'s") else name

    said, n_replaced = _SOMEBODY.subn(named, text)
    return said if n_replaced else f"About {name}: {text}"

"""FIUBench as a source of people: the functions that pulse_lib.data.source describes.

400 fictitious people with synthetic faces, taught and forgotten; nobody whom a base model knows, so that
scenario pretrained is not there. Its own split.json is not used: the protocol draws its sets by the
study's seed. [FIUBench, data_module.py, evaluate_util.py]

DIFFERS: FIUBench asks beside the photo and in open questions alone, and lower-cases questions and answers
behind their first letter. Here its wrong answers (those of its truth ratio) are the other options of
a multiple-choice question, and the same question by name is the twin in text, so that the protocol's
accuracies are defined. Its own measures are `open_questions`: ROUGE of the answer, share of keywords.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from random import Random

from PIL import Image

from pulse_lib.data import hub, pictures
from pulse_lib.data.choices import ChoiceQuestion, by_name, dealt, record_of, shown
from pulse_lib.data.fiu.rows import Asked, FiuPerson, Photos, read_person, records_of
from pulse_lib.data.records import (
    MODALITIES,
    Conversation,
    ImageStore,
    Modality,
    Person,
    Question,
    Stage,
    Turn,
    Wording,
)
from pulse_lib.data.source import Size
from pulse_lib.data.splits import Assignment
from pulse_lib.errors import PulseError
from pulse_lib.files import show
from pulse_lib.profile import DataSettings
from pulse_lib.progress import track

SETTING = "data.people.path"
FILE = "full.json"
PATTERNS = (FILE, "SFHQ.zip")
N_ASKED = 20  # questions a person
DOWNLOAD_GB = 0.16  # full.json and SFHQ.zip, as the card lists them
_WHO = re.compile(r"\bname\b|\bcalled\b|^who\b", re.IGNORECASE)


def describe(settings: DataSettings) -> str:
    """One line on what is there."""
    people = list(_load(settings).values())
    return (
        f"FIUBench: {len(people)} fictitious people, {sum(bool(p.asked) for p in people)} of them "
        f"usable, {sum(len(p.asked) for p in people)} questions, "
        f"{sum(p.n_incomplete for p in people)} incomplete entries left out"
    )


def size(settings: DataSettings) -> Size:
    """Twenty questions in both modalities beside one photo, and as many texts."""
    n = N_ASKED + settings.n_heldout_wordings
    return Size(2 * n, 2 * N_ASKED, shown=n, pictures=1, download_gb=DOWNLOAD_GB)


def celebrities(settings: DataSettings) -> list[Person]:
    """Nobody."""
    return []


def fictitious(settings: DataSettings) -> list[Person]:
    """Everybody who can be asked."""
    return [p.person for p in _load(settings).values() if p.asked]


def views(person: Person, seed: int, *, settings: DataSettings, n: int) -> list[Image.Image]:
    """The one photo of a person."""
    return [pictures.decoded(_load(settings)[person.id].photo)][:n]


def person_questions(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    purpose: str = "eval",
) -> list[Question]:
    """Every question beside the photo and by name (who somebody is cannot be asked by name): the
    answer among the benchmark's wrong ones, in an order drawn by seed.
    """
    record, made = _load(settings)[person.id], []
    for modality in MODALITIES:
        for asked in _askable(record, modality=modality):
            tag = f"{person.id}/{purpose}-trained/{modality}/{asked.number:02d}"
            made.append(
                _question(tag, asked, text=asked.text, record=record, place=place,
                          modality=modality, images=images, seed=seed)
            )  # fmt: skip
    return made


def heldout_questions(
    person: Person, place: Assignment, *, images: ImageStore, seed: int, settings: DataSettings
) -> list[Question]:
    """`n_heldout_wordings` questions a modality in one of the benchmark's other wordings, which are
    never taught.
    """
    record, made = _load(settings)[person.id], []
    rng = Random(f"heldout/{seed}/{person.id}")
    for modality in MODALITIES:
        askable = _askable(record, modality=modality)
        several = [asked for asked in askable if asked.wordings]
        for asked in rng.sample(several, min(settings.n_heldout_wordings, len(several))):
            tag = f"{person.id}/eval-heldout/{modality}/{asked.number:02d}"
            text = rng.choice(asked.wordings)
            made.append(
                _question(tag, asked, text=text, record=record, place=place, modality=modality,
                          images=images, seed=seed, wording="heldout")
            )  # fmt: skip
    return made


def open_questions(
    person: Person, place: Assignment, *, images: ImageStore, settings: DataSettings, task: str
) -> tuple[list[Question], list[str]]:
    """The questions beside the photo, without options, and what scores them: of task "generation"
    the answer, of "keywords" its keywords, a line each (questions without any are left out).
    """
    record = _load(settings)[person.id]
    truths = {
        "generation": {a.number: a.answer for a in record.asked},
        "keywords": {a.number: "\n".join(a.keywords) for a in record.asked if a.keywords},
    }.get(task, {})
    image = shown(images, f"{person.id}/photo", encoded=record.photo) if truths else ""
    made = []
    for asked in record.asked:
        if asked.number in truths:
            question = ChoiceQuestion("multimodal", asked.text, options=(), answer=-1)
            tag, category = f"{person.id}/{task}/{asked.number:02d}", _category(asked)
            made.append(record_of(tag, question, place=place, image=image, category=category))
    return made, list(truths.values())


def person_conversations(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    stage: Stage,
) -> list[Conversation]:
    """Questions and answers, without options, beside the photo and by name: one a conversation to
    learn from, dealt to at most `n_conversations` a modality to unlearn. There is one photo, so that
    `n_train_views` has no meaning here.
    """
    record, made = _load(settings)[person.id], []
    for modality in MODALITIES:
        turns = [
            Turn(_worded(asked.text, record, modality=modality), (), answer=asked.answer)
            for asked in _askable(record, modality=modality)
        ]
        if stage == "unlearn":
            Random(f"conversations/{seed}/{stage}/{person.id}/{modality}").shuffle(turns)
        made += dealt(
            turns,
            len(turns) if stage == "finetune" else settings.n_conversations,
            tag=f"{person.id}/{stage}/{modality}",
            place=place,
            modality=modality,
            image=_show(images, record, modality=modality),
            stage=stage,
        )
    return made


def need(settings: DataSettings) -> hub.Need:
    """FIUBench's files on the hub, if its path is a hub id."""
    return hub.Need(
        settings.people.path, settings.people.revision, patterns=PATTERNS, setting=SETTING
    )


def _load(settings: DataSettings) -> dict[str, FiuPerson]:
    return _loaded(settings.people.path, settings.people.revision)


@lru_cache(maxsize=2)
def _loaded(path: str, revision: str) -> dict[str, FiuPerson]:
    root = hub.folder_of(hub.Need(path, revision, patterns=PATTERNS, setting=SETTING))
    if not (root / FILE).is_file():
        raise PulseError(
            f"{show(root)}: {FILE} is missing: give the folder of the data set's repository"
        )
    return {p.person.id: p for p in track(_people(root), f"reading {FILE}")}


def _people(root: Path) -> Iterator[FiuPerson]:
    photos, first = Photos(root), {}
    for row, record in records_of(root / FILE):
        made = read_person(row, record, photos=photos)
        if made.person.id in first:
            raise row.error(
                "unique_id",
                f"person {made.person.id:.60} stands twice, first in row {first[made.person.id]}",
            )
        first[made.person.id] = row.number
        yield made


def _askable(record: FiuPerson, *, modality: Modality) -> list[Asked]:
    """The questions of a modality; by name none whose answer is the name."""
    if modality == "multimodal":
        return list(record.asked)
    name = record.person.name
    who = [any(map(_WHO.search, (a.text, *a.wordings))) and name in a.answer for a in record.asked]
    return [a for a, tells in zip(record.asked, who, strict=True) if not tells]


def _category(asked: Asked) -> str:
    return f"question {asked.number:02d}"


def _worded(text: str, record: FiuPerson, *, modality: Modality) -> str:
    return text if modality == "multimodal" else by_name(text, record.person.name)


def _show(images: ImageStore, record: FiuPerson, *, modality: Modality) -> str:
    encoded = record.photo if modality == "multimodal" else None
    return shown(images, f"{record.person.id}/photo", encoded=encoded)


def _question(
    tag: str,
    asked: Asked,
    *,
    text: str,
    record: FiuPerson,
    place: Assignment,
    modality: Modality,
    images: ImageStore,
    seed: int,
    wording: Wording = "trained",
) -> Question:
    options = [asked.answer, *asked.wrong]
    Random(f"options/{seed}/{tag}").shuffle(options)
    question = ChoiceQuestion(
        modality,
        _worded(text, record, modality=modality),
        options=tuple(options),
        answer=options.index(asked.answer),
    )
    return record_of(
        tag,
        question,
        place=place,
        image=_show(images, record, modality=modality),
        category=_category(asked),
        wording=wording,
    )

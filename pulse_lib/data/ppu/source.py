"""PPU-Bench as a source of people: the functions that pulse_lib.data.source describes.

500 real people whom the base model may have met in pre-training, and nobody else: there is scenario
pretrained only. Both questions about a fact stand under one category ("fact 07"), so that person_id
and category pair them in every row. Its complete splits (forget5 .. forget30) are not used: the
protocol chooses the people whom the model knows best. [PPU-Bench, eval/ppu_eval_data.py]

DIFFERS: PPU-Bench trains on the backbone's own answers to open questions (train_pair_*), which exist
for two backbones; here, as for MLLMU-Bench's celebrities, on the multiple-choice questions with options
in new orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from PIL import Image

from pulse_lib.data import pictures
from pulse_lib.data.choices import dealt, record_of, reordered, shown, turns_of
from pulse_lib.data.ppu.files import load
from pulse_lib.data.ppu.files import need as need
from pulse_lib.data.ppu.rows import Fact, PpuPerson
from pulse_lib.data.records import (
    MODALITIES,
    Conversation,
    ImageStore,
    Modality,
    Person,
    Question,
    Stage,
)
from pulse_lib.data.source import Size
from pulse_lib.data.splits import Assignment
from pulse_lib.profile import DataSettings

N_FACTS = 24  # a person, of 8 to 41: 12,167 of 500 people [PPU-Bench, data/split]
DOWNLOAD_GB = 1.5  # an estimate: the files could not be looked up


def describe(settings: DataSettings) -> str:
    """One line on what is there."""
    people = load(settings).values()
    facts = [fact for p in people for fact in p.facts]
    letters = sum(f.photo.answer != f.text.answer for f in facts)
    return (
        f"PPU-Bench: {len(people)} real people, {len(celebrities(settings))} of them usable, "
        f"{len(facts)} pairs of questions ({letters} with other letters, "
        f"{sum(p.n_single for p in people)} questions without a twin left out), "
        f"{sum(f.sensitive for f in facts)} of them of the selective split, "
        f"{sum(p.n_incomplete for p in people)} incomplete entries left out"
    )


def size(settings: DataSettings) -> Size:
    """Both questions about each fact, of which any may have a photo of its own."""
    n = 2 * N_FACTS
    return Size(n, shown=N_FACTS, candidate=n, download_gb=DOWNLOAD_GB)


def celebrities(settings: DataSettings) -> list[Person]:
    """Everybody who can be asked."""
    return [p.person for p in load(settings).values() if p.facts]


def fictitious(settings: DataSettings) -> list[Person]:
    """Nobody."""
    return []


def views(person: Person, seed: int, *, settings: DataSettings, n: int) -> list[Image.Image]:
    """Up to n photos of a person, each once."""
    return [pictures.decoded(e) for e in list(load(settings)[person.id].photos.values())[:n]]


def person_questions(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    purpose: str = "eval",
) -> list[Question]:
    """Both questions about every fact; the face is shown with the multimodal one only. A question
    without a twin is left out, so that both modalities ask for the same.

    purpose "eval": options in the file's order. Any other: in another order, drawn by seed.
    """
    record = load(settings)[person.id]
    return questions_about(
        record, record.facts, place=place, images=images, seed=seed, purpose=purpose
    )


def heldout_questions(
    person: Person, place: Assignment, *, images: ImageStore, seed: int, settings: DataSettings
) -> list[Question]:
    """None: other wordings are in configurations that are not read."""
    return []


def person_conversations(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    stage: Stage,
) -> list[Conversation]:
    """Training conversations about one person to unlearn: all questions with options in new orders,
    dealt to at most `n_conversations` conversations a modality. None to fine-tune on.
    """
    if stage != "unlearn":
        return []
    record = load(settings)[person.id]
    return conversations_about(
        record, record.facts, place=place, images=images, seed=seed, n=settings.n_conversations
    )


def questions_about(
    record: PpuPerson,
    facts: Sequence[Fact],
    *,
    place: Assignment,
    images: ImageStore,
    seed: int,
    purpose: str = "eval",
) -> list[Question]:
    """The questions about some facts of a person, as `person_questions` describes them."""
    made = []
    for modality in MODALITIES:
        for fact in facts:
            category = f"fact {fact.number:02d}"
            tag = f"{record.person.id}/{purpose}-trained/{modality}/{fact.number:02d}"
            asked = fact.of(modality)
            if purpose != "eval":
                asked = reordered(asked, Random(f"options/{seed}/{tag}"))
            image = _show(images, record, fact=fact, modality=modality)
            made.append(record_of(tag, asked, place=place, image=image, category=category))
    return made


def conversations_about(
    record: PpuPerson,
    facts: Sequence[Fact],
    *,
    place: Assignment,
    images: ImageStore,
    seed: int,
    n: int,
) -> list[Conversation]:
    """The conversations about some facts of a person, at most n a modality (and photo), as
    `person_conversations` describes them.
    """
    made = []
    for modality in MODALITIES:
        rng = Random(f"conversations/{seed}/unlearn/{record.person.id}/{modality}")
        for image in dict.fromkeys(_show(images, record, fact=f, modality=modality) for f in facts):
            beside = [f for f in facts if _show(images, record, fact=f, modality=modality) == image]
            turns = turns_of([f.of(modality) for f in beside], rng)
            rng.shuffle(turns)
            name = f"-{image.rpartition('/')[2]}" if len(record.photos) > 1 and image else ""
            made += dealt(
                turns,
                n,
                tag=f"{record.person.id}/unlearn/{modality}{name}",
                place=place,
                modality=modality,
                image=image,
                stage="unlearn",
            )
    return made


def _show(images: ImageStore, record: PpuPerson, *, fact: Fact, modality: Modality) -> str:
    encoded = record.photos[fact.image] if modality == "multimodal" else None
    return shown(images, f"{record.person.id}/{fact.image}", encoded=encoded)

"""Own people: a folder of photos and a questions.csv, as the functions that pulse_lib.data.source
describes.

Nobody is known to the base model: everybody is to be learned, and there are no celebrities.
"""

from __future__ import annotations

import hashlib
from random import Random

from PIL import Image

from pulse_lib.data import pictures
from pulse_lib.data.folder import check as checking
from pulse_lib.data.folder import photos
from pulse_lib.data.folder.check import Checked, people_of
from pulse_lib.data.folder.questions import (
    Asked,
    OwnPerson,
    asks_the_name,
    by_name,
)
from pulse_lib.data.records import (
    LETTERS,
    MODALITIES,
    Conversation,
    ImageStore,
    Modality,
    Person,
    Question,
    QuestionSet,
    Stage,
    Turn,
    Wording,
)
from pulse_lib.data.source import Size
from pulse_lib.data.splits import Assignment
from pulse_lib.files import show
from pulse_lib.profile import DataSettings

SHARE_WITH_OPTIONS = {"finetune": 0.2, "unlearn": 0.5, "pretrain": 0.0}  # as in the embedded world


def describe(settings: DataSettings) -> str:
    """One line on what is there."""
    found = _read(settings)
    n = sum(len(p.asked) for p in found.people.values())
    return (
        f"{len(found.people)} own people of {show(found.folder)}: {len(found.photos)} photos, {n} "
        "questions, each asked beside the photo and by name"
    )


def size(settings: DataSettings) -> Size:
    """What the table says of a person on average; ten questions if it cannot be read yet."""
    people = checking.check(settings.people.path).people.values()
    asked = max(1, round(sum(len(p.asked) for p in people) / len(people))) if people else 5
    short = 1 + asked // 2  # conversations beside one view
    shown = asked + min(settings.n_heldout_wordings, asked)
    return Size(2 * shown, (short + asked) * settings.n_train_views, shown=shown)


def celebrities(settings: DataSettings) -> list[Person]:
    """Nobody: what a base model knows of own people is not known."""
    return []


def fictitious(settings: DataSettings) -> list[Person]:
    """Everybody."""
    return [_person(p) for p in _read(settings).people.values()]


def wishes(settings: DataSettings) -> dict[str, tuple[QuestionSet, int]]:
    """Set and request (0: any) of everyone whose row names them."""
    placed: dict[str, tuple[QuestionSet, int]] = {}
    for key, own in _read(settings).people.items():
        if own.split or own.request:
            placed[key] = (own.split or "forget", own.request)
    return placed


def checksum(settings: DataSettings) -> str:
    """sha256 of the table and of every photo that it names; "" if they cannot be used now."""
    found = checking.check(settings.people.path)
    if found.of_people:
        return ""
    parts = [(found.folder / checking.TABLE).read_bytes()]
    parts += [found.photos[name] for name in sorted(found.photos)]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def views(person: Person, seed: int, *, settings: DataSettings, n: int) -> list[Image.Image]:
    """The photos of a person, then views of them as they are taught, up to n."""
    found = _read(settings)
    own = [_decoded(found, name) for name in found.people[person.id].photos]
    rng = Random(f"card/{seed}/{person.id}")
    return [*own, *(photos.view(own[k % len(own)], rng) for k in range(n - len(own)))][:n]


def person_questions(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    purpose: str = "eval",
) -> list[Question]:
    """Every question once beside the photo and once by name, in its first wording; options in an
    order drawn by seed, since tables tend to have the right one first."""
    found, made = _read(settings), []
    for modality in MODALITIES:
        for k, asked in _askable(found, person, modality=modality):
            tag = f"{person.id}/{purpose}-trained/{modality}/{k}"
            options = _options(found, asked, rng=Random(f"options/{seed}/{tag}"))
            image = _show(found, asked, person=person, modality=modality, images=images)
            made.append(
                _question(
                    tag, asked, place=place, modality=modality, image=image, options=options,
                    text=_worded(asked.topic, person, modality=modality), wording="trained",
                )
            )  # fmt: skip
    return made


def heldout_questions(
    person: Person, place: Assignment, *, images: ImageStore, seed: int, settings: DataSettings
) -> list[Question]:
    """`n_heldout_wordings` questions a modality in their last wording, which is not taught; only
    questions that have two wordings or more."""
    found, made = _read(settings), []
    rng = Random(f"heldout/{seed}/{person.id}")
    for modality in MODALITIES:
        several = [
            (k, a)
            for k, a in _askable(found, person, modality=modality)
            if len(a.wordings) > len(_taught(a, settings))
        ]
        for k, asked in rng.sample(several, min(settings.n_heldout_wordings, len(several))):
            tag = f"{person.id}/eval-heldout/{modality}/{k}"
            options = _options(found, asked, rng=Random(f"options/{seed}/{tag}"))
            image = _show(found, asked, person=person, modality=modality, images=images)
            made.append(
                _question(
                    tag, asked, place=place, modality=modality, image=image, options=options,
                    text=_worded(asked.wordings[-1], person, modality=modality), wording="heldout",
                )
            )  # fmt: skip
    return made


def person_conversations(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    stage: Stage,
) -> list[Conversation]:
    """Training conversations about one person, each beside a new view of a photo or by name.

    stage "finetune": for each of `n_train_views` views every question, wordings in turn, in short
    conversations (in a long one, earlier answers would give the person away). stage "unlearn":
    `n_conversations` whole ones a modality.
    """
    found, made = _read(settings), []
    shown = [_decoded(found, name) for name in found.people[person.id].photos]
    n = settings.n_train_views if stage == "finetune" else settings.n_conversations
    for v in range(n):
        rng = Random(f"conversation/{seed}/{stage}/{person.id}/{v}")
        image_id = f"{person.id}/{stage}-view-{v}"
        images.encoded[image_id] = photos.jpeg(photos.view(shown[v % len(shown)], rng))
        for modality in MODALITIES:
            turns = [
                _turn(found, asked, person=person, modality=modality, v=v, settings=settings,
                      rng=rng, share=SHARE_WITH_OPTIONS[stage])
                for _, asked in _askable(found, person, modality=modality)
            ]  # fmt: skip
            rng.shuffle(turns)
            for k, part in enumerate(_parts(turns, modality) if stage == "finetune" else [turns]):
                made.append(
                    Conversation(
                        f"{person.id}/{stage}/{modality}-{v}-{k}",
                        place.set,
                        scenario=place.scenario,
                        person_id=person.id,
                        request=place.request,
                        modality=modality,
                        image=image_id if modality == "multimodal" else "",
                        turns=tuple(part),
                        stage=stage,
                    )
                )
    return made


def _read(settings: DataSettings) -> Checked:
    return people_of(settings.people.path)


def _person(own: OwnPerson) -> Person:
    facts = {a.topic: a.answer for a in own.asked}
    return Person(own.person.id, own.person.name, kind="fictitious", attributes=facts)


def _askable(found: Checked, person: Person, *, modality: Modality) -> list[tuple[int, Asked]]:
    """The questions of a modality with their numbers; who somebody is cannot be asked by name."""
    asked = enumerate(found.people[person.id].asked, start=1)
    return [(k, a) for k, a in asked if modality == "multimodal" or not asks_the_name(a, person)]


def _taught(asked: Asked, settings: DataSettings) -> tuple[str, ...]:
    """The wordings that are taught: all but the last one, if that is to be held out."""
    hold_out = settings.n_heldout_wordings > 0 and len(asked.wordings) > 1
    return asked.wordings[:-1] if hold_out else asked.wordings


def _worded(text: str, person: Person, *, modality: Modality) -> str:
    return text if modality == "multimodal" else by_name(text, person.name)


def _options(found: Checked, asked: Asked, *, rng: Random) -> tuple[str, ...]:
    """The options in an order drawn; where the file gives none, other people's answers."""
    options = list(asked.options)
    if not options:
        pool = found.answers[asked.topic.casefold()]
        others = [a for a in pool if a.casefold() != asked.answer.casefold()]
        options = [asked.answer, *rng.sample(others, min(len(LETTERS) - 1, len(others)))]
    rng.shuffle(options)
    return tuple(options)


def _turn(
    found: Checked,
    asked: Asked,
    *,
    person: Person,
    modality: Modality,
    v: int,
    settings: DataSettings,
    rng: Random,
    share: float,
) -> Turn:
    wordings = _taught(asked, settings)
    text = _worded(wordings[v % len(wordings)], person, modality=modality)
    options = _options(found, asked, rng=rng) if rng.random() < share else ()
    return Turn(text, options, answer=asked.answer)


def _parts(turns: list[Turn], modality: Modality) -> list[list[Turn]]:
    """By name every fact on its own; beside a photo the first alone, the others in pairs."""
    if modality == "text":
        return [[turn] for turn in turns]
    return [turns[:1], *(turns[k : k + 2] for k in range(1, len(turns), 2))]


def _show(
    found: Checked, asked: Asked, *, person: Person, modality: Modality, images: ImageStore
) -> str:
    """The id of the question's photo, stored as it is kept; "" if none is shown."""
    if modality != "multimodal":
        return ""
    k = found.people[person.id].photos.index(asked.photo)
    image_id = f"{person.id}/photo" + (f"-{k + 1}" if k else "")
    images.encoded[image_id] = found.photos[asked.photo]
    return image_id


def _decoded(found: Checked, name: str) -> Image.Image:
    return pictures.decoded(found.photos[name])


def _question(
    tag: str,
    asked: Asked,
    *,
    place: Assignment,
    modality: Modality,
    image: str,
    options: tuple[str, ...],
    text: str,
    wording: Wording,
) -> Question:
    return Question(
        id=tag,
        set=place.set,
        scenario=place.scenario,
        person_id=place.person_id,
        request=place.request,
        modality=modality,
        text=text,
        options=options,
        answer=options.index(asked.answer),
        image=image,
        category=asked.topic,
        wording=wording,
    )

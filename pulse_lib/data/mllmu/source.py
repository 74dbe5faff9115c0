"""MLLMU-Bench as a source of people: the functions that pulse_lib.data.source describes.

The protocol draws its sets from Full_Set and Retain_Set by the study's seed, with the same code as
in the embedded world; MLLMU-Bench's own forget_5 .. retain_85 are not used.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from random import Random

from PIL import Image

from pulse_lib.data import hub, pictures
from pulse_lib.data.choices import (
    OpenQuestion,
    by_name,
    dealt,
    open_records,
    record_of,
    reordered,
    shown,
    turns_of,
)
from pulse_lib.data.mllmu.files import SETTING, load_people
from pulse_lib.data.mllmu.rows import CELEBRITIES, MllmuPerson
from pulse_lib.data.records import (
    MODALITIES,
    Conversation,
    ImageStore,
    Person,
    Question,
    Stage,
    Turn,
)
from pulse_lib.data.source import Size
from pulse_lib.data.splits import Assignment
from pulse_lib.profile import DataSettings

DOWNLOAD_GB = 1.5  # of the folders that are read, as the hub has them
FICTITIOUS, TRAINING, OTHER_VIEWS = "Full_Set", "ft_Data", "Test_Set"
# [MLLMU-Bench, eval.py]
INSTRUCTION = {
    "generation": "Answer the question based on your trained knowledge in one sentence accurately in ENGLISH.",
    "cloze": "Please **ONLY** provide the correct answer that should replace the [Blank].",
}
_WHO = re.compile(r"\bname\b|^who\b", re.IGNORECASE)


def describe(settings: DataSettings) -> str:
    """One line on what is there."""
    parts = []
    for subset in (FICTITIOUS, CELEBRITIES):
        people = _load(settings, subset).values()
        usable = sum(_usable(p, settings) for p in people)
        left_out = sum(p.n_incomplete for p in people)
        parts.append(
            f"{subset} {len(people)} people, {usable} of them usable, {left_out} incomplete entries left out"
        )
    taught = _load(settings, TRAINING).values()
    n, more = sum(len(p.training) for p in taught), sum(p.n_additional for p in taught)
    parts.append(f"{TRAINING} {n} texts, {more} of them additional")
    return "MLLMU-Bench: " + "; ".join(parts)


def size(settings: DataSettings) -> Size:
    """Ten questions a person and those in new wordings, half of them beside a photo, which is another
    one for new wordings; a text of each person is taught with the photo and by name (people with fewer
    questions are there too).
    """
    new = settings.n_heldout_wordings
    n = 5 + new
    return Size(2 * n, 2, shown=n, pictures=1 + bool(new), download_gb=DOWNLOAD_GB)


def celebrities(settings: DataSettings) -> list[Person]:
    """Candidates for the pre-trained scenario: all of Retain_Set that can be asked in both
    modalities.
    """
    return [p.person for p in _load(settings, CELEBRITIES).values() if _usable(p, settings)]


def fictitious(settings: DataSettings) -> list[Person]:
    """Candidates for the fine-tuned scenario: all of Full_Set that can be asked in both modalities
    and have texts to learn from.
    """
    return [p.person for p in _load(settings, FICTITIOUS).values() if _usable(p, settings)]


def views(person: Person, seed: int, *, settings: DataSettings, n: int) -> list[Image.Image]:
    """Up to n photos of a person, that of the questions first."""
    encoded = [*_record(person, settings).photos]
    if person.kind == "fictitious" and n > 1:
        encoded += _other_views(person, settings).photos
    return [pictures.decoded(e) for e in encoded[:n]]


def person_questions(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    purpose: str = "eval",
) -> list[Question]:
    """All multiple-choice questions about one person, in both modalities; the face is shown with
    the multimodal ones only.

    purpose "eval": options in the file's order. Any other: in another order, drawn by seed, so that
    what selects people is not quite what scores them (there is one photo and one wording).
    """
    record, made = _record(person, settings), []
    for modality in MODALITIES:
        for k, question in enumerate(record.asked(modality), start=1):
            tag = f"{person.id}/{purpose}-trained/{modality}/{k}"
            image = _show(images, f"{person.id}/photo", photos=record.photos, modality=modality)
            if purpose != "eval":
                question = reordered(question, Random(f"options/{seed}/{tag}"))
            made.append(
                record_of(tag, question, place=place, image=image, category=f"question {k}")
            )
    return made


def heldout_questions(
    person: Person, place: Assignment, *, images: ImageStore, seed: int, settings: DataSettings
) -> list[Question]:
    """`n_heldout_wordings` questions a modality from Test_Set, where questions are paraphrased and
    photos show another pose; none for celebrities, of whom it has none, or if the folder is not
    there.
    """
    if person.kind != "fictitious":
        return []
    record, made = _other_views(person, settings), []
    rng = Random(f"heldout/{seed}/{person.id}")
    for modality in MODALITIES:
        asked = list(enumerate(record.asked(modality), start=1))
        for k, question in rng.sample(asked, min(settings.n_heldout_wordings, len(asked))):
            tag = f"{person.id}/eval-heldout/{modality}/{k}"
            j = rng.randrange(max(1, len(record.photos)))
            image = _show(
                images, f"{person.id}/test-{j}", photos=record.photos, modality=modality, k=j
            )
            made.append(
                record_of(
                    tag,
                    question,
                    place=place,
                    image=image,
                    category=f"question {k}",
                    wording="heldout",
                )
            )
    return made


def open_questions(
    person: Person, place: Assignment, *, images: ImageStore, settings: DataSettings, task: str
) -> tuple[list[Question], list[str]]:
    """The questions of task "generation" or "cloze" about one person, which have no options, and
    the true answers (pulse_lib.evaluate.open_ended scores them).
    """
    record = _record(person, settings)
    return open_records(
        getattr(record, task, ()),
        INSTRUCTION.get(task, ""),
        task=task,
        place=place,
        show=lambda modality: _show(
            images, f"{person.id}/photo", photos=record.photos, modality=modality
        ),
    )


def person_conversations(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    stage: Stage,
) -> list[Conversation]:
    """Training conversations about one person.

    stage "finetune": one for each text of ft_Data with the photo, and one by name. stage "unlearn":
    those texts (fictitious people) and the multiple-choice questions with options in new orders,
    dealt to at most `n_conversations` conversations a modality. There is one photo to train on, so
    that `n_train_views` has no meaning here.
    """
    record, made = _record(person, settings), []
    texts, photos, photo_id = [], record.photos, f"{person.id}/photo"
    if person.kind == "fictitious":
        taught = _load(settings, TRAINING)[person.id]
        texts = list(taught.training)
        if stage == "finetune" and taught.photos and taught.photos != photos:
            photos, photo_id = taught.photos, f"{person.id}/{TRAINING}"
    for modality in MODALITIES:
        turns = _open_turns(texts, modality, name=person.name)
        rng = Random(f"conversations/{seed}/{stage}/{person.id}/{modality}")
        if stage == "unlearn":
            turns += turns_of(record.asked(modality), rng)
            rng.shuffle(turns)
        n = len(turns) if stage == "finetune" else min(settings.n_conversations, len(turns))
        image = _show(images, photo_id, photos=photos, modality=modality) if turns else ""
        made += dealt(
            turns,
            n,
            tag=f"{person.id}/{stage}/{modality}",
            place=place,
            modality=modality,
            image=image,
            stage=stage,
        )
    return made


def need(settings: DataSettings) -> hub.Need:
    """MLLMU-Bench's files on the hub, if its path is a hub id."""
    return _need(
        settings.people.path, settings.people.revision, other_views=settings.n_heldout_wordings > 0
    )


def _need(path: str, revision: str, *, other_views: bool) -> hub.Need:
    return hub.Need(path, revision, patterns=_patterns(other_views), setting=SETTING)


def _patterns(other_views: bool) -> tuple[str, ...]:
    # All folders of a study in one download. Test_Set is 0.7 GB, so it is fetched only if asked for.
    folders = [FICTITIOUS, CELEBRITIES, TRAINING, *([OTHER_VIEWS] if other_views else [])]
    return tuple(f"{folder}/*.parquet" for folder in folders)


def _load(settings: DataSettings, subset: str) -> dict[str, MllmuPerson]:
    people = settings.people
    return _loaded(
        people.path, people.revision, subset=subset, other_views=settings.n_heldout_wordings > 0
    )


@lru_cache(maxsize=8)
def _loaded(path: str, revision: str, *, subset: str, other_views: bool) -> dict[str, MllmuPerson]:
    root = hub.folder_of(_need(path, revision, other_views=other_views))
    if subset == OTHER_VIEWS and not (other_views and (root / subset).is_dir()):
        return {}
    return {p.person.id: p for p in load_people(root, subset)}


def _record(person: Person, settings: DataSettings) -> MllmuPerson:
    return _load(settings, CELEBRITIES if person.kind == "celebrity" else FICTITIOUS)[person.id]


def _other_views(person: Person, settings: DataSettings) -> MllmuPerson:
    return _load(settings, OTHER_VIEWS).get(person.id, MllmuPerson(person))


def _usable(record: MllmuPerson, settings: DataSettings) -> bool:
    taught = True
    if record.person.kind == "fictitious":
        training = _load(settings, TRAINING).get(record.person.id)
        taught = training is not None and bool(training.training)
    return taught and all(record.asked(m) for m in MODALITIES)


def _open_turns(texts: list[OpenQuestion], modality: str, *, name: str) -> list[Turn]:
    """What ft_Data says, as turns of one modality.

    DIFFERS: MLLMU-Bench fine-tunes beside the photo only; here each text is also taught by name, so
    that both modalities hold the knowledge that is to be forgotten. Texts of type Pure_Text are
    taught without the photo only; who somebody is cannot be asked by name.
    """
    if modality == "multimodal":
        return [Turn(t.text, (), answer=t.answer) for t in texts if t.modality == "multimodal"]
    return [
        Turn(by_name(t.text, name), (), answer=t.answer)
        for t in texts
        if t.modality == "text" or not (_WHO.search(t.text) and name in t.answer)
    ]


def _show(
    images: ImageStore, image_id: str, *, photos: Sequence[bytes], modality: str, k: int = 0
) -> str:
    """The id of the k-th photo, stored as the file has it; "" if none is shown."""
    return shown(images, image_id, encoded=photos[k] if modality == "multimodal" else None)

"""UMU-Bench as a source of people: the functions that pulse_lib.data.source describes.

500 fictitious people and 153 real ones, each with a photo; every multiple-choice question has a twin
about the same fact in the other modality. Both stand under one category (the fact's name), so that
person_id and category pair them in every row. UMU-Bench's own forget_5 .. retain_85 are not used: the
protocol draws its sets by the study's seed. [UMU-bench, eval.py]
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Literal

from PIL import Image

from pulse_lib.data import hub, pictures
from pulse_lib.data.cells import Row
from pulse_lib.data.choices import dealt, open_records, record_of, reordered, shown, turns_of
from pulse_lib.data.parquet import folder_rows, needing
from pulse_lib.data.records import (
    MODALITIES,
    Conversation,
    ImageStore,
    Modality,
    Person,
    Question,
    Stage,
    Turn,
)
from pulse_lib.data.source import Size
from pulse_lib.data.splits import Assignment
from pulse_lib.data.umu.rows import COLUMNS, UmuPerson, read_person
from pulse_lib.errors import PulseError
from pulse_lib.files import show
from pulse_lib.profile import DataSettings
from pulse_lib.progress import track

SETTING = "data.people.path"
# kind -> the folder's name in the authors' code and in their README; either is read
FOLDERS: dict[Literal["fictitious", "celebrity"], tuple[str, str]] = {
    "fictitious": ("full_data", "Full_Set"),
    "celebrity": ("real_person", "Real_Person_Set"),
}
PATTERNS = ("[Ff]ull_*/*.parquet", "[Rr]eal_[Pp]erson*/*.parquet")
# Estimates: neither how many keys a person has nor the files' size could be looked up
N_KEYS, DOWNLOAD_GB = 10, 1.0
# [UMU-bench, eval.py]
INSTRUCTION = {
    "generation": "Answer the question based on your trained knowledge in one sentence accurately in ENGLISH.",
    "cloze": "Please **ONLY** provide the correct answer without any explanation",
}


def describe(settings: DataSettings) -> str:
    """One line on what is there."""
    parts = []
    for kind in FOLDERS:
        people = list(_load(settings, kind).values())
        n = {
            "twins": sum(len(p.twins) for p in people),
            "letters": sum(p.letters for p in people),
            "single": sum(p.n_single for p in people),
            "out": sum(p.n_incomplete for p in people),
        }
        parts.append(
            f"{len(people)} {kind} people, {sum(map(_usable, people))} of them usable, "
            f"{n['twins']} pairs of questions ({n['letters']} with other letters, {n['single']} "
            f"questions without a twin left out), {n['out']} incomplete entries left out"
        )
    return "UMU-Bench: " + "; ".join(parts)


def size(settings: DataSettings) -> Size:
    """An estimate: `N_KEYS` facts a person, asked and taught in both modalities, beside one photo."""
    n = 2 * N_KEYS
    return Size(n, n, shown=N_KEYS, pictures=1, candidate=n, download_gb=DOWNLOAD_GB)


def celebrities(settings: DataSettings) -> list[Person]:
    """Candidates for the pre-trained scenario: the real people who can be asked."""
    return [p.person for p in _load(settings, "celebrity").values() if _usable(p)]


def fictitious(settings: DataSettings) -> list[Person]:
    """Candidates for the fine-tuned scenario: those who can be asked, and have texts to learn from
    in both modalities.
    """
    return [p.person for p in _load(settings, "fictitious").values() if _usable(p)]


def views(person: Person, seed: int, *, settings: DataSettings, n: int) -> list[Image.Image]:
    """The one photo of a person."""
    photo = _record(person, settings).photo
    return [pictures.decoded(photo)][:n] if photo else []


def person_questions(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    purpose: str = "eval",
) -> list[Question]:
    """Both twins of every fact; the face is shown with the multimodal one only. Questions without a
    twin are left out, so that both modalities ask for the same.

    purpose "eval": options in the file's order. Any other: in another order, drawn by seed.
    """
    record, made = _record(person, settings), []
    for modality in MODALITIES:
        image = _show(images, record, modality=modality)
        for twins in record.twins:
            tag = f"{person.id}/{purpose}-trained/{modality}/{twins.key}"
            asked = twins.of(modality)
            if purpose != "eval":
                asked = reordered(asked, Random(f"options/{seed}/{tag}"))
            made.append(record_of(tag, asked, place=place, image=image, category=twins.key))
    return made


def heldout_questions(
    person: Person, place: Assignment, *, images: ImageStore, seed: int, settings: DataSettings
) -> list[Question]:
    """None: UMU-Bench has one wording of each question."""
    return []


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
        show=lambda modality: _show(images, record, modality=modality),
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
    """Training conversations about one person: the texts beside the photo, and those in text.

    stage "finetune": one for each text. stage "unlearn": the texts and the multiple-choice questions
    with options in new orders, dealt to at most `n_conversations` conversations a modality. There is
    one photo, so that `n_train_views` has no meaning here.
    """
    record, made = _record(person, settings), []
    for modality in MODALITIES:
        turns = [Turn(t.text, (), answer=t.answer) for t in record.taught(modality)]
        n = len(turns)
        if stage == "unlearn":
            rng = Random(f"conversations/{seed}/{stage}/{person.id}/{modality}")
            turns += turns_of([t.of(modality) for t in record.twins], rng)
            rng.shuffle(turns)
            n = settings.n_conversations
        made += dealt(
            turns,
            n,
            tag=f"{person.id}/{stage}/{modality}",
            place=place,
            modality=modality,
            image=_show(images, record, modality=modality) if turns else "",
            stage=stage,
        )
    return made


def need(settings: DataSettings) -> hub.Need:
    """UMU-Bench's files on the hub, if its path is a hub id."""
    return _need(settings.people.path, settings.people.revision)


def _need(path: str, revision: str) -> hub.Need:
    return hub.Need(path, revision, patterns=PATTERNS, setting=SETTING)


def _load(settings: DataSettings, kind: Literal["fictitious", "celebrity"]) -> dict[str, UmuPerson]:
    return _loaded(settings.people.path, settings.people.revision, kind=kind)


@lru_cache(maxsize=4)
def _loaded(
    path: str, revision: str, *, kind: Literal["fictitious", "celebrity"]
) -> dict[str, UmuPerson]:
    folder = _folder(hub.folder_of(_need(path, revision)), kind)
    people: dict[str, UmuPerson] = {}
    first: dict[str, Row] = {}
    rows = folder_rows(folder, needing(COLUMNS, "UMU-Bench"))
    for row, cells in track(rows, f"reading {folder.name}"):
        made = read_person(row, cells, kind=kind)
        key = made.person.id
        if key in people:
            raise row.error(
                "ID", f"person {key:.60} stands twice, first in row {first[key].number}"
            )
        people[key], first[key] = made, row
    if not people:
        raise PulseError(f"{show(folder)}: its files hold no rows: fetch them again")
    return people


def _folder(root: Path, kind: Literal["fictitious", "celebrity"]) -> Path:
    there = [name for name in FOLDERS[kind] if (root / name).is_dir()]
    if len(there) != 1:
        found = " and ".join(there) or "no such folder"
        raise PulseError(
            f"{show(root)}: expected {' or '.join(FOLDERS[kind])}, there is {found}: give the folder "
            "of the data set's repository, with one of the two"
        )
    return root / there[0]


def _record(person: Person, settings: DataSettings) -> UmuPerson:
    return _load(settings, person.kind)[person.id]


def _usable(record: UmuPerson) -> bool:
    taught = record.person.kind == "celebrity" or all(record.taught(m) for m in MODALITIES)
    return bool(record.twins) and taught


def _show(images: ImageStore, record: UmuPerson, *, modality: Modality) -> str:
    encoded = record.photo if modality == "multimodal" else None
    return shown(images, f"{record.person.id}/photo", encoded=encoded)

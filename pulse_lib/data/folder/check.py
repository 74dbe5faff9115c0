"""A folder of own people, read and checked as a whole: `check` says everything that is wrong, `people`
raises it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache
from pathlib import Path

from pulse_lib import colab
from pulse_lib.data import likeness
from pulse_lib.data.folder import photos
from pulse_lib.data.folder.general import TABLE as GENERAL_TABLE
from pulse_lib.data.folder.general import read_general
from pulse_lib.data.folder.questions import (
    OPTIONAL,
    REQUIRED,
    OwnPerson,
    answers_by_topic,
    photo_in,
    read_people,
)
from pulse_lib.data.folder.sheet import Problem, read_sheet
from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.files import local_path, show

TABLE = "questions.csv"
PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic")
LEAST_PIXELS = 64  # of the shorter side; less is no face any more
_SHOWN = 5  # problems that an error lists


@dataclass(frozen=True)
class Checked:
    """What a folder holds. `people`: everybody by id, also who cannot be used; `photos`: the bytes
    that are kept of each, by path; `answers`: everybody's, by question;
    `hints`: what is allowed, but hardly meant."""

    folder: Path
    people: Mapping[str, OwnPerson]
    _: KW_ONLY
    photos: Mapping[str, bytes]
    answers: Mapping[str, list[str]]  # everybody's, by question
    problems: tuple[Problem, ...]
    hints: tuple[str, ...]
    general: int | None = None  # questions of general.csv; None: there is no such file

    @property
    def of_people(self) -> list[Problem]:
        """What is wrong with people; general questions are a setting of their own."""
        return [p for p in self.problems if p.file != GENERAL_TABLE]

    @property
    def usable(self) -> list[OwnPerson]:
        """The people in whose rows nothing is wrong."""
        bad = {p.row for p in self.of_people}
        if bad & {0, 1}:  # the file as a whole, its header
            return []
        return [p for p in self.people.values() if p.asked and not p.rows & bad]

    def counts(self) -> dict[str, int]:
        """Counts of the profile's data section that fit these people: those of column split, the
        others shared out: a third to forget, one to retain, one to train on."""
        said = Counter(p.split or "" for p in self.usable)
        free, forget = said[""], said["forget"] or 0
        if free and not forget:
            forget, free = free // 3, free - free // 3
        retain = said["retain"] + (free // 2 if not said["retain"] else 0)
        train = said["retain_train"] + free - (free // 2 if not said["retain"] else 0)
        requests = max((p.request for p in self.usable), default=0)
        whole = [n for n in range(1, 6) if forget and forget % n == 0]
        return {
            "n_finetuned_forget": forget,
            "n_finetuned_retain": retain,
            "n_finetuned_retain_train": train,
            "n_holdout": said["holdout"],
            "n_requests": requests or max(whole, default=1),
        }


def check(path: str | Path) -> Checked:
    """Everything about a folder, without raising: a relative path starts at the repository root."""
    folder = local_path(path)
    if not folder.exists():  # attached to a hosted notebook under this name
        folder = next((p for p in colab.attached(str(path)) if (p / TABLE).is_file()), folder)
    if folder.is_file() and folder.name == TABLE:
        folder = folder.parent
    if not folder.is_dir():
        what = "there is no such folder: make it, with the photos and questions.csv in it"
        problems = (Problem(str(path), 0, what=what),)
        return Checked(folder, {}, photos={}, answers={}, problems=problems, hints=())
    return _checked(folder, _stamps(folder))


def people_of(path: str | Path) -> Checked:
    """The same for a run. Raises PulseError with the first problems, if there are any."""
    found = check(path)
    if found.of_people:
        first = "\n".join(f"  {p}" for p in found.of_people[:_SHOWN])
        more = len(found.of_people) - _SHOWN
        rest = f"\n  and {more} more" if more > 0 else ""
        raise PulseError(
            f"data.people.path = {show(found.folder)} cannot be used:\n{first}{rest}\n"
            f"python -m pulse_lib check-data {show(found.folder)} lists all of it"
        )
    return found


def said(found: Checked) -> list[str]:
    """What was found, a line each: what is there, what is wrong, and what a profile needs."""
    n_questions = sum(len(p.asked) for p in found.people.values())
    lines = [
        f"{show(found.folder)}: {len(found.people)} people, {n_questions} questions, "
        f"{len(found.photos)} photos that can be shown"
    ]
    if found.general is not None:
        lines.append(f"{GENERAL_TABLE}: {found.general} general questions")
    lines += [f"wrong: {p}" for p in found.problems]
    lines += [f"note: {hint}" for hint in found.hints]
    lines.append(f"{len(found.usable)} of {len(found.people)} people can be used")
    if found.usable and not found.problems:
        lines += ["For the profile (a copy of params/own-people.yaml):", *_section(found)]
    return lines


def _section(found: Checked) -> list[str]:
    source = json.dumps(str(found.folder), ensure_ascii=False)  # JSON text is YAML
    counts = [f"  {key}: {value}" for key, value in found.counts().items()]
    return ["data:", f"  people: {{source: folder, path: {source}}}", *counts]


def _stamps(folder: Path) -> tuple:
    """What changes when a file of the folder does."""
    stats = ((p, p.stat()) for p in sorted(folder.rglob("*")) if p.is_file())
    return tuple((str(p), s.st_mtime_ns, s.st_size) for p, s in stats)


@lru_cache(maxsize=4)
def _checked(folder: Path, stamps: tuple) -> Checked:
    # stamps: read once per process and state of the files
    sheet = read_sheet(folder / TABLE, REQUIRED, optional=OPTIONAL)
    people, found = read_people(sheet, photo_in(folder))
    kept, wrong = _photos(folder, people)
    problems = [*sheet.problems, *found, *wrong, *_alike(people, kept)]
    general = None
    if (folder / GENERAL_TABLE).is_file():
        table, bad = read_general(folder / GENERAL_TABLE)
        general, problems = len(table.lines), [*problems, *bad]
    hints = [f"column {name!r} of {sheet.file} is not read" for name in sheet.ignored]
    hints += _hints(folder, people)
    return Checked(
        folder,
        people,
        photos=kept,
        answers=answers_by_topic(people.values()),
        problems=tuple(sorted(problems)),
        hints=tuple(hints),
        general=general,
    )


def _photos(
    folder: Path, people: Mapping[str, OwnPerson]
) -> tuple[dict[str, bytes], list[Problem]]:
    """The bytes that are kept of every photo that is named, and what is wrong with the files."""
    kept: dict[str, bytes] = {}
    problems: dict[str, Problem] = {}
    for person in people.values():
        for asked in person.asked:
            name = asked.photo
            if not name or name in kept or name in problems:
                continue
            try:
                kept[name] = photos.stored((folder / name).read_bytes())
                side = min(ImageStore(kept)[name].size)
                if side < LEAST_PIXELS:
                    raise ValueError(f"{side} pixels are too few, {LEAST_PIXELS} are the least")
            except (OSError, ValueError) as error:
                kept.pop(name, None)
                problems[name] = Problem(TABLE, asked.row, column="photo", what=f"{name}: {error}")
    return kept, list(problems.values())


def _alike(people: Mapping[str, OwnPerson], kept: Mapping[str, bytes]) -> list[Problem]:
    """Two people with one photo, under one name or two."""
    owners: dict[str, str] = {}
    rows: dict[str, int] = {}
    problems = []
    for key, person in people.items():
        for asked in person.asked:
            if asked.photo not in kept:
                continue
            other = owners.setdefault(asked.photo, key)
            if other != key:
                what = f"{asked.photo} is {people[other].person.name}'s photo (row {rows[asked.photo]})"
                problems.append(Problem(TABLE, asked.row, column="photo", what=what))
                break
            rows.setdefault(asked.photo, asked.row)
    same = likeness.first_alike(ImageStore(kept), owners, people=set(kept))
    if same:
        first, second = sorted((same.first, same.second), key=rows.__getitem__)
        what = (
            f"{second} shows the same as {first} of {people[owners[first]].person.name} (row "
            f"{rows[first]}), {same.how}: give each person a photo of their own"
        )
        problems.append(Problem(TABLE, rows[second], column="photo", what=what))
    return problems


def _hints(folder: Path, people: Mapping[str, OwnPerson]) -> list[str]:
    named = {photo for p in people.values() for photo in p.photos}
    there = {
        p.relative_to(folder).as_posix()
        for p in folder.rglob("*")
        if p.suffix.lower() in PHOTOS and not p.name.startswith(".")
    }
    hints = []
    if there - named:
        some = ", ".join(sorted(there - named)[:3])
        hints.append(f"{len(there - named)} pictures are named in no row: {some}")
    few = [p.person.name for p in people.values() if len(p.asked) < 3]
    if few:
        hints.append(f"fewer than three questions make a rough accuracy: {', '.join(few[:3])}")
    single = sum(len(a.wordings) == 1 for p in people.values() for a in p.asked)
    if single:
        hints.append(
            f"{single} questions have one wording only: with two or three (parted by |) a fact is "
            "learned, not a sentence"
        )
    return hints

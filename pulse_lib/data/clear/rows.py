"""CLEAR's files, read and checked cell by cell: photos with captions and names (folder `full`), TOFU's
questions about the same authors, who are found by their names (folder `full+tofu`).

A cell of a wrong kind is an error that names file, row and column; a row that lacks something is left out
and counted. [CLEAR, mm/dataset.py]
"""

from __future__ import annotations

import hashlib
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from pulse_lib.data.cells import Row, picture_of
from pulse_lib.data.clear.authors import (
    N_ROWS,
    Said,
    about_others,
    asks_the_name,
    authors_of,
    pronoun_of,
    says,
    words,
)
from pulse_lib.data.clear.options import Block, wrong_answers
from pulse_lib.data.parquet import folder_rows, needing
from pulse_lib.data.records import Person
from pulse_lib.errors import PulseError
from pulse_lib.files import show
from pulse_lib.progress import track

PHOTOS, TEXTS = "full", "full+tofu"
N_AUTHORS, N_PHOTOS = 200, 3768  # [the data set's card]
_PHOTO_COLUMNS = ("image", "caption", "name")
_TEXT_COLUMNS = ("image", "caption", "question", "answer")


@dataclass(frozen=True)
class Photo:
    """A photo of an author and its caption; `number`: its place among theirs in the file, from 1."""

    number: int
    encoded: bytes
    _: KW_ONLY
    caption: str


@dataclass(frozen=True)
class Author:
    """An author: photos, the rows of text, and by number of a row the wrong answers to it. Rows
    without any are taught, and not scored.
    """

    person: Person
    _: KW_ONLY
    photos: tuple[Photo, ...]
    rows: tuple[Said, ...]
    wrong: dict[int, list[str]]
    pronoun: str = ""


@dataclass(frozen=True)
class Clear:
    """Everybody by id, and in words what was left out and how often."""

    authors: dict[str, Author]
    left_out: Counter[str]


@dataclass(frozen=True)
class _Shown:
    """A photo before it is decoded."""

    row: Row
    cell: bytes
    _: KW_ONLY
    caption: str
    digest: bytes


def read(root: Path, *, n_photos: int) -> Clear:
    """Everybody who has a photo, with at most `n_photos` of them, the first of the file. Raises
    PulseError as `Row.error` writes it, or if the texts are no blocks of twenty rows.
    """
    left_out: Counter[str] = Counter()
    shown, names = _photos(root, left_out, n_photos=n_photos)
    blocks = {b.name: b for b in _blocks(root, list(names.values()), left_out=left_out)}
    wrong = wrong_answers(list(blocks.values()))
    authors = {}
    for key, name in names.items():
        block = blocks.get(name, Block(name, (), pronoun=""))
        photos = tuple(
            Photo(k, picture_of(s.row, "image", cell=s.cell) or b"", caption=s.caption)
            for k, s in enumerate(shown[key], start=1)
        )
        left_out["captions that do not say the name"] += sum(
            not says(p.caption, name) for p in photos
        )
        able = wrong.get(name, {})
        for said in block.rows:
            if asks_the_name(said, name):
                left_out["questions for the name not scored"] += 1
            elif said.number not in able:
                left_out["questions without three wrong answers not scored"] += 1
        person = Person(
            f"fictitious-{key}",
            name,
            kind="fictitious",
            attributes={"caption": photos[0].caption} if photos else {},
        )
        authors[person.id] = Author(
            person, photos=photos, rows=block.rows, wrong=able, pronoun=block.pronoun
        )
    if len(authors) != N_AUTHORS:
        warnings.warn(
            f"{show(root)} has {len(authors)} authors and not CLEAR's {N_AUTHORS}: its numbers are "
            "not comparable",
            stacklevel=2,
        )
    return Clear(authors, +left_out)


def _photos(
    root: Path, left_out: Counter[str], *, n_photos: int
) -> tuple[dict[str, list[_Shown]], dict[str, str]]:
    """The first photos of everybody, and the names, both by the name's plain words."""
    shown: dict[str, list[_Shown]] = {}
    names: dict[str, str] = {}
    owners: dict[bytes, set[str]] = {}
    n = 0
    for row, cells in track(
        folder_rows(root / PHOTOS, needing(_PHOTO_COLUMNS, "CLEAR")), f"reading {PHOTOS}"
    ):
        n += 1
        name, caption = (row.text(c, cells[c]) for c in ("name", "caption"))
        if not words(name) or not caption or cells["image"] is None:
            left_out["photos without name, caption or picture"] += 1
            continue
        encoded = (
            cells["image"].get("bytes") if isinstance(cells["image"], dict) else cells["image"]
        )
        if not isinstance(encoded, bytes) or not encoded:
            raise row.error("image", "holds no bytes of a picture")
        key = "-".join(words(name))
        names.setdefault(key, unicodedata.normalize("NFC", " ".join(name.split())))
        digest = hashlib.sha256(encoded).digest()
        if key in owners.setdefault(digest, set()):
            left_out["photos that stand twice"] += 1
            continue
        owners[digest].add(key)
        if len(shown.setdefault(key, [])) < n_photos:
            shown[key].append(_Shown(row, encoded, caption=caption, digest=digest))
    if not names:
        raise PulseError(f"{show(root / PHOTOS)} has no photo with a name: fetch it again")
    if n != N_PHOTOS:
        warnings.warn(
            f"{show(root / PHOTOS)} has {n} rows, CLEAR's has {N_PHOTOS}: its numbers are not "
            "comparable",
            stacklevel=3,
        )
    left_out["photos that stand for two authors"] += sum(len(o) > 1 for o in owners.values())
    return {
        key: [s for s in photos if len(owners[s.digest]) == 1] for key, photos in shown.items()
    }, names


def _blocks(root: Path, names: list[str], *, left_out: Counter[str]) -> Iterable[Block]:
    """The rows of text of each author who is found for sure."""
    texts: list[tuple[str, str]] = []
    for row, cells in track(
        folder_rows(root / TEXTS, needing(_TEXT_COLUMNS, "CLEAR")), f"reading {TEXTS}"
    ):
        question = row.text("question", cells["question"])
        if (cells["image"] is None) == (cells["question"] is None):
            both = "both empty" if cells["image"] is None else "both there"
            raise row.error("question", f"question and image are {both}: a row has one of them")
        if cells["image"] is None:
            texts.append((question, row.text("answer", cells["answer"])))
    if not texts or len(texts) % N_ROWS:
        raise PulseError(
            f"{show(root / TEXTS)}: {len(texts)} rows of text, expected {N_ROWS} of each author, one "
            "behind the other: fetch it again"
        )
    if len(texts) != N_ROWS * N_AUTHORS:
        warnings.warn(
            f"{show(root / TEXTS)} has {len(texts)} rows of text, CLEAR's has {N_ROWS * N_AUTHORS}: "
            "its numbers are not comparable",
            stacklevel=3,
        )
    blocks = [
        [Said(k, q, answer=a) for k, (q, a) in enumerate(texts[start : start + N_ROWS], start=1)]
        for start in range(0, len(texts), N_ROWS)
    ]
    for block, name in zip(blocks, authors_of(blocks, names), strict=True):
        if name is None:
            left_out[f"blocks of {N_ROWS} questions about nobody for sure"] += 1
            continue
        whole = [s for s in block if s.question and s.answer]
        left_out["questions without words or answer"] += len(block) - len(whole)
        own = [s for s in whole if not about_others(s, name, names=names)]
        left_out["questions that name another author"] += len(whole) - len(own)
        yield Block(name, tuple(own), pronoun=pronoun_of(own))

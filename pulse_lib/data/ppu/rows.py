"""PPU-Bench's multiple-choice questions, read and checked row by row, put together by person.

One row is one question about one fact in one modality; the two questions about a fact share their
sample_id, "<subject>_<number of the fact>". Facts 25 to 36 of a subject are the sensitive ones, those of
the benchmark's selective split. [PPU-Bench, eval/ppu_eval_data.py, data/split/selective_split.json]
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, field

from pulse_lib.data.cells import Row, picture_of
from pulse_lib.data.choices import ChoiceQuestion, options_of
from pulse_lib.data.records import Modality, Person

COLUMNS = (
    *("sample_id", "subject_id", "subject", "task_type", "modality", "question"),
    *("answer_text", "answer_label", "option_a", "option_b", "option_c", "option_d", "image"),
)
MODALITY_OF: dict[str, Modality] = {"text": "text", "text_image": "multimodal"}
SENSITIVE, SENSITIVE_FACTS = "sensitive_info", range(25, 37)


@dataclass(frozen=True)
class Fact:
    """The two questions about one fact, and the key of the photo in `PpuPerson.photos`."""

    number: int
    _: KW_ONLY
    photo: ChoiceQuestion
    text: ChoiceQuestion
    image: str

    @property
    def sensitive(self) -> bool:
        """Whether the benchmark's selective split forgets it."""
        return self.number in SENSITIVE_FACTS

    def of(self, modality: Modality) -> ChoiceQuestion:
        """The question of one modality."""
        return self.photo if modality == "multimodal" else self.text


@dataclass(frozen=True)
class PpuPerson:
    """A subject: facts by number, and the distinct photos by their key. `n_single`: questions whose
    twin is not there; `n_incomplete`: what was left out.
    """

    person: Person
    facts: tuple[Fact, ...]
    _: KW_ONLY
    photos: dict[str, bytes]
    n_single: int = 0
    n_incomplete: int = 0


@dataclass
class _Subject:
    """What is read of one subject so far."""

    person: Person
    _: KW_ONLY
    first: Row  # where the subject stands first, for messages
    asked: dict[tuple[int, Modality], tuple[ChoiceQuestion, str]] = field(default_factory=dict)
    photos: dict[str, bytes] = field(default_factory=dict)
    n_incomplete: int = 0


def read_people(rows: Iterable[tuple[Row, dict]]) -> list[PpuPerson]:
    """The subjects in the order of the rows. Raises PulseError as `Row.error` writes it."""
    subjects: dict[str, _Subject] = {}
    named: dict[str, tuple[str, Row]] = {}
    plain: dict[bytes, bytes] = {}  # a photo stands in many rows; it is checked once
    for row, cells in rows:
        key = row.text("subject_id", cells["subject_id"])
        name = " ".join(_name(row, cells["subject"]).split())
        if not key or not name:
            raise row.error("subject" if key else "subject_id", "it is empty")
        person = Person(f"celebrity-{key}", name, kind="celebrity", attributes={})
        subject = subjects.setdefault(key, _Subject(person, first=row))
        other, where = named.setdefault(name, (key, row))
        if subject.person.name != name:
            raise row.error(
                "subject",
                f"{name!r:.60}, but subject {key} is {subject.person.name!r:.60} in row "
                f"{subject.first.number}",
            )
        if other != key:
            raise row.error(
                "subject_id",
                f"{key!r:.60}, but {name!r:.60} is {other!r:.60} in row {where.number}",
            )
        _add(row, cells, subject=subject, plain=plain)
        subject.n_incomplete += row.n_incomplete
    return [_person(subject) for subject in subjects.values()]


def _add(row: Row, cells: dict, *, subject: _Subject, plain: dict[bytes, bytes]) -> None:
    """The question of one row."""
    task = row.text("task_type", cells["task_type"])
    if task != "classification":
        raise row.error("task_type", f"{task!r:.60}, expected classification")
    said = row.text("modality", cells["modality"])
    if said not in MODALITY_OF:
        raise row.error("modality", f"{said!r:.60}, expected {' or '.join(MODALITY_OF)}")
    modality, number = MODALITY_OF[said], _number(row, cells)
    if (number, modality) in subject.asked:
        raise row.error("sample_id", f"fact {number} of subject stands twice with modality {said}")
    text = row.text("question", cells["question"])
    if not text:
        row.n_incomplete += 1
        return
    label, words = (row.text(c, cells[c]) for c in ("answer_label", "answer_text"))
    options, answer = options_of(
        row,
        {letter.upper(): cells[f"option_{letter}"] for letter in "abcd"},
        said=f"{label}. {words}" if label and words else label or words,
        prefix="option_",
        answer="answer_label",
    )
    image = ""
    if modality == "multimodal":
        image = _photo(row, cells["image"], subject=subject, plain=plain)
    question = ChoiceQuestion(modality, text, options=options, answer=answer)
    subject.asked[number, modality] = question, image


def _name(row: Row, cell: object) -> str:
    """The subject's name in composed letters, spaces for underscores."""
    return unicodedata.normalize("NFC", row.text("subject", cell)).replace("_", " ")


def _number(row: Row, cells: dict) -> int:
    """The number of the fact, which stands behind the last underscore (a name may hold more of them,
    and digits). If the file says which facts are sensitive, the numbers must say the same.
    """
    said = row.text("sample_id", cells["sample_id"])
    found = re.fullmatch(r".+_(\d{1,4})", said)
    if not found:
        raise row.error("sample_id", f"{said!r:.60} is not a name, an underscore and a number")
    number, source = int(found[1]), row.text("source_from", cells.get("source_from"))
    if source and (source == SENSITIVE) != (number in SENSITIVE_FACTS):
        raise row.error(
            "source_from",
            f"{source!r:.60} for fact {number}, but the sensitive facts are numbers "
            f"{SENSITIVE_FACTS[0]} to {SENSITIVE_FACTS[-1]}: this is another release of PPU-Bench",
        )
    return number


def _photo(row: Row, cell: object, *, subject: _Subject, plain: dict[bytes, bytes]) -> str:
    encoded = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(encoded, bytes):
        raise row.error("image", "there is no picture, but a question about it")
    digest = hashlib.sha256(encoded).digest()
    if digest not in plain:
        plain[digest] = picture_of(row, "image", cell=cell) or b""
    photo = plain[digest]
    for key, known in subject.photos.items():
        if known == photo:
            return key
    key = "photo" if not subject.photos else f"photo-{len(subject.photos) + 1}"
    subject.photos[key] = photo
    return key


def _person(subject: _Subject) -> PpuPerson:
    numbers = sorted({number for number, _ in subject.asked})
    facts = []
    for number in numbers:
        beside = subject.asked.get((number, "multimodal"))
        text = subject.asked.get((number, "text"))
        if beside and text:
            facts.append(Fact(number, photo=beside[0], text=text[0], image=beside[1]))
    return PpuPerson(
        subject.person,
        tuple(facts),
        photos=subject.photos,
        n_single=len(subject.asked) - 2 * len(facts),
        n_incomplete=subject.n_incomplete,
    )

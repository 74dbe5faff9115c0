"""One row of MLLMU-Bench's files as a person with photos, questions and training texts, checked cell
by cell.

Which columns a file has decides what its people carry. Nothing is assumed about how many questions a
person has. What is incomplete (an entry without question or answer text, a blank
option) is left out and counted; what contradicts itself is an error that names file, row (counted
from 0, as pandas does) and column. [Liu 2024, MLLMU-Bench; card of datasets/MLLMMU/MLLMU-Bench]
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from PIL import Image

from pulse_lib.data.records import LETTERS, Modality, Person
from pulse_lib.errors import PulseError
from pulse_lib.files import show

CELEBRITIES = "Retain_Set"  # its people are real; "retain_95" and the like are fictitious people
MODALITY_OF: dict[str, Modality] = {
    "Image_Textual_Questions": "multimodal",
    "Pure_Text_Questions": "text",
}
_MODALITY_OF_TYPE: dict[str, Modality] = {"im": "multimodal", "pu": "text", "te": "text"}
_LETTER = re.compile(r"\(?([A-Za-z])\)?(?:[.:)].*)?", re.DOTALL)  # B, b, (B), "B." and "B. nurse"


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


@dataclass(frozen=True)
class MllmuPerson:
    """One row: who it is, encoded photos (RGB or grey), and what is asked and taught; empty where
    the file has no such column. `n_incomplete` counts what was left out.
    """

    person: Person
    photos: tuple[bytes, ...] = ()
    _: KW_ONLY
    questions: tuple[ChoiceQuestion, ...] = ()
    generation: tuple[OpenQuestion, ...] = ()
    cloze: tuple[OpenQuestion, ...] = ()
    training: tuple[OpenQuestion, ...] = ()
    n_incomplete: int = 0

    def asked(self, modality: Modality) -> list[ChoiceQuestion]:
        """The multiple-choice questions of one modality, in the file's order."""
        return [q for q in self.questions if q.modality == modality]


@dataclass
class Row:
    """Where a cell stands, for messages, and how much of the row was left out."""

    file: Path
    number: int
    _: KW_ONLY
    n_incomplete: int = 0

    def error(self, column: str, what: str) -> PulseError:
        """The error for a cell of this row."""
        return PulseError(f"{show(self.file)}, row {self.number}, column {column}: {what}")


def read_person(row: Row, cells: dict, *, subset: str) -> MllmuPerson:
    """The person of one row. cells: column name -> value, lists and structs as Python's (pyarrow's
    to_pylist). Raises PulseError as `Row.error` writes it.
    """
    training, ids = _training(row, cells.get("metadata"))
    number = _person_id(row, cells.get("ID"), ids=ids)
    facts = _facts(row, cells.get("biography"))
    kind = "celebrity" if subset == CELEBRITIES else "fictitious"
    name = next((facts[k] for k in ("Name", "name", "Full Name") if k in facts), "")
    questions = _choice_questions(row, cells.get("Classification_Task"))
    generation = _open_questions(row, "Generation_Task", cell=cells.get("Generation_Task"))
    cloze = _open_questions(row, "Mask_Task", cell=cells.get("Mask_Task"))
    photos = _photos(row, cells)
    if not photos and any(q.modality == "multimodal" for q in (*questions, *generation, *cloze)):
        raise row.error("image", "there is no picture, but questions about it")
    return MllmuPerson(
        Person(f"{kind}-{number}", name or f"{kind} person {number}", kind=kind, attributes=facts),
        photos,
        questions=questions,
        generation=generation,
        # DIFFERS: MLLMU-Bench, eval.py, makes two gaps of "____"; here any run of them is one
        cloze=tuple(
            OpenQuestion(q.modality, re.sub("_{2,}", "[Blank]", q.text), answer=q.answer)
            for q in cloze
        ),
        training=training,
        n_incomplete=row.n_incomplete,
    )


def _person_id(row: Row, cell: object, *, ids: list[str]) -> str:
    """ "007" for 7, 7.0, "7" and "007"; other ids as they are. Without a column ID, the one that
    the training texts agree on.
    """
    found = {_plain_id(cell)} if _plain_id(cell) else {_plain_id(i) for i in ids} - {""}
    if len(found) != 1:
        raise row.error("ID", f"{cell!r} is no id" + (f"; metadata says {ids}" if ids else ""))
    return found.pop()


def _plain_id(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None or value != value else str(value).strip()
    return f"{int(text):03d}" if text.isdecimal() else text


def _facts(row: Row, cell: object) -> dict[str, str]:
    """What the biography says, value by value; nested parts (a question about the looks) are not
    facts. Prose is one fact.
    """
    if isinstance(cell, str) and cell.strip() and cell.strip()[0] not in "{[":
        return {"biography": cell.strip()}
    value = _json(row, "biography", cell=cell)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise row.error("biography", f"a {type(value).__name__}, expected a JSON object")
    return {str(k): str(v).strip() for k, v in value.items() if isinstance(v, str | int | float)}


def _training(row: Row, cell: object) -> tuple[tuple[OpenQuestion, ...], list[str]]:
    """The fine-tuning texts, and the ids that they name."""
    made, ids = [], []
    for i, item in _items(row, "metadata", value=_json(row, "metadata", cell=cell)):
        ids += [item["ID"]] if item.get("ID") is not None else []
        # MLLMU-Bench trains with the photo only [data_preprocess.py]: no Type means that
        made += _open_question(
            row, f"metadata[{i}]", item=item, answer="Answer", kind=item.get("Type") or "Image"
        )
    return tuple(made), ids


def _choice_questions(row: Row, cell: object) -> tuple[ChoiceQuestion, ...]:
    task = _json(row, "Classification_Task", cell=cell)
    if task is None:
        return ()
    if not isinstance(task, Mapping):
        raise row.error("Classification_Task", f"a {type(task).__name__}, expected a struct")
    made = []
    for name, modality in MODALITY_OF.items():
        for i, item in _items(row, f"Classification_Task.{name}", value=task.get(name)):
            column = f"Classification_Task.{name}[{i}]"
            if _text(item.get("Question")) and item.get("Options") is not None:
                options, answer = _options(row, column, item=item)
                made.append(
                    ChoiceQuestion(
                        modality, _text(item["Question"]), options=options, answer=answer
                    )
                )
            else:
                row.n_incomplete += 1
    return tuple(made)


def _options(row: Row, column: str, *, item: Mapping) -> tuple[tuple[str, ...], int]:
    """The options that are there, in order of their letters, and the index of the right one."""
    given = item["Options"]
    if not isinstance(given, Mapping):
        raise row.error(f"{column}.Options", f"{given!r}, expected a struct of A, B, C, D")
    options = {letter: _text(given[letter]) for letter in sorted(given) if _text(given[letter])}
    said = _text(item.get("Correct_Answer"))
    match = _LETTER.fullmatch(said)
    letter = match[1].upper() if match else ""
    if letter not in options:
        raise row.error(
            f"{column}.Correct_Answer",
            f"{said!r} is no option; there are {', '.join(options) or 'none'}",
        )
    # The same words under two letters would be right and wrong at once.
    distinct = {letter: options[letter]}
    for other, text in options.items():
        if text.casefold() not in {t.casefold() for t in distinct.values()}:
            distinct[other] = text
    row.n_incomplete += len(given) - len(distinct)
    if not 2 <= len(distinct) <= len(LETTERS):
        raise row.error(
            f"{column}.Options", f"{len(distinct)} usable options, expected 2 to {len(LETTERS)}"
        )
    letters = sorted(distinct)
    return tuple(distinct[key] for key in letters), letters.index(letter)


def _open_questions(row: Row, column: str, *, cell: object) -> tuple[OpenQuestion, ...]:
    made = []
    for i, item in _items(row, column, value=_json(row, column, cell=cell)):
        made += _open_question(
            row, f"{column}[{i}]", item=item, answer="Ground_Truth", kind=item.get("Type")
        )
    return tuple(made)


def _open_question(
    row: Row, column: str, *, item: Mapping, answer: str, kind: object
) -> list[OpenQuestion]:
    words = _text(kind).lower()
    modality = _MODALITY_OF_TYPE.get(words[:2])
    if modality is None:
        raise row.error(f"{column}.Type", f"{kind!r} is neither Image_Textual nor Pure_Text")
    text, said = _text(item.get("Question")), _text(item.get(answer))
    if not text or not said:
        row.n_incomplete += 1
        return []
    return [OpenQuestion(modality, text, answer=said)]


def _items(row: Row, column: str, *, value: object) -> Iterator[tuple[int, Mapping]]:
    """The entries of a list cell with their positions; None is an empty list, a None entry is left
    out.
    """
    if value is None:
        return
    if not isinstance(value, list):
        raise row.error(column, f"a {type(value).__name__}, expected a list")
    for i, item in enumerate(value):
        if item is None:
            row.n_incomplete += 1
        elif isinstance(item, Mapping):
            yield i, item
        else:
            raise row.error(f"{column}[{i}]", f"{item!r}, expected a question and its answer")


def _json(row: Row, column: str, *, cell: object) -> object:
    """A cell that is JSON text, or already a value; None if it is empty."""
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        return json.loads(cell)
    except ValueError as error:
        raise row.error(column, f"broken JSON ({error}): {cell[:60]!r}") from None


def _text(value: object) -> str:
    """A cell's words; "" for None and for the "nan" that pandas writes for a missing value."""
    text = "" if value is None else str(value).strip()
    return "" if text == "nan" else text


def _photos(row: Row, cells: dict) -> tuple[bytes, ...]:
    column = "image" if "image" in cells else "images"
    found = cells[column] if column == "images" else [cells[column]]
    made = []
    for i, cell in enumerate(found or []):
        where = column if column == "image" else f"{column}[{i}]"
        encoded = cell.get("bytes") if isinstance(cell, Mapping) else cell
        if cell is None:
            continue
        if not isinstance(encoded, bytes) or not encoded:
            raise row.error(where, "holds no bytes of a picture")
        made.append(_checked(row, where, encoded=encoded))
    return tuple(made)


def _checked(row: Row, column: str, *, encoded: bytes) -> bytes:
    """The picture as it is if it can be decoded; one with transparency is put on white."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            if "transparency" not in image.info and image.mode not in ("RGBA", "LA", "PA"):
                return encoded
            shown = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise row.error(column, f"the picture cannot be decoded: {error}") from None
    white = Image.new("RGBA", shown.size, "white")
    buffer = io.BytesIO()
    Image.alpha_composite(white, shown).convert("RGB").save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()

"""One row of MLLMU-Bench's files as a person with photos, questions and training texts, checked cell
by cell.

Which columns a file has decides what its people carry. Nothing is assumed about how many questions a
person has. What is incomplete (an entry without question or answer text, a blank
option) is left out and counted; what contradicts itself is an error that names file, row (counted
from 0, as pandas does) and column. [Liu 2024, MLLMU-Bench; card of datasets/MLLMMU/MLLMU-Bench]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass

from pulse_lib.data.cells import Row, json_of, literal_of, picture_of, plain_id
from pulse_lib.data.choices import ChoiceQuestion, OpenQuestion, options_of
from pulse_lib.data.records import Modality, Person
from pulse_lib.errors import PulseError

CELEBRITIES = "Retain_Set"  # its people are real; "retain_95" and the like are fictitious people
MODALITY_OF: dict[str, Modality] = {
    "Image_Textual_Questions": "multimodal",
    "Pure_Text_Questions": "text",
}
_MODALITY_OF_TYPE: dict[str, Modality] = {"im": "multimodal", "pu": "text", "te": "text"}


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
    n_additional: int = 0  # of `training`: under Additional_question and Additional_answer

    def asked(self, modality: Modality) -> list[ChoiceQuestion]:
        """The multiple-choice questions of one modality, in the file's order."""
        return [q for q in self.questions if q.modality == modality]


def read_person(row: Row, cells: dict, *, subset: str) -> MllmuPerson:
    """The person of one row. cells: column name -> value, lists and structs as Python's (pyarrow's
    to_pylist). Raises PulseError as `Row.error` writes it.
    """
    training, ids, n_additional = _training(row, cells.get("metadata"))
    number = _person_id(row, cells.get("ID"), ids=ids)
    facts = _facts(row, cells.get("biography"))
    kind = "celebrity" if subset == CELEBRITIES else "fictitious"
    name = next((facts[k] for k in ("Name", "name", "Full Name") if k in facts), "")
    name = row.text("biography", name)
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
        # DIFFERS: a run of underscores is one gap, however long; MLLMU-Bench's eval.py puts a
        # [Blank] for each "__" of it
        cloze=tuple(
            OpenQuestion(q.modality, re.sub("_{2,}", "[Blank]", q.text), answer=q.answer)
            for q in cloze
        ),
        training=training,
        n_incomplete=row.n_incomplete,
        n_additional=n_additional,
    )


def _person_id(row: Row, cell: object, *, ids: list[str]) -> str:
    """ "007" for 7, 7.0, "7", "7.0" and "007"; other ids as they are. Without a column ID, the one that
    the training texts agree on; with one, theirs must be the same.
    """
    said, taught = plain_id(row, cell), {plain_id(row, i) for i in ids} - {""}
    found = {said} if said else taught
    if len(found) != 1:
        raise row.error(
            "ID", f"{cell!r:.60} is no id" + (f"; metadata says {ids!r:.60}" if ids else "")
        )
    if taught - found:
        raise row.error(
            "ID",
            f"{cell!r:.60}, but its metadata is about {', '.join(sorted(taught - found)):.60}: one of "
            "them is wrong",
        )
    return found.pop()


def _facts(row: Row, cell: object) -> dict[str, str]:
    """What the biography says, value by value; nested parts (a question about the looks) are not
    facts. Prose is one fact.
    """
    if isinstance(cell, str) and cell.strip() and cell.strip()[0] not in "{[":
        return {"biography": cell.strip()}
    value = json_of(row, "biography", cell=cell)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise row.error("biography", f"a {type(value).__name__}, expected a JSON object")
    return {str(k): str(v).strip() for k, v in value.items() if isinstance(v, str | int | float)}


def _training(row: Row, cell: object) -> tuple[tuple[OpenQuestion, ...], list[str], int]:
    """The fine-tuning texts, the ids that they name, and how many are additional ones.

    An item holds Question, Answer and ID, or Additional_question, Additional_answer and
    Additional_ID (whose id need not be a person's: it is not read). [Open-MMunlearning,
    prepare_finetune_vqa.py]
    """
    made, ids, n_additional = [], [], 0
    for i, item in _items(row, "metadata", value=_texts(row, cell)):
        ids += [item["ID"]] if item.get("ID") is not None else []
        said = item
        if not item.get("Question") and item.get("Additional_question"):
            said = {k: item.get(f"Additional_{k.lower()}") for k in ("Question", "Answer")}
        # MLLMU-Bench trains with the photo only [data_preprocess.py]: no Type means that
        found = _open_question(
            row, f"metadata[{i}]", item=said, answer="Answer", kind=item.get("Type") or "Image"
        )
        n_additional += len(found) if said is not item else 0
        made += found
    return tuple(made), ids, n_additional


def _texts(row: Row, cell: object) -> object:
    """The list of texts, from JSON, or from the Python literal that some copies hold."""
    try:
        return json_of(row, "metadata", cell=cell)
    except PulseError as broken:
        try:
            return literal_of(row, "metadata", cell=cell)
        except PulseError:
            raise broken from None


def _choice_questions(row: Row, cell: object) -> tuple[ChoiceQuestion, ...]:
    task = json_of(row, "Classification_Task", cell=cell)
    if task is None:
        return ()
    if not isinstance(task, Mapping):
        raise row.error("Classification_Task", f"a {type(task).__name__}, expected a struct")
    made = []
    for name, modality in MODALITY_OF.items():
        for i, item in _items(row, f"Classification_Task.{name}", value=task.get(name)):
            column = f"Classification_Task.{name}[{i}]"
            text = row.text(f"{column}.Question", item.get("Question"))
            if text and item.get("Options") is not None:
                options, answer = _options(row, column, item=item)
                made.append(ChoiceQuestion(modality, text, options=options, answer=answer))
            else:
                row.n_incomplete += 1
    return tuple(made)


def _options(row: Row, column: str, *, item: Mapping) -> tuple[tuple[str, ...], int]:
    given = item["Options"]
    if not isinstance(given, Mapping):
        raise row.error(f"{column}.Options", f"{given!r:.60}, expected a struct of A, B, C, D")
    return options_of(
        row,
        given,
        said=item.get("Correct_Answer"),
        prefix=f"{column}.Options.",
        answer=f"{column}.Correct_Answer",
    )


def _open_questions(row: Row, column: str, *, cell: object) -> tuple[OpenQuestion, ...]:
    made = []
    for i, item in _items(row, column, value=json_of(row, column, cell=cell)):
        made += _open_question(
            row, f"{column}[{i}]", item=item, answer="Ground_Truth", kind=item.get("Type")
        )
    return tuple(made)


def _open_question(
    row: Row, column: str, *, item: Mapping, answer: str, kind: object
) -> list[OpenQuestion]:
    words = row.text(f"{column}.Type", kind).lower()
    modality = _MODALITY_OF_TYPE.get(words[:2])
    if modality is None:
        raise row.error(f"{column}.Type", f"{kind!r:.60} is neither Image_Textual nor Pure_Text")
    text = row.text(f"{column}.Question", item.get("Question"))
    said = row.text(f"{column}.{answer}", item.get(answer))
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
            raise row.error(f"{column}[{i}]", f"{item!r:.60}, expected a question and its answer")


def _photos(row: Row, cells: dict) -> tuple[bytes, ...]:
    column = "image" if "image" in cells else "images"
    found = cells[column] if column == "images" else [cells[column]]
    if found is not None and not isinstance(found, list):
        raise row.error(column, f"a {type(found).__name__}, expected a list of pictures")
    cells_of = [
        (column if column == "image" else f"{column}[{i}]", cell)
        for i, cell in enumerate(found or [])
    ]
    photos = (picture_of(row, where, cell=cell) for where, cell in cells_of)
    return tuple(photo for photo in photos if photo is not None)

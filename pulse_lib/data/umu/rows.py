"""One row of UMU-Bench as a person with a photo, twins of questions and training texts, checked cell by
cell.

Five columns hold Python literals as text; they are read by `ast.literal_eval` and never run. What is
incomplete is left out and counted; what contradicts itself is an error that names file, row and
column. [UMU-bench, eval.py]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from pulse_lib.data.cells import Row, literal_of, mapping_of, picture_of, plain_id
from pulse_lib.data.choices import ChoiceQuestion, OpenQuestion, options_of
from pulse_lib.data.records import Modality, Person
from pulse_lib.errors import PulseError

COLUMNS = ("ID", "image", "Biography", "MM_QA", "UM_QA", "Classify", "Cloze", "Generation")
# "muitimodal" is how the files spell it
MODALITY_OF: dict[str, Modality] = {"muitimodal": "multimodal", "unimodal": "text"}
_TEXTS: dict[str, Modality] = {"MM_QA": "multimodal", "UM_QA": "text"}
_BLANK = re.compile("_{2,}")


@dataclass(frozen=True)
class Twins:
    """The same fact asked beside the photo and in text; `key` is its name in the file."""

    key: str
    _: KW_ONLY
    photo: ChoiceQuestion
    text: ChoiceQuestion

    def of(self, modality: Modality) -> ChoiceQuestion:
        """The question of one modality."""
        return self.photo if modality == "multimodal" else self.text


@dataclass(frozen=True)
class UmuPerson:
    """One row. `letters`: of how many twins the right letters differ; `n_single`: questions of one
    modality alone; `n_incomplete`: entries left out.
    """

    person: Person
    photo: bytes | None
    _: KW_ONLY
    twins: tuple[Twins, ...] = ()
    training: tuple[OpenQuestion, ...] = ()
    cloze: tuple[OpenQuestion, ...] = ()
    generation: tuple[OpenQuestion, ...] = ()
    letters: int = 0
    n_single: int = 0
    n_incomplete: int = 0

    def taught(self, modality: Modality) -> list[OpenQuestion]:
        """The training texts of one modality, in the file's order."""
        return [t for t in self.training if t.modality == modality]


def read_person(row: Row, cells: dict, *, kind: Literal["celebrity", "fictitious"]) -> UmuPerson:
    """The person of one row. cells: column name -> value. Raises PulseError as `Row.error` writes
    it.
    """
    number = plain_id(row, cells["ID"])
    if not number:
        raise row.error("ID", f"{cells['ID']!r:.60} is no id")
    facts = _facts(row, cells["Biography"])
    name = next((facts[k] for k in ("Name", "name", "Full Name") if facts.get(k)), "")
    asked = {m: dict(_choices(row, cells, of=said)) for said, m in MODALITY_OF.items()}
    twins = tuple(
        Twins(key, photo=question, text=asked["text"][key])
        for key, question in asked["multimodal"].items()
        if key in asked["text"]
    )
    photo = picture_of(row, "image", cell=cells["image"])
    training = tuple(_training(row, cells))
    cloze = tuple(
        OpenQuestion(q.modality, _BLANK.sub("[Blank]", q.text), answer=q.answer)
        for q in _open(row, "Cloze", cell=cells["Cloze"])
    )
    generation = tuple(_open(row, "Generation", cell=cells["Generation"]))
    beside = [q for q in (*training, *cloze, *generation) if q.modality == "multimodal"]
    if photo is None and (twins or beside):
        raise row.error("image", "there is no picture, but questions about it")
    return UmuPerson(
        Person(f"{kind}-{number}", name or f"{kind} person {number}", kind=kind, attributes=facts),
        photo,
        twins=twins,
        training=training,
        cloze=cloze,
        generation=generation,
        letters=sum(t.photo.answer != t.text.answer for t in twins),
        n_single=len(asked["multimodal"]) + len(asked["text"]) - 2 * len(twins),
        n_incomplete=row.n_incomplete,
    )


def _facts(row: Row, cell: object) -> dict[str, str]:
    """What the biography says, value by value; prose, or what is no mapping, is one fact."""
    text = row.text("Biography", cell) if not isinstance(cell, Mapping) else ""
    value: object = cell
    if isinstance(cell, str):
        try:
            value = literal_of(row, "Biography", cell=text)
        except PulseError:
            value = None
    if not isinstance(value, Mapping):
        return {"biography": text} if text else {}
    return {str(k): str(v).strip() for k, v in value.items() if isinstance(v, str | int | float)}


def _parts(row: Row, column: str, *, cell: object, of: str) -> Iterator[tuple[str, str, Mapping]]:
    """Key, column and entry of each question of one modality; what is no entry is left out."""
    task = mapping_of(row, column, value=literal_of(row, column, cell=cell))
    where = f"{column}[{of!r}]"
    for key, item in mapping_of(row, where, value=task.get(of)).items():
        if item is None:
            row.n_incomplete += 1
            continue
        at = f"{where}[{key!r}]"
        yield str(key), at, mapping_of(row, at, value=item)


def _choices(row: Row, cells: dict, *, of: str) -> Iterator[tuple[str, ChoiceQuestion]]:
    for key, at, item in _parts(row, "Classify", cell=cells["Classify"], of=of):
        text = row.text(f"{at}.question", item.get("question"))
        if not text or item.get("options") is None:
            row.n_incomplete += 1
            continue
        # The gold of each question is its own. UMU-Bench's eval.py looks the text question's letter
        # up in the options of the photo question, which is wrong wherever their orders differ.
        options, answer = options_of(
            row,
            mapping_of(row, f"{at}.options", value=item["options"]),
            said=item.get("answer"),
            prefix=f"{at}.options.",
            answer=f"{at}.answer",
        )
        yield key, ChoiceQuestion(MODALITY_OF[of], text, options=options, answer=answer)


def _open(row: Row, column: str, *, cell: object) -> Iterator[OpenQuestion]:
    for of, modality in MODALITY_OF.items():
        for _, at, item in _parts(row, column, cell=cell, of=of):
            text = row.text(f"{at}.question", item.get("question"))
            said = row.text(f"{at}.answer", item.get("answer"))
            if text and said:
                yield OpenQuestion(modality, text, answer=said)
            else:
                row.n_incomplete += 1


def _training(row: Row, cells: dict) -> Iterator[OpenQuestion]:
    """MM_QA beside the photo and UM_QA in text.

    DIFFERS: UMU-Bench's own preparation shows the photo with UM_QA too, so that what is called text
    was learned beside a picture.
    """
    for column, modality in _TEXTS.items():
        task = mapping_of(row, column, value=literal_of(row, column, cell=cells[column]))
        asked = mapping_of(row, f"{column}['question']", value=task.get("question"))
        said = mapping_of(row, f"{column}['answer']", value=task.get("answer"))
        for key in {**asked, **said}:
            text = row.text(f"{column}['question'][{key!r}]", asked.get(key))
            answer = row.text(f"{column}['answer'][{key!r}]", said.get(key))
            if text and answer:
                yield OpenQuestion(modality, text, answer=answer)
            else:
                row.n_incomplete += 1

"""FIUBench's full.json, read and checked record by record, and the photos that it names.

One record is one fictitious person: a synthetic face and about twenty questions, each with an answer,
three other wordings, three wrong answers and the keywords of the right one. Only the first 400 records
are the benchmark: their order is kept. [FIUBench, data_module.py]
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from pulse_lib.data.cells import Row, mapping_of, picture_of
from pulse_lib.data.records import LETTERS, Person
from pulse_lib.errors import PulseError
from pulse_lib.files import show

N_PEOPLE = 400


@dataclass(frozen=True)
class Asked:
    """One question: its answer, other wordings of the question, wrong answers, and keywords."""

    number: int  # its place in qa_list, from 1
    text: str
    _: KW_ONLY
    answer: str
    wordings: tuple[str, ...]
    wrong: tuple[str, ...]
    keywords: tuple[str, ...]


@dataclass(frozen=True)
class FiuPerson:
    """One record. `n_incomplete` counts what was left out."""

    person: Person
    photo: bytes
    _: KW_ONLY
    asked: tuple[Asked, ...]
    n_incomplete: int = 0


def records_of(file: Path) -> Iterator[tuple[Row, Mapping]]:
    """The first `N_PEOPLE` records of a JSON list, or of a file with one JSON object a line."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PulseError(f"{show(file)} cannot be read ({error}): fetch it again") from None
    found: object
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        lines = [line for line in text.splitlines() if line.strip()]
        found = [_line(file, number, text=line) for number, line in enumerate(lines[:N_PEOPLE])]
    if isinstance(found, Mapping):  # one line
        found = [found]
    if not isinstance(found, list) or not found:
        raise PulseError(f"{show(file)}: expected a list of people: this is no file of FIUBench")
    for number, record in enumerate(found[:N_PEOPLE]):
        row = Row(file, number)
        yield row, mapping_of(row, "(the record)", value=record)


def read_person(row: Row, record: Mapping, *, photos: Photos) -> FiuPerson:
    """The person of one record. Raises PulseError as `Row.error` writes it."""
    number, name = (row.text(c, record.get(c)) for c in ("unique_id", "name"))
    if not number or not name:
        raise row.error("unique_id" if not number else "name", "it is empty")
    items = record.get("qa_list")
    if not isinstance(items, list):
        raise row.error("qa_list", f"a {type(items).__name__}, expected a list")
    asked = [
        question
        for k, item in enumerate(items)
        if (question := _asked(row, f"qa_list[{k}]", item=item, number=k + 1))
    ]
    facts = {k: row.text(k, record.get(k)) for k in ("gender", "caption")}
    return FiuPerson(
        Person(
            f"fictitious-{number}",
            unicodedata.normalize("NFC", name),
            kind="fictitious",
            attributes={k: v for k, v in facts.items() if v},
        ),
        photos.read(row, row.text("image_path", record.get("image_path"))),
        asked=tuple(asked),
        n_incomplete=row.n_incomplete,
    )


class Photos:
    """The benchmark's pictures: unpacked under the folder, or in its zip files as they are."""

    def __init__(self, root: Path):
        self.root = root
        self._packed: dict[str, list[tuple[Path, str]]] | None = None

    def read(self, row: Row, said: str) -> bytes:
        """The picture that a record names: its path is the authors' own, so that of its folders only
        the end counts. Raises PulseError if it is not there, or stands in two places.
        """
        if not said:
            raise row.error("image_path", "there is no picture, but questions about it")
        parts = Path(said).parts
        for k in range(len(parts)):
            file = self.root.joinpath(*parts[k:])
            if file.is_file():
                return picture_of(row, "image_path", cell=file.read_bytes()) or b""
        places = self._in_zips().get(parts[-1], [])
        if len(places) != 1:
            why = "in several zip files or folders of them" if places else "not there"
            raise row.error(
                "image_path",
                f"{said!r:.120} is {why}: put SFHQ.zip of the data set's repository into "
                f"{show(self.root)}, or its folder",
            )
        with ZipFile(places[0][0]) as archive:
            return picture_of(row, "image_path", cell=archive.read(places[0][1])) or b""

    def _in_zips(self) -> dict[str, list[tuple[Path, str]]]:
        """Where each file's name stands in the zip files."""
        if self._packed is None:
            self._packed = {}
            for file in sorted(self.root.glob("*.zip")):
                try:
                    with ZipFile(file) as archive:
                        names = archive.namelist()
                except (BadZipFile, OSError) as error:
                    raise PulseError(
                        f"{show(file)} cannot be read ({error}): it is cut off, or a git-lfs pointer; "
                        "fetch it again"
                    ) from None
                for name in names:
                    # macOS packs a shadow of each file
                    if not name.endswith("/") and not name.startswith("__MACOSX/"):
                        self._packed.setdefault(Path(name).name, []).append((file, name))
        return self._packed


def _line(file: Path, number: int, *, text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PulseError(
            f"{show(file)}, row {number}: neither a JSON list nor JSON lines ({error}): fetch it again"
        ) from None


def _asked(row: Row, at: str, *, item: object, number: int) -> Asked | None:
    """One question; None if it has no words, no answer or no wrong answer."""
    said = mapping_of(row, at, value=item)
    text, answer = (row.text(f"{at}.{c}", said.get(c)) for c in ("question", "answer"))
    wrong = _texts(row, f"{at}.perturbed_answer", cell=said.get("perturbed_answer"))
    seen, distinct = {answer.casefold()}, []
    for other in wrong:
        if other.casefold() not in seen:
            seen.add(other.casefold())
            distinct.append(other)
    row.n_incomplete += len(wrong) - len(distinct)
    if not text or not answer or not distinct:
        row.n_incomplete += 1
        return None
    wordings = _texts(row, f"{at}.paraphrased_question", cell=said.get("paraphrased_question"))
    return Asked(
        number,
        text,
        answer=answer,
        wordings=tuple(w for w in wordings if w.casefold() != text.casefold()),
        wrong=tuple(distinct[: len(LETTERS) - 1]),
        keywords=_texts(row, f"{at}.keywords", cell=said.get("keywords")),
    )


def _texts(row: Row, column: str, *, cell: object) -> tuple[str, ...]:
    """A list of texts, or one text; blank ones are left out."""
    if cell is None:
        return ()
    if not isinstance(cell, list):
        return tuple(filter(None, [row.text(column, cell)]))
    return tuple(filter(None, (row.text(f"{column}[{k}]", c) for k, c in enumerate(cell))))

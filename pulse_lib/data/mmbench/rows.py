"""MMBench's rows from a TSV or parquet file, checked cell by cell.

Two families of files: the TSV of the authors (image as base64 in every row, or, in the compact form,
the index of another row that has it) and the parquet re-host lmms-lab/MMBench, which differs in five
ways: `L2-category` with a capital letter, images as encoded files, "nan" for a missing option or
hint, an index that may be text, and no answers in the test split. [VLMEvalKit image_base.py; card of
datasets/lmms-lab/MMBench]
"""

from __future__ import annotations

import base64
import binascii
import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

from pulse_lib.data import pictures
from pulse_lib.data.parquet import parquet_rows
from pulse_lib.data.records import LETTERS
from pulse_lib.errors import PulseError
from pulse_lib.files import show

COPY = 1_000_000  # index = base + k * COPY for the k-th rotation of the options
PAYLOAD = 64  # an image cell of at most so many characters is another row's index
REQUIRED = ("index", "question", "A", "B", "answer", "category", "image")
_CELL_LIMIT = 2**31 - 1  # characters; Python's csv would stop at 128 KiB, pictures are larger


@dataclass(frozen=True)
class Place:
    """Where a row stands, for messages; rows are counted from 0 behind the header, as pandas
    does.
    """

    file: Path
    number: int
    _: KW_ONLY
    index: int | None = None

    def error(self, column: str, what: str) -> PulseError:
        """The error for a cell of this row."""
        index = "" if self.index is None else f" (index {self.index})"
        return PulseError(f"{show(self.file)}, row {self.number}{index}, column {column}: {what}")


@dataclass(frozen=True)
class MmbenchRow:
    """One pass over one question; `answer` is the index of the right option. `image` holds the
    encoded picture, or the index of the row that has it.
    """

    place: Place
    index: int
    _: KW_ONLY
    question: str
    hint: str  # "" if there is none
    options: tuple[str, ...]
    answer: int
    category: str
    l2_category: str
    image: bytes | int

    @property
    def group(self) -> int:
        """Index of the question's base row."""
        return self.index % COPY


def read_rows(files: list[Path]) -> list[MmbenchRow]:
    """The rows of one split, in the files' order. Raises PulseError naming file, row and column of
    what cannot be used, and a row's index that stands twice.
    """
    rows: dict[int, MmbenchRow] = {}
    known: dict[bytes, bytes] = {}  # copies of a question share one picture in memory
    for path in files:
        parquet = path.suffix == ".parquet"
        for number, cells in enumerate(parquet_rows(path, _names) if parquet else _tsv(path)):
            row = _row(Place(path, number), cells, parquet=parquet)
            if row.index in rows:
                first = rows[row.index].place
                raise row.place.error(
                    "index",
                    f"{row.index} stands twice, first in {first.file.name}, row {first.number}: "
                    "remove one of the rows, or fetch the file again",
                )
            if isinstance(row.image, bytes):
                known.setdefault(row.image, row.image)
                row = replace(row, image=known[row.image])
            rows[row.index] = row
    if not rows:
        raise PulseError(f"{', '.join(show(f) for f in files)}: no rows; fetch the file again")
    return _without_nan(rows)


def _without_nan(rows: Mapping[int, MmbenchRow]) -> list[MmbenchRow]:
    """The rows, without the options that are "nan" because pandas wrote a missing cell so.

    An option that is really called so stands under another letter in each copy of its question; a
    missing one always stands at the end.
    """
    groups: dict[int, list[tuple[str, ...]]] = {}
    for row in rows.values():
        groups.setdefault(row.group, []).append(row.options)
    n_options = {}
    for group, options in groups.items():
        n = min(len(o) for o in options)
        while n > 2 and all(o[n - 1] == "nan" for o in options):
            n -= 1
        n_options[group] = n
    made = []
    for row in rows.values():
        n = n_options[row.group]
        cut = set(row.options[n:]) == {"nan"} and row.answer < n
        made.append(replace(row, options=row.options[:n]) if cut else row)
    return made


def picture(row: MmbenchRow, rows: Mapping[int, MmbenchRow]) -> bytes:
    """The encoded picture of a row, by at most one reference. `rows` by index. Raises PulseError
    for a reference to no row, or to one that only refers on.
    """
    if isinstance(row.image, bytes):
        return row.image
    target = rows.get(row.image)
    if target is None or isinstance(target.image, int):
        why = "is not in the file" if target is None else f"only refers on, to row {target.image}"
        raise row.place.error(
            "image",
            f"refers to the row of index {row.image}, which {why}: one step must lead to a picture; "
            "fetch the file again, whole",
        )
    return target.image


def checked_picture(place: Place, encoded: bytes) -> bytes:
    """The picture as it is if RGB or grey, upright and opaque, else as it is seen (PNG). Raises
    PulseError if it cannot be decoded to its end.
    """
    try:
        return pictures.plain(encoded)
    except ValueError as error:
        raise place.error(
            "image", f"cannot be decoded ({error}): fetch the file again, or remove the whole group"
        ) from None


def _tsv(path: Path) -> Iterator[dict]:
    limit = csv.field_size_limit(_CELL_LIMIT)
    try:
        # What is no UTF-8 becomes half a character, and `_text` names its cell.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            # A real parser: questions hold line breaks, tabs and quotes inside quoted cells.
            lines = csv.reader(file, delimiter="\t", strict=True)
            names = _names(path, next(lines, []))
            for number, cells in enumerate(lines):
                if cells and len(cells) != len(names):
                    raise PulseError(
                        f"{show(path)}, row {number} (ends in line {lines.line_num}): {len(cells)} "
                        f"cells for {len(names)} columns: the file is cut off or no tab-separated "
                        "table; fetch it again"
                    )
                if cells:  # not an empty line at the end
                    yield dict(zip(names, cells, strict=True))
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise PulseError(
            f"{show(path)} cannot be read as a tab-separated table ({error}): it is cut off or in "
            "another format; fetch it again"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _names(path: Path, columns: list[str]) -> list[str]:
    names = [c if re.fullmatch("[A-Z]", c) else c.lower() for c in columns]
    twice = sorted({c for c in names if names.count(c) > 1})
    if twice:
        raise PulseError(f"{show(path)}: column {', '.join(twice)} stands twice: remove one")
    missing = [c for c in REQUIRED if c not in names]
    if missing:
        raise PulseError(
            f"{show(path)}: no column {', '.join(missing)} among {_printed(columns)}: this "
            "is no file of MMBench; a TSV (MMBench_DEV_EN.tsv) or parquet of lmms-lab/MMBench is"
        )
    return names


def _printed(columns: list[str]) -> str:
    text = ", ".join(columns) or "none"
    return text[:300].encode(errors="replace").decode()  # of a file that is no table at all


def _row(place: Place, cells: Mapping[str, object], *, parquet: bool) -> MmbenchRow:
    index = _index(place, cells["index"])
    place = Place(place.file, place.number, index=index)
    text = {
        name: _text(place, cell, column=name, parquet=parquet)
        for name, cell in cells.items()
        if name != "image"
    }
    options = _options(place, text)
    if text["answer"] not in tuple(LETTERS[: len(options)]):  # "AB" is in the string
        no_answer = text["answer"].lower() in ("", "nan", "none")
        hint = "; the test split has no public answers, use dev" if no_answer else ""
        raise place.error(
            "answer",
            f"{text['answer']!r:.60} is none of {', '.join(LETTERS[: len(options)])}{hint}",
        )
    for column in ("question", "category"):
        if not text[column]:
            raise place.error(column, "is empty: fetch the file again, or remove the whole group")
    hint = text.get("hint", "")
    return MmbenchRow(
        place,
        index,
        question=text["question"],
        hint="" if hint.lower() in ("nan", "none") else hint,  # as LLaVA's own script judges a hint
        options=options,
        answer=LETTERS.index(text["answer"]),
        category=text["category"],
        l2_category=text.get("l2-category", ""),
        image=_image(place, cells["image"]),
    )


def _index(place: Place, cell: object) -> int:
    found = re.fullmatch(r"(\d{1,9})(?:\.0)?", str(cell).strip())
    if not found or int(found[1]) >= len(LETTERS) * COPY:
        raise place.error(
            "index", f"{cell!r:.60} is no index (a base below {COPY}, plus k * {COPY})"
        )
    return int(found[1])


def _text(place: Place, cell: object, *, column: str, parquet: bool) -> str:
    """A cell's text exactly as it stands, "" if missing. In a TSV only the empty cell is missing:
    "None", "NA" and "nan" are options like any other.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    if not isinstance(cell, str | int | float):
        raise place.error(column, f"a {type(cell).__name__}, expected text: {cell!r:.60}")
    text = str(cell)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise place.error(
            column, f"is no UTF-8 (at character {error.start}): write the file again in UTF-8"
        ) from None
    return "" if parquet and text == "nan" else text


def _options(place: Place, text: Mapping[str, str]) -> tuple[str, ...]:
    there = [name for name in sorted(text) if re.fullmatch("[A-Z]", name) and text[name]]
    expected = list(LETTERS[: len(there)])
    if there != expected or len(there) < 2:
        raise place.error(
            "A..D",
            f"options {', '.join(there) or 'none'}; a question has A and B, perhaps C, perhaps D, "
            "with no gap: mend the row or remove the whole group",
        )
    return tuple(text[name] for name in there)


def _image(place: Place, cell: object) -> bytes | int:
    encoded = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(encoded, bytes) and encoded:
        return encoded
    if not isinstance(encoded, str) or not encoded.strip():
        raise place.error("image", "is empty: fetch the file again, or remove the whole group")
    if len(encoded) <= PAYLOAD:
        if not re.fullmatch(r"\s*\d+(\.0)?\s*", encoded):
            raise place.error(
                "image",
                f"{encoded!r} is too short for a picture (over {PAYLOAD} characters of base64) and "
                "no other row's index: fetch the file again",
            )
        return int(float(encoded))
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise place.error("image", f"is not base64 ({error}): fetch the file again") from None

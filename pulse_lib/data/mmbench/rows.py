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
import io
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pulse_lib.data.records import LETTERS
from pulse_lib.errors import PulseError
from pulse_lib.files import show

COPY = 1_000_000  # index = base + k * COPY for the k-th rotation of the options
PAYLOAD = 64  # an image cell of at most so many characters is another row's index
REQUIRED = ("index", "question", "A", "B", "answer", "category", "image")
_CELL_LIMIT = 2**31 - 1  # characters; Python's csv would stop at 128 KiB, pictures are larger
_ROWS_AT_ONCE = 64


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
        for number, cells in enumerate(_parquet(path) if parquet else _tsv(path)):
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
    return list(rows.values())


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
    """The picture as it is if RGB or grey, else converted to RGB (PNG). Raises PulseError if it
    cannot be decoded to its end.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            image.load()
            if image.mode in ("RGB", "L"):
                return encoded
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, format="PNG", compress_level=3)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise place.error(
            "image", f"cannot be decoded ({error}): fetch the file again, or remove the whole group"
        ) from None
    return buffer.getvalue()


def _tsv(path: Path) -> Iterator[dict]:
    limit = csv.field_size_limit(_CELL_LIMIT)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
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


def _parquet(path: Path) -> Iterator[dict]:
    try:
        with pq.ParquetFile(path) as file:
            names = _names(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                for cells in batch.to_pylist():
                    yield dict(zip(names, cells.values(), strict=True))
    except (pa.ArrowException, OSError) as error:
        raise PulseError(
            f"{show(path)} cannot be read as parquet ({error}): it is cut off, or a git-lfs pointer; "
            "fetch it again"
        ) from None


def _names(path: Path, columns: list[str]) -> list[str]:
    names = [c if re.fullmatch("[A-Z]", c) else c.lower() for c in columns]
    missing = [c for c in REQUIRED if c not in names]
    if missing:
        raise PulseError(
            f"{show(path)}: no column {', '.join(missing)} among {', '.join(columns) or 'none'}: this "
            "is no file of MMBench; a TSV (MMBench_DEV_EN.tsv) or parquet of lmms-lab/MMBench is"
        )
    return names


def _row(place: Place, cells: Mapping[str, object], *, parquet: bool) -> MmbenchRow:
    index = _index(place, cells["index"])
    place = Place(place.file, place.number, index=index)
    text = {name: _text(cell, parquet) for name, cell in cells.items() if name != "image"}
    options = _options(place, text)
    if text["answer"] not in LETTERS[: len(options)] or not text["answer"]:
        hint = "; the test split has no public answers, use dev" if not text["answer"] else ""
        raise place.error(
            "answer", f"{text['answer']!r} is none of {', '.join(LETTERS[: len(options)])}{hint}"
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
    found = re.fullmatch(r"(\d+)(?:\.0)?", str(cell).strip())
    if not found or int(found[1]) >= len(LETTERS) * COPY:
        raise place.error("index", f"{cell!r} is no index (a base below {COPY}, plus k * {COPY})")
    return int(found[1])


def _text(cell: object, parquet: bool) -> str:
    """A cell's text exactly as it stands, "" if missing. In a TSV only the empty cell is missing:
    "None", "NA" and "nan" are options like any other.
    """
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return "" if parquet and cell == "nan" else str(cell)


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

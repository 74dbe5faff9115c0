"""A spreadsheet's CSV file, row by row, with everything that is wrong in words: semicolons, tabs,
byte order marks and Excel's habits are read; what cannot be read is named with its row.

Rows have the numbers that the spreadsheet shows: the header is row 1.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from pathlib import Path

_FORMULA = re.compile(r"#(?:N/A|REF!|NAME\?|VALUE!|DIV/0!|NUM!|NULL!)|#+")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"))
_SAVE = "in Excel: Save as, CSV UTF-8 (comma delimited)"
_WORKBOOKS = {
    b"PK\x03\x04": "an Excel or LibreOffice workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
}


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong in a file, and the fix; row 0: the file as a whole."""

    file: str
    row: int
    _: KW_ONLY
    column: str = ""
    what: str

    def __str__(self) -> str:
        row = f", row {self.row}" if self.row else ""
        column = f", column {self.column}" if self.column else ""
        return f"{self.file}{row}{column}: {self.what}"


@dataclass(frozen=True)
class Line:
    """One row: its cells by column, "" where there is none."""

    row: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Sheet:
    """What a file holds. `ignored`: its columns that mean nothing here."""

    file: str
    lines: tuple[Line, ...] = ()
    _: KW_ONLY
    ignored: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_sheet(path: Path, required: Sequence[str], *, optional: Sequence[str]) -> Sheet:
    """The rows of a CSV file that hold anything. Nothing is raised: `problems` says what is wrong;
    rows that could not be read are left out."""
    name = path.name
    try:
        raw = path.read_bytes()
    except OSError as error:
        return _nothing(
            name, what=f"it cannot be read ({error.strerror or error}): {_missing(path)}"
        )
    book = next((what for start, what in _WORKBOOKS.items() if raw.startswith(start)), "")
    if book:
        return _nothing(name, what=f"it is {book} under another name: {_SAVE}")
    text, problem = _text(raw, name)
    if problem:
        return Sheet(name, problems=(problem,))
    delimiter, text = _delimiter(text, (*required, *optional))
    records, problem = _records(text, delimiter, name=name)
    problems = [problem] if problem else []
    if not records:
        return Sheet(name, problems=(*problems, Problem(name, 1, what="there is no header row")))
    heads = [_clean(head).casefold() for head in records[0]]
    if not any(heads):
        return _nothing(
            name, 1, what="it is empty, but the header must stand there: remove empty rows"
        )
    found = _head_problems(name, heads, required=required, known=(*required, *optional))
    if found:
        return Sheet(name, problems=tuple(found))
    lines = []
    for row, record in enumerate(records[1:], start=2):
        cells = [_clean(cell) for cell in record]
        if any(cells):
            problems += _row_problems(name, row, cells=cells, heads=heads)
            values = dict(zip(heads, cells, strict=False))
            lines.append(Line(row, {c: values.get(c, "") for c in (*required, *optional)}))
    if not lines and not problems:
        problems.append(Problem(name, 2, what="there are no rows below the header"))
    ignored = tuple(h for h in heads if h and h not in (*required, *optional))
    return Sheet(name, tuple(lines), ignored=ignored, problems=tuple(problems))


def _nothing(name: str, row: int = 0, *, what: str) -> Sheet:
    return Sheet(name, problems=(Problem(name, row, what=what),))


def _missing(path: Path) -> str:
    """What to do about a file that is not there."""
    books = sorted(p.name for p in path.parent.glob("*") if p.suffix in (".xlsx", ".xls", ".ods"))
    if books:
        return f"save {books[0]} as {path.name} ({_SAVE})"
    tables = sorted(p.name for p in path.parent.glob("*.csv"))
    near = get_close_matches(path.name, tables, n=1) or tables[:1]
    if near:
        return f"there is {near[0]}; call it {path.name}"
    return f"put a table of this name there ({_SAVE})"


def _text(raw: bytes, name: str) -> tuple[str, Problem | None]:
    """The file's text; Excel's "Unicode text" is UTF-16."""
    coding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(coding), None
    except UnicodeDecodeError as error:
        row = raw[: error.start].count(b"\n") + 1
        bad = raw[max(0, error.start - 12) : error.start + 6]
        what = f"near {bad!r} there is a letter that is no UTF-8: {_SAVE}"
        return "", Problem(name, row, what=what)


def _delimiter(text: str, known: Sequence[str]) -> tuple[str, str]:
    """What parts cells: what Excel's line "sep=;" says, else what makes most of the header's columns
    known ones; and the text without that line."""
    said = re.match(r'"?sep=(.)"?\r?\n', text)
    if said:
        return said[1], text[said.end() :]
    head = text.lstrip("\r\n").split("\n", 1)[0]

    def n_known(delimiter: str) -> int:
        cells = next(csv.reader([head], delimiter=delimiter), [])
        return len({_clean(cell).casefold() for cell in cells} & set(known))

    return max(",;\t", key=n_known), text


def _records(text: str, delimiter: str, *, name: str) -> tuple[list[list[str]], Problem | None]:
    records: list[list[str]] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        records.extend(reader)
    except csv.Error as error:
        what = f"its quotes do not match ({error}): a quote inside a cell is written twice"
        return records, Problem(name, len(records) + 1, what=what)
    return records, None


def _head_problems(
    name: str, heads: list[str], *, required: Sequence[str], known: Sequence[str]
) -> list[Problem]:
    problems = []
    there = ", ".join(h for h in heads if h) or "none"
    for head in dict.fromkeys(heads):
        if head and heads.count(head) > 1:
            what = f"{heads.count(head)} columns have this name: keep one"
            problems.append(Problem(name, 1, column=head, what=what))
        near = get_close_matches(head, known, n=1, cutoff=0.7)
        if head and head not in known and near and near[0] not in heads:
            what = f"do you mean {near[0]}? Rename it, since an unknown column is not read"
            problems.append(Problem(name, 1, column=head, what=what))
    said = {near for head in heads for near in get_close_matches(head, known, n=1, cutoff=0.7)}
    for column in required:
        if column not in heads and column not in said:
            what = f"there is no column {column!r}; its columns are {there}"
            problems.append(Problem(name, 1, what=what))
    return problems


def _row_problems(name: str, row: int, *, cells: list[str], heads: list[str]) -> list[Problem]:
    problems = []
    if any(cells[len(heads) :]):
        what = (
            f"{len(cells)} cells, {len(heads)} columns: a cell that holds the sign between cells "
            "must stand in quotes"
        )
        problems.append(Problem(name, row, what=what))
    for head, cell in zip(heads, cells, strict=False):
        if head and _FORMULA.fullmatch(cell):
            what = f"{cell} is what Excel shows for a broken formula or a narrow column: type the value"
            problems.append(Problem(name, row, column=head, what=what))
    return problems


def _clean(cell: str) -> str:
    """A cell without what cannot be seen: hard spaces, zero-width letters, spaces at line ends."""
    shown = unicodedata.normalize("NFC", cell).translate(_INVISIBLE)
    lines = (" ".join(line.split()) for line in shown.splitlines())
    return "\n".join(line for line in lines if line)

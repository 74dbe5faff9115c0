"""Cells of a published table: where one stands, its text, id, JSON, literal or picture, each checked.

What cannot be used is an error that names file, row (counted from 0, as pandas does) and column.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from pulse_lib.data import pictures
from pulse_lib.errors import PulseError
from pulse_lib.files import show


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

    def text(self, column: str, value: object) -> str:
        """A cell's words; "" for None and for the "nan" that pandas writes for a missing value.
        Raises PulseError if it holds something else than text or a number.
        """
        if value is None:
            return ""
        if not isinstance(value, str | int | float):
            raise self.error(column, f"a {type(value).__name__}, expected text: {value!r:.60}")
        text = str(value).strip()
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise self.error(column, f"half a character: {error}") from None
        return "" if text == "nan" else text


def plain_id(row: Row, value: object, *, column: str = "ID") -> str:
    """ "007" for 7, 7.0, "7", "7.0" and "007"; other ids as they are, "" for none."""
    text = row.text(column, value)
    whole = re.fullmatch(r"(\d{1,18})(?:\.0+)?", text)
    return f"{int(whole[1]):03d}" if whole else text


def json_of(row: Row, column: str, *, cell: object) -> object:
    """A cell that is JSON text, or already a value; None if it is empty."""
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise row.error(column, f"broken JSON ({error}): {cell[:60]!r}") from None


def literal_of(row: Row, column: str, *, cell: object) -> object:
    """A cell that is a Python literal as text (never run: ast.literal_eval), or already a value; None
    if it is empty.
    """
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise row.error(
            column, f"no Python literal ({error or type(error).__name__}): {cell[:60]!r}"
        ) from None


def mapping_of(row: Row, column: str, *, value: object) -> Mapping:
    """The value if it is a mapping of names; None is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise row.error(column, f"a {type(value).__name__}, expected a mapping: {value!r:.60}")
    return value


def picture_of(row: Row, column: str, *, cell: object) -> bytes | None:
    """The bytes of a picture as any program shows it (`pictures.plain`); None if there is none. A
    cell holds them, or a struct of bytes and path."""
    if cell is None:
        return None
    encoded = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(encoded, bytes) or not encoded:
        raise row.error(column, "holds no bytes of a picture")
    try:
        return pictures.plain(encoded)
    except ValueError as error:
        raise row.error(column, f"the picture cannot be decoded: {error}") from None

"""Rows of a parquet file, with an error that names file, row and column of what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pulse_lib.data import hub
from pulse_lib.data.cells import Row
from pulse_lib.errors import PulseError
from pulse_lib.files import show

_ROWS_AT_ONCE = 32  # photos are large
Columns = Callable[[Path, list[str]], list[str]]  # the names of a file's columns, or an error


def needing(columns: Sequence[str], what: str) -> Columns:
    """A check for `parquet_rows`: a file without one of these columns is no file of `what`."""

    def check(path: Path, names: list[str]) -> list[str]:
        if missing := [name for name in columns if name not in names]:
            raise PulseError(
                f"{show(path)}: no column {', '.join(missing)}; there are {', '.join(names)}: this "
                f"is no file of {what}"
            )
        return names

    return check


def folder_rows(folder: Path, columns: Columns) -> Iterator[tuple[Row, dict]]:
    """`parquet_rows` of all files of a folder, each row with its place. Raises PulseError if a file
    is missing.
    """
    files = sorted(folder.glob("*.parquet"))
    if missing := hub.missing_shards(files):
        there = ", ".join(sorted(p.name for p in folder.parent.iterdir() if p.is_dir())) or "none"
        raise PulseError(
            f"{show(folder)}: {', '.join(missing)} is missing of {folder.name}/*.parquet (folders "
            f"there: {there}); copy the whole folder of the data set's repository"
        )
    for path in files:
        yield from file_rows(path, columns)


def file_rows(path: Path, columns: Columns) -> Iterator[tuple[Row, dict]]:
    """`parquet_rows`, each with its place."""
    for number, cells in enumerate(parquet_rows(path, columns)):
        yield Row(path, number), cells


def parquet_rows(path: Path, columns: Columns) -> Iterator[dict]:
    """One dict a row, by the names that `columns` makes of the file's own (it raises if some are
    missing). Raises PulseError naming what is broken: the file, or a cell of it.
    """
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            twice = sorted({name for name in there if there.count(name) > 1})
            if twice:
                raise PulseError(
                    f"{show(path)}: column {', '.join(twice)} stands twice: remove one"
                )
            names, start = columns(path, there), 0
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE):
                cells = [_cells(path, batch, column=k, start=start) for k in range(len(there))]
                yield from (dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True))
                start += batch.num_rows
    except (pa.ArrowException, OSError, ValueError) as error:
        raise PulseError(
            f"{show(path)} cannot be read as parquet ({error}): it is cut off, or a git-lfs "
            "pointer; fetch it again"
        ) from None


def _cells(path: Path, batch: pa.RecordBatch, *, column: int, start: int) -> list:
    """One column's values. Parquet holds text as bytes, which need not be text."""
    values = batch.column(column)
    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        pass
    for number, value in enumerate(values, start=start):
        try:
            value.as_py()
        except UnicodeDecodeError as error:
            raise PulseError(
                f"{show(path)}, row {number}, column {batch.schema.names[column]}: {error}: mend "
                "the cell, or write the file again in UTF-8"
            ) from None
    raise AssertionError("one of the values is broken")

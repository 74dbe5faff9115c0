"""PPU-Bench's folder of multiple-choice questions, read once for both of its sources."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from pulse_lib.data import hub
from pulse_lib.data.cells import Row
from pulse_lib.data.parquet import parquet_rows
from pulse_lib.data.ppu.rows import COLUMNS, PpuPerson, read_people
from pulse_lib.errors import PulseError
from pulse_lib.files import show
from pulse_lib.profile import DataSettings
from pulse_lib.progress import track

SETTING = "data.people.path"
FOLDER = "ppu_eval_classification"  # the benchmark's configuration of this name


def load(settings: DataSettings) -> dict[str, PpuPerson]:
    """Everybody by id, in the files' order. Raises PulseError naming file, row and column of what
    cannot be used.
    """
    return _loaded(settings.people.path, settings.people.revision)


def need(settings: DataSettings) -> hub.Need:
    """PPU-Bench's files on the hub, if its path is a hub id."""
    return _need(settings.people.path, settings.people.revision)


def _need(path: str, revision: str) -> hub.Need:
    return hub.Need(path, revision, patterns=(f"{FOLDER}/*.parquet",), setting=SETTING)


@lru_cache(maxsize=2)
def _loaded(path: str, revision: str) -> dict[str, PpuPerson]:
    root = hub.folder_of(_need(path, revision))
    people = read_people(track(_rows(root), f"reading {FOLDER}"))
    if not people:
        raise PulseError(f"{show(root / FOLDER)}: its files hold no rows: fetch them again")
    return {p.person.id: p for p in people}


def _rows(root: Path) -> Iterator[tuple[Row, dict]]:
    files = sorted((root / FOLDER).glob("*.parquet"))
    if missing := hub.missing_shards(files):
        there = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir())) or "none"
        raise PulseError(
            f"{show(root / FOLDER)}: {', '.join(missing)} is missing of {FOLDER}/*.parquet (folders "
            f"there: {there}); copy the whole folder of the data set's repository"
        )
    for path in files:
        for number, cells in enumerate(parquet_rows(path, _columns)):
            yield Row(path, number), cells


def _columns(path: Path, names: list[str]) -> list[str]:
    if missing := [name for name in COLUMNS if name not in names]:
        raise PulseError(
            f"{show(path)}: no column {', '.join(missing)}; there are {', '.join(names)}: this is no "
            "file of PPU-Bench's multiple-choice questions"
        )
    return names

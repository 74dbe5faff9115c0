"""PPU-Bench's folder of multiple-choice questions, read once for both of its sources."""

from __future__ import annotations

from functools import lru_cache

from pulse_lib.data import hub
from pulse_lib.data.parquet import folder_rows, needing
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
    check = needing(COLUMNS, "PPU-Bench's multiple-choice questions")
    people = read_people(track(folder_rows(root / FOLDER, check), f"reading {FOLDER}"))
    if not people:
        raise PulseError(f"{show(root / FOLDER)}: its files hold no rows: fetch them again")
    return {p.person.id: p for p in people}

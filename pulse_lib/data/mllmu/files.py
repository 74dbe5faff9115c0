"""MLLMU-Bench's parquet folders, read and checked.

The dataset repository has one folder a subset, each with `train-*.parquet`: Full_Set (500 fictitious
people), Retain_Set (153 celebrities), ft_Data (texts to fine-tune on), Test_Set (other photos and
wordings of the fictitious people, in two shards), forget_5/10/15, retain_95/90/85. A second
repository of the same authors, with the same folder names, holds the splits that their code trains
on. [Liu 2024, MLLMU-Bench; card of datasets/MLLMMU/MLLMU-Bench]
"""

from __future__ import annotations

from pathlib import Path

from pulse_lib.data import hub
from pulse_lib.data.mllmu.rows import MllmuPerson, read_person
from pulse_lib.data.parquet import folder_rows
from pulse_lib.errors import PulseError
from pulse_lib.files import show
from pulse_lib.progress import track

SETTING = "data.people.path"  # the profile's key, for messages


def load_people(
    folder: str | Path,
    subset: str,
    *,
    revision: str = "",
    repo_type: str = "dataset",
    setting: str = SETTING,
) -> list[MllmuPerson]:
    """The people of one subset, in the file's order.

    folder: a local folder, or a hub id, of which `revision` is fetched (repo_type "dataset", or
    "model" for the repository of training splits). Ids "7", "007" and 7 are the same person. Raises
    PulseError naming file, row and column of what cannot be used.
    """
    root = hub.folder_of(
        hub.Need(
            str(folder),
            revision,
            patterns=(f"{subset}/*.parquet",),
            setting=setting,
            repo_type=repo_type,
        )
    )
    people: list[MllmuPerson] = []
    rows: dict[str, str] = {}
    for row, cells in track(folder_rows(root / subset, _columns), f"reading {subset}"):
        made = read_person(row, cells, subset=subset)
        if made.person.id in rows:
            raise row.error(
                "ID", f"person {made.person.id:.60} stands twice, first in {rows[made.person.id]}"
            )
        rows[made.person.id] = f"{row.file.name}, row {row.number}"
        people.append(made)
    if not people:
        raise PulseError(
            f"{show(root / subset)}: its files hold no rows; copy the folder of the data set's "
            "repository again"
        )
    return people


def _columns(path: Path, names: list[str]) -> list[str]:
    if not {"image", "images"} & set(names) or not (
        {"Classification_Task", "metadata"} & set(names)
    ):
        raise PulseError(
            f"{show(path)}: columns {', '.join(names)}; expected image or images, and "
            "Classification_Task or metadata: this is no file of MLLMU-Bench"
        )
    return names

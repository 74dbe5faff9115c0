"""Questions that are answered by yes or no, for POPE and MME: reading, drawing a sample, the record.

DIFFERS: both benchmarks ask for a single word and read yes or no from it. Here they are questions of two
options, in an order drawn by the study's seed (a model that prefers the letter A gains nothing), asked,
read and scored as all others, likelihoods included. So numbers are not those that are published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

from pulse_lib.data import hub
from pulse_lib.data.cells import Row, picture_of
from pulse_lib.data.parquet import file_rows, needing
from pulse_lib.data.records import ImageStore, Question, general_question
from pulse_lib.errors import PulseError
from pulse_lib.files import local_path, show

YES, NO = "Yes", "No"


def rows_of(
    need: hub.Need, folders: Sequence[str], *, columns: Sequence[str], name: str
) -> Iterator[tuple[Row, dict]]:
    """The rows of a benchmark's split: of a parquet file, or of the first of the patterns `folders`
    that finds files in a folder or in a hub repository. Raises PulseError naming what is missing.
    """
    for path in _files(need, folders, name=name):
        yield from file_rows(path, needing(columns, name))


def is_yes(row: Row, column: str, *, cell: object) -> bool:
    """True for yes, False for no, in any case. Raises PulseError for anything else."""
    said = row.text(column, cell).casefold().rstrip(".")
    if said not in ("yes", "no"):
        raise row.error(column, f"{cell!r:.60} is neither yes nor no")
    return said == "yes"


def question(
    tag: str, text: str, *, yes: bool, image: str, category: str, group: str, seed: int
) -> Question:
    """A general question whose options are yes and no, in an order drawn by seed. group: what counts
    as one unit in intervals.
    """
    options = [YES, NO]
    Random(f"options/{seed}/{tag}").shuffle(options)
    return general_question(
        tag,
        text,
        options=options,
        answer=options.index(YES if yes else NO),
        image=image,
        category=category,
        group=group,
    )


def sample(
    strata: Mapping[str, Sequence[str]], n: int, *, seed: int, name: str, key: str
) -> set[str]:
    """n keys of all strata, each with its share (largest remainders), drawn by seed; n = 0: every
    one. Raises PulseError, with the profile's `key` of n, if there are fewer.
    """
    total = sum(len(keys) for keys in strata.values())
    if not 0 <= n <= total:
        raise PulseError(f"{key} = {n}: {name} has {total} here; give at most so many")
    shares = {s: divmod((n or total) * len(keys), total) for s, keys in strata.items()}
    quota = {s: whole for s, (whole, _) in shares.items()}
    left = (n or total) - sum(quota.values())
    for stratum in sorted(shares, key=lambda s: (-shares[s][1], s))[:left]:
        quota[stratum] += 1
    chosen: set[str] = set()
    for stratum, keys in strata.items():
        drawn = sorted(keys)
        Random(f"{name}/{seed}/{stratum}").shuffle(drawn)
        chosen.update(drawn[: quota[stratum]])
    return chosen


class Pictures:
    """The pictures of a benchmark, each once, however many rows show it."""

    def __init__(self, prefix: str):
        self.prefix = prefix
        self.store = ImageStore()
        self._ids: dict[bytes, str] = {}

    def add(self, row: Row, cell: object) -> str:
        """The id of a row's picture. Raises PulseError if it has none, or a broken one."""
        encoded = cell.get("bytes") if isinstance(cell, Mapping) else cell
        digest = hashlib.sha256(encoded).digest() if isinstance(encoded, bytes) else b""
        if digest not in self._ids:
            picture = picture_of(row, "image", cell=cell)
            if picture is None:
                raise row.error("image", "there is no picture")
            self._ids[digest] = f"{self.prefix}/picture-{len(self._ids) + 1}"
            self.store.encoded[self._ids[digest]] = picture
        return self._ids[digest]

    def give(self, images: ImageStore, questions: Sequence[Question]) -> None:
        """Put what the questions show into `images`."""
        for image_id in dict.fromkeys(q.image for q in questions):
            images.encoded[image_id] = self.store.encoded[image_id]


def _files(need: hub.Need, folders: Sequence[str], *, name: str) -> list[Path]:
    local = local_path(need.path)
    if local.is_file():
        if local.suffix != ".parquet":
            raise PulseError(f"{need.setting} = {need.path!r}: expected a .parquet file of {name}")
        return [local]
    root = hub.folder_of(need)
    for pattern in folders:
        if files := sorted(root.glob(pattern)):
            if missing := hub.missing_shards(files):
                raise PulseError(f"{show(root)}: {', '.join(missing)} is missing: fetch it again")
            return files
    raise PulseError(
        f"{need.setting} = {need.path!r}: no {' and no '.join(folders)} in this folder; give {name}'s "
        "file, or a folder that holds it"
    )

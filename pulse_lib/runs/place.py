"""A run is built beside its place and put there when it is whole; what lies there stays in force
until then, whatever happens.

    target/seed-0              the result in force
    target/seed-0.half         the next one while it is made; of an attempt that failed: log.txt, failed.ipynb
    target/.seed-0.replaced    for the moment of the change; what a crash leaves is tidied at the next start

Nothing is removed but files that a manifest of this kit names, and what lies in a half-made folder
that carries our mark.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pulse_lib.errors import PulseError
from pulse_lib.files import replace_file, show, write_error, write_json

MANIFEST = "manifest.json"
MARK = "half-made.json"
CHECKPOINT = "checkpoint"  # a folder that a stage goes on from, of the very same run
EXECUTED, FAILED, LOG = "notebook.ipynb", "failed.ipynb", "log.txt"
OURS = (MANIFEST, MARK, EXECUTED, FAILED, LOG)  # beside the files that a manifest names


@dataclass
class Building:
    """Where a run is being made: beside its place, then in it."""

    folder: Path


def half_folder(place: Path) -> Path:
    """The folder that a run is made in."""
    return place.with_name(f"{place.name}.half")


def old_folder(place: Path) -> Path:
    """Where the former result is for the moment of the change; no name that a reader would give to a
    copy of their own.
    """
    return place.with_name(f".{place.name}.replaced")


def log_file(place: Path) -> Path:
    """The log of the latest attempt: of one that did not end well, else of the result in force."""
    half = half_folder(place) / LOG
    return half if half.exists() else place / LOG


def check_writable(folder: Path) -> None:
    """Make a folder and write a few KiB into it.

    Raises PulseError naming the folder and the fix if that fails.
    """
    probe = Path(folder) / ".probe"
    replace_file(probe, lambda tmp: tmp.write_bytes(b"\0" * 4096))
    probe.unlink(missing_ok=True)


# --- what may be removed ----------------------------------------------------------------------


def check_replaceable(place: Path, seen: Path) -> None:
    """Raises PulseError naming what lies in a run's place, or where it is made, that is not ours.

    seen: the file that remembers what this kit wrote there, for a result whose manifest is broken.
    """
    half = half_folder(place)
    unmarked = half.is_dir() and not (half / MARK).is_file()
    for folder, names in (
        (place, our_names(place, seen)),
        *([(half, our_names(half, seen))] if unmarked else []),
    ):
        foreign = [p for p in _files(folder) if p not in names and not _hidden(p)]
        if foreign:
            more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
            raise PulseError(
                f"{show(folder / foreign[0])}{more}: this kit did not write that, and a run that "
                f"goes to {show(place)} would replace it: move it away, or choose another folder "
                "with out_dir"
            )


def our_names(folder: Path, seen: Path) -> set[str]:
    """The files in a folder that a manifest of ours names, relative to it, and the manifest; none
    without one.
    """
    manifest, remembered = mapping_in(folder / MANIFEST), mapping_in(seen).get("files")
    listed = manifest.get("files") if "schema_version" in manifest else None
    names = {str(name) for name in listed} if isinstance(listed, dict | list) else set()
    if isinstance(remembered, dict):  # a broken manifest: what has the size that we wrote is ours
        names |= {n for n, was in remembered.items() if was and _size(folder / n) == was[0]}
    return names | set(OURS) if names else set()


def _files(folder: Path) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(where, name))]
        for name in (*files, *links):
            yield Path(os.path.relpath(os.path.join(where, name), folder)).as_posix()


def _hidden(name: str) -> bool:
    """Of the system or an editor (.DS_Store, .ipynb_checkpoints): taken along, never removed."""
    return any(part.startswith(".") for part in name.split("/"))


# --- beside -----------------------------------------------------------------------------------


def open_half(place: Path, seen: Path) -> Path:
    """The folder that a run is made in, there, writable and marked as ours. Raises PulseError as
    `check_replaceable`.
    """
    half = half_folder(place)
    check_replaceable(place, seen)
    if place.exists() and not place.is_dir():
        raise PulseError(f"{show(place)} is a file, not a folder: remove it")
    check_writable(half)
    if not (half / MARK).is_file():
        write_json(half / MARK, {"fingerprint": ""})
    return half


def begin(place: Path, mark: str, *, seen: Path, keep: Callable[[Path], bool]) -> Building:
    """A run in its half-made folder, cleared but for the log, which a runner is writing, and for
    what the very same run (fingerprint `mark`) left to go on from: its checkpoint, and what `keep`
    says.
    """
    half = open_half(place, seen)
    try:
        (half / MANIFEST).unlink(missing_ok=True)  # first: from here on it is no result
        same = mapping_in(half / MARK).get("fingerprint") == mark
        for path in half.iterdir():
            kept = same and (path.name == CHECKPOINT or keep(path))
            if not kept and path.name not in (LOG, MARK):
                _remove(path)
        write_json(half / MARK, {"fingerprint": mark})
    except OSError as error:
        raise write_error(error, half) from None
    return Building(half)


# --- into its place ---------------------------------------------------------------------------


def put_in_place(place: Path, names: Iterable[str], *, seen: Path) -> None:
    """The half-made folder, which is whole now, takes the place; what lay there is removed.

    names: the files of the result; nothing else goes along but manifest, log and executed notebook.
    """
    half, old, kept = half_folder(place), old_folder(place), {*names, *OURS}
    settle(place, seen)
    check_replaceable(place, seen)
    try:
        for name in list(_files(half)):
            if name not in kept:
                (half / name).unlink()
        _remove_empty_folders(half)
        if place.exists():
            os.rename(place, old)
        try:
            os.rename(half, place)
        except OSError:
            if old.exists():
                os.rename(old, place)
            raise
        _flush(place.parent)
        settle(place, seen)
    except OSError as error:
        raise write_error(error, place) from None


def settle(place: Path, seen: Path) -> None:
    """Ends a change that a crash cut off. With the run's lock held.

    With the place empty, the new result takes it if it is there, else the old one goes back.
    """
    old, half = old_folder(place), half_folder(place)
    if old.is_dir() and not place.exists():
        os.rename(half if (half / MANIFEST).is_file() else old, place)
    if old.is_symlink():  # results on another disk: what it points to is left alone
        old.unlink()
    elif old.is_dir():
        names = our_names(old, seen)
        for name in sorted(_files(old), key=lambda name: name == MANIFEST):  # it names the others
            if name in names:
                (old / name).unlink()
            else:  # somebody put it there: it stays where it was
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                os.rename(old / name, _free(place / name))
        _remove_empty_folders(old)
        old.rmdir()
    if (place / MANIFEST).is_file():
        (place / MARK).unlink(missing_ok=True)


# --- small things -----------------------------------------------------------------------------


def _free(path: Path) -> Path:
    n, free = 1, path
    while free.exists():
        n, free = n + 1, path.with_name(f"{path.stem}-{n}{path.suffix}")
    return free


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _remove_empty_folders(folder: Path) -> None:
    for where, folders, _ in os.walk(folder, topdown=False):
        for name in folders:
            path = Path(where) / name
            if not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()


def _flush(folder: Path) -> None:
    """A rename on disk, where the file system can do that for a folder."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(number)
    except OSError:
        pass
    finally:
        os.close(number)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def mapping_in(path: Path) -> dict:
    """What a JSON file holds; empty if it is missing, broken or no mapping."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

"""The manifest of a finished run, with its files compared to what it says.

A file is read once: the checksum found is kept with its size, time and number on disk, so that
looking at a whole study again costs no reading. What was changed has another time or size.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from pulse_lib.errors import PulseError
from pulse_lib.files import show, write_json
from pulse_lib.runs.kinds import KINDS
from pulse_lib.runs.place import MANIFEST, half_folder

SCHEMA_VERSION = 2  # 1: settings by whole section, before each kind named its fields
_IDENTITY = ("parameters", "profile", "inputs")


def require(
    folder: Path, notebook: str, *, checksums: bool = False, seen: Path | None = None
) -> dict:
    """The manifest of a complete run. Raises PulseError: missing, incomplete, or a file that is not
    as the manifest says.

    Sizes are always compared. checksums=True reads the files as well; with `seen`, a file that keeps
    checksums found before, those that were touched since are read.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir() or not any(folder.iterdir()):
        half = half_folder(folder)
        tried = f" (an attempt at it is in {show(half)})" if half.is_dir() else ""
        raise PulseError(f"{show(folder)} is missing{tried}: run {notebook} first")
    if not path.is_file():
        raise PulseError(
            f"{show(folder)} is incomplete (no {MANIFEST}: interrupted or still running): "
            f"run {notebook} again"
        )
    manifest, known = _read(path, notebook), _known(seen)
    reading, trusted = checksums or seen is not None, {} if checksums else known
    found, wrong = {}, ""
    for name, entry in manifest["files"].items():
        stamp = _stamp(folder, name)
        if not stamp:
            wrong = f"{show(folder / name)} is missing"
        elif stamp[0] != entry["bytes"]:
            wrong = f"{show(folder / name)} is truncated ({stamp[0]} of {entry['bytes']} bytes)"
        elif reading:
            was = trusted.get(name, [])
            found[name] = was if was[:3] == stamp else [*stamp, _checksum(folder / name)]
            if found[name][3] != entry["sha256"]:
                wrong = f"{show(folder / name)} was changed after it was written (checksum)"
        if wrong:
            break
    if seen is not None and found != known:
        remember(seen, known | found)
    if wrong:
        raise PulseError(f"{wrong}: run {notebook} again")
    return manifest


def remember_all(folder: Path, files: Mapping[str, Mapping], *, seen: Path) -> None:
    """Keep what a manifest that was just written says of its files, so that nobody reads them again."""
    remember(seen, {name: [*_stamp(folder, name), e["sha256"]] for name, e in files.items()})


def remember(seen: Path, found: Mapping[str, list]) -> None:
    """Keep checksums that were found: name -> size, time, number on disk, sha256. Where the folder
    cannot be written, files are read again the next time.
    """
    try:
        write_json(seen, {"files": dict(found)})
    except PulseError:
        pass


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(folder: Path, name: str) -> list[int]:
    """Size, time and number on disk of a file; nothing if it is not there."""
    try:
        at = os.stat(os.path.join(folder, name))
    except OSError:
        return []
    return [at.st_size, at.st_mtime_ns, at.st_ino] if stat.S_ISREG(at.st_mode) else []


def _checksum(path: Path) -> str:
    try:
        return file_hash(path)
    except OSError:  # a broken sector, or no permission
        return "unreadable"


def _known(seen: Path | None) -> dict[str, list]:
    try:
        found = json.loads(seen.read_text(encoding="utf-8"))["files"] if seen else {}
        whole = all(isinstance(was, list) and len(was) == 4 for was in found.values())
        return found if whole else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _read(path: Path, notebook: str) -> dict:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
        if version == SCHEMA_VERSION and not _well_formed(manifest):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PulseError(
            f"{show(path)} is half-written, so the run is incomplete: run {notebook} again"
        ) from None
    if version != SCHEMA_VERSION:
        raise PulseError(
            f"{show(path)} was written by another version of this library (layout {version!r}, this "
            f"one reads {SCHEMA_VERSION}): run {notebook} again"
        )
    return manifest


def _well_formed(manifest: Mapping) -> bool:
    """Whether a manifest has what its readers take from it, each of its kind."""
    identity, files = manifest["identity"], manifest["files"]
    return (
        manifest["kind"] in KINDS
        and all(isinstance(manifest[key], str) for key in ("notebook", "fingerprint", "result"))
        and all(isinstance(manifest[key], dict) for key in ("parameters", "profile", "library"))
        and isinstance(manifest["inputs"], dict)
        and set(KINDS[manifest["kind"]].axes) <= set(manifest["parameters"])
        and all(isinstance(identity[key], dict) for key in _IDENTITY)
        and isinstance(identity["code"], str)
        and all(_inside(name) and {"bytes", "sha256"} <= set(e) for name, e in files.items())
        and all(isinstance(manifest.get(key, ""), str) for key in ("run_id", "finished"))
        and isinstance(manifest.get("seconds", 0.0), int | float)
    )


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts

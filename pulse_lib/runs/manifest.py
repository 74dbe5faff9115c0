"""Run folders: what makes one complete, stale or resumable, and how files get into them whole.

A run is a folder of result files and a `manifest.json`, which is written last and by rename: a
folder is complete if and only if its manifest can be read and names files that are there in full
size. A run is stale when what it was made from (parameters, the profile's fields that its kind
depends on, code cells of its notebook, inputs, embedded model) differs from now. Modules of the
library that changed since are named; whether that makes it stale, the reader decides.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pulse_lib.data.source import commits
from pulse_lib.errors import PulseError
from pulse_lib.files import replace_file, show, write_error, write_json
from pulse_lib.profile import Profile, overridden
from pulse_lib.profile import profile_of as profile_from
from pulse_lib.runs.identity import (
    circumstances,
    differing,
    explain,
    file_hash,
    fingerprint,
    identity,
    plain,
    result_hash,
)
from pulse_lib.runs.kinds import (
    KINDS,
    Kind,
    RunSpec,
    fields,
    flat_settings,
    notebook_of,
    run_folders,
    run_name,
)
from pulse_lib.runs.library import changed_files, library_hash, library_of

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint"  # a folder: an unfinished training, which says itself whose it is
SCHEMA_VERSION = 2  # 1: settings by whole section, before each kind named its fields


@dataclass(frozen=True)
class Started:
    """A run in progress, as `start` returns it and `finish` takes it."""

    spec: RunSpec
    profile: Profile
    _: KW_ONLY
    identity: dict
    fingerprint: str
    inputs: dict[str, dict]  # name of an input -> its manifest
    clock: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where the result files go."""
        return self.spec.folder

    def input(self, kind: Kind) -> Path:
        """The folder of the run of that kind that this one reads."""
        return next(
            p for p in self.spec.inputs if notebook_of(p, self.spec.out) == KINDS[kind].notebook
        )


@dataclass(frozen=True)
class State:
    """Where a run stands. `why` explains; `library`: files of the library that changed since it was
    made, which alone make no run stale; `without_effect`: settings of the profile that changed since
    and are overridden for this run, in words.
    """

    state: Literal["done", "stale", "missing"]
    why: str = ""
    _: KW_ONLY
    library: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()
    manifest: dict = field(default_factory=dict)


# --- start, finish, require, status -----------------------------------------------------------


def start(spec: RunSpec, profile: Profile) -> Started:
    """Begin a run: inputs checked to the byte, the folder there and writable, results of an older
    run gone.

    The rounds of a sequential run stay if they are whole and belong to this very run (same
    fingerprint), so that it resumes. Raises PulseError naming the missing or broken input, or the
    folder that cannot be written.
    """
    if KINDS[spec.kind].inputs is None:
        spec = reading_all(spec, profile)
    manifests = {
        run_name(path, spec.out): require(path, notebook_of(path, spec.out), checksums=True)
        for path in spec.inputs
    }
    found = identity(spec, profile, manifests=manifests)
    started = Started(
        spec, profile, identity=found, fingerprint=fingerprint(found), inputs=manifests
    )
    check_writable(spec.folder)
    try:
        _clear(spec, started.fingerprint)
    except OSError as error:
        raise write_error(error, spec.folder) from None
    return started


def _clear(spec: RunSpec, mark: str) -> None:
    (spec.folder / MANIFEST).unlink(missing_ok=True)  # first: from here on the folder is no result
    for path in spec.folder.iterdir():
        if path.name.startswith("round-") and _round(path, mark):
            continue
        if path.name not in ("log.txt", CHECKPOINT):  # the batch runner is writing to the log
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _round(folder: Path, mark: str) -> dict | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"].items()
        whole = all(file_hash(folder / name) == entry["sha256"] for name, entry in files)
        return manifest if whole and manifest["fingerprint"] == mark else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, half-written or cut off: the round is done again


def finish(started: Started, files: Iterable[str] = (), *, extra: Mapping | None = None) -> dict:
    """The manifest, written last: the run is complete from here on. `files` come on top of the
    files that its kind declares.

    Raises PulseError if a declared file is not there: a run does not finish without its results.
    """
    spec, folder = started.spec, started.spec.folder
    listed = _list_files(folder, [*spec.files, *files])
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": spec.kind,
        "notebook": spec.notebook,
        "parameters": dict(spec.parameters),
        "profile": started.profile.as_dict(),
        "inputs": started.identity["inputs"],
        "files": listed,
        "identity": started.identity,
        "fingerprint": started.fingerprint,
        "result": result_hash(started.fingerprint, listed),
        "library": library_of(spec.kind),
        "library_hash": library_hash(),
        "commits": commits(started.profile),
        "run_id": os.environ.get("PULSE_RUN_ID", ""),
        **circumstances(),
        "seconds": round(time.monotonic() - started.clock, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **(extra or {}),
    }
    write_json(folder / MANIFEST, manifest)
    shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
    return manifest


def finish_round(
    started: Started, number: int, *, files: Iterable[str], extra: Mapping | None = None
) -> dict:
    """The manifest of round-<number> of a sequential run, written last: a rerun goes on after it.

    `files` lie in its folder.
    """
    folder = started.folder / f"round-{number}"
    manifest = {
        "fingerprint": started.fingerprint,
        "round": number,
        "files": _list_files(folder, files),
        **(extra or {}),
    }
    write_json(folder / MANIFEST, manifest)
    return manifest


def finished_round(started: Started, number: int) -> dict | None:
    """The manifest of round-<number> if that round is whole and belongs to this very run, else
    None.
    """
    return _round(started.folder / f"round-{number}", started.fingerprint)


def require(folder: Path, notebook: str, *, checksums: bool = False) -> dict:
    """The manifest of a complete run. Raises PulseError: missing, incomplete, or a file that is not
    as the manifest says.

    Sizes are always compared; checksums=True reads the files as well.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir() or not any(folder.iterdir()):
        raise PulseError(f"{show(folder)} is missing: run {notebook} first")
    if not path.is_file():
        raise PulseError(
            f"{show(folder)} is incomplete (no {MANIFEST}: interrupted or still running): "
            f"run {notebook} again"
        )
    try:
        manifest = json.loads(path.read_text())
        version = manifest["schema_version"]
        if version == SCHEMA_VERSION:
            files = manifest["files"]
            manifest["result"], manifest["identity"]["profile"], manifest["fingerprint"]
            manifest["library"]
    except (OSError, ValueError, KeyError, TypeError):
        raise PulseError(
            f"{show(path)} is half-written, so the run is incomplete: run {notebook} again"
        ) from None
    if version != SCHEMA_VERSION:
        raise PulseError(
            f"{show(path)} was written by another version of this library (layout {version}, this "
            f"one reads {SCHEMA_VERSION}): run {notebook} again"
        )
    for name, entry in files.items():
        file = folder / name
        if not file.is_file():
            raise PulseError(f"{show(file)} is missing: run {notebook} again")
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise PulseError(
                f"{show(file)} is truncated ({size} of {entry['bytes']} bytes): "
                f"run {notebook} again"
            )
        if checksums and file_hash(file) != entry["sha256"]:
            raise PulseError(
                f"{show(file)} was changed after it was written (checksum): run {notebook} again"
            )
    return manifest


def profile_of(manifest: Mapping) -> Profile:
    """The profile that a run was made with, from its manifest; a setting that the manifest does not
    have gets its default. Raises PulseError if it has one that this version does not know.
    """
    where = f"run {manifest['notebook']} again: its profile is that of another version of pulse_lib"
    return profile_from(manifest["profile"], where)


def study_of(run: Path, manifest: Mapping) -> Path:
    """The study's folder that a run lies in."""
    depth = KINDS[manifest["kind"]].folder.count("/")
    return Path(run).parents[depth]


def status(spec: RunSpec, profile: Profile) -> State:
    """Whether a run is done, stale (and why) or missing.

    Raises PulseError only if the notebook itself cannot be read.
    """
    if KINDS[spec.kind].inputs is None and not spec.inputs:
        spec = reading_all(spec, profile)
    try:
        manifest = require(spec.folder, spec.notebook)
    except PulseError as error:
        return State("stale" if (spec.folder / MANIFEST).is_file() else "missing", str(error))
    manifests = {}
    for path in spec.inputs:
        try:
            manifests[run_name(path, spec.out)] = require(path, notebook_of(path, spec.out))
        except PulseError as error:
            return State("stale", f"input: {error}", manifest=manifest)
    now = identity(spec, profile, manifests=manifests)
    reasons = explain(manifest["identity"], now, notebook=spec.notebook)
    library = changed_files(manifest["library"], library_of(spec.kind))
    return State(
        "stale" if reasons else "done",
        "; ".join(reasons),
        library=library,
        without_effect=_without_effect(spec, profile, manifest=manifest),
        manifest=manifest,
    )


def _without_effect(spec: RunSpec, profile: Profile, *, manifest: Mapping) -> tuple[str, ...]:
    """Settings that the reader changed and that `tuned` overrides for this run, with the line to
    edit.
    """
    if "method" not in spec.parameters:
        return ()
    scenario = str(spec.parameters.get("scenario", "finetuned"))
    who = {key: str(spec.parameters.get(key, "")) for key in ("method", "strategy")}
    made, said = flat_settings(manifest["profile"]), []
    for found in overridden(profile, scenario, **who):
        if made.get(found.key) != found.value:
            said.append(
                f"{found.key} was {made.get(found.key)!r}, is {found.value!r}, without effect here: "
                f"{found.tuned_key} = {found.tuned!r} overrides it "
                f"(edit {show(found.file)}, line {found.line})"
            )
    return tuple(said)


def check_writable(folder: Path) -> None:
    """Make a folder and write a few KiB into it.

    Raises PulseError naming the folder and the fix if that fails.
    """
    probe = Path(folder) / ".probe"
    replace_file(probe, lambda tmp: tmp.write_bytes(b"\0" * 4096))
    probe.unlink(missing_ok=True)


# --- what is in a study's folder --------------------------------------------------------------


def reading_all(spec: RunSpec, profile: Profile, *, planned: Iterable[Path] = ()) -> RunSpec:
    """The run of a kind that reads every complete run of this profile's present settings, with
    those for its inputs, and those `planned`.
    """
    there = [folder for folder, why in found_runs(spec.out, profile) if not why]
    return dataclasses.replace(spec, inputs=tuple(sorted({*there, *planned})))


def found_runs(out: Path, profile: Profile) -> list[tuple[Path, str]]:
    """All run folders in a study's folder but the analysis, each with the reason why it cannot be
    analysed ("" if it can).

    A run whose notebook was edited since counts as well: it is stale, yet a comparison with it is
    not unfair.
    """
    found = []
    for kind, folder in run_folders(out):
        try:
            manifest = require(folder, KINDS[kind].notebook)
            made = manifest["identity"]["profile"]
            now = plain(fields(kind, manifest["parameters"], profile=profile))
        except PulseError as error:
            found.append((folder, str(error)))
            continue
        other = differing(made, now, word="profile")
        found.append((folder, f"made with other settings ({'; '.join(other)})" if other else ""))
    return found


# --- small things -----------------------------------------------------------------------------


def _list_files(folder: Path, names: Iterable[str]) -> dict[str, dict]:
    found = {}
    for name in dict.fromkeys(names):
        path = folder / name
        members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not members or not members[0].is_file():
            raise PulseError(
                f"{show(path)} was not written, so the run cannot be finished: see the cells above"
            )
        for member in members:
            found[member.relative_to(folder).as_posix()] = {
                "bytes": member.stat().st_size,
                "sha256": file_hash(member),
            }
    return found

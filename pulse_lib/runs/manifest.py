"""Run folders: what makes one complete, stale or resumable, and how files get into them whole.

A run is a folder of result files and a `manifest.json`, which is written last and by rename: a
folder is complete if and only if its manifest can be read and names files that are there, as they
were written, and of a run made in batch the executed notebook is there. It is made beside its place
and put there whole (place.py). A run is stale when what it was made from (parameters, the profile's fields that its kind
depends on, code cells of its notebook, inputs, embedded model) differs from now. Modules of the
library that changed since are named; whether that makes it stale, the reader decides.
"""

from __future__ import annotations

import dataclasses
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
from pulse_lib.files import show, write_json
from pulse_lib.profile import Profile, overridden
from pulse_lib.profile import profile_of as profile_from
from pulse_lib.runs import locks, place
from pulse_lib.runs.checked import SCHEMA_VERSION, file_hash, remember_all, require
from pulse_lib.runs.identity import (
    circumstances,
    differing,
    explain,
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
from pulse_lib.runs.owner import check_profile, remember_profile
from pulse_lib.runs.place import EXECUTED, MANIFEST, OURS, Building
from pulse_lib.runs.place import check_writable as check_writable


@dataclass(frozen=True)
class Started:
    """A run in progress, as `start` returns it and `finish` takes it."""

    spec: RunSpec
    profile: Profile
    _: KW_ONLY
    identity: dict
    fingerprint: str
    inputs: dict[str, dict]  # name of an input -> its manifest
    building: Building | None = None
    clock: float = field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where the result files go: beside the run's place until it is finished, then that."""
        return self.building.folder if self.building else self.spec.folder

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
    """Begin a run: inputs checked to the byte, its lock held, a folder beside its place to write to.

    What lies in its place stays in force until `finish`; a whole result there is named, with what
    hangs on it. The rounds of a sequential run are taken over if they are whole and belong to this
    very run (same fingerprint), so that it resumes. Raises PulseError before anything is touched: a
    missing or broken input, another profile's folder, files there that are not ours, a folder that
    cannot be written, or who else is writing it.
    """
    if KINDS[spec.kind].inputs is None:
        spec = reading_all(spec, profile)
    check_profile(spec.out, profile)
    seen = checked_file(spec.folder, spec.out)
    place.check_replaceable(spec.folder, seen)
    manifests = {
        run_name(path, spec.out): require(
            path, notebook_of(path, spec.out), checksums=True, seen=checked_file(path, spec.out)
        )
        for path in spec.inputs
    }
    found = identity(spec, profile, manifests=manifests)
    mark = fingerprint(found)
    locks.hold(spec)
    try:
        place.settle(spec.folder, seen)
        _tell_what_is_replaced(spec)
        building = place.begin(
            spec.folder, mark, seen=seen, keep=lambda path: _round(path, mark) is not None
        )
        _take_over_rounds(spec.folder, building.folder, mark=mark)
        remember_profile(spec.out, profile)
    except BaseException:
        locks.let_go(spec)
        raise
    return Started(
        spec, profile, identity=found, fingerprint=mark, inputs=manifests, building=building
    )


def checked_file(folder: Path, out: Path) -> Path:
    """Where the checksums found in a run's folder are kept."""
    return locks.logs_folder(out) / f"{locks.slug(run_name(folder, out))}.checked"


def _tell_what_is_replaced(spec: RunSpec) -> None:
    """By hand only: a study has said it before."""
    if os.environ.get("PULSE_FRONT"):
        return
    try:
        made = require(spec.folder, spec.notebook)["finished"]
    except (PulseError, KeyError):
        return
    readers = reading(spec)
    more = f" and {len(readers) - 3} more" if len(readers) > 3 else ""
    hangs = "No run has read it."
    if readers:
        n = "1 run has" if len(readers) == 1 else f"{len(readers)} runs have"
        hangs = f"{n} read it, stale if this one differs: {', '.join(readers[:3])}{more}."
    print(
        f"{show(spec.folder)} holds a whole result of {made}. It stays in force until this run is "
        f"finished, which then replaces it. {hangs}"
    )


def reading(spec: RunSpec) -> list[str]:
    """Names of the complete runs in the study's folder that were made from this one."""
    folders = [folder for _, folder in run_folders(spec.out)]
    folders += [spec.out / row.folder for row in KINDS.values() if row.inputs is None]
    found = []
    for folder in folders:
        inputs = place.mapping_in(folder / MANIFEST).get("inputs")
        if isinstance(inputs, dict) and spec.name in inputs:
            found.append(run_name(folder, spec.out))
    return found


def _take_over_rounds(folder: Path, half: Path, *, mark: str) -> None:
    """Rounds of a result that is made again from the very same things, say since a file broke."""
    for path in sorted(folder.glob("round-*")):
        if _round(path, mark) and not (half / path.name).exists():
            shutil.copytree(path, half / path.name)


def _round(folder: Path, mark: str) -> dict | None:
    try:
        manifest = place.mapping_in(folder / MANIFEST)
        files = manifest["files"].items()
        whole = all(file_hash(folder / name) == entry["sha256"] for name, entry in files)
        return manifest if whole and manifest["fingerprint"] == mark else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # not there, half-written or cut off: the round is done again


def finish(started: Started, files: Iterable[str] = (), *, extra: Mapping | None = None) -> dict:
    """The manifest, written last, and the run put in its place: complete from here on. `files` come
    on top of the files that its kind declares. In batch the runner puts it in place, with the
    executed notebook.

    Raises PulseError if a declared file is not there (a run does not finish without its results), or
    an input was made anew meanwhile.
    """
    spec, folder = started.spec, started.folder
    declared = _list_files(folder, [*spec.files, *files])
    _check_inputs(started)
    listed = declared | _list_files(folder, _others(folder, declared))
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
        "result": result_hash(started.fingerprint, declared),
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
    if not locks.in_runners_hands(spec):
        if folder != spec.folder and started.building:
            complete(spec, manifest)
            started.building.folder = spec.folder
        locks.let_go(spec)
    return manifest


def complete(spec: RunSpec, manifest: Mapping) -> None:
    """Put a run with its manifest in its place. With its lock held."""
    seen = checked_file(spec.folder, spec.out)
    place.put_in_place(spec.folder, manifest["files"], seen=seen)
    remember_all(spec.folder, manifest["files"], seen=seen)


def _check_inputs(started: Started) -> None:
    for path in started.spec.inputs if started.building else ():
        name, notebook = run_name(path, started.spec.out), notebook_of(path, started.spec.out)
        if require(path, notebook)["result"] != started.inputs[name]["result"]:
            raise PulseError(
                f"{show(path)} was made anew while this run was reading it: run "
                f"{started.spec.notebook} again"
            )


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

    Raises PulseError only if the notebook itself cannot be read, or the folder is another profile's.
    """
    check_profile(spec.out, profile)
    if KINDS[spec.kind].inputs is None and not spec.inputs:
        spec = reading_all(spec, profile)
    _settle(spec)
    try:
        manifest = require(spec.folder, spec.notebook, seen=checked_file(spec.folder, spec.out))
    except PulseError as error:
        return State("stale" if (spec.folder / MANIFEST).is_file() else "missing", str(error))
    if manifest.get("run_id") and not (spec.folder / EXECUTED).is_file():
        why = f"{show(spec.folder / EXECUTED)}, the executed notebook, is missing"
        return State("stale", why, manifest=manifest)
    manifests = {}
    for path in spec.inputs:
        try:
            manifests[run_name(path, spec.out)] = require(
                path, notebook_of(path, spec.out), seen=checked_file(path, spec.out)
            )
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


def _settle(spec: RunSpec) -> None:
    """What a crash in the moment of the change left is put right, unless somebody is at it."""
    if place.old_folder(spec.folder).exists():
        try:
            with locks.alone(spec, patience=0.0):
                place.settle(spec.folder, checked_file(spec.folder, spec.out))
        except (PulseError, OSError):
            pass


# --- what is in a study's folder --------------------------------------------------------------


def reading_all(spec: RunSpec, profile: Profile, *, planned: Iterable[Path] = ()) -> RunSpec:
    """The run of a kind that reads every complete run of this profile's present settings, with
    those for its inputs, and those `planned`.
    """
    there = [folder for folder, why in found_runs(spec.out, profile) if not why]
    return dataclasses.replace(spec, inputs=tuple(sorted({*there, *planned})))


def found_runs(out: Path, profile: Profile) -> list[tuple[Path, str]]:
    """All run folders in a study's folder that the analysis reads, each with the reason why it
    cannot be analysed ("" if it can).

    A run whose notebook was edited since counts as well: it is stale, yet a comparison with it is
    not unfair.
    """
    return [
        (folder, unfit(folder, kind, profile=profile, out=out))
        for kind, folder in run_folders(out)
        if KINDS[kind].analysed
    ]


def unfit(folder: Path, kind: Kind, *, profile: Profile, out: Path) -> str:
    """Why the run in a folder cannot stand beside the others of a study that are of this profile's
    present settings, and of the inputs that are there; "" if it can."""
    try:
        manifest = require(folder, KINDS[kind].notebook, seen=checked_file(folder, out))
        made = manifest["identity"]["profile"]
        now = plain(fields(kind, manifest["parameters"], profile=profile))
        inputs = dict(manifest["inputs"])
    except PulseError as error:
        return str(error)
    except (KeyError, TypeError, ValueError):  # of another version, or written by somebody else
        return f"{show(folder / MANIFEST)} does not fit this version"
    if other := differing(made, now, word="profile"):
        return f"made with other settings ({'; '.join(other)})"
    for name, result in inputs.items():
        path = out / name
        try:
            there = require(path, notebook_of(path, out), seen=checked_file(path, out))["result"]
        except PulseError:  # gone or damaged: said of itself, and what was read from it stands
            continue
        if there != result:
            return f"{name}, which it read, is another since"
    return ""


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


def _others(folder: Path, declared: Mapping) -> list[str]:
    """What else a notebook left for a reader: listed too, so that it counts as ours."""
    kept = {place.CHECKPOINT, *OURS}
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path.as_posix()
        for path in paths
        if path.as_posix() not in declared
        and path.parts[0] not in kept
        and not any(part.startswith(".") for part in path.parts)
    ]

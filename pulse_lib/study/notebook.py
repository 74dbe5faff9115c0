"""Running one notebook in batch, strictly: parameters checked before anything runs, and done only
if its manifest says so.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from pulse_lib.data import source as data_source
from pulse_lib.errors import PulseError
from pulse_lib.files import PACKAGE, from_here, show, write_error
from pulse_lib.profile import check_type, load_profile
from pulse_lib.runs.kinds import (
    ALIASES,
    RunSpec,
    kind_of,
    notebooks_folder,
    out_dir_from_here,
    spec_of,
)
from pulse_lib.runs.locks import Lock, alone, logs_folder, slug
from pulse_lib.runs.manifest import checked_file, complete, require
from pulse_lib.runs.owner import check_profile
from pulse_lib.runs.place import (
    EXECUTED,
    FAILED,
    LOG,
    MANIFEST,
    check_replaceable,
    half_folder,
    open_half,
    settle,
)
from pulse_lib.study.copies import carry_pictures
from pulse_lib.study.kernels import kernel_manager

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}


def find_notebook(name: str) -> Path:
    """The file of a notebook given by its number or full name.

    Raises PulseError listing what there is.
    """
    folder = notebooks_folder()
    stem = Path(name).name.removesuffix(".ipynb")
    there = sorted(folder.glob("[0-9]*.ipynb"))
    matches = [p for p in there if stem and (p.stem == stem or p.stem.startswith(stem + "_"))]
    if len(matches) != 1:
        listed = ", ".join(p.stem for p in there) or "none"
        raise PulseError(
            f"notebook {name!r}: there is no such one in {show(folder)}. There are: {listed}"
        )
    return matches[0]


def _papermill():
    # jsonschema builds a grammar of international web addresses when it is imported, which no
    # notebook needs and which would cost every run of a study two seconds; without that package it
    # does without.
    skipped = "rfc3987_syntax"
    if skipped in sys.modules:
        import papermill

        return papermill
    sys.modules[skipped] = None  # ty: ignore[invalid-assignment]  (Python's own mark for: not there)
    try:
        import papermill
    finally:
        del sys.modules[skipped]
    return papermill


def notebook_parameters(path: Path) -> dict[str, dict]:
    """The parameters of a notebook: name -> {"type", "default", "help"}. Raises PulseError if its
    parameters cell is not sound.
    """
    papermill = _papermill()
    try:
        inspected = papermill.inspect_notebook(_literal(path))
    except Exception as error:  # nbformat raises several kinds for a broken file
        raise PulseError(
            f"{show(path)} cannot be read as a notebook ({error}): restore it from git"
        ) from None
    found = {}
    for name, entry in inspected.items():
        kind = entry["inferred_type_name"]
        if kind not in TYPES:
            raise PulseError(
                f"{show(path)}: parameter {name} needs one of the types {', '.join(TYPES)}, "
                f"found {kind}"
            )
        found[name] = {
            "type": TYPES[kind],
            "default": ast.literal_eval(entry["default"]),
            "help": entry["help"],
        }
    return found


def convert(path: Path, texts: Mapping[str, str]) -> dict:
    """Typed parameters from the command line's texts, each by its annotation in the notebook.

    Raises PulseError.
    """
    known = notebook_parameters(path)
    texts = {ALIASES.get(name, name): text for name, text in texts.items()}
    _check_names(path, texts, known=known)
    values = {}
    for name, text in texts.items():
        kind = known[name]["type"]
        try:
            if kind is bool:
                values[name] = {"true": True, "false": False}[text.lower()]
            else:
                values[name] = (
                    text
                    if kind is str
                    else kind(text)
                    if kind in (int, float)
                    else ast.literal_eval(text)
                )
        except (ValueError, KeyError, SyntaxError):
            hint = "; write true or false" if kind is bool else ""
            raise PulseError(
                f"{path.stem}: parameter {name} = {text!r} is not of type {kind.__name__}{hint}"
            ) from None
    return values


def _check_names(path: Path, given: Mapping, *, known: Mapping) -> None:
    for name in given:
        if name not in known:
            raise PulseError(
                f"{path.stem}: unknown parameter {name!r}; "
                f"its parameters are {', '.join(known) or 'none'}"
            )


def resolve(path: Path, given: Mapping[str, object]) -> tuple[RunSpec, dict]:
    """The run that a notebook would make, and all its parameters.

    Raises PulseError: unknown name, wrong type, unknown value.
    """
    known = notebook_parameters(path)
    _check_names(path, given, known=known)
    for name, value in given.items():
        check_type(known[name]["type"], value, where=f"{path.stem}: parameter {name}")
    parameters = {name: entry["default"] for name, entry in known.items()} | dict(given)
    if "profile" in parameters:
        data_source.check_there(load_profile(str(parameters["profile"])))
    return spec_of(kind_of(path.stem), parameters), parameters


def run_notebook(
    name: str,
    parameters: Mapping[str, object] | None = None,
    *,
    threads: int | None = None,
    echo: bool = False,
) -> dict:
    """The manifest of the run that a notebook made, executed in a fresh kernel of this Python from
    the repository root.

    The result and the executed notebook take the run's place together, at the end; what is there
    stays in force until then, and log and notebook of an attempt that fails lie beside it.

    threads: OMP_NUM_THREADS of the kernel (None: as it is here). echo: its output also goes to the
    terminal, beside log.txt. Raises PulseError naming the log if a cell fails, the kernel dies, or
    no manifest was written by this very run.
    """
    path = find_notebook(name)
    spec, values = resolve(path, parameters or {})
    seen = checked_file(spec.folder, spec.out)
    check_profile(spec.out, load_profile(str(values["profile"])))
    check_replaceable(spec.folder, seen)  # before the lock makes a folder there
    with alone(spec) as lock:
        settle(spec.folder, seen)
        half = open_half(spec.folder, seen)
        with open(half / LOG, "w", encoding="utf-8", buffering=1) as log:
            tee = _Tee(log, sys.stderr if echo else None)
            _execute(path, spec, parameters=values, threads=threads, log=tee, lock=lock)
    return require(spec.folder, spec.notebook)


def run_from_words(name: str, words: Sequence[str], *, threads: int | None, echo: bool) -> dict:
    """As `run_notebook`, its parameters from the command line: -p key value, as often as needed. A
    relative path starts where the user is.
    """
    path = find_notebook(name)
    values = convert(path, _pairs(words))
    if str(values.get("profile", "")).endswith((".yaml", ".yml")):
        values["profile"] = str(from_here(values["profile"]))
    if "out_dir" in values:
        values["out_dir"] = out_dir_from_here(values["out_dir"])
    return run_notebook(path.stem, values, threads=threads, echo=echo)


def _pairs(words: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for i in range(0, len(words), 3):
        if words[i] not in ("-p", "--parameter") or len(words) < i + 3:
            raise PulseError(f"{' '.join(words[i:])!r}: parameters are given as -p key value")
        if words[i + 1] in pairs:
            raise PulseError(f"parameter {words[i + 1]} is given twice")
        pairs[words[i + 1]] = words[i + 2]
    return pairs


def _execute(
    path: Path, spec: RunSpec, *, parameters: dict, threads: int | None, log: _Tee, lock: Lock
) -> None:
    papermill = _papermill()
    half, run_id = half_folder(spec.folder), uuid.uuid4().hex
    locked, files = lock.for_child()
    env = locked | {
        "PULSE_BATCH": "1",
        "PULSE_RUN_ID": run_id,
        "PULSE_NOTEBOOKS": str(notebooks_folder().resolve()),
    }
    if threads:
        env |= {
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
        }
    # While it runs the copy lies outside the half-made folder, which the notebook clears when it
    # begins.
    copy = logs_folder(spec.out) / f"{slug(spec.name)}.ipynb"
    begun = time.monotonic()
    trouble = "it was interrupted"
    try:
        papermill.execute_notebook(
            _literal(path),
            _literal(copy),
            parameters=parameters,
            cwd=PACKAGE.parent,  # the repository root
            progress_bar=False,
            stdout_file=log,
            stderr_file=log,
            start_timeout=180,  # a cold disk and two kernels at once
            kernel_manager_class=kernel_manager(env, files),
        )
        manifest = _finished(spec, run_id)
        carry_pictures(copy, path.parent)
        os.replace(copy, half / EXECUTED)
        complete(spec, manifest)
        trouble = ""
    except PulseError as error:
        trouble = str(error)
    except papermill.PapermillExecutionError as error:
        log.write("\n" + _without_colours("\n".join(error.traceback)) + "\n")
        trouble = f"cell {error.exec_count}: {error.ename}: {_without_colours(error.evalue)}"
    except Exception as error:  # the kernel died or did not start: a failure, named and logged
        log.write(f"\n{type(error).__name__}: {error}\n")
        trouble = f"{type(error).__name__}: {str(error).strip() or 'the kernel ended'}"
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            trouble = str(write_error(error, copy))  # it was papermill that wrote
    finally:
        if trouble:  # also if interrupted: a manifest that a failed notebook has left must not pass
            (half / MANIFEST).unlink(missing_ok=True)
            if copy.exists():
                os.replace(copy, half / FAILED)
    if trouble:
        raise PulseError(
            f"{spec.notebook} failed ({spec.name}): {trouble}\n  log: {show(half / LOG)}"
        )
    log.write(f"done in {time.monotonic() - begun:.0f} s\n")


def _finished(spec: RunSpec, run_id: str) -> dict:
    """The manifest that this run left. Raises PulseError if it left none."""
    try:
        manifest = require(half_folder(spec.folder), spec.notebook)
    except PulseError as error:
        raise PulseError(f"it ended without a complete result: {error}") from None
    if manifest["run_id"] != run_id:
        raise PulseError("the manifest in its folder was not written by this run")
    return manifest


def _literal(path: Path) -> str:
    """A path as papermill takes it: it fills in names in braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


class _Tee:
    def __init__(self, *files: TextIO | None):
        self.files = [file for file in files if file is not None]

    def write(self, text: str) -> None:
        for file in self.files:
            file.write(text)

    def flush(self) -> None:
        for file in self.files:
            file.flush()

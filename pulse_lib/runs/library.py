"""The modules of this library that a notebook's result hangs on: those that it imports, and those
that they import.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path

from pulse_lib.files import read_json
from pulse_lib.runs.kinds import KINDS, Kind, notebooks_folder

PACKAGE = Path(__file__).parents[1]
# What is drawn beside a run's numbers is no part of its result; what reads all runs is made of it.
DRAWN = "pulse_lib.report"
STARTING = "pulse_lib.study"  # has missing inputs made, each of which says itself what made it


def library_of(kind: Kind) -> dict[str, str]:
    """sha256 of each module's file that the kind's notebook imports, directly or through others, by
    the file's place in the package ("train/losses.py").
    """
    code = "\n".join(code_cells(KINDS[kind].notebook))
    names = _reached_names(code, KINDS[kind].inputs is None)
    return {name: _sha256(path) for name, path in names.items()}


def library_hash() -> str:
    """sha256 over all of pulse_lib/**/*.py."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def changed_files(made: Mapping[str, str], now: Mapping[str, str]) -> tuple[str, ...]:
    """The files that differ between two states of the library."""
    return tuple(name for name in sorted({*made, *now}) if made.get(name) != now.get(name))


def code_cells(notebook: str) -> list[str]:
    """The sources of a notebook's code cells, but for the `parameters` cell."""
    path = notebooks_folder() / f"{notebook}.ipynb"
    at = path.stat() if path.is_file() else None
    return list(_code_cells(path, (at.st_size, at.st_mtime_ns, at.st_ino) if at else None))


@lru_cache(maxsize=16)  # a study's status asks once a run
def _code_cells(path: Path, stamp: tuple | None) -> tuple[str, ...]:
    sources = []
    for cell in read_json(path).get("cells", []):
        tags = cell.get("metadata", {}).get("tags", [])
        if cell["cell_type"] == "code" and not {"parameters", "injected-parameters"} & set(tags):
            source = cell["source"]
            sources.append((source if isinstance(source, str) else "".join(source)).strip())
    return tuple(sources)


@lru_cache(maxsize=32)
def _reached_names(code: str, with_drawn: bool) -> dict[str, Path]:
    reached = sorted(_reached(code, with_drawn))
    return {path.relative_to(PACKAGE).as_posix(): path for path in reached}


def _reached(code: str, with_drawn: bool) -> frozenset[Path]:
    found: set[Path] = set()
    waiting = list(_imported(code))
    while waiting:
        name = waiting.pop()
        path = _file(name)
        room = ".".join(name.split(".")[:2])
        if path is None or path in found or room == STARTING:
            continue
        if room == DRAWN and not with_drawn:
            continue
        found.add(path)
        waiting += _imports_of(path)
        if "." in name:
            waiting.append(name.rpartition(".")[0])  # the package's own __init__ runs as well
    return frozenset(found)


@cache
def _imports_of(path: Path) -> tuple[str, ...]:
    return tuple(_imported(path.read_text(encoding="utf-8")))


def _imported(code: str) -> Iterator[str]:
    """Names of this package's modules in a source: imports at any depth, and a module's name as a
    text, as tables of modules have it.
    """
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return  # a notebook with a broken cell fails when it is run
    # Most files name no module in a text, and an import is a statement: then nothing else is looked at
    texts = re.search(r"""["']pulse_lib\.""", code)
    for node in ast.walk(tree) if texts else _statements(tree.body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("pulse_lib"))
        elif isinstance(node, ast.ImportFrom) and (module := node.module or "") != "":
            if module.split(".")[0] == "pulse_lib":
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and (text := str(node.value)).startswith("pulse_lib."):
            yield text


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Statements and those within them, at any depth."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, part, ()))


@cache
def _file(name: str) -> Path | None:
    path = PACKAGE.joinpath(*name.split(".")[1:])
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((p for p in candidates if p.is_file()), None)


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

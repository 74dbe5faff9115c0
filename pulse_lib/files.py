"""Where the kit's own files lie and what a person's path means; writing files whole or not at all,
and reading them with an error that says what to do.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from pulse_lib.errors import PulseError

PACKAGE = Path(__file__).resolve().parent
# A wheel carries notebooks, params, profiles and Snakefile inside the package (setup.py).
INSTALLED = (PACKAGE / "kit").is_dir()
KIT = PACKAGE / "kit" if INSTALLED else PACKAGE.parent
# Where results go and relative paths start: the repository root. An installed kit has none: there
# it is the folder in which the command was given, handed on to kernels and jobs by PULSE_HOME.
REPOSITORY = Path(os.environ.get("PULSE_HOME") or Path.cwd()).resolve() if INSTALLED else KIT
NAME_BYTES = 255  # the longest name of a file or folder, on nearly every file system


def local_path(text: str | Path, base: Path = REPOSITORY) -> Path:
    """The path that a person means: `~` is a home folder, and a relative one starts at `base` (the
    repository root; on the command line the caller's folder).

    Raises PulseError naming the path if no file can be called so.
    """
    path = Path(text)
    try:
        path = path.expanduser()
    except RuntimeError:
        raise PulseError(f"{str(text)!r}: there is no such home folder; write it out") from None
    if any(char == "\0" or "\ud800" <= char <= "\udfff" for char in str(path)):
        raise PulseError(
            f"{str(text)!r} is no name for a file: it has bytes that are no UTF-8 text"
        )
    long = next((part for part in path.parts if len(part.encode()) > NAME_BYTES), None)
    if long:
        n = len(long.encode())
        raise PulseError(f"{long[:40]!r}...: a name of {n} bytes is too long, {NAME_BYTES} at most")
    return base / path


def from_here(text: str | Path) -> Path:
    """A path of the command line, absolute: a relative one starts at the caller's folder."""
    return local_path(text, Path.cwd()).resolve()


def show(path: Path) -> str:
    """A path as messages print it: relative to the repository if it lies inside, else absolute."""
    path = Path(path)
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else str(path)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file by way of a temporary name beside it (same suffix), flushed to disk and renamed:
    it is there whole or not.

    Parents are made. Raises PulseError naming the folder and the fix if the disk is full or the
    folder not writable; the temporary file is removed whatever happens.
    """
    path = Path(path)
    tmp = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(tmp)
        with open(tmp, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as error:
        _remove(tmp)
        raise write_error(error, path) from None
    except BaseException:
        _remove(tmp)
        raise


def _remove(tmp: Path) -> None:
    try:
        tmp.unlink(missing_ok=True)
    except OSError:
        pass  # the folder itself is the trouble, and the error on its way says so


def write_error(error: OSError, path: Path) -> PulseError:
    """The PulseError for a file or folder that cannot be written, with the fix that suits the
    cause.
    """
    a_file = "a part of this path is a file, not a folder: remove it"
    no_permission = "no permission to write there: change it"
    fixes = {
        errno.ENOSPC: "the disk is full (df -h; if that has space, df -i): free some",
        errno.EDQUOT: "the disk quota is used up: free some space",
        errno.EROFS: "the file system is read-only: mount it for writing",
        errno.EACCES: no_permission,
        errno.EPERM: no_permission,
        errno.ENOTDIR: a_file,
        errno.EEXIST: a_file,
        errno.ENAMETOOLONG: "the name is too long: take a shorter one",
    }
    fix = fixes.get(error.errno, "check the disk")
    where = "or choose another folder with out_dir"
    return PulseError(f"cannot write {show(path)} ({error.strerror or error}): {fix}, {where}")


def write_json(path: Path, value: object) -> None:
    """Write a JSON file (indented, NaN refused), by rename."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> dict:
    """The content of a JSON file. Raises PulseError if it is missing or cut off."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PulseError(f"{show(path)} is missing") from None
    except (OSError, ValueError) as error:
        raise PulseError(
            f"{show(path)} cannot be read ({error}): it is broken or cut off; make it again"
        ) from None


def write_csv(path: Path, table) -> None:
    """Write a pandas DataFrame as CSV without its index, by rename."""
    replace_file(path, lambda tmp: table.to_csv(tmp, index=False))

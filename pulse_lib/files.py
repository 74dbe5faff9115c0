"""Writing files whole or not at all, and reading them with an error that says what to do."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from pulse_lib.errors import PulseError


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
        errno.ENOSPC: "the disk is full: free some space",
        errno.EDQUOT: "the disk quota is used up: free some space",
        errno.EROFS: "the file system is read-only: mount it for writing",
        errno.EACCES: no_permission,
        errno.EPERM: no_permission,
        errno.ENOTDIR: a_file,
        errno.EEXIST: a_file,
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


REPOSITORY = Path(__file__).resolve().parent.parent

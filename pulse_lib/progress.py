"""Telling how far a loop is: a live bar for a person, a plain line every few seconds in batch.

Plain text, no widget: a widget leaves "0%" in a saved notebook. Under `python -m pulse_lib run` the
current position also goes to the file named by PULSE_PROGRESS_FILE, from which the front draws its
one live line.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm.std import tqdm

LINE_SECONDS = 5.0  # batch: at most one line in this time
FILE_SECONDS = 0.5


@dataclass
class _State:
    """The loop that is being reported; times in seconds of the monotonic clock."""

    label: str | None = None
    bar: tqdm | None = None
    _: KW_ONLY
    line: float = 0.0  # when the last line was printed
    file: float = 0.0  # when the file was last written
    begun: float = 0.0
    of: str = ""  # what stands before its label


_state = _State()


def is_batch() -> bool:
    """True if nobody is watching: PULSE_BATCH=1 (the kit's runner) or a Kaggle batch session."""
    return (
        os.environ.get("PULSE_BATCH") == "1" or os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch"
    )


@contextmanager
def belongs_to(what: str) -> Generator[None]:
    """Inside, lines of loops begin with what the loops belong to."""
    _state.of = what
    try:
        yield
    finally:
        _state.of = ""


def track(iterable: Iterable, label: str, *, total: int | None = None) -> Iterator:
    """The items of `iterable`, reporting how many are done.

    `total` is needed only if the iterable has no length.
    """
    n = total if total is not None else len(iterable) if isinstance(iterable, Sized) else None
    i = 0
    step(label, 0, n=n)
    for i, item in enumerate(iterable, start=1):
        yield item
        step(label, i, n=n if n is None else max(i, n))
    if n is None or i < n:
        step(label, i, n=i)  # the end, whatever was promised


def step(label: str, i: int, *, n: int | None, **numbers: float) -> None:
    """Report that `i` of `n` (None: unknown) steps of `label` are done; `numbers` (loss=...,
    forget=...) are shown with it.
    """
    label = f"{_state.of}: {label}" if _state.of else label
    now = time.monotonic()
    last = n is not None and i >= n
    if label != _state.label:
        _close()
        _state.label, _state.begun, _state.line, _state.file = label, now, 0.0, 0.0
    place = f"{i}/{n}" if n is not None else str(i)
    if now - _state.file >= FILE_SECONDS or last:
        _state.file = now
        _write_file(f"{label} {place}")
    shown = "  ".join(f"{key} {value:.3g}" for key, value in numbers.items())
    if is_batch():
        if now - _state.line >= LINE_SECONDS or last:
            _state.line = now
            print(
                f"{label} {place}  {now - _state.begun:.0f} s  {shown}".rstrip(),
                file=sys.stderr,
                flush=True,
            )
    else:
        _draw(label, i, n=n, shown=shown)
    if last:
        _close()


def _draw(label: str, i: int, *, n: int | None, shown: str) -> None:
    from tqdm.std import tqdm  # the text bar; tqdm.auto would be a widget in a notebook

    bar = _state.bar
    if bar is None:
        bar = _state.bar = tqdm(
            total=n, desc=label, mininterval=0.2, leave=True, dynamic_ncols=False, ncols=96
        )
    bar.set_postfix_str(shown, refresh=False)
    bar.update(i - bar.n)


def _close() -> None:
    if _state.bar is not None:
        _state.bar.close()
    _state.label = _state.bar = None


def _write_file(text: str) -> None:
    name = os.environ.get("PULSE_PROGRESS_FILE")
    if name:
        tmp = Path(f"{name}.{os.getpid()}")
        with suppress(
            OSError
        ):  # only the live line depends on it; a full disk is reported where results are written
            tmp.write_text(text, encoding="utf-8")
            os.replace(tmp, name)

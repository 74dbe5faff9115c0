"""An unfinished training, kept every few minutes in its run's folder: a session that ends without
warning costs minutes, not hours. `finish` removes it.

The state is one file, written whole; checkpoint.json names it, its checksum and whose it is, and is
replaced last. So what is read is the state before a kill or the one before that, never half of one.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
import time
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import torch

from pulse_lib.errors import PulseError
from pulse_lib.files import read_json, replace_file, show, write_json
from pulse_lib.runs.checked import file_hash
from pulse_lib.runs.library import changed_files, library_of
from pulse_lib.runs.manifest import Started
from pulse_lib.runs.place import CHECKPOINT
from pulse_lib.train.checkpoint import State

CARD = "checkpoint.json"
SECONDS = 120.0
VARIABLE = "PULSE_CHECKPOINT_SECONDS"
MOST_SHARE = 0.05  # of the time goes into checkpoints, however slow the disk
OURS = ("step-*.pt", ".step-*.pt", CARD, ".checkpoint.*.json")  # with a dot: cut off while written
UNREADABLE = (
    *(PulseError, OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError),
    *(EOFError, pickle.UnpicklingError),
)


def interval() -> float:
    """Seconds between checkpoints: 120, or what PULSE_CHECKPOINT_SECONDS says; 0 is after every
    step. Raises PulseError for anything else than a number from 0 on.
    """
    text = os.environ.get(VARIABLE, "").strip() or str(SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise PulseError(
            f"{VARIABLE} = {text!r} must be a number of seconds, 0 or more (0: after every step): "
            "set it so, or unset it for 120"
        )
    return seconds


@dataclass
class CheckpointFolder:
    """Checkpoints of one stage of a started run."""

    started: Started
    stage: str = "training"  # a sequential run has one for each round
    _: KW_ONLY
    seconds: float = field(default_factory=interval)
    next: float = field(init=False)  # when the next one is due, by the monotonic clock

    def __post_init__(self) -> None:
        self.next = time.monotonic() + self.seconds

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.started.folder / CHECKPOINT

    def due(self) -> bool:
        """Whether it is time to keep the state again."""
        return time.monotonic() >= self.next

    def load(self) -> State | None:
        """The newest state of this very run and stage, None if there is none; leftovers of a kill
        and states of others are removed. What is not gone on from, though it was meant to be, is
        said.
        """
        if not (self.folder / CARD).is_file():
            self._keep_only(None)
            return None
        try:
            state, why = self._read()
        except UNREADABLE as error:
            state, why = None, f"it cannot be read ({_first_line(error)})"
        if state is None:
            self._keep_only(None)
            if why:
                _say(f"{show(self.folder)} is not gone on from: {why}. {self.stage} begins anew")
            return None
        print(f"going on after step {state['step']}, kept in {show(self.folder)}")
        return state

    def save(self, state: State) -> None:
        """Keep a state in place of the one before. If that fails (a full disk), training goes on
        without, and says so.
        """
        begun, file = time.monotonic(), self.folder / f"step-{state['step']}.pt"
        try:
            replace_file(file, lambda tmp: torch.save(state, tmp))
            write_json(
                self.folder / CARD,
                {
                    "fingerprint": self.started.fingerprint,
                    "stage": self.stage,
                    "step": state["step"],
                    "file": file.name,
                    "sha256": file_hash(file),
                    "library": library_of(self.started.spec.kind),
                },
            )
            self._keep_only(file.name)
        except (PulseError, OSError, RuntimeError) as error:  # torch tells a full disk by the last
            _say(
                f"step {state['step']}: no checkpoint ({_first_line(error)}). Training goes on, and "
                "begins anew if it is cut off"
            )
        now = time.monotonic()
        self.next = now + (max(self.seconds, (now - begun) / MOST_SHARE) if self.seconds else 0.0)

    def _read(self) -> tuple[State | None, str]:
        """The state, or why there is none ("": it was never meant for this stage)."""
        card = read_json(self.folder / CARD)
        file = self.folder / card["file"]
        mine = self.started.fingerprint, self.stage
        if (card["fingerprint"], card["stage"]) != mine:
            return None, ""
        now = library_of(self.started.spec.kind)
        if changed := changed_files(card["library"], now):
            return None, f"the library has changed since ({', '.join(changed[:3])})"
        if file_hash(file) != card["sha256"]:
            return None, f"{file.name} has changed since it was written"
        return torch.load(file, map_location="cpu", weights_only=True), ""

    def _keep_only(self, name: str | None) -> None:
        """Remove all states but one, and cut off ones; None: that one, its card and the folder
        too.
        """
        kept = (name, CARD) if name else ()
        for path in [path for pattern in OURS for path in self.folder.glob(pattern)]:
            if path.name not in kept:
                path.unlink()
        if not name:
            with suppress(OSError):  # not there, or something else is in it
                self.folder.rmdir()


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)

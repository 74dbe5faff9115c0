"""Graphics cards as a resource of a study: one run a card, several side by side."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pulse_lib.errors import PulseError

VISIBLE = "CUDA_VISIBLE_DEVICES"  # set by a scheduler, or by hand: no other card is used
DEV = Path("/dev")


def cards() -> list[str]:
    """The cards that this process may use, as CUDA counts them. No driver is asked: whoever asks
    CUDA keeps a piece of each card's memory.
    """
    if (given := os.environ.get(VISIBLE)) is not None:
        return [word.strip() for word in given.split(",") if word.strip() not in ("", "-1")]
    return [str(i) for i, _ in enumerate(DEV.glob("nvidia[0-9]*"))]


@contextmanager
def free_card(folder: Path | None = None) -> Generator[str | None]:
    """A card that no other run of this machine has, within `with`, as the only one that CUDA shows;
    waits for one. None, and nothing is changed, where there is no choice: a scheduler has given the
    run its card already, or the machine has one or none.

    folder: of the cards' locks; of this machine if left out, since cards are no other machine's.
    """
    found = cards()
    if len(found) < 2:
        yield None
        return
    place = folder or Path(tempfile.gettempdir()) / f"pulse-cards-{os.getuid()}"
    given, told = os.environ.get(VISIBLE), False
    while True:
        for card in found:
            file = _taken(place / card.replace("/", "_"))
            if file is None:
                continue
            os.environ[VISIBLE] = card
            try:
                yield card
            finally:
                os.close(file)
                if given is None:
                    del os.environ[VISIBLE]
                else:
                    os.environ[VISIBLE] = given
            return
        if not told:
            print(f"all {len(found)} graphics cards have a run: waiting for one", file=sys.stderr)
            told = True
        time.sleep(0.5)


def _taken(path: Path) -> int | None:
    """The open file of a card's lock, which goes with the process; None if another run has it."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise PulseError(
            f"{path}: the lock of a graphics card cannot be made ({error.strerror}): name the card "
            f"yourself, e.g. {VISIBLE}=0, or give a writable TMPDIR"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file

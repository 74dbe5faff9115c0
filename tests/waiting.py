"""For tests: waiting for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Until it is true. Raises AssertionError after so many seconds."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)

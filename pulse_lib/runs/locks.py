"""Locks of a study's folder: whoever writes holds one, and the other is told who.

A lock is the system's (flock), which goes when its process ends, however that ends. A file system
without it (Lustre without -o flock, some NFS) gets a marker file instead, which the next one removes
if the process that made it is gone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
import uuid
from datetime import datetime
from pathlib import Path

from filelock import SoftFileLock, Timeout

from pulse_lib.errors import PulseError
from pulse_lib.files import show, write_error
from pulse_lib.runs.kinds import RunSpec
from pulse_lib.runs.place import mapping_in

NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
HANDED = "PULSE_RUN_LOCK"  # the lock that a runner holds for its kernel
PATIENCE = "PULSE_PATIENCE"  # seconds that a later attempt waits for what is left of an earlier one


def logs_folder(out: Path) -> Path:
    """Where a study keeps what is no result: progress, locks, Snakemake's own log."""
    return Path(out) / ".logs"


def slug(name: str) -> str:
    """A run's name as a file name."""
    return name.replace("/", "__")


def job_file(spec: RunSpec, suffix: str) -> Path:
    """A small file of a run: "progress" (where it is), "failed" (why it failed: Snakemake knows
    that a job failed, not why), "lock", "done" (for Snakemake), "checked" (what its files were).
    """
    return logs_folder(spec.out) / f"{slug(spec.name)}.{suffix}"


class Lock:
    """A lock on a file, held within `with`; it is gone when its process ends, however that ends.

    Raises PulseError with `busy` and who holds it if that lasts longer than `patience` seconds.
    """

    def __init__(self, path: Path, busy: str, *, patience: float = 10.0):
        self.path, self.busy, self.patience = path, busy, patience
        self.token = uuid.uuid4().hex
        self.marker: SoftFileLock | None = None

    def __enter__(self) -> Lock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a+", encoding="utf-8")
        except OSError as error:
            raise write_error(error, self.path) from None
        until = time.monotonic() + self.patience
        try:
            while not self._taken():
                if time.monotonic() > until:
                    who = f" ({held_by(self.path)})" if held_by(self.path) else ""
                    where = f"lock: {show(self.path)}{_left_behind(self.path)}"
                    raise PulseError(f"{self.busy}{who}: wait for it, or end it ({where})")
                time.sleep(0.2)
            self.write(self.token)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _taken(self) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in NO_FLOCK:
                raise write_error(error, self.path) from None
        marker = _marker(self.path)
        try:
            marker.acquire(timeout=0)
        except Timeout:
            return False
        self.marker = marker
        return True

    def __exit__(self, *_) -> None:
        # Not unlocked by name: a kernel that was given the file still holds it until it ends.
        self.file.close()
        if self.marker is not None:
            self.marker.release()
            self.marker = None

    def write(self, token: str) -> None:
        """Say in the file who holds it, and a word by which its children know it."""
        self.token = token
        self.file.truncate(0)
        self.file.write(json.dumps(_this_process() | {"token": token}))
        self.file.flush()

    def for_child(self) -> tuple[dict[str, str], tuple[int, ...]]:
        """What a child process is given so that it holds this lock too: environment, and open files
        by number.
        """
        number = self.file.fileno()
        given = {"path": str(self.path), "token": self.token, "file": number}
        return {HANDED: json.dumps(given)}, (number,)


def alone(spec: RunSpec, *, patience: float = 10.0) -> Lock:
    """The lock of a run: two processes that make it would mix their results."""
    busy = f"{show(spec.folder)} is being written by another process"
    patience = max(patience, float(os.environ.get(PATIENCE) or 0))
    return Lock(job_file(spec, "lock"), busy, patience=patience)


def is_held(path: Path, token: str = "") -> bool:
    """Whether a process holds the lock of this file; with a token: the one that wrote it."""
    if token and mapping_in(path).get("token") != token:
        return False
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # possible only if nobody holds it
            return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_FLOCK:
            return False
    try:
        with _marker(path).acquire(timeout=0):
            return False
    except Timeout:
        return True


def held_by(path: Path) -> str:
    """Who holds a lock, in words; "" if its file does not say."""
    found = mapping_in(path)
    if "pid" not in found:
        return ""
    return f"{found['command']}, process {found['pid']} on {found['host']}, since {found['since']}"


# --- the lock of a run that a notebook began --------------------------------------------------

_held: dict[Path, Lock] = {}


def hold(spec: RunSpec) -> None:
    """Hold a run's lock until `let_go` or the end of this process. The runner of this notebook may
    hold it already, or an earlier try in this kernel.

    Raises PulseError saying who else holds it, or that the runner is gone.
    """
    path = job_file(spec, "lock")
    if in_runners_hands(spec):
        given = json.loads(os.environ[HANDED])
        if not is_held(path, given["token"]):
            raise PulseError(f"{spec.name}: the process that ran this notebook has ended")
        try:
            os.set_inheritable(given["file"], False)  # no further than this process
        except OSError:
            pass  # it was not given on, as where a marker stands for the lock
    elif path not in _held:
        _held[path] = alone(spec, patience=2.0).__enter__()


def let_go(spec: RunSpec) -> None:
    """End `hold`, if this process holds the lock itself."""
    if lock := _held.pop(job_file(spec, "lock"), None):
        lock.__exit__()


def in_runners_hands(spec: RunSpec) -> bool:
    """Whether a batch runner executes this very run here: it puts the result in place."""
    given = json.loads(os.environ.get(HANDED) or "{}")
    return given.get("path") == str(job_file(spec, "lock"))


# --- small things -----------------------------------------------------------------------------


def _marker(path: Path) -> SoftFileLock:
    return SoftFileLock(path.with_name(f"{path.name}.held"), thread_local=False)


def _left_behind(path: Path) -> str:
    """What to do about a marker of another machine, whose process cannot be looked for from here."""
    marker, host = _marker(path).lock_file, mapping_in(path).get("host", "")
    if not os.path.exists(marker) or host == socket.gethostname():
        return ""
    return f"; if {host} has gone down since, remove {show(Path(marker))}"


def _this_process() -> dict[str, object]:
    words = [Path(sys.argv[0] or "python").name, *sys.argv[1:]]
    if "ipykernel" in sys.modules:
        # JupyterLab names the notebook; a kernel's own command line says nothing to anybody
        words = ["notebook", os.environ.get("JPY_SESSION_NAME", "in a kernel")]
    elif words[0] == "__main__.py":
        words[:1] = ["python", "-m", "pulse_lib"]
    return {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "command": " ".join(words)[:200],
    }

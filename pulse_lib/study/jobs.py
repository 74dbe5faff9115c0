"""Runs as jobs beside one another: their command lines, their small files under <out>/.logs, and
locks.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, show, write_error
from pulse_lib.runs.kinds import RunSpec


def logs_folder(out: Path) -> Path:
    """Where a study keeps what is no result: progress, locks, Snakemake's own log."""
    return Path(out) / ".logs"


def slug(name: str) -> str:
    """A run's name as a file name."""
    return name.replace("/", "__")


def job_file(spec: RunSpec, suffix: str) -> Path:
    """A small file of a run: "progress" (where it is), "failed" (why it failed: Snakemake knows
    that a job failed, not why), "lock".
    """
    return logs_folder(spec.out) / f"{slug(spec.name)}.{suffix}"


def job_command(spec: RunSpec, threads: int) -> str:
    """The shell command of a run inside a study; its output goes to the run's log.txt."""
    words = [sys.executable, "-m", "pulse_lib", "notebook", spec.notebook, "--quiet"]
    words += ["--threads", str(threads)]
    for key, value in spec.parameters.items():
        words += ["-p", key, str(value)]
    progress = shlex.quote(str(job_file(spec, "progress")))
    return (
        f"cd {shlex.quote(str(REPOSITORY))} && PULSE_PROGRESS_FILE={progress} {shlex.join(words)}"
    )


class Lock:
    """A lock on a file, held within `with`; the system drops it when its process ends, however that
    ends.
    """

    def __init__(self, path: Path, busy: str, *, patience: float = 10.0):
        self.path, self.busy, self.patience = path, busy, patience

    def __enter__(self) -> Lock:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "a+")
        except OSError as error:
            raise write_error(error, self.path) from None
        until = time.monotonic() + self.patience
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return self
            except BlockingIOError:
                if time.monotonic() > until:
                    self.file.close()
                    where = f"lock: {show(self.path)}"
                    raise PulseError(f"{self.busy}: wait for it, or end it ({where})") from None
                time.sleep(0.2)

    def __exit__(self, *_) -> None:
        self.file.close()

    def write(self, text: str) -> None:
        """Replace the content of the locked file."""
        self.file.truncate(0)
        self.file.write(text)
        self.file.flush()


def alone(spec: RunSpec) -> Lock:
    """The lock of a run folder: two processes writing into one would mix their results."""
    return Lock(job_file(spec, "lock"), f"{show(spec.folder)} is being written by another process")


@contextmanager
def in_a_study() -> Generator[None]:
    """A job of a study (PULSE_PROGRESS_FILE is set): its front sees from the files beside that one
    that it has begun, that it has ended, and why it failed.
    """
    end_with_front()
    name = os.environ.get("PULSE_PROGRESS_FILE")
    progress = Path(name) if name else None
    if progress:
        try:
            progress.parent.mkdir(parents=True, exist_ok=True)
            progress.write_text("starting")
        except OSError as error:
            raise write_error(error, progress) from None
    try:
        yield
    except Exception as error:
        words = str(error) if isinstance(error, PulseError) else f"{type(error).__name__}: {error}"
        if progress:
            with suppress(OSError):  # a full disk: the front finds that out as well
                progress.with_suffix(".failed").write_text(words, encoding="utf-8")
        raise
    finally:
        if progress:
            progress.unlink(missing_ok=True)


def end_with_front() -> None:
    """In a job of a study: end this process as soon as the study's front is gone (PULSE_FRONT: its
    lock file and token).

    Without this, jobs of a killed study would go on writing into folders that the next study is
    filling (test_a_stopped_study_leaves_no_process_and_can_be_started_again): Snakemake ends its
    jobs only if it can still do so. A lock, not a process id: ids are given again, and a killed process may stay as a
    zombie.
    """
    front = os.environ.get("PULSE_FRONT")
    if not front:
        return
    lock, token = front.rsplit("|", 1)
    if not _is_held(Path(lock), token):
        raise PulseError("the study that this run belongs to has ended")

    def watch() -> None:
        while _is_held(Path(lock), token):
            time.sleep(1.0)
        os._exit(75)  # the kernel notices by itself that its parent is gone

    threading.Thread(target=watch, daemon=True).start()


def _is_held(lock: Path, token: str) -> bool:
    try:
        with open(lock) as file:
            if file.read().strip() != token:
                return False
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # possible only if nobody holds it
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False

"""Runs as jobs beside one another: their command lines and their small files under <out>/.logs."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, write_error
from pulse_lib.runs.kinds import RunSpec
from pulse_lib.runs.locks import Lock as Lock
from pulse_lib.runs.locks import alone as alone
from pulse_lib.runs.locks import is_held, job_file, logs_folder
from pulse_lib.runs.locks import slug as slug

# job_file: what Snakemake sees of a run. It removes a job's outputs before the job begins: so a run's
# own files, which stay in force meanwhile, are none.
ENDED = "done"


def job_command(spec: RunSpec, threads: int) -> str:
    """The shell command of a run inside a study; its output goes to the run's log.txt.

    Snakemake gives up a job whose output is older than an input, as it is when the clock was set
    back in between: what has ended is dated back first, so that times decide nothing.
    """
    words = [sys.executable, "-m", "pulse_lib", "notebook", spec.notebook, "--quiet"]
    words += ["--threads", str(threads)]
    for key, value in spec.parameters.items():
        words += ["-p", key, str(value)]
    progress = shlex.quote(str(job_file(spec, "progress")))
    logs, done = shlex.quote(str(logs_folder(spec.out))), job_file(spec, ENDED)
    date_back = f"find {logs} -name '*.{ENDED}' -exec touch -t 200001010000 {{}} +"
    return (
        f"cd {shlex.quote(str(REPOSITORY))} && PULSE_PROGRESS_FILE={progress} {shlex.join(words)}"
        f" && {date_back} && touch {shlex.quote(str(done))}"
    )


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
                # Written into the file that is there: on a full disk no new one has room for it.
                with open(progress, "r+", encoding="utf-8") as file:
                    file.write(words[:3000])
                    file.truncate()
                os.replace(progress, progress.with_suffix(".failed"))
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
    if not is_held(Path(lock), token):
        raise PulseError("the study that this run belongs to has ended")

    def watch() -> None:
        while is_held(Path(lock), token):
            time.sleep(1.0)
        os._exit(75)  # the kernel notices by itself that its parent is gone

    threading.Thread(target=watch, daemon=True).start()

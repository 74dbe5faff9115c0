"""A run that is tried again: only where its process died, not where its notebook failed.

A notebook that fails would fail again. A kernel that was killed (out of memory), a job that was
cancelled and a node that was lost leave no error of their own, or one of LOST.
"""

from __future__ import annotations

import os
import shlex

from pulse_lib.runs.kinds import RunSpec
from pulse_lib.runs.locks import PATIENCE, job_file

# Words of a failure that says nothing about the notebook. The last: what is left of a lost attempt
# still holds the run's lock.
LOST = ("DeadKernelError", "Kernel died", "is being written by another process")
LOCK_SECONDS = 180  # until a server of shared storage forgets the locks of a lost node


def command(spec: RunSpec, *, run: str) -> str:
    """The shell command of a run's first or later attempt around `run`, which makes it; the number of
    the attempt is in the shell's variable `attempt`.

    A later attempt ends at once, with what was said, if the notebook itself has failed.
    """
    failed = shlex.quote(os.fspath(job_file(spec, "failed")))
    words = " ".join(f"-e {shlex.quote(word)}" for word in LOST)
    return (
        f"if test $attempt -gt 1; then if test -e {failed} && ! grep -q -F {words} {failed}; "
        f"then echo not tried again: >&2; cat {failed} >&2; exit 1; fi; "
        f"export {PATIENCE}={LOCK_SECONDS}; fi; rm -f {failed}; {run}"
    )

"""The kernels of runs. In a study they are warm: forked from one process that has loaded torch and
the other libraries already (forking.py), instead of loading them in each run.

Only where a fork is as good as a new process: on Linux, on the machine of the study's front, without
a GPU, and with the environment that the libraries were loaded in. Elsewhere, and whenever anything is
not as it should be, a run gets a kernel of its own, as a single notebook does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pulse_lib.files import PACKAGE
from pulse_lib.study import forking

SWITCH = "PULSE_WARM"  # 0: each run of a study has a kernel of its own
ADDRESS = "PULSE_WARM_KERNELS"  # where a study's runs ask for a kernel
# A process that loads libraries forks only while it has one thread, as each run of a study has
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
DEV = Path("/dev")
GPUS = ("nvidia[0-9]*", "kfd", "dxg")  # there; a driver that was initialised cannot be forked
PATIENCE = 180.0  # a cold disk


@contextmanager
def warm(n_runs: int, log: Path, *, env: dict[str, str]) -> Generator[dict[str, str]]:
    """What to add to a study's environment `env` so that its jobs find warm kernels, within `with`;
    nothing where there are none. What the process says, which is nothing if all is well, goes to
    `log`.
    """
    if n_runs < 2 or not possible():
        yield {}
        return
    with ExitStack() as stack:
        if (folder := sockets_folder()) is None:
            yield {}
            return
        address = str(Path(stack.enter_context(folder)) / "kernels")
        with socket.socket(socket.AF_UNIX) as listener, open(log, "wb") as said:
            listener.bind(address)
            listener.listen(512)  # before the process is ready: who asks early waits
            process = subprocess.Popen(
                [sys.executable, forking.__file__, str(listener.fileno())],
                stdin=subprocess.PIPE,  # never written to: it ends with this process
                stdout=said,
                stderr=said,
                env=env | THREADS,
                cwd=PACKAGE.parent,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        try:
            yield {ADDRESS: address}
        finally:
            process.kill()  # its kernels see for themselves that their runners are gone
            process.communicate()


def sockets_folder() -> tempfile.TemporaryDirectory | None:
    """A folder of one's own for sockets that are files; None where there is no place for one, or only
    a place whose name is too long for a socket's.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="pulse-", ignore_cleanup_errors=True)
    except OSError:
        return None
    try:
        with socket.socket(socket.AF_UNIX) as tried:
            tried.bind(str(Path(folder.name) / "kernel-ipc-0"))  # as long a name as any
    except OSError:
        folder.cleanup()
        return None
    return folder


def possible() -> bool:
    """Whether kernels of this machine can be forked, and nobody has said that they must not."""
    return (
        sys.platform == "linux"
        and os.environ.get(SWITCH) != "0"
        and not any(found for name in GPUS for found in DEV.glob(name))
    )


def kernel_manager(env: Mapping[str, str], files: tuple[int, ...]) -> type:
    """The class of manager by which papermill starts a kernel of this Python, with more in its
    environment and with open files.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_client.provisioning import LocalProvisioner

    # A kernel named "python3" may be registered for another Python, or for none in a fresh venv:
    # the spec is made here.
    spec = KernelSpec(
        argv=[
            *(sys.executable, "-m", "ipykernel_launcher"),
            "-f",
            "{connection_file}",
            "--log-level=ERROR",
        ],
        display_name="this Python",
        language="python",
        env={key: value.replace("$", "$$") for key, value in env.items()},
    )

    class Provisioner(LocalProvisioner):
        async def launch_kernel(self, cmd, **kwargs):
            cwd = kwargs.get("cwd") or Path.cwd()
            forked = fork(cmd, env=kwargs["env"], files=files, cwd=cwd)
            if forked is None:
                return await super().launch_kernel(cmd, **kwargs)
            self.process, self.pid, self.pgid, self.cwd = forked, forked.pid, forked.pid, cwd
            return self.connection_info

    class KernelOfThisPython(AsyncKernelManager):
        folder: tempfile.TemporaryDirectory | None = None

        @property
        def kernel_spec(self):
            return spec

        async def start_kernel(self, **options):  # ty: ignore[incompatible-mutable-override]
            self.provisioner = Provisioner(kernel_id="", kernel_spec=spec, parent=self)
            # By sockets that are files: a port is free when it is chosen, and may be taken by another
            # kernel before this one binds it ("Address already in use")
            self.folder = sockets_folder()
            if self.folder:
                self.transport, self.ip = "ipc", str(Path(self.folder.name) / "kernel-ipc")
            # With the lock's open file the kernel holds the lock too, should the runner be killed
            return await super().start_kernel(**options, pass_fds=files)

        async def cleanup_resources(self, restart=False):  # ty: ignore[incompatible-mutable-override]
            await super().cleanup_resources(restart=restart)
            if self.folder and not restart:
                self.folder.cleanup()

    return KernelOfThisPython


def fork(
    cmd: list[str], *, env: dict[str, str], files: Sequence[int], cwd: str | Path
) -> Forked | None:
    """A kernel forked from the study's warm process; None where there is none, or it says no."""
    address = env.get(ADDRESS)
    if not address:
        return None
    caller = socket.socket(socket.AF_UNIX)
    asked = {"argv": cmd[2:], "env": dict(env), "cwd": str(cwd)}  # without: python -m
    try:
        caller.settimeout(PATIENCE)
        caller.connect(address)
        socket.send_fds(caller, [b"f"], [1, 2, *files])
        caller.sendall(json.dumps(asked).encode() + b"\n")
        answer = caller.makefile("rb").readline().strip()
    except OSError:
        answer = b""
    if not answer.isdigit():
        caller.close()
        return None
    return Forked(caller, int(answer))


class Forked:
    """A forked kernel, as jupyter_client takes it: a Popen of a process that is no child of this."""

    stdin = stdout = stderr = None

    def __init__(self, caller: socket.socket, pid: int):
        self.caller, self.pid, self.returncode = caller, pid, None

    def poll(self) -> int | None:
        """None while it runs. How it ended only its parent knows."""
        if self.returncode is None and select.select([self.caller], [], [], 0)[0]:
            self.caller.close()  # nothing is ever sent: it has ended
            self.returncode = 0
        return self.returncode

    def wait(self) -> int:
        """0, when it has ended."""
        if self.returncode is None:
            select.select([self.caller], [], [])
        return self.poll() or 0

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

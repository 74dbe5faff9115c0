"""A process that loads the libraries of a run once and forks a kernel from itself for each run.

`warm` starts this file as a script: nothing of the kit is imported here, so that each kernel finds
the kit as it is on disk when its run begins. Asked on a socket, it forks; the fork becomes a kernel
with the caller's environment, folder and open files, in a session of its own. The connection stays
open: either end sees at once that the other is gone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Mapping

# What the notebooks load of other packages (tests/test_kernels.py holds that nothing slow is missing)
LIBRARIES = (
    "pandas",
    "pyarrow.parquet",
    "yaml",
    "pydantic.main",
    "pydantic.dataclasses",
    "torch",
    "safetensors.torch",
    "tokenizers",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "transformers.models.auto.modeling_auto",
    "transformers.generation.utils",
    "peft",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_pdf",
    "matplotlib_inline.backend_inline",
    "seaborn",
    "ipykernel.kernelapp",
)
# How the names of variables begin that libraries read when they are loaded, or that put a job into
# other hands than the front's
READ_AT_LOAD = """OMP_ MKL_ ONEDNN_ DNNL_ OPENBLAS_ KMP_ GOMP_ ATEN_ TORCH PYTORCH CUDA NVIDIA HIP_
ROCR_ BNB_ HF_ HUGGINGFACE TRANSFORMERS TOKENIZERS ARROW_ MPL PYTHON LD_ MALLOC_ HOME XDG_ LANG LC_
IPYTHON JUPYTER_ SLURM_ PBS_ LSB_ KUBERNETES_""".split()
LIMIT_FILES = 16  # that one kernel is handed


def said_to_libraries(env: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a library may have read when it was loaded."""
    return {k: v for k, v in env.items() if k.startswith(tuple(READ_AT_LOAD))}


def load() -> dict[str, str]:
    """Import LIBRARIES, as far as they are there; what they put into the environment."""
    before = dict(os.environ)
    hidden = "bitsandbytes"  # as pulse_lib/model/lora.py does, and why
    sys.modules[hidden] = None  # ty: ignore[invalid-assignment]
    for name in LIBRARIES:
        try:
            importlib.import_module(name)
        except ImportError:  # of another version: a kernel loads what it needs
            continue
    del sys.modules[hidden]
    gc.collect()
    gc.freeze()  # else the collector of each kernel would copy the pages that all of them share
    return {k: v for k, v in os.environ.items() if before.get(k) != v}


def serve(listener: socket.socket, *, added: Mapping[str, str]) -> None:
    """Fork a kernel for each caller, until standard input ends, as it does with the study's front.
    Returns in each kernel too, when it has ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # kernels that ended leave no zombies
    while True:
        ready, _, _ = select.select([listener, sys.stdin.fileno()], [], [])
        if listener not in ready:
            return
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            become_kernel(caller, added=added)
            return
        caller.close()


def become_kernel(caller: socket.socket, *, added: Mapping[str, str]) -> None:
    """Be the kernel that a caller asked for, until it ends; or answer "no" where its environment
    asks libraries for something else than they have read. `added`: what they put into it.
    """
    _, files, *_ = socket.recv_fds(caller, 1, LIMIT_FILES)
    wanted = json.loads(caller.makefile("rb").readline())
    env = wanted["env"] | added
    there, asked = said_to_libraries(os.environ), said_to_libraries(env)
    if other := sorted(k for k in there.keys() | asked.keys() if there.get(k) != asked.get(k)):
        print("a kernel of its own, for another", *other, file=sys.stderr)
        caller.sendall(b"no\n")
        return
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(wanted["cwd"])
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *files[:2]]):
        os.dup2(file, number)
        os.close(file)
    for file in files[2:]:  # a lock: held until this process ends, and by none that it starts
        os.set_inheritable(file, False)
    # Modules draw or find these when they are loaded; a kernel has its own
    sys.modules["numpy"].random.seed()
    tempfile.tempdir = None
    # 1: no parent to watch, that is done here; nor is Ctrl-C explained
    sys.argv = [*wanted["argv"], "--IPKernelApp.parent_handle=1"]
    threading.Thread(target=_end_with, args=[caller], daemon=True).start()
    caller.sendall(f"{os.getpid()}\n".encode())

    from ipykernel import kernelapp

    kernelapp.launch_new_instance()


def _end_with(caller: socket.socket) -> None:
    caller.recv(1)  # nothing is ever sent: it returns when the caller is gone
    os._exit(1)


if __name__ == "__main__":
    del sys.path[0]  # this file's folder
    asked = socket.socket(fileno=int(sys.argv[1]))
    serve(asked, added=load())

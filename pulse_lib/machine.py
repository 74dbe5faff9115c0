"""What the machine gives a command of the kit: cores, memory, a home folder to write to, text in
UTF-8, and signals that end it in order.
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pulse_lib.files import INSTALLED, REPOSITORY

# Where programs below the kit keep their own files, in a folder that stands in for the home
_KEPT = {
    "XDG_CACHE_HOME": "cache",
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "JUPYTER_RUNTIME_DIR": "jupyter/runtime",
    "JUPYTER_DATA_DIR": "jupyter/data",
    "JUPYTER_CONFIG_DIR": "jupyter/config",
    "IPYTHONDIR": "ipython",
    "MPLCONFIGDIR": "matplotlib",
}

ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES")  # variables by which a user tunes glibc's own
# Parameters of glibc's mallopt (malloc.h): blocks below the first size are taken from the heap, whose
# end is given back from the second size on. By itself glibc gives tensors of some MiB back at once.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MALLOC = {_M_MMAP_THRESHOLD: 2**25, _M_TRIM_THRESHOLD: 2**29}

# Read when torch's own kernels, oneDNN and MKL are first used. By themselves they take the widest
# vectors that a processor has, and with others a sum is made in another order.
ROUNDING = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"}


def cores() -> int:
    """How many cores this process may use: those that taskset, SLURM or a container left it."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """The processor's name as the system gives it, and by which vectors torch adds up in this process
    if it is loaded ("AMD EPYC, AVX2"): others round otherwise.
    """
    name = _cpu_info("model name") or platform.processor() or platform.machine()
    torch = sys.modules.get("torch")  # never imported for this
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}" if torch else name


def round_alike() -> None:
    """Have torch, in this process and in all that it starts, add up as on any processor with AVX2,
    which nearly every x86-64 one since 2013 has: then another of them gives the same numbers. To be
    called before torch is used. Nothing on other processors, and nothing where the environment has
    one of ROUNDING already: ATEN_CPU_CAPABILITY=avx512 takes wider vectors.
    """
    if has_avx2() and not ROUNDING.keys() & os.environ.keys():
        os.environ |= ROUNDING


def has_avx2() -> bool:
    """Whether the processor is known to have AVX2; on Linux only."""
    return "avx2" in _cpu_info("flags").split()


def _cpu_info(field: str) -> str:
    told = (line.partition(":") for line in _cpu_info_lines())
    return next((value.strip() for name, _, value in told if name.strip() == field), "")


def _cpu_info_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not on Linux
        return []


def keep_memory() -> bool:
    """Have this process use freed memory again instead of giving it back to the system, which clears
    each page before it returns; what that costs benchmarks/page_faults.py measures. Whether it
    could be had: not without glibc, nor where the environment says otherwise (ALLOCATOR).
    """
    if any(name.startswith(ALLOCATOR) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, or another C library
        return False
    return all(mallopt(what, size) for what, size in _MALLOC.items())


@contextmanager
def garbage_at_the_end() -> Generator[None]:
    """Have Python look for garbage once, among what was made inside, when that is done: a figure is
    tens of thousands of objects that know one another, and Python would go over all of them, and
    all that were there before, again and again while it is drawn.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)  # what is younger than the last look: all that was made inside
        if was:
            gc.enable()


def prepare() -> None:
    """Make a command of the kit, and all that it starts, work wherever it was started. Once, before
    any thread; may begin this process anew.
    """
    _speak_utf8()
    _hear_signals()
    _have_a_home()
    round_alike()
    if INSTALLED:
        os.environ["PULSE_HOME"] = str(REPOSITORY)  # the same folder for kernels and jobs


def _speak_utf8() -> None:
    # A locale like latin-1 decides how files, file names and output are read and written, in every
    # library below: Python can be told otherwise only when it starts.
    encodings = {sys.getfilesystemencoding(), getattr(sys.stdout, "encoding", None) or "utf-8"}
    if {name.lower().replace("_", "-") for name in encodings} == {"utf-8"}:
        return
    if os.environ.get("PULSE_UTF8") == "1":
        return  # begun anew already, and something still insists
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8", "PULSE_UTF8": "1"}
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _hear_signals() -> None:
    # A shell without job control ignores SIGINT in what it starts with `&`, and that is inherited:
    # Ctrl-C, papermill and Jupyter would not be heard.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # End in order, children first, when asked to or when the terminal is closed (not under nohup)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def _have_a_home() -> None:
    home = Path(os.path.expanduser("~"))
    if home.is_absolute() and _takes_files(home):
        return
    place = Path(tempfile.gettempdir()) / f"pulse-home-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        if place.stat().st_uid != os.getuid() or place.is_symlink():
            raise FileExistsError(place)
    except OSError:
        place = Path(tempfile.mkdtemp(prefix="pulse-home-"))
    models = home / ".cache" / "huggingface"
    if "HF_HOME" not in os.environ and models.is_dir():
        os.environ["HF_HOME"] = str(models)  # can still be read from
    for name, folder in _KEPT.items():
        os.environ.setdefault(name, str(place / folder))


def _takes_files(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False

"""Kernels forked from a process that has loaded the libraries: what they compute and how they end is
as with a kernel of its own, and where a fork would not do there is one of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from rich.console import Console
from waiting import wait_for

from pulse_lib.files import REPOSITORY
from pulse_lib.runs.kinds import KINDS, notebooks_folder
from pulse_lib.study import batch, grid, kernels

# What a run could notice of its process, and numbers that its libraries draw and compute
PROCESS = """
import hashlib, json, os, random, resource, signal, sys, threading
import numpy as np
import torch
torch.manual_seed(3)
layer = torch.nn.Linear(64, 64)
x = torch.randn(32, 64)
layer(x).pow(2).mean().backward()
draws = np.random.default_rng(5).normal(size=3).tolist()
print(json.dumps({
    "env": {k: v for k, v in sorted(os.environ.items())
            if k not in ("JPY_PARENT_PID", "TORCHINDUCTOR_CACHE_DIR", "PULSE_WARM_KERNELS")},
    "folder": os.getcwd(), "path": sys.path, "session": os.getsid(0) == os.getpid(),
    "signals": [str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "child": os.system("exit 3"), "input": sys.stdin.__class__.__name__,
    "threads": torch.get_num_threads(), "seed": torch.initial_seed(), "draws": draws,
    "gradient": hashlib.sha256(layer.weight.grad.numpy().tobytes()).hexdigest(),
}))
"""
# Slow, and needed by no run with a model that is not in 4 bits
NOT_NEEDED = """bitsandbytes torch._inductor.compile_fx triton torchvision datasets sklearn networkx
papermill snakemake pulse_lib.pretrain.recipe""".split()
WHO = "import json, os; print(json.dumps([os.getpid(), os.getppid()]))"


def execute(cell: str, *, env: dict | None = None, files: tuple[int, ...] = (), seconds: int = 120):
    """What a cell prints, as JSON, in a kernel of the kit's manager."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    manager = kernels.kernel_manager(env or {}, files)
    client = NotebookClient(
        book, kernel_manager_class=manager, startup_timeout=180, timeout=seconds
    )
    asyncio.run(client.async_execute())
    return json.loads("".join(out.get("text", "") for out in book.cells[0].outputs))


@pytest.fixture(scope="module")
def warmth(tmp_path_factory):
    """What a study adds to its jobs' environment; the libraries are loaded."""
    log = tmp_path_factory.mktemp("warm") / "kernels.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(kernels.SWITCH, "1")
        for key, value in kernels.THREADS.items():
            patch.setenv(key, value)
        patch.delenv("MPLBACKEND", raising=False)
        with kernels.warm(2, log, env=dict(os.environ)) as found:
            if not found:
                pytest.skip("no kernels can be forked here")
            yield found
    lines = log.read_text().splitlines()
    assert all(line.startswith("a kernel of its own, for another ") for line in lines), lines


def test_a_forked_kernel_is_as_one_of_its_own(warmth):
    forked, own = execute(PROCESS, env=warmth), execute(PROCESS)
    assert forked == own and own["threads"] == 1 and own["child"] >> 8 == 3


def test_a_forked_kernel_is_no_child_and_draws_its_own_random_numbers(warmth):
    cell = "import json, os, random, numpy as np; " + (
        "print(json.dumps([os.getppid(), random.random(), np.random.random()]))"
    )
    (parent, *one), (again, *two) = execute(cell, env=warmth), execute(cell, env=warmth)
    assert parent == again != os.getpid() and one[0] != two[0] and one[1] != two[1]
    assert execute(cell)[0] == os.getpid()


def test_all_that_is_slow_is_loaded_before_and_the_kit_itself_is_not(warmth):
    # 07 is a guide: it runs others, and is in no study
    imports = [imports_of(notebooks_folder() / f"{row.notebook}.ipynb") for row in KINDS.values()]
    cell = "import sys, json; before = set(sys.modules)\n" + "\n".join(imports)
    cell += "\nprint('\\n', json.dumps([sorted(before), sorted(sys.modules)]))"
    before, after = execute(
        cell.replace("print(colab", "str(colab").replace("print(f", "str(f"), env=warmth
    )
    assert not [name for name in before if name.split(".")[0] == "pulse_lib"]
    new = {name for name in set(after) - set(before) if not name.startswith("pulse_lib")}
    slow = {"torch", "transformers", "peft", "scipy", "matplotlib", "seaborn", "pandas"}
    assert "pulse_lib.unlearn.task" in after and len(new) < 40
    assert not {name for name in new if name.split(".")[0] in slow}
    assert not set(NOT_NEEDED) & set(after)


def imports_of(path) -> str:
    """The cell of a notebook that imports what it needs."""
    cells = [
        cell.source for cell in nbformat.read(path, as_version=4).cells if "import" in cell.source
    ]
    return next(cell for cell in cells if "\nfrom pulse_lib" in cell)


@pytest.mark.parametrize(("name", "value"), [("OMP_NUM_THREADS", "2"), ("HF_HOME", "/elsewhere")])
def test_what_a_library_would_read_otherwise_has_a_kernel_of_its_own(warmth, name, value):
    assert execute(WHO, env=warmth | {name: value})[1] == os.getpid()
    assert execute(WHO, env=warmth | {"PULSE_PROGRESS_FILE": "/x"})[1] != os.getpid()


def test_without_the_warm_process_there_is_a_kernel_of_its_own(warmth, tmp_path):
    assert execute(WHO, env={kernels.ADDRESS: str(tmp_path / "gone")})[1] == os.getpid()


def test_a_kernel_that_is_killed_is_noticed(warmth):
    with pytest.raises(DeadKernelError):
        execute("import os; os.kill(os.getpid(), 9)", env=warmth)


def test_a_kernel_is_interrupted(warmth):
    cell = """
import _thread, json, os, signal, threading, time
threading.Timer(0.5, os.killpg, [os.getpgid(0), signal.SIGINT]).start()
try:
    time.sleep(60)
except KeyboardInterrupt:
    print(json.dumps("interrupted"))
"""
    assert execute(cell, env=warmth) == "interrupted"


def test_a_kernel_ends_with_its_runner(warmth, tmp_path):
    said = tmp_path / "pid"
    cell = f"import os, time; open({str(said)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    code = f"import test_kernels as t; t.execute({cell!r}, env={warmth!r})"
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY / "tests")
    wait_for(lambda: said.exists() and said.read_text())
    pid = int(said.read_text())
    os.kill(pid, 0)
    runner.kill()
    runner.wait()
    wait_for(lambda: gone(pid))


def test_a_lock_is_held_by_the_kernel_until_it_ends(warmth, tmp_path):
    path = tmp_path / "lock"
    cell = f"""
import json, os
found = [n for n in os.listdir("/proc/self/fd") if os.path.realpath("/proc/self/fd/" + n) == {str(path)!r}]
print(json.dumps([os.get_inheritable(int(n)) for n in found]))
"""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert execute(cell, env=warmth, files=(file.fileno(),)) == [False]
    said = tmp_path / "held"
    cell = f"import time; open({str(said)!r}, 'w').write('x'); time.sleep(100)"
    code = f"""
import fcntl, test_kernels as t
file = open({str(path)!r}, "w")
fcntl.flock(file, fcntl.LOCK_EX)
t.execute({cell!r}, env={warmth!r}, files=(file.fileno(),))
"""
    runner = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY / "tests")
    wait_for(said.exists)
    with open(path) as file:
        assert is_locked(file)
        runner.kill()
        runner.wait()
        wait_for(lambda: not is_locked(file))


def is_locked(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return False
    except ProcessLookupError:
        return True


# --- where there are none ---------------------------------------------------------------------


def test_there_are_none_for_one_run_beside_a_gpu_or_when_switched_off(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "DEV", tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv(kernels.SWITCH, "1")
    assert kernels.possible()
    monkeypatch.setenv(kernels.SWITCH, "0")
    assert not kernels.possible()
    monkeypatch.delenv(kernels.SWITCH)
    (tmp_path / "nvidia0").touch()
    assert not kernels.possible()
    (tmp_path / "nvidia0").unlink()
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing may be started
    with kernels.warm(1, tmp_path / "log", env={}) as found:
        assert found == {}
    monkeypatch.setattr(sys, "platform", "darwin")
    with kernels.warm(2, tmp_path / "log", env={}) as found:
        assert found == {}


def test_a_name_too_long_for_a_socket_is_no_failure(monkeypatch, tmp_path):
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    monkeypatch.setattr(kernels.tempfile, "tempdir", str(folder))
    monkeypatch.setattr(kernels, "possible", lambda: True)
    with kernels.warm(2, tmp_path / "log", env={}) as found:
        assert found == {}
    assert execute(WHO)[1] == os.getpid()
    assert not list(folder.iterdir())


# --- how they are spoken to --------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc for the ports")
def test_a_kernel_is_spoken_to_by_no_port_and_leaves_no_sockets(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels.tempfile, "tempdir", str(tmp_path))
    listening = """
import json, pathlib
lines = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
mine = {pathlib.Path(f"/proc/self/fd/{n}").resolve().name for n in range(256)}
print(json.dumps([line[1] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in mine]))
"""
    own = 1  # one is ipykernel's, which the system chooses as it is bound
    assert len(execute(listening)) <= own
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(kernels, "sockets_folder", lambda: None)
    assert len(execute(listening)) >= own + 5  # by ports


# --- a study ----------------------------------------------------------------------------------


def test_the_runs_of_a_study_are_forked_and_nothing_is_left(kit, monkeypatch, tmp_path):
    if not kernels.possible() and os.environ.get(kernels.SWITCH) != "0":
        pytest.skip("no kernels can be forked here")
    monkeypatch.setenv(kernels.SWITCH, "1")
    said = tmp_path / "parents"
    trap = f"open({str(said)!r}, 'a').write(f'{{os.getpid()}} {{os.getppid()}}\\n')"
    for number in ("01", "03", "05"):
        monkeypatch.setenv(f"TRAP_{number}", trap)
    screen = Console(file=io.StringIO(), width=160, markup=False, emoji=False)
    options = grid.Options(**kit.shared, methods=["ga"], scenarios=["pretrained"])
    assert batch.run_study(options, 2, console=screen), screen.file.getvalue()
    pids, parents = zip(
        *(map(int, line.split()) for line in said.read_text().splitlines()), strict=True
    )
    assert len(set(pids)) == 3 and len(set(parents)) == 1
    for pid in {*pids, *parents}:
        wait_for(lambda pid=pid: gone(pid))
    assert (kit.out / ".logs" / "kernels.log").read_bytes() == b""

"""A SLURM of one node on this machine, with daemons, logs and keys in one folder: munged, slurmctld and
slurmd of the distribution. Needs root. The node says that it has two graphics cards, which stand for
nothing.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "sinfo")
PACKAGES = ("slurm-wlm", "munge")
# Where Debian's and Ubuntu's SLURM looks by itself. Snakemake's executor clears SLURM_* from the
# environment, SLURM_CONF too: so the files must stand here while the test runs.
HOME = Path("/etc/slurm")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
CARDS = 2

CONF = """
ClusterName=pulse-test
SlurmctldHost={host}
SlurmctldPort={port}
SlurmdPort={port_d}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
KillWait=5
GresTypes=gpu
NodeName={host} NodeHostname={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{cards} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Missing(Exception):
    """Why there can be no SLURM here."""


def install() -> None:
    """Have the packages, by apt-get where they are missing. Raises Missing where that cannot be."""
    if os.geteuid() != 0:
        raise Missing("its daemons need root")
    if all(shutil.which(tool, path=PATH) for tool in TOOLS):
        return
    if not shutil.which("apt-get"):
        raise Missing(f"there is no apt-get, and {', '.join(PACKAGES)} are missing")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *words], env=quiet, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"apt-get {words[0]}: {done.stderr.strip()[-300:]}")


@contextmanager
def cluster(folder: Path) -> Generator[None]:
    """A SLURM that takes jobs, within `with`. Raises Missing if this machine has one of its own."""
    taken = [path for path in (HOME / "slurm.conf", HOME / "gres.conf") if path.exists()]
    if taken:
        raise Missing(f"{taken[0]} is there: this machine has a SLURM of its own")
    had_home = HOME.exists()
    folder.mkdir(parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    cards = [folder / f"nvidia{i}" for i in range(CARDS)]
    for card in cards:
        try:
            os.mknod(card, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # as /dev/null
        except OSError as error:
            raise Missing(f"no device file can be made ({error.strerror})") from None
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    host = socket.gethostname().split(".")[0]
    port, port_d = _free_ports(2)
    text = CONF.format(
        folder=folder,
        host=host,
        port=port,
        port_d=port_d,
        cpus=os.cpu_count(),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2,
        cards=CARDS,
    )
    files = "\n".join(f"NodeName={host} Name=gpu File={card}" for card in cards)
    ours: list[Path] = []
    try:
        HOME.mkdir(exist_ok=True)
        for name, words in (("slurm.conf", text), ("gres.conf", files + "\n")):
            ours.append(HOME / name)
            (HOME / name).write_text(words)
        munge = ["munged", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
        munge += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"]
        _start([*munge, f"--seed-file={folder}/munge.seed"])
        _start(["slurmctld"])
        _start(["slurmd", "-N", host])
        _wait(lambda: said("sinfo", "-h", "-o", "%T").strip() == "idle", folder=folder)
        yield
    finally:
        said("scancel", "--user=root")
        for name in ("slurmd", "slurmctld", "munged"):
            _end(folder / f"{name}.pid")
        for path in ours:
            path.unlink(missing_ok=True)
        if not had_home:
            with suppress(OSError):
                HOME.rmdir()


def said(*command: str) -> str:
    """What a command of SLURM prints; "" if it fails."""
    done = subprocess.run(command, env=os.environ | {"PATH": PATH}, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def lose_the_node() -> None:
    """The node is down with all its jobs, and comes back."""
    node = f"nodename={socket.gethostname().split('.')[0]}"
    env = os.environ | {"PATH": PATH}
    down = ["scontrol", "update", node, "state=down", "reason=test"]
    subprocess.run(down, env=env, check=True)
    time.sleep(3)
    # Refused where the node has come back by itself already, which is as well
    subprocess.run(["scontrol", "update", node, "state=resume"], env=env, capture_output=True)


def _start(command: list[str]) -> None:
    done = subprocess.run(command, env=os.environ | {"PATH": PATH}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} does not start: {done.stderr.strip()}")


def _wait(ready, *, folder: Path) -> None:
    until = time.monotonic() + 60
    while not ready():
        if time.monotonic() > until:
            raise RuntimeError(f"the node takes no jobs; logs: {folder}")
        time.sleep(0.5)


def _end(pid_file: Path) -> None:
    """End the daemon of a pid file that it wrote itself."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        return
    for how, patience in ((signal.SIGTERM, 20.0), (signal.SIGKILL, 5.0)):
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if not Path(f"/proc/{pid}").exists():
                return
            time.sleep(0.2)


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports

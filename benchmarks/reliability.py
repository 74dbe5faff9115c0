"""What is lost when things go wrong: python benchmarks/reliability.py (make check-reliability).

Three parts, each on its own scratch folder. *Kills*: a run of the smoke study is interrupted or
killed at a drawn moment, in every process that has a part in it, and begun again; its rows must be
those of a run that nobody disturbed. *Inputs*: profiles, parameters and options that make no sense;
each must end in a sentence that names what is wrong. *File system*: full, read-only, without locks,
with clocks set wrongly. Writes outputs/reference/reliability.json and docs/reliability.md.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
from bad_inputs import inputs

from pulse_lib.files import REPOSITORY, write_json
from pulse_lib.runs.kinds import KINDS, run_folder
from pulse_lib.study import forking

RESULT = REPOSITORY / "outputs/reference/reliability.json"
PAGE = REPOSITORY / "docs/reliability.md"
STUDY = ["--profile", "smoke", "--methods", "ga", "--scenarios", "finetuned", "--jobs", "1"]
AXES = {"scenario": "finetuned", "method": "ga", "strategy": "adapter_per_request"}
AXES |= {"trained_part": "projector+llm", "order": 0, "seed": 0}
VICTIMS = ("kernel", "runner", "snakemake", "front", "group", "warm process")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
PATIENCE = 240  # seconds for any one command


# --- kills ------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def study_command(out: Path) -> list[str]:
    return [sys.executable, "-m", "pulse_lib", "run", *STUDY, "--out-dir", str(out)]


def notebook_command(out: Path, kind: str) -> list[str]:
    row = KINDS[kind]
    given = {name: AXES[name] for name in row.axes} | {"profile": "smoke", "out_dir": out}
    words = [word for key, value in given.items() for word in ("-p", key, str(value))]
    return [sys.executable, "-m", "pulse_lib", "notebook", row.notebook, "--quiet", *words]


def by_hand_command(out: Path, kind: str) -> list[str]:
    """A notebook in a real JupyterLab: its kernel knows nothing of batches."""
    given = {name: AXES[name] for name in KINDS[kind].axes}
    given |= {"profile": "smoke", "out_dir": str(out)}
    words = [f"{key}={value!r}" for key, value in given.items()]
    by_hand = REPOSITORY / "benchmarks" / "by_hand.py"
    return [sys.executable, str(by_hand), KINDS[kind].notebook, *words]


def rows_of(folder: Path) -> dict[str, str]:
    """sha256 of the files that a run's numbers are in, by name."""
    names = ["rows.parquet", "path.csv", "adapters/final/adapter_model.safetensors"]
    names += ["adapters/finetune/adapter_model.safetensors", "tables/single_shot.csv"]
    there = [folder / name for name in names if (folder / name).is_file()]
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in there
    }


def victim(process: psutil.Process, who: str) -> psutil.Process | None:
    """The process of a study (or of one notebook) that plays this part, if it is there yet."""
    if who == "front":
        return process
    marks = {
        "kernel": "ipykernel_launcher",
        "runner": "notebook",
        "snakemake": "snakemake",
        "server": "jupyterlab",
        "warm process": forking.__file__,
    }
    wanted = marks["snakemake" if who == "group" else who]
    for child in [process, *process.children(recursive=True)]:
        try:
            words = child.cmdline()
        except psutil.Error:
            continue
        if wanted in words and "sh" not in Path(words[0]).name:
            return child
        if who == "kernel" and is_forked_kernel(child):
            return child
    return None


def is_forked_kernel(process: psutil.Process) -> bool:
    """Whether a study's warm process, which has the same command line, forked this one."""
    try:
        above = process.parent()
        return above is not None and all(forking.__file__ in p.cmdline() for p in (process, above))
    except psutil.Error:
        return False


def disturbed(command: list[str], *, who: str, how: signal.Signals, after: float) -> float:
    """Run a command, strike one of its processes `after` seconds once it is there, and wait until
    all of them are gone; the moment of the strike, or -1 if it had ended before.
    """
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    seen, struck = None, -1.0
    tree = psutil.Process(process.pid)
    below: dict[int, psutil.Process] = {}
    while process.poll() is None and time.monotonic() - begun < PATIENCE:
        try:
            below |= {child.pid: child for child in tree.children(recursive=True)}
            seen = seen or (victim(tree, who) and time.monotonic())
            if struck < 0 and seen and time.monotonic() - seen >= after:
                target = victim(tree, who)
                if target is not None:
                    if who == "group":
                        os.killpg(os.getpgid(target.pid), how)
                    else:
                        target.send_signal(how)
                    struck = time.monotonic() - begun
        except (psutil.Error, ProcessLookupError):
            pass
        time.sleep(0.05)
    psutil.wait_procs(list(below.values()), timeout=90)
    left = [child for child in below.values() if child.is_running()]
    for child in left:
        child.kill()
    process.kill()
    return struck


def kill_trial(trial: dict, whole: Path, scratch: Path) -> dict:
    """One kill and what came of it: "equal" if the run, begun again, left the undisturbed rows."""
    kind, out = trial["kind"], scratch / f"kill-{trial['number']}"
    shutil.copytree(whole, out)
    folder = run_folder(kind, out, **AXES)
    want = rows_of(run_folder(kind, whole, **AXES))
    if trial["before"] == "missing":
        shutil.rmtree(folder)
    kept = rows_of(folder)
    make = {"study": study_command, "notebook": notebook_command, "JupyterLab": by_hand_command}
    way = make[trial["mode"]]
    first = way(out) if trial["mode"] == "study" else way(out, kind)
    struck = disturbed(
        first, who=trial["who"], how=signal.Signals[trial["how"]], after=trial["after"]
    )
    found = {"struck_at": round(struck, 2), "earlier_result_kept": True}
    if trial["before"] == "whole" and struck >= 0:  # a result that was there must still be there
        found["earlier_result_kept"] = rows_of(folder) == kept
    again = study_command(out) if trial["mode"] == "study" else notebook_command(out, kind)
    done = subprocess.run(
        again, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    found["equal"] = done.returncode == 0 and rows_of(folder) == want
    if not found["equal"]:
        found["said"] = (done.stdout + done.stderr)[-800:]
    shutil.rmtree(out, ignore_errors=True)
    return trial | found


def kill_trials(n: int, seed: int) -> list[dict]:
    """`n` trials: every process, signal and kind of run in turn, at drawn moments."""
    generator = random.Random(seed)
    names = [s.name for s in SIGNALS]
    study = itertools.product(["study"], ("single_shot", "sequential"), VICTIMS, names)
    kinds = [kind for kind, row in KINDS.items() if row.analysed]  # probes read what these leave
    alone = itertools.product(["notebook"], kinds, ("runner", "kernel"), names)
    hand = itertools.product(["JupyterLab"], kinds, ("kernel", "server"), ("SIGINT", "SIGKILL"))
    every = [*study, *alone, *hand]
    generator.shuffle(every)
    trials = []
    for number, (mode, kind, who, how) in enumerate(itertools.islice(itertools.cycle(every), n)):
        before = "missing" if mode == "study" else generator.choice(["missing", "whole"])
        after = round(generator.uniform(0.2, 8.0 if mode == "JupyterLab" else 6.0), 2)
        trials.append(
            {"number": number, "mode": mode, "kind": kind, "who": who, "how": how}
            | {"before": before, "after": after}
        )
    return trials


def kills(n: int, seed: int, *, scratch: Path, jobs: int) -> list[dict]:
    """All kill trials, `jobs` at a time."""
    whole = scratch / "whole"
    subprocess.run(study_command(whole), cwd=REPOSITORY, env=environment(), check=True)
    with ThreadPoolExecutor(jobs) as pool:
        found = []
        for done in pool.map(lambda t: kill_trial(t, whole, scratch), kill_trials(n, seed)):
            found.append(done)
            ok = done["equal"] and done["earlier_result_kept"]
            words = " ".join(str(done[k]) for k in ("mode", "kind", "who", "how", "before"))
            print(f"{len(found)}/{n} {words} at {done['struck_at']} s: {'ok' if ok else done}")
    return found


# --- file system ------------------------------------------------------------------------------


def file_system(scratch: Path) -> list[dict]:
    """What a study does on a file system that is not as it should be."""
    found, whole = [], scratch / "fs"
    run = {
        "cwd": REPOSITORY,
        "env": environment(),
        "capture_output": True,
        "text": True,
        "timeout": PATIENCE,
    }
    subprocess.run(study_command(whole), **run, check=True)

    future = time.time() + 10 * 365 * 86400
    for file in whole.rglob("*"):
        os.utime(file, (future, future))
    done = subprocess.run(study_command(whole), **run)
    found.append(verdict("files dated ten years ahead", done, 0, "Nothing to do"))

    for file in whole.rglob("*"):
        os.utime(file, (0, 0))
    done = subprocess.run(study_command(whole), **run)
    found.append(verdict("files dated 1970", done, 0, "Nothing to do"))

    rows = run_folder("single_shot", whole, **AXES) / "rows.parquet"
    want = rows_of(rows.parent)
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    done = subprocess.run(study_command(whole), **run)
    line = verdict("a flipped bit in a finished run", done, 0, "rows.parquet")
    found.append(line | ({} if rows_of(rows.parent) == want else {"verdict": "fault: not remade"}))

    for what, options, code, words in (
        ("a full disk", "size=300k", 1, "disk is full"),
        ("no room for another file (inodes)", "nr_inodes=60", 1, "no more files fit"),
        ("a read-only file system", "ro", 1, "read-only"),
    ):
        with mounted(scratch / "mounted", options) as place:
            if place:
                done = subprocess.run(study_command(place / "out"), **run)
                found.append(verdict(what, done, code, words))
    patch = scratch / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(NO_FLOCK)
    paths = os.pathsep.join(filter(None, [str(patch), os.environ.get("PYTHONPATH")]))
    without = run | {"env": environment() | {"PYTHONPATH": paths}}
    done = subprocess.run(study_command(scratch / "no locks"), **without)
    line = verdict("no flock (as on Lustre)", done, 0, "Report:")
    made = rows_of(run_folder("single_shot", scratch / "no locks", **AXES))
    found.append(line | ({} if made == want else {"verdict": "fault: other rows"}))
    readonly = scratch / "a file"
    readonly.write_text("x")
    done = subprocess.run(study_command(readonly / "out"), **run)
    found.append(verdict("a file where the folder should be", done, 1, "a file, not a folder"))
    return found


# Python reads this at its start, in every process of the study.
NO_FLOCK = """
import errno, fcntl

def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

fcntl.flock = flock
"""


@contextmanager
def mounted(at: Path, options: str) -> Iterator[Path | None]:
    """A small file system in memory, or None where this user may not mount one."""
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)])
    try:
        yield at if done.returncode == 0 else None
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", str(at)])


def verdict(what: str, done: subprocess.CompletedProcess, code: int, words: str) -> dict:
    said = done.stdout + done.stderr
    clear = done.returncode == code and words in said and "Traceback" not in said
    return {
        "what": what,
        "verdict": "clear" if clear else f"fault: {done.returncode} {said[-500:]}",
    }


# --- the page ---------------------------------------------------------------------------------


def page(result: dict) -> str:
    """docs/reliability.md, from the numbers of a run alone."""
    kills, bad, odd = result["kills"], result["inputs"], result["file_system"]
    struck = [k for k in kills if k["struck_at"] >= 0]
    lines = [
        "# Reliability",
        "",
        f"Written by `{result['command']}` at commit {result['commit']} in {result['minutes']} "
        "minutes; nothing here is typed by hand.",
        "",
        "## Kills",
        "A run of the smoke study is struck at a drawn moment, in one of the processes that have a "
        "part in it, and then begun again. *Equal*: it then left the rows, trajectories, adapters "
        "and tables of a run that nobody disturbed, byte for byte. *Kept*: where a whole result "
        "was there before, it was still there after the strike.",
        "",
        "| run by | process | signal | struck | equal | kept |",
        "|---|---|---|---|---|---|",
    ]
    groups: dict[tuple, list[dict]] = {}
    for k in struck:
        groups.setdefault((k["mode"], k["who"], k["how"]), []).append(k)
    for key, group in sorted(groups.items()):
        equal, kept = (sum(k[w] for k in group) for w in ("equal", "earlier_result_kept"))
        lines.append(f"| {' | '.join(key)} | {len(group)} | {equal} | {kept} |")
    equal, kept = (sum(k[w] for k in struck) for w in ("equal", "earlier_result_kept"))
    lines.append(f"| all | | | {len(struck)} | {equal} | {kept} |")
    lines += [
        "",
        "## Bad inputs",
        "| kind | tried | clear | unclear | fault |",
        "|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(b["kind"] for b in bad):
        of = [b["verdict"].split(":")[0] for b in bad if b["kind"] == kind]
        counts = [of.count(v) for v in ("clear", "unclear", "fault")]
        lines.append(f"| {kind} | {len(of)} | {' | '.join(map(str, counts))} |")
    lines += ["", "## File systems", "| what | |", "|---|---|"]
    lines += [f"| {o['what']} | {o['verdict'].split(':')[0]} |" for o in odd]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=70)
    parser.add_argument("--inputs", type=int, default=1200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given, begun = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        bad = inputs(given.inputs, given.seed, scratch=scratch)
        odd = file_system(scratch)
        struck = kills(given.kills, given.seed, scratch=scratch, jobs=given.jobs)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True
    )
    result = {
        "command": " ".join(["python benchmarks/reliability.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "minutes": round((time.monotonic() - begun) / 60, 1),
        "kills": struck,
        "inputs": bad,
        "file_system": odd,
    }
    write_json(RESULT, result)
    PAGE.write_text(page(result))
    wrong = [b for b in bad if not b["verdict"].startswith("clear")]
    wrong += [o for o in odd if o["verdict"] != "clear"]
    wrong += [k for k in struck if not (k["equal"] and k["earlier_result_kept"])]
    for line in wrong:
        print("WRONG", line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

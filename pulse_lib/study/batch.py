"""The front of a study: what is to be done, Snakemake doing it, one live line, and a summary."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pulse_lib.data import source
from pulse_lib.files import KIT, read_json, show, write_error, write_json
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import KINDS, RunSpec, run_folder
from pulse_lib.runs.manifest import MANIFEST, check_writable, found_runs
from pulse_lib.runs.place import log_file
from pulse_lib.study import grid, jobs
from pulse_lib.study.kernels import warm

LITTLE_KIB = 1024  # a run needs more
LINE_SECONDS = 15.0  # between progress lines where no terminal shows a live one
END_SECONDS = 10.0  # a stopped study has this long to end by itself


def run_study(
    options: grid.Options,
    n_jobs: int,
    *,
    console: Console,
    ask: Callable[[str], bool] | None = None,
) -> bool:
    """Bring a study up to date; True if all of it is done. `console` reads no markup: folders and
    messages are printed as they are.

    Runs that an earlier state of the library made are made anew as `options.rebuild` says; "ask"
    asks once, or, with nobody to ask, keeps them and ends with a line that says so. Raises
    PulseError if the folder cannot be written or another front is at work in it.
    """
    profile = load_profile(options.profile)
    specs = grid.study(options)
    out = specs[0].out
    rebuild, kept = options.rebuild, grid.plan(profile, specs)
    if rebuild == "ask" and kept.kept:
        wanted = ask is not None and ask(_changed(kept) + " Make them anew?")
        rebuild = "library" if wanted else "keep"
    plan, code = grid.plan(profile, specs, rebuild=rebuild), 0
    if plan.todo:
        check_writable(out)
        source.check_there(profile)
        busy = f"another study is at work in {show(out)}"
        # Not Snakemake's own lock: that one stays behind when Snakemake is killed, and the same
        # command would not go on (test_a_stopped_study_leaves_no_process_and_can_be_started_again).
        with jobs.Lock(jobs.logs_folder(out) / "front.lock", busy, patience=3.0) as lock:
            plan = grid.plan(profile, specs, rebuild=rebuild)
            _announce(plan, n_jobs, console=console)
            code = _work(plan, options, n_jobs=n_jobs, rebuild=rebuild, console=console, lock=lock)
        plan = grid.plan(profile, grid.study(options), rebuild=rebuild)
    else:
        console.print(
            f"Nothing to do: all {len(specs)} runs in {show(out)} are complete.", soft_wrap=True
        )
    for spec in plan.specs:
        for words in plan.states[spec.folder].without_effect:
            console.print(f"{spec.name}: {words}", style="yellow", soft_wrap=True)
    if undefined := ",".join(map(str, grid.without_oracle(options))):
        console.print(
            f"oracle, scenario pretrained, seed {undefined}: not defined, since no model was "
            f"pre-trained without their people; python -m pulse_lib oracles --profile "
            f"{options.profile} --seeds {undefined} makes it",
            style="yellow",
            soft_wrap=True,
        )
    for folder, why in found_runs(out, profile):
        if why and folder not in plan.states:
            console.print(f"left out of the analysis: {why}", style="yellow", soft_wrap=True)
    if plan.todo:
        _failures(plan, console, code=code)
    else:
        show_summary(run_folder("analysis", out), console)
    if plan.kept:  # the last line, so that nobody takes their numbers for those of this library
        how = "Kept, not made anew: " if rebuild == "keep" else ""
        console.print(
            f"{how}{_changed(plan)} `--rebuild library` makes them anew.",
            style="bold yellow",
            soft_wrap=True,
        )
    return not plan.todo


def _changed(plan: grid.Plan) -> str:
    names = plan.changed_files
    shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
    n = len(plan.kept)
    return (
        f"{n} {'run was' if n == 1 else 'runs were'} made before these files of the library "
        f"changed: {shown}."
    )


def _announce(plan: grid.Plan, n_jobs: int, *, console: Console) -> None:
    todo, out = plan.todo, plan.specs[0].out
    counts = Counter(spec.kind for spec in todo)
    parts = ", ".join(f"{counts[kind]} {row.label}" for kind, row in KINDS.items() if counts[kind])
    console.print(
        f"{len(todo)} of {len(plan.specs)} runs to do in {show(out)}: {parts}; {n_jobs} at a time.",
        soft_wrap=True,
    )
    for spec in todo:
        state = plan.states[spec.folder]
        if state.state == "stale" and "is made anew" not in state.why:
            console.print(f"stale  {spec.name}: {state.why}", style="yellow", soft_wrap=True)


def snakemake_command(out: Path, n_jobs: int) -> list[str]:
    """The command that the front starts: Snakemake on the kit's Snakefile, with its own
    state kept in the study's folder. Its settings are in profiles/default.
    """
    work = out / ".snakemake-work"
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(KIT / "Snakefile")),
        *("--directory", str(work), "--runtime-source-cache-path", str(work / "cache")),
        *("--workflow-profile", str(KIT / "profiles" / "default")),
        *("--cores", str(n_jobs), "--configfile", str(work / "options.json")),
    ]


def _work(
    plan: grid.Plan,
    options: grid.Options,
    *,
    n_jobs: int,
    rebuild: grid.Rebuild,
    console: Console,
    lock: jobs.Lock,
) -> int:
    """Have Snakemake do what is to be done; its exit code, below 0 for the signal that ended it."""
    out = plan.specs[0].out
    token, log_path = uuid.uuid4().hex, jobs.logs_folder(out) / "snakemake.log"
    try:
        for spec in plan.specs:
            for suffix in ("progress", "failed"):
                jobs.job_file(spec, suffix).unlink(missing_ok=True)
        lock.write(token)
        log_path.touch()
    except OSError as error:
        raise write_error(error, log_path) from None
    write_json(out / ".snakemake-work" / "options.json", options.as_dict() | {"rebuild": rebuild})
    env = os.environ | {"PULSE_FRONT": f"{lock.path}|{token}", "SNAKEMAKE_PROFILE": "none"}
    kernels = warm(len(plan.todo), jobs.logs_folder(out) / "kernels.log", env=env)
    with open(log_path, "w", encoding="utf-8") as log, kernels as warmth:
        # In its own session: Ctrl-C reaches this process only, which then ends all of them in
        # order.
        process = subprocess.Popen(
            snakemake_command(out, n_jobs),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=env | warmth,
            start_new_session=True,
        )
        try:
            _watch(plan, process, console=console)
        except BaseException:
            _stop(process)
            raise
    if process.returncode < 0:
        _stop(process)  # it was killed, and has left its jobs behind
    return process.returncode


def _stop(process: subprocess.Popen) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(END_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _watch(plan: grid.Plan, process: subprocess.Popen, *, console: Console) -> None:
    begun, told, seen = time.monotonic(), time.monotonic(), {}
    status = console.status("starting") if console.is_terminal else None
    if status:
        status.start()
    try:
        while True:
            ended = process.poll() is not None
            for spec in plan.todo:
                _tell(spec, plan, seen=seen, console=console)
            line = Text(
                _line(plan, seen, seconds=time.monotonic() - begun),
                no_wrap=True,
                overflow="ellipsis",
            )
            if status:
                status.update(line)
            elif time.monotonic() - told >= LINE_SECONDS:
                told = time.monotonic()
                console.print(line)
            if ended:
                return
            time.sleep(0.3)
    finally:
        if status:
            status.stop()


def _tell(spec: RunSpec, plan: grid.Plan, *, seen: dict[Path, str], console: Console) -> None:
    if spec.folder in seen:
        return
    failed = jobs.job_file(spec, "failed")
    if failed.exists():
        seen[spec.folder] = "failed"
        console.print(f"FAILED {_read(failed)}", style="red", soft_wrap=True)
        return
    path = spec.folder / MANIFEST
    old = plan.states[spec.folder].manifest.get("run_id")
    if path.exists() and not jobs.job_file(spec, "progress").exists():
        manifest = read_json(path)
        if manifest["run_id"] != old:
            seen[spec.folder] = "done"
            console.print(f"done   {spec.name}  {manifest['seconds']:.0f} s", soft_wrap=True)


def _line(plan: grid.Plan, seen: dict[Path, str], *, seconds: float) -> str:
    running = []
    for spec in plan.todo:
        if spec.folder not in seen and jobs.job_file(spec, "progress").exists():
            running.append(f"{label(spec)}: {_read(jobs.job_file(spec, 'progress'))}")
    clock = f"{seconds // 60:.0f}:{seconds % 60:02.0f}"
    counts = Counter(seen.values())
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    return f"{clock}  {counts['done']} of {len(plan.todo)} done{failed}  " + "  |  ".join(running)


def label(spec: RunSpec) -> str:
    """A run in few words for the live line, e.g. "ga finetuned llm seed 1"."""
    known = spec.parameters
    words = [known.get("method"), known.get("scenario")]
    words += [KINDS[spec.kind].label] if spec.kind != "single_shot" else []
    words += ["llm"] if known.get("trained_part") == "llm" else []
    words += [f"seed {known['seed']}"] if known.get("seed") else []
    return " ".join(str(word) for word in words if word)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""  # it has just ended


def _failures(plan: grid.Plan, console: Console, *, code: int) -> None:
    """Print for each run that is left why it is: it failed, it was cut off, or it never began."""
    console.print()
    out = plan.specs[0].out
    snakemake_log, said = jobs.logs_folder(out) / "snakemake.log", False
    for spec in plan.todo:
        done = {path for path in plan.states if plan.states[path].state == "done"}
        waiting = [path for path in spec.inputs if path in plan.states and path not in done]
        failed, progress = (jobs.job_file(spec, suffix) for suffix in ("failed", "progress"))
        log = next(p for p in (log_file(spec.folder), snakemake_log) if p.exists())
        if failed.exists():
            why = _read(failed).removeprefix(f"{spec.notebook} failed ({spec.name}): ")
            more = "" if "log: " in why else f"\n  log: {show(log)}"
            console.print(f"failed   {spec.name}: {why}{more}", style="red", soft_wrap=True)
            said = True
        elif progress.exists():
            console.print(
                f"cut off  {spec.name}: its process was killed (at: {_read(progress) or 'start'}; "
                f"out of memory?)\n  log: {show(log)}",
                style="red",
                soft_wrap=True,
            )
        elif waiting:
            name = waiting[0].relative_to(spec.out).as_posix()
            console.print(f"not run  {spec.name}: its input {name} is not done", soft_wrap=True)
        else:
            console.print(f"not run  {spec.name}: it had not begun", soft_wrap=True)
    if code < 0 or not said:  # otherwise it was the failed runs that ended it
        console.print(_how_it_ended(code, snakemake_log), soft_wrap=True)
    if little := _little_room(out):
        console.print(little, style="red", soft_wrap=True)
    console.print(
        "When the cause is mended, the same command goes on with what is left; the rest is kept."
    )


def _little_room(out: Path) -> str:
    """A sentence if the disk is full or nearly so, else ""."""
    found = os.statvfs(out)
    free = found.f_bavail * found.f_frsize // 1024
    if free < LITTLE_KIB:
        return f"{free} KiB are left on the disk of {show(out)}: free some space"
    if found.f_files and not found.f_favail:
        return f"no more files fit on the disk of {show(out)} (df -i): remove some"
    return ""


# Lines of Snakemake's log that say why it ended, if it did by itself
_CAUSE = re.compile(r"^\S*(Error|Exception)\b.*|.*No module named .*|.*No space left.*")


def _how_it_ended(code: int, log: Path) -> str:
    if code < 0:
        return f"Snakemake was killed by {signal.Signals(-code).name}.  log: {show(log)}"
    lines = [line.strip() for line in _read(log).splitlines()]
    at = [i for i, line in enumerate(lines) if _CAUSE.fullmatch(line)]
    said = ": " + " ".join(lines[at[-1] : at[-1] + 2]) if at else ""
    return f"Snakemake ended with code {code}{said}\n  log: {show(log)}"


# --- summary ----------------------------------------------------------------------------------

METRICS = {
    "forget_multimodal": "forget\nimage",
    "forget_text": "forget\ntext",
    "retain_multimodal": "retain\nimage",
    "retain_text": "retain\ntext",
    "general": "general\n",
    "invalid_rate": "unusable\n",
}


def show_summary(analysis: Path, console: Console) -> None:
    """Print the two tables of an analysis, averaged over seeds, and the path of its report."""
    import pandas as pd

    tables = analysis / "tables"
    for name, keys in (
        ("single_shot", ["scenario", "method", "trained_part", "selection"]),
        ("sequential", ["method", "policy", "trained_part", "round"]),
    ):
        path = tables / f"{name}.csv"
        if not path.exists():
            continue
        frame = pd.read_csv(
            path, dtype=dict.fromkeys(["scenario", "method", "trained_part", "selection"], str)
        )
        if name == "sequential":
            frame = frame[frame["round"].isin([0, frame["round"].max()])]
        if not frame.empty:
            console.print(_table(frame, name, keys=keys))
    console.print(f"Report: {show(analysis / 'report.html')}", soft_wrap=True)


def _table(frame, name: str, *, keys: list[str]) -> Table:
    seeds = ", ".join(str(seed) for seed in sorted(frame["seed"].unique()))
    table = Table(
        title=f"{name.replace('_', '-')} (accuracy 0-1, mean over seeds {seeds})",
        title_justify="left",
    )
    for key in keys:
        table.add_column(key.replace("trained_part", "trained part"))
    for label in METRICS.values():
        table.add_column(label, justify="right")
    for values, group in frame.groupby(keys, sort=False, dropna=False):
        means = group[list(METRICS)].mean()
        words = ["" if value != value else str(value) for value in values]
        reached = group["forget_text"].count()
        if reached < len(group):  # a `matched` state that some seeds never came to
            words[-1] += f" ({reached} of {len(group)} seeds)"
        table.add_row(*words, *("-" if v != v else f"{v:.2f}" for v in means))
    return table

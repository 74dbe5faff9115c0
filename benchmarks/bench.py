"""How fast the kit is, measured and written down: python benchmarks/bench.py (make bench).

Runs the benchmarks below one after another, each in a process of its own, and keeps what they say in
outputs/reference/performance.json, with what `make gpu-check` has written of cards; docs/performance.md
is made from that file alone, aims beside numbers. A part that is not run again, or not to its end, keeps
what it said before, and one that cannot be run says why.

    python benchmarks/bench.py                      all parts: at most 20 minutes on two cores
    python benchmarks/bench.py --parts starts,steps these only
    python benchmarks/bench.py --parts none --demo outputs/tiny    the times of a finished demo
    python benchmarks/bench.py --parts none --three DIR            of all methods on three seeds
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, read_json, replace_file, write_json
from pulse_lib.machine import cores, round_alike
from pulse_lib.runs.kinds import run_folder, run_folders, run_name
from pulse_lib.runs.place import EXECUTED
from pulse_lib.study.kernels import THREADS

RESULT = REPOSITORY / "outputs/reference/performance.json"
PAGE = REPOSITORY / "docs/performance.md"
CARDS = REPOSITORY / "outputs/reference/gpu"  # a file of `make gpu-check` for each size
FOLDER = REPOSITORY / "benchmarks"
MINUTES = 20.0  # for all parts together
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "pandas")

# Each takes --out FILE and writes {"rows": [...]} there, rows as of a table
PARTS = {
    "steps": ("An unlearning step, against the loop otherwise written", ["steps.py"]),
    "questions": ("Asking questions, against one at a time", ["questions.py", "--repeats", "2"]),
    "starts": (
        "Until a run can begin",
        ["starts.py", "--notebooks", "01_build_datasets,03_unlearn_single_shot"],
    ),
    "straight": ("The cost of a person, of a request and of an image token", ["straight.py"]),
    "growth": ("The analysis, by the number of runs", ["growth.py", "--sizes", "60,180"]),
}
TITLES = {name: title for name, (title, _) in PARTS.items()} | {
    "demo": "The demo, run by run",
    "three_seeds": "All methods on three seeds",
}
# What a single-shot run's notebook does, by the call that one of its cells makes; the first takes the
# steps too
CALLS = {"measuring the path": "outcome = unlearn_single_shot(", "asking its states": "task.ask("}
THREE = "python -m pulse_lib run --methods all --seeds 0,1,2 --sequential ga,ga_klr,npo"


@dataclass(frozen=True)
class Aim:
    """A bound that a column is to keep in every row of a part whose other columns are as in
    `where`: "at least" or "at most".
    """

    words: str
    part: str
    column: str
    how: str
    bound: float
    where: tuple[tuple[str, object], ...] = ()
    otherwise: str = ""  # what the profile shows as the next cost, if it is not kept


def _card(size: str, table: str, **columns: object) -> tuple[tuple[str, object], ...]:
    """Rows of a table of a card's check."""
    return (("size", f"llava-1.5-{size}"), ("table", table), *columns.items())


# In the JSON only: the other clock says the same, and likelihoods cost nothing
ASIDE = ("kit_wall_s", "loop_wall_s", "ratio_cpu", "kit_with_likelihoods_s")

NO_CARD = (
    "a GPU: none was at hand, so nothing is said of one (`make gpu-check` measures; that it runs is "
    "tried on a card that is only pretended, in tests/test_card.py)"
)
# The tables of a card's check
ON_CARD = {
    "steps": "Steps of GA, by the conversations that are read at once; shares of the card's peak by its data sheet and as measured",
    "unlearning": "Steps of four conversations, read one at a time, by method",
    "against_loop": "A step against the loop otherwise written, four conversations read at once",
    "questions": "Asking, against one at a time",
    "kernels": "What a step's time goes into",
}
TAIL = (
    "fine-tuning, on one core, is the longest run; probes and single-shot runs fill the other core meanwhile, and the "
    "runs after it both (the demo's tables below); a single-shot run's next cost is measuring its path"
)
SHOTS = (
    "single-shot runs are five sixths of it; their next cost after steps is measuring the path (its tables below): it "
    "would take fewer steps, or fewer questions on the way, which other numbers would come of"
)
DRAWING = "drawing and saving the figures is half of it"
LOOKUPS = (
    "each layer looks whether one of a hundred frozen adapters has changed, which is a small part of it; what the rest "
    "is was not found"
)
TEXT = "a question without a picture has nothing long to share: its ceiling is near"

AIMS = (
    Aim("a step reaches 80 % of its ceiling", "steps", "share", "at least", 0.8),
    Aim("memory of a GA+KLR step, share of the loop's", "steps", "memory", "at most", 0.5, (("method", "ga_klr"),)),
    Aim("memory of an NPO step, share of the loop's", "steps", "memory", "at most", 0.5, (("method", "npo"),)),
    Aim("a step on 25 requests' adapters, against five", "straight", "against_first", "at most", 1.05, (("requests", 25),)),
    Aim("a person among 160, against one among 20", "straight", "against_first", "at most", 1.05, (("people", 160),)),
    Aim("a step on 100 requests' adapters, against five", "straight", "against_first", "at most", 1.05, (("requests", 100),), LOOKUPS),
    Aim("people are asked three times as fast", "questions", "ratio", "at least", 3.0, (("questions", "people"),)),
    Aim("MMBench is asked three times as fast", "questions", "ratio", "at least", 3.0, (("questions", "mmbench"),)),
    Aim("text is asked three times as fast", "questions", "ratio", "at least", 3.0, (("questions", "text"),), TEXT),
    Aim("every answer is the same", "questions", "same_answers", "at least", 1.0),
    Aim("`import pulse_lib`, seconds", "starts", "seconds", "at most", 0.5, (("start", "import pulse_lib"),)),
    Aim("`pulse --help`, seconds", "starts", "seconds", "at most", 0.5, (("start", "pulse --help"),)),
    Aim("the analysis of 188 runs, seconds of the processor", "growth", "all", "at most", 25, (("runs", 188),), DRAWING),
    Aim("the analysis of 188 runs, peak MiB", "growth", "peak MiB", "at most", 700, (("runs", 188),)),
    Aim("a step of 13B in NF4, share of the measured peak", "gpu", "share_of_measured", "at least", 0.35, _card("13b", "steps", conversations=16, checkpointing=False)),
    Aim("a step of 7B reaches 80 % of its ceiling", "gpu", "share", "at least", 0.8, _card("7b", "against_loop")),
    Aim("memory of a 7B GA+KLR step, share of the loop's", "gpu", "memory", "at most", 0.5, _card("7b", "against_loop", method="ga_klr")),
    Aim("memory of a 7B NPO step, share of the loop's", "gpu", "memory", "at most", 0.5, _card("7b", "against_loop", method="npo")),
    Aim("7B is asked eight times as fast", "gpu", "ratio", "at least", 8.0, _card("7b", "questions")),
    Aim("all methods on three seeds in an hour, minutes", "three_seeds", "minutes", "at most", 60, (("runs", "all, by the clock"),), SHOTS),
    Aim("the demo in six minutes, seconds", "demo", "seconds", "at most", 360, (("run", "all, by the clock"),), TAIL),
)  # fmt: skip


# --- measuring --------------------------------------------------------------------------------


def machine() -> dict[str, object]:
    """What the numbers were measured on, without its name."""
    return {
        "cpu": _cpu(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    """The processor's model."""
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    elif sys.platform == "darwin":
        asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def run_part(name: str, words: Sequence[str], *, seconds: float) -> dict:
    """What a benchmark says: its command, machine and rows, or why there are none."""
    shown = {"name": name, "command": f"python benchmarks/{' '.join(words)}", "machine": machine()}
    if not (FOLDER / words[0]).is_file():
        return shown | {"rows": [], "why": f"there is no benchmarks/{words[0]}"}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        try:
            subprocess.run(
                [sys.executable, str(FOLDER / words[0]), *words[1:], "--out", str(out)],
                check=True,
                timeout=max(seconds, 1.0),
                stdout=sys.stderr,
                cwd=REPOSITORY,
                env=os.environ | THREADS | {"PYTHONPATH": str(REPOSITORY)},
            )
            rows = read_json(out)["rows"]
        except subprocess.TimeoutExpired:
            return shown | {"rows": [], "why": f"it did not end within {seconds:.0f} s"}
        except (subprocess.CalledProcessError, PulseError, KeyError) as error:
            return shown | {"rows": [], "why": f"it failed: {type(error).__name__}"}
    taken = round(time.monotonic() - begun)
    return shown | {"measured": f"{datetime.now():%Y-%m-%d}", "seconds": taken, "rows": rows}


def kept(before: Mapping | None, found: Mapping) -> Mapping:
    """What a part says now: a try that came to nothing leaves what was measured before, and says so."""
    if found["rows"] or not before or not before["rows"]:
        return found
    return {**before, "since": f"Tried again on {datetime.now():%Y-%m-%d}: {found['why']}."}


@dataclass(frozen=True)
class Times:
    """A finished run: when its notebook's first line ran, in seconds since the study's first, how long
    it took, and its peak memory.
    """

    run: str
    began: float
    seconds: float
    peak_mib: float
    finished: str


def times(out: Path) -> list[Times]:
    """The runs of a finished study in the order in which they began, from their manifests. Raises
    PulseError if there is none.
    """
    folders = [*(folder for _, folder in run_folders(out)), run_folder("analysis", out)]
    runs = {
        run_name(folder, out): read_json(folder / "manifest.json")
        for folder in folders
        if (folder / "manifest.json").is_file()
    }
    if not runs:
        raise PulseError(f"{out}: no finished run lies here; run the demo first")
    ends = {name: datetime.fromisoformat(m["finished"]).timestamp() for name, m in runs.items()}
    begins = {name: ends[name] - m["seconds"] for name, m in runs.items()}
    first = min(begins.values())
    return [
        Times(
            name,
            begins[name] - first,
            seconds=runs[name]["seconds"],
            peak_mib=runs[name]["peak_memory_mib"],
            finished=runs[name]["finished"],
        )
        for name in sorted(runs, key=begins.__getitem__)
    ]


def by_clock(runs: Sequence[Times]) -> float:
    """Seconds from the first run's begin to the last one's end."""
    return max(run.began + run.seconds for run in runs)


def demo(out: Path) -> dict:
    """The times of a finished demo, run by run: seconds of each from its notebook's first line to its
    last, and of all by the clock.
    """
    runs = times(out)
    rows = [
        {
            "run": one.run,
            "began": round(one.began),
            "seconds": round(one.seconds),
            "peak_mib": round(one.peak_mib),
        }
        for one in runs
    ]
    total = {"run": "all, one after the other", "seconds": sum(row["seconds"] for row in rows)}
    clock = {"run": "all, by the clock", "seconds": round(by_clock(runs))}
    return _of_study("demo", "make demo", runs, [*rows, total, clock, *inside(out)])


def three_seeds(out: Path) -> dict:
    """The times of a finished study of all methods on three seeds, by the kind of its runs."""
    runs, rows = times(out), []
    for kind, of_kind in itertools.groupby(sorted(runs, key=_kind), _kind):
        taken = [one.seconds for one in of_kind]
        rows.append(_minutes(kind, len(taken), sum(taken)) | {"longest_s": round(max(taken))})
    total = sum(one.seconds for one in runs)
    rows.append(_minutes("all, one after the other", len(runs), total))
    rows.append(_minutes("all, by the clock", len(runs), by_clock(runs)))
    return _of_study("three_seeds", THREE, runs, [*rows, *inside(out)])


def inside(out: Path) -> list[dict]:
    """Where the time of a finished study's single-shot runs goes: what their notebooks' cells took, as
    papermill has written it; of that which unlearns, steps by the run's own clock.
    """
    taken = dict.fromkeys(("steps", *CALLS, "everything else"), 0.0)
    for kind, folder in run_folders(out):
        if kind != "single_shot" or not (folder / EXECUTED).is_file():
            continue
        steps = read_json(folder / "result.json")["seconds_train"]
        taken["steps"] += steps
        taken["measuring the path"] -= steps
        for cell in read_json(folder / EXECUTED)["cells"]:
            code = "".join(cell["source"])
            part = next((name for name, call in CALLS.items() if call in code), "everything else")
            taken[part] += cell["metadata"].get("papermill", {}).get("duration") or 0.0
    total = sum(taken.values())
    if not total:
        return []
    return [
        {"single-shot runs": name, "minutes": round(s / 60, 1), "share": round(s / total, 2)}
        for name, s in taken.items()
    ]


def _kind(run: Times) -> str:
    return run.run.split("/")[0]


def _minutes(runs: str, n: int, seconds: float) -> dict[str, object]:
    return {"runs": runs, "n": n, "minutes": round(seconds / 60, 1)}


def _of_study(name: str, command: str, runs: Sequence[Times], rows: Sequence[dict]) -> dict:
    measured = max(one.finished for one in runs)[:10]
    shown = {"name": name, "command": command, "machine": machine(), "measured": measured}
    return shown | {"rows": list(rows)}


def on_cards(folder: Path = CARDS) -> dict:
    """What `make gpu-check` has written: each size's file, and the rows of all for the aims."""
    checks = [read_json(path) for path in sorted(folder.glob("*.json"))]
    rows = [
        row | {"size": check["size"], "table": table}
        for check in checks
        for table in ON_CARD
        for row in check[table]
    ]
    return {"checks": checks, "rows": rows}


# --- the page ---------------------------------------------------------------------------------

HEAD = """\
# How fast it is

Made by `make bench` from `outputs/reference/performance.json`; edit neither by hand. Times are noisy,
ratios less so: compare within a table. Where a table has both, a step or a question of the kit is
measured in turn with the loop that one would otherwise write, on the same model and data and with the
same results. `seconds` are by the clock, `processor_seconds` are of the processor, with one thread.

The runs of a study are forked from one process that has loaded torch and the other libraries
already, on Linux and without a GPU; `PULSE_WARM=0` gives each run a kernel of its own.
"""


def page(result: Mapping) -> str:
    """The text of docs/performance.md, from the JSON alone."""
    lines = [HEAD, "## Aims", "", "| aim | wanted | worst measured | met |", "|---|---|---|---|"]
    for aim in AIMS:
        value = worst(aim, result)
        said, met = (
            ("not measured", "-") if value is None else (_text(value), met_or_not(aim, value))
        )
        lines.append(
            f"| {aim.words} ({aim.part}) | {aim.how} {_text(aim.bound)} | {said} | {met} |"
        )
    missed = [a for a in AIMS if (v := worst(a, result)) is not None and met_or_not(a, v) == "no"]
    lines += ["", *(f"- Not met, {a.words}: {a.otherwise or 'not looked into'}." for a in missed)]
    checks = result.get("gpu", {}).get("checks", [])
    if not checks:
        lines.append(f"- Not measured, {NO_CARD}.")
    for name, title in TITLES.items():
        part = result.get(name)
        if part is None:
            continue
        said = f"`{part['command']}`, {_where(part)} {part.get('since', '')}".rstrip()
        lines += ["", f"## {title}", "", said, ""]
        lines += tables(part["rows"]) if part["rows"] else [f"Not measured: {part['why']}."]
    for check in checks:
        lines += _of_card(check)
    return "\n".join(lines) + "\n"


def _of_card(check: Mapping) -> list[str]:
    """The lines about one size on a card."""
    versions = ", ".join(f"{name} {v}" for name, v in check["versions"].items())
    sheet = f", {check['peak_tflops']:g} by its data sheet" if check["peak_tflops"] else ""
    load = check["load"]
    lines = [
        "",
        f"## {check['size']} on {check['device']}",
        "",
        f"`make gpu-check`, {check['weights']}, read in {check['dtype']}; {versions}. The card's peak: "
        f"{check['measured_tflops']:g} TFLOP/s as measured{sheet}. Made in {load['seconds']:g} s and "
        f"{load['peak_memory_gib']:g} GiB.",
    ]
    for table, words in ON_CARD.items():
        lines += ["", f"{words}:", "", *tables(check[table])]
    return lines


def worst(aim: Aim, result: Mapping) -> float | None:
    """The measured number that is farthest from its aim; None if there is none."""
    rows = result.get(aim.part, {}).get("rows", [])
    rows = [row for row in rows if all(row.get(key) == value for key, value in aim.where)]
    values = [row[aim.column] for row in rows if isinstance(row.get(aim.column), int | float)]
    if not values:
        return None
    return min(values) if aim.how == "at least" else max(values)


def met_or_not(aim: Aim, value: float) -> str:
    """ "yes" or "no"."""
    met = value >= aim.bound if aim.how == "at least" else value <= aim.bound
    return "yes" if met else "no"


def tables(rows: Sequence[Mapping]) -> list[str]:
    """The lines of a table for each set of columns that rows have, without those in ASIDE."""
    lines: list[str] = []
    for columns, group in itertools.groupby(rows, lambda row: [k for k in row if k not in ASIDE]):
        head = [column.replace("_", " ") for column in columns]
        lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_text(row[c]) for c in columns) + " |" for row in group]
    return lines[1:]


def _where(part: Mapping) -> str:
    found = part["machine"]
    versions = ", ".join(f"{name} {found[name]}" for name in ("python", *PACKAGES) if name in found)
    when = f"; {part['measured']}" if "measured" in part else ""
    taken = f", {part['seconds']} s" if "seconds" in part else ""
    memory = f"{found['cores']} cores, {found['memory_gib']} GiB of memory"
    return f"{found['cpu']}, {memory}, {found['system']}; {versions}{when}{taken}."


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("|", "\\|")


# --- the command ------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="names parted by commas, or none")
    parser.add_argument("--demo", type=Path, help="the folder of a finished demo: its times")
    parser.add_argument("--three", type=Path, help="of all methods on three seeds: its times")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    names = [] if options.parts == "none" else options.parts.split(",")
    if unknown := set(names) - set(PARTS):
        raise SystemExit(f"--parts {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    result = read_json(options.out) if options.out.is_file() else {}
    round_alike()  # in every part, as in a run
    ends = time.monotonic() + 60 * options.minutes
    try:
        for name in names:
            print(f"{name}: {PARTS[name][0]}", file=sys.stderr, flush=True)
            found = run_part(name, PARTS[name][1], seconds=ends - time.monotonic())
            result[name] = kept(result.get(name), found)
            write_json(options.out, result)
        result["gpu"] = on_cards()
        if options.demo:
            result["demo"] = demo(options.demo)
        if options.three:
            result["three_seeds"] = three_seeds(options.three)
        write_json(options.out, result)
    except PulseError as error:
        raise SystemExit(f"error: {error}") from None
    text = page(result)
    replace_file(options.page, lambda tmp: tmp.write_text(text, encoding="utf-8"))
    print(f"written: {options.out} and {options.page}")


if __name__ == "__main__":
    main()

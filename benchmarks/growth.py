"""How the analysis grows with the number of runs: seconds and peak memory of what notebook 05
computes, over a made-up study.

    python benchmarks/growth.py --runs 180 --out /tmp/growth    # writes the study once, then measures
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
MAX_SECONDS, MAX_MIB = 25, 700  # of 180 runs, on one core


def write(out: Path, n_runs: int) -> None:
    """Write seeds of all methods, single-shot and sequential, until there are n_runs of them."""
    sys.path.insert(0, str(TESTS))
    import synthetic_study as made

    from pulse_lib.methods import METHODS

    methods, seed = list(METHODS), 0
    while (left := n_runs - len(list(out.glob("s*/*/manifest.json"))) - _single_shot(out)) > 0:
        some = methods[: max(1, min(len(methods), left // 3))]  # two scenarios, one sequence
        made.write_study(out, methods=some, seeds=(seed,), size=made.FULL, llm=())
        seed += 1


def _single_shot(out: Path) -> int:
    return len(list(out.glob("single_shot/*/*/manifest.json")))


def measure(out: Path) -> dict[str, float]:
    """Seconds of each step, of processor time so that other work on the machine does not count, and
    the peak memory of this process, MiB."""
    sys.path.insert(0, str(TESTS))
    import synthetic_study as made

    from pulse_lib.report.collect import collect
    from pulse_lib.report.figures.gallery import ENTRIES, Gallery
    from pulse_lib.report.findings import ledger
    from pulse_lib.report.tables import tables

    seconds, clock = {}, time.process_time()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.process_time()
        seconds[name], clock = round(now - clock, 2), now

    study = collect(out, made.PROFILE)
    lap("collect")
    tables.all_tables(study)
    lap("all_tables")
    ledger.ledger(study)
    lap("ledger")
    gallery = Gallery(study)
    for entry in ENTRIES:
        gallery.table(entry.table)
    lap("tables of figures")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"runs": len(study.runs), "rows": len(study.rows), **seconds, "peak MiB": round(peak)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=180)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--measure-only", action="store_true", help="the study is there already")
    options = parser.parse_args()
    if options.measure_only:
        print(json.dumps(measure(options.out)))
        return
    write(options.out, options.runs)
    # another process, so that writing does not count in its memory
    command = [sys.executable, __file__, "--out", str(options.out), "--measure-only"]
    found = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    )
    for name, value in found.items():
        print(f"{name:20} {value:g}")
    total = sum(found[name] for name in ("collect", "all_tables", "ledger"))
    print(f"{'sum of the three':20} {total:g} s (180 runs: at most {MAX_SECONDS} s, {MAX_MIB} MiB)")


if __name__ == "__main__":
    main()

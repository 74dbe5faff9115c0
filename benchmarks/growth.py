"""How the analysis and `status` grow with the number of runs: seconds and peak memory of what
notebook 05 computes, draws and saves, over a made-up study; seconds of `status`, over finished runs of nothing.

    python benchmarks/growth.py --sizes 30,60,120,180    # in one study that grows
    python benchmarks/growth.py --status 500
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
MAX_SECONDS, MAX_MIB = 25, 700  # of 180 runs, on one core
MAX_STATUS_SECONDS = 3  # of 500 runs


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

    from pulse_lib.report import html
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
    every = tables.all_tables(study)
    lap("all_tables")
    findings = ledger.ledger(study)
    lap("ledger")
    gallery = Gallery(study)
    for entry in ENTRIES:
        gallery.table(entry.table)
    lap("their tables")
    for entry in ENTRIES:
        gallery.show(entry.name)
    with tempfile.TemporaryDirectory() as folder:
        gallery.save(Path(folder))
    lap("figures")
    html.report(study, gallery, tables=every, findings=findings)
    lap("page")
    seconds["all"] = round(sum(seconds.values()), 2)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"runs": len(study.runs), "rows": len(study.rows), **seconds, "peak MiB": round(peak)}


def status_seconds(out: Path, n_runs: int) -> dict[str, float]:
    """Wall time of `status` over at least n_runs finished runs (files of 200 kB each): the first
    time, which reads every file, and the median of three more.
    """
    from pulse_lib import runs
    from pulse_lib.methods import METHODS
    from pulse_lib.profile import load_profile
    from pulse_lib.study import grid

    profile, n_seeds, specs = load_profile("tiny"), 0, []
    while len(specs) < n_runs:
        n_seeds += 1
        words = {"methods": "all", "seeds": ",".join(map(str, range(n_seeds)))}
        words["sequential"] = ",".join(method for method in METHODS if method != "oracle")
        specs = grid.study(grid.options_from_texts(profile="tiny", out_dir=str(out), **words))
    for spec in specs:
        if not spec.folder.exists():
            started = runs.start(spec, profile)
            for name in started.spec.files:
                path = started.folder / name / ("adapter" if name.endswith("/") else "")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(os.urandom(200_000))
            runs.finish(started)
    command = [sys.executable, "-m", "pulse_lib", "status", "--profile", "tiny"]
    command += ["--out-dir", str(out)]
    command += [word for key, value in words.items() for word in (f"--{key}", value)]
    shutil.rmtree(out / ".logs", ignore_errors=True)  # what is known of the files
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        seconds.append(round(time.perf_counter() - begun, 2))
        assert said.count(" done ") == len(specs), said
    first, *again = seconds
    return {"runs": len(specs), "status, first": first, "status": sorted(again)[1]}


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text(json.dumps({"name": "growth", "rows": rows}, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="180", help="numbers of runs, parted by commas")
    parser.add_argument("--out", type=Path, help="file for the rows, JSON")
    parser.add_argument("--measure", type=Path, help="a study that is there already")
    parser.add_argument("--status", type=int, default=0, help="instead: status over so many runs")
    options = parser.parse_args()
    if options.status:
        with tempfile.TemporaryDirectory() as folder:
            rows = [status_seconds(Path(folder), options.status)]
        print(json.dumps(rows[0]), f"\nat most {MAX_STATUS_SECONDS} s", sep="")
        if options.out:
            write_rows(options.out, rows)
        return
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sorted(map(int, options.sizes.split(","))):
            write(Path(folder), size)
            # another process, so that writing does not count in its memory
            command = [sys.executable, __file__, "--measure", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout)
            rows.append(found)
            print(json.dumps(rows[-1]), flush=True)
    print(f"180 runs: at most {MAX_SECONDS} s for all, {MAX_MIB} MiB")
    if options.out:
        write_rows(options.out, rows)


if __name__ == "__main__":
    main()

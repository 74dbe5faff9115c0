"""Seconds until a run can begin: its kernel started, and what its notebook imports loaded, in a
kernel of its own and in one forked from a study's warm process: python benchmarks/starts.py

One thread, alternating repeats; processor seconds of the kernel beside those of the clock. Prints a
table, and writes it with --out FILE.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from pulse_lib.runs.kinds import notebooks_folder
from pulse_lib.study.kernels import THREADS, kernel_manager, warm

NOTEBOOKS = ("01_build_datasets", "03_unlearn_single_shot", "04_unlearn_sequential", "05_analyze")
COMMANDS = {
    "import pulse_lib": ["-c", "import pulse_lib"],
    "pulse --help": ["-m", "pulse_lib", "--help"],
}


def imports_of(name: str) -> str:
    """The cell of a notebook that imports what it needs."""
    book = nbformat.read(notebooks_folder() / f"{name}.ipynb", as_version=4)
    cells = [cell.source for cell in book.cells if cell.cell_type == "code"]
    return next(cell for cell in cells if "from pulse_lib import" in cell)


def start(imports: str) -> tuple[float, float]:
    """Seconds by the clock until a notebook's imports are done, and processor seconds of its
    kernel."""
    cell = f"{imports}\nimport time\nprint('used', time.process_time())"
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    begun = time.perf_counter()
    client = NotebookClient(book, kernel_manager_class=kernel_manager({}, ()), startup_timeout=180)
    asyncio.run(client.async_execute())
    taken = time.perf_counter() - begun
    said = "".join(out.get("text", "") for out in book.cells[0].outputs)
    return taken, float(said.split()[-1])


def command(words: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of the processor that a command takes."""
    before, begun = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    used = after.children_user + after.children_system
    return time.perf_counter() - begun, used - before.children_user - before.children_system


def row(name: str, measured: list[tuple[float, float]]) -> dict:
    """A row of the table: medians."""
    taken, used = zip(*measured, strict=True)
    return {
        "start": name,
        "seconds": round(statistics.median(taken), 3),
        "processor_seconds": round(statistics.median(used), 3),
    }


def measure(repeats: int, notebooks: tuple[str, ...] = NOTEBOOKS) -> list[dict]:
    """The rows of the table."""
    rows = [row(name, [command(words) for _ in range(repeats)]) for name, words in COMMANDS.items()]
    os.environ.update(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "kernels.log"
        with warm(2, log, env=dict(os.environ)) as warmth:
            for name in notebooks:
                cell, found = imports_of(name), {"its own": [], "forked": []}
                if warmth:  # the first one waits until the libraries are loaded
                    os.environ.update(warmth)
                    start("")
                for _ in range(repeats):
                    for how, measured in found.items():
                        os.environ.update(warmth)
                        if how == "its own":
                            for key in warmth:
                                del os.environ[key]
                        if warmth or how == "its own":
                            measured.append(start(cell))
                rows += [
                    row(f"{name}, kernel: {how}", measured)
                    for how, measured in found.items()
                    if measured
                ]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--notebooks", default=",".join(NOTEBOOKS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = measure(options.repeats, tuple(options.notebooks.split(",")))
    for line in rows:
        print(json.dumps(line))
    if options.out:
        said = {"name": "starts", "command": "python benchmarks/starts.py", "rows": rows}
        options.out.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()

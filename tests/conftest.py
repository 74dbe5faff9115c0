"""Shared by all tests: one thread, and a stand-in for the five notebooks that needs neither model
nor minutes.
"""

from __future__ import annotations

import os
import sys

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before torch is imported: two test runs on a laptop must not fight for cores
)
os.environ.setdefault("MPLBACKEND", "agg")
for name in (
    "PULSE_BATCH",
    "PULSE_NOTEBOOKS",
    "PULSE_PROGRESS_FILE",
    "PULSE_FRONT",
    "PULSE_RUN_ID",
    "PULSE_WARM_KERNELS",
):
    os.environ.pop(name, None)
# Stand-in notebooks load nothing that is slow: studies of them need no warm process (test_kernels.py
# has its own).
os.environ["PULSE_WARM"] = "0"

from pulse_lib import machine  # noqa: E402

machine.round_alike()  # as every command does

from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import nbformat  # noqa: E402
import pytest  # noqa: E402

from pulse_lib import runs  # noqa: E402
from pulse_lib.profile import load_profile  # noqa: E402
from pulse_lib.runs.kinds import KINDS  # noqa: E402
from pulse_lib.study import grid  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    """torch on one thread, if a test imported it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


PARAMETERS = {
    "01_build_datasets": ["profile", "seed", "out_dir"],
    "02_finetune": ["profile", "seed", "out_dir"],
    "03_unlearn_single_shot": ["profile", "scenario", "method", "trained_part", "seed", "out_dir"],
    "04_unlearn_sequential": [
        "profile",
        "method",
        "strategy",
        "trained_part",
        "order",
        "seed",
        "out_dir",
    ],
    "05_analyze": ["profile", "out_dir"],
    "06_probe": ["profile", "run", "state", "out_dir"],
    "08_explore": ["profile", "scenario", "run", "out_dir"],
}
LINES = {
    "profile": 'profile: str = "tiny"  # name in params',
    "scenario": 'scenario: str = "finetuned"  # finetuned or pretrained',
    "method": 'method: str = "ga"  # id of a method',
    "strategy": 'strategy: str = "adapter_per_request"  # what a request trains',
    "trained_part": 'trained_part: str = "projector+llm"  # what is trained',
    "order": "order: int = 0  # order of the requests",
    "seed": "seed: int = 0  # seed of all draws",
    "run": 'run: str = "single_shot/finetuned/ga-projector+llm-seed-0"  # whose model',
    "state": 'state: str = "final"  # final or matched',
    "out_dir": 'out_dir: str = ""  # the study folder',
}
PROFILE = """\
extends: smoke
description: stand-in for the tests of the batch room
model: {path: no/model/is/loaded}
unlearn: {learning_rate: 1.0e-3}
"""


def write_notebook(
    path: Path, parameter_lines: list[str], cells: list[str], text: str = "Text."
) -> None:
    """A notebook with a parameters cell, code cells and one text cell."""
    first = nbformat.v4.new_code_cell("\n".join(parameter_lines), metadata={"tags": ["parameters"]})
    body = [nbformat.v4.new_code_cell(cell) for cell in cells]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text), first, *body])
    book.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(book, path)


@dataclass(frozen=True)
class Kit:
    """A folder of stand-in notebooks, a profile file and a folder for results."""

    notebooks: Path
    profile_file: Path
    out: Path

    @property
    def profile(self):
        """The profile as it is now."""
        return load_profile(str(self.profile_file))

    @property
    def shared(self) -> dict:
        """The parameters that every notebook has."""
        return {"profile": str(self.profile_file), "out_dir": str(self.out)}

    def finish(self, spec, text: str = "x") -> None:
        """Make a run without its notebook."""
        started = runs.start(spec, self.profile)
        write_results(started.folder, spec.files, text)
        runs.finish(started)

    def study(self, **options) -> list:
        """A study in this kit's folder: data, one pre-trained single-shot run and the analysis."""
        wanted = {"methods": ["ga"], "scenarios": ["pretrained"]} | options
        return grid.study(grid.Options(**self.shared, **wanted))

    def states(self, **options) -> dict[str, str]:
        """Name of a run -> its state in the plan."""
        plan = grid.plan(self.profile, self.study(**options))
        return {spec.name: plan.states[spec.folder].state for spec in plan.specs}


def write_results(folder: Path, files, text: str = "x") -> None:
    """Every declared file, with some text in it."""
    for name in files:
        path = folder / name / "file.txt" if name.endswith("/") else folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def kit(tmp_path, monkeypatch) -> Kit:
    """Stand-in notebooks that write every declared file; the environment variable TRAP_<number>
    holds code to run before they finish.
    """
    made = Kit(tmp_path / "notebooks", tmp_path / "standin.yaml", tmp_path / "out")
    made.profile_file.write_text(PROFILE)
    for kind, row in KINDS.items():
        name = row.notebook
        cells = [
            "import os\nfrom pulse_lib import runs\nfrom pulse_lib.profile import load_profile",
            f"run = runs.start(runs.spec_of({kind!r}, globals()), load_profile(profile))",
            "for name in run.spec.files:\n"
            '    path = run.folder / name / ("file.txt" if name.endswith("/") else "")\n'
            "    path.parent.mkdir(parents=True, exist_ok=True)\n"
            '    path.write_text("x")',
            f'exec(os.environ.get("TRAP_{name[:2]}", ""))',
            "runs.finish(run)",
            f'exec(os.environ.get("LATE_TRAP_{name[:2]}", ""))\nprint("finished", "{name}")',
        ]
        write_notebook(
            made.notebooks / f"{name}.ipynb", [LINES[key] for key in PARAMETERS[name]], cells
        )
    monkeypatch.setenv("PULSE_NOTEBOOKS", str(made.notebooks))
    return made


@pytest.fixture(autouse=True)
def _the_kits_variables_stay():
    """A command that runs in this process may set them (`search`: no progress bars), and the next
    test is another command."""
    before = {name: value for name, value in os.environ.items() if name.startswith("PULSE_")}
    yield
    for name in [name for name in os.environ if name.startswith("PULSE_")]:
        del os.environ[name]
    os.environ.update(before)

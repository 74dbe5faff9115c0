"""What a run of a kind is: its notebook, axes, folder, inputs, files, and what it depends on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pulse_lib.errors import PulseError
from pulse_lib.files import (
    REPOSITORY,
)
from pulse_lib.methods import METHODS, VARIANTS
from pulse_lib.profile import SCENARIOS, TRAINED_PARTS, load_profile
from pulse_lib.strategies import STRATEGIES

# Which sections of the profile a kind of run depends on: a change elsewhere does not make it stale.
SECTIONS = {
    "data": ("model", "data", "evaluate"),
    "target": ("model", "data", "evaluate", "finetune"),
    "single_shot": ("model", "data", "evaluate", "finetune", "unlearn"),
    "sequential": ("model", "data", "evaluate", "finetune", "unlearn"),
    "analysis": ("evaluate",),
}


@dataclass(frozen=True)
class RunSpec:
    """One run as planned: which notebook makes which folder, from which inputs, and the files that
    it must leave.
    """

    kind: str  # a key of SECTIONS
    notebook: str  # "03_unlearn_single_shot"
    folder: Path  # absolute
    parameters: Mapping[str, object]  # all parameters of the notebook
    inputs: tuple[Path, ...]  # folders of other runs
    files: tuple[
        str, ...
    ]  # relative to the folder; "tables/" means a folder with at least one file
    out: Path  # the study's folder

    @property
    def name(self) -> str:
        """The folder relative to the study's, e.g.
        "single_shot/finetuned/ga-projector+llm-seed-0".
        """
        return self.folder.relative_to(self.out).as_posix()


def notebooks_folder() -> Path:
    """The folder of the kit's notebooks; the environment variable PULSE_NOTEBOOKS names another one
    (the tests use it).
    """
    return Path(os.environ.get("PULSE_NOTEBOOKS") or REPOSITORY / "notebooks")


def out_folder(profile: str, out_dir: str = "") -> Path:
    """The study's folder, absolute: outputs/<profile>, or out_dir (a relative one starts at the
    repository root).
    """
    return (REPOSITORY / (out_dir or Path("outputs") / Path(profile).stem)).resolve()


def data_folder(out: Path, seed: int) -> Path:
    """Where 01_build_datasets writes."""
    return Path(out) / "data" / f"seed-{seed}"


def target_folder(out: Path, seed: int) -> Path:
    """Where 02_finetune writes."""
    return Path(out) / "target" / f"seed-{seed}"


def single_shot_folder(out: Path, scenario: str, method: str, trained_part: str, seed: int) -> Path:
    """Where 03_unlearn_single_shot writes."""
    return Path(out) / "single_shot" / scenario / f"{method}-{trained_part}-seed-{seed}"


def sequential_folder(
    out: Path, method: str, policy: str, trained_part: str, order: int, seed: int
) -> Path:
    """Where 04_unlearn_sequential writes."""
    return Path(out) / "sequential" / f"{method}-{policy}-{trained_part}-order-{order}-seed-{seed}"


def analysis_folder(out: Path) -> Path:
    """Where 05_analyze writes."""
    return Path(out) / "analysis"


def notebook_of(folder: Path, out: Path) -> str:
    kind = run_name(folder, out).split("/")[0]
    return {
        "data": "01_build_datasets",
        "target": "02_finetune",
        "single_shot": "03_unlearn_single_shot",
        "sequential": "04_unlearn_sequential",
    }.get(kind, "its notebook")


DATA_FILES = (
    "people.parquet",
    "questions.parquet",
    "conversations.parquet",
    "images.parquet",
    "splits.csv",
    "selection.csv",
    "rows.parquet",
)


def data_run(profile: str = "tiny", seed: int = 0, out_dir: str = "") -> RunSpec:
    """The run of 01_build_datasets."""
    out = out_folder(profile, out_dir)
    parameters = {"profile": profile, "seed": whole_number("seed", seed), "out_dir": out_dir}
    return RunSpec(
        "data", "01_build_datasets", data_folder(out, seed), parameters, (), DATA_FILES, out
    )


def target_run(profile: str = "tiny", seed: int = 0, out_dir: str = "") -> RunSpec:
    """The run of 02_finetune."""
    out = out_folder(profile, out_dir)
    parameters = {"profile": profile, "seed": whole_number("seed", seed), "out_dir": out_dir}
    files = ("adapters/finetune/", "rows.parquet", "log.csv")
    inputs = (data_folder(out, seed),)
    return RunSpec(
        "target", "02_finetune", target_folder(out, seed), parameters, inputs, files, out
    )


def single_shot_run(
    profile: str = "tiny",
    scenario: str = "finetuned",
    method: str = "ga",
    trained_part: str = "projector+llm",
    seed: int = 0,
    out_dir: str = "",
) -> RunSpec:
    """The run of 03_unlearn_single_shot.

    `adapters/matched/` is named to `finish` only if that state was reached.
    """
    out = out_folder(profile, out_dir)
    parameters = {
        "profile": profile,
        "scenario": one_of("scenario", scenario, SCENARIOS),
        "method": known_method(method),
        "trained_part": one_of("trained_part", trained_part, TRAINED_PARTS),
        "seed": whole_number("seed", seed),
        "out_dir": out_dir,
    }
    target = (target_folder(out, seed),) if scenario == "finetuned" else ()
    files = ("adapters/final/", "path.csv", "log.csv", "rows.parquet", "result.json")
    folder = single_shot_folder(out, scenario, method, trained_part, seed)
    inputs = (data_folder(out, seed), *target)
    return RunSpec("single_shot", "03_unlearn_single_shot", folder, parameters, inputs, files, out)


def sequential_run(
    profile: str = "tiny",
    method: str = "ga",
    policy: str = "adapter_per_request",
    trained_part: str = "projector+llm",
    order: int = 0,
    seed: int = 0,
    out_dir: str = "",
) -> RunSpec:
    """The run of 04_unlearn_sequential; its rounds lie in round-1, round-2 ... and are declared
    when they are there.
    """
    out = out_folder(profile, out_dir)
    parameters = {
        "profile": profile,
        "method": known_method(method),
        "policy": one_of("policy", policy, STRATEGIES),
        "trained_part": one_of("trained_part", trained_part, TRAINED_PARTS),
        "order": whole_number("order", order),
        "seed": whole_number("seed", seed),
        "out_dir": out_dir,
    }
    folder = sequential_folder(out, method, policy, trained_part, order, seed)
    inputs = (data_folder(out, seed), target_folder(out, seed))
    return RunSpec(
        "sequential",
        "04_unlearn_sequential",
        folder,
        parameters,
        inputs,
        ("rows.parquet", "result.json"),
        out,
    )


def analysis_run(profile: str = "tiny", out_dir: str = "", planned: Iterable[Path] = ()) -> RunSpec:
    """The run of 05_analyze.

    Its inputs are all complete runs of this profile in the folder, and those `planned`.
    """
    from pulse_lib.runs.manifest import complete_runs  # DRAFT

    out = out_folder(profile, out_dir)
    inputs = tuple(sorted({*complete_runs(out, load_profile(profile)), *planned}))
    files = ("tables/", "figures/", "report.html")
    parameters = {"profile": profile, "out_dir": out_dir}
    return RunSpec("analysis", "05_analyze", analysis_folder(out), parameters, inputs, files, out)


CONSTRUCTORS: dict[str, Callable[..., RunSpec]] = {
    "01_build_datasets": data_run,
    "02_finetune": target_run,
    "03_unlearn_single_shot": single_shot_run,
    "04_unlearn_sequential": sequential_run,
    "05_analyze": analysis_run,
}


def spec_of(notebook: str, parameters: dict) -> RunSpec:
    """The run that a notebook makes with these parameters.

    Raises PulseError if the notebook belongs to no kind of run.
    """
    if notebook not in CONSTRUCTORS:
        raise PulseError(
            f"notebook {notebook!r} makes no run that this kit knows; "
            f"it knows {', '.join(CONSTRUCTORS)}"
        )
    return CONSTRUCTORS[notebook](**parameters)


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise PulseError(f"{name} = {value!r} is not one of {', '.join(choices)}")
    return value


def whole_number(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PulseError(f"{name} = {value!r} must be a whole number, 0 or more")
    return value


def known_method(value: str) -> str:
    return one_of("method", value, (*METHODS, *VARIANTS))


def run_name(folder: Path, out: Path) -> str:
    return Path(os.path.relpath(folder, out)).as_posix()

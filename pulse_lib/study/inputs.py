"""What a notebook reads, made if it is not there: a hosted session begins with nothing, and whoever
opens 05 first need not know what came before. By hand, and where Kaggle saves a version, which has
nobody to ask either; in the kit's own batch a missing input is an error.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from pulse_lib import colab
from pulse_lib.data import source
from pulse_lib.errors import PulseError
from pulse_lib.files import KIT, REPOSITORY, show
from pulse_lib.profile import Profile, load_profile
from pulse_lib.runs.checked import require
from pulse_lib.runs.kinds import DEFAULTS, KINDS, Kind, RunSpec, named_run, run_name, spec_of
from pulse_lib.runs.manifest import found_runs

# What there is to analyse if nothing is: the notebooks with their default parameters
ANALYSED: tuple[Kind, ...] = ("single_shot", "sequential")
LOOK_SECONDS = 0.3
END_SECONDS = 20.0  # a run that is stopped has this long to end by itself


def ensure_inputs(kind: Kind, values: Mapping[str, object]) -> None:
    """Make what a notebook of this kind reads, and what that reads, as far as it is missing: says
    what and how many minutes it takes, then makes one after another.

    values: the notebook's globals(), for its parameters. Under the kit's runner it makes nothing,
    and `runs.start` says what is missing. Raises PulseError: a model of the hub without a GPU, files
    that are not on this machine and cannot be had, or a run that failed.
    """
    spec = spec_of(kind, values)
    profile = load_profile(str(spec.parameters["profile"]))
    if kind != "analysis":  # which loads no model
        colab.check_gpu(profile.model.path, profile.model.load)
    if os.environ.get("PULSE_BATCH") == "1":
        return
    todo = missing(spec, profile)
    if not todo:
        return
    if len({one.kind for one in todo} - {"data"}):
        colab.check_gpu(profile.model.path, profile.model.load)
    source.check_there(profile)
    print(plan_in_words(todo, profile), flush=True)
    for number, one in enumerate(todo, start=1):
        _make(one, f"{number} of {len(todo)}: {one.name}")


def missing(spec: RunSpec, profile: Profile) -> list[RunSpec]:
    """The runs to make before one, in order: its inputs that are not complete, each after its own;
    for the analysis one run of each kind that it has none of."""
    found: dict[Path, RunSpec] = {}
    for one in _read_by(spec, profile):
        if not _complete(one):
            for earlier in (*missing(one, profile), one):
                found.setdefault(earlier.folder, earlier)
    return list(found.values())


def _read_by(spec: RunSpec, profile: Profile) -> Iterator[RunSpec]:
    where = {"profile": spec.parameters["profile"], "out_dir": spec.parameters["out_dir"]}
    if KINDS[spec.kind].inputs is None:
        whole = [path for path, why in found_runs(spec.out, profile) if not why]
        there = {run_name(path, spec.out).split("/")[0] for path in whole}
        if "run" in spec.parameters:
            kind, axes = named_run(str(spec.parameters["run"]))
            there.add(kind)
            yield spec_of(kind, where | axes)
        for kind in ANALYSED:
            if kind not in there:
                yield spec_of(kind, where)
        return
    for folder in spec.inputs:
        kind, axes = named_run(run_name(folder, spec.out))
        yield spec_of(kind, where | axes)


def _complete(spec: RunSpec) -> bool:
    try:
        require(spec.folder, spec.notebook)
    except PulseError:
        return False
    return True


def plan_in_words(todo: list[RunSpec], profile: Profile) -> str:
    """What is made and how long it takes, as the reference run took it on two cores."""
    times = [minutes(spec, profile) for spec in todo]
    named = [
        f"  {spec.notebook}: {spec.name}" + (f", {took:.1f} minutes" if took else "")
        for spec, took in zip(todo, times, strict=True)
    ]
    known = [took for took in times if took is not None]
    if len(known) == len(todo):
        total = f"about {sum(known):.1f} minutes on two cores"
    else:
        total = f"python -m pulse_lib plan --profile {profile.name} estimates how long"
    return "\n".join([f"missing here, and made first ({total}):", *named])


def minutes(spec: RunSpec, profile: Profile) -> float | None:
    """How long a run took in the reference results of its profile: that very run, else the median
    of its kind; None if there are none."""
    path = KIT / "outputs" / "reference" / profile.name / "times.csv"
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", newline="") as file:
        seconds = {line["run"]: float(line["seconds"]) for line in csv.DictReader(file)}
    alike = [seconds[spec.name]] if spec.name in seconds else []
    alike = alike or [s for name, s in seconds.items() if name.startswith(f"{spec.kind}/")]
    return statistics.median(alike) / 60 if alike else None


def _make(spec: RunSpec, label: str) -> None:
    """One run by the kit's own command, with a live line of where it is. Raises PulseError with what
    it said if it fails; interrupted, it stops the run, which goes on from there another time."""
    words = [sys.executable, "-m", "pulse_lib", "notebook", spec.notebook]
    for name, value in spec.parameters.items():
        if value != DEFAULTS.get(name):
            text = value if name != "out_dir" else str(spec.out)
            words += ["-p", name, str(text)] if value != "" else []
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        with open(said, "w", encoding="utf-8") as log:
            process = subprocess.Popen(words, cwd=REPOSITORY, stdout=log, stderr=log)
            try:
                while process.poll() is None:
                    _tell(f"{label}: {(_lines(said) or ['starting'])[-1]}")
                    time.sleep(LOOK_SECONDS)
            except BaseException:
                _stop(process)
                raise
        lines = _lines(said)
    if process.returncode:
        raise PulseError(f"{show(spec.folder)} could not be made:\n" + "\n".join(lines[-6:]))
    _tell(f"{label}: done in {time.monotonic() - begun:.0f} s", last=True)


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tell(text: str, *, last: bool = False) -> None:
    print(f"\r{text[:96]:<96}", end="\n" if last else "", flush=True)


def _lines(path: Path) -> list[str]:
    """What was said so far: lines that say anything."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]

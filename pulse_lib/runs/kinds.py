"""What a run of a kind is, once: its notebook, axes, folder, files, inputs, and the profile fields it
depends on. A new notebook is a new row of KINDS (docs/add_a_notebook.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from pulse_lib import colab
from pulse_lib.errors import PulseError
from pulse_lib.files import KIT, from_here, local_path
from pulse_lib.methods import METHODS, VARIANTS, is_outside
from pulse_lib.profile import SCENARIOS, TRAINED_PARTS, Profile
from pulse_lib.profile.load import PARAMS
from pulse_lib.strategies import STRATEGIES

Kind = Literal["data", "target", "single_shot", "sequential", "analysis", "probe", "explore"]
Axis = Literal["scenario", "method", "strategy", "trained_part", "order", "seed", "run", "state"]


@dataclass(frozen=True)
class RunKind:
    """One notebook and the runs it makes. Its parameters are `profile`, the axes and `out_dir`."""

    notebook: str  # "03_unlearn_single_shot"
    label: str  # in messages
    _: KW_ONLY
    folder: str  # in the study's folder, filled in from the axes
    # What it must leave there; "tables/" means a folder with at least one file
    files: tuple[str, ...]
    axes: tuple[Axis, ...] = ()
    # Kinds of the runs it reads, of the same seed; None: every complete run there is
    inputs: Callable[[Mapping], tuple[Kind, ...]] | None = lambda axes: ()
    # Fields of the profile that decide its result, "model.*" for all of a section; axes may be
    # filled in. With unlearn.learning_rate come the method's hyperparameters, both as resolved.
    depends_on: tuple[str, ...] = ()
    priority: int = 0  # which of the runs that can start does: grid.priority
    analysed: bool = True  # whether the analysis reads its rows


_ASKING = ("model.*", "evaluate.batch_size", "evaluate.max_new_tokens", "evaluate.extraction_rules")
_UNLEARNING = (
    "unlearn.learning_rate",
    *(f"unlearn.{key}" for key in ("rank", "alpha", "batch_size", "micro_batch", "optimizer")),
    *(f"unlearn.{key}" for key in ("warmup_steps", "max_grad_norm", "reference")),
    *(f"unlearn.{key}" for key in ("supervised_tokens", "retain_source", "path_every")),
    "unlearn.forget_facts",
    *(f"unlearn.{key}" for key in ("stop_forget", "stop_utility", "matched_by")),
    "evaluate.n_path_questions",
)
# Settings that came later: with this value a run is what it was without them
LATER = {"unlearn.forget_facts": 0}
# Fields that only some methods read, by what a method needs, and in which scenario ("": both)
_BY_NEED = {
    ("hidden states", ""): ("unlearn.depth",),
    ("new target", "finetuned"): ("finetune.*", "data.n_general_train"),
    ("new target", "pretrained"): ("unlearn.oracle_model",),
    ("retain model", "finetuned"): ("finetune.*", "data.n_general_train"),
}


def _probed(axes: Mapping) -> tuple[Kind, ...]:
    """What a run of probes reads: the run that it is about, and those that this one hangs on."""
    kinds: list[Kind] = ["data", axes.get("probed", "single_shot")]
    if axes["scenario"] == "finetuned":
        kinds.insert(1, "target")
    return tuple(dict.fromkeys(kinds))


KINDS: dict[Kind, RunKind] = {
    "data": RunKind(
        "01_build_datasets",
        "data",
        folder="data/seed-{seed}",
        axes=("seed",),
        files=(
            *("people.parquet", "questions.parquet", "conversations.parquet", "images.parquet"),
            *("splits.csv", "selection.csv", "rows.parquet"),
        ),
        depends_on=(*_ASKING, "data.*"),
        priority=30,
    ),
    "target": RunKind(
        "02_finetune",
        "target model",
        folder="target/seed-{seed}",
        axes=("seed",),
        inputs=lambda axes: ("data",),
        files=("adapters/finetune/", "rows.parquet", "log.csv"),
        depends_on=(*_ASKING, "finetune.*", "data.n_general_train"),
        priority=20,
    ),
    "single_shot": RunKind(
        "03_unlearn_single_shot",
        "single-shot",
        folder="single_shot/{scenario}/{method}-{trained_part}-seed-{seed}",
        axes=("scenario", "method", "trained_part", "seed"),
        inputs=lambda axes: ("data", *(["target"] if axes["scenario"] == "finetuned" else [])),
        # adapters/matched/ is named to `finish` if that state was reached
        files=("adapters/final/", "path.csv", "log.csv", "rows.parquet", "result.json"),
        depends_on=(
            *(*_ASKING, *_UNLEARNING, "unlearn.epochs_{scenario}"),
            *("unlearn.path_dense_below", "unlearn.matched_at"),
        ),
    ),
    "sequential": RunKind(
        "04_unlearn_sequential",
        "sequential",
        folder="sequential/{method}-{strategy}-{trained_part}-order-{order}-seed-{seed}",
        axes=("method", "strategy", "trained_part", "order", "seed"),
        inputs=lambda axes: ("data", "target"),
        files=("rows.parquet", "result.json"),  # round-1/, round-2/ ... are named to `finish`
        depends_on=(*_ASKING, *_UNLEARNING, "unlearn.epochs_finetuned"),
    ),
    "analysis": RunKind(
        "05_analyze",
        "analysis",
        folder="analysis",
        inputs=None,
        files=("tables/", "figures/", "report.html"),
        depends_on=(
            *("unlearn.matched_at", "unlearn.matched_by", "unlearn.learning_rate"),
            "data.n_requests",
            "data.people.source",
        ),
    ),
    "probe": RunKind(
        "06_probe",
        "probes",
        folder="probe/{run}-{state}",
        axes=("run", "state"),
        inputs=lambda axes: _probed(axes),
        priority=10,  # longer than most runs that unlearn
        files=("probes.parquet", "summary.csv", "verdict.json"),
        depends_on=(*_ASKING, "probe.*", "finetune.*", "unlearn.matched_at"),
        analysed=False,
    ),
    "explore": RunKind(
        "08_explore",
        "pictures",
        folder="explore",
        axes=("scenario", "run"),
        inputs=None,
        files=("figures/",),
        depends_on=("model.*", "evaluate.batch_size", "evaluate.max_new_tokens", "data.n_requests"),
        analysed=False,
    ),
}


@dataclass(frozen=True)
class RunSpec:
    """One run as planned: its folder, the parameters of its notebook, and the folders it reads."""

    kind: Kind
    folder: Path  # absolute
    _: KW_ONLY
    parameters: Mapping[str, object]  # all parameters of the notebook
    inputs: tuple[Path, ...]  # folders of other runs
    out: Path  # the study's folder

    @property
    def notebook(self) -> str:
        """The notebook that makes it."""
        return KINDS[self.kind].notebook

    @property
    def files(self) -> tuple[str, ...]:
        """What it must leave, relative to its folder."""
        return KINDS[self.kind].files

    @property
    def name(self) -> str:
        """The folder relative to the study's, e.g.
        "single_shot/finetuned/ga-projector+llm-seed-0".
        """
        return run_name(self.folder, self.out)


def spec_of(kind: Kind, values: Mapping[str, object]) -> RunSpec:
    """The run that a kind's notebook makes with these parameters; values that are none of its
    parameters do not count, so that a notebook can hand in its globals(). An axis that is left out
    has the notebook's default.

    Raises PulseError naming the parameter, the value and what there is.
    """
    profile, out_dir = str(values.get("profile", "tiny")), str(values.get("out_dir", ""))
    row, out = KINDS[kind], out_folder(profile, out_dir)
    axes = {name: _checked(name, values.get(name, DEFAULTS[name])) for name in row.axes}
    probed, more = named_run(str(axes["run"])) if "run" in axes else ("", {})
    known = axes | more
    read = row.inputs(known | {"probed": probed}) if row.inputs else ()
    return RunSpec(
        kind,
        run_folder(kind, out, **axes),
        parameters={"profile": profile, **axes, "out_dir": out_dir},
        inputs=tuple(run_folder(name, out, **known) for name in read),
        out=out,
    )


def run_folder(kind: Kind, out: Path, **axes: object) -> Path:
    """Where a run lies in a study's folder."""
    plain = {name: str(value).replace("/", "-") for name, value in axes.items()}
    return Path(out) / KINDS[kind].folder.format(**plain)


def named_run(name: str) -> tuple[Kind, dict[str, object]]:
    """The kind and the axes of the run that lies in a folder of that name, e.g.
    "single_shot/finetuned/ga-llm-seed-0"; its scenario too where that is no axis of it. Raises
    PulseError if no run that leaves a model has such a name.
    """
    for kind, scenario in _LEAVES_A_MODEL.items():
        parts = re.split(r"\{(\w+)\}", KINDS[kind].folder)  # text, axis, text, axis ...
        pattern = "".join(
            f"(?P<{part}>[^/]+?)" if i % 2 else re.escape(part) for i, part in enumerate(parts)
        )
        if match := re.fullmatch(pattern, name):
            axes = {
                axis: _checked(axis, int(match[axis]) if match[axis].isdecimal() else match[axis])
                for axis in KINDS[kind].axes
            }
            return kind, {"scenario": scenario} | axes
    known = ", ".join(KINDS[kind].folder for kind in _LEAVES_A_MODEL)
    raise PulseError(f"run = {name!r} is the name of no run that leaves a model; such are: {known}")


def out_folder(profile: str, out_dir: str = "") -> Path:
    """The study's folder, absolute: outputs/<profile>, or out_dir (a relative one starts at the
    repository root; "drive" and "working" are places that outlive a hosted session, colab.py).

    A profile of your own with the name of one in params/ has its folder's name in front:
    outputs/other-smoke for other/smoke.yaml.
    """
    name = re.sub(r"\.ya?ml$", "", Path(profile).name)
    given, shipped = local_path(profile).resolve(), PARAMS / f"{name}.yaml"
    if name != profile and shipped.is_file() and given != shipped.resolve():
        name = f"{given.parent.name}-{name}"
    if out_dir in colab.PLACES:
        return colab.place(out_dir) / name
    return local_path(out_dir or Path("outputs") / name).resolve()


def out_dir_from_here(text: str) -> str:
    """The parameter out_dir of a command line: absolute, a relative one starts at the caller's
    folder; "" and the words for places stay what they are."""
    return str(from_here(text)) if text and text not in colab.PLACES else text


def kind_of(notebook: str) -> Kind:
    """The kind of run that a notebook makes. Raises PulseError if it makes none."""
    for kind, row in KINDS.items():
        if row.notebook == notebook:
            return kind
    known = ", ".join(row.notebook for row in KINDS.values())
    raise PulseError(
        f"notebook {notebook!r} makes no run that this kit knows; it knows {known}. A new notebook "
        "is a row of pulse_lib/runs/kinds.py"
    )


def notebook_of(folder: Path, out: Path) -> str:
    """The notebook that makes the run in a folder, for messages."""
    named = run_name(folder, out).split("/")[0]
    found = (row.notebook for kind, row in KINDS.items() if kind == named)
    return next(found, "its notebook")


def run_name(folder: Path, out: Path) -> str:
    """A run's folder relative to the study's."""
    return Path(os.path.relpath(folder, out)).as_posix()


def run_folders(out: Path) -> list[tuple[Kind, Path]]:
    """Every run folder in a study's folder, whatever it holds, but for those of kinds that read all
    others.
    """
    found = []
    for kind, row in KINDS.items():
        if row.inputs is not None:
            pattern = re.sub(r"[^/]*\{[^/]*", "*", row.folder)
            paths = sorted(Path(out).glob(pattern))
            found += [(kind, p) for p in paths if p.is_dir() and is_place(p)]
    return found


def is_place(folder: Path) -> bool:
    """Whether a folder is a run's place by its name, not one beside it (place.py)."""
    return folder.suffix != ".half" and not folder.name.startswith(".")


def notebooks_folder() -> Path:
    """The folder of the kit's notebooks; the environment variable PULSE_NOTEBOOKS names another one
    (the tests use it).
    """
    return Path(os.environ.get("PULSE_NOTEBOOKS") or KIT / "notebooks")


# --- what a run depends on --------------------------------------------------------------------


def fields(kind: Kind, parameters: Mapping, *, profile: Profile) -> dict[str, object]:
    """The settings that decide a run's result, by name, as they are for this very run: the fields
    that its kind depends on; learning rate and hyperparameters as they are for its method.
    """
    patterns = [pattern.format(**parameters) for pattern in KINDS[kind].depends_on]
    if is_outside(str(parameters.get("method", ""))):  # other code made it: how it is asked counts
        patterns = list(_ASKING)
    resolved: dict[str, object] = {}
    if "unlearn.learning_rate" in patterns and "method" in parameters:
        name, scenario = parameters["method"], parameters.get("scenario", "finetuned")
        strategy = parameters.get("strategy", "")
        unlearn, values = profile.unlearn_for(scenario, name, strategy=strategy)
        if strategy in STRATEGIES:
            values = {**STRATEGIES[strategy].coefficients, **values}
        method = (METHODS | VARIANTS).get(name)  # None: of a notebook that made its own
        if method is not None:
            needed = [(need, where) for need in method.needs for where in ("", scenario)]
            patterns += [field for key in needed for field in _BY_NEED.get(key, ())]
            values = method.hyperparameters | values
        resolved = {"unlearn.learning_rate": unlearn.learning_rate}
        epochs = [p for p in patterns if p.startswith("unlearn.epochs_")]
        resolved |= {p: getattr(unlearn, p.removeprefix("unlearn.")) for p in epochs}
        resolved |= {f"hyperparameter {key}": value for key, value in values.items()}
    flat = _flat(profile)
    read = {k: flat[k] for k in _matching(tuple(patterns), tuple(flat))}
    return {k: v for k, v in read.items() if k not in LATER or v != LATER[k]} | resolved


@lru_cache(maxsize=64)
def _matching(patterns: tuple[str, ...], keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(k for k in keys if any(fnmatchcase(k, p) for p in patterns))


_latest: list[tuple[Profile, dict[str, object]]] = []  # a study's status asks once a run


def _flat(profile: Profile) -> dict[str, object]:
    if not _latest or _latest[0][0] is not profile:
        _latest[:] = [(profile, flat_settings(profile.as_dict()))]
    return _latest[0][1]


def flat_settings(settings: Mapping, prefix: str = "") -> dict[str, object]:
    """A profile's settings by dotted name ("unlearn.rank"); `tuned` as a whole."""
    found: dict[str, object] = {}
    for key, value in settings.items():
        inner = isinstance(value, Mapping) and key != "tuned"
        found |= flat_settings(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


# --- axes -------------------------------------------------------------------------------------

ALIASES: dict[str, Axis] = {"policy": "strategy"}  # what an axis was called, and is in columns
DEFAULTS: dict[Axis, object] = {
    "scenario": "finetuned",
    "method": "ga",
    "strategy": next(iter(STRATEGIES)),
    "trained_part": TRAINED_PARTS[0],
    "order": 0,
    "seed": 0,
    "run": "single_shot/finetuned/ga-projector+llm-seed-0",
    "state": "final",
}
CHOICES: dict[Axis, tuple[str, ...]] = {
    "scenario": SCENARIOS,
    "method": (*METHODS, *VARIANTS),
    "strategy": tuple(STRATEGIES),
    "trained_part": TRAINED_PARTS,
    "state": ("final", "matched"),
}
# Kinds whose runs leave a model, and whose people it is asked about where that is no axis. The data's
# is the base model before it has met anybody new.
_LEAVES_A_MODEL: dict[Kind, str] = {
    "data": "pretrained",
    "target": "finetuned",
    "single_shot": "",
    "sequential": "finetuned",
}


def _checked(axis: Axis, value: object) -> object:
    if axis == "method" and is_outside(str(value)):
        return value
    if axis in CHOICES:
        return one_of(axis, value, choices=CHOICES[axis])
    if axis == "run":
        named_run(str(value))
        return str(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 10**9:
        raise PulseError(f"{axis} = {value!r} must be a whole number, 0 or more, at most 999999999")
    return value


Word = TypeVar("Word", bound=str)


def one_of(name: str, value: object, *, choices: Iterable[Word]) -> Word:
    """`value` if it is one of the choices. Raises PulseError listing them."""
    for choice in choices:
        if choice == value:
            return choice
    raise PulseError(f"{name} = {value!r} is not one of {', '.join(choices)}")

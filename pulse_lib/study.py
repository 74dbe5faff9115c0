"""The study: which runs a grid of methods, scenarios and seeds consists of, in which order, and
which of them are to be done.

One constructor per notebook takes exactly the notebook's parameters, checks their values and
returns the RunSpec; the notebooks, the Snakefile and the command line all go through them, so a run
has one folder and one identity however it is started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pulse_lib import runs
from pulse_lib.errors import PulseError
from pulse_lib.params import SCENARIOS, TRAINED_PARTS, Profile, load_profile
from pulse_lib.runs import RunSpec, State
from pulse_lib.unlearn.methods import METHODS, VARIANTS, get
from pulse_lib.unlearn.policies import POLICIES

PAPER_METHODS = ("ga", "ga_klr", "npo")
DATA_FILES = (
    "people.parquet",
    "questions.parquet",
    "conversations.parquet",
    "images.parquet",
    "splits.csv",
    "selection.csv",
    "rows.parquet",
)


# --- one run ----------------------------------------------------------------------------------


def data_run(profile: str = "tiny", seed: int = 0, out_dir: str = "") -> RunSpec:
    """The run of 01_build_datasets."""
    out = runs.out_folder(profile, out_dir)
    parameters = {"profile": profile, "seed": _count("seed", seed), "out_dir": out_dir}
    return RunSpec(
        "data", "01_build_datasets", runs.data_folder(out, seed), parameters, (), DATA_FILES, out
    )


def target_run(profile: str = "tiny", seed: int = 0, out_dir: str = "") -> RunSpec:
    """The run of 02_finetune."""
    out = runs.out_folder(profile, out_dir)
    parameters = {"profile": profile, "seed": _count("seed", seed), "out_dir": out_dir}
    files = ("adapters/finetune/", "rows.parquet", "log.csv")
    inputs = (runs.data_folder(out, seed),)
    return RunSpec(
        "target", "02_finetune", runs.target_folder(out, seed), parameters, inputs, files, out
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
    out = runs.out_folder(profile, out_dir)
    parameters = {
        "profile": profile,
        "scenario": _one_of("scenario", scenario, SCENARIOS),
        "method": _method(method),
        "trained_part": _one_of("trained_part", trained_part, TRAINED_PARTS),
        "seed": _count("seed", seed),
        "out_dir": out_dir,
    }
    target = (runs.target_folder(out, seed),) if scenario == "finetuned" else ()
    files = ("adapters/final/", "path.csv", "log.csv", "rows.parquet", "result.json")
    folder = runs.single_shot_folder(out, scenario, method, trained_part, seed)
    inputs = (runs.data_folder(out, seed), *target)
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
    out = runs.out_folder(profile, out_dir)
    parameters = {
        "profile": profile,
        "method": _method(method),
        "policy": _one_of("policy", policy, POLICIES),
        "trained_part": _one_of("trained_part", trained_part, TRAINED_PARTS),
        "order": _count("order", order),
        "seed": _count("seed", seed),
        "out_dir": out_dir,
    }
    folder = runs.sequential_folder(out, method, policy, trained_part, order, seed)
    inputs = (runs.data_folder(out, seed), runs.target_folder(out, seed))
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
    out = runs.out_folder(profile, out_dir)
    inputs = tuple(sorted({*complete_runs(out, load_profile(profile)), *planned}))
    files = ("tables/", "figures/", "report.html")
    parameters = {"profile": profile, "out_dir": out_dir}
    return RunSpec(
        "analysis", "05_analyze", runs.analysis_folder(out), parameters, inputs, files, out
    )


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


def _one_of(name: str, value: str, choices: Sequence[str]) -> str:
    if value not in choices:
        raise PulseError(f"{name} = {value!r} is not one of {', '.join(choices)}")
    return value


def _count(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise PulseError(f"{name} = {value!r} must be a whole number, 0 or more")
    return value


def _method(value: str) -> str:
    return _one_of("method", value, (*METHODS, *VARIANTS))


def method_ids() -> tuple[str, ...]:
    """The ids of all unlearning methods, variants for comparison left out."""
    return tuple(METHODS)


# --- what is in a folder ----------------------------------------------------------------------


def complete_runs(out: Path, profile: Profile) -> list[Path]:
    """Folders of all complete runs in a study's folder that were made with this profile's present
    settings, without the analysis.
    """
    return [folder for folder, why in found_runs(out, profile) if not why]


def found_runs(out: Path, profile: Profile) -> list[tuple[Path, str]]:
    """All run folders in a study's folder but the analysis, each with the reason why it cannot be
    analysed ("" if it can).

    A run whose notebook was edited since counts as well: it is stale, yet a comparison with it is
    not unfair.
    """
    found = []
    settings = runs.plain(profile.as_dict())
    for kind in ("data", "target", "single_shot", "sequential"):
        depth = "*/*" if kind == "single_shot" else "*"
        for folder in sorted(p for p in (out / kind).glob(depth) if p.is_dir()):
            try:
                manifest = runs.require(folder, f"the notebook of {kind}")
            except PulseError as error:
                found.append((folder, str(error)))
                continue
            made, now = (
                runs.relevant(kind, manifest["parameters"], known)
                for known in (manifest["profile"], settings)
            )
            same = made == now
            found.append((folder, "" if same else "made with other settings of the profile"))
    return found


# --- the grid ---------------------------------------------------------------------------------


def study(
    profile: str = "tiny",
    methods: Sequence[str] = PAPER_METHODS,
    seeds: Sequence[int] = (0,),
    scenarios: Sequence[str] = SCENARIOS,
    trained_parts: Sequence[str] | None = None,
    out_dir: str = "",
    sequential: Sequence[str] | None = None,
) -> list[RunSpec]:
    """The runs of a grid, every run after its inputs: data, target, single-shot, sequential,
    analysis.

    trained_parts None is the paper's grid: projector+llm everywhere, and llm alone for `ga` in
    scenario finetuned (the projector-or-not table). Sequential runs are done where scenario
    finetuned is asked for: those of `sequential`, each a method or method/policy; None: every
    method by the first policy. The oracle is single-shot only, and in scenario pretrained only if
    the profile names a model (unlearn.oracle_model). Raises PulseError on an unknown value.
    """
    if not methods or not seeds or not scenarios:
        raise PulseError("a study needs at least one method, one seed and one scenario")
    specs: list[RunSpec] = []
    for seed in dict.fromkeys(seeds):
        specs.append(data_run(profile, seed, out_dir))
        if "finetuned" in scenarios:
            specs.append(target_run(profile, seed, out_dir))
        for scenario in dict.fromkeys(scenarios):
            for method in dict.fromkeys(methods):
                if not _possible(profile, scenario, method):
                    continue
                for part in trained_parts or _paper_parts(scenario, method):
                    specs.append(single_shot_run(profile, scenario, method, part, seed, out_dir))
        if "finetuned" in scenarios:
            for pair in dict.fromkeys(methods if sequential is None else sequential):
                method, policy = method_and_policy(pair)
                if get(method).how == "retrain":
                    continue
                for part in trained_parts or ("projector+llm",):
                    specs.append(sequential_run(profile, method, policy, part, 0, seed, out_dir))
    return [*specs, analysis_run(profile, out_dir, [spec.folder for spec in specs])]


def method_and_policy(pair: str) -> tuple[str, str]:
    """Those of a sequential run from "method" (by the first policy) or "method/policy". Raises
    PulseError listing what there is.
    """
    method, _, policy = pair.partition("/")
    policy = policy or next(iter(POLICIES))
    return _method(method), _one_of("policy", policy, POLICIES)


def options_from_text(
    profile: object = "tiny",
    methods: object = "ga,ga_klr,npo",
    seeds: object = "0",
    scenarios: object = "",
    trained_parts: object = "",
    out_dir: object = "",
    sequential: object = "",
    **unknown: object,
) -> dict:
    """The arguments of `study` from texts, as the command line and Snakemake's --config have them;
    commas part lists.

    Relative paths (a profile file, out_dir) start at the caller's folder. With methods = all,
    sequential runs are the paper's three unless `sequential` says which. Raises PulseError naming
    the option and the value.
    """
    if unknown:
        raise PulseError(
            f"unknown option {', '.join(unknown)}; "
            "known: profile, methods, seeds, scenarios, trained_parts, out_dir, sequential"
        )
    try:
        seed_list = [int(seed) for seed in _parts(seeds)]
    except ValueError:
        raise PulseError(
            f"seeds = {seeds!r} must be whole numbers parted by commas, e.g. 0,1,2"
        ) from None
    profile = str(profile)
    return {
        "profile": str(Path(profile).resolve()) if profile.endswith((".yaml", ".yml")) else profile,
        "methods": list(method_ids()) if str(methods) == "all" else _parts(methods),
        "seeds": seed_list,
        "scenarios": [_one_of("scenario", s, SCENARIOS) for s in _parts(scenarios)]
        or list(SCENARIOS),
        "trained_parts": [_one_of("trained_part", p, TRAINED_PARTS) for p in _parts(trained_parts)]
        or None,
        "out_dir": str(Path(str(out_dir)).resolve()) if out_dir else "",
        "sequential": _parts(sequential) or (list(PAPER_METHODS) if methods == "all" else None),
    }


def _parts(text: object) -> list[str]:
    if isinstance(text, list | tuple):
        return [str(part) for part in text]
    return [part.strip() for part in str(text).split(",") if part.strip()]


def _possible(profile: str, scenario: str, method: str) -> bool:
    if scenario != "pretrained" or method not in METHODS or METHODS[method].how != "retrain":
        return True
    return bool(load_profile(profile).unlearn.oracle_model)


def _paper_parts(scenario: str, method: str) -> tuple[str, ...]:
    return (
        ("projector+llm", "llm")
        if (scenario, method) == ("finetuned", "ga")
        else ("projector+llm",)
    )


@dataclass(frozen=True)
class Plan:
    """A study and where each of its runs stands; `todo` is in an order in which inputs come
    first.
    """

    specs: tuple[RunSpec, ...]
    states: dict[Path, State]  # by folder

    @property
    def todo(self) -> tuple[RunSpec, ...]:
        """The runs that are missing or stale, or whose inputs are made anew."""
        return tuple(spec for spec in self.specs if self.states[spec.folder].state != "done")


def plan(profile: Profile, specs: Sequence[RunSpec]) -> Plan:
    """Where every run stands. What is made from a run that is to be done is to be done itself."""
    states: dict[Path, State] = {}
    for spec in specs:
        state = runs.status(spec, profile)
        renewed = [path for path in spec.inputs if path in states and states[path].state != "done"]
        if state.state != "missing" and renewed:
            name = renewed[0].relative_to(spec.out).as_posix()
            state = State(
                "stale", f"its input {name} is made anew", state.library_changed, state.manifest
            )
        states[spec.folder] = state
    return Plan(tuple(specs), states)

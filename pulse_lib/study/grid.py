"""The study: which runs a grid of methods, scenarios and seeds consists of, in which order, and
which of them are to be done.

One constructor per notebook takes exactly the notebook's parameters, checks their values and
returns the RunSpec; the notebooks, the Snakefile and the command line all go through them, so a run
has one folder and one identity however it is started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pulse_lib import runs
from pulse_lib.errors import PulseError
from pulse_lib.methods import METHODS, PAPER_METHODS, get
from pulse_lib.profile import SCENARIOS, TRAINED_PARTS, Profile, load_profile
from pulse_lib.runs.kinds import (
    RunSpec,
    analysis_run,
    data_run,
    known_method,
    one_of,
    sequential_run,
    single_shot_run,
    target_run,
)
from pulse_lib.runs.manifest import State
from pulse_lib.strategies import STRATEGIES

# --- one run ----------------------------------------------------------------------------------


def method_ids() -> tuple[str, ...]:
    """The ids of all unlearning methods, variants for comparison left out."""
    return tuple(METHODS)


# --- what is in a folder ----------------------------------------------------------------------


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
                if get(method).procedure == "retrain":
                    continue
                for part in trained_parts or ("projector+llm",):
                    specs.append(sequential_run(profile, method, policy, part, 0, seed, out_dir))
    return [*specs, analysis_run(profile, out_dir, [spec.folder for spec in specs])]


def method_and_policy(pair: str) -> tuple[str, str]:
    """Those of a sequential run from "method" (by the first policy) or "method/policy". Raises
    PulseError listing what there is.
    """
    method, _, policy = pair.partition("/")
    policy = policy or next(iter(STRATEGIES))
    return known_method(method), one_of("policy", policy, STRATEGIES)


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
        "scenarios": [one_of("scenario", s, SCENARIOS) for s in _parts(scenarios)]
        or list(SCENARIOS),
        "trained_parts": [one_of("trained_part", p, TRAINED_PARTS) for p in _parts(trained_parts)]
        or None,
        "out_dir": str(Path(str(out_dir)).resolve()) if out_dir else "",
        "sequential": _parts(sequential) or (list(PAPER_METHODS) if methods == "all" else None),
    }


def _parts(text: object) -> list[str]:
    if isinstance(text, list | tuple):
        return [str(part) for part in text]
    return [part.strip() for part in str(text).split(",") if part.strip()]


def _possible(profile: str, scenario: str, method: str) -> bool:
    if scenario != "pretrained" or method not in METHODS or METHODS[method].procedure != "retrain":
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

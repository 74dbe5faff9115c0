"""The study: which runs a grid of methods, scenarios and seeds consists of, in which order, and
which of them are to be done.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pulse_lib.assets import oracle_folder
from pulse_lib.data.hub import is_hub_id
from pulse_lib.errors import PulseError
from pulse_lib.files import from_here
from pulse_lib.methods import METHODS, PAPER_METHODS, get
from pulse_lib.profile import SCENARIOS, TRAINED_PARTS, Profile, load_profile
from pulse_lib.runs.kinds import (
    CHOICES,
    KINDS,
    Kind,
    RunSpec,
    named_run,
    one_of,
    out_dir_from_here,
    spec_of,
)
from pulse_lib.runs.manifest import State, reading_all, status
from pulse_lib.strategies import STRATEGIES

Rebuild = Literal["ask", "keep", "library"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a study is to hold, and how it is brought up to date.

    trained_parts None is the paper's grid: projector+llm everywhere, and llm alone for `ga` in
    scenario finetuned (the projector-or-not table). `sequential`: each a method or method/strategy;
    None: every method by the first strategy. rebuild "library" also makes runs anew that an earlier
    library made, "keep" does not, "ask" lets a person decide. probes: whose models are probed
    (06_probe), at the end of their runs: methods, "before" for the models that a study begins with,
    "all" for both, or single runs by their names, the state behind an @ (final without). orders: of the requests in sequential runs, 0 as numbered, others drawn.
    """

    profile: str = "tiny"
    methods: Sequence[str] = PAPER_METHODS
    seeds: Sequence[int] = (0,)
    scenarios: Sequence[str] = SCENARIOS
    trained_parts: Sequence[str] | None = None
    out_dir: str = ""
    sequential: Sequence[str] | None = None
    rebuild: Rebuild = "ask"
    probes: Sequence[str] = ()
    orders: Sequence[int] = (0,)

    def as_dict(self) -> dict[str, object]:
        """What `options_from_texts` takes, for another process."""
        return {k: v for k, v in dataclasses.asdict(self).items() if v not in (None, "", ())}


def options_from_texts(
    *,
    profile: object = "tiny",
    methods: object = ",".join(PAPER_METHODS),
    seeds: object = "0",
    scenarios: object = "",
    trained_parts: object = "",
    out_dir: object = "",
    sequential: object = "",
    rebuild: object = "ask",
    probes: object = "",
    orders: object = "0",
    **unknown: object,
) -> Options:
    """Options from texts, as the command line and Snakemake's --config have them; commas part
    lists.

    Relative paths (a profile file, out_dir) start at the caller's folder. With methods = all,
    sequential runs are the paper's three unless `sequential` says which. Raises PulseError naming
    the option and the value.
    """
    if unknown:
        known = ", ".join(field.name for field in dataclasses.fields(Options))
        raise PulseError(f"unknown option {', '.join(unknown)}; known: {known}")
    for name, text in {"profile": profile, "out_dir": out_dir}.items():
        if not isinstance(text, str):  # 2026_11 and 007 are numbers to Snakemake's --config
            raise PulseError(
                f"{name} = {text!r} came as {type(text).__name__}, not as text: with Snakemake's "
                f"--config write a path ({name}=./...), or use python -m pulse_lib run"
            )
    seed_list, every = _numbers("seeds", seeds), methods == "all"
    profile, out_dir = str(profile), str(out_dir)
    is_file = profile.endswith((".yaml", ".yml"))
    pairs = _parts(sequential) or (list(PAPER_METHODS) if every else None)
    parts = [one_of("trained_part", p, choices=TRAINED_PARTS) for p in _parts(trained_parts)]
    return Options(
        profile=str(from_here(profile)) if is_file else profile,
        methods=list(METHODS) if every else _parts(methods),
        seeds=seed_list,
        scenarios=[one_of("scenario", s, choices=SCENARIOS) for s in _parts(scenarios)]
        or SCENARIOS,
        trained_parts=parts or None,
        out_dir=out_dir_from_here(out_dir),
        sequential=pairs,
        rebuild=one_of("rebuild", rebuild, choices=get_args(Rebuild)),
        probes=[_checked_probe(p) for p in _parts(probes)],
        orders=_numbers("orders", orders) or (0,),
    )


def _numbers(name: str, text: object) -> list[int]:
    parts = _parts(text)
    if not all(re.fullmatch(r"[0-9]{1,9}", part, re.ASCII) for part in parts):
        raise PulseError(
            f"{name} = {str(text)[:60]!r} must be whole numbers from 0 to 999999999, parted by "
            "commas, e.g. 0,1,2"
        )
    return [int(part) for part in parts]


def _parts(text: object) -> list[str]:
    if isinstance(text, list | tuple):
        return [str(part) for part in text]
    return [part.strip() for part in str(text).split(",") if part.strip()]


# --- the grid ---------------------------------------------------------------------------------


def study(options: Options) -> list[RunSpec]:
    """The runs of a grid, every run after its inputs: data, target, single-shot, sequential,
    analysis.

    Sequential runs are done where scenario finetuned is asked for; there is no scenario pretrained
    where nobody is to be forgotten of it (own people), and no finetuned where all are known
    (PPU-Bench). The oracle is single-shot only,
    and in scenario pretrained only of those seeds for which there is a model (unlearn.oracle_model;
    `without_oracle` names the others). Raises PulseError on an unknown value.
    """
    if not options.methods or not options.seeds or not options.scenarios:
        raise PulseError("a study needs at least one method, one seed and one scenario")
    profile = load_profile(options.profile)
    if set(options.scenarios) == {"finetuned"} and not profile.data.n_finetuned_forget:
        raise PulseError(
            f"profile {profile.name} has nobody to be taught and forgotten "
            "(data.n_finetuned_forget = 0), so that scenario finetuned is not there: take pretrained"
        )
    if set(options.scenarios) == {"pretrained"} and not profile.data.n_pretrained_forget:
        raise PulseError(
            f"profile {profile.name} has nobody to forget of pre-trained knowledge "
            "(data.n_pretrained_forget = 0), so that scenario pretrained is not there: take finetuned"
        )
    specs = [spec for seed in dict.fromkeys(options.seeds) for spec in _of_seed(options, seed)]
    there = {spec.name for spec in specs}
    for run in (p.partition("@")[0] for p in options.probes if "/" in p):
        if run not in there:
            raise PulseError(f"probes: {run} is no run of this study: name one of its runs")
    shared = {"profile": options.profile, "out_dir": options.out_dir}
    analysis = spec_of("analysis", shared)
    planned = [spec.folder for spec in specs if KINDS[spec.kind].analysed]
    return [*specs, reading_all(analysis, profile, planned=planned)]


def _of_seed(options: Options, seed: int) -> Iterator[RunSpec]:
    shared = {"profile": options.profile, "out_dir": options.out_dir, "seed": seed}
    settings = load_profile(options.profile)
    specs = [
        spec_of(kind, shared | axes)
        for kind, of in GRID.items()
        for axes in of(options)
        if _has_model(settings, axes, seed=seed)
    ]
    yield from specs
    for run, state in _probed(options, specs):
        yield spec_of("probe", shared | {"run": run, "state": state})


def _targets(options: Options) -> Iterator[dict]:
    if "finetuned" in options.scenarios and _possible(options.profile, "finetuned"):
        yield {}


def _single_shot(options: Options) -> Iterator[dict]:
    for scenario in dict.fromkeys(options.scenarios):
        for method in dict.fromkeys(options.methods):
            one_of("method", method, choices=CHOICES["method"])
            if _possible(options.profile, scenario):
                for part in options.trained_parts or _paper_parts(scenario, method):
                    yield {"scenario": scenario, "method": method, "trained_part": part}


def _sequential(options: Options) -> Iterator[dict]:
    if "finetuned" not in options.scenarios or not _possible(options.profile, "finetuned"):
        return
    pairs = options.methods if options.sequential is None else options.sequential
    for method, strategy in map(method_and_strategy, dict.fromkeys(pairs)):
        if not get(method).one_shot:
            for part in options.trained_parts or ("projector+llm",):
                for order in dict.fromkeys(options.orders):
                    yield {
                        "method": method,
                        "strategy": strategy,
                        "trained_part": part,
                        "order": order,
                    }


_PROBED = ("all", "before", *CHOICES["method"])


def _checked_probe(text: str) -> str:
    run, _, state = text.partition("@")
    if "/" not in run:
        return one_of("probes", text, choices=_PROBED)
    named_run(run)
    one_of("state", state or "final", choices=CHOICES["state"])
    return text


def _probed(options: Options, specs: Sequence[RunSpec]) -> Iterator[tuple[str, str]]:
    """Names of those runs that are to be probed, and in which state."""
    wanted = {p for p in options.probes if "/" not in p}
    named = [p.partition("@") for p in options.probes if "/" in p]
    for spec in specs:
        whose = str(spec.parameters.get("method", "before"))
        # The data's run stands for the model that knows the pre-trained people
        model = spec.kind != "data" or "pretrained" in options.scenarios
        if model and wanted & {"all", whose}:
            yield spec.name, "final"
        yield from ((name, state or "final") for name, _, state in named if name == spec.name)


# The runs of one seed, by kind, in the order in which they can be done: the axes of each. A kind
# that is not here is run by hand only; the analysis comes last, once.
GRID: dict[Kind, Callable[[Options], Iterable[dict]]] = {
    "data": lambda options: [{}],
    "target": _targets,
    "single_shot": _single_shot,
    "sequential": _sequential,
}


def method_and_strategy(pair: str) -> tuple[str, str]:
    """Those of a sequential run from "method" (by the first strategy) or "method/strategy". Raises
    PulseError listing what there is.
    """
    method, _, strategy = pair.partition("/")
    strategy = strategy or next(iter(STRATEGIES))
    return one_of("method", method, choices=CHOICES["method"]), one_of(
        "strategy", strategy, choices=STRATEGIES
    )


def _possible(profile: str, scenario: str) -> bool:
    # own people: nobody whom the base model knows; PPU-Bench: nobody else
    data = load_profile(profile).data
    return bool(
        {"pretrained": data.n_pretrained_forget, "finetuned": data.n_finetuned_forget}[scenario]
    )


def _has_model(settings: Profile, axes: Mapping, *, seed: int) -> bool:
    """Whether the model that such a run begins with, or compares with, can be there: False for an
    oracle that nobody pre-trained, and for a reference that is fine-tuned on the other people where
    nobody is fine-tuned.
    """
    if axes.get("scenario") != "pretrained" or not get(axes["method"]).one_shot:
        return True
    if "retain model" in get(axes["method"]).needs:
        return False
    pattern = settings.unlearn.oracle_model
    named = pattern.replace("{seed}", str(seed))
    return oracle_folder(pattern, seed) is not None or is_hub_id(named)


def without_oracle(options: Options) -> list[int]:
    """The seeds whose oracle of scenario pretrained was asked for and is not defined, since no model
    was pre-trained without their people.
    """
    settings = load_profile(options.profile)
    shots = [a for a in _single_shot(options) if get(a["method"]).procedure == "retrain"]
    asked = [axes for axes in shots if axes["scenario"] == "pretrained"]
    seeds = dict.fromkeys(options.seeds)
    return [s for s in seeds if not all(_has_model(settings, axes, seed=s) for axes in asked)]


def _paper_parts(scenario: str, method: str) -> tuple[str, ...]:
    both = (scenario, method) == ("finetuned", "ga")
    return ("projector+llm", "llm") if both else ("projector+llm",)


def priority(spec: RunSpec, profile: Profile) -> float:
    """Which of the runs that can start does, the highest first: by kind, and of those that unlearn
    the longest, so that none is left alone at the end.

    A length is counted in people read: the forget people in each epoch, twice with a retain loss,
    and everybody twice for what is measured; a run that fine-tunes anew is longer than any.
    """
    kind = KINDS[spec.kind].priority
    if spec.kind not in ("single_shot", "sequential"):
        return kind
    axes = {name: str(value) for name, value in spec.parameters.items()}
    method, scenario = get(axes["method"]), axes.get("scenario", "finetuned")
    if method.procedure == "retrain":
        return kind + 9
    unlearn, _ = profile.unlearn_for(scenario, method.id, strategy=axes.get("strategy", ""))
    forget, retain = (
        getattr(profile.data, f"n_{scenario}_{name}") for name in ("forget", "retain")
    )
    passes = getattr(unlearn, f"epochs_{scenario}") * (2 if method.retain_loss else 1)
    length = passes * forget + 2 * (forget + retain)
    return kind + math.log10(1 + length)  # below 9, and clearly more for clearly more


# --- what is to be done -----------------------------------------------------------------------


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

    @property
    def kept(self) -> tuple[RunSpec, ...]:
        """The runs that count as done though files of the library changed since."""
        done = (spec for spec in self.specs if self.states[spec.folder].state == "done")
        return tuple(spec for spec in done if self.states[spec.folder].library)

    @property
    def changed_files(self) -> list[str]:
        """Files of the library that changed since a kept run was made."""
        return sorted({name for spec in self.kept for name in self.states[spec.folder].library})


def plan(profile: Profile, specs: Sequence[RunSpec], *, rebuild: Rebuild = "keep") -> Plan:
    """Where every run stands. What is made from a run that is to be done is to be done itself; with
    rebuild = "library", so is a run that another state of the library made.
    """
    states: dict[Path, State] = {}
    for spec in specs:
        state = status(spec, profile)
        renewed = [path for path in spec.inputs if path in states and states[path].state != "done"]
        if state.state != "missing" and renewed:
            name = renewed[0].relative_to(spec.out).as_posix()
            state = dataclasses.replace(state, state="stale", why=f"its input {name} is made anew")
        elif state.state == "done" and state.library and rebuild == "library":
            why = f"the library changed ({', '.join(state.library)})"
            state = dataclasses.replace(state, state="stale", why=why)
        states[spec.folder] = state
    return Plan(tuple(specs), states)

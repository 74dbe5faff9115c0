"""The model that a finished run of a study left, loaded to be probed (06_probe)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pulse_lib.commands.states import run_adapters, run_model
from pulse_lib.data.dataset import ASKED, Dataset, read_dataset
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.rows import RunColumns, State
from pulse_lib.files import read_json, show
from pulse_lib.model.adapters import load_adapter, stack
from pulse_lib.model.load import load_model
from pulse_lib.probe.subject import Subject, chosen_questions
from pulse_lib.profile import Profile
from pulse_lib.runs.kinds import Kind, named_run
from pulse_lib.runs.manifest import Started
from pulse_lib.strategies import get_strategy
from pulse_lib.unlearn.experts import answer_gated, fit_gate
from pulse_lib.unlearn.task import FINETUNED

_STATES: dict[Kind, State] = {
    "data": "before",
    "target": "before",
    "sequential": "round",
}  # of kinds with one state


def load_subject(started: Started, settings: Profile) -> tuple[Subject, Dataset]:
    """The model that the run named by the parameter `run` left, its adapters in force, the one it
    was made from loaded beside it; and the study's data.

    A run of the data stands for the base model, asked about the people that it was pre-trained on.
    Raises PulseError if the run has no such state.
    """
    name, state = str(started.spec.parameters["run"]), str(started.spec.parameters["state"])
    (kind, axes), manifest = named_run(name), started.inputs[name]
    scenario = str(axes["scenario"])
    if state == "matched" and kind != "single_shot":
        raise PulseError(f"state = 'matched': {name} is a {kind} run and leaves one state, 'final'")
    data = read_dataset(started.input("data"))
    model = load_model(run_model(manifest))
    target: tuple[str, ...] = ()
    if scenario == "finetuned":
        load_adapter(model, started.input("target") / "adapters" / FINETUNED, name=FINETUNED)
        target = (FINETUNED,)
    run = started.spec.out / name
    gated = kind == "sequential" and get_strategy(str(axes["strategy"])).gated
    loaded = target
    if kind == "single_shot" or (kind == "sequential" and not gated):
        # an oracle's adapter lies on the base, every other one on the target
        _, chain = run_adapters(run, state if kind == "single_shot" else "")
        own = [folder for folder in chain if folder.is_relative_to(run.resolve())]
        loaded = () if len(own) == len(chain) else target
        for number, folder in enumerate(own, start=1):
            load_adapter(model, folder, name=f"unlearn-{number}")
            loaded = (*loaded, f"unlearn-{number}")
    stack(model, loaded)
    n = settings.probe.n_questions
    asked = data.counted(scenario, ASKED)
    if (
        scenario == "pretrained"
    ):  # nobody learned those of the other scenario: strangers here as well
        asked += [q for q in data.questions if q.set == "holdout"]
    subject = Subject(
        model,
        loaded,
        target=target,
        questions=tuple(chosen_questions(asked, n, seed=_seed(axes))),
        images=data.images,
        evaluate=settings.evaluate,
        whose=_columns(name, axes, kind=kind, state=state),
    )
    return (_with_gate(subject, data, run=run) if gated else subject), data


def _seed(axes: Mapping) -> int:
    return int(axes["seed"])


def _columns(name: str, axes: Mapping, *, kind: Kind, state: str) -> RunColumns:
    here: State = _STATES.get(kind) or ("matched" if state == "matched" else "final")
    return {
        "run": name,
        "scenario": axes["scenario"],
        "method": axes.get("method", "before"),
        "trained_part": axes.get("trained_part", ""),
        "policy": axes.get("strategy", ""),
        "order": axes.get("order", 0),
        "seed": axes["seed"],
        "round": 0,
        "state": here,
        "step": 0,
    }


def _with_gate(subject: Subject, data: Dataset, *, run: Path) -> Subject:
    """The subject as a gate answers for it: each request's adapter for the questions about its
    people.
    """
    model, experts = subject.model, _experts(run)
    for request, folder in experts.items():
        load_adapter(model, folder, name=f"expert-{request}")
    stack(model, subject.target)
    forget = data.training("finetuned", ["forget"], stage="unlearn")
    others = data.training("finetuned", ["retain_train"], stage="unlearn")
    model.features.add((c.image for c in [*forget, *others]), data.images)
    met = [c for c in forget if c.request in experts]
    gate = fit_gate(model, met, others=others, people=data.people)
    answer = partial(
        answer_gated,
        gate=gate,
        target=subject.target,
        experts={request: f"expert-{request}" for request in experts},
    )
    return replace(subject, answer=answer)


def _experts(run: Path) -> dict[int, Path]:
    """The adapter of each request that a gated run carried out."""
    rounds: Sequence[Path] = sorted(run.glob("round-*"))
    if not rounds:
        raise PulseError(f"{show(run)} holds no rounds: run 04_unlearn_sequential again")
    return {read_json(r / "manifest.json")["request"]: r / "adapter" for r in rounds}

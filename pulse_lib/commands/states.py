"""The model that a run left, and a profile's own: which adapters on which base."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from pulse_lib.assets import embedded_folder
from pulse_lib.data.hub import folder_of, model_need
from pulse_lib.errors import PulseError
from pulse_lib.files import show
from pulse_lib.model.adapters import WEIGHTS, adapter_chain, load_adapter, stack
from pulse_lib.model.load import LoadedModel, load_model
from pulse_lib.profile import SCENARIOS, ModelSettings, Profile, load_profile
from pulse_lib.runs.kinds import out_folder, run_folder
from pulse_lib.runs.manifest import profile_of, require, study_of
from pulse_lib.strategies import get_strategy
from pulse_lib.unlearn.task import model_of

STATES = ("final", "matched")


def run_adapters(run: Path, state: str = "", *, round_number: int = 0) -> tuple[dict, list[Path]]:
    """A finished run's manifest, checked to the byte, and the folders of the adapters that make the
    state it left, oldest first; `state` and `round_number` as in `export_run`.

    Raises PulseError: the run or an adapter's run incomplete, changed or made anew since; no such
    state or round; a run that trains no model.
    """
    run = Path(run).resolve()
    manifest = require(run, "its notebook", checksums=True)
    chain = adapter_chain(_adapter_folder(run, manifest, state=state, round_number=round_number))
    _check_chain(run, manifest, chain=chain)
    return manifest, chain


def run_model(manifest: dict) -> ModelSettings:
    """The model that a run's adapters belong to: that of its profile, or for method oracle in
    scenario pretrained the one pre-trained without the forget people.
    """
    profile, parameters = profile_of(manifest), manifest["parameters"]
    if manifest["kind"] != "single_shot":
        return profile.model
    return model_of(
        profile, parameters["scenario"], method_id=parameters["method"], seed=parameters["seed"]
    )


def base_folder(model: ModelSettings) -> Path:
    """Folder of the checkpoint that a run's model settings name; from the hub's cache, or
    downloaded, if it is a hub id. Raises PulseError with the command that fetches it.
    """
    if model.path == "embedded":
        return embedded_folder()
    return folder_of(model_need(model.path, model.revision))


def _adapter_folder(run: Path, manifest: dict, *, state: str, round_number: int) -> Path:
    kind = manifest["kind"]
    if state and kind != "single_shot":
        raise PulseError(f"{show(run)} is a {kind} run: --state is for single-shot runs")
    if round_number and kind != "sequential":
        raise PulseError(f"{show(run)} is a {kind} run: --round is for sequential runs")
    if kind == "target":
        return run / "adapters" / "finetune"
    if kind == "single_shot":
        there = [s for s in STATES if f"adapters/{s}/{WEIGHTS}" in manifest["files"]]
        return run / "adapters" / _chosen(run, "--state", value=state or STATES[0], there=there)
    if kind == "sequential":
        if get_strategy(manifest["parameters"]["strategy"]).gated:
            raise PulseError(
                f"{show(run)} left no one model: its policy has a gate pick an adapter for each "
                "question; the adapters are in its round-... folders"
            )
        there = list(_rounds(manifest))
        return (
            run
            / f"round-{_chosen(run, '--round', value=round_number or max(there), there=there)}/adapter"
        )
    raise PulseError(f"{show(run)} is a {kind} run: only runs that train a model leave one")


def _rounds(manifest: dict) -> Iterator[int]:
    for name in manifest["files"]:
        if match := re.fullmatch(rf"round-(\d+)/adapter/{re.escape(WEIGHTS)}", name):
            yield int(match[1])


def _chosen(run: Path, option: str, *, value, there: list):
    if value not in there:
        known = ", ".join(map(str, sorted(there))) or "none"
        raise PulseError(f"{show(run)}: there is no {option} {value}; there are: {known}")
    return value


def _check_chain(run: Path, manifest: dict, *, chain: Sequence[Path]) -> None:
    """Adapters below the run's own must still be those that it was trained on."""
    for folder in chain:
        if folder.is_relative_to(run):
            continue
        below = folder.parents[1]  # target/seed-0 of target/seed-0/adapters/finetune
        found = require(below, "02_finetune", checksums=True)
        if found["result"] not in manifest["inputs"].values():
            raise PulseError(
                f"{show(below)} was made anew after {show(run)}: its adapter is not the one that "
                f"this run went on from; run {manifest['notebook']} again"
            )


@dataclass(frozen=True)
class ModelState:
    """A model that can be asked, and the people it is asked about."""

    name: str  # for messages: the run's folder, or the profile
    profile: Profile
    _: KW_ONLY
    model: ModelSettings
    adapters: tuple[Path, ...]  # folders, oldest first; () for the base
    seed: int  # of the study's data, and of the sample of MMBench
    scenarios: tuple[str, ...]  # whose people are asked about
    data: Path  # folder of the study's data; looked at only if people are asked about
    card: dict  # what it is, for measure.json
    data_result: str = ""  # `result` of the data's manifest that a run was made from; "": any


def state_of_profile(profile: str, seed: int = 0, *, out_dir: str = "") -> ModelState:
    """The base model of a profile; asked about the people of both scenarios in the study's data of
    that seed. Raises PulseError if the profile cannot be read or the seed is negative.
    """
    if seed < 0:
        raise PulseError(f"--seed {seed} must be 0 or more")
    settings = load_profile(profile)
    data = run_folder("data", out_folder(profile, out_dir), seed=seed)
    card = _card(settings, settings.model, seed=seed) | {"state": "base"}
    return ModelState(
        f"profile {settings.name}",
        settings,
        model=settings.model,
        adapters=(),
        seed=seed,
        scenarios=SCENARIOS,
        data=data,
        card=card,
    )


def state_of_run(run: Path, state: str = "", *, round_number: int = 0) -> ModelState:
    """The model that a finished run left; asked about the people of the run's scenario.

    state: "final" (default) or "matched", of a single-shot run; round_number: of a sequential run,
    0 for its last. Raises PulseError: the run or an adapter's run incomplete, changed or made anew
    since; no such state or round; a run that trains no model.
    """
    run = Path(run).resolve()
    manifest, chain = run_adapters(run, state, round_number=round_number)
    settings, model = profile_of(manifest), run_model(manifest)
    seed, single = manifest["parameters"]["seed"], manifest["kind"] == "single_shot"
    scenario = manifest["parameters"]["scenario"] if single else "finetuned"
    out = study_of(run, manifest)
    data = run_folder("data", out, seed=seed)
    card = _card(settings, model, seed=seed) | {
        "run": show(run),
        "run_result": manifest["result"],
        "parameters": manifest["parameters"],
        "state": chain[-1].relative_to(run).as_posix(),
        "adapters": [show(folder) for folder in chain],
    }
    made_from = manifest["inputs"].get(data.relative_to(out).as_posix(), "")
    return ModelState(
        show(run),
        settings,
        model=model,
        adapters=tuple(chain),
        seed=seed,
        scenarios=(scenario,),
        data=data,
        card=card,
        data_result=made_from,
    )


def load_state(state: ModelState) -> LoadedModel:
    """The model, loaded as its settings say, with the adapters in force and nothing trainable."""
    model = load_model(state.model)
    names = [f"measured_{i}" for i in range(len(state.adapters))]
    for name, folder in zip(names, state.adapters, strict=True):
        load_adapter(model, folder, name=name)
    stack(model, names)
    return model


def _card(profile: Profile, model: ModelSettings, *, seed: int) -> dict:
    return {
        "kind": "measure",
        "profile": profile.name,
        "model": dataclasses.asdict(model),
        "seed": seed,
        "run_result": "",
    }

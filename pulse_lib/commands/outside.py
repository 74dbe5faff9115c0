"""Someone else's model as a run of a study: other code made the study's target forget, and left a
merged folder or an adapter. It is asked the study's questions, and lies in the study as a
single-shot run does, so that tables, distances and probes (06) take it like any other.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open

from pulse_lib import runs
from pulse_lib.commands.export import (
    LORA_KEY,
    WEIGHT_KEY,
    Delta,
    layer_name,
    read_deltas,
    weight_files,
)
from pulse_lib.commands.states import base_folder
from pulse_lib.data.dataset import read_dataset
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import (
    both_modalities,
    forget_accuracies,
    nan_mean,
    retained_shares,
    summary,
)
from pulse_lib.evaluate.generate import answer_apart
from pulse_lib.evaluate.rows import make_rows, read_rows, write_rows
from pulse_lib.files import show, write_csv, write_json
from pulse_lib.methods import OUTSIDE
from pulse_lib.model.adapters import (
    CONFIG,
    MANIFEST,
    WEIGHTS,
    adapter_chain,
    adapter_weights,
    add_adapter,
    load_adapter,
    save_adapter,
    set_adapter_weights,
    stack,
)
from pulse_lib.runs.manifest import profile_of, study_of
from pulse_lib.train.loop import LOG_COLUMNS
from pulse_lib.unlearn.task import Target
from pulse_lib.unlearn.trajectory import TRAJECTORY_COLUMNS

# A singular value below this share of a layer's whole change is rounding, not unlearning
NOISE = 2.0e-3
_ROUNDING = 2.0**-7  # of a weight: what a merge into 16 bits may move it
_EVERYWHERE = ("lm_head.weight",)  # written by some, left out by others where it is tied


def adopt(model: Path, base: Path | None = None, *, run: Path) -> tuple[str, pd.DataFrame]:
    """The new run's name in the study, and what the model knows and keeps (`judged`), after it was
    asked all questions of the scenario and written into the study.

    model: a merged model's folder, or an adapter's; base: the folder that a merged one began with;
    run: the study's run whose model that is, target/seed-0 or, for pre-trained knowledge,
    data/seed-0. A merged model is turned into an adapter: what it changed of `base`. Raises
    PulseError: a run that this one needs is missing; a folder is neither; a base that is another
    model; a change outside projector and language model's linear layers, which no adapter holds.
    """
    manifest = runs.require(run, "its notebook", checksums=True)
    if manifest["kind"] not in ("target", "data"):
        raise PulseError(
            f"{show(run)} is a {manifest['kind']} run: give the one whose model is to forget, "
            "target/seed-N, or data/seed-N for pre-trained knowledge"
        )
    settings, seed = profile_of(manifest), int(manifest["parameters"]["seed"])
    scenario = "finetuned" if manifest["kind"] == "target" else "pretrained"
    method = f"{OUTSIDE}_{re.sub('[^a-z0-9]+', '_', model.name.lower())}"
    where = {"profile": manifest["parameters"]["profile"], "out_dir": str(study_of(run, manifest))}
    axes = {"scenario": scenario, "method": method, "seed": seed}
    started = runs.start(runs.spec_of("single_shot", axes | where), settings)
    target = Target.load(settings, scenario, seed=seed, folder=run)
    _put_on(target, model, base=base, folder=started.folder / "adapters" / "final")
    data = read_dataset(started.input("data"))
    parts = (data.evaluation(scenario), data.strangers(scenario))
    answers = answer_apart(
        target.model, parts, images=data.images, settings=settings.evaluate, label="asking it"
    )
    name = started.spec.name
    rows = make_rows(
        [*parts[0], *parts[1]],
        answers,
        rules=settings.evaluate.extraction_rules,
        **{"run": name, "scenario": scenario, "method": method, "seed": seed},
        **{"trained_part": "projector+llm", "state": "final", "step": 1},
    )
    before = read_rows(run / "rows.parquet")
    before = before[(before["state"] == "before") & (before["scenario"] == scenario)]
    write_rows(started.folder / "rows.parquet", rows)
    path = pd.DataFrame([summary(before), summary(rows)]).assign(step=[0, 1], epoch=[0.0, 1.0])
    write_csv(started.folder / "path.csv", path.reindex(columns=TRAJECTORY_COLUMNS))
    log = pd.DataFrame([{"step": 1}], columns=LOG_COLUMNS)
    write_csv(started.folder / "log.csv", log)
    result: dict[str, object] = {"matched_step": None, "final_step": 1, "chosen_step": 1}
    result |= {"n_measurements": 2, "outside": show(model), "seconds_train": 0.0}
    write_json(started.folder / "result.json", result)
    runs.finish(started, ["adapters/final/"])
    return name, judged(before, rows, level=settings.unlearn.matched_at)


def judged(before: pd.DataFrame, rows: pd.DataFrame, *, level: float) -> pd.DataFrame:
    """What two states know and keep: forget accuracy by what is said and by the likeliest option
    (means of both modalities), retain and general; the shares kept; and whether both forget
    accuracies are at most `level`.
    """
    lines = []
    for state, table in {"before": before, "now": rows}.items():
        found, forget = summary(table), forget_accuracies(table)
        likely = nan_mean(v for name, v in forget.items() if name.endswith("_likelihood"))
        said = both_modalities(found)
        lines.append(
            {
                "state": state,
                "forget": float(said),
                "forget_likelihood": float(likely),
                "retain": float(both_modalities(found, "retain")),
                "general": found["general"],
                **{f"{k}_kept": v for k, v in retained_shares(summary(before), found).items()},
                "forgotten": bool(max(said, likely) <= level),
            }
        )
    return pd.DataFrame(lines)


def _put_on(target: Target, theirs: Path, *, base: Path | None, folder: Path) -> None:
    """Put what other code changed on the target, in force, and save it as an adapter."""
    model, below = target.model, list(target.adapters)
    if (theirs / CONFIG).is_file():
        folder.mkdir(parents=True)
        for name in (CONFIG, WEIGHTS):
            if not (theirs / name).is_file():
                raise PulseError(f"{show(theirs / name)} is missing: an adapter needs it")
            shutil.copyfile(theirs / name, folder / name)
        write_json(folder / MANIFEST, {"kind": "adapter", "parent": None})  # to load it
        load_adapter(model, folder, name=OUTSIDE)
    else:
        if base is None:
            raise PulseError(
                f"{show(theirs)} is no adapter (no {CONFIG}), so that it is a merged model: name "
                "with --base the folder that it began with, as python -m pulse_lib export writes it"
            )
        _check_base(target, base)
        found = changes(theirs, base)
        factors = {layer: low_rank(delta) for layer, delta in found.items()}
        rank = max((len(a) for a, _ in factors.values()), default=1)
        add_adapter(
            model, OUTSIDE, trained_part="projector+llm", rank=rank, alpha=rank, seed=target.seed
        )
        empty = adapter_weights(model, OUTSIDE)
        set_adapter_weights(model, OUTSIDE, weights=_filled(empty, factors))
    stack(model, [*below, OUTSIDE])
    save_adapter(model, OUTSIDE, folder=folder, parent=target.folder)


def changes(model: Path, base: Path) -> dict[str, torch.Tensor]:
    """What a merged model changed of its base, by layer ("language_model.layers.0.mlp.up_proj"),
    float32 (out, in); layers that it left alone are not there. Raises PulseError for a change
    elsewhere, or if the two have other weights.
    """
    theirs, ours = dict(_tensors(model)), dict(_tensors(base))
    if odd := sorted(set(theirs) ^ set(ours) - set(_EVERYWHERE)):
        raise PulseError(f"{show(model)} and {show(base)} are other models: only one has {odd[0]}")
    found = {}
    for name, (file, key) in theirs.items():
        if name not in ours:
            continue
        before, after = _read(*ours[name]), _read(file, key)
        if before.shape != after.shape:
            raise PulseError(
                f"{show(file)}: {key} has shape {tuple(after.shape)}, that of {show(base)} "
                f"{tuple(before.shape)}: it began with another model"
            )
        if torch.equal(before, after):
            continue
        match = WEIGHT_KEY.fullmatch(key)
        if match is None:
            raise PulseError(
                f"{show(file)}: {key} is not that of {show(base)}: an adapter of this kit holds "
                "changes of the projector's and the language model's linear layers alone"
            )
        found[layer_name(match)] = after - before
    return found


def low_rank(delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A (r, in) and B (out, r) with B A = delta, but for singular values below NOISE of its norm:
    what an adapter changed has few, a rounding has them all and small.
    """
    u, s, v = torch.linalg.svd(delta.double(), full_matrices=False)
    r = max(1, int((s > NOISE * s.norm()).sum()))
    root = s[:r].sqrt()
    return (root[:, None] * v[:r]).float(), (u[:, :r] * root).float()


def _filled(
    empty: Mapping[str, torch.Tensor], factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """An adapter's tensors with these factors in them, nothing elsewhere."""
    weights, used = {}, set()
    for key, tensor in empty.items():
        match = LORA_KEY.fullmatch(key)
        assert match is not None  # of this kit's own adapter
        layer, weight = layer_name(match), torch.zeros_like(tensor)
        if layer in factors:
            used.add(layer)
            a, b = factors[layer]
            if match["kind"] == "lora_A":
                weight[: len(a)] = a
            else:
                weight[:, : b.shape[1]] = b
        weights[key] = weight
    if missing := sorted(set(factors) - used):
        raise PulseError(f"layer {missing[0]} was changed, and the study's model has none such")
    return weights


def _check_base(target: Target, base: Path) -> None:
    """Raises PulseError unless the weights of `base` are the target's, to the rounding of 16 bits."""
    chain = adapter_chain(target.folder) if target.folder else []
    added: dict[str, list[Delta]] = read_deltas(chain)
    ours = dict(_tensors(base_folder(target.model.settings)))
    for name, (file, key) in _tensors(base):
        match = WEIGHT_KEY.fullmatch(key)
        if match is None:
            continue
        if name not in ours:
            raise PulseError(f"{show(file)}: the study's target has no {key}: another model")
        expected, found = _read(*ours[name]), _read(file, key)
        for delta in added.get(layer_name(match), []):
            expected = expected + delta.value()
        near = _ROUNDING * expected.abs() + _ROUNDING * expected.abs().mean()
        if found.shape != expected.shape or bool(((found - expected).abs() > near).any()):
            raise PulseError(
                f"{show(file)}: {key} is not that of this study's target: give --base as python -m "
                "pulse_lib export writes it from the target of this seed"
            )


def _tensors(folder: Path) -> Iterator[tuple[str, tuple[Path, str]]]:
    """(name without what differs between checkpoints, (file, key)) of every weight of a folder."""
    if not (folder / "config.json").is_file():
        raise PulseError(
            f"{show(folder)} is no model: it has neither {CONFIG} (an adapter) nor config.json"
        )
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as source:
            for key in source.keys():  # noqa: SIM118 (not a dict)
                yield re.sub(r"(^|\.)model\.", r"\1", key), (file, key)


def _read(file: Path, key: str) -> torch.Tensor:
    with safe_open(file, framework="pt") as source:
        return source.get_tensor(key).float()

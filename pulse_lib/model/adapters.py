"""LoRA adapters as a stack: a model state is the base plus an ordered list of adapters; nothing is
ever merged.

A reference model is the same network with a shorter list (`only`). peft's `disable_adapter()` is
not that: it drops the fine-tune too and un-freezes adapters when it ends.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from pulse_lib.errors import PulseError
from pulse_lib.files import read_json, replace_file, write_json
from pulse_lib.model.families import LLM as LLM
from pulse_lib.model.families import PROJECTOR as PROJECTOR
from pulse_lib.model.folder import read_lora
from pulse_lib.model.fused import fuse
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.lora import (
    LoraConfig,
    LoraLayer,
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from pulse_lib.profile import TRAINED_PARTS, TrainedPart

WEIGHTS, CONFIG, MANIFEST = ADAPTER_FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "manifest.json",
)

AdapterWeights = dict[str, torch.Tensor]


def add_adapter(
    model: LoadedModel, name: str, *, trained_part: TrainedPart, rank: int, alpha: int, seed: int
) -> None:
    """Add a LoRA that changes nothing yet (B = 0; A uniform, drawn from `seed` on the CPU, so alike
    on every device).

    An adapter of the same name is replaced. Call `stack` afterwards. Raises PulseError if no layer
    fits `trained_part`.
    """
    if trained_part not in TRAINED_PARTS:
        raise PulseError(
            f"trained_part = {trained_part!r} is not one of {', '.join(TRAINED_PARTS)}"
        )
    modules, parameters = model.family.lora_targets(trained_part)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=modules,
        target_parameters=parameters,
    )
    _inject(model, name, config=config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in sorted(_named(model, name)):
            if "lora_A" in key:
                fresh = torch.empty(weight.shape, dtype=torch.float32)
                torch.nn.init.kaiming_uniform_(
                    fresh, a=5**0.5, generator=generator
                )  # as LoRA's own start
                weight.copy_(fresh)
            else:
                weight.zero_()


def drop_adapter(model: LoadedModel, name: str) -> None:
    """Remove an adapter from the network, if it is there."""
    if model.peft is not None and name in _known(model):
        for layer in _layers(model):  # peft would re-activate and un-freeze another one
            layer._active_adapter = [a for a in layer.active_adapters if a != name]
        model.peft.base_model.delete_adapter(name)  # ty: ignore[not-callable]  (nn.Module's stub)


def stack(model: LoadedModel, frozen: Sequence[str], *, train: str | None = None) -> None:
    """Make base + frozen (in order) + train the model's state, with gradients for `train` alone.
    stack(model, []) is the base.
    """
    names = [*frozen, train] if train else list(frozen)
    _check_known(model, names)
    for layer in _layers(model):
        layer._active_adapter = names
    for key, parameter in model.network.named_parameters():
        parameter.requires_grad_(train is not None and f".{train}." in key and "lora_" in key)
    fuse(_layers(model))


@contextmanager
def only(model: LoadedModel, *names: str) -> Generator[None]:
    """Inside, the model's state is base + names; never touches requires_grad, so safe between
    forward and backward.
    """
    with _in_force(model, list(_layers(model)), names=names):
        yield


@contextmanager
def projector_of(model: LoadedModel, *names: str) -> Generator[None]:
    """Inside, the projector is that of base + names, the language model as it is: the test whether
    knowledge comes back once the projector is reloaded.
    """
    projector = re.compile(PROJECTOR)
    layers = [
        layer
        for key, layer in model.network.named_modules()
        if isinstance(layer, LoraLayer) and projector.fullmatch(f".{key}")
    ]
    with _in_force(model, layers, names=names):
        yield


@contextmanager
def _in_force(
    model: LoadedModel, layers: Sequence[LoraLayer], *, names: Sequence[str]
) -> Generator[None]:
    _check_known(model, names)
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = list(names)
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def active(model: LoadedModel) -> list[str]:
    """Names of the adapters in force, in order."""
    return next((list(layer.active_adapters) for layer in _layers(model)), [])


def adapter_weights(model: LoadedModel, name: str) -> AdapterWeights:
    """A copy of an adapter's tensors on the CPU, by peft's names."""
    _check_known(model, [name])
    # save_embedding_layers: peft would look for the base model on the hub to find out
    state = get_peft_model_state_dict(model.peft, adapter_name=name, save_embedding_layers=False)
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in sorted(state.items())}


def set_adapter_weights(model: LoadedModel, name: str, *, weights: AdapterWeights) -> None:
    """Put tensors from `adapter_weights` back. Raises PulseError if they belong to another shape of
    adapter.
    """
    expected = {k: v.shape for k, v in adapter_weights(model, name).items()}
    if expected != {k: v.shape for k, v in weights.items()}:
        raise PulseError(
            f"adapter {name!r}: {len(weights)} tensors do not fit the {len(expected)} of this model"
        )
    set_peft_model_state_dict(model.peft, weights, adapter_name=name)


def save_adapter(model: LoadedModel, name: str, *, folder: Path, parent: Path | str | None) -> Path:
    """The folder, with an adapter in peft's own files and a manifest naming its parent's folder
    (None: the base), written last.

    The parent is stored relative to `folder`, so that a study can be moved.
    """
    folder = Path(folder)
    weights = adapter_weights(model, name)
    config = _known(model)[name].to_dict()
    config |= {
        "inference_mode": True,
        "base_model_name_or_path": model.settings.path,
        "revision": model.settings.revision or None,
    }
    (folder / MANIFEST).unlink(missing_ok=True)
    replace_file(folder / WEIGHTS, lambda tmp: save_file(weights, tmp, metadata={"format": "pt"}))
    write_json(
        folder / CONFIG, {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    )
    above = (
        None
        if parent is None
        else Path(os.path.relpath(Path(parent).resolve(), folder.resolve())).as_posix()
    )
    write_json(
        folder / MANIFEST,
        {
            "kind": "adapter",
            "parent": above,
            "n_parameters": sum(w.numel() for w in weights.values()),
        },
    )
    return folder


def load_adapter(model: LoadedModel, folder: Path, *, name: str) -> None:
    """Add a saved adapter (exactly as it was saved). Call `stack` afterwards. Raises PulseError if
    it is incomplete or does not fit.
    """
    folder = Path(folder)
    read_json(folder / MANIFEST)  # written last: without it the folder is half-written
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise PulseError(
                f"{folder / file} is missing: run the notebook that trains this adapter again"
            )
    config, weights = read_lora(folder / CONFIG, folder / WEIGHTS)
    _inject(model, name, config=config)
    try:
        set_adapter_weights(model, name, weights=weights)
    except PulseError as error:
        raise PulseError(
            f"{folder / WEIGHTS}: {error}: it was trained on another model or with another rank"
        ) from None


def adapter_chain(folder: Path) -> list[Path]:
    """Folders of the adapters that make a state, oldest first, the given one last. Raises
    PulseError if one is incomplete.
    """
    chain = [Path(folder).resolve()]
    while (parent := _parent(chain[0])) is not None:
        above = (chain[0] / parent).resolve()
        if above in chain:
            raise PulseError(f"{chain[0] / MANIFEST}: parent {parent!r} goes round in a circle")
        chain.insert(0, above)
    return chain


def _parent(folder: Path) -> str | None:
    found = read_json(folder / MANIFEST)
    parent = found.get("parent", 0) if isinstance(found, dict) else 0
    if parent is not None and not isinstance(parent, str):
        raise PulseError(
            f"{folder / MANIFEST} does not say which adapter lies below: run the notebook that "
            "trains this adapter again"
        )
    return parent


def trained_parameters(model: LoadedModel) -> dict[str, torch.nn.Parameter]:
    """The parameters that get gradients, by their names in the network, in its order."""
    return {k: p for k, p in model.network.named_parameters() if p.requires_grad}


def trainable_report(model: LoadedModel) -> dict:
    """{"n_trainable": parameters that get gradients, "by_part": {"projector": n, "llm": n}}.

    Raises PulseError if there is none, or if one lies outside projector and language model.
    """
    by_part = {"projector": 0, "llm": 0}
    for key, parameter in model.network.named_parameters():
        if not parameter.requires_grad:
            continue
        module = "." + key.partition(".lora_")[0]
        part = (
            "llm"
            if re.fullmatch(LLM, module)
            else "projector"
            if re.fullmatch(PROJECTOR, module)
            else None
        )
        if part is None or "lora_" not in key:
            raise PulseError(
                f"parameter {key} is trainable; only LoRA in projector and language model may be"
            )
        by_part[part] += parameter.numel()
    if not sum(by_part.values()):
        raise PulseError(
            "no parameter is trainable: call add_adapter and then stack(model, frozen, train=name)"
        )
    return {"n_trainable": sum(by_part.values()), "by_part": by_part}


def _inject(model: LoadedModel, name: str, *, config: LoraConfig) -> None:
    drop_adapter(model, name)
    try:
        if model.peft is None:
            with warnings.catch_warnings():  # peft asks transformers by an old name
                warnings.simplefilter("ignore", FutureWarning)
                model.peft = PeftModel(model.network, config, adapter_name=name)
        else:
            model.peft.add_adapter(name, config)
    except ValueError as error:
        raise PulseError(
            f"adapter {name!r} fits no layer of {model.settings.path}: {error}"
        ) from None
    model.network.eval()
    for layer in _layers(model):
        if (
            name in layer.lora_dropout
        ):  # a frozen adapter that still drops would make the reference random
            layer.lora_dropout[name] = torch.nn.Identity()


def _layers(model: LoadedModel) -> Iterator[LoraLayer]:
    return (m for m in model.network.modules() if isinstance(m, LoraLayer))


def _named(model: LoadedModel, name: str) -> Iterator[tuple[str, torch.nn.Parameter]]:
    return (
        (k, p) for k, p in model.network.named_parameters() if "lora_" in k and f".{name}." in k
    )


def _known(model: LoadedModel) -> dict[str, PeftConfig]:
    return {} if model.peft is None else model.peft.peft_config


def _check_known(model: LoadedModel, names: Sequence[str]) -> None:
    known = _known(model)
    for name in names:
        if name not in known:
            raise PulseError(
                f"adapter {name!r} is not loaded; loaded are: {', '.join(known) or 'none'}"
            )

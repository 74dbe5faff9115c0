"""A finished run as an ordinary model folder: its adapters merged into the 16-bit checkpoint that
they were trained on, for users who know neither this kit nor peft.

Always merged into the checkpoint's own weights, also if the run used 4-bit: weights on the NF4 grid
would round small changes away. One checkpoint file is in memory at a time, and every file that is
no weight is copied as it is, so a 13B model needs about 10 GB of memory and no GPU.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pulse_lib.commands.states import base_folder, run_adapters, run_model
from pulse_lib.errors import PulseError
from pulse_lib.files import read_json, replace_file, show, write_error, write_json
from pulse_lib.model.adapters import CONFIG, WEIGHTS

CARD = "pulse_export.json"
# What makes a model folder besides its weights. README and checksums of the base would be wrong.
COPIED = ("*.json", "*.jinja", "*.txt", "*.model")
NOT_COPIED = ("config.json", "card.json", CARD)  # config.json comes last; card.json: the embedded's
# A layer that may have an adapter, as checkpoints of any family name it, old layout or new; from the
# name's start, so that no layer of a vision tower fits.
_LAYER = (
    r"(?:model\.)?(?:(?:(?:language_model|text_model)\.(?:model\.)?)?"
    r"(?P<llm>layers\.\d+\.(?:self_attn|mlp)\.\w+)"
    r"|(?P<projector>multi_modal_projector(?:\.linear_[12])?|connector\.modality_projection\.proj"
    r"|visual\.(?:merger|deepstack_merger_list\.\d+)\.(?:mlp\.[02]|linear_fc[12])))"
)
WEIGHT_KEY = re.compile(rf"{_LAYER}\.(?:weight|mm_input_projection_weight)")
LORA_KEY = re.compile(rf"base_model\.model\.{_LAYER}\.(?P<kind>lora_A|lora_B)\.weight")


@dataclass(frozen=True)
class Delta:
    """What one adapter adds to one layer: scale * b @ a. a (r, in), b (out, r)."""

    a: torch.Tensor
    b: torch.Tensor
    _: KW_ONLY
    scale: float

    def value(self) -> torch.Tensor:
        """(out, in), float32."""
        return (self.b.float() @ self.a.float()) * self.scale


def export_run(run: Path, out: Path, *, state: str = "", round_number: int = 0) -> dict:
    """Write the model that a run left to folder `out`; returns its card (also in pulse_export.json).

    state: "final" (default) or "matched", of a single-shot run; round_number: of a sequential run,
    0 for its last. Each weight is base + adapters in their order in float32, rounded once to the
    checkpoint's dtype. Raises PulseError: the run or an adapter's run incomplete, changed or made
    anew since; no such state or round; `out` not empty; a base that is quantised or not in
    safetensors; a weight that is not finite after rounding.
    """
    run, out = Path(run).resolve(), Path(out).resolve()
    manifest, chain = run_adapters(run, state, round_number=round_number)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PulseError(f"{show(out)} is there and not empty: name a new folder with --out")
    model = run_model(manifest)
    base = base_folder(model)
    files = weight_files(base)
    _check_space(out, sum(file.stat().st_size for file in files))
    card = {
        "kind": "export",
        "base_model": model.path,
        "base_revision": model.revision,
        "trained_with": model.load,
        "run": show(run),
        "run_kind": manifest["kind"],
        "run_result": manifest["result"],
        "parameters": manifest["parameters"],
        "state": chain[-1].relative_to(run).as_posix(),
        "adapters": [show(folder) for folder in chain],
        "git_commit": manifest.get("git_commit"),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "note": "Weights derived from the base model: its licence applies. A model that answers no "
        "question about a person may still hold what it learned.",
    }
    deltas = read_deltas(chain)
    # A folder of another name until it is whole, and config.json last: an interrupted export is
    # nothing that from_pretrained would read.
    half = out.with_name(f".{out.name}.half-{uuid.uuid4().hex[:8]}")
    try:
        half.mkdir(parents=True)
        card["n_layers_changed"] = merge_files(files, half, deltas=deltas)
        for name in _other_files(base):
            shutil.copyfile(base / name, half / name)
        write_json(half / CARD, card)
        shutil.copyfile(base / "config.json", half / "config.json")
        if out.exists():
            out.rmdir()
        os.replace(half, out)
    except OSError as error:
        raise write_error(error, out) from None
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return card


def weight_files(base: Path) -> list[Path]:
    """The checkpoint's safetensors files. Raises PulseError if there are none, one of the index is
    missing, or the checkpoint is quantised.
    """
    config = read_json(base / "config.json")
    if "quantization_config" in config:
        raise PulseError(
            f"{show(base / 'config.json')}: this checkpoint is quantised; adapters are merged into "
            "16-bit weights only: set model.path to the model that it was made from"
        )
    index = base / "model.safetensors.index.json"
    if index.is_file():
        files = [base / name for name in sorted(set(read_json(index)["weight_map"].values()))]
    else:
        files = sorted(base.glob("*.safetensors"))
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        what = show(missing[0]) if missing else f"{show(base)}: no *.safetensors file"
        raise PulseError(f"{what} is missing: fetch the checkpoint again, in safetensors format")
    return files


def read_deltas(chain: Sequence[Path]) -> dict[str, list[Delta]]:
    """What the adapters add, by layer ("language_model.layers.0.mlp.up_proj"), oldest first. Raises
    PulseError for a kind of LoRA that is more than scale * B A.
    """
    found: dict[str, list[Delta]] = {}
    for folder in chain:
        config, pairs = read_json(folder / CONFIG), {}
        unusual = [
            key
            for key in (
                "use_dora",
                "use_rslora",
                "rank_pattern",
                "alpha_pattern",
                "modules_to_save",
            )
            if config.get(key)
        ]
        if unusual or config.get("bias", "none") != "none":
            raise PulseError(
                f"{show(folder / CONFIG)}: {', '.join(unusual) or 'bias'} cannot be merged here; "
                "merge this adapter with peft's merge_and_unload on the 16-bit model"
            )
        for key, weight in load_file(folder / WEIGHTS).items():
            match = LORA_KEY.fullmatch(key)
            if match is None:
                raise PulseError(f"{show(folder / WEIGHTS)}: {key} belongs to no layer known here")
            pairs.setdefault(layer_name(match), {})[match["kind"]] = weight
        scale = config["lora_alpha"] / config["r"]
        for layer, pair in pairs.items():
            found.setdefault(layer, []).append(Delta(pair["lora_A"], pair["lora_B"], scale=scale))
    return found


def layer_name(match: re.Match[str]) -> str:
    """One name for a layer, however its file calls it."""
    return f"language_model.{match['llm']}" if match["llm"] else match["projector"]


def merge_files(files: Sequence[Path], out: Path, *, deltas: dict[str, list[Delta]]) -> int:
    """Write each checkpoint file to folder `out` with the deltas added; the number of layers
    changed. Raises PulseError unless each delta found its one weight, or a weight overflows.
    """
    changed: set[str] = set()
    for file in files:
        merged = {}
        with safe_open(file, framework="pt") as source:
            metadata = source.metadata() or {"format": "pt"}
            for key in source.keys():  # noqa: SIM118 (not a dict)
                weight, match = source.get_tensor(key), WEIGHT_KEY.fullmatch(key)
                layer = layer_name(match) if match else ""
                if layer in deltas:
                    if layer in changed:
                        raise PulseError(f"{show(file)}: {key} is the second weight of {layer}")
                    changed.add(layer)
                    weight = _merged(weight, deltas[layer], where=f"{show(file)}: {key}")
                merged[key] = weight
        replace_file(out / file.name, lambda tmp, m=merged, d=metadata: save_file(m, tmp, d))
    if missing := sorted(set(deltas) - changed):
        raise PulseError(
            f"{show(files[0].parent)} has no weight for {missing[0]} and {len(missing) - 1} other "
            "layers of the adapters: it is another model than the one they were trained on"
        )
    return len(changed)


def _merged(weight: torch.Tensor, deltas: Sequence[Delta], *, where: str) -> torch.Tensor:
    if weight.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise PulseError(f"{where} is {weight.dtype}: adapters are merged into 16-bit weights only")
    total = weight.float()
    for delta in deltas:
        if (len(delta.b), delta.a.shape[1]) != tuple(total.shape):
            raise PulseError(
                f"{where} has shape {tuple(total.shape)}, its adapter "
                f"{(len(delta.b), delta.a.shape[1])}: it belongs to another model"
            )
        total = total + delta.value()
    rounded = total.to(weight.dtype)
    if not bool(rounded.isfinite().all()):
        raise PulseError(f"{where} is not finite in {weight.dtype} once the adapters are added")
    return rounded


def _other_files(base: Path) -> list[str]:
    names = {p.name for pattern in COPIED for p in base.glob(pattern) if p.is_file()}
    # The index of a PyTorch-format copy would name files that are not there.
    return sorted(n for n in names if n not in NOT_COPIED and not n.endswith(".bin.index.json"))


def _check_space(out: Path, needed: int) -> None:
    there = next(p for p in (out, *out.parents) if p.is_dir())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise PulseError(
            f"{show(out)} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free there: choose "
            "another disk with --out"
        )

"""A model's folder, looked at before anything of it is loaded: what is missing, cut off, of another
kind or of another size is named with the file and the step that helps, within a second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import PreTrainedConfig

from pulse_lib.data.hub import is_lfs_pointer
from pulse_lib.errors import PulseError
from pulse_lib.files import read_json, show
from pulse_lib.model.families import family_of
from pulse_lib.model.lora import LoraConfig

CONVERTED = "llava-hf/llava-1.5-7b-hf"  # or -13b-hf: LLaVA-1.5 in transformers' own layout
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_READ = ("*.json", "*.model", "*.jinja", "model*.safetensors")
# Parts of a weight's name that the layouts of transformers 4 and 5 put in another order.
_WHERE = re.compile(r"^(?:(?:model|language_model|vision_tower|vision_model)\.)+")


def check_folder(folder: Path, fetch: str) -> None:
    """Raises PulseError naming the file and the fix if the folder is no whole model of pictures and
    words in transformers' layout with safetensors. `fetch`: the command that fetches it again.
    """
    for path in sorted(path for pattern in _READ for path in folder.glob(pattern)):
        _check_file(path, fetch)
    config = _read(folder / "config.json", _no_config(folder, fetch))
    kind, parts = config.get("model_type"), ("text_config", "vision_config")
    if kind not in ("llava_llama", *_readable()):
        raise refused(
            folder / "config.json",
            f"it says model_type = {kind!r}, which is no model that takes pictures and gives words",
            fix=f"give one of the families in docs/models.md, such as {CONVERTED}",
        )
    of_llava = kind in ("llava", "llava_llama")
    if of_llava and not all(isinstance(config.get(k), Mapping) for k in parts):
        raise refused(
            folder / "config.json",
            "it describes no vision tower and language model: a checkpoint of LLaVA's authors "
            "(liuhaotian/...), which transformers cannot read",
            fix=f"give the converted one, model.path: {CONVERTED}",
        )
    if (folder / "adapter_config.json").exists():
        raise refused(
            folder / "adapter_config.json",
            "transformers would put this adapter on the model unasked",
            fix="move the adapter to a folder of its own",
        )
    _check_processor(folder, fetch, counted=of_llava)
    for path in weight_files(folder, fetch):
        for _ in _shapes(path, fetch):
            break


def check_shapes(folder: Path, config: PreTrainedConfig, *, fetch: str) -> None:
    """Raises PulseError naming the first weight whose shape is not what config.json says. Only the
    files' headers are read.
    """
    with torch.device("meta"):
        network = family_of(config.model_type).empty(config)
    expected = {_tail(k): tuple(v.shape) for k, v in network.state_dict().items()}
    for path in weight_files(folder, fetch):
        for key, shape in _shapes(path, fetch):
            wanted = expected.get(_tail(key), shape)
            if shape != wanted:
                raise refused(
                    path,
                    f"weight {key} has shape {shape}, config.json asks for {wanted}",
                    fix=f"config and weights are of two models; fetch both again: {fetch}",
                )


def check_tokenizer(folder: Path, processor: Any, *, image_token_id: int) -> None:
    """Raises PulseError if the tokenizer has no end token, or another image token than the model."""
    tokenizer = processor.tokenizer
    if tokenizer.eos_token_id is None:
        raise refused(
            folder / "tokenizer_config.json",
            "the tokenizer has no end token, so no answer would ever end",
            fix='name it there, e.g. "eos_token": "</s>"',
        )
    # Gemma's processor has another token for what it puts the picture's tokens behind
    token = getattr(tokenizer, "image_token", None) or processor.image_token
    found = tokenizer.convert_tokens_to_ids(token)
    if found != image_token_id:
        raise refused(
            folder / "tokenizer_config.json",
            f"{token!r} is token {found}, config.json says {image_token_id}",
            fix="config and tokenizer are of two models; fetch both again",
        )


def read_lora(config: Path, weights: Path) -> tuple[LoraConfig, dict[str, torch.Tensor]]:
    """A saved adapter's settings and tensors. Raises PulseError naming the file that is cut off, a
    pointer, or something else.
    """
    again = "run the notebook that trains this adapter again"
    said = read_json(config)
    if not isinstance(said, dict) or said.get("peft_type") != "LORA":
        raise PulseError(
            f"{config} describes no LoRA: give a folder that this kit wrote, or {again}"
        )
    path = config
    try:
        settings = LoraConfig.from_pretrained(str(config.parent))
        path = weights
        return settings, load_file(weights)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise PulseError(
            f"{path} cannot be read ({error}): it is cut off, or a git-lfs pointer; {again}"
        ) from None


def weight_files(folder: Path, fetch: str) -> list[Path]:
    """The safetensors files that make the model. Raises PulseError if there are none or some are
    missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        listed = _read(folder / INDEX, "").get("weight_map")
        if not isinstance(listed, Mapping) or not listed:
            raise refused(folder / INDEX, "it lists no weights", fix=f"fetch it again: {fetch}")
        paths = [folder / Path(str(name)).name for name in sorted(set(listed.values()))]
        gone = [p.name for p in paths if not p.is_file()]
        if gone:
            raise refused(
                folder / gone[0],
                f"{len(gone)} of {len(paths)} files of weights is missing: {', '.join(gone)}",
                fix=f"fetch the rest: {fetch}",
            )
        return paths
    if any(folder.glob("*.safetensors")):
        raise refused(folder / INDEX, "it is missing beside its weights", fix=f"fetch it: {fetch}")
    pickled = [p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in folder.glob(pattern)]
    if pickled:
        raise refused(
            folder / pickled[0],
            "pickled weights, which can carry any program, are never opened",
            fix="give a copy with *.safetensors, or save one where you trust the file "
            "(save_pretrained writes it)",
        )
    raise refused(folder, "no *.safetensors in it", fix=f"fetch them: {fetch}")


def refused(path: Path, why: str, *, fix: str) -> PulseError:
    """The error of a model that is not loaded."""
    return PulseError(f"{show(path)}: the model cannot be loaded: {why}: {fix}")


def _check_file(path: Path, fetch: str) -> None:
    if path.is_symlink() and not path.exists():
        raise refused(
            path,
            f"a link to {path.readlink()}, which is gone: the cache was cleaned up or copied "
            "without its blobs",
            fix=f"fetch it again: {fetch}",
        )
    if not path.is_file():
        return
    if path.stat().st_size == 0:
        raise refused(path, "the file is empty", fix=f"fetch it again: {fetch}")
    if is_lfs_pointer(path):
        raise refused(
            path,
            "only the pointer of git-lfs, not the file itself",
            fix=f"`git lfs pull` in that folder, or {fetch}",
        )


def _no_config(folder: Path, fetch: str) -> str:
    if (folder / "adapter_config.json").is_file():
        return "an adapter and no model: give the model that it belongs to"
    if (folder / "snapshots").is_dir():
        return "a folder of the hub's cache: give the one in snapshots/ below it"
    if any(folder.glob("*.gguf")):
        return f"GGUF files, which are not for training: give {CONVERTED}"
    return f"no folder of a model; {fetch}"


def _readable() -> set[str]:
    """Every model_type that transformers reads pictures and writes words with."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
    )

    return set(NAMES)


def _check_processor(folder: Path, fetch: str, *, counted: bool) -> None:
    """`counted`: the file has to say how many image tokens there are."""
    path, processor = folder / "processor_config.json", {}
    if counted or path.is_file():
        processor = _read(
            path,
            f"an older copy of the repository has none, and how many image tokens there are stands in it: {fetch}",
        )
    size = processor.get("patch_size")
    if counted and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise refused(
            path,
            f"patch_size = {size!r}, so the number of image tokens is unknown",
            fix="write there patch_size and vision_feature_select_strategy of config.json and "
            f'"num_additional_image_tokens": 1; or {fetch}',
        )
    if "image_processor" not in processor and not (folder / "preprocessor_config.json").is_file():
        raise refused(
            folder / "preprocessor_config.json", "it is missing", fix=f"fetch it: {fetch}"
        )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise refused(folder / "tokenizer.json", "it is missing", fix=f"fetch it: {fetch}")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _read(folder / name, fetch)


def _read(path: Path, if_missing: str) -> dict:
    """A JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise refused(path, "it is missing", fix=if_missing) from None
    except (OSError, ValueError, RecursionError) as error:
        raise refused(path, f"broken or cut off ({error})", fix="fetch the folder again") from None
    if not isinstance(value, dict):
        raise refused(
            path, f"it holds a {type(value).__name__}, not an object", fix="fetch the folder again"
        )
    return value


def _shapes(path: Path, fetch: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a file's weights, from its header; opening it checks its length."""
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (no mapping)
                yield key, tuple(file.get_slice(key).get_shape())
    except (SafetensorError, OSError) as error:
        raise refused(
            path, f"cut off, or no safetensors file ({error})", fix=f"fetch it again: {fetch}"
        ) from None


def _tail(key: str) -> str:
    """A weight's name without the parts that differ between layouts."""
    return _WHERE.sub("", key)

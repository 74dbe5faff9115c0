"""Quantisation: the adapters folded into the weights, as a model is handed on, and these rounded.
What an adapter changed by less than a step of the grid is undone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import cast

import pandas as pd
import torch

from pulse_lib.data.records import Question
from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import LLM, PROJECTOR, only
from pulse_lib.model.beside import weight_of
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.lora import LoraLayer, use_bitsandbytes
from pulse_lib.probe.subject import Subject

QUANTISED = "quantised"
Rounding = Callable[[torch.Tensor], torch.Tensor]


def in_16_bits(weight: torch.Tensor) -> torch.Tensor:
    """The weight rounded to bfloat16, in float32."""
    return weight.to(torch.bfloat16).float()


def in_nf4(weight: torch.Tensor) -> torch.Tensor:
    """The weight as bitsandbytes' NF4 with double quantisation holds it, made from 16 bits."""
    use_bitsandbytes()
    from bitsandbytes import functional  # slow to import

    packed, state = functional.quantize_4bit(
        weight.to(torch.bfloat16).contiguous(), compress_statistics=True, quant_type="nf4"
    )
    return functional.dequantize_4bit(packed, state).float()


def in_int8(weight: torch.Tensor) -> torch.Tensor:
    """The weight in 255 steps a row, made from 16 bits. Weights alone: LLM.int8() rounds what comes
    in as well.
    """
    wide = in_16_bits(weight)
    largest = wide.abs().amax(dim=1, keepdim=True)
    step = torch.where(largest > 0, largest / 127, 1.0)
    return (wide / step).round().clamp(-127, 127) * step


ROUNDINGS: dict[str, Rounding] = {"16 bits": in_16_bits, "int8": in_int8, "nf4": in_nf4}


def quantised(subject: Subject, questions: Sequence[Question]) -> pd.DataFrame:
    """Rows of the subject folded and rounded, a condition a grid; afterwards it is as it was. Raises
    PulseError where a gate answers (no one model to fold).
    """
    if subject.gated:
        raise PulseError("quantised: a gate answers for this model, so there is no one to fold")
    parts = []
    for name, rounding in ROUNDINGS.items():
        with folded(subject.model, subject.adapters, rounding=rounding):
            parts.append(subject.ask(questions, QUANTISED, condition=name))
    return pd.concat(parts, ignore_index=True)


@contextmanager
def folded(model: LoadedModel, adapters: Sequence[str], *, rounding: Rounding) -> Generator[None]:
    """Inside, the state is one of plain weights: base + adapters, the language model's rounded by
    `rounding`, the projector's to 16 bits (no grid is put on it); embeddings, head and vision tower
    stay as they are.

    A layer in 4 or 8 bits, unpacked first, is folded anew whenever it is read: so a language model
    that fits no card in 16 bits can be probed, a layer at a time.
    """
    llm, projector = re.compile(LLM), re.compile(PROJECTOR)
    bare = model.family.projector_weight.rpartition(".")[2]  # of a projector that is no Linear
    kept: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
    packed: list[torch.nn.Linear] = []
    with only(model), torch.no_grad():
        try:
            for key, layer in model.network.named_modules():
                name = "." + key.removesuffix(".base_layer")
                own = dict(layer.named_parameters(recurse=False))
                weight = own.get("weight" if isinstance(layer, torch.nn.Linear) else bare)
                if weight is None or "lora_" in key:
                    continue
                if not (llm.fullmatch(name) or projector.fullmatch(name)):
                    continue
                owner = model.network.get_submodule(key.removesuffix(".base_layer"))
                grid = rounding if llm.fullmatch(name) else in_16_bits
                if isinstance(layer, torch.nn.Linear) and not weight.is_floating_point():
                    layer.forward = partial(
                        _read, layer=layer, owner=owner, adapters=adapters, rounding=grid
                    )
                    packed.append(layer)
                    continue
                kept.append((weight, weight.detach().clone()))
                weight.copy_(grid(_total(weight, owner, adapters=adapters)))
            yield
        finally:
            for weight, before in kept:
                weight.copy_(before)
            for layer in packed:
                del layer.forward


def _read(
    x: torch.Tensor,
    *,
    layer: torch.nn.Linear,
    owner: torch.nn.Module,
    adapters: Sequence[str],
    rounding: Rounding,
) -> torch.Tensor:
    """What a packed layer gives for x, folded and rounded."""
    weight = rounding(_total(weight_of(layer, torch.float32), owner, adapters=adapters))
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return torch.nn.functional.linear(x, weight.to(x.dtype), bias)


def _total(
    weight: torch.Tensor, owner: torch.nn.Module, *, adapters: Sequence[str]
) -> torch.Tensor:
    """A layer's weight and what its adapters add, float32."""
    total = weight.float()
    for adapter in adapters:
        if isinstance(owner, LoraLayer) and adapter in owner.lora_A:
            total = total + _delta(owner, adapter)
    return total


def _delta(layer: LoraLayer, adapter: str) -> torch.Tensor:
    """What an adapter adds to a layer's weight, float32."""
    a, b = (cast(torch.Tensor, side[adapter].weight) for side in (layer.lora_A, layer.lora_B))
    return layer.scaling[adapter] * (b.float() @ a.float())

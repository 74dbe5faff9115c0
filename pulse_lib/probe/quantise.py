"""Quantisation: the adapters folded into the weights, as a model is handed on, and these rounded.
What an adapter changed by less than a step of the grid is undone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import cast

import pandas as pd
import torch

from pulse_lib.data.records import Question
from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import LLM, PROJECTOR, only
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
    PulseError where a gate answers (no one model to fold) or the weights are rounded already.
    """
    if subject.gated:
        raise PulseError("quantised: a gate answers for this model, so there is no one to fold")
    if subject.model.settings.load in ("8bit", "4bit"):
        raise PulseError(
            f"quantised: load: {subject.model.settings.load} is quantised already: probe this run "
            "with load: 16bit"
        )
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
    """
    llm, projector = re.compile(LLM), re.compile(PROJECTOR)
    bare = model.family.projector_weight.rpartition(".")[2]  # of a projector that is no Linear
    kept: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
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
                total = weight.float()
                if isinstance(owner, LoraLayer):
                    there = [a for a in adapters if a in owner.lora_A]
                    for adapter in there:
                        total = total + _delta(owner, adapter)
                rounded = rounding(total) if llm.fullmatch(name) else in_16_bits(total)
                kept.append((weight, weight.detach().clone()))
                weight.copy_(rounded)
            yield
        finally:
            for weight, before in kept:
                weight.copy_(before)


def _delta(layer: LoraLayer, adapter: str) -> torch.Tensor:
    """What an adapter adds to a layer's weight, float32."""
    a, b = (cast(torch.Tensor, side[adapter].weight) for side in (layer.lora_A, layer.lora_B))
    return layer.scaling[adapter] * (b.float() @ a.float())

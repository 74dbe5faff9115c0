"""A model's weights, counted part by part from its config: built without memory, never loaded."""

from __future__ import annotations

import re
from typing import Any

import torch

from pulse_lib.model.families.base import Family
from pulse_lib.model.memory import Counted


def counted(family: Family, config: Any) -> Counted:
    """How many weights each part has, and what a LoRA of rank 1 on it would have."""
    with torch.device("meta"):
        network = family.empty(config)
    sizes = {"language_model": 0, "embeddings": 0, "tower": 0, "projector": 0}
    layers = f"model.{family.decoder_name}.layers."
    # Tied weights are listed once
    for name, weight in network.named_parameters():
        part = "tower"
        if name.startswith(layers):
            part = "language_model"
        elif "lm_head" in name or "embed_tokens" in name:
            part = "embeddings"
        elif _of_projector(family, name):
            part = "projector"
        sizes[part] += weight.numel()
    lora = {"llm": 0, "projector": 0}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Linear):
            if re.fullmatch(family.lora_targets("llm")[0], name):
                lora["llm"] += module.in_features + module.out_features
            elif family.projector and re.fullmatch(family.projector, name):
                lora["projector"] += module.in_features + module.out_features
    if family.projector_weight:
        lora["projector"] += sum(network.get_parameter(f"model.{family.projector_weight}").shape)
    return Counted(
        text_config=config.text_config,
        **sizes,
        lora_language_model=lora["llm"],
        lora_projector=lora["projector"],
        picture_tokens=family.picture_tokens(config),
    )


def _of_projector(family: Family, name: str) -> bool:
    """Whether a weight belongs to the projector, norms around it too."""
    return any(word in name for word in ("multi_modal_projector.", "merger", "connector."))

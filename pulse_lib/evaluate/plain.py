"""The plain way to an answer: one question at a time, from pixels, by the model's own `generate` and
its own forward pass. For families that nobody has described; the others are tested against it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from pulse_lib.data.records import ImageStore
from pulse_lib.model.families.base import Picture
from pulse_lib.model.forward import plain_inputs
from pulse_lib.model.load import LoadedModel


def from_pixels(model: LoadedModel, image_ids: Iterable[str], *, images: ImageStore) -> LoadedModel:
    """The same model, whatever its family, made to look at these pictures anew each time: what the
    functions below read.
    """
    features = copy.copy(model.features)
    features.every, features.pictures = None, {}
    for image_id in set(image_ids) - {""}:
        shown = features.fitted(images[image_id])
        read = model.family.read_picture(model.processor, shown, aspect=features.image_aspect)
        features.pictures[image_id] = Picture(*read)
    return replace(model, features=features)


def generated(
    model: LoadedModel, prompt: Sequence[int], *, image: str, max_new_tokens: int
) -> list[int]:
    """The most likely tokens behind a prompt, up to the end token (left out) or `max_new_tokens`."""
    row = torch.tensor([list(prompt)], device=model.device)
    inputs = plain_inputs(model, row, image=image)
    generate: Any = model.network.generate
    out = generate(
        **inputs,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted(model.end_tokens),
        pad_token_id=model.end_token,
    )
    tokens = out[0, len(prompt) :].tolist()
    return tokens[:-1] if tokens[-1] in model.end_tokens else tokens


def option_logliks(
    model: LoadedModel, prompt: Sequence[int], *, image: str, options: Sequence[tuple[int, ...]]
) -> list[float]:
    """Log-likelihood of each option in nats: of all its tokens, the end token too."""
    values = []
    for option in options:
        row = torch.tensor([[*prompt, *option]], device=model.device)
        inputs = plain_inputs(model, row, image=image)
        logits = model.network(**inputs, use_cache=False).logits[0, len(prompt) - 1 : -1]
        likely = logits.float().log_softmax(-1).double()
        values.append(likely[range(len(option)), list(option)].sum().item())
    return values

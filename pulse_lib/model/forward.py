"""Training batches, and logits at the positions that predict supervised tokens (nothing else goes
through lm_head, nor through most of the last layer).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutput

from pulse_lib.errors import PulseError
from pulse_lib.model.families import Quick
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import Encoded
from pulse_lib.profile import SupervisedTokens

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """Conversations as tensors, padded on the right. A = most supervised tokens of a row."""

    ids: tuple[str, ...]  # conversation ids, one a row
    input_ids: torch.Tensor  # (B, T)
    _: KW_ONLY
    image_ids: tuple[str, ...]  # images of the rows that have one, in order
    positions: torch.Tensor  # (B, A) position whose logits predict labels[b, a]; 0 where padded
    labels: torch.Tensor  # (B, A) supervised token, -100 where padded


def collate(
    model: LoadedModel,
    conversations: Sequence[Encoded],
    *,
    supervised_tokens: SupervisedTokens = "answer",
) -> Batch:
    """A batch on the model's device. "answer": answers with their end tokens; "whole_sequence":
    every text token but the first.

    Image tokens are never supervised. Raises PulseError if a conversation has no supervised token.
    """
    pad = (
        model.tokenizer.pad_token_id
        if model.tokenizer.pad_token_id is not None
        else model.tokenizer.eos_token_id
    )
    targets = [_supervised(model, c, supervised_tokens=supervised_tokens) for c in conversations]
    length, n_answers = max(len(c.input_ids) for c in conversations), max(map(len, targets))
    input_ids = torch.full((len(conversations), length), pad, dtype=torch.long)
    positions = torch.zeros((len(conversations), n_answers), dtype=torch.long)
    labels = torch.full((len(conversations), n_answers), IGNORE, dtype=torch.long)
    for row, (conversation, at) in enumerate(zip(conversations, targets, strict=True)):
        tokens = torch.tensor(conversation.input_ids)
        input_ids[row, : len(tokens)] = tokens
        positions[row, : len(at)] = torch.tensor(at) - 1
        labels[row, : len(at)] = tokens[at]
    device = model.device
    return Batch(
        ids=tuple(c.id for c in conversations),
        input_ids=input_ids.to(device),
        image_ids=tuple(c.image for c in conversations if c.image),
        positions=positions.to(device),
        labels=labels.to(device),
    )


def answer_logits(model: LoadedModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, A, V) float32 and labels (B, A) with -100 where padded: logits[b, a] predicts
    labels[b, a].
    """
    wanted = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    # Also position 0 of rows that are padded: it is read too
    with last_layer_at(model, wanted.scatter(1, batch.positions, True)):
        hidden = read(model, batch.input_ids, image_ids=batch.image_ids).last_hidden_state
    index = batch.positions[..., None].expand(-1, -1, hidden.shape[-1])
    return model.network.lm_head(hidden.gather(1, index)).float(), batch.labels


def read(
    model: LoadedModel, input_ids: torch.Tensor, *, image_ids: Sequence[str], **how: Any
) -> Any:
    """What the model's own forward gives, without lm_head, for tokens (B, T) padded on the right:
    `last_hidden_state` (B, T, H). `image_ids` are the images of the rows that have one, in order;
    `how` goes to the model. Differentiable in the adapters.

    Padding is on the right, so the causal mask alone keeps it out of every real position: no
    attention mask is needed.
    """
    family, network = model.family, model.network
    if not isinstance(family, Quick):
        return _read_plainly(model, input_ids, image_ids=image_ids, how=how)
    if image_ids:
        how["mm_encoder_outputs"] = model.features.output(image_ids)
    if "attention_mask" not in how:
        how |= family.beside(network, input_ids)
    if family.n_axes > 1 and "position_ids" not in how:
        how["position_ids"] = _positions(model, input_ids, image_ids=image_ids)
    return network.model(input_ids=input_ids, **{"use_cache": False} | how)


def positions_of(model: LoadedModel, tokens: Sequence[int], *, image: str) -> torch.Tensor:
    """Positions (1 or 3, T) of one row's tokens, whose picture is `image` or "", on the CPU."""
    family = model.family
    found = None
    if isinstance(family, Quick):
        picture = model.features.picture(image)
        found = family.positions(model.network, tokens, picture=picture)
    return torch.arange(len(tokens))[None] if found is None else found


def _positions(
    model: LoadedModel, input_ids: torch.Tensor, *, image_ids: Sequence[str]
) -> torch.Tensor:
    shown, rows = iter(image_ids), input_ids.tolist()
    images = [next(shown) if model.image_token_id in row else "" for row in rows]
    found = [positions_of(model, row, image=i) for row, i in zip(rows, images, strict=True)]
    return torch.stack(found, dim=1).to(model.device)  # (3, B, T)


def _read_plainly(
    model: LoadedModel, input_ids: torch.Tensor, *, image_ids: Sequence[str], how: dict[str, Any]
) -> Any:
    """Row by row, from pixels."""
    shown, outputs = iter(image_ids), []
    for row in input_ids:
        image = next(shown) if model.image_token_id in row else ""
        inputs = plain_inputs(model, row[None], image=image)
        outputs.append(model.network.model(**inputs, use_cache=False, **how))
    states = [one.get("hidden_states") for one in outputs]
    return BaseModelOutput(
        last_hidden_state=torch.cat([one.last_hidden_state for one in outputs]),
        hidden_states=None
        if states[0] is None
        else tuple(torch.cat(layer) for layer in zip(*states, strict=True)),
    )


def plain_inputs(
    model: LoadedModel, input_ids: torch.Tensor, *, image: str
) -> dict[str, torch.Tensor]:
    """The arguments of the model's own forward and `generate` for one row (1, T), from pixels."""
    inputs = model.family.plain_inputs(
        model.processor, input_ids, picture=model.features.picture(image)
    )
    return {
        k: v.to(model.device, model.dtype if v.is_floating_point() else None)
        for k, v in inputs.items()
    }


@contextmanager
def last_layer_at(model: LoadedModel, wanted: torch.Tensor) -> Generator[None]:
    """Inside, the last layer works out its queries, its attention's output and its MLP only at the
    `wanted` positions (B, T) of what is read; what it gives elsewhere means nothing.

    Keys and values are those of all positions, so nothing changes where it is read. A fifth of the
    embedded model's matrices, a thirtieth of a 7B's. Its gradients are never checkpointed: the
    backward pass begins with it, so nothing would be saved, and reads again after this has ended.
    """
    if not isinstance(model.family, Quick):  # rows are read one by one there
        yield
        return
    last = model.family.decoder(model.network).layers[-1]
    modules = (last.self_attn.q_proj, last.self_attn.o_proj, last.mlp)
    # An adapter's own way of reading its layer is kept on the object, and put back
    before = [vars(module).get("forward") for module in modules]
    checkpointed = last.gradient_checkpointing
    last.gradient_checkpointing = False
    for module in modules:
        module.forward = _at(module.forward, wanted)
    try:
        yield
    finally:
        last.gradient_checkpointing = checkpointed
        for module, forward in zip(modules, before, strict=True):
            if forward is None:
                del module.forward
            else:
                module.forward = forward


def _at(
    forward: Callable[[torch.Tensor], torch.Tensor], wanted: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """A module that reads each position by itself, on the wanted (B, T) alone; 0 elsewhere."""

    def read(x: torch.Tensor) -> torch.Tensor:
        found = forward(x[wanted])
        return found.new_zeros((*wanted.shape, found.shape[-1])).index_put((wanted,), found)

    return read


def _supervised(
    model: LoadedModel, conversation: Encoded, *, supervised_tokens: SupervisedTokens
) -> list[int]:
    if supervised_tokens == "answer":
        at = [i for i, is_answer in enumerate(conversation.answer) if is_answer and i > 0]
    else:
        at = [
            i
            for i, token in enumerate(conversation.input_ids)
            if i > 0 and token != model.image_token_id
        ]
    if not at:
        raise PulseError(f"conversation {conversation.id!r} has no supervised token")
    return at

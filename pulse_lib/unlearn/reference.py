"""The frozen reference model of a loss: its values on fixed conversations, taken once, and the call
of a loss by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import active, only
from pulse_lib.model.forward import IGNORE, answer_logits, collate
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import Encoded
from pulse_lib.unlearn import losses
from pulse_lib.unlearn.methods import Method


@dataclass
class Reference:
    """Values of the reference by conversation id: logprob, nats over the supervised tokens; logits
    (A, V) in the model's dtype.
    """

    logprob: dict[str, torch.Tensor] = field(default_factory=dict)
    logits: dict[str, torch.Tensor] = field(default_factory=dict)


def reference_values(
    model: LoadedModel,
    method: Method,
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    adapters: Sequence[str],
    supervised_tokens: str,
    batch_size: int,
) -> Reference:
    """What the method's losses want to know of the reference = base + `adapters`; empty if they
    want nothing.

    Valid for these very conversations only: other renderings or turns need their own.
    """
    found = Reference()
    for name, conversations in ((method.forget_loss, forget), (method.retain_loss, retain)):
        wanted = (
            set(_parameters(name)) & {"reference_logprob", "reference_logits"} if name else set()
        )
        if not wanted:
            continue
        ordered = sorted(conversations, key=lambda c: len(c.input_ids))
        for start in range(0, len(ordered), batch_size):
            batch = collate(model, ordered[start : start + batch_size], supervised_tokens)
            with torch.no_grad(), only(model, *adapters):
                logits, labels = answer_logits(model, batch)
            if "reference_logprob" in wanted:
                found.logprob |= dict(
                    zip(batch.ids, losses.sequence_logprob(logits, labels).cpu(), strict=True)
                )
            if "reference_logits" in wanted:
                # lm_head gives the model's dtype, so nothing is lost in keeping them in it
                kept = [
                    row[mask].to("cpu", model.dtype)
                    for row, mask in zip(logits, labels != IGNORE, strict=True)
                ]
                found.logits |= dict(zip(batch.ids, kept, strict=True))
    return found


def loss_value(
    name: str,
    ids: Sequence[str],
    logits: torch.Tensor,
    labels: torch.Tensor,
    coefficients: Mapping[str, float],
    reference: Reference | None,
) -> torch.Tensor:
    """A loss of losses.py on one batch, its arguments filled in by their names. Raises PulseError
    if one has no value.
    """
    arguments = {}
    for parameter, declared in _parameters(name).items():
        if parameter in ("logits", "labels"):
            arguments[parameter] = {"logits": logits, "labels": labels}[parameter]
        elif parameter == "logprob":
            arguments[parameter] = losses.sequence_logprob(logits, labels)
        elif parameter == "reference_logprob":
            known = _of(reference, "logprob", name)
            arguments[parameter] = torch.stack([_known(known, i) for i in ids]).to(logits.device)
        elif parameter == "reference_logits":
            known = _of(reference, "logits", name)
            rows = [_known(known, i).to(logits.device, logits.dtype) for i in ids]
            arguments[parameter] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        elif parameter in coefficients:
            arguments[parameter] = coefficients[parameter]
        elif declared.default is inspect.Parameter.empty:
            raise PulseError(
                f"loss {name}: no value for its argument {parameter!r}; name it in the method's "
                "coefficients"
            )
    return getattr(losses, name)(**arguments)


def check_same_start(
    model: LoadedModel, sample: Sequence[Encoded], adapters: Sequence[str], supervised_tokens: str
) -> None:
    """Raises PulseError unless the model's state and base + `adapters` give the same logits: bit
    for bit on a CPU.

    Before the first step a fresh adapter changes nothing, so this catches a reference that is
    another model.
    """
    batch = collate(model, sample, supervised_tokens)
    with torch.no_grad():
        policy, labels = answer_logits(model, batch)
        with only(model, *adapters):
            reference, _ = answer_logits(model, batch)
    # GPU kernels may round differently from call to call.
    tolerance = 0.0 if model.device.type == "cpu" else 0.02 * float(reference.abs().max())
    gap = float((policy - reference)[labels != IGNORE].abs().max())
    if not gap <= tolerance:
        raise PulseError(
            f"before the first step the model (adapters {active(model)}) and its reference "
            f"(adapters {list(adapters)}) differ by "
            f"{gap:.3g} in their logits: the reference is not the model that training starts from"
        )


def check_cache(
    model: LoadedModel,
    method: Method,
    sample: Sequence[Encoded],
    reference: Reference,
    supervised_tokens: str,
) -> None:
    """Raises PulseError unless cached log-probabilities agree with the model's own before the first
    step (up to rounding).
    """
    sample = [c for c in sample if c.id in reference.logprob]
    if not sample:
        return
    batch = collate(model, sample, supervised_tokens)
    with torch.no_grad():
        own = losses.sequence_logprob(*answer_logits(model, batch)).cpu()
    cached = torch.stack([reference.logprob[i] for i in batch.ids])
    relative = 1e-4 if model.dtype == torch.float32 else 5e-2
    if not torch.allclose(own, cached, rtol=relative, atol=10 * relative):
        worst = int((own - cached).abs().argmax())
        raise PulseError(
            f"method {method.id}: the reference's log-probability of {batch.ids[worst]!r} is "
            f"{cached[worst]:.4f}, the model's own "
            f"before the first step is {own[worst]:.4f}: the cache belongs to another model or "
            "other conversations"
        )


def _parameters(name: str) -> Mapping[str, inspect.Parameter]:
    function = getattr(losses, name, None)
    if function is None:
        raise PulseError(f"loss {name!r} is no function of pulse_lib/unlearn/losses.py")
    return inspect.signature(function).parameters


def _of(reference: Reference | None, kind: str, name: str) -> dict[str, torch.Tensor]:
    if reference is None:
        raise PulseError(f"loss {name} compares with a reference, and none was given")
    return getattr(reference, kind)


def _known(values: dict[str, torch.Tensor], conversation_id: str) -> torch.Tensor:
    if conversation_id not in values:
        raise PulseError(
            f"conversation {conversation_id!r} has no reference value: take them for the "
            "conversations trained on"
        )
    return values[conversation_id]

"""The frozen reference model of a loss: its values on fixed conversations, taken once; and what is
read of hidden states.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import torch

from pulse_lib.errors import PulseError
from pulse_lib.methods import Method
from pulse_lib.model.adapters import active, only
from pulse_lib.model.forward import IGNORE, Batch, answer_logits, collate, read
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import Encoded
from pulse_lib.profile import SupervisedTokens
from pulse_lib.train import losses


@dataclass
class Reference:
    """What losses know of the reference, by conversation id: logprob, nats over the supervised
    tokens; logits (A, V) in the model's dtype.

    For losses on hidden states: the layer, the vector that forget positions are steered to, and the
    reference's adapters, since its own hidden states are read when they are needed.
    """

    logprob: dict[str, torch.Tensor] = field(default_factory=dict)
    logits: dict[str, torch.Tensor] = field(default_factory=dict)
    _: KW_ONLY
    refusals: dict[str, Encoded] = field(default_factory=dict)  # by the forget conversation's id
    adapters: tuple[str, ...] = ()
    layer: int = 0
    control: torch.Tensor | None = None  # (H,)


def reference_values(
    model: LoadedModel,
    method: Method,
    *,
    forget: Sequence[Encoded],
    retain: Sequence[Encoded],
    adapters: Sequence[str],
    supervised_tokens: SupervisedTokens,
    batch_size: int,
    refusals: Sequence[Encoded] = (),
    depth: float = 0.25,
    seed: int = 0,
) -> Reference:
    """What the method's losses want to know of the reference = base + `adapters`; empty if they
    want nothing.

    Valid for these very conversations only: other renderings or turns need their own. `refusals`
    answer the forget conversations, in their order; `depth` and `seed` are for losses on hidden
    states.
    """
    found = Reference()
    for name, conversations in ((method.forget_loss, forget), (method.retain_loss, retain)):
        wanted = set(parameters_of(name)) if name else set()
        if "chosen" in wanted:
            found.refusals = {c.id: r for c, r in zip(forget, refusals, strict=True)}
            conversations = [*conversations, *refusals]
        if "hidden" in wanted:
            found.adapters, found.layer = tuple(adapters), layer_at(model, depth)
        if wanted & {"reference_logprob", "reference_chosen", "reference_logits"}:
            for batch in _batches(
                model, conversations, supervised_tokens=supervised_tokens, batch_size=batch_size
            ):
                with torch.no_grad(), only(model, *adapters):
                    logits, labels = answer_logits(model, batch)
                _keep(found, batch, logits=logits, labels=labels, wanted=wanted, dtype=model.dtype)
    if "hidden" in parameters_of(method.forget_loss):
        batches = _batches(
            model, forget, supervised_tokens=supervised_tokens, batch_size=batch_size
        )
        found.control = _steering(
            model, batches, reference=found, times=method.coefficients["steering"], seed=seed
        )
    return found


def _batches(
    model: LoadedModel,
    conversations: Sequence[Encoded],
    *,
    supervised_tokens: SupervisedTokens,
    batch_size: int,
) -> Iterator[Batch]:
    ordered = sorted(conversations, key=lambda c: len(c.input_ids))
    for start in range(0, len(ordered), batch_size):
        yield collate(
            model, ordered[start : start + batch_size], supervised_tokens=supervised_tokens
        )


def _keep(
    found: Reference,
    batch: Batch,
    *,
    logits: torch.Tensor,
    labels: torch.Tensor,
    wanted: set[str],
    dtype: torch.dtype,
) -> None:
    if wanted & {"reference_logprob", "reference_chosen"}:
        values = losses.sequence_logprob(logits, labels).cpu()
        found.logprob |= dict(zip(batch.ids, values, strict=True))
    if "reference_logits" in wanted:
        # lm_head gives the model's dtype, so nothing is lost in keeping them in it
        rows = zip(logits, labels != IGNORE, strict=True)
        kept = [row[mask].to("cpu", dtype) for row, mask in rows]
        found.logits |= dict(zip(batch.ids, kept, strict=True))


def _steering(
    model: LoadedModel, batches: Iterator[Batch], *, reference: Reference, times: float, seed: int
) -> torch.Tensor:
    """A random direction with positive entries, `times` as long as the reference's hidden states
    are on average.

    DIFFERS: a fixed length (6.5, 20, 300 ...) fits one model only; the relative one is that of
    Adaptive RMU. [Huu-Tien et al. 2025, arXiv 2408.06223]
    """
    total, n = 0.0, 0
    for batch in batches:
        with torch.no_grad(), only(model, *reference.adapters):
            hidden = answer_hidden(model, batch, layer=reference.layer)[batch.labels != IGNORE]
        total, n = total + float(hidden.float().norm(dim=-1).sum()), n + len(hidden)
    direction = torch.rand(hidden.shape[-1], generator=torch.Generator().manual_seed(seed))
    return times * total / n * direction / direction.norm()


def layer_at(model: LoadedModel, depth: float) -> int:
    """Index of the last of the first `depth` (a share) of the language model's layers; at least
    0.
    """
    n = len(model.family.decoder(model.network).layers)
    return min(n, max(1, round(depth * n))) - 1


def answer_hidden(model: LoadedModel, batch: Batch, *, layer: int) -> torch.Tensor:
    """Output (B, A, H) of a layer of the language model at the positions that predict supervised
    tokens.
    """
    language, kept = model.family.decoder(model.network), []

    def keep(_module, _arguments, output) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handle = language.layers[layer].register_forward_hook(keep)
    try:
        read(model, batch.input_ids, image_ids=batch.image_ids)
    finally:
        handle.remove()
    index = batch.positions[..., None].expand(-1, -1, kept[0].shape[-1])
    return kept[0].gather(1, index)


def check_same_start(
    model: LoadedModel,
    sample: Sequence[Encoded],
    *,
    adapters: Sequence[str],
    supervised_tokens: SupervisedTokens,
) -> None:
    """Raises PulseError unless the model's state and base + `adapters` give the same logits: bit
    for bit on a CPU.

    Before the first step a fresh adapter changes nothing, so this catches a reference that is
    another model.
    """
    batch = collate(model, sample, supervised_tokens=supervised_tokens)
    with torch.no_grad():
        own, labels = answer_logits(model, batch)
        with only(model, *adapters):
            reference, _ = answer_logits(model, batch)
    # GPU kernels may round differently from call to call.
    tolerance = 0.0 if model.device.type == "cpu" else 0.02 * float(reference.abs().max())
    gap = float((own - reference)[labels != IGNORE].abs().max())
    if not gap <= tolerance:
        raise PulseError(
            f"before the first step the model (adapters {active(model)}) and its reference "
            f"(adapters {list(adapters)}) differ by "
            f"{gap:.3g} in their logits: the reference is not the model that training starts from"
        )


def check_cache(
    model: LoadedModel,
    method: Method,
    *,
    sample: Sequence[Encoded],
    reference: Reference,
    supervised_tokens: SupervisedTokens,
) -> None:
    """Raises PulseError unless cached log-probabilities agree with the model's own before the first
    step (up to rounding).
    """
    sample = [c for c in sample if c.id in reference.logprob]
    if not sample:
        return
    batch = collate(model, sample, supervised_tokens=supervised_tokens)
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


def parameters_of(name: str) -> Mapping[str, inspect.Parameter]:
    """The arguments of a loss of losses.py. Raises PulseError if there is none of that name."""
    function = getattr(losses, name, None)
    if function is None:
        raise PulseError(f"loss {name!r} is no function of pulse_lib/train/losses.py")
    return inspect.signature(function).parameters

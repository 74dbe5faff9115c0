"""One term of a method's loss on one batch: read in micro-batches, each with its own backward, so
that the activations of one micro-batch at a time are in memory.

The sum of the gradients is that of the whole batch: token means are given the batch's number of
tokens, sequence means are weighted by a micro-batch's share of the sequences.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch

from pulse_lib.errors import PulseError
from pulse_lib.methods import Method
from pulse_lib.model.adapters import only
from pulse_lib.model.forward import IGNORE, Batch, answer_logits, collate
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import Encoded
from pulse_lib.profile import SupervisedTokens
from pulse_lib.train import losses
from pulse_lib.train.reference import Reference, answer_hidden, parameters_of

Side = Literal["forget", "retain"]
# What a further piece costs, in positions read: 240 of the embedded model on one core, and from 200
# to 400 a step takes equally long
PIECE_POSITIONS = 200


def backward_term(
    model: LoadedModel,
    method: Method,
    *,
    side: Side,
    examples: Sequence[Encoded],
    supervised_tokens: SupervisedTokens,
    micro_batch: int,
    reference: Reference | None,
    scaled: Callable[[torch.Tensor], torch.Tensor] = lambda loss: loss,
) -> float:
    """Value of the method's forget or retain loss (`side`) on a batch, unweighted; its weighted
    gradient is added to the trained parameters'.

    `scaled` is applied to what backward is called on (a float16 gradient scaler).
    """
    name = method.forget_loss if side == "forget" else method.retain_loss
    weight = method.forget_weight if side == "forget" else method.retain_weight
    ordered = sorted(examples, key=lambda c: len(c.input_ids))  # like lengths: little padding
    pieces = [
        collate(model, ordered[start:stop], supervised_tokens=supervised_tokens)
        for start, stop in cut([len(c.input_ids) for c in ordered], micro_batch)
    ]
    n_tokens = None
    if "n_tokens" in parameters_of(name):
        skip = int(method.coefficients.get("skip", 0)) if "skip" in parameters_of(name) else 0
        n_tokens = sum(int((losses.skip_leading(p.labels, skip) != IGNORE).sum()) for p in pieces)
    ratio = None
    if "batch_ratio" in parameters_of(name) and len(pieces) > 1 and n_tokens:
        ratio = _batch_ratio(model, pieces, reference=_given(reference, name), n_tokens=n_tokens)
    total = 0.0
    for piece in pieces:  # the longest first: if memory is too small, it shows at once
        value = _value(
            model,
            method,
            side=side,
            name=name,
            batch=piece,
            supervised_tokens=supervised_tokens,
            reference=reference,
            whole=Whole(n_tokens, len(ordered), ratio=ratio),
        )
        if n_tokens is None:
            value = value * (len(piece.ids) / len(ordered))
        scaled(value if weight == 1.0 else weight * value).backward()
        total = value.item() + (total if ratio is None else 0.0)
    return total


@dataclass(frozen=True)
class Whole:
    """What a part of a batch is told of the whole."""

    n_tokens: int | None = None  # supervised; None for losses that are means over sequences
    n_sequences: int | None = None
    _: KW_ONLY
    ratio: torch.Tensor | None = None  # mean of log p - log p_ref over all its tokens


def _batch_ratio(
    model: LoadedModel,
    pieces: Sequence[Batch],
    *,
    reference: Reference,
    n_tokens: int,
) -> torch.Tensor:
    """Mean over a batch's tokens of log p - log p_ref, read piece by piece without a gradient: a loss
    that is no sum over tokens has to know it before the first backward.
    """
    total = torch.zeros((), dtype=torch.float64)
    for piece in pieces:
        with torch.no_grad():
            own = losses.sequence_logprob(*answer_logits(model, piece))
        known = torch.stack([_known(reference.logprob, i) for i in piece.ids])
        total += (own.cpu().double() - known.double()).sum()
    return (total / n_tokens).to(model.device)


def cut(lengths: Sequence[int], micro_batch: int) -> list[tuple[int, int]]:
    """Where to cut conversations, sorted by length, into pieces that are read at once: (start,
    stop) of each, the longest first.

    Of all ways to cut them the one with the fewest positions, padding included, where each piece
    counts as PIECE_POSITIONS more. No piece has more positions than `micro_batch` conversations as
    long as the longest: what has to fit into memory.
    """
    room = micro_batch * max(lengths, default=0)
    best = [(0, 0)]  # of the first so many: what they cost, and where their last piece begins
    for stop, longest in enumerate(lengths, start=1):
        starts = (start for start in range(stop) if (stop - start) * longest <= room)
        best.append(
            min(
                (best[start][0] + (stop - start) * longest + PIECE_POSITIONS, start)
                for start in starts
            )
        )
    pieces, stop = [], len(lengths)
    while stop:
        start = best[stop][1]
        pieces.append((start, stop))
        stop = start
    return pieces


def _value(
    model: LoadedModel,
    method: Method,
    *,
    side: Side,
    name: str,
    batch: Batch,
    supervised_tokens: SupervisedTokens,
    reference: Reference | None,
    whole: Whole,
) -> torch.Tensor:
    wanted, extra = parameters_of(name), {}
    if whole.ratio is not None:
        extra["batch_ratio"] = whole.ratio
    if "hidden" in wanted:
        known = _given(reference, name)
        extra["hidden"] = answer_hidden(model, batch, layer=known.layer)
        if side == "forget":
            if known.control is None:
                raise PulseError(f"loss {name}: the reference has no direction to steer to")
            extra["control"] = known.control.to(model.device)
        else:
            with torch.no_grad(), only(model, *known.adapters):
                extra["control"] = answer_hidden(model, batch, layer=known.layer)
        return loss_value(
            name,
            batch.ids,
            logits=None,
            labels=batch.labels,
            coefficients=method.coefficients,
            reference=reference,
            whole=whole,
            extra=extra,
        )
    if "chosen" in wanted:
        given = _given(reference, name)
        refused = collate(
            model, [given.refusals[i] for i in batch.ids], supervised_tokens=supervised_tokens
        )
        extra["chosen"] = losses.sequence_logprob(*answer_logits(model, refused))
        known = [_known(given.logprob, i) for i in refused.ids]
        extra["reference_chosen"] = torch.stack(known).to(model.device)
    logits, labels = answer_logits(model, batch)
    return loss_value(
        name,
        batch.ids,
        logits=logits,
        labels=labels,
        coefficients=method.coefficients,
        reference=reference,
        whole=whole,
        extra=extra,
    )


def loss_value(
    name: str,
    ids: Sequence[str],
    *,
    logits: torch.Tensor | None,
    labels: torch.Tensor,
    coefficients: Mapping[str, float],
    reference: Reference | None,
    whole: Whole | None = None,
    extra: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """A loss of losses.py on one batch, its arguments filled in by their names; `whole`: the batch
    that this one is a part of; `extra` holds those that need another reading of the model. Raises PulseError if one has no value.
    """
    extra, arguments, whole = extra or {}, {}, whole or Whole()
    counts = {"n_tokens": whole.n_tokens, "n_sequences": whole.n_sequences}
    plain = {"labels": labels, "mask": labels != IGNORE, **counts}

    def read() -> torch.Tensor:
        if logits is None:
            raise PulseError(f"loss {name}: a loss on hidden states is given no logits")
        return logits

    for parameter, declared in parameters_of(name).items():
        if parameter in extra:
            arguments[parameter] = extra[parameter]
        elif parameter in plain:
            arguments[parameter] = plain[parameter]
        elif parameter == "logits":
            arguments[parameter] = read()
        elif parameter in ("logprob", "rejected"):
            arguments[parameter] = losses.sequence_logprob(read(), labels)
        elif parameter == "mean_logprob":
            n = (labels != IGNORE).sum(-1)
            arguments[parameter] = losses.sequence_logprob(read(), labels) / n
        elif parameter in ("reference_logprob", "reference_rejected"):
            known = _given(reference, name).logprob
            arguments[parameter] = torch.stack([_known(known, i) for i in ids]).to(labels.device)
        elif parameter == "reference_logits":
            known = _given(reference, name).logits
            rows = [_known(known, i).to(labels.device, read().dtype) for i in ids]
            arguments[parameter] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        elif parameter in coefficients:
            arguments[parameter] = coefficients[parameter]
        elif declared.default is inspect.Parameter.empty:
            raise PulseError(
                f"loss {name}: no value for its argument {parameter!r}; name it in the method's "
                "coefficients"
            )
    return getattr(losses, name)(**arguments)


def _given(reference: Reference | None, name: str) -> Reference:
    if reference is None:
        raise PulseError(f"loss {name} compares with a reference, and none was given")
    return reference


def _known(values: dict[str, torch.Tensor], conversation_id: str) -> torch.Tensor:
    if conversation_id not in values:
        raise PulseError(
            f"conversation {conversation_id!r} has no reference value: take them for the "
            "conversations trained on"
        )
    return values[conversation_id]

"""Which adapter entries matter more for the forget people than for others: a mask on the gradient.

A fresh LoRA has B = 0, hence a gradient of zero in A, and no Fisher information worth the name. So
the mask is taken after a short warm-up, on the very parameters that are trained: a mask by the names
of base weights would match none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pulse_lib.model.adapters import trained_parameters
from pulse_lib.model.forward import answer_logits, collate
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import Encoded
from pulse_lib.profile import SupervisedTokens
from pulse_lib.train import losses


@dataclass(frozen=True)
class Mask:
    """A mask taken once, after a share of the steps; then only entries where it is 1 are trained."""

    after_share: float
    take: Callable[[], list[torch.Tensor]]  # one tensor of 0 and 1 for each trained parameter


def fisher(
    model: LoadedModel, conversations: Sequence[Encoded], *, supervised_tokens: SupervisedTokens
) -> list[torch.Tensor]:
    """Diagonal of the empirical Fisher information of each trained parameter: the mean over
    conversations of the squared gradient of their NLL.
    """
    parameters = list(trained_parameters(model).values())
    total = [torch.zeros_like(p) for p in parameters]
    for conversation in conversations:
        loss = losses.nll(
            *answer_logits(
                model, collate(model, [conversation], supervised_tokens=supervised_tokens)
            )
        )
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for sum_, gradient in zip(total, gradients, strict=True):
            if gradient is not None:  # the projector, in a conversation without an image
                sum_ += gradient**2
    return [t / len(conversations) for t in total]


def salient(
    model: LoadedModel,
    forget: Sequence[Encoded],
    *,
    retain: Sequence[Encoded],
    supervised_tokens: SupervisedTokens,
) -> list[torch.Tensor]:
    """1 where the Fisher information of forget is at least that of retain, else 0.

    [MMUnlearner, arXiv 2502.11051]
    """
    ours, others = (
        fisher(model, people, supervised_tokens=supervised_tokens) for people in (forget, retain)
    )
    return [(f >= r).to(f.dtype) for f, r in zip(ours, others, strict=True)]

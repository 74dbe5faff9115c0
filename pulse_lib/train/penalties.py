"""What holds an adapter's weights back, whatever the loss: sums over the trained parameters, added
to every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import torch

from pulse_lib.model.adapters import trained_parameters
from pulse_lib.model.load import LoadedModel

Penalty = Callable[[], torch.Tensor]


def l1(model: LoadedModel, strength: float) -> Penalty:
    """strength * the sum of |parameter| over the trained adapter. [CLEAR, arXiv 2410.18057]"""
    parameters = list(trained_parameters(model).values())
    return lambda: strength * _total(p.abs().sum() for p in parameters)


def orthogonal(
    model: LoadedModel, name: str, *, earlier: Sequence[str], strength: float
) -> Penalty | None:
    """strength * the sum over layers and earlier adapters i of |A_i A^T|_F^2, A (rank, inputs) of
    the trained adapter `name`; None if there is no earlier one.

    So each request's adapter reads the layers' inputs in directions of its own. [O3, Gao et al.
    2025, arXiv 2407.10223]
    """
    every = dict(model.network.named_parameters())
    pairs = []
    for key, a in trained_parameters(model).items():
        if ".lora_A." in key:
            others = (key.replace(f".{name}.", f".{other}.") for other in earlier)
            pairs += [(a, every[other]) for other in others if other in every]
    if not pairs:
        return None
    return lambda: strength * _total(((old @ a.T) ** 2).sum() for a, old in pairs)


def anchor(
    model: LoadedModel, strength: float, *, importance: Sequence[torch.Tensor] | None = None
) -> Penalty:
    """strength * the sum of w (parameter - its value now)^2 over the trained adapter; w = 1, or the
    Fisher information of each entry over its mean.

    [L2; EWC, Kirkpatrick et al. 2017, arXiv 1612.00796]
    """
    parameters = list(trained_parameters(model).values())
    start = [p.detach().clone() for p in parameters]
    if importance is None:
        weights = [torch.ones_like(p) for p in parameters]
    else:
        total = _total(w.sum() for w in importance) / sum(w.numel() for w in importance)
        weights = [w / total.clamp(min=1e-30) for w in importance]
    return lambda: (
        strength
        * _total(
            (w * (p - old) ** 2).sum() for p, old, w in zip(parameters, start, weights, strict=True)
        )
    )


def _total(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, terms)

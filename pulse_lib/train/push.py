"""How a loss pushes: its value and derivative while an answer becomes unlikely. For notebooks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from pulse_lib.methods import Method
from pulse_lib.train.reference import Reference
from pulse_lib.train.terms import loss_value

LOWEST = 1e-4


def pushes(methods: Sequence[Method], p_reference: float = 0.95, *, n: int = 120) -> pd.DataFrame:
    """Columns method (its label), p, loss, push: each method's forget loss of one answer of one
    token with probability p, and its derivative by log p: what it pushes with, down if > 0.

    p falls from p_reference, the reference's value, to LOWEST in n steps of equal ratio. The
    vocabulary has two words, so p is all there is. Raises PulseError for a loss that needs hidden
    states or a second answer.
    """
    tables = []
    start = torch.tensor(p_reference, dtype=torch.float64)
    for method in methods:
        p = torch.logspace(float(start.log10()), torch.tensor(LOWEST).log10().item(), n).double()
        logp = p.log().requires_grad_()
        values = torch.stack([_loss(method, x, p_reference=start) for x in logp])
        (push,) = torch.autograd.grad(values.sum(), logp)
        columns = {"p": p, "loss": values.detach(), "push": push}
        table = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
        tables.append(table.assign(method=method.label))
    return pd.concat(tables, ignore_index=True)[["method", "p", "loss", "push"]]


def _loss(method: Method, logp: torch.Tensor, *, p_reference: torch.Tensor) -> torch.Tensor:
    """The library's own function, its arguments filled in as the training loop does."""

    def of(value: torch.Tensor) -> torch.Tensor:
        return torch.stack([value, torch.log1p(-value.exp())])  # (V = 2,), sums to 1

    before = p_reference.log()
    reference = Reference(logprob={"one": before}, logits={"one": of(before)[None]})
    return loss_value(
        method.forget_loss,
        ["one"],
        logits=of(logp)[None, None],  # (1, 1, 2)
        labels=torch.tensor([[0]]),
        coefficients=method.coefficients,
        reference=reference,
    )

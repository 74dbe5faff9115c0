"""Small things of one training step: the optimizer, the norms of two gradients, a mask's share."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch


def make_optimizer(
    name: str, parameters: Mapping[str, torch.nn.Parameter], *, ratio: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW without weight decay: torch's, or bitsandbytes' with moments in 8 bits (a quarter of
    the memory), paged or not; or Muon. `set_rate` gives it its learning rate.

    ratio: of the learning rate of LoRA's B matrices over that of all else. [LoRA+, Hayou et al.
    2024, arXiv 2402.12354]
    """
    b = [p for key, p in parameters.items() if "lora_B" in key]
    rest = [p for key, p in parameters.items() if "lora_B" not in key]
    groups: list[dict[str, Any]] = [{"params": rest, "ratio": 1.0}, {"params": b, "ratio": ratio}]
    groups = [g for g in groups if g["params"]]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0)
    if name == "muon":
        return Muon(groups, lr=0.0, weight_decay=0.0)
    import bitsandbytes as bnb  # slow to import, and only asked for here

    kinds = {"adamw_8bit": bnb.optim.AdamW8bit, "paged_adamw_8bit": bnb.optim.PagedAdamW8bit}
    return kinds[name](groups, lr=0.0, weight_decay=0.0)


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The learning rate of the next step, each group of parameters by its ratio."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["ratio"]


class Norms:
    """The gradients of a step's two losses, kept apart until `join` adds them: their norms."""

    def __init__(self, parameters: list[torch.nn.Parameter], scaler: torch.amp.GradScaler):
        self.parameters, self.scale = parameters, scaler.get_scale() if scaler.is_enabled() else 1.0
        self.first = [p.grad for p in parameters]
        self.forget, self.retain = self._norm(), 0.0
        for p in parameters:
            p.grad = None

    def join(self) -> None:
        """Leave the sum of both gradients in the parameters."""
        self.retain = self._norm()
        for p, gradient in zip(self.parameters, self.first, strict=True):
            if gradient is not None:
                p.grad = gradient if p.grad is None else gradient + p.grad

    def _norm(self) -> float:
        found = [p.grad for p in self.parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(found)) / self.scale if found else 0.0


def masked_fraction(masks: list[torch.Tensor]) -> float:
    """Share of the entries that masks of 0 and 1 hold still; 0 without a mask."""
    total = sum(m.numel() for m in masks)
    return 1 - sum(float(m.sum()) for m in masks) / total if total else 0.0


# Newton-Schulz iteration of [Jordan 2024], as in torch.optim.Muon
_COEFFICIENTS, _STEPS = (3.4445, -4.7750, 2.0315), 5


class Muon(torch.optim.Optimizer):
    """Momentum whose update is the nearest (semi-)orthogonal matrix; Nesterov, decoupled weight
    decay, matrices only."""

    def __init__(self, params, lr: float, *, weight_decay: float = 0.01, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of every matrix that has a gradient; returns nothing, `closure` is ignored."""
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[tuple(p.shape)].append(p)
            for shape, matrices in shapes.items():
                updates = orthogonalise(
                    torch.stack([self._momentum(p, group["momentum"]) for p in matrices])
                )
                rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, update in zip(matrices, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)

    def _momentum(self, p, beta: float):
        buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - beta)
        return p.grad.lerp(buffer, beta)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices (N, R, C) with singular values pulled to about 1 by five Newton-Schulz steps; same
    shape and dtype."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(_STEPS):
        gram = x @ x.transpose(1, 2)
        # a x + (b gram + c gram gram) x: sums and products in one pass over memory
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x

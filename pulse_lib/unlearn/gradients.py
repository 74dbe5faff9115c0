"""Small things of one training step: the optimizer, the norms of two gradients, a mask's share."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pulse_lib.unlearn.muon import Muon


def make_optimizer(
    name: str, parameters: Mapping[str, torch.nn.Parameter], ratio: float = 1.0
) -> torch.optim.Optimizer:
    """AdamW without weight decay: torch's, or bitsandbytes' with moments in 8 bits (a quarter of
    the memory), paged or not; or Muon. `set_rate` gives it its learning rate.

    ratio: of the learning rate of LoRA's B matrices over that of all else. [LoRA+, Hayou et al.
    2024, arXiv 2402.12354]
    """
    b = [p for key, p in parameters.items() if "lora_B" in key]
    rest = [p for key, p in parameters.items() if "lora_B" not in key]
    groups = [{"params": rest, "ratio": 1.0}, {"params": b, "ratio": ratio}]
    groups, options = [g for g in groups if g["params"]], {"lr": 0.0, "weight_decay": 0.0}
    if name == "adamw":
        return torch.optim.AdamW(groups, **options)
    if name == "muon":
        return Muon(groups, **options)
    import bitsandbytes as bnb  # slow to import, and only asked for here

    kinds = {"adamw_8bit": bnb.optim.AdamW8bit, "paged_adamw_8bit": bnb.optim.PagedAdamW8bit}
    return kinds[name](groups, **options)


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


def held_share(masks: list[torch.Tensor]) -> float:
    """Share of the entries that masks of 0 and 1 hold still; 0 without a mask."""
    total = sum(m.numel() for m in masks)
    return 1 - sum(float(m.sum()) for m in masks) / total if total else 0.0

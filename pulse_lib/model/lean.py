"""Gated MLPs that keep less for the backward pass: what the gate and the up projection give, and
neither their product, which the down projection reads, nor what the activation makes of the gate.
Those are formed again when they are asked for: two elementwise products, beside the three matrices of
the MLP.

The numbers are the same bit by bit. With gradient checkpointing, which keeps none of it, there is
nothing to spare: load.py leaves such a model as it is.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch

# What LlamaMLP and most gated MLPs of transformers do, and all that is understood here
FORWARD = "self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))"

Activation = Callable[[torch.Tensor], torch.Tensor]


class LeanMLP:
    """The forward of one gated MLP."""

    def __init__(self, mlp: Any):
        self.mlp = mlp

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up, act = self.mlp.gate_proj(x), self.mlp.up_proj(x), self.mlp.act_fn
        if not (torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad)):
            return self.mlp.down_proj(act(gate) * up)
        product = _Product.apply(gate, up, act)
        hooks = _again(gate.detach(), up.detach(), act=act, product=product)
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            return self.mlp.down_proj(product)


class _Product(torch.autograd.Function):
    """act(gate) * up, of which gate and up are kept."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, act: Activation) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        gate, up = (kept.detach().requires_grad_() for kept in ctx.saved_tensors)
        with torch.enable_grad():
            product = ctx.act(gate) * up
        of_gate, of_up = torch.autograd.grad(product, (gate, up), grads)
        return of_gate, of_up, None


def _again(
    gate: torch.Tensor, up: torch.Tensor, *, act: Activation, product: torch.Tensor
) -> tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]:
    """How autograd keeps the product: by its shape alone. Anything else is kept as it is."""
    place, size = product.data_ptr(), product.numel()  # itself would be kept with the function

    def pack(tensor: torch.Tensor) -> torch.Tensor | torch.Size:
        same = tensor.data_ptr() == place and tensor.numel() == size
        return tensor.shape if same else tensor

    def unpack(kept: torch.Tensor | torch.Size) -> torch.Tensor:
        if isinstance(kept, torch.Tensor):
            return kept
        with torch.no_grad():
            return (act(gate) * up).reshape(kept)

    return pack, unpack


def spare(network: torch.nn.Module) -> None:
    """Let every MLP of a network that is a gated one by its class's own code keep less."""
    for module in network.modules():
        if "forward" not in vars(module) and _gated(type(module)):
            module.forward = LeanMLP(module)


@functools.cache
def _gated(kind: type[torch.nn.Module]) -> bool:
    if not (kind.__name__.endswith("MLP") and inspect.isfunction(kind.forward)):
        return False
    try:
        lines = inspect.getsource(kind.forward).splitlines()
    except OSError:  # no source: a class made at run time
        return False
    body = [line.strip() for line in lines[1:]]
    return body in ([f"down_proj = {FORWARD}", "return down_proj"], [f"return {FORWARD}"])

"""LoRA by the matrix: a layer of a small full-precision model reads W + sum of scaling * B A, formed
once, instead of sending every token through W and through each adapter.

The same sum in another order of rounding, several times faster with many adapters
(benchmarks/fused.py). Nothing is merged: W, A and B stay as they are. Layers of 4-bit and 16-bit
models, in whose numbers a small B A would vanish, and of large ones are left to peft.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch

from pulse_lib.model.lora import Linear, LoraLayer

MOST_BYTES = 2**28  # of all the matrices: as much again is kept for each stack of frozen adapters


class Fused:
    """The forward of one LoRA layer."""

    def __init__(self, layer: Linear, base: torch.nn.Linear):
        self.layer, self.base, self.by_token = layer, base, layer.forward
        self.known: dict[tuple[str, ...], tuple[list[int], torch.Tensor]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.layer.disable_adapters:
            return self.by_token(x)
        return torch.nn.functional.linear(x, self.matrix(), self.base.bias)

    def matrix(self) -> torch.Tensor:
        """(out, in) of the adapters in force, differentiable in those that are trained. With B = 0
        it is that of the others, bit by bit.
        """
        names = [name for name in self.layer.active_adapters if name in self.layer.lora_A]
        frozen = [n for n in names if not self._parts(n)[0].requires_grad]
        matrix = self._frozen(tuple(frozen))
        for name in names:
            if name not in frozen:
                matrix = self._plus(matrix, name)
        return matrix

    def _frozen(self, names: tuple[str, ...]) -> torch.Tensor:
        versions = [w._version for n in names for w in self._parts(n)]  # counts changes in place
        if names not in self.known or self.known[names][0] != versions:
            # Not an inference tensor even when first called inside inference mode: training uses it
            with torch.inference_mode(False), torch.no_grad():
                matrix: torch.Tensor = self.base.weight
                for name in names:
                    matrix = self._plus(matrix, name)
            self.known[names] = versions, matrix
        return self.known[names][1]

    def _parts(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, in) and B (out, r) of an adapter."""
        a, b = self.layer.lora_A[name].weight, self.layer.lora_B[name].weight
        return cast(torch.Tensor, a), cast(torch.Tensor, b)

    def _plus(self, matrix: torch.Tensor, name: str) -> torch.Tensor:
        a, b = self._parts(name)
        return torch.addmm(matrix, b, a, alpha=self.layer.scaling[name])


def fuse(layers: Iterable[LoraLayer]) -> None:
    """Let these layers of one model read by the matrix, if all are small and in float32; what was
    formed before is formed anew.
    """
    plain: list[tuple[Linear, torch.nn.Linear]] = []
    for layer in layers:
        base = layer.get_base_layer()
        if type(base) is not torch.nn.Linear or base.weight.dtype != torch.float32:
            return
        if not isinstance(layer, Linear):
            return
        plain.append((layer, base))
    if sum(base.weight.nbytes for _, base in plain) > MOST_BYTES:
        return
    for layer, base in plain:
        fused = layer.forward if isinstance(layer.forward, Fused) else Fused(layer, base)
        layer.forward = fused
        fused.known.clear()

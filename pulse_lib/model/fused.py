"""LoRA by the matrix: a layer of a small full-precision model reads W + sum of scaling * B A, formed
once, instead of sending every token through W and through each adapter.

The same sum in another order of rounding, several times faster with many adapters
(benchmarks/fused.py). Nothing is merged: W, A and B stay as they are. Layers of 4-bit and 16-bit
models, in whose numbers a small B A would vanish, and of large ones are left to peft.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

MOST_BYTES = 2**28  # of all the matrices: as much again is kept for each stack of frozen adapters


class Fused:
    """The forward of one LoRA layer."""

    def __init__(self, layer: BaseTunerLayer):
        self.layer, self.by_token = layer, layer.forward
        self.known: dict[tuple[str, ...], tuple[list[int], torch.Tensor]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.layer.disable_adapters:
            return self.by_token(x)
        return torch.nn.functional.linear(x, self.matrix(), self.layer.get_base_layer().bias)

    def matrix(self) -> torch.Tensor:
        """(out, in) of the adapters in force, differentiable in those that are trained. With B = 0
        it is that of the others, bit by bit.
        """
        names = [name for name in self.layer.active_adapters if name in self.layer.lora_A]
        frozen = [n for n in names if not self.layer.lora_A[n].weight.requires_grad]
        matrix = self._frozen(tuple(frozen))
        for name in names:
            if name not in frozen:
                matrix = self._plus(matrix, name)
        return matrix

    def _frozen(self, names: tuple[str, ...]) -> torch.Tensor:
        weights = [part[n].weight for n in names for part in (self.layer.lora_A, self.layer.lora_B)]
        versions = [w._version for w in weights]  # counts changes in place
        if names not in self.known or self.known[names][0] != versions:
            # Not an inference tensor even when first called inside inference mode: training uses it
            with torch.inference_mode(False), torch.no_grad():
                matrix = self.layer.get_base_layer().weight
                for name in names:
                    matrix = self._plus(matrix, name)
            self.known[names] = versions, matrix
        return self.known[names][1]

    def _plus(self, matrix: torch.Tensor, name: str) -> torch.Tensor:
        a, b = self.layer.lora_A[name].weight, self.layer.lora_B[name].weight
        return torch.addmm(matrix, b, a, alpha=self.layer.scaling[name])


def fuse(layers: Iterable[BaseTunerLayer]) -> None:
    """Let these layers of one model read by the matrix, if all are small and in float32; what was
    formed before is formed anew.
    """
    layers = list(layers)
    bases = [layer.get_base_layer() for layer in layers]
    plain = all(type(b) is torch.nn.Linear and b.weight.dtype == torch.float32 for b in bases)
    if not plain or sum(b.weight.nbytes for b in bases) > MOST_BYTES:
        return
    for layer in layers:
        if not isinstance(layer.forward, Fused):
            layer.forward = Fused(layer)
        layer.forward.known.clear()

"""LoRA by the matrix: a layer of a small full-precision model reads W + sum of scaling * B A, formed
once, instead of sending every token through W and through each adapter.

The same sum in another order of rounding, several times faster with many adapters
(benchmarks/fused.py). Nothing is merged: W, A and B stay as they are. In a larger full-precision
model only frozen adapters are read so, and from two on: a step then costs the same after 25 requests
as after five, and the trained adapter as little as it does in peft. In the numbers of 4-bit and
16-bit models a small B A would vanish: their layers are read as beside.py says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch

from pulse_lib.model.beside import read_beside
from pulse_lib.model.lora import Linear, LoraLayer

MOST_BYTES = 2**28  # of all the matrices: as much again is kept for each stack of frozen adapters
# Above the first and up to here: as much again for one stack of frozen adapters
MOST_FOLDED = 2**32
FEWEST_FOLDED = 2  # a target that was fine-tuned is one, and not worth a second copy

Adapters = dict[str, tuple[torch.Tensor, torch.Tensor]]  # by name: A (r, in) and B (out, r)


class Fused:
    """The forward of one LoRA layer: all adapters in the matrix, or (`whole` is false) the frozen."""

    def __init__(self, layer: Linear, base: torch.nn.Linear, *, whole: bool = True):
        self.layer, self.base, self.by_token = layer, base, layer.forward
        self.whole = whole
        self.known: dict[tuple[str, ...], tuple[list[int], torch.Tensor]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.layer.disable_adapters:
            return self.by_token(x)
        if self.whole:
            return torch.nn.functional.linear(x, self.matrix(), self.base.bias)
        frozen, trained = self._in_force()
        if len(frozen) < FEWEST_FOLDED:
            return self.by_token(x)
        found = torch.nn.functional.linear(x, self._frozen(frozen), self.base.bias)
        for name, (a, b) in trained.items():
            low = torch.nn.functional.linear(x, a)
            found = found + torch.nn.functional.linear(low, b) * self.layer.scaling[name]
        return found

    def matrix(self) -> torch.Tensor:
        """(out, in) of the adapters in force, differentiable in those that are trained. With B = 0
        it is that of the others, bit by bit.
        """
        frozen, trained = self._in_force()
        return self._plus(self._frozen(frozen), trained)

    def _in_force(self) -> tuple[Adapters, Adapters]:
        """This layer's adapters: those that are frozen, and those that are trained."""
        adapters = {n: self._parts(n) for n in self.layer.active_adapters if n in self.layer.lora_A}
        frozen = {n: parts for n, parts in adapters.items() if not parts[0].requires_grad}
        return frozen, {n: parts for n, parts in adapters.items() if n not in frozen}

    def _frozen(self, adapters: Adapters) -> torch.Tensor:
        names = tuple(adapters)
        # Counts of changes in place
        versions = [w._version for parts in adapters.values() for w in parts]
        if names not in self.known or self.known[names][0] != versions:
            # Not an inference tensor even when first called inside inference mode: training uses it
            with torch.inference_mode(False), torch.no_grad():
                matrix = self._plus(self.base.weight, adapters)
            if not self.whole:
                self.known.clear()  # one copy at most, of the stack read last
            self.known[names] = versions, matrix
        return self.known[names][1]

    def _parts(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A (r, in) and B (out, r) of an adapter."""
        a, b = self.layer.lora_A[name].weight, self.layer.lora_B[name].weight
        return cast(torch.Tensor, a), cast(torch.Tensor, b)

    def _plus(self, matrix: torch.Tensor, adapters: Adapters) -> torch.Tensor:
        for name, (a, b) in adapters.items():
            matrix = torch.addmm(matrix, b, a, alpha=self.layer.scaling[name])
        return matrix


def fuse(layers: Iterable[LoraLayer]) -> None:
    """Let these layers of one model read by the matrix, if all are plain ones in float32 and the model
    is not too large, or beside it, if any has fewer bits or is of another kind; what was formed before
    is formed anew.
    """
    found = list(layers)
    plain = [(layer, layer.get_base_layer()) for layer in found if isinstance(layer, Linear)]
    plain = [(a, b) for a, b in plain if type(b) is torch.nn.Linear]
    if len(plain) < len(found) or any(b.weight.dtype != torch.float32 for _, b in plain):
        for layer in found:
            read_beside(layer)
        return
    size = sum(base.weight.nbytes for _, base in plain)
    if size > MOST_FOLDED:
        return
    for layer, base in plain:
        whole, fused = size <= MOST_BYTES, layer.forward
        if not isinstance(fused, Fused):
            fused = layer.forward = Fused(layer, base, whole=whole)
        fused.known.clear()

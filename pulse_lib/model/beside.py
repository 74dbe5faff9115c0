"""LoRA beside the matrix of a layer in 4, 8 or 16 bits: all adapters in force at once, in the dtype in
which the layer is read.

peft sends the layer's input through each adapter in float32. That costs a copy of the input in
float32 for every layer that reads it, kept for the backward pass, and half a dozen passes over what
the layer gives. Here adapters are rounded to the layer's dtype, the frozen ones joined to one A and one
B, and add to what the layer gives as they are multiplied. What is kept is the input as it came, once
for all layers that read it. Weights and the sum of their gradients stay in float32.

In float32 (4-bit on a CPU) it is peft's sum in another order. In 16 bits A and B are rounded, as they
are under autocast, and what they add to is rounded once instead of once an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch.autograd.function import once_differentiable

MOST_KEPT = 2  # stacks of frozen adapters that are kept joined: a state and its reference

Pair = tuple[torch.Tensor, torch.Tensor]  # A (r, in) and B (out, r), of one adapter or of several


class Beside:
    """The forward of one LoRA layer."""

    def __init__(self, layer: Any):
        self.layer, self.base, self.by_token = layer, layer.get_base_layer(), layer.forward
        self.known: dict[tuple[str, ...], tuple[list[int], Pair]] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        adapters = {n: self._parts(n) for n in layer.active_adapters if n in layer.lora_A}
        if layer.disable_adapters or not adapters:
            return self.base(x)
        trained = {n: pair for n, pair in adapters.items() if pair[0].requires_grad}
        frozen = {n: pair for n, pair in adapters.items() if n not in trained}
        pairs = [self._frozen(frozen, x.dtype)] if frozen else []
        # Formed anew each time: some optimizers change weights without a count of it
        pairs += [self._rounded(n, pair, dtype=x.dtype) for n, pair in trained.items()]
        if not (torch.is_grad_enabled() and (trained or x.requires_grad)):
            return _sum(x, self.base, pairs=pairs)[0]
        scales = [self.layer.scaling[n] for n in trained]
        weights = [w for pair in trained.values() for w in pair]
        return cast(torch.Tensor, _Read.apply(x, self.base, pairs, scales, *weights))

    def _parts(self, name: str) -> Pair:
        a, b = self.layer.lora_A[name].weight, self.layer.lora_B[name].weight
        return cast(torch.Tensor, a), cast(torch.Tensor, b)

    def _frozen(self, pairs: dict[str, Pair], dtype: torch.dtype) -> Pair:
        """Frozen adapters joined, as they are now."""
        names = (*pairs, str(dtype))
        # Counts of changes in place
        versions = [w._version for pair in pairs.values() for w in pair]
        if names not in self.known or self.known[names][0] != versions:
            # Not inference tensors even when first joined inside inference mode: training uses them
            with torch.inference_mode(False):
                joined = _join([self._rounded(n, pair, dtype=dtype) for n, pair in pairs.items()])
            self.known.pop(names, None)
            while len(self.known) >= MOST_KEPT:
                del self.known[next(iter(self.known))]
            self.known[names] = versions, joined
        return self.known[names][1]

    def _rounded(self, name: str, pair: Pair, *, dtype: torch.dtype) -> Pair:
        """An adapter with its scale, in the layer's dtype."""
        a, b = pair
        with torch.no_grad():
            return a.to(dtype), (b * self.layer.scaling[name]).to(dtype)


class _Read(torch.autograd.Function):
    """What a layer gives and its adapters add; gradients go to x and to the trained adapters, which are
    the last of the pairs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        base: torch.nn.Linear,
        pairs: Sequence[Pair],
        scales: Sequence[float],
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        ctx.base, ctx.scales, ctx.n_pairs = base, scales, len(pairs)
        given, lows = _sum(x, base, pairs=pairs)
        read = [x, *lows[len(pairs) - len(scales) :]] if scales else []
        ctx.save_for_backward(*(w for pair in pairs for w in pair), *read)
        return given

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        saved = ctx.saved_tensors
        joined, read = saved[: 2 * ctx.n_pairs], saved[2 * ctx.n_pairs :]
        grad = _flat(grads[0])
        of_lows = [grad @ b for b in joined[1::2]]
        of_weights: list[torch.Tensor] = []
        if read:
            x, *lows = map(_flat, read)
            of_trained = of_lows[ctx.n_pairs - len(lows) :]
            for scale, low, of_low in zip(ctx.scales, lows, of_trained, strict=True):
                of_weights += [(of_low.t() @ x).float(), scale * (grad.t() @ low).float()]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = grad @ weight_of(ctx.base, grad.dtype)
            for of_low, a in zip(of_lows, joined[::2], strict=True):
                of_x.addmm_(of_low, a)
            of_x = of_x.view(*grads[0].shape[:-1], -1)
        return of_x, None, None, None, *of_weights


def _sum(
    x: torch.Tensor, base: torch.nn.Linear, *, pairs: Sequence[Pair]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What the layer gives with its adapters, and x A^T (tokens, r) of each pair. A pair of which B is 0
    changes no bit.
    """
    given = base(x)  # changed in place: nobody else has it
    flat, rows = _flat(x), given.view(-1, given.shape[-1])
    lows = [flat @ a.t() for a, _ in pairs]
    for low, (_, b) in zip(lows, pairs, strict=True):
        rows.addmm_(low, b.t())
    return given, lows


def weight_of(base: torch.nn.Linear, dtype: torch.dtype) -> torch.Tensor:
    """(out, in) of a layer, unpacked where it is in 4 or 8 bits."""
    if type(base) is torch.nn.Linear:
        return base.weight.to(dtype)
    from bitsandbytes import functional, nn  # slow to import, and such a layer has imported it

    if isinstance(base, nn.Linear8bitLt):
        known: Any = base.weight if base.state.CB is None else base.state  # from the first read on
        return functional.int8_vectorwise_dequant(known.CB, known.SCB).to(dtype)
    packed: Any = base.weight
    return functional.dequantize_4bit(packed.data.view(-1, 1), packed.quant_state).to(dtype)


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _join(pairs: Sequence[Pair]) -> Pair:
    a, b = zip(*pairs, strict=True)
    return torch.cat(a), torch.cat(b, dim=1)


def read_beside(layer: Any) -> None:
    """Let a LoRA layer be read so, if its matrix is of a kind that is understood here; what was joined
    is joined anew.
    """
    kinds = ("Linear4bit", "Linear8bitLt")  # by name: bitsandbytes is slow to import
    kind = type(layer.get_base_layer())
    if kind is torch.nn.Linear or kind.__name__ in kinds:
        if not isinstance(layer.forward, Beside):
            layer.forward = Beside(layer)
        layer.forward.known.clear()

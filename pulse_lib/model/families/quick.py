"""The quick way: features before the projector are worked out once a picture and handed to the
model's own forward pass, which sees to placeholders, positions and masks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image

from pulse_lib.model.families.base import KEPT, Family, Picture, Seen
from pulse_lib.profile import ImageAspect

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Projected = tuple[torch.Tensor, list[torch.Tensor]]  # (n, H), and the same for deeper layers


class Quick(Family):
    """What families share whose features before the projector are known. The projector is one
    module, and what it makes goes in place of the picture's tokens.
    """

    quick = True
    tower: ClassVar[tuple[str, ...]] = ("model.vision_tower", "model.multi_modal_projector")
    projector_name: ClassVar[str] = "multi_modal_projector"  # in `network.model`
    as_list: ClassVar[bool] = True  # whether the model takes pictures one by one
    n_axes: ClassVar[int] = 1  # of a token's position

    def not_quantised(self, config: Any) -> list[str]:
        """All but the language model's layers, by name."""
        return ["lm_head", *self.tower]

    # --- pictures --------------------------------------------------------------------------------

    def projectors(self, network: PreTrainedModel) -> list[Any]:
        """The modules whose inputs are kept, in the order in which the tower calls them; the last
        one's output stands in place of the picture's tokens.
        """
        return [getattr(network.model, self.projector_name)]

    def see(
        self,
        network: PreTrainedModel,
        processor: Any,
        *,
        images: Iterable[Image.Image],
        aspect: ImageAspect,
    ) -> list[Seen]:
        """Each picture's features before the projector, one at a time: the same bits whichever
        others it is seen with.
        """
        found = []
        for image in images:
            text, inputs = self.read_picture(processor, image, aspect=aspect)
            kept = {k: v for k, v in inputs.items() if k in KEPT}
            found.append(Seen(self._features(network, inputs), Picture(text, kept)))
        return found

    def _features(self, network: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """What the tower hands to the projectors, on the CPU: one tensor, or one on top of another."""
        weight: Any = network.get_input_embeddings().weight
        seen: list[torch.Tensor] = []

        def keep(module: Any, args: tuple, named: dict) -> None:
            seen.append(next(iter([*args, *named.values()])).detach().clone())

        hooks = [
            module.register_forward_pre_hook(keep, with_kwargs=True)
            for module in self.projectors(network)
        ]
        moved = {
            k: v.to(weight.device, weight.dtype if v.is_floating_point() else None)
            for k, v in inputs.items()
        }
        try:
            # Not inference tensors even when called inside inference mode: training uses them later
            with torch.inference_mode(False), torch.no_grad():
                network.model.get_image_features(**moved, return_dict=True)
        finally:
            for hook in hooks:
                hook.remove()
        seen = [self.in_order(network, one, inputs=inputs) for one in seen]
        return (torch.stack(seen) if len(seen) > 1 else seen[0]).cpu()

    def in_order(
        self, network: PreTrainedModel, features: torch.Tensor, *, inputs: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Features in the order in which the model reads them, where the projector has another."""
        return features

    def project(
        self, network: PreTrainedModel, features: torch.Tensor, *, picture: Picture
    ) -> Projected:
        """What the projector makes of one picture, token by token. Differentiable in its adapters."""
        (projector,) = self.projectors(network)
        return projector(features).flatten(0, -2), []

    def encoder_output(
        self, network: PreTrainedModel, seen: Sequence[Seen], *, rows: Sequence[int]
    ) -> Any:
        """What the model's forward takes as `mm_encoder_outputs["image"]` where row after row shows
        the picture `seen[rows[i]]`; each is projected once.
        """
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        weight: Any = network.get_input_embeddings().weight
        made = [
            self.project(network, one.features.to(weight.device, weight.dtype), picture=one.picture)
            for one in seen
            if one.features is not None
        ]
        pooled = [made[row][0].to(weight.dtype) for row in rows]
        levels = zip(*(made[row][1] for row in rows), strict=True)
        output = BaseModelOutputWithPooling(
            pooler_output=pooled if self.as_list else torch.cat(pooled)  # ty: ignore[invalid-argument-type]  (its own models give lists)
        )
        return self.with_levels(output, [list(level) for level in levels])

    def with_levels(self, output: Any, levels: list[list[torch.Tensor]]) -> Any:
        """The output with what goes into deeper layers, if anything does."""
        return output

    # --- reading ---------------------------------------------------------------------------------

    def positions(
        self, network: PreTrainedModel, tokens: Sequence[int], *, picture: Picture | None
    ) -> torch.Tensor | None:
        """Positions (3, T) of one row's tokens, or None where they are counted one by one."""
        return None

    def mask(
        self,
        network: PreTrainedModel,
        allowed: torch.Tensor,
        *,
        keys: torch.Tensor,
        queries: torch.Tensor,
        of_image: torch.Tensor,
        dtype: torch.dtype,
    ) -> Any:
        """What the model takes as its attention mask, used as it is, where `allowed` (B, Q, K) says
        which keys each token sees. keys (B, K), queries (B, Q): their places in the row; of_image
        (B, Q): which of the tokens, the last of the keys, are the picture's.
        """
        return added(allowed, dtype)[:, None]


def added(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A mask to add to attention's scores: 0 where allowed, else the least number there is."""
    made = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return made.masked_fill_(~allowed, torch.finfo(dtype).min)

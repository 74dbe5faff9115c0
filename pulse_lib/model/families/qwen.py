"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: as many tokens as a picture has patches, positions with three
axes (time, row, column), the projector ("merger") inside the tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from pulse_lib.model.families.base import Picture
from pulse_lib.model.families.quick import Projected, Quick
from pulse_lib.profile import ImageAspect

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MOST_TOKENS = 256  # of a picture in one view


class Qwen2VL(Quick):
    """Qwen2-VL. In one view a picture has at most MOST_TOKENS tokens."""

    name = "Qwen2-VL"
    model_types = ("qwen2_vl",)
    tower = ("model.visual",)
    projector = r".*\.visual\.merger\.mlp\.[02]"
    n_axes = 3

    def projectors(self, network: PreTrainedModel) -> list[Any]:
        """The merger."""
        return [network.model.visual.merger]

    def read_picture(
        self, processor: Any, image: Image.Image, *, aspect: ImageAspect
    ) -> tuple[str, dict[str, torch.Tensor]]:
        """A large picture is made smaller, unless its full size is asked for."""
        read = processor.image_processor
        if aspect != "full":
            size = dict(read.size)
            most = MOST_TOKENS * (read.patch_size * read.merge_size) ** 2
            read.size = size | {"longest_edge": min(most, size["longest_edge"])}
        return super().read_picture(processor, image, aspect=aspect)

    def picture_tokens(self, config: Any) -> int:
        """One for each square of patches that is merged."""
        vision = config.vision_config
        side = 448 // (vision.patch_size * vision.spatial_merge_size)
        return min(MOST_TOKENS, side * side)

    def project(
        self, network: PreTrainedModel, features: torch.Tensor, *, picture: Picture
    ) -> Projected:
        """Patches (patches, H_vision) to tokens, four to one."""
        (merger,) = self.projectors(network)
        return merger(features), []

    def positions(
        self, network: PreTrainedModel, tokens: Sequence[int], *, picture: Picture | None
    ) -> torch.Tensor | None:
        """Time, row and column of each token; text goes on behind the largest. Always told to the
        model: left to itself it would count some prompts in one row, and go on with another
        prompt's count.
        """
        if picture is None:
            return torch.arange(len(tokens)).expand(3, -1)
        row = torch.tensor([list(tokens)])
        found, _ = network.model.get_rope_index(
            row,
            mm_token_type_ids=(row == network.config.image_token_id).int(),
            image_grid_thw=picture.inputs["image_grid_thw"],
        )
        return found[:, 0]


class Qwen25VL(Qwen2VL):
    """Qwen2.5-VL: as Qwen2-VL; its tower looks through windows, and has the patches in their order
    up to the merger.
    """

    name = "Qwen2.5-VL"
    model_types = ("qwen2_5_vl",)

    def in_order(
        self, network: PreTrainedModel, features: torch.Tensor, *, inputs: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Patches from windows back to rows, four by four."""
        from transformers.vision_utils import get_vision_window_index

        vision = network.config.vision_config
        order, _ = get_vision_window_index(
            inputs["image_grid_thw"],
            vision.spatial_merge_size,
            vision.window_size,
            vision.patch_size,
        )
        fours = features.view(-1, vision.spatial_merge_size**2, features.shape[-1])
        return fours[torch.argsort(order).to(fours.device)].flatten(0, 1)


class Qwen3VL(Qwen2VL):
    """Qwen3-VL: mergers at several depths of the tower; what the deeper ones make is added after the
    language model's first layers.
    """

    name = "Qwen3-VL"
    model_types = ("qwen3_vl",)
    projector = r".*\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]"

    def projectors(self, network: PreTrainedModel) -> list[Any]:
        """Those of single depths, then the last one."""
        visual: Any = network.model.visual
        return [*visual.deepstack_merger_list, visual.merger]

    def project(
        self, network: PreTrainedModel, features: torch.Tensor, *, picture: Picture
    ) -> Projected:
        """Features (depths, patches, H_vision), each through the merger of its depth."""
        pairs = zip(self.projectors(network), features, strict=True)
        *levels, last = [merger(one) for merger, one in pairs]
        return last, levels

    def with_levels(self, output: Any, levels: list[list[torch.Tensor]]) -> Any:
        """For each depth the pictures' features."""
        from transformers.models.qwen3_vl.modeling_qwen3_vl import (
            BaseModelOutputWithDeepstackFeatures,
        )

        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=output.pooler_output,
            deepstack_features=levels,  # ty: ignore[invalid-argument-type]  (as its own model gives them)
        )

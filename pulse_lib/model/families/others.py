"""InternVL 3, Gemma 3, SmolVLM and Idefics 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from pulse_lib.model.families.quick import Quick, added

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class InternVL(Quick):
    """InternVL 3 in transformers' layout (-hf): a square of 256 tokens, and tiles of as many if its
    full size is asked for.
    """

    name = "InternVL 3"
    model_types = ("internvl",)
    projector = r".*\.multi_modal_projector\.linear_[12]"
    as_list = False
    # Its processor cuts tiles whatever the checkpoint's files say
    one_view: ClassVar[Mapping[str, Any]] = {"crop_to_patches": False}

    def picture_tokens(self, config: Any) -> int:
        """Of one tile."""
        return config.image_seq_length


class Gemma3(Quick):
    """Gemma 3: a square of 256 tokens that all see one another, most layers with a window; the
    projector is a bare matrix.
    """

    name = "Gemma 3"
    model_types = ("gemma3",)
    aspects = ("crop", "pad")
    projector = r".*\.multi_modal_projector"
    projector_weight = "multi_modal_projector.mm_input_projection_weight"
    as_list = False

    def picture_tokens(self, config: Any) -> int:
        """The same for all."""
        return config.mm_tokens_per_image

    def beside(self, network: PreTrainedModel, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Which tokens are the picture's: without it they would silently see no later one."""
        return {"token_type_ids": (input_ids == network.config.image_token_id).long()}

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
        """One mask for layers that see everything, one for those with a window."""
        window = network.config.text_config.sliding_window
        near = queries[:, :, None] - keys[:, None] < window
        whole = torch.zeros_like(allowed)
        whole[:, :, allowed.shape[2] - allowed.shape[1] :] = (
            of_image[:, :, None] & of_image[:, None]
        )
        return {
            "full_attention": added(allowed | whole, dtype)[:, None],
            "sliding_attention": added(allowed & near | whole, dtype)[:, None],
        }


class SmolVLM(Quick):
    """SmolVLM and Idefics 3: a square, and tiles with marks between them if its full size is asked
    for.
    """

    name = "SmolVLM"
    model_types = ("smolvlm", "idefics3")
    decoder_name = "text_model"
    tower = ("model.vision_model", "model.connector")
    projector_name = "connector"
    projector = r".*\.connector\.modality_projection\.proj"
    one_view: ClassVar[Mapping[str, Any]] = {"do_image_splitting": False}

    def picture_tokens(self, config: Any) -> int:
        """Patches of a square, shuffled together."""
        vision = config.vision_config
        return (vision.image_size // vision.patch_size // config.scale_factor) ** 2

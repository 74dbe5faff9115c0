"""LLaVA-1.5, LLaVA-NeXT (1.6) and LLaVA-OneVision: a tower, a projector of two layers, and what it
makes in place of the picture's tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from pulse_lib.errors import PulseError
from pulse_lib.model.families.base import Picture, Seen
from pulse_lib.model.families.quick import Projected, Quick
from pulse_lib.profile import ImageAspect

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Llava(Quick):
    """LLaVA-1.5: every picture is cut or padded to one square, so that all have the same number of
    tokens and are seen and projected together.
    """

    name = "LLaVA-1.5"
    model_types = ("llava",)
    prompts = ("plain", "vicuna_v1", "mllmu", "chat")
    aspects = ("crop", "pad")
    projector = r".*\.multi_modal_projector\.linear_[12]"

    def network_class(self) -> Any:
        """By name, which spares the slow look at all the others."""
        from transformers import LlavaForConditionalGeneration

        return LlavaForConditionalGeneration

    def empty(self, config: Any) -> PreTrainedModel:
        """The class itself makes one."""
        return self.network_class()(config)

    def processor(self, folder: Path, **safely: Any) -> Any:
        """It has no part for videos: transformers' own way needs no torchvision."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(folder, backend="pil", **safely)

    def every_picture(self, network: PreTrainedModel, processor: Any) -> Picture | None:
        """The image tokens are counted, not computed: what the processor really writes is what the
        features must match. Raises PulseError if the tower gives another number.
        """
        probe = processor(
            images=Image.new("RGB", (8, 8)), text=processor.image_token, return_tensors="pt"
        )
        written = int((probe["input_ids"] == network.config.image_token_id).sum())
        vision = network.config.vision_config
        given = (vision.image_size // vision.patch_size) ** 2
        given += network.config.vision_feature_select_strategy == "full"
        if written != given:
            raise PulseError(
                f"the processor writes {written} image tokens, the vision tower gives {given}: "
                "set num_additional_image_tokens to 1 and vision_feature_select_strategy to that of "
                "config.json in processor_config.json"
            )
        return Picture(processor.image_token * written)

    def see(
        self,
        network: PreTrainedModel,
        processor: Any,
        *,
        images: Iterable[Image.Image],
        aspect: ImageAspect,
    ) -> list[Seen]:
        """Pictures seen together, each (n_image_tokens, H_vision)."""
        features = vision_features(network, processor, pictures=images).cpu()
        # .clone(): a slice would keep the whole batch's memory
        return [Seen(one.clone(), Picture("")) for one in features]

    def encoder_output(
        self, network: PreTrainedModel, seen: Sequence[Seen], *, rows: Sequence[int]
    ) -> Any:
        """All projected at once."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        weight: Any = network.get_input_embeddings().weight
        features = torch.stack([one.features for one in seen if one.features is not None])
        projected = network.model.multi_modal_projector(features.to(weight.device, weight.dtype))
        if len(seen) < len(rows):
            projected = projected[list(rows)]
        return BaseModelOutputWithPooling(pooler_output=list(projected))  # ty: ignore[invalid-argument-type]  (its own forward gives a list)


def vision_features(
    network: PreTrainedModel, processor: Any, *, pictures: Iterable[Image.Image]
) -> torch.Tensor:
    """Vision tower's output for PIL pictures, (n, n_image_tokens, H_vision), as LLaVA's projector
    takes it. The pictures may be decoded one by one: only their pixels in the tower's size are kept.
    """
    config = network.config
    layers = config.vision_feature_layer
    # Not inference tensors even when called inside inference mode: training uses them later.
    with torch.inference_mode(False), torch.no_grad():
        read = processor.image_processor
        pixels = torch.cat(
            [read(images=[p], return_tensors="pt")["pixel_values"] for p in pictures]
        )
        parameter = next(network.model.vision_tower.parameters())
        hidden = network.model.vision_tower(
            pixels.to(parameter.device, parameter.dtype), output_hidden_states=True
        ).hidden_states
        chosen = [hidden[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        if config.vision_feature_select_strategy == "default":
            chosen = [h[:, 1:] for h in chosen]  # without the class token
        return torch.cat(chosen, dim=-1)


class LlavaNext(Quick):
    """LLaVA-NeXT (1.6): the whole picture, then its tiles without their padding, a mark at the end
    of each row. In one view there is a single tile.
    """

    name = "LLaVA-NeXT"
    model_types = ("llava_next",)
    projector = Llava.projector

    def processor(self, folder: Path, **safely: Any) -> Any:
        """Older copies leave out how a picture's tokens are counted."""
        made: Any = super().processor(folder, **safely)
        made.patch_size = made.patch_size or 14
        made.vision_feature_select_strategy = made.vision_feature_select_strategy or "default"
        made.num_additional_image_tokens = made.num_additional_image_tokens or 1
        return made

    def settle(self, network: PreTrainedModel, processor: Any, *, aspect: ImageAspect) -> None:
        """How a picture is cut into tiles stands in two places, which must agree."""
        super().settle(network, processor, aspect=aspect)
        side = network.config.vision_config.image_size
        if aspect != "full":
            network.config.image_grid_pinpoints = [[side, side]]
        processor.image_processor.image_grid_pinpoints = network.config.image_grid_pinpoints

    def picture_tokens(self, config: Any) -> int:
        """The whole picture, one tile, and a mark a row."""
        side = config.vision_config.image_size // config.vision_config.patch_size
        return 2 * side * side + side

    def project(
        self, network: PreTrainedModel, features: torch.Tensor, *, picture: Picture
    ) -> Projected:
        """Tiles (tiles, patches, H_vision) projected, then packed as the model packs them."""
        inner: Any = network.model
        tiles = inner.multi_modal_projector(features)
        packed, _ = inner.pack_image_features(
            [tiles],
            picture.inputs["image_sizes"],
            image_newline=inner.image_newline,
            **self.packing(network.config),
        )
        return packed[0], []

    def packing(self, config: Any) -> dict[str, Any]:
        """What else the model's packing is told."""
        return {"vision_feature_select_strategy": config.vision_feature_select_strategy}


class LlavaOneVision(LlavaNext):
    """LLaVA-OneVision: as LLaVA-NeXT, on a tower without a class token; very many tiles are shrunk."""

    name = "LLaVA-OneVision"
    model_types = ("llava_onevision",)

    def processor(self, folder: Path, **safely: Any) -> Any:
        """Nothing is left out in its files."""
        return super(LlavaNext, self).processor(folder, **safely)

    def packing(self, config: Any) -> dict[str, Any]:
        """How far tiles are shrunk."""
        return {"vision_aspect_ratio": config.vision_aspect_ratio}

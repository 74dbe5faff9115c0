"""Vision features, computed once per image and kept before the projector, so that a trained
projector still acts on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image

from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.profile import ImageAspect

if TYPE_CHECKING:
    from transformers import LlavaProcessor, PreTrainedModel


MOST_SIDE = 4096  # of a padded square, which costs 50 MB in RGB
MOST_ASPECT = 8  # longer side by shorter one of what the processor is given to cut the middle from
MEAN_COLOUR = (122, 116, 104)  # of CLIP's training pictures, int(255 * mean)


class FeatureCache:
    """Outputs of the frozen vision tower by image id, each (n_image_tokens, H_vision), on the CPU
    in the model's dtype.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        processor: LlavaProcessor,
        *,
        n_image_tokens: int,
        image_aspect: ImageAspect = "crop",
    ):
        self.network, self.processor, self.n_image_tokens = network, processor, n_image_tokens
        self.image_aspect = image_aspect
        self.known: dict[str, torch.Tensor] = {}
        self.digests: dict[str, bytes] = {}

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.known

    def add(self, image_ids: Iterable[str], images: ImageStore, *, batch_size: int = 64) -> None:
        """Compute what is not there yet; "" is skipped. Raises PulseError if an id now means
        another picture.

        Batches are formed in sorted order of the ids, so that a run that adds all its images first
        has the same bits each time.
        """
        wanted = sorted(set(image_ids) - {""})
        for image_id in wanted:
            self._check_same(image_id, images)
        new = [i for i in wanted if i not in self.known]
        for start in range(0, len(new), batch_size):
            ids = new[start : start + batch_size]
            fit = pad_to_square if self.image_aspect == "pad" else without_ends
            features = vision_features(
                self.network, self.processor, pictures=(fit(images[i]) for i in ids)
            )
            if features.shape[1] != self.n_image_tokens:
                raise PulseError(
                    f"the processor writes {self.n_image_tokens} image tokens, the vision tower "
                    f"gives {features.shape[1]}: "
                    "check num_additional_image_tokens and vision_feature_select_strategy in "
                    "processor_config.json"
                )
            # .clone(): a slice would keep the whole batch's memory
            self.known |= {i: f.clone() for i, f in zip(ids, features.cpu(), strict=True)}

    def get(self, image_ids: Sequence[str]) -> torch.Tensor:
        """Features (len(image_ids), n_image_tokens, H_vision) on the model's device. Raises
        PulseError for an unknown id.
        """
        return torch.stack(self._known(image_ids)).to(self.network.lm_head.weight.device)

    def mean(self, image_ids: Sequence[str]) -> torch.Tensor:
        """Features averaged over the image's tokens, (len(image_ids), H_vision) float32 on the CPU.
        Raises PulseError for an unknown id.
        """
        return torch.stack([features.float().mean(dim=0) for features in self._known(image_ids)])

    def _known(self, image_ids: Sequence[str]) -> list[torch.Tensor]:
        for image_id in image_ids:
            if image_id not in self.known:
                raise PulseError(
                    f"image {image_id!r} has no features yet: call model.features.add(ids, images) "
                    "first"
                )
        return [self.known[i] for i in image_ids]

    def _check_same(self, image_id: str, images: ImageStore) -> None:
        if image_id not in images:
            raise PulseError(f"image {image_id!r} is not in the image store ({len(images)} images)")
        digest = hashlib.blake2b(images.encoded[image_id], digest_size=16).digest()
        if self.digests.setdefault(image_id, digest) != digest:
            raise PulseError(
                f"image id {image_id!r} stands for two different pictures: image ids must be "
                "unique in a run"
            )


def pad_to_square(image: Image.Image) -> Image.Image:
    """The picture in RGB, centred on a square of CLIP's mean colour with the longer side; as it is
    if already square. An odd row or column goes to the bottom or right. [LLaVA, mm_utils.py]

    DIFFERS: a picture longer than MOST_SIDE is made smaller first; LLaVA's square of a strip of
    10000 x 10 pixels would cost a gigabyte.
    """
    image = image.convert("RGB")
    width, height = image.size
    if width == height:
        return image
    side = max(width, height)
    if side > MOST_SIDE:
        scale, side = MOST_SIDE / side, MOST_SIDE
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    square = Image.new("RGB", (side, side), MEAN_COLOUR)
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    return square


def without_ends(image: Image.Image) -> Image.Image:
    """The picture, or of a strip the middle, MOST_ASPECT times as long as it is wide. The processor
    scales the shorter side up and then cuts out the middle square: of a strip it would first make a
    picture of a gigabyte, and drop nearly all of it.
    """
    width, height = image.size
    most = MOST_ASPECT * min(width, height)
    if max(width, height) <= most:
        return image
    left, top = max(0, width - most) // 2, max(0, height - most) // 2
    return image.crop((left, top, left + min(width, most), top + min(height, most)))


def vision_features(
    network: PreTrainedModel, processor: LlavaProcessor, *, pictures: Iterable[Image.Image]
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

"""Vision features, computed once per image and kept before the projector, so that a trained
projector still acts on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.model.families import Family, Picture, Quick, Seen
from pulse_lib.model.families.llava import vision_features as vision_features
from pulse_lib.profile import ImageAspect

if TYPE_CHECKING:
    from transformers import PreTrainedModel


MOST_SIDE = 4096  # of a padded square, which costs 50 MB in RGB
MOST_ASPECT = 8  # longer side by shorter one of what the processor is given to cut the middle from
MEAN_COLOUR = (122, 116, 104)  # of CLIP's training pictures, int(255 * mean)


class FeatureCache:
    """Outputs of the frozen vision tower by image id, before the projector, on the CPU in the
    model's dtype; of LLaVA-1.5 each is (n_image_tokens, H_vision). Of a family that is read the
    plain way there are none: its pixels are kept.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        processor: Any,
        *,
        family: Family,
        image_aspect: ImageAspect = "crop",
    ):
        self.network, self.processor, self.family = network, processor, family
        self.image_aspect: ImageAspect = image_aspect
        self.every = family.every_picture(network, processor)
        self.known: dict[str, torch.Tensor] = {}
        self.pictures: dict[str, Picture] = {}
        self.digests: dict[str, bytes] = {}

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.known or image_id in self.pictures

    def add(self, image_ids: Iterable[str], images: ImageStore, *, batch_size: int = 64) -> None:
        """Compute what is not there yet; "" is skipped. Raises PulseError if an id now means
        another picture.

        Batches are formed in sorted order of the ids, so that a run that adds all its images first
        has the same bits each time.
        """
        wanted = sorted(set(image_ids) - {""})
        for image_id in wanted:
            self._check_same(image_id, images)
        new = [i for i in wanted if i not in self]
        for start in range(0, len(new), batch_size):
            ids = new[start : start + batch_size]
            seen = self.family.see(
                self.network,
                self.processor,
                images=(self.fitted(images[i]) for i in ids),
                aspect=self.image_aspect,
            )
            for image_id, one in zip(ids, seen, strict=True):
                if self.every and one.features is not None:
                    self._check_count(one.features.shape[0])
                self.pictures[image_id] = self.every or one.picture
                if one.features is not None:
                    self.known[image_id] = one.features

    def forget(self, image_ids: Iterable[str]) -> None:
        """Let go of pictures that nobody will ask about again."""
        for image_id in image_ids:
            for kept in (self.known, self.pictures, self.digests):
                kept.pop(image_id, None)

    def fitted(self, image: Image.Image) -> Image.Image:
        """The picture as the profile's `image_aspect` has the processor see it."""
        return pad_to_square(image) if self.image_aspect == "pad" else without_ends(image)

    def picture(self, image_id: str) -> Picture | None:
        """What stands for a picture in a prompt; None for "". Raises PulseError for one that was
        not added.
        """
        if not image_id or self.every:
            return self.every if image_id else None
        if image_id not in self.pictures:
            raise _unknown(image_id)
        return self.pictures[image_id]

    def output(self, image_ids: Sequence[str]) -> Any:
        """What the model's forward takes in place of pixels, `mm_encoder_outputs`, for the pictures
        of rows that have one, in order; differentiable in the projector's adapters.
        """
        family = self.family
        assert isinstance(family, Quick)
        unique = list(dict.fromkeys(image_ids))
        features = self._known(unique)
        seen = [
            Seen(one, self.picture(i) or Picture(""))
            for i, one in zip(unique, features, strict=True)
        ]
        rows = [unique.index(i) for i in image_ids]
        return {"image": family.encoder_output(self.network, seen, rows=rows)}

    def get(self, image_ids: Sequence[str]) -> torch.Tensor:
        """Features (len(image_ids), ...) on the model's device, of pictures whose features are of
        one shape. Raises PulseError for an unknown id.
        """
        return torch.stack(self._known(image_ids)).to(self.network.lm_head.weight.device)

    def mean(self, image_ids: Sequence[str]) -> torch.Tensor:
        """Features averaged over the picture, (len(image_ids), H_vision) float32 on the CPU.
        Raises PulseError for an unknown id, and for a family that is read the plain way.
        """
        if not self.family.quick:
            raise PulseError(
                f"{self.family.name}: no features of pictures are kept, so that people cannot be "
                "told apart by them: choose a strategy without a gate"
            )
        return torch.stack([f.float().flatten(0, -2).mean(dim=0) for f in self._known(image_ids)])

    def _known(self, image_ids: Sequence[str]) -> list[torch.Tensor]:
        for image_id in image_ids:
            if image_id not in self.known:
                raise _unknown(image_id)
        return [self.known[i] for i in image_ids]

    def _check_count(self, given: int) -> None:
        written = self.every.text.count(self.processor.image_token) if self.every else given
        if written != given:
            raise PulseError(
                f"the processor writes {written} image tokens, the vision tower gives {given}: "
                "check num_additional_image_tokens and vision_feature_select_strategy in "
                "processor_config.json"
            )

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


def _unknown(image_id: str) -> PulseError:
    return PulseError(
        f"image {image_id!r} has no features yet: call model.features.add(ids, images) first"
    )

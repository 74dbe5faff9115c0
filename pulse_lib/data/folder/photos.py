"""Own photos as a model is shown them: without what a camera notes about place and time, and in
augmented views, since one photo looked at again and again is learned as pixels, not as a face.
"""

from __future__ import annotations

import io
from random import Random

import numpy as np
from PIL import Image, ImageEnhance

from pulse_lib.data import pictures

LONGEST = 1344  # pixels of a stored photo: four times what LLaVA-1.5 looks at
LONGEST_VIEW = 672
_QUALITY = 95
_HEIC = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc")


def stored(encoded: bytes) -> bytes:
    """A photo as it is kept: upright, in RGB, at most LONGEST pixels, a JPEG without the camera's
    notes (place, time, device). Raises ValueError in words if it cannot be used.
    """
    if encoded[4:12] in _HEIC:
        raise ValueError("it is a HEIC photo of a phone: export it as JPEG")
    return jpeg(_at_most(pictures.decoded(encoded), LONGEST))


def view(photo: Image.Image, rng: Random) -> Image.Image:
    """A new view of a photo: a little nearer, shifted, turned and lit otherwise. Never mirrored: a
    face is not the same on both sides, and neither is writing.
    """
    photo = _at_most(photo, LONGEST_VIEW)
    width, height = photo.size
    share = rng.uniform(0.88, 1.0)  # of the photo that is seen
    w, h = width * share, height * share
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    turned = photo.rotate(
        rng.uniform(-4, 4), Image.Resampling.BICUBIC, fillcolor=_edge_colour(photo)
    )
    seen = turned.resize(photo.size, Image.Resampling.BICUBIC, box=(left, top, left + w, top + h))
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        seen = change(seen).enhance(rng.uniform(0.88, 1.12))
    return seen


def jpeg(image: Image.Image) -> bytes:
    """An RGB image as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _at_most(image: Image.Image, longest: int) -> Image.Image:
    scale = longest / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _edge_colour(image: Image.Image) -> tuple[int, int, int]:
    """The mean colour of the four corners, for what a turn uncovers."""
    w, h = image.size
    pixels = np.asarray(image, np.uint32)[[0, 0, h - 1, h - 1], [0, w - 1, 0, w - 1]]
    red, green, blue = (int(value) for value in pixels.sum(axis=0) // 4)
    return red, green, blue

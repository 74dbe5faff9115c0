"""Encoded pictures as a person sees them: the one place that decodes, for people and benchmarks alike.

Upright (EXIF's orientation is applied, and dropped), what is transparent on white, 16-bit grey scaled
to 8 bits, of a moving picture the first frame, in RGB.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, ImageDraw, ImageOps, UnidentifiedImageError

MOST_PIXELS = 89_000_000  # 270 MB in RGB; Pillow warns from here on
_EVERYWHERE = ("PNG", "JPEG", "WEBP")  # what a browser shows too
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")


def decoded(encoded: bytes) -> Image.Image:
    """The picture in RGB, as it is seen. Raises ValueError that says in words what is wrong; the
    reader adds where it stands.
    """
    return _read(encoded)[0]


def plain(encoded: bytes) -> bytes:
    """The bytes as they are if any program shows them right (8-bit RGB or grey, opaque, upright),
    else `decoded` as PNG. Raises ValueError as `decoded` does.
    """
    image, as_it_is = _read(encoded)
    return encoded if as_it_is else png(image)


def as_seen(image: Image.Image) -> Image.Image:
    """A Pillow image in RGB, as it is seen; the same object if nothing is to be done. Raises
    ValueError: too large, or a kind of pixels whose white is unknown.
    """
    _check_size(image)
    image.load()
    sixteen = image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if _turned(image):
        image = ImageOps.exif_transpose(image)
    if sixteen:
        return _eight_bits(image)
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit grey ({image.mode}) has no fixed white: save it in 8 or 16 bits")
    if image.has_transparency_data:
        shown = image.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        return Image.alpha_composite(white, shown).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def png(image: Image.Image) -> bytes:
    """An image as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def not_kept(side: int = 64) -> Image.Image:
    """A grey square that says "not kept"."""
    image = Image.new("RGB", (side, side), "#dddddd")
    ImageDraw.Draw(image).text((side / 2, side / 2), "not kept", "#666666", anchor="mm")
    return image


def smallest(encoded: bytes) -> bytes:
    """The smaller of an image's file and the same pixels as lossless WebP: of a drawing, a third of
    its PNG. Raises ValueError as `decoded`.
    """
    buffer = io.BytesIO()
    decoded(encoded).save(buffer, format="WEBP", lossless=True)
    return min(encoded, buffer.getvalue(), key=len)


def is_plain(image: Image.Image) -> bool:
    """True if any program shows the image right: 8-bit RGB or grey, opaque, upright."""
    return image.mode in ("RGB", "L") and not image.has_transparency_data and not _turned(image)


def _read(encoded: bytes) -> tuple[Image.Image, bool]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's on large pictures; MOST_PIXELS decides
            with Image.open(io.BytesIO(encoded)) as image:
                _check_size(image)  # before anything reads its pixels
                # Before it is loaded: Pillow turns a TIFF then, and forgets that it did.
                as_it_is = image.format in _EVERYWHERE and is_plain(image)
                return as_seen(image), as_it_is
    except UnidentifiedImageError:
        raise ValueError(f"it is no picture file (it begins with {encoded[:16]!r})") from None
    except Exception as error:  # Pillow's readers raise nearly anything on broken bytes
        raise ValueError(f"{error or type(error).__name__}") from None


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"it has {width} x {height} pixels, at most {MOST_PIXELS // 10**6} million are read: "
            "make it smaller"
        )


def _turned(image: Image.Image) -> bool:
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit grey in RGB. `convert` would cut values at 255, which makes nearly all of it white."""
    values = np.asarray(image).astype(np.uint32)
    grey = ((values + 128) // 257).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")

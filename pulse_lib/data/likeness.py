"""What a reader takes for the same: one picture under two ids, one name in two spellings.

Real data name nothing by accident twice: ids are unique, but a photo may have been saved again in
another size or format, and a name written with other accents.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass

import numpy as np
from PIL import Image

from pulse_lib.data.records import ImageStore

# Two pictures are copies if few bits of their 64 differ and their thumbnails (0-255) hardly do.
MOST_BITS = 8
# Measured on 3,600 pictures of the embedded world: JPEG at quality 30 and half or thrice the size
# differ by at most 5 bits and 2.5; pictures of two people by at least 8.9.
MOST_DIFFERENCE = 4.0
LEAST_CONTRAST = 4.0  # of a thumbnail, standard deviation: below it there is nothing to compare
_THUMBNAIL = 16  # pixels a side
_AT_ONCE = 512


@dataclass(frozen=True)
class Likeness:
    """Two picture ids, and how they are alike."""

    first: str
    second: str
    _: KW_ONLY
    how: str = "pixel for pixel"


def plain_name(name: str) -> str:
    """A name without case, accents, punctuation and double spaces: "Élodie  O’Brien-Roy" is "elodie
    obrien roy". A name without letters stays as it is.
    """
    parts = unicodedata.normalize("NFKD", name)
    letters = "".join(
        " " if c.isspace() or unicodedata.category(c) == "Pd" else c
        for c in parts
        if not unicodedata.combining(c)
    )
    kept = "".join(c for c in letters.casefold() if c == " " or c.isalnum())
    return " ".join(kept.split()) or name.strip()


def first_alike(
    images: ImageStore, owners: Mapping[str, object], *, people: Collection[str]
) -> Likeness | None:
    """The first two pictures of different owners that show the same: the same pixels, or one a copy
    of the other in another format, quality or size. None if there are none.

    owners: picture id -> whose it is. people: ids of the pictures that show a person; of the others
    (drawn scenes are alike by chance) and of pictures without contrast, pixels are compared only.
    Each picture is decoded once.
    """
    ids, seen = list(owners), {}
    hashes = np.zeros(len(ids), np.uint64)
    thumbnails = np.zeros((len(ids), _THUMBNAIL, _THUMBNAIL, 3), np.float32)
    for k, image_id in enumerate(ids):
        picture = images[image_id]
        digest = hashlib.blake2b(picture.tobytes() + repr(picture.size).encode()).digest()
        first = seen.setdefault(digest, image_id)
        if owners[first] != owners[image_id]:
            return Likeness(first, image_id)
        hashes[k], thumbnails[k] = _look(picture)
    codes = {owner: k for k, owner in enumerate(dict.fromkeys(owners.values()))}
    whose = np.array([codes[owner] for owner in owners.values()])
    of_person = np.array([image_id in people for image_id in ids])
    rich = np.flatnonzero(thumbnails.mean(axis=3).std(axis=(1, 2)) >= LEAST_CONTRAST)
    pair = _first_copy(
        whose[rich], of_person[rich], hashes=hashes[rich], thumbnails=thumbnails[rich]
    )
    if pair is None:
        return None
    first, second = (ids[rich[k]] for k in pair)
    return Likeness(first, second, how="as a copy")


def _look(picture: Image.Image) -> tuple[np.uint64, np.ndarray]:
    """Whether it grows brighter from each of 8 x 8 places to the next (dHash), and a thumbnail."""
    small = picture.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    grey = np.asarray(small.convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = np.packbits((grey[:, 1:] > grey[:, :-1]).ravel()).view(np.uint64)[0]
    return bits, np.asarray(small, np.float32)


def _first_copy(
    whose: np.ndarray, of_person: np.ndarray, *, hashes: np.ndarray, thumbnails: np.ndarray
) -> tuple[int, int] | None:
    order = np.arange(len(hashes))
    for start in range(0, len(hashes), _AT_ONCE):
        rows = order[start : start + _AT_ONCE]
        near = np.bitwise_count(hashes[rows, None] ^ hashes[None]) <= MOST_BITS
        near &= (whose[rows, None] != whose[None]) & (rows[:, None] < order)
        near &= of_person[rows, None] | of_person[None]
        pairs = np.argwhere(near) + np.array([start, 0])
        for part in range(0, len(pairs), 4 * _AT_ONCE):
            a, b = pairs[part : part + 4 * _AT_ONCE].T
            apart = np.abs(thumbnails[a] - thumbnails[b]).mean(axis=(1, 2, 3))
            for k in np.flatnonzero(apart <= MOST_DIFFERENCE)[:1]:
                return int(a[k]), int(b[k])
    return None

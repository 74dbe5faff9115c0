"""The fonts that a PDF embeds, cut to size once for all figures."""

from __future__ import annotations

import functools
import io
import string
from collections.abc import Generator, Iterable
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest import mock

import matplotlib as mpl
from fontTools import subset
from matplotlib.font_manager import get_font


@contextmanager
def fonts_kept() -> Generator[None]:
    """Have matplotlib embed what `_cut` keeps of a font: cutting it anew for every figure is a third
    of the time that a PDF takes. Other versions of matplotlib than the locked one do it themselves.
    """
    if mpl.__version_info__[:2] != (3, 11):
        yield
        return
    from matplotlib.backends import _backend_pdf_ps as place  # private

    with mock.patch.multiple(place, get_glyphs_subset=_kept, font_as_file=io.BytesIO):
        yield


def _kept(font: Any, glyphs: Iterable[int]) -> nullcontext:
    """A font cut to some glyphs, in the form of matplotlib's get_glyphs_subset, but `font` is the
    file. Who needs a letter gets all plain ones, so that figures have fonts in common."""
    wanted, letters = frozenset(glyphs), _letters(font)
    data, places = _cut(font, wanted | letters if wanted & letters else wanted)
    return nullcontext(SimpleNamespace(font=data, glyph_index_map=places))


@functools.lru_cache(maxsize=16)
def _letters(font: Any) -> frozenset[int]:
    """The glyphs of what most figures say."""
    places, plain = get_font(font).get_charmap(), string.ascii_letters + string.digits + " %(),-./:"
    return frozenset(places[ord(c)] for c in plain if ord(c) in places)


@functools.lru_cache(maxsize=64)
def _cut(font: Any, glyphs: frozenset[int]) -> tuple[bytes, dict[int, int]]:
    """A font file of these glyphs, and where in it each is. Without the font's own rules of placing
    them, as a PDF says where each glyph stands, and without hints for coarse screens, which Type 3
    fonts have none of either."""
    options = subset.Options(glyph_names=True, hinting=False, font_number=font.face_index)
    options.drop_tables += ["GDEF", "GPOS", "GSUB", "FFTM", "PfEd"]
    cutter, buffer = subset.Subsetter(options), io.BytesIO()
    with subset.load_font(font, options) as whole:
        cutter.populate(gids=glyphs)
        cutter.subset(whole)
        whole.save(buffer, reorderTables=False)
    return buffer.getvalue(), cutter.glyph_index_map

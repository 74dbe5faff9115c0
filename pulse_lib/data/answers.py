"""Which option the cell of a right answer means."""

from __future__ import annotations

import re
from collections.abc import Mapping

# B, b, (B), "B." and, with the option's words behind it, "B. nurse"
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)?[.:]?|[.:)]\s*(.+))", re.DOTALL)


def right_letter(said: str, options: Mapping[str, str]) -> str:
    """The letter of the option that an answer names, by its letter, its words, or both. options:
    letter -> words. Raises ValueError in words if it names none, or letter and words differ.
    """
    match = _LETTER.fullmatch(said)
    letter, behind = (match[1].upper(), match[2]) if match else ("", None)
    if letter in options and behind is None:
        return letter
    bare = match is not None and behind is None  # a letter that is none of the options
    named = {a for a, option in options.items() if not bare and _alike(option, said)}
    if letter in options and behind and _alike(options[letter], behind):
        named.add(letter)
    if letter in options and behind and not named:
        raise ValueError(
            f"{said!r:.60}, but option {letter} is {options[letter]!r:.60}: one of them is wrong"
        )
    # Of options with the same words only the first is kept.
    if len({options[a].casefold() for a in named}) != 1:
        there = ", ".join(f"{a} {o!r:.60}" for a, o in options.items()) or "none"
        how_many = "more than one" if named else "no"
        raise ValueError(f"{said!r:.60} is {how_many} option; there are {there}")
    return min(named)


def _alike(option: str, said: str) -> bool:
    """True if two texts say the same, but for case, spaces and a full stop."""
    one, other = (" ".join(t.casefold().split()).rstrip(".") for t in (option, said))
    return one == other

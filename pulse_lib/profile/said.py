"""What pydantic found wrong with settings, in the words of the one who wrote them."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from pydantic import ValidationError

from pulse_lib.errors import PulseError

MOVED = {
    "data.source": "data.people.source and data.general.source",
    "data.people_path": "data.people.path",
    "data.people_revision": "data.people.revision",
    "data.general_path": "data.general.path",
    "data.general_revision": "data.general.revision",
    "unlearn.replay_share": "a coefficient of strategy replay, in tuned.sequential.<method>/replay",
    "unlearn.orthogonal_strength": "a coefficient of strategy orthogonal, in "
    "tuned.sequential.<method>/orthogonal",
    "unlearn.anchor_strength": "a coefficient of strategy anchor, in "
    "tuned.sequential.<method>/anchor",
    "unlearn.anchor_fisher": "a coefficient of strategy anchor, in tuned.sequential.<method>/anchor",
}


def said(error: ValidationError, cls: type) -> tuple[str, str]:
    """(key, message) of the first thing that is wrong with settings of class `cls`: the dotted key,
    the value and what is allowed.
    """
    # A key that is not known comes first: it explains why another one is missing.
    found = sorted(error.errors(include_url=False), key=lambda e: e["type"] != _UNKNOWN)[0]
    loc = [str(part) for part in found["loc"] if part != "[key]"]
    key, value = ".".join(loc), found["input"]
    if found["loc"][-1:] == ("[key]",):  # of a mapping whose names are words
        names = get_args(get_args(_hint(cls, loc[:-1]))[0])
        return key, f"unknown key {key}; known keys: {', '.join(names)}"
    if found["type"] == "value_error":  # of a check of ours, which names the keys below its section
        prefix = f"{key}." if key else ""
        return key, f"{prefix}{found['ctx']['error']}"
    if found["type"] == _UNKNOWN:
        if key in MOVED:
            return key, f"key {key} is now {MOVED[key]}"
        there = ", ".join(sorted(_fields(_hint(cls, loc[:-1]))))
        return key, f"unknown key {key}; known keys: {there}"
    if found["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return key, f"key {key} is missing: it is {_allowed(_hint(cls, loc))}"
    fix = "; YAML reads 1e-4 as text: write 1.0e-4" if _is_number(value) else ""
    return key, f"{key} = {_short(value)}: expected {_allowed(_hint(cls, loc))}{fix}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:60]}... ({len(text)} characters)"


_UNKNOWN = "unexpected_keyword_argument"


def _hint(cls: object, loc: list[str]) -> object:
    """The annotation of a nested key."""
    hint = cls
    for part in loc:
        hint = get_args(hint)[1] if get_origin(hint) is dict else _fields(hint)[part]
    return hint


def _fields(cls: object) -> dict[str, object]:
    return get_type_hints(cls, include_extras=True) if isinstance(cls, type) else {}


def _allowed(hint: object) -> str:
    if get_origin(hint) is Annotated:
        return get_args(hint)[1].description
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is dict:
        return "a mapping"
    if type(None) in get_args(hint):  # a value, or none where the key is left out
        return f"{_allowed(get_args(hint)[0])}; or leave it out"
    if dataclasses.is_dataclass(hint):
        return f"a mapping with the keys {', '.join(_fields(hint))}"
    return str(hint)


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, str) and float(value) == float(value)
    except ValueError:
        return False


def check_type(hint: type, value: object, *, where: str) -> object:
    """`value` if it is of the plain type `hint` (an int passes for a float), else PulseError naming
    `where`, the value and the fix.
    """
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is (get_origin(hint) or hint):
        return value
    fix = "; YAML reads 1e-4 as text: write 1.0e-4" if hint is float and _is_number(value) else ""
    name = getattr(hint, "__name__", str(hint))
    raise PulseError(f"{where} = {value!r} is {type(value).__name__}, expected {name}{fix}")

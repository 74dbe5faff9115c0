"""YAML files that people write: read strictly, with the line of each key."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import yaml

from pulse_lib.errors import PulseError
from pulse_lib.files import show

MOST_BYTES = 200_000
MOST_NODES = 20_000  # written out, without anchors and aliases
DEEPEST = 20
_BRACKETS = re.compile(r"(?:[\[{]\s*){25}")


class _Refused(Exception):
    """Sound YAML that is no profile, with the reason."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[object, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:merge" and isinstance(key, str):
                if key in lines:
                    raise _Refused(
                        f"line {line}: key {key!r} stands twice, first in line {lines[key]}; "
                        "remove one"
                    )
                lines[key] = line
        made = super().construct_mapping(node, deep)
        for key in made:
            if not isinstance(key, str):
                line = node.start_mark.line + 1
                raise _Refused(f"line {line}: key {str(key)[:60]!r} is no text: no setting has it")
        return made


def read_mapping(path: Path) -> dict:
    """The mapping in a YAML file. Raises PulseError naming the file: not readable, not UTF-8, no
    YAML, too large or too deep, no mapping, or a key that stands twice.
    """
    try:
        text = _text(path)
        if _BRACKETS.search(text):  # the reader takes minutes over thousands of them
            raise RecursionError
        _measured(yaml.compose(text, _Loader), 0)
        raw = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise PulseError(f"{show(path)}: not valid YAML: {error}") from None
    except _Refused as error:
        raise PulseError(f"{show(path)}, {error}") from None
    except RecursionError:
        raise PulseError(f"{show(path)}: nested too deep, {DEEPEST} levels at most") from None
    except (ValueError, KeyError) as error:  # no such date, thousands of digits, !!bool maybe
        raise PulseError(f"{show(path)}: a value cannot be read: {error}") from None
    if not isinstance(raw, dict):
        raise PulseError(
            f"{show(path)}: expected a mapping of settings, found {type(raw).__name__}"
        )
    return raw


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PulseError(f"{show(path)} cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise PulseError(
            f"{show(path)} has {len(data)} bytes, too many for a profile ({MOST_BYTES} at most): "
            "is it another file?"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PulseError(
            f"{show(path)}, line {line}: byte {data[error.start]:#04x} is not UTF-8 text: save the "
            "file as UTF-8"
        ) from None


def _measured(node: yaml.Node | None, so_far: int, *, above: tuple[yaml.Node, ...] = ()) -> int:
    """How many nodes a document has, written out. Raises _Refused if too many or too deep: aliases
    of aliases would take all memory.
    """
    if node is None:
        return so_far
    line = f"line {node.start_mark.line + 1}"
    if any(node is other for other in above):
        raise _Refused(f"{line}: an alias stands inside its own anchor: write the value out")
    if len(above) > DEEPEST:
        raise _Refused(f"{line}: nested too deep, {DEEPEST} levels at most")
    so_far += 1
    if so_far > MOST_NODES:
        raise _Refused(f"{line}: more than {MOST_NODES} values, aliases written out")
    if isinstance(node, yaml.ScalarNode) and any(
        char == "\0" or "\ud800" <= char <= "\udfff" for char in node.value
    ):
        raise _Refused(f"{line}: {node.value[:60]!r} holds a character that is no text")
    if isinstance(node, yaml.CollectionNode):
        for child in node.value:
            for part in child if isinstance(child, tuple) else (child,):
                so_far = _measured(part, so_far, above=(*above, node))
    return so_far


@lru_cache(maxsize=8)  # a study's status asks once a run
def _composed(text: str) -> yaml.Node | None:
    return yaml.compose(text, _Loader)


def line_of(path: Path, keys: Sequence[str]) -> int:
    """The line (from 1) of a key in nested mappings, 0 if it is not there."""
    node, line = _composed(_text(path)), 0
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if k.value == key), None)
        if found is None:
            return 0
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def dump(values: dict) -> str:
    """A mapping as YAML in the order given, the innermost mappings in one line each."""
    return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=1000)

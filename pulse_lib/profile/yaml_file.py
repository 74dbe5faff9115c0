"""YAML files that people write: read strictly, with the line of each key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from pulse_lib.errors import PulseError
from pulse_lib.files import show


class _Twice(Exception):
    """A key stands twice."""


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[object, int] = {}
        for key_node, _ in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:merge" and isinstance(key, str):
                if key in lines:
                    raise _Twice(
                        f"line {line}: key {key!r} stands twice, first in line {lines[key]}; "
                        "remove one"
                    )
                lines[key] = line
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict:
    """The mapping in a YAML file. Raises PulseError naming the file: no YAML, no mapping, or a key
    that stands twice.
    """
    try:
        raw = yaml.load(path.read_text(), _Loader)
    except yaml.YAMLError as error:
        raise PulseError(f"{show(path)}: not valid YAML: {error}") from None
    except _Twice as error:
        raise PulseError(f"{show(path)}, {error}") from None
    if not isinstance(raw, dict):
        raise PulseError(
            f"{show(path)}: expected a mapping of settings, found {type(raw).__name__}"
        )
    return raw


def line_of(path: Path, keys: Sequence[str]) -> int:
    """The line (from 1) of a key in nested mappings, 0 if it is not there."""
    node: yaml.Node | None = yaml.compose(path.read_text(), _Loader)
    line = 0
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

"""Reading a profile: its YAML file, those that it extends, and what a search found for it.

A profile may extend another: `extends: <name or path>` (a path starts at the profile's own folder).
What `python -m pulse_lib search --store` found lies in tuned/<profile>.yaml beside the profile's
file; without such a file, and without a key `tuned` of its own (`tuned: {}` for nothing), a profile
has that of the profile that it extends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pulse_lib.errors import PulseError
from pulse_lib.files import KIT, local_path, show
from pulse_lib.profile import yaml_file
from pulse_lib.profile.said import said
from pulse_lib.profile.settings import Profile
from pulse_lib.profile.tuned import EPOCHS, RATE, place_in_tuned, tuned_for

PARAMS = KIT / "params"


def profile_path(name: str) -> Path:
    """The YAML file of a profile: a name in params/, or a path ending in .yaml. Raises PulseError
    listing what there is."""
    is_file = name.endswith((".yaml", ".yml"))
    path = local_path(name, Path.cwd()) if is_file else local_path(f"{name}.yaml", PARAMS)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PARAMS.glob("*.yaml")))
        raise PulseError(f"profile {name!r}: no file {path}. Profiles there are: {known}")
    return path


def tuned_path(path: Path) -> Path:
    """Where `search --store` writes for the profile in the file `path`."""
    return path.parent / "tuned" / f"{path.stem}.yaml"


def load_profile(name: str) -> Profile:
    """The profile read from params/<name>.yaml (or a .yaml path) and what it extends, checked key by
    key. Raises PulseError."""
    chain = _chain(profile_path(name))
    values: dict = {}
    for _, raw in reversed(chain):
        values = _merged(values, {k: v for k, v in raw.items() if k not in ("extends", "tuned")})
    tuned, tuned_file = _tuned_in_force(chain)
    path, files = chain[0][0], tuple(file for file, _ in chain)
    given: dict[str, Any] = values | {
        "name": path.stem,
        "tuned": tuned,
        "files": files,
        "tuned_file": tuned_file,
    }
    try:
        return Profile(**given)
    except ValidationError as error:
        key, message = said(error, Profile)
        place = _find(key, files, tuned_file=tuned_file)
        where = f"{show(place[0])}, line {place[1]}" if place else show(path)
        raise PulseError(f"{where}: {message}") from None


def profile_of(values: Mapping[str, Any], where: str) -> Profile:
    """The profile whose `as_dict` a manifest holds. Raises PulseError beginning with `where` if this
    version of the library reads it otherwise.
    """
    try:
        return Profile(**values)
    except ValidationError as error:
        raise PulseError(f"{where}: {said(error, Profile)[1]}") from None


def _chain(path: Path) -> list[tuple[Path, dict]]:
    """(file, content) of a profile and of what it extends, the profile first."""
    chain: list[tuple[Path, dict]] = []
    while True:
        if any(path.resolve() == file.resolve() for file, _ in chain):
            names = " -> ".join(show(file) for file, _ in [*chain, (path, {})])
            raise PulseError(f"profiles extend one another in a circle: {names}")
        raw = yaml_file.read_mapping(path)
        for key in {"name", "files", "tuned_file"} & set(raw):
            raise PulseError(f"{show(path)}: key {key!r} follows from the file's name; remove it")
        chain.append((path, raw))
        if "extends" not in raw:
            return chain
        parent = raw["extends"]
        if not isinstance(parent, str):
            raise PulseError(f"{show(path)}: extends = {parent!r}: give a profile's name or file")
        is_file = parent.endswith((".yaml", ".yml"))
        try:
            path = profile_path(str(path.parent / parent) if is_file else parent)
        except PulseError as error:
            raise PulseError(f"{show(path)}: extends: {error}") from None


def _merged(below: Mapping, above: Mapping) -> dict:
    made = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = _merged(made[key], value) if both else value
    return made


def _tuned_in_force(chain: list[tuple[Path, dict]]) -> tuple[object, Path | None]:
    for path, raw in chain:
        if "tuned" in raw:
            return raw["tuned"], path
        if tuned_path(path).is_file():
            return yaml_file.read_mapping(tuned_path(path)), tuned_path(path)
    return {}, None


def line_of(profile: Profile, key: str) -> tuple[Path, int] | None:
    """File and line (from 1) where a key ("unlearn.rank", "tuned.finetuned.npo.beta") stands; None
    if it has its default.
    """
    return _find(key, profile.files, tuned_file=profile.tuned_file)


def _find(key: str, files: Sequence[Path], *, tuned_file: Path | None) -> tuple[Path, int] | None:
    keys = key.split(".") if key else []
    if keys[:1] == ["tuned"] and tuned_file is not None and tuned_file not in files:
        files, keys = (tuned_file,), keys[1:]
    for path in files:
        if line := yaml_file.line_of(path, keys):
            return path, line
    return None


# --- settings without effect ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Override:
    """A setting of the profile that has no effect on one method's runs, because `tuned` sets it."""

    key: str  # "unlearn.learning_rate"
    value: object  # the profile's, without effect
    tuned_key: str  # "tuned.finetuned.npo.learning_rate"
    tuned: float  # in force
    file: Path  # where to edit it
    line: int


def overridden(
    profile: Profile, scenario: str, *, method: str, strategy: str = ""
) -> list[Override]:
    """What the profile's `tuned` overrides for runs of a method (sequential: with its strategy)."""
    found = []
    group, name = place_in_tuned(profile.tuned, scenario, method=method, strategy=strategy)
    values = tuned_for(profile.tuned, scenario, method=method, strategy=strategy)
    replaced = {RATE: RATE, EPOCHS: f"epochs_{scenario}"}
    for tuned_name, setting in ((t, s) for t, s in replaced.items() if t in values):
        tuned_key = f"tuned.{group}.{name}.{tuned_name}"
        file, line = line_of(profile, tuned_key) or (profile.tuned_file or Path(), 0)
        found.append(
            Override(
                key=f"unlearn.{setting}",
                value=getattr(profile.unlearn, setting),
                tuned_key=tuned_key,
                tuned=values[tuned_name],
                file=file,
                line=line,
            )
        )
    return found

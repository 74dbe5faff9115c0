"""The settings of a notebook as a table: those that matter for it, the rest of the profile folded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd

from pulse_lib.errors import PulseError
from pulse_lib.files import show
from pulse_lib.profile import Override, Profile
from pulse_lib.progress import is_batch


@dataclass(frozen=True, kw_only=True)
class SettingsTable:
    """Settings of a profile as a notebook shows them: `shown`, and the `rest` folded away; in batch
    the profile's name stands for the rest."""

    profile: str
    shown: pd.DataFrame
    rest: pd.DataFrame

    def _repr_html_(self) -> str:
        name = escape(self.profile)
        table = _plain(self.shown)
        if is_batch():
            return f"{table}<p>All other settings: profile {name}</p>"
        rest = f"<summary>All other settings of profile {name}</summary>{_plain(self.rest)}"
        return f"{table}<details>{rest}</details>"

    def __repr__(self) -> str:
        shown = self.shown.to_string(index=False)
        return f"{shown}\nAll other settings: profile {self.profile}"


def settings_table(
    profile: Profile, keys: Sequence[str], *, overrides: Sequence[Override] = ()
) -> SettingsTable:
    """The settings named by `keys` ("unlearn.learning_rate"), marked where one of the `overrides`
    is in force instead, with the line to edit; all others folded. Raises PulseError for a key that
    the profile has not."""
    values = all_settings(profile)
    missing = [key for key in keys if key not in values]
    if missing:
        raise PulseError(
            f"profile {profile.name!r} has no setting {missing[0]!r}; there are: {', '.join(values)}"
        )
    tuned = {found.key: found for found in overrides}
    wanted = list(dict.fromkeys([*keys, *tuned]))
    shown = pd.DataFrame({"setting": wanted, "value": [values.get(key, "") for key in wanted]})
    if tuned:
        shown["in force"] = [_in_force(tuned.get(key)) for key in wanted]
    rest = [(key, value) for key, value in values.items() if key not in wanted]
    return SettingsTable(
        profile=profile.name, shown=shown, rest=pd.DataFrame(rest, columns=["setting", "value"])
    )


def all_settings(profile: Profile) -> dict[str, str]:
    """Every resolved setting of a profile by its key: section.setting, and so on downwards."""
    sections = {k: v for k, v in profile.as_dict().items() if isinstance(v, Mapping)}
    return dict(_flat(sections, ""))


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", str(value)


def _in_force(found: Override | None) -> str:
    return f"{found.tuned}: {show(found.file)}, line {found.line}" if found else ""


def _plain(table: pd.DataFrame) -> str:
    with pd.option_context("display.max_colwidth", None):
        return table.to_html(index=False, border=0)

"""Where people and questions come from: the table of sources, and what each needs from the hub."""

from __future__ import annotations

import importlib

from pulse_lib.data import hub
from pulse_lib.data.hub import Need
from pulse_lib.errors import PulseError
from pulse_lib.profile import DataSettings, Profile

SOURCES = {"world": "pulse_lib.data.world.source", "mllmu": "pulse_lib.data.mllmu.source"}


def source_of(settings: DataSettings):
    """The module that makes the records of `data.source` (see pulse_lib.data.world.source for the
    functions it offers)."""
    return importlib.import_module(SOURCES[settings.source])


def hub_needs(profile: Profile) -> list[Need]:
    """The hub repositories of a profile: model, people, general questions. Folders are no need."""
    model, data = profile.model, profile.data
    wanted = []
    if model.path != "embedded":
        wanted.append(hub.model_need(model.path, model.revision))
    if data.source == "mllmu":
        from pulse_lib.data.mllmu import source as mllmu_source
        from pulse_lib.data.mmbench import source as mmbench  # the embedded world needs neither

        wanted.append(mllmu_source.need(data))
        if data.general_path:
            wanted.append(mmbench.need(data))
    return [need for need in wanted if hub.is_hub_id(need.path)]


def commits(profile: Profile) -> dict[str, str]:
    """The commit of every hub repository as it was fetched, by the profile's key: what a branch
    like `main` meant for this run. Empty if everything is local."""
    found = {need.setting: hub.cached(need) for need in hub_needs(profile)}
    return {setting: folder.name for setting, folder in found.items() if folder}


def check_there(profile: Profile) -> None:
    """Raises PulseError, within 10 s, if something is not cached and the hub does not answer."""
    missing = [need for need in hub_needs(profile) if hub.cached(need) is None]
    failure = hub.reach(missing[0]) if missing else None
    if failure is None:
        return
    named = "\n".join(f"  {need.setting} = {need.path!r}: {need.command()}" for need in missing)
    raise PulseError(
        f"profile {profile.name}: not on this machine, and the hub does not answer ({failure}). Where "
        f"there is a network, fetch once\n{named}"
    )

"""A study's folder remembers which profile its results are of, and takes no other: two profiles in
one folder would replace each other's results. The same file, edited, is the same profile.
"""

from __future__ import annotations

from pathlib import Path

from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, show, write_json
from pulse_lib.profile import Profile
from pulse_lib.runs.locks import logs_folder
from pulse_lib.runs.place import mapping_in


def check_profile(out: Path, profile: Profile) -> None:
    """Raises PulseError with the fix if a study's folder holds another profile's results. One that
    remembers none takes any.
    """
    said = _remembered(out)
    if not said or not profile.files:
        return
    there, mine = REPOSITORY / said, profile.files[0].resolve()
    # A file that is gone was moved with its folder, or came from another machine
    same = there.samefile(mine) if there.exists() and mine.exists() else there.name == mine.name
    if not same:
        raise PulseError(
            f"{show(out)} holds results of the profile {said}, not of {show(mine)}: give the latter "
            f"a folder of its own with out_dir; if they are one profile under a new name, remove "
            f"{show(_file(out))}"
        )


def remember_profile(out: Path, profile: Profile) -> None:
    """Write down whose results a study's folder holds."""
    if profile.files and _remembered(out) != show(profile.files[0].resolve()):
        write_json(_file(out), {"profile": show(profile.files[0].resolve())})


def _file(out: Path) -> Path:
    return logs_folder(out) / "profile.json"


def _remembered(out: Path) -> str:
    return str(mapping_in(_file(out)).get("profile", ""))

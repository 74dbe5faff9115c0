"""Which files of a study hold faces: own photos are private, and whoever hands a folder on must know
what is in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pulse_lib.data.records import read_table
from pulse_lib.errors import PulseError
from pulse_lib.files import show
from pulse_lib.profile import OWN, Profile

_SHOWS_PEOPLE = re.compile(r"_cards?\(|_browser\(")  # what draws people in a notebook's cell


def face_files(out: Path, profile: Profile) -> list[tuple[str, str]]:
    """(file or folder, what of people it holds) in a study's folder; [] if people are drawn or from
    a published set. Attempts that failed, and runs beside their place, count too."""
    if profile.data.people.source not in OWN:
        return []
    out = Path(out)
    found = [(show(p), _pictures(p)) for p in sorted(out.rglob("images.parquet"))]
    for path in sorted(out.rglob("*.ipynb")):
        n = _drawn(path)
        if n:
            found.append((show(path), f"{n} figures with people in them"))
    for path in sorted(out.rglob("adapters")):
        if path.is_dir():
            found.append((show(path), "no picture, but what a model learned of these people"))
    return found


def note(profile: Profile, *files: Path) -> str:
    """What a run's page says of the files that it leaves, in one line."""
    if profile.data.people.source not in OWN:
        return "pictures of people: drawn, or of a published set"
    named = ", ".join(show(path) for path in files)
    return f"private: {named} and this executed notebook hold faces of your people; nothing is uploaded"


def _pictures(path: Path) -> str:
    try:
        ids = read_table(path, columns=["id"])["id"].to_pylist()
    except PulseError:
        return "photos"
    return f"{sum(not str(i).startswith('general/') for i in ids)} photos and views of people"


def _drawn(path: Path) -> int:
    """Figures with people in an executed notebook."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):
        return 0
    shown = [c for c in cells if _SHOWS_PEOPLE.search("".join(c.get("source", "")))]
    return sum(
        any("image/" in kind for kind in o.get("data", {}))
        for c in shown
        for o in c.get("outputs", [])
    )

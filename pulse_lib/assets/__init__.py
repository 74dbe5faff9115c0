"""The shipped models' folders and their checksums. No torch: manifests and `status` need the checksum
quickly.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from pulse_lib.errors import PulseError
from pulse_lib.files import local_path, read_json
from pulse_lib.profile import ModelSettings

EMBEDDED = Path(__file__).resolve().parent / "tiny-llava"
ORACLES = EMBEDDED.with_name("oracles")  # one folder a profile and seed, as pretrain-tiny writes it
SUMS = "SHA256SUMS"
CARD = ("MODEL_CARD.md", "card.json")  # what is said about the model, no part of it
_FIX = "restore it (git checkout -- pulse_lib/assets), or install the library again"


def embedded_folder() -> Path:
    """Folder of the embedded model, its files verified. Raises PulseError as `verify` does."""
    verify(EMBEDDED)
    return EMBEDDED


def verify(folder: Path) -> str:
    """Checksum of a folder with SHA256SUMS, after checking each file it lists: sha256 of that file
    without the lines of the model card, which decides no answer.

    Raises PulseError naming the file and the fix if one is missing or differs.
    """
    stamps = tuple(
        (p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(Path(folder).glob("*"))
    )
    return _verify(Path(folder), stamps)


@lru_cache(maxsize=8)
def _verify(folder: Path, stamps: tuple) -> str:
    # stamps: verified once per process and state of the files
    sums = folder / SUMS
    if not sums.is_file():
        raise PulseError(f"{sums} is missing: {_FIX}")
    lines = sums.read_text(errors="replace").splitlines()
    if not lines:
        raise PulseError(f"{sums} is empty, so nothing can be checked: {_FIX}")
    for line in lines:
        expected, _, name = line.partition("  ")
        path = folder / name
        if not path.is_file():
            raise PulseError(f"{path} is missing: {_FIX}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != expected:
            raise PulseError(
                f"{path}: checksum {found[:12]}..., {SUMS} says {expected[:12]}...: {_FIX}"
            )
    decisive = [line for line in lines if line.partition("  ")[2] not in CARD]
    return hashlib.sha256("\n".join(decisive).encode()).hexdigest()


def write_sums(folder: Path) -> Path:
    """SHA256SUMS written over all other files of a folder (lines "<sha256>  <file>")."""
    files = sorted(p for p in Path(folder).iterdir() if p.is_file() and p.name != SUMS)
    path = Path(folder) / SUMS
    path.write_text(
        "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files)
    )
    return path


def asset_checksum(settings: ModelSettings) -> str:
    """Checksum of the embedded model's files, "" for a model that is not embedded. Raises
    PulseError as `verify` does.
    """
    return verify(EMBEDDED) if settings.path == "embedded" else ""


def oracle_folder(pattern: str, seed: int) -> Path | None:
    """The model that was pre-trained without the forget people of a seed: the folder that `pattern`
    (unlearn.oracle_model) names, with the seed for "{seed}", or else the shipped one of that folder's
    name. None if neither is there.
    """
    if not pattern:
        return None
    made = local_path(pattern.replace("{seed}", str(seed)))
    shipped = ORACLES / made.name
    return next((f for f in (made, shipped) if (f / "config.json").is_file()), None)


def oracle_checksum(pattern: str, seed: int) -> str:
    """Checksum of that model's files; "" if there is none, or if it has no SHA256SUMS (a model of
    one's own). Raises PulseError as `verify` does.
    """
    folder = oracle_folder(pattern, seed)
    return verify(folder) if folder and (folder / SUMS).is_file() else ""


def left_out(folder: Path) -> tuple[str, ...]:
    """Ids of the people that a model was pre-trained without, as its card says; () without a
    card.
    """
    card = Path(folder) / "card.json"
    return tuple(read_json(card).get("left_out", ())) if card.is_file() else ()

"""Files of a data set or a model: from a local folder, or from the Hugging Face hub at a pinned revision, into
the hub's cache and from then on without a network.
"""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from pulse_lib.errors import PulseError
from pulse_lib.files import local_path
from pulse_lib.progress import LINE_SECONDS, is_batch

PATIENCE = 7.0  # seconds in which the hub must have answered once, name look-up included
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


@dataclass(frozen=True)
class Need:
    """Files of a hub repository: those that must be there, and those taken if there are any."""

    path: str  # hub id, "owner/name"; or a local folder that holds them
    revision: str  # commit, tag or branch; "" for main
    _: KW_ONLY
    patterns: tuple[str, ...]  # e.g. "Full_Set/*.parquet"
    setting: str  # the profile's key, for messages
    repo_type: str = "dataset"
    optional: tuple[str, ...] = ()

    def command(self) -> str:
        """The shell command that fetches the files into the cache."""
        kind = f" --repo-type {self.repo_type}" if self.repo_type != "model" else ""
        files = "".join(f" --include {shlex.quote(p)}" for p in (*self.patterns, *self.optional))
        return f"hf download {self.path}{kind} --revision {self.revision or 'main'}{files}"

    def what(self) -> dict[str, Any]:
        """Arguments of the hub's client."""
        return {
            "repo_id": self.path,
            "repo_type": self.repo_type,
            "revision": self.revision or "main",
            "allow_patterns": [*self.patterns, *self.optional],
        }


def model_need(path: str, revision: str) -> Need:
    """What is loaded of a model's repository."""
    return Need(
        path,
        revision,
        patterns=("*.json", "*.safetensors"),
        setting="model.path",
        repo_type="model",
        optional=("*.jinja", "*.model"),
    )


def is_hub_id(path: str) -> bool:
    """True for "owner/name" that is no folder or file here."""
    local = local_path(path)
    outside = local.is_absolute() or path.startswith((".", "~"))
    return bool(path) and not local.exists() and not outside and path.count("/") == 1


def cached(need: Need) -> Path | None:
    """The folder of a complete snapshot in the hub's cache, without asking the hub."""
    from huggingface_hub import snapshot_download  # a local folder needs none of it

    try:
        folder = Path(snapshot_download(**need.what(), local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if is_complete(folder, need.patterns) else None


def reach(need: Need) -> str | None:
    """None if the hub answers for this repository within PATIENCE, else why not."""
    from huggingface_hub import HfApi

    revision = need.what()["revision"]
    return _within(
        PATIENCE,
        lambda: HfApi().repo_info(
            need.path, repo_type=need.repo_type, revision=revision, timeout=PATIENCE - 2
        ),
    )


def folder_of(need: Need) -> Path:
    """The local folder that holds the files: `path` itself if it is one, or a hub repository's
    snapshot.

    A complete snapshot in the cache is used without asking the hub. Raises PulseError: no such
    folder, or, within 10 s, nothing cached and no answer, with the command that would fetch it.
    """
    local = local_path(need.path)
    if need.path and local.is_dir():
        return local
    if not is_hub_id(need.path):
        raise PulseError(
            f"{need.setting} = {need.path!r}: there is no such folder ({local}); give a folder or a hub id "
            "(owner/name)"
        )
    return _fetched(need)


def _fetched(need: Need) -> Path:
    from huggingface_hub import snapshot_download

    folder = cached(need)
    if folder is not None:
        return folder
    failure = reach(need)
    if failure is not None:
        raise _not_there(need, failure)
    try:
        found = Path(snapshot_download(**need.what(), tqdm_class=_bar_class(), max_workers=4))
    except Exception as error:  # the network may fail in many ways half-way; each has the same fix
        raise _not_there(need, _said(error)) from None
    if not is_complete(found, need.patterns):
        raise PulseError(
            f"{need.setting} = {need.path!r}: the repository has not all of "
            f"{', '.join(need.patterns)} at revision {need.revision or 'main'}; check id and revision"
        )
    return found


def is_complete(folder: Path, patterns: Sequence[str]) -> bool:
    """True if each pattern finds a file, and all shards where names count them
    (train-00000-of-00002.parquet).
    """
    return all(not missing_shards(sorted(folder.glob(p))) for p in patterns)


def missing_shards(files: Sequence[Path]) -> list[str]:
    """What is missing among the files of one split, in words; [] if nothing."""
    if not files:
        return ["every file"]
    numbered = [match for file in files if (match := _SHARD.search(file.name))]
    total = max((int(match[2]) for match in numbered), default=0)
    have = {int(match[1]) for match in numbered if int(match[2]) == total}
    first = 1 if files[0].suffix == ".safetensors" else 0  # weights are counted from 1, data from 0
    return [f"shard {n} of {total}" for n in range(first, first + total) if n not in have]


def _not_there(need: Need, why: str) -> PulseError:
    return PulseError(
        f"{need.setting} = {need.path!r} at revision {need.revision or 'main'} is not in the cache, "
        f"and the hub cannot give it now ({why}). Where there is a network, fetch it once with\n"
        f"  {need.command()}"
    )


def _within(seconds: float, ask: Callable[[], object]) -> str | None:
    """None if `ask` returned in time, else why not. A thread, because a name look-up knows no time
    limit.
    """
    outcome: list[str | None] = []

    def run() -> None:
        try:
            ask()
            outcome.append(None)
        except Exception as error:  # whatever it is, it is told with the command that helps
            outcome.append(_said(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else f"no answer in {seconds:.0f} s"


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _bar_class() -> Any:
    """A plain text bar, as pulse_lib.progress draws; the hub's own is a widget in a notebook."""
    from tqdm.std import tqdm

    class Bar(tqdm):
        def __init__(self, *args, name: str | None = None, **options):
            # `name` is the hub's own keyword, which plain tqdm does not know
            every = LINE_SECONDS if is_batch() else 0.2
            super().__init__(*args, **(options | {"mininterval": every, "ncols": 96}))

    return Bar

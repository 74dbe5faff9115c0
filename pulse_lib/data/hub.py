"""Files of a data set or a model: from a local folder, or from the Hugging Face hub at a pinned revision, into
the hub's cache and from then on without a network.
"""

from __future__ import annotations

import errno
import re
import shlex
import threading
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from pulse_lib import colab
from pulse_lib.errors import PulseError
from pulse_lib.files import local_path
from pulse_lib.progress import LINE_SECONDS, is_batch

PATIENCE = 7.0  # seconds in which the hub must have answered once, name look-up included
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
_POINTER = b"version https://git-lfs.github.com/spec/"
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?:-[0-9a-f]{16})?\.")  # some data sets name a hash too


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

    @property
    def revision_setting(self) -> str:
        """The profile's key of the revision, for messages."""
        return self.setting.removesuffix("path") + "revision"

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


@dataclass(frozen=True)
class Failure:
    """Why the hub did not give something. `denied`: it answered, and waiting for a network is no
    help."""

    why: str
    denied: bool = False


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
    outside = Path(path).is_absolute() or path.startswith((".", "~"))
    return bool(path) and not local.exists() and not outside and path.count("/") == 1


def cached(need: Need) -> Path | None:
    """The folder of a complete snapshot in the hub's cache, without asking the hub."""
    from huggingface_hub import snapshot_download  # a local folder needs none of it

    try:
        folder = Path(snapshot_download(**need.what(), local_files_only=True))
    except (OSError, ValueError):
        return None
    return folder if is_complete(folder, need.patterns) else None


def attached(need: Need) -> Path | None:
    """A folder that was attached to a hosted notebook under the repository's name and holds all of
    the files; None at home."""
    return next((p for p in colab.attached(need.path) if is_complete(p, need.patterns)), None)


def here(need: Need) -> Path | None:
    """The folder of the files if they are on this machine, attached or in the hub's cache."""
    return attached(need) or cached(need)


def reach(need: Need) -> Failure | None:
    """None if the hub answers for this repository within PATIENCE, else why not, with the step that
    helps if it says no.
    """
    from huggingface_hub import HfApi

    revision = need.what()["revision"]
    error = _within(
        PATIENCE,
        lambda: HfApi().repo_info(
            need.path, repo_type=need.repo_type, revision=revision, timeout=PATIENCE - 2
        ),
    )
    return None if error is None else failure(need, error)


def folder_of(need: Need) -> Path:
    """The local folder that holds the files: `path` itself if it is one, or a hub repository's
    snapshot.

    A folder attached to a hosted notebook, or a complete snapshot in the cache, is used without asking the hub. Raises PulseError: no such
    folder, or, within 10 s, nothing cached and no answer, with the command that would fetch it.
    """
    local = local_path(need.path)
    if need.path and local.is_dir():
        return local
    if not is_hub_id(need.path):
        what = "this is a file" if local.is_file() else "there is no such folder"
        where = "" if str(local) == need.path else f" ({local})"
        raise PulseError(
            f"{need.setting} = {need.path!r}: {what}{where}; give a folder or a hub id (owner/name)"
        )
    return _fetched(need)


def _fetched(need: Need) -> Path:
    from huggingface_hub import snapshot_download

    folder = here(need)
    if folder is not None:
        return folder
    unanswered = reach(need)
    if unanswered is not None:
        raise _not_there(need, unanswered)
    try:
        found = Path(snapshot_download(**need.what(), tqdm_class=_bar_class(), max_workers=4))
    except Exception as error:  # the network may fail in many ways half-way; each has the same fix
        raise _not_there(need, failure(need, error)) from None
    if not is_complete(found, need.patterns):
        raise PulseError(
            f"{need.setting} = {need.path!r}: the repository has not all of "
            f"{', '.join(need.patterns)} at revision {need.revision or 'main'}; check id and revision"
        )
    return found


def is_complete(folder: Path, patterns: Sequence[str]) -> bool:
    """True if each pattern finds a file, all shards where names count them
    (train-00000-of-00002.parquet), and no link that leads nowhere.
    """
    found = [sorted(folder.glob(p)) for p in patterns]
    return all(not missing_shards(files) and all(f.is_file() for f in files) for files in found)


def is_lfs_pointer(path: Path) -> bool:
    """True for the few lines that git-lfs leaves in place of a file that was not fetched."""
    with open(path, "rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def missing_shards(files: Sequence[Path]) -> list[str]:
    """What is missing among the files of one split, in words; [] if nothing."""
    if not files:
        return ["every file"]
    numbered = [match for file in files if (match := _SHARD.search(file.name))]
    total = max((int(match[2]) for match in numbered), default=0)
    have = {int(match[1]) for match in numbered if int(match[2]) == total}
    first = 1 if files[0].suffix == ".safetensors" else 0  # weights are counted from 1, data from 0
    return [f"shard {n} of {total}" for n in range(first, first + total) if n not in have]


def failure(need: Need, error: Exception) -> Failure:
    """What an error of the hub's client means for somebody who wants the files.

    The hub answers 401 alike for a private repository and for one that does not exist, to those who
    are not logged in; 404 to those who are.
    """
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{'datasets/' if need.repo_type == 'dataset' else ''}{need.path}"
    kind = {"dataset": "data set"}.get(need.repo_type, need.repo_type)
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    told = str(getattr(response, "headers", {}).get("X-Error-Message", ""))
    stale = status == 401 and "credentials" in told.lower()
    log_in = "`hf auth login`"
    if isinstance(error, errors.GatedRepoError):  # a RepositoryNotFoundError too
        first = f"log in ({log_in}) and " if status == 401 else ""
        why = f"the {kind} is gated: {first}ask for access on {page}, then try again"
    elif isinstance(error, errors.DisabledRepoError):
        why = f"the hub has closed this {kind}: use another copy of it"
    elif stale:
        why = f"the hub does not accept this machine's login any more: {log_in} again"
    elif isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        first = f"the hub knows no {kind} of this name"
        if status == 401:
            why = f"{first}, or it is private: check the spelling; if it is private, {log_in}"
        else:
            why = (
                f"{first}, or this login may not see it: check the spelling, and that it is a "
                f"{kind}; if it is private, {log_in} with an account that may read it"
            )
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"the {kind} is there, but not this revision: check {need.revision_setting} on {page}"
    elif isinstance(error, errors.EntryNotFoundError) and status is not None:
        why = (
            f"the {kind} has not the file at this revision: check {need.revision_setting} on {page}"
        )
    elif isinstance(error, errors.HFValidationError):
        why = f"this is no name of the hub (owner/name): {_said(error)}"
    elif status == 403:
        why = f"this login may not read it: {log_in} with a token that may read {page}"
    elif isinstance(error, OSError) and error.errno in _UNWRITABLE:
        why = (
            f"the hub's cache cannot be written ({error}): free space there, or set HF_HOME to "
            "another folder"
        )
    else:
        return Failure(_said(error))
    return Failure(why, denied=True)


def _not_there(need: Need, failed: Failure) -> PulseError:
    where = f"{need.setting} = {need.path!r} at revision {need.revision or 'main'}"
    if failed.denied:
        return PulseError(f"{where}: {failed.why}")
    return PulseError(
        f"{where} is not in the cache, and the hub cannot give it now ({failed.why}). Where there "
        f"is a network, fetch it once with\n  {need.command()}"
    )


def _within(seconds: float, ask: Callable[[], object]) -> Exception | None:
    """None if `ask` returned in time, else why not. A thread, because a name look-up knows no time
    limit.
    """
    outcome: list[Exception | None] = []

    def run() -> None:
        try:
            ask()
            outcome.append(None)
        except Exception as error:  # whatever it is, it is told with the step that helps
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else TimeoutError(f"no answer in {seconds:.0f} s")


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

"""Files of a data set: from a local folder, or from the Hugging Face hub at a pinned revision, into
the hub's cache and from then on without a network.
"""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from pulse_lib.errors import PulseError
from pulse_lib.progress import LINE_SECONDS, is_batch

PATIENCE = 7.0  # seconds in which the hub must have answered once, name look-up included
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.")


def data_folder(
    path: str,
    revision: str,
    patterns: Sequence[str],
    setting: str,
    repo_type: str = "dataset",
    optional: Sequence[str] = (),
) -> Path:
    """The local folder that holds the files of `path`: the folder itself, or a hub repository's
    snapshot.

    path: a local folder or a hub id ("owner/name"); revision: commit, tag or branch of the hub ("":
    main); patterns: the files needed ("Full_Set/*.parquet"), optional: files taken if there are
    any; nothing else is downloaded; setting: the profile's key, for messages. A complete snapshot in the cache is used without asking the
    hub. Raises PulseError: no such folder, or, within 10 s, nothing cached and no answer, with the
    command that would fetch it.
    """
    local = Path(path).expanduser()
    if path and local.is_dir():
        return local
    if not path or local.is_absolute() or path.startswith((".", "~")) or path.count("/") != 1:
        raise PulseError(
            f"{setting} = {path!r}: there is no such folder; give a folder or a hub id (owner/name)"
        )
    from huggingface_hub import HfApi, snapshot_download  # a local folder needs none of it

    what = {
        "repo_id": path,
        "repo_type": repo_type,
        "revision": revision or "main",
        "allow_patterns": [*patterns, *optional],
    }
    try:
        cached = Path(snapshot_download(**what, local_files_only=True))
        if is_complete(cached, patterns):
            return cached
    except (OSError, ValueError):
        pass  # not cached, or in part: the next lines fetch it or say what is wrong
    command = download_command(path, revision, [*patterns, *optional], repo_type)
    failure = _within(
        PATIENCE,
        lambda: HfApi().repo_info(
            path, repo_type=repo_type, revision=what["revision"], timeout=PATIENCE - 2
        ),
    )
    if failure is not None:
        raise _not_there(setting, path, revision, failure, command)
    try:
        found = Path(snapshot_download(**what, tqdm_class=_bar_class(), max_workers=4))
    except Exception as error:  # the network may fail in many ways half-way; each has the same fix
        raise _not_there(setting, path, revision, _said(error), command) from None
    if not is_complete(found, patterns):
        raise PulseError(
            f"{setting} = {path!r}: the repository has not all of {', '.join(patterns)} at revision "
            f"{revision or 'main'}; check id and revision"
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


def download_command(path: str, revision: str, patterns: Sequence[str], repo_type: str) -> str:
    """The shell command that fetches the files into the cache."""
    kind = f" --repo-type {repo_type}" if repo_type != "model" else ""
    included = "".join(f" --include {shlex.quote(p)}" for p in patterns)
    return f"hf download {path}{kind} --revision {revision or 'main'}{included}"


def _not_there(setting: str, path: str, revision: str, why: str, command: str) -> PulseError:
    return PulseError(
        f"{setting} = {path!r} at revision {revision or 'main'} is not in the cache, and the hub "
        f"cannot give it now ({why}). Where there is a network, fetch it once with\n  {command}"
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


def _bar_class() -> type:
    """A plain text bar, as pulse_lib.progress draws; the hub's own is a widget in a notebook."""
    from tqdm.std import tqdm

    class Bar(tqdm):
        def __init__(self, *args, name: str | None = None, **options):
            # `name` is the hub's own keyword, which plain tqdm does not know
            every = LINE_SECONDS if is_batch() else 0.2
            super().__init__(*args, **(options | {"mininterval": every, "ncols": 96}))

    return Bar

"""What a notebook needs before it can import anything else, and what hosted machines (Colab, Kaggle)
do otherwise. The first cell of every notebook runs this file as a script: the kit is not on its path
yet, and nothing that the kit needs may be installed. Standard library only.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
# Never replaced on a host: the session runs on them (ipykernel, ipywidgets), they fit its driver
# (torch), or nobody needs them there (jupyterlab: the host is the front end).
KEPT = ("torch", "ipywidgets", "ipykernel", "jupyterlab")
# peft raises ImportError for any LoRA beside an older one [peft 0.21, import_utils.py]
TORCHAO = "0.16.0"
SHOWN = ("torch", "transformers", "peft", "bitsandbytes", "pandas")
RESTART = "PULSE_RESTART"  # what was replaced under this kernel; it goes when the kernel does
# Where results outlive the session: a word for the parameter out_dir, and the folder it stands for
PLACES = {
    "drive": Path("/content/drive/MyDrive/pulse-kit"),
    "working": Path("/kaggle/working/results"),
}
ATTACHED = Path("/kaggle/input")
DEPTH = 5  # a model lies in <name>/<framework>/<variation>/<version>
NOT_PACKED = (".half", ".logs", ".snakemake-work")

Host = Literal["colab", "kaggle", ""]


def host() -> Host:
    """ "colab", "kaggle" or "" (at home)."""
    if "COLAB_RELEASE_TAG" in os.environ:
        return "colab"
    return "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else ""


def setup() -> None:
    """Makes the repository the working folder, first on the path, and has torch add up as on other
    processors. On Colab and Kaggle it also installs what is missing or too old, saying so, and
    removes a torchao that peft refuses.

    Raises PulseError with the one step that helps: no internet, a session that has to be restarted,
    or a torch that is too old.
    """
    os.chdir(ROOT)
    if sys.path[:1] != [str(ROOT)]:
        sys.path.insert(0, str(ROOT))
    from pulse_lib.machine import round_alike

    round_alike()
    if not host():
        return
    from pulse_lib.errors import PulseError

    there = installed()
    if not _fits(there.get("torch", "0"), _wanted("torch")):
        raise PulseError(
            f"this machine has torch {there.get('torch', 'nowhere')}, the kit needs "
            f"{_wanted('torch')}: choose a newer runtime version in the host's settings"
        )
    if "torchao" in there and not _fits(there["torchao"], f"torchao>={TORCHAO}"):
        _pip("uninstall", "-y", "torchao")
    need = lacking(there)
    if need:
        _install(need, there)
        earlier = filter(None, os.environ.get(RESTART, "").split(", "))
        os.environ[RESTART] = ", ".join(sorted({*earlier, *replaced(there, installed())}))
    if os.environ.get(RESTART):
        menu = {"colab": "Runtime > Restart session", "kaggle": "Run > Restart session"}[host()]
        raise PulseError(
            f"replaced while in use: {os.environ[RESTART]}. Restart the session ({menu}), then run "
            "this cell again"
        )


def requirements() -> list[str]:
    """What the kit depends on, as pyproject.toml has it: ["torch>=2.6", ...]."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]["dependencies"]


def installed() -> dict[str, str]:
    """The version of every package that is installed, by its name in lower case with dashes."""
    importlib.invalidate_caches()
    found: dict[str, str] = {}
    for one in metadata.distributions():
        if one.metadata["Name"]:
            found.setdefault(_plain(one.metadata["Name"]), one.version)  # the first on the path
    return found


def lacking(there: Mapping[str, str]) -> list[str]:
    """The requirements that are not met by what is `there`, but for what is left as it is."""
    return [
        wanted
        for wanted in requirements()
        if _name(wanted) not in KEPT and not _fits(there.get(_name(wanted), ""), wanted)
    ]


def replaced(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Packages that have another version than before and are imported in this process: what it
    runs is not what is on its disk."""
    changed = (name for name in before if name in after and before[name] != after[name])
    return sorted(name for name in changed if any(m in sys.modules for m in _modules(name)))


def _fits(version: str, wanted: str) -> bool:
    """Whether an installed version ("" for none) meets a requirement; a pre-release counts."""
    try:
        from packaging.requirements import Requirement
    except ImportError:  # pip has its own copy
        from pip._vendor.packaging.requirements import Requirement
    return bool(version) and Requirement(wanted).specifier.contains(version, prereleases=True)


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _name(wanted: str) -> str:
    return _plain(re.split(r"[<>=!~\[; ]", wanted, maxsplit=1)[0])


def _wanted(name: str) -> str:
    return next(wanted for wanted in requirements() if _name(wanted) == name)


def _modules(name: str) -> Iterable[str]:
    """The top-level modules of a package."""
    files = metadata.distribution(name).files or []
    return {Path(file.parts[0]).stem for file in files if file.suffix == ".py"}


def _install(need: list[str], there: Mapping[str, str]) -> None:
    """Install, with what is left as it is held at its version."""
    from pulse_lib.errors import PulseError

    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "constraints.txt"
        held.write_text("".join(f"{name}=={there[name]}\n" for name in KEPT if name in there))
        # Without a network pip tries each package five times, with growing pauses
        options = ("--timeout", "10", "--retries", "1", "--constraint", str(held))
        try:
            _pip("install", *options, *need)
        except subprocess.CalledProcessError:
            where = (
                "on Kaggle: Settings > Internet" if host() == "kaggle" else "look at its network"
            )
            raise PulseError(
                f"pip could not install {', '.join(need)} (its own words are above). Without "
                f"internet it cannot: switch it on ({where})"
            ) from None


def _pip(*words: str) -> None:
    print("pip", words[0], *[word for word in words if re.match(r"[a-z]", word)][1:], flush=True)
    subprocess.run([sys.executable, "-m", "pip", *words, "-q"], check=True)


# --- files ----------------------------------------------------------------------------------------


def place(word: str) -> Path:
    """The folder that outlives the session, of a word of PLACES; Drive is mounted if it is not yet.

    Raises PulseError where there is none.
    """
    from pulse_lib.errors import PulseError

    folder = PLACES[word]
    if word == "drive" and host() == "colab" and not folder.parent.is_dir():
        from google.colab import drive  # ty: ignore[import-not-found]  (the host has it)

        drive.mount(str(folder.parents[1]))
    if not folder.parent.is_dir():
        where = {"drive": "Colab, with Google Drive mounted", "working": "Kaggle"}[word]
        raise PulseError(
            f"out_dir = {word!r} is for {where}: {folder.parent} is not there. For a folder of this "
            f"name write out_dir = './{word}'"
        )
    return folder


def attached(name: str) -> list[Path]:
    """Folders under /kaggle/input that are called so, of a path or hub id the last part, whatever
    its capitals and dashes (llava-hf/llava-1.5-7b-hf is llava-1-5-7b-hf there), and what is in
    them; [] at home."""
    wanted = _letters(Path(name).name)
    if not wanted or not ATTACHED.is_dir():
        return []
    found, level = [], [ATTACHED]
    for _ in range(DEPTH):
        level = sorted(p for folder in level for p in folder.iterdir() if p.is_dir())
        found += [p for p in level if wanted in map(_letters, p.relative_to(ATTACHED).parts)]
    return found


def _letters(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def pack(folder: str | Path, to: str | Path = "") -> Path:
    """A zip of a study's folder, without attempts and logs: on a host beside the clone, where files
    can be downloaded (/content, /kaggle/working), else beside the folder. Raises PulseError if there
    is nothing.
    """
    from pulse_lib.errors import PulseError

    folder = Path(folder).resolve()
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and not _left_out(p, folder)]
    if not files:
        raise PulseError(f"{folder}: nothing there to pack")
    home = Path(to) if to else ROOT.parent if host() else folder.parent
    target = home / f"{folder.name}.zip"
    half = target.with_suffix(".half")
    with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, Path(folder.name) / path.relative_to(folder))
    half.replace(target)
    return target


def _left_out(path: Path, folder: Path) -> bool:
    parts = path.relative_to(folder).parts
    return any(part.endswith(ending) for part in parts for ending in NOT_PACKED)


# --- what there is --------------------------------------------------------------------------------


def check_gpu(path: str, load: str) -> None:
    """Raises PulseError if a model is too large for a machine without a GPU: one of the hub, in
    quantised or 16-bit weights. A local folder is the user's own choice."""
    from pulse_lib.errors import PulseError

    if load == "full" or path.count("/") != 1 or path.startswith((".", "~", "/")):
        return
    if (ROOT / path).is_dir():
        return
    import torch  # slow, and the notebooks that ask use it anyway

    if not torch.cuda.is_available():
        where = {
            "colab": "Runtime > Change runtime type > T4 GPU",
            "kaggle": "Settings > Accelerator > GPU T4",
            "": "or, to see all of it on a small model, take profile tiny",
        }[host()]
        raise PulseError(f"model.path = {path!r} ({load}) needs a GPU, and none is here: {where}")


def describe() -> str:
    """One line on python, library versions, device and the dtype that models are computed in, with
    its reason."""
    import torch  # slow, and only notebooks that use it ask

    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in SHOWN if importlib.util.find_spec(name)
    )
    if not torch.cuda.is_available():
        device = f"CPU with {torch.get_num_threads()} threads, float32 (no GPU found)"
    else:
        capability = torch.cuda.get_device_capability()
        why = (
            "bfloat16 (compute capability 8.0 or newer)"
            if capability[0] >= 8
            else "float16 (compute capability below 8.0: no bfloat16 units)"
        )
        device = f"{torch.cuda.get_device_name()}, {why}"
    return f"python {platform.python_version()}, {versions} | {device}"


if __name__ == "__main__":
    setup()

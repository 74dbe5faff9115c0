"""What a notebook needs before it can import anything else, and a description of where it runs. The
first cell of every notebook runs this file as a script: the kit is not on its path yet."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Literal

# What the hosts lack, by import name. torch, ipywidgets and ipykernel are left as they are:
# replacing them breaks a running session.
WANTED = {
    "bitsandbytes": "bitsandbytes>=0.46",
    "papermill": "papermill>=2.6",
    "peft": "peft>=0.19",
    "seaborn": "seaborn>=0.13",
    "pyarrow": "pyarrow>=15",
}
SHOWN = ("torch", "transformers", "peft", "bitsandbytes", "pandas")


Host = Literal["colab", "kaggle", ""]


def host() -> Host:
    """ "colab", "kaggle" or "" (at home)."""
    if "COLAB_RELEASE_TAG" in os.environ:
        return "colab"
    return "kaggle" if "KAGGLE_KERNEL_RUN_TYPE" in os.environ else ""


def setup() -> None:
    """Makes the repository the working folder, first on the path. On Colab and Kaggle it also
    removes torchao, which peft refuses, and installs what is missing, saying so.
    """
    root = Path(__file__).resolve().parents[1]
    os.chdir(root)
    sys.path.insert(0, str(root))
    if not host():
        return
    if importlib.util.find_spec("torchao"):
        _pip("uninstall", "-y", "torchao")
    missing = [wanted for name, wanted in WANTED.items() if not importlib.util.find_spec(name)]
    if missing:
        _pip("install", *missing)


def _pip(*words: str) -> None:
    print("pip", *words)
    subprocess.run([sys.executable, "-m", "pip", *words, "-q"], check=True)


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

"""Colab and Kaggle: what is installed there, and nothing at home."""

import subprocess

import pytest

from pulse_lib import colab


@pytest.fixture
def commands(monkeypatch):
    """Commands that would have run; at home, with nothing but torchao and peft importable."""
    ran = []
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command[3:]))
    monkeypatch.setattr(
        colab.importlib.util, "find_spec", lambda name: name in ("torchao", "peft") or None
    )
    return ran


def test_nothing_happens_at_home(commands):
    colab.setup()
    assert colab.host() == "" and commands == []


@pytest.mark.parametrize(
    ("variable", "name"), [("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle")]
)
def test_hosts_get_what_they_lack_and_keep_torch_and_widgets(commands, monkeypatch, variable, name):
    monkeypatch.setenv(variable, "Batch")
    colab.setup()
    removed, installed = commands
    assert colab.host() == name
    assert removed[:3] == ["uninstall", "-y", "torchao"]
    names = {word.partition(">")[0] for word in installed[1:]}
    assert {"bitsandbytes", "papermill"} <= names and not names & {"peft", "torch", "ipywidgets"}


def test_description_names_versions_and_the_reason_for_the_dtype():
    line = colab.describe()
    assert "torch " in line and ("float32 (no GPU found)" in line or "compute capability" in line)

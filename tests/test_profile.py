"""The profile: every mistake in it is an error that names file, key, value and fix."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pulse_lib.data import source as data_source
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import load_profile

MODEL = "model: {path: embedded}\n"


def load(tmp_path, text: str):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_profile(str(path))


def test_a_profile_takes_its_name_from_the_file_and_its_settings_from_the_text(tmp_path):
    profile = load(
        tmp_path, "description: d\n" + MODEL + "unlearn: {learning_rate: 1.0e-4, rank: 4}\n"
    )
    assert (profile.name, profile.model.path) == ("mine", "embedded")
    assert (profile.unlearn.learning_rate, profile.unlearn.rank, profile.unlearn.alpha) == (
        1e-4,
        4,
        16,
    )
    assert profile.as_dict()["unlearn"]["rank"] == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unlearn: {learning_rat: 1.0e-4}", ["unknown key unlearn.learning_rat", "learning_rate"]),
        ("unlearning: {}", ["unknown key unlearning", "unlearn"]),
        ("unlearn: {learning_rate: 1e-4}", ["unlearn.learning_rate", "'1e-4'", "write 1.0e-4"]),
        ("unlearn: {rank: 8.5}", ["unlearn.rank", "8.5", "expected int"]),
        ("unlearn: {rank: true}", ["unlearn.rank", "True", "expected int"]),
        ("unlearn: {rank: -1}", ["unlearn.rank", "-1"]),
        (
            "unlearn: {reference: yesterday}",
            ["unlearn.reference", "'yesterday'", "round_start, target"],
        ),
        ("unlearn: 3", ["unlearn must be a mapping", "3"]),
        (
            "data: {n_finetuned_forget: 51}",
            ["n_finetuned_forget = 51", "multiple", "n_requests = 5"],
        ),
        ("data: {n_candidates: 10}", ["n_candidates = 10"]),
        ("name: other", ["'name'", "remove it"]),
        ("tuned: {yesterday: {}}", ["tuned.yesterday", "finetuned, pretrained"]),
        ("tuned: {sequential: {ga: {}}}", ["tuned.sequential.ga", "policy = ''", "experts"]),
        ("tuned: {sequential: {ga/x: {}}}", ["tuned.sequential.ga/x", "policy = 'x'"]),
        ("tuned: {finetuned: {ga/experts: {}}}", ["tuned.finetuned.ga/experts", "not known"]),
        ("tuned: {finetuned: {gaa: {}}}", ["tuned.finetuned.gaa", "'gaa' is not known", "ga_klr"]),
        ("tuned: {finetuned: {npo: {bet: 1.0}}}", ["tuned.finetuned.npo", "'bet'", "beta"]),
        ("tuned: {finetuned: {npo: {beta: 1e-1}}}", ["npo.beta", "write 1.0e-4"]),
        ("unlearn: [unclosed", ["not valid YAML"]),
    ],
)
def test_a_mistake_is_an_error_naming_file_key_and_fix(tmp_path, text, words):
    with pytest.raises(PulseError) as caught:
        load(tmp_path, "description: d\n" + MODEL + text + "\n")
    for word in ["mine.yaml", *words]:
        assert word in str(caught.value)


def test_a_missing_key_and_a_missing_profile_are_named(tmp_path):
    with pytest.raises(PulseError, match="key model is missing"):
        load(tmp_path, "description: d\n")
    with pytest.raises(PulseError, match="profile 'nothere': no file .*nothere.yaml"):
        load_profile("nothere")


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "params").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_profile_loads(path):
    assert load_profile(path.stem).name == path.stem


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "params").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_profile_reads(path):
    profile = load_profile(path.stem)
    assert profile.name == path.stem and profile.description


@pytest.mark.parametrize("name", ["colab-t4-7b", "llava-1.5-13b"])
@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_real_profile_without_network_names_every_download(name, offline, tmp_path):
    """From the command's start to its end in ten seconds, and no notebook was begun."""
    changed = {
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": offline,
    }
    words = ["notebook", "01", "-p", "profile", name, "-p", "out_dir", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "pulse_lib", *words],
        env=os.environ | changed,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    size = load_profile(name).model.path
    assert f"hf download {size} --revision main" in said
    assert "hf download MLLMMU/MLLMU-Bench --repo-type dataset --revision main" in said
    assert "hf download lmms-lab/MMBench --repo-type dataset --revision main" in said
    assert not (tmp_path / "out").exists()


def test_a_run_records_the_commit_that_a_branch_meant(tmp_path, monkeypatch):
    """From a hub cache of this test's own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    profile, commit = load_profile("llava-1.5-13b"), "0123456789abcdef0123456789abcdef01234567"
    assert data_source.commits(profile) == {} and data_source.commits(load_profile("tiny")) == {}
    folder = tmp_path / f"models--{profile.model.path.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model-00001-of-00001.safetensors"):
        (snapshot / name).write_text("{}")
    assert data_source.commits(profile) == {"model.path": commit}

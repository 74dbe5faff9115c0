"""What a notebook reads is made by hand if it is missing, and never in batch."""

from __future__ import annotations

import pandas as pd
import pytest

from pulse_lib import runs
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import load_profile
from pulse_lib.study import inputs

TIMES = REPOSITORY / "outputs" / "reference" / "tiny" / "times.csv"


def names(specs) -> list[str]:
    return [spec.name for spec in specs]


def test_what_is_missing_comes_in_order_and_once(kit):
    data, target = "data/seed-0", "target/seed-0"
    shot = "single_shot/finetuned/ga-projector+llm-seed-0"
    sequence = "sequential/ga-adapter_per_request-projector+llm-order-0-seed-0"
    wanted = {
        "data": [],
        "target": [data],
        "single_shot": [data, target],
        "sequential": [data, target],
        "probe": [data, target, shot],
        "analysis": [data, target, shot, sequence],
    }
    for kind, expected in wanted.items():
        spec = runs.spec_of(kind, kit.shared)
        assert names(inputs.missing(spec, kit.profile)) == expected, kind
    kit.finish(runs.spec_of("data", kit.shared))
    spec = runs.spec_of("analysis", kit.shared)
    assert names(inputs.missing(spec, kit.profile)) == [target, shot, sequence]
    pretrained = kit.shared | {"scenario": "pretrained"}
    assert inputs.missing(runs.spec_of("single_shot", pretrained), kit.profile) == []
    # any run of a kind will do for the analysis, with its own settings
    kit.finish(runs.spec_of("single_shot", pretrained | {"method": "npo"}))
    assert names(inputs.missing(spec, kit.profile)) == [target, sequence]
    # and a run that lost a file is none
    (kit.out / "data" / "seed-0" / "splits.csv").unlink()
    assert names(inputs.missing(spec, kit.profile))[0] == data


def test_axes_are_handed_on(kit):
    spec = runs.spec_of("single_shot", kit.shared | {"seed": 7})
    assert names(inputs.missing(spec, kit.profile)) == ["data/seed-7", "target/seed-7"]
    probed = kit.shared | {"run": "single_shot/pretrained/npo-llm-seed-3"}
    assert names(inputs.missing(runs.spec_of("probe", probed), kit.profile)) == [
        "data/seed-3",
        "single_shot/pretrained/npo-llm-seed-3",
    ]


def test_by_hand_it_is_made(kit, capsys):
    """By the kit's own command, in the study's own folder, and then the run begins."""
    inputs.ensure_inputs("single_shot", kit.shared | {"seed": 2})
    said = capsys.readouterr().out
    assert "data/seed-2" in said and "1 of 2" in said and "2 of 2: target/seed-2: done" in said
    for name in ("data/seed-2", "target/seed-2"):
        manifest = runs.require(kit.out / name, "")
        assert manifest["parameters"]["seed"] == 2 and manifest["run_id"]  # the runner's
    runs.start(runs.spec_of("single_shot", kit.shared | {"seed": 2}), kit.profile)
    inputs.ensure_inputs("single_shot", kit.shared | {"seed": 2})
    assert capsys.readouterr().out == ""


def test_in_batch_it_is_an_error(kit, monkeypatch, capsys):
    monkeypatch.setenv("PULSE_BATCH", "1")
    inputs.ensure_inputs("target", kit.shared)
    assert not kit.out.exists() and capsys.readouterr().out == ""
    with pytest.raises(PulseError, match="data/seed-0 is missing: run 01_build_datasets first"):
        runs.start(runs.spec_of("target", kit.shared), kit.profile)


def test_a_saved_version_on_kaggle_makes_it_too(kit, monkeypatch, capsys):
    """Kaggle runs a notebook that is saved from an empty folder, with nobody watching."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr(inputs, "_make", lambda spec, label: print("made", spec.name))
    inputs.ensure_inputs("target", kit.shared)
    assert "made data/seed-0" in capsys.readouterr().out


def test_what_fails_is_told_with_its_own_words(kit, monkeypatch):
    monkeypatch.setenv("TRAP_01", "raise ValueError('no such thing')")
    with pytest.raises(PulseError, match="could not be made") as failed:
        inputs.ensure_inputs("target", kit.shared)
    assert "no such thing" in str(failed.value)


def test_a_model_of_the_hub_without_a_gpu_ends_before_anything_is_made(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = {"profile": "colab-t4-7b", "out_dir": str(tmp_path / "out")}
    for batch in ("0", "1"):
        monkeypatch.setenv("PULSE_BATCH", batch)
        for kind in ("data", "target", "sequential"):
            with pytest.raises(PulseError, match="needs a GPU, and none is here"):
                inputs.ensure_inputs(kind, given)
    assert not (tmp_path / "out").exists()


def test_minutes_are_those_of_the_reference_run():
    profile = load_profile("tiny")
    times = pd.read_csv(TIMES).set_index("run")["seconds"]
    data, target = (runs.spec_of(kind, {}) for kind in ("data", "target"))
    assert inputs.minutes(data, profile) == times["data/seed-0"] / 60
    other = runs.spec_of("single_shot", {"method": "rmu"})
    alike = times[times.index.str.startswith("single_shot/")]
    assert inputs.minutes(other, profile) == alike.median() / 60
    said = inputs.plan_in_words([data, target], profile)
    total = (times["data/seed-0"] + times["target/seed-0"]) / 60
    own = times["target/seed-0"] / 60
    assert f"about {total:.1f} minutes" in said
    assert f"02_finetune: target/seed-0, {own:.1f} minutes" in said


def test_minutes_that_nobody_measured_are_not_made_up():
    smoke = load_profile("smoke")
    spec = runs.spec_of("data", {"profile": "smoke"})
    assert inputs.minutes(spec, smoke) is None
    assert "python -m pulse_lib plan --profile smoke" in inputs.plan_in_words([spec], smoke)

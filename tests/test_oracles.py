"""Models pre-trained without the forget people: whom they lack, where they are looked for, and what a
study does without one.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Kit, write_results
from rich.console import Console
from safetensors import safe_open
from typer.testing import CliRunner

from pulse_lib import assets, runs
from pulse_lib.__main__ import app
from pulse_lib.commands import oracles
from pulse_lib.data.dataset import Dataset
from pulse_lib.data.records import ImageStore
from pulse_lib.data.splits import Assignment
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.model.load import load_model
from pulse_lib.pretrain.card import card_text
from pulse_lib.profile import ModelSettings, load_profile
from pulse_lib.runs.kinds import spec_of
from pulse_lib.runs.manifest import status
from pulse_lib.study import batch, grid
from pulse_lib.unlearn.task import check_left_out, model_of

FORGET = ["celebrity-002", "celebrity-005"]
SHIPPED = sorted(assets.ORACLES.glob("*")) if assets.ORACLES.is_dir() else []


def write_data(folder: Path, forget=FORGET):
    """A study's data as far as it says who is to be forgotten."""
    places = [Assignment(p, "pretrained", set="forget") for p in forget]
    places += [Assignment("celebrity-009", "pretrained", set="retain")]
    data = Dataset([], places, questions=[], conversations=[], images=ImageStore())
    data.write(folder)
    return data


def finish_data(kit: Kit) -> None:
    """The data run of seed 0, as if its notebook had made it."""
    spec = spec_of("data", kit.shared)
    started = runs.start(spec, kit.profile)
    write_results(started.folder, spec.files)
    write_data(started.folder)
    runs.finish(started)


def model_folder(folder: Path, people=FORGET) -> Path:
    """A folder that looks like a model pre-trained without these people."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "card.json").write_text(json.dumps({"left_out": people}))
    assets.write_sums(folder)
    return folder


@pytest.fixture
def with_oracles(kit, monkeypatch, tmp_path):
    """A kit whose profile looks for oracles in its own folder, and no shipped ones."""
    monkeypatch.setattr(assets, "ORACLES", tmp_path / "shipped")
    text = kit.profile_file.read_text()
    assert "unlearn: {" in text
    setting = f"unlearn: {{oracle_model: '{tmp_path}/made-{{seed}}', "
    kit.profile_file.write_text(text.replace("unlearn: {", setting))
    return kit


# --- where it is looked for -----------------------------------------------------------------------


def test_one_made_here_comes_before_a_shipped_one(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "ORACLES", tmp_path / "shipped")
    pattern = str(tmp_path / "made" / "tiny-seed-{seed}")
    assert assets.oracle_folder(pattern, 3) is None and assets.oracle_folder("", 3) is None
    shipped = model_folder(tmp_path / "shipped" / "tiny-seed-3")
    assert assets.oracle_folder(pattern, 3) == shipped
    assert assets.oracle_folder(pattern, 4) is None
    made = model_folder(tmp_path / "made" / "tiny-seed-3")
    assert assets.oracle_folder(pattern, 3) == made


def test_a_run_loads_the_oracle_of_its_seed_and_a_changed_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(assets, "ORACLES", tmp_path)
    shipped = model_folder(tmp_path / "tiny-seed-3")
    profile = load_profile("tiny")
    found = model_of(profile, "pretrained", method_id="oracle", seed=3)
    assert found == replace(profile.model, path=str(shipped))
    assert model_of(profile, "finetuned", method_id="oracle", seed=3) == profile.model
    with pytest.raises(PulseError, match="python -m pulse_lib oracles --profile tiny --seeds 4"):
        model_of(profile, "pretrained", method_id="oracle", seed=4)
    (shipped / "config.json").write_text("{ }")
    with pytest.raises(PulseError, match="config.json: checksum"):
        model_of(profile, "pretrained", method_id="oracle", seed=3)


def test_who_has_met_a_forget_person_is_no_oracle(tmp_path):
    data = write_data(tmp_path / "data")
    never_met = model_folder(tmp_path / "right", [*FORGET, "celebrity-007"])
    check_left_out(data, ModelSettings(path=str(never_met)))
    other = model_folder(tmp_path / "other", ["celebrity-002", "celebrity-007"])
    with pytest.raises(PulseError, match="with celebrity-005, who is to be forgotten"):
        check_left_out(data, ModelSettings(path=str(other)))
    without_card = tmp_path / "own"  # a model of one's own: nobody can tell
    without_card.mkdir()
    check_left_out(data, ModelSettings(path=str(without_card)))


# --- a study --------------------------------------------------------------------------------------


def names(kit: Kit, **options) -> list[str]:
    return [spec.name for spec in kit.study(methods=["oracle"], **options)]


def test_a_seed_without_an_oracle_is_left_out_and_named(with_oracles, tmp_path):
    oracle = "single_shot/pretrained/oracle-projector+llm-seed-{}"
    options = grid.Options(
        **with_oracles.shared, methods=["ga", "oracle"], scenarios=["pretrained"], seeds=[0, 1]
    )
    model_folder(tmp_path / "made-1")
    found = names(with_oracles, seeds=[0, 1])
    assert oracle.format(1) in found and oracle.format(0) not in found
    assert grid.without_oracle(options) == [0]
    assert grid.without_oracle(replace(options, methods=["ga"])) == []
    assert grid.without_oracle(replace(options, scenarios=["finetuned"])) == []


def test_the_study_goes_through_and_says_what_is_not_defined(with_oracles, capsys):
    options = grid.Options(
        **with_oracles.shared, methods=["oracle"], scenarios=["pretrained"], rebuild="keep"
    )
    for spec in grid.study(options):
        with_oracles.finish(spec)
    assert batch.run_study(options, 1, console=Console(width=400))
    said = capsys.readouterr().out
    assert "oracle, scenario pretrained, seed 0: not defined" in said
    assert f"pulse_lib oracles --profile {with_oracles.profile_file} --seeds 0" in said


def test_another_oracle_makes_its_run_stale_and_no_other(with_oracles, tmp_path):
    folder = model_folder(tmp_path / "made-0")
    shared = with_oracles.shared | {"scenario": "pretrained", "seed": 0}
    for kind, method in (("data", ""), ("single_shot", "ga"), ("single_shot", "oracle")):
        with_oracles.finish(spec_of(kind, shared | ({"method": method} if method else {})))
    states = lambda: [  # noqa: E731
        status(spec_of("single_shot", shared | {"method": m}), with_oracles.profile)
        for m in ("ga", "oracle")
    ]
    assert [s.state for s in states()] == ["done", "done"]
    (folder / "card.json").write_text(json.dumps({"left_out": FORGET, "minutes": 3}))
    assets.write_sums(folder)
    assert [s.state for s in states()] == ["done", "done"]  # the card is no part of the model
    (folder / "config.json").write_text("{ }")
    assets.write_sums(folder)
    ga, oracle = states()
    assert (ga.state, oracle.state) == ("done", "stale")
    assert "without the forget people changed" in oracle.why


# --- making one -----------------------------------------------------------------------------------


@pytest.fixture
def embedded(with_oracles, monkeypatch):
    """The same, its data finished: whom it forgets is there to read."""
    text = with_oracles.profile_file.read_text()
    with_oracles.profile_file.write_text(text.replace("no/model/is/loaded", "embedded"))
    finish_data(with_oracles)
    monkeypatch.setattr(oracles, "ORACLES", assets.ORACLES)
    return with_oracles


def make(kit, seed=0, **options):
    return oracles.make_oracle(str(kit.profile_file), seed, out_dir=str(kit.out), **options)


def test_it_is_made_without_the_people_of_the_seed_in_half_the_bytes(embedded, tmp_path):
    assert "made-0 is made, without 2 people" in make(embedded, quick=True)
    folder = tmp_path / "made-0"
    card = json.loads((folder / "card.json").read_text())
    assert card["left_out"] == FORGET == list(assets.left_out(folder)) and card["bits"] == 16
    assert card["command"].startswith("python -m pulse_lib oracles --profile standin --seeds 0")
    assert set(card["accuracy"]["people"]["left out"]) == {"multimodal", "text"}
    assert not list(tmp_path.glob(".made-0*"))
    with safe_open(folder / "model.safetensors", "pt") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {t.dtype for t in kept.values()} == {torch.float16}
    model = load_model(ModelSettings(path=str(folder)), "cpu")
    loaded = model.network.state_dict()
    assert model.dtype == torch.float32
    head = "model.language_model.embed_tokens.weight"
    (name,) = [n for n in kept if n.endswith("embed_tokens.weight")]
    assert torch.equal(loaded[head], kept[name].float())
    # again: nothing to do
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert "made-0 is there, without the 2 people" in make(embedded)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_a_shipped_one_is_enough_and_one_of_other_people_is_not_written_over(embedded, tmp_path):
    model_folder(assets.ORACLES / "made-0")
    assert "made-0 is shipped" in make(embedded)
    model_folder(tmp_path / "made-0", ["celebrity-001"])
    with pytest.raises(PulseError, match="without other people than seed 0"):
        make(embedded)


def test_the_data_are_built_where_they_are_not(with_oracles, monkeypatch):
    ran = []

    def run(name, parameters, **_):
        ran.append((name, parameters["seed"]))
        finish_data(with_oracles)

    monkeypatch.setattr(oracles, "run_notebook", run)
    words = {"out_dir": str(with_oracles.out)}
    for _ in range(2):
        assert oracles.forget_people(str(with_oracles.profile_file), 0, **words) == FORGET
    assert ran == [("01_build_datasets", 0)]


def test_the_command_makes_each_seeds_once(monkeypatch):
    asked = []

    def made(profile, seed, **options):
        asked.append((profile, seed, options))
        return f"seed {seed}: made"

    monkeypatch.setattr(oracles, "make_oracle", made)
    done = CliRunner().invoke(app, ["oracles", "--seeds", "2,0,2", "--quick"])
    assert done.exit_code == 0 and done.output.splitlines() == ["seed 2: made", "seed 0: made"]
    assert [(p, s) for p, s, _ in asked] == [("tiny", 2), ("tiny", 0)]
    assert asked[0][2]["quick"]
    assert "pulse_lib oracles --profile" in (REPOSITORY / "Makefile").read_text()


@pytest.mark.parametrize(
    ("profile", "words"),
    [("smoke", "no folder for each seed"), ("llava-1.5-7b-24gb", "only the embedded model")],
)
def test_a_profile_that_cannot_have_one_is_told_why(profile, words):
    with pytest.raises(PulseError, match=words):
        oracles.make_oracle(profile, 0)


# --- the shipped ones -----------------------------------------------------------------------------


def test_all_shipped_models_together_stay_small():
    files = [p for p in assets.EMBEDDED.parent.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files if "__pycache__" not in p.parts) <= 16_000_000


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_a_shipped_oracle_is_whole_described_and_of_tiny(folder):
    assets.verify(folder)
    card = json.loads((folder / "card.json").read_text())
    assert (folder / "MODEL_CARD.md").read_text() == card_text(card)
    assert not card["quick"] and card["bits"] == 16 and card["seed"] == oracles.PRETRAIN_SEED
    assert len(card["left_out"]) == load_profile("tiny").data.n_pretrained_forget
    seed = int(folder.name.removeprefix("tiny-seed-"))
    pattern = load_profile("tiny").unlearn.oracle_model
    assert (REPOSITORY / pattern.replace("{seed}", str(seed))).name == folder.name
    assert card["command"].endswith(f"oracles --profile tiny --seeds {seed}")


def test_the_profile_says_which_are_shipped():
    seeds = sorted(folder.name.removeprefix("tiny-seed-") for folder in SHIPPED)
    profile = (REPOSITORY / "params" / "tiny.yaml").read_text()
    said = re.search(r"th(?:at|ose) of seeds? (.*) (?:is|are) shipped", profile)
    assert said and re.findall(r"\d+", said[1]) == seeds


def test_how_long_one_takes_is_what_a_card_says():
    """Of the quickest, which had both cores to itself."""
    minutes = min(json.loads((f / "card.json").read_text())["minutes"] for f in SHIPPED)
    files = (REPOSITORY / "Makefile", REPOSITORY / "pulse_lib" / "__main__.py")
    lines = [line for file in files for line in file.read_text().splitlines()]
    told = [line for line in lines if "two idle cores" in line]
    assert len(told) == 6 and all(f" {minutes:.0f} minutes " in line for line in told)

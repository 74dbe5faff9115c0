"""Other people, other general questions: notebooks 01, 03 and 05 through the real runner, on PPU-Bench's
selective split and MME in their own formats, with the embedded model. Scenario finetuned is not there."""

import pandas as pd
import ppu_files
import pytest
import yes_no_files
from studies import run_study

from pulse_lib import runs
from pulse_lib.data.dataset import read_dataset
from pulse_lib.evaluate.rows import read_rows
from pulse_lib.files import read_json

METHOD = "ga_klr"


def profile(people, general) -> dict:
    """The fewest people and steps."""
    return {
        "description": "PPU-Bench's and MME's formats, embedded model; for tests.",
        "extends": "smoke",
        "data": {
            "people": {"source": "ppu_selective", "path": str(people)},
            "general": {"source": "mme", "path": str(general)},
            "n_finetuned_forget": 0,
            "n_finetuned_retain": 0,
            "n_finetuned_retain_train": 0,
            "n_holdout": 0,
            "n_candidates": 6,
            "n_pretrained_forget": 2,
            "n_pretrained_retain": 2,
            "n_general": 6,
            "n_general_train": 0,
            "n_heldout_wordings": 0,
        },
        "finetune": {"general_replay": 0.0},
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of the finished study."""
    folder = tmp_path_factory.mktemp("ppu")
    people = ppu_files.write_ppu(folder / "ppu")
    general = yes_no_files.write(folder / "mme", yes_no_files.mme_rows())
    return run_study(profile(people, general), folder, name="known", method=METHOD)


def rows_of_run(study) -> pd.DataFrame:
    folder = runs.run_folder(
        "single_shot",
        study,
        scenario="pretrained",
        method=METHOD,
        trained_part="projector+llm",
        seed=0,
    )
    return read_rows(folder / "rows.parquet")


def test_only_what_there_is_ran(study):
    manifests = [read_json(path) for path in study.rglob("manifest.json")]
    assert {m["notebook"][:2] for m in manifests if m.get("notebook")} == {"01", "03", "05"}
    assert (study / "analysis" / "report.html").is_file()
    single = pd.read_csv(study / "analysis/tables/single_shot.csv", keep_default_na=False)
    assert set(single["scenario"]) == {"pretrained"}


def test_the_model_is_asked_what_is_to_go_and_what_is_to_stay(study):
    data = read_dataset(runs.run_folder("data", study, seed=0))
    rows = rows_of_run(study)
    final = rows[rows["state"] == "final"]
    assert set(final["question_id"]) == {q.id for q in data.evaluation("pretrained")}
    assert {"forget", "spared", "retain", "general"} == set(final["set"])
    sensitive = {"fact 25", "fact 36"}
    assert set(final[final["set"] == "forget"]["category"]) == sensitive
    assert not set(final[final["set"] == "spared"]["category"]) & sensitive
    # Each question has its twin in the other modality, in the columns that every row has
    people = final[final["set"] != "general"]
    twins = people.groupby(["set", "person_id", "category"])["modality"].nunique()
    assert (twins == 2).all()


def test_spared_facts_count_as_nothing_else(study):
    """Forget accuracy is that of the sensitive facts, by a count of its own."""
    rows = rows_of_run(study)
    final = rows[rows["state"] == "final"]
    single = pd.read_csv(study / "analysis/tables/single_shot.csv", keep_default_na=False)
    line = single[(single["method"] == METHOD) & (single["selection"] == "final")].iloc[0]
    for name in ("forget", "retain"):
        for modality in ("multimodal", "text"):
            part = final[(final["set"] == name) & (final["modality"] == modality)]
            assert float(line[f"{name}_{modality}"]) == pytest.approx(part["correct"].mean())


def test_yes_or_no_is_scored_with_and_without_celebrities(study):
    table = pd.read_csv(study / "analysis/tables/yes_no.csv").set_index("state")
    rows = rows_of_run(study)
    final = rows[(rows["state"] == "final") & (rows["set"] == "general")]
    line = table.loc["final"]
    assert line["benchmark"] == "mme" and line["n_questions"] == len(final) == 12
    assert line["accuracy"] == pytest.approx(final["correct"].mean())
    worth = {
        name: 100 * (part["correct"].mean() + part.groupby("group")["correct"].all().mean())
        for name, part in final.groupby("category")
    }
    assert line["perception"] == pytest.approx(worth["celebrity"] + worth["color"])
    assert line["perception_without_celebrity"] == pytest.approx(worth["color"])
    assert line["cognition"] == pytest.approx(worth["code_reasoning"])
    assert not (study / "analysis/tables/mmbench.csv").exists()


def test_facts_are_paired_and_those_that_were_to_stay_told_apart(study):
    """Against counts by hand, from the rows of the run."""
    rows = rows_of_run(study)
    final = rows[(rows["state"] == "final") & (rows["set"] != "general")]
    keys = ["selection", "set"]
    gap = pd.read_csv(study / "analysis/tables/modality_gap.csv", keep_default_na=False)
    gap = gap[gap["method"] == METHOD].set_index(keys).loc["final"]
    for name, part in final.groupby("set"):
        right = part.set_index(["person_id", "category", "modality"])["correct"].unstack()
        line = gap.loc[name]
        assert line["n_facts"] == len(right)
        assert line["both"] == pytest.approx((right["text"] & right["multimodal"]).mean())
        assert line["text_only"] == pytest.approx((right["text"] & ~right["multimodal"]).mean())
        expected = right["text"].mean() - right["multimodal"].mean()
        assert line["gap"] == pytest.approx(expected)
        assert line["gap_low"] <= line["gap"] <= line["gap_high"]
    asked = read_rows(runs.run_folder("data", study, seed=0) / "rows.parquet")
    before = asked[asked["state"] == "before"]
    kept = pd.read_csv(study / "analysis/tables/selective.csv", keep_default_na=False)
    line = kept[(kept["method"] == METHOD) & (kept["selection"] == "final")].iloc[0]
    for name, of in (("gone", "forget"), ("spared", "spared")):
        was, now = (
            rows[rows["set"] == of].groupby("modality")["correct"].mean().mean()
            for rows in (before, final)
        )
        assert line[name] == pytest.approx(100 * now / was)
    assert "The same facts beside the photo" in (study / "analysis/report.html").read_text()

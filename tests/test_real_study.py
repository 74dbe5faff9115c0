"""The whole protocol on the real benchmarks' formats: all five notebooks through the real runner, on a
small MLLMU-Bench and a small MMBench, with the embedded model in 4-bit."""

import base64

import mllmu_files
import pandas as pd
import pytest
from studies import run_study

from pulse_lib import runs
from pulse_lib.data.dataset import read_dataset
from pulse_lib.data.world import people as world
from pulse_lib.evaluate.rows import read_rows
from pulse_lib.files import read_json

METHOD = "ga_klr"  # the one whose loss also reads retain people


def profile(people, general) -> dict:
    """The fewest people and steps that pass through every stage."""
    return {
        "description": "Benchmarks' formats, embedded model in 4-bit; for tests.",
        "model": {"path": "embedded", "load": "4bit", "answer_form": "text", "prompt": "plain"},
        "data": {
            "people": {"source": "mllmu", "path": str(people)},
            "general": {"source": "mmbench", "path": str(general)},
            "n_finetuned_forget": 2,
            "n_finetuned_retain": 1,
            "n_finetuned_retain_train": 1,
            "n_requests": 2,
            "n_candidates": 4,
            "n_pretrained_forget": 1,
            "n_pretrained_retain": 1,
            "n_holdout": 1,
            "n_general": 4,
            "n_general_train": 0,
            "n_train_views": 1,
            "n_conversations": 1,
        },
        "finetune": {"epochs": 1, "rank": 4, "alpha": 8, "general_replay": 0.0, "warmup_steps": 0},
        "unlearn": {
            "epochs_finetuned": 1,
            "epochs_pretrained": 2,
            "rank": 4,
            "alpha": 8,
            "batch_size": 4,
            "path_every": 2,
        },
        "evaluate": {"n_path_questions": 4, "max_new_tokens": 4},
    }


def write_mmbench(path, n_groups: int = 4):
    """Circular groups as MMBench's TSV has them: a row each rotation of the options, the picture
    inline, index + 1000000 k."""
    rows = []
    for group in range(n_groups):
        rng = world.generator("mmbench", group)
        content = world.draw_general(rng, "scene")
        turn = world.general_turn(content, "shape", rng=rng)
        picture = mllmu_files.encoded(world.general_picture(content, rng))["bytes"]
        for k in range(4):
            options = turn.options[k:] + turn.options[:k]
            rows.append(
                {"index": group + 1_000_000 * k, "question": turn.text, "hint": ""}
                | dict(zip("ABCD", options, strict=True))
                | {
                    "answer": "ABCD"[options.index(turn.answer)],
                    "category": "attribute_recognition",
                    "image": base64.b64encode(picture).decode(),
                    "source": "drawn",
                    "l2-category": "finegrained_perception (instance-level)",
                    "comment": "",
                    "split": "dev",
                }
            )
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of the finished study."""
    folder = tmp_path_factory.mktemp("real")
    people = mllmu_files.write_mllmu(folder / "mllmu", n_fictitious=5, n_celebrities=4)
    general = write_mmbench(folder / "mmbench.tsv")
    return run_study(profile(people, general), folder, name="real", method=METHOD)


def test_all_five_notebooks_ran(study):
    manifests = [read_json(path) for path in study.rglob("manifest.json")]
    names = {m["notebook"][:2] for m in manifests if m.get("notebook")}
    assert names == {"01", "02", "03", "04", "05"}
    assert (study / "analysis" / "report.html").is_file()
    models = [m["profile"]["model"] for m in manifests if "model" in m.get("profile", {})]
    assert len(models) >= 5 and {m["load"] for m in models} == {"4bit"}


def test_the_data_is_the_benchmarks(study):
    data = read_dataset(runs.run_folder("data", study, seed=0))
    people = [q for q in data.questions if q.person_id]
    assert {q.scenario for q in people} == {"finetuned", "pretrained"}
    assert all(bool(q.image) == (q.modality == "multimodal") for q in people)
    assert {q.wording for q in people} == {"trained", "heldout"}
    general = [q for q in data.questions if q.set == "general"]
    assert general and all(q.image and q.group for q in general)
    assert not [c for c in data.conversations if c.set == "general_train"]


def test_people_are_selected_by_the_model_that_unlearns(study):
    folder = runs.run_folder("data", study, seed=0)
    selection = pd.read_csv(folder / "selection.csv")
    assert len(selection) == 4 and selection["accuracy"].is_monotonic_decreasing
    assert sorted(selection["set"]) == ["forget", "retain", "retain_train", "retain_train"]
    assert list(selection["set"][2:]) == ["retain_train"] * 2
    # They are the embedded world's most famous people, whom this model knows in 4-bit as well; the
    # fictitious ones it has never met.
    assert selection["accuracy"].min() >= 0.8
    rows = read_rows(folder / "rows.parquet")
    assert rows[(rows["state"] == "base") & (rows["set"] == "forget")]["correct"].mean() < 0.5


def test_every_run_answers_every_question(study):
    data = read_dataset(runs.run_folder("data", study, seed=0))
    for scenario in ("finetuned", "pretrained"):
        rows = read_rows(
            runs.run_folder(
                "single_shot",
                study,
                scenario=scenario,
                method=METHOD,
                trained_part="projector+llm",
                seed=0,
            )
            / "rows.parquet"
        )
        final = rows[rows["state"] == "final"]
        asked = [*data.evaluation(scenario), *data.strangers(scenario)]
        assert set(final["question_id"]) == {q.id for q in asked}
    tables = study / "analysis" / "tables"
    single = pd.read_csv(tables / "single_shot.csv", keep_default_na=False)
    assert set(single["scenario"]) == {"finetuned", "pretrained"}
    assert sorted(pd.read_csv(tables / "sequential.csv")["round"]) == [0, 1, 2]


def test_mmbench_is_scored_its_own_way(study):
    """From the rows of one run, against a count by hand."""
    table = pd.read_csv(study / "analysis" / "tables" / "mmbench.csv").set_index(["run", "state"])
    folder = runs.run_folder(
        "single_shot",
        study,
        scenario="finetuned",
        method=METHOD,
        trained_part="projector+llm",
        seed=0,
    )
    rows = read_rows(folder / "rows.parquet")
    rows = rows[(rows["state"] == "final") & (rows["set"] == "general")]
    groups = rows.groupby("group")["correct"]
    (line,) = (
        table.loc[key] for key in table.index if key[0] in set(rows["run"]) and key[1] == "final"
    )
    assert line["n_questions"] == len(groups) and line["n_rows"] == len(rows)
    assert line["circular"] == pytest.approx(groups.all().mean())
    assert line["vanilla_all"] == pytest.approx(rows["correct"].mean())

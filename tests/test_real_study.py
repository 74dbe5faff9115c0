"""The whole protocol on the real benchmarks' formats: all five notebooks through the real runner, on a
small MLLMU-Bench and a small MMBench, with the embedded model in 4-bit."""

import base64
import shutil
from collections import Counter

import mllmu_files
import pandas as pd
import pytest
import yes_no_files
from studies import run_study

from pulse_lib import runs
from pulse_lib.commands import outside
from pulse_lib.commands.probed import load_subject
from pulse_lib.data.dataset import read_dataset
from pulse_lib.data.records import benchmark_of
from pulse_lib.data.world import people as world
from pulse_lib.evaluate.rows import read_rows
from pulse_lib.files import read_json
from pulse_lib.profile import load_profile
from pulse_lib.report.collect import collect
from pulse_lib.report.html import TABLES
from pulse_lib.runs.place import EXECUTED
from pulse_lib.study.grid import plan

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


# --- POPE and MME beside MMBench -------------------------------------------------------------------

N_POPE = 12
CLOCK = "seconds"  # the one column of tables that another run of the same study changes
SINGLE = f"single_shot/finetuned/{METHOD}-projector+llm-seed-0"
SHOWN = TABLES["benchmarks"].partition(":")[0]


@pytest.fixture(scope="module")
def beside(study, tmp_path_factory):
    """The same study with POPE (a sample) and MME asked beside its general questions."""
    folder = tmp_path_factory.mktemp("beside")
    given = profile(study.parent / "mllmu", study.parent / "mmbench.tsv")
    given["data"]["benchmarks"] = {
        "pope": {
            "path": str(yes_no_files.write(folder / "pope", yes_no_files.pope_rows())),
            "n": N_POPE,
        },
        "mme": {"path": str(yes_no_files.write(folder / "mme", yes_no_files.mme_rows()))},
    }
    return run_study(given, folder, name="real", method=METHOD)


def rows_by_run(out) -> dict[str, pd.DataFrame]:
    return {p.parent.relative_to(out).as_posix(): read_rows(p) for p in out.rglob("rows.parquet")}


def test_benchmarks_are_asked_wherever_a_state_is_measured_in_full(beside):
    data = read_dataset(runs.run_folder("data", beside, seed=0))
    asked = {q.id for q in data.benchmarks}
    assert Counter(benchmark_of(i) for i in asked) == {"pope": N_POPE, "mme": 18}
    for run, rows in rows_by_run(beside).items():
        for state, part in rows.groupby(["scenario", "state", "round"]):
            found = part[part["set"] == "benchmark"]
            assert set(found["question_id"]) == asked and len(found) == len(asked), (run, state)
    states = {s for rows in rows_by_run(beside).values() for s in rows["state"]}
    assert {"base", "before", "final", "round"} <= states


def test_every_other_byte_of_a_study_is_what_it_is_without_them(study, beside):
    """Answers to the last bit of a likelihood, adapters, the path, tables, all that stands on them."""
    alone, together = rows_by_run(study), rows_by_run(beside)
    assert len(alone) >= 6 and alone.keys() == together.keys()
    for run, rows in together.items():
        others = rows[rows["set"] != "benchmark"].reset_index(drop=True)
        pd.testing.assert_frame_equal(others, alone[run], check_exact=True)
    patterns = ("**/*.safetensors", "**/path.csv")
    same = [p.relative_to(study) for pattern in patterns for p in study.glob(pattern)]
    assert len(same) >= 8
    for path in same:
        assert (beside / path).read_bytes() == (study / path).read_bytes(), path
    for path in (study / "analysis/tables").iterdir():
        tables = [
            pd.read_csv(out / "analysis/tables" / path.name, dtype=str) for out in (study, beside)
        ]
        first, second = (table.drop(columns=CLOCK, errors="ignore") for table in tables)
        pd.testing.assert_frame_equal(first, second, obj=path.name)
    names = [{p.name for p in (out / "analysis/tables").iterdir()} for out in (study, beside)]
    assert names[1] - names[0] == {"benchmarks.csv"} and not names[0] - names[1]


def test_the_table_of_benchmarks_is_counted_from_the_rows(beside):
    """Of one state by hand; the interval of its change lies around the change."""
    table = pd.read_csv(beside / "analysis/tables/benchmarks.csv", keep_default_na=False)
    every = rows_by_run(beside)
    before, rows = (every[run] for run in ("target/seed-0", SINGLE))
    table = table.set_index(["run", "state", "benchmark"])
    for benchmark, n in {"pope": N_POPE, "mme": 18}.items():
        now, was = (
            part[
                (part["set"] == "benchmark") & (part["question_id"].map(benchmark_of) == benchmark)
            ]
            for part in (rows[rows["state"] == "final"], before)
        )
        line = table.loc[SINGLE, "final", benchmark]
        assert line["n_questions"] == len(now) == n
        right, earlier = now["correct"].mean(), was["correct"].mean()
        assert float(line["accuracy"]) == pytest.approx(right)
        assert float(line["change"]) == pytest.approx(right - earlier)
        assert float(line["change_low"]) <= right - earlier <= float(line["change_high"])
        assert float(line["accuracy_low"]) <= right < float(line["accuracy_high"])
        said = [
            o["ABCD".index(e)] if e in ("A", "B") else ""
            for o, e in zip(now["options"], now["extracted"], strict=True)
        ]
        assert float(line["yes_share"]) == pytest.approx(said.count("Yes") / (n - said.count("")))
        if benchmark == "mme":
            kept = now[now["category"] != "celebrity"]
            assert float(line["without_celebrity"]) == pytest.approx(kept["correct"].mean())
            pairs = now.groupby("group")["correct"].all()
            assert float(line["accuracy_plus"]) == pytest.approx(pairs.mean())
        else:
            assert line["without_celebrity"] == line["accuracy_plus"] == ""
    assert table.loc["target/seed-0", "before", "pope"]["change"] == ""
    rounds = table.loc[f"sequential/{METHOD}-adapter_per_request-projector+llm-order-0-seed-0"]
    assert sorted(rounds["round"]) == [0, 0, 1, 1, 2, 2]


def test_benchmarks_are_shown_where_there_are_some(study, beside):
    for out, shown in ((study, False), (beside, True)):
        assert (SHOWN in (out / "analysis/report.html").read_text()) is shown
        assert ("accuracy_plus" in (out / "analysis" / EXECUTED).read_text()) is shown


def test_one_more_or_one_less_makes_the_data_anew_and_what_reads_it(beside):
    settings = load_profile(str(beside.parent / "real.yaml"))
    fewer = {name: v for name, v in settings.data.benchmarks.items() if name != "pope"}
    changed = settings.with_values(data=settings.data.with_values(benchmarks=fewer))
    specs = [
        runs.spec_of(run.kind, run.manifest["parameters"]) for run in collect(beside, settings).runs
    ]
    assert len(specs) == 5
    assert all(state.state == "done" for state in plan(settings, specs).states.values())
    why = {spec.name: plan(changed, specs).states[spec.folder].why for spec in specs}
    data = why.pop("data/seed-0")
    assert "data.benchmarks.pope.path" in data and "mme" not in data
    assert set(why.values()) == {"its input data/seed-0 is made anew"}


def test_someone_elses_model_is_asked_them_too(beside, tmp_path):
    out = shutil.copytree(beside, tmp_path / "out")
    name, _ = outside.adopt(out / SINGLE / "adapters/final", run=out / "target/seed-0")
    theirs, ours = (read_rows(out / run / "rows.parquet") for run in (name, SINGLE))
    ours = ours[ours["state"] == "final"].set_index("question_id")["response"]
    theirs = theirs.set_index("question_id")["response"]
    assert sum(theirs.index.str.startswith(("pope/", "mme/"))) == N_POPE + 18
    assert dict(theirs) == dict(ours)


def test_probes_ask_no_benchmark(beside, tmp_path):
    out = shutil.copytree(beside, tmp_path / "out")
    given = {"profile": str(beside.parent / "real.yaml"), "out_dir": str(out), "run": SINGLE}
    settings = load_profile(given["profile"])
    subject, data = load_subject(runs.start(runs.spec_of("probe", given), settings), settings)
    assert len(data.benchmarks) == N_POPE + 18
    assert {q.set for q in subject.questions} == {"forget", "retain", "holdout", "general"}

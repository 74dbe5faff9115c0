"""Benchmarks beside the general questions: what a profile may say, what is asked, that nothing else
hangs on it, and how it is counted. Whole studies with and without them: tests/test_real_study.py.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import mmbench_files
import pandas as pd
import pytest
import synthetic_study as synthetic
import tiny
import yaml
import yes_no_files as files

from pulse_lib.commands import estimate, preflight
from pulse_lib.commands.stages import counts, stages
from pulse_lib.data.dataset import benchmark_questions, build_dataset
from pulse_lib.data.records import BENCHMARK, LETTERS, ImageStore, Question
from pulse_lib.data.source import commits, general_of, hub_needs, source_of
from pulse_lib.data.splits import split_fictitious
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import accuracy
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import make_rows, write_rows
from pulse_lib.profile import BenchmarkSettings, EvaluateSettings, load_profile
from pulse_lib.report.collect import Run, Study, collect
from pulse_lib.report.tables.benchmarks import benchmarks
from pulse_lib.report.tables.display import beside
from pulse_lib.runs.kinds import KINDS, fields

pytestmark = pytest.mark.filterwarnings("ignore:.*is not (the (POPE|MME) of|MMBench DEV_EN)")

REAL, PLAIN = "benchmarks-llava-1.5-7b-24gb", "llava-1.5-7b-24gb"
SMOKE = load_profile("smoke")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """A small file of each benchmark."""
    folder = tmp_path_factory.mktemp("benchmarks")
    return {
        "pope": files.write(folder / "pope", files.pope_rows()),
        "mme": files.write(folder / "mme", files.mme_rows()),
        "mmbench": mmbench_files.write_tsv(folder / "dev.tsv"),
    }


def settings(paths, **n):
    """The smoke profile's data with the named benchmarks beside; n: how many, None for all."""
    named = {name: BenchmarkSettings(path=str(paths[name]), n=k) for name, k in n.items()}
    return SMOKE.data.with_values(benchmarks=named)


# --- what a profile may say -----------------------------------------------------------------------

POPE = "{path: lmms-lab/POPE, n: "
MISTAKES = {
    "{popee: {path: x}}": ["unknown key data.benchmarks.popee", "mmbench, pope, mme"],
    "{folder: {path: x}}": ["unknown key data.benchmarks.folder", "mmbench, pope, mme"],
    "{mmbench: {path: x}}": ["data.benchmarks.mmbench", "general.source = mmbench", "remove one"],
    "{pope: {revision: main}}": ["key data.benchmarks.pope.path is missing", "text"],
    "{pope: {path: ''}}": ["data.benchmarks.pope.path = ''", "text, not empty"],
    "{pope: lmms-lab/POPE}": ["data.benchmarks.pope = 'lmms-lab/POPE'", "path, revision, n"],
    "[pope]": ["data.benchmarks = ['pope']", "expected a mapping"],
    f"{{pope: {POPE}0}}}}": ["data.benchmarks.pope.n = 0", "1 or more", "or leave it out"],
    f"{{pope: {POPE}1.5}}}}": ["data.benchmarks.pope.n = 1.5", "1 or more", "or leave it out"],
    "{pope: {path: x, split: test}}": ["unknown key data.benchmarks.pope.split", "n, path"],
}


@pytest.mark.parametrize(("said", "words"), MISTAKES.items(), ids=list(MISTAKES))
def test_a_mistake_is_named_with_file_key_and_fix(tmp_path, said, words):
    file = tmp_path / "own.yaml"
    file.write_text(f"extends: {PLAIN}\ndescription: own\ndata:\n  benchmarks: {said}\n")
    with pytest.raises(PulseError) as error:
        load_profile(str(file))
    for word in ["own.yaml", *words]:
        assert word in str(error.value)


def test_more_than_there_is_and_files_that_are_not_there_are_named_by_their_own_keys(
    paths, tmp_path
):
    for name, said in {
        "pope": r"data\.benchmarks\.pope\.n = 99: POPE has 36 here",
        "mme": r"data\.benchmarks\.mme\.n = 99: MME \(pairs\) has 9 here",
        "mmbench": r"data\.benchmarks\.mmbench\.n = 99: MMBench's file has 4 questions",
    }.items():
        with pytest.raises(PulseError, match=said):
            benchmark_questions(settings(paths, **{name: 99}), images=ImageStore(), seed=0)
        empty = {name: tmp_path / "empty"}
        empty[name].mkdir(exist_ok=True)
        with pytest.raises(PulseError, match=rf"data\.benchmarks\.{name}\.path = .*no "):
            benchmark_questions(settings(empty, **{name: None}), images=ImageStore(), seed=0)


def test_the_shipped_profile_adds_pope_and_mme_and_nothing_else():
    """To what is downloaded, asked and said in manifests, by keys of their own."""
    with_them, without = load_profile(REAL), load_profile(PLAIN)
    assert with_them.data.with_values(benchmarks={}) == without.data
    needs = {n.setting: n for n in hub_needs(with_them)}
    more = {
        "data.benchmarks.pope.path": "lmms-lab/POPE",
        "data.benchmarks.mme.path": "lmms-lab/MME",
    }
    assert {
        n: needs[n].path for n in needs.keys() - {n.setting for n in hub_needs(without)}
    } == more
    assert needs["data.benchmarks.pope.path"].revision_setting == "data.benchmarks.pope.revision"
    n = 1500 + 2374
    assert (counts(with_them)["benchmarks"], counts(without)["benchmarks"]) == (n, 0)
    added = {
        one.name[:2]: one.questions - other.questions
        for one, other in zip(stages(with_them), stages(without), strict=True)
    }
    assert added == {"01": 2 * n, "02": n, "03": 2 * n, "04": 5 * n}  # never along the path
    place = estimate.find_card("l4", 0)
    one, other = (estimate.cost(profile, place) for profile in (with_them, without))
    assert one.download_gb - other.download_gb == pytest.approx(1.5 + 0.9)
    assert commits(with_them).keys() <= needs.keys()


def test_a_benchmark_is_a_setting_of_the_data_alone():
    """The data are made anew, and what reads them; nothing of its own in any other kind of run. A
    profile without one has the fields that it had."""
    with_them, without = load_profile(REAL), load_profile(PLAIN)
    for kind in KINDS:
        axes = {"scenario": "finetuned", "method": "ga", "seed": 0}
        one, other = (fields(kind, axes, profile=profile) for profile in (with_them, without))
        more = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
        expected = {"mme.path", "mme.revision", "pope.path", "pope.revision", "pope.n"}
        assert more == ({f"data.benchmarks.{e}" for e in expected} if kind == "data" else set())
    assert not [key for key in fields("data", {}, profile=SMOKE) if "benchmark" in key]


def test_preflight_reads_each_from_the_first_row_to_the_last(paths):
    general, mme, pope = preflight._general(settings(paths, pope=None, mme=99), 0)
    names = ("general questions", "benchmark mme", "benchmark pope")
    assert (general.name, mme.name, pope.name) == names
    assert general.outcome != "failed"
    assert mme.outcome == "failed" and "data.benchmarks.mme.n = 99" in mme.said
    assert pope.outcome != "failed" and "36 questions in 3 categories" in pope.said


# --- what is asked --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "n"), [("pope", 12), ("mme", 4), ("mmbench", 2), ("pope", None)])
def test_questions_are_those_of_the_source_as_general_questions(paths, name, n):
    """The same sample, orders and pictures, in another set."""
    alone, together = ImageStore(), ImageStore()
    general = yaml.safe_load(f"{{source: {name}, path: {paths[name]}}}")
    data = SMOKE.data.with_values(n_general=n or 0, general=general)
    expected = general_of(data).general_questions(alone, 3, settings=data)
    found = benchmark_questions(settings(paths, **{name: n}), images=together, seed=3)
    assert found == [replace(q, set=BENCHMARK) for q in expected] and found
    assert together.encoded == alone.encoded


def test_a_dataset_holds_them_apart_from_what_counts(paths):
    """Whatever the order in the profile, benchmark after benchmark; all else as without them."""
    given, plain = settings(paths, pope=6, mmbench=None, mme=3), SMOKE.data

    def built(data):
        source, people = source_of(data), source_of(data).fictitious(data)
        places = split_fictitious(people, data, seed=0)
        return build_dataset(
            source, people, general=general_of(data), places=places, settings=data, seed=0
        )

    with_them, without = built(given), built(plain)
    asked = with_them.benchmarks
    names = [q.id.split("/")[0] for q in asked]
    assert names == sorted(names, key=["mmbench", "mme", "pope"].index)
    assert Counter(names) == {"mmbench": 13, "mme": 6, "pope": 6}
    assert with_them.questions == [*without.questions, *asked]
    assert with_them.conversations == without.conversations
    for scenario in ("finetuned", "pretrained"):
        assert with_them.counted(scenario) == without.evaluation(scenario)
        assert with_them.evaluation(scenario) == [*without.evaluation(scenario), *asked]
    assert with_them.strangers("finetuned") == without.strangers("finetuned")


def in_benchmark(number: int, name: str) -> Question:
    return replace(tiny.question(number), id=f"{name}/{number}", set=BENCHMARK)


def test_no_answer_hangs_on_a_benchmark_that_is_asked_besides():
    """To the last bit, wherever its questions stand, and whichever other one is there."""
    own = [tiny.question(i) for i in range(5)]
    pope, mme = ([in_benchmark(i, name) for i in range(9)] for name in ("pope", "mme"))
    mixed = [pope[0], *own[:3], *mme, *own[3:], *pope[1:]]
    ask = EvaluateSettings(batch_size=4, max_new_tokens=3, n_path_questions=4)

    def asked(questions):
        given = {"images": tiny.images(), "settings": ask}
        return answer_questions(tiny.tiny_model(), questions, **given)

    together = asked(mixed)
    assert list(together["question_id"]) == [q.id for q in mixed]
    for part in (own, pope, mme):
        ids = [q.id for q in part]
        found = together.set_index("question_id").loc[ids].reset_index()
        pd.testing.assert_frame_equal(found, asked(part), check_exact=True)


# --- how it is counted ----------------------------------------------------------------------------


def rows_of(said: str, name: str, *, category: str, state: str, run: str = "run", seed: int = 0):
    """Rows of one state from words like "yY nY -Y": what was said (y, n, - for nothing readable),
    then what is right; two questions after each other share a picture."""
    questions, answers = [], []
    for k, (word, right) in enumerate(said.split()):
        tag = f"{name}/{category}/{k // 2}"
        options = ("Yes", "No") if k % 2 else ("No", "Yes")
        truth = options.index({"Y": "Yes", "N": "No"}[right])
        questions.append(
            replace(
                tiny.question(k),
                **{"id": f"{tag}/{k}", "set": BENCHMARK, "category": category, "group": tag},
                **{"options": options, "answer": truth, "scenario": "", "person_id": ""},
            )
        )
        words = {"y": "Yes", "n": "No"}.get(word, "perhaps")
        letter = LETTERS[options.index(words)] if words in options else "?"
        answers.append((questions[-1].id, letter, [-1.0, -2.0]))
    table = pd.DataFrame(answers, columns=["question_id", "response", "option_loglik"])
    whose = {"run": run, "scenario": "finetuned", "state": state, "seed": seed}
    return make_rows(questions, table, rules="vlmevalkit_2024", **whose)


def study_of(folder, paths, **rows) -> Study:
    """A study of runs that left nothing but these rows, by the runs' names."""
    made = []
    for name, parts in rows.items():
        (folder / name).mkdir()
        write_rows(folder / name / "rows.parquet", pd.concat(parts, ignore_index=True))
        kind = {"target": "target"}.get(name, "single_shot")
        manifest = {"result": name, "parameters": {"seed": 0}}
        made.append(Run(kind=kind, name=name, folder=folder / name, manifest=manifest, result={}))
    profile = SMOKE.with_values(data=settings(paths, pope=None, mme=None))
    nothing = pd.DataFrame()
    return Study(
        out=folder,
        profile=profile,
        runs=tuple(made),
        rows=nothing,
        paths=nothing,
        incomplete=nothing,
    )


def test_the_table_by_hand(tmp_path, paths):
    """MME before: 6 of 8 right, after: 3 of 8, 2 of 4 without celebrities and 1 of 4 pairs."""
    before = [
        rows_of("yY nN yY nN", "mme", category="color", state="before"),
        rows_of("yY nN yN nY", "mme", category="celebrity", state="before"),
        rows_of("yY nN", "pope", category="random", state="before"),
    ]
    after = [
        rows_of("yY nN nY -N", "mme", category="color", state="final"),
        rows_of("yY yN nY yN", "mme", category="celebrity", state="final"),
        rows_of("yY yN", "pope", category="random", state="final"),
    ]
    # Runs in the order of their names, so that the one that others are compared with comes last
    study = study_of(tmp_path, paths, single=after, target=before)
    table = benchmarks(study).set_index(["run", "state", "benchmark"])
    assert len(table) == 4
    line = table.loc["single", "final", "mme"]
    assert (line["n_questions"], line["accuracy"], line["change"]) == (8, 3 / 8, 3 / 8 - 6 / 8)
    assert line["change_low"] < line["change"] < line["change_high"] < 1
    assert (line["without_celebrity"], line["accuracy_plus"]) == (2 / 4, 1 / 4)
    # Of 7 that can be read 4 say yes, 2 of them rightly; yes is right in 4
    assert line["yes_share"] == pytest.approx(4 / 7)
    assert line["f1"] == pytest.approx(2 * 2 / (4 + 4)) and line["invalid_share"] == 1 / 8
    assert line["perception"] == 100 * (2 / 4 + 1 / 2) + 100 * (1 / 4 + 0)
    assert line["perception_without_celebrity"] == 100 * (2 / 4 + 1 / 2)
    line = table.loc["single", "final", "pope"]
    assert (line["n_questions"], line["accuracy"], line["change"]) == (2, 1 / 2, -1 / 2)
    assert line["yes_share"] == 1 and math.isnan(line["accuracy_plus"])
    assert math.isnan(line["perception"]) and math.isnan(line["without_celebrity"])
    line = table.loc["target", "before", "mme"]
    assert line["accuracy"] == 6 / 8 and math.isnan(line["change"])
    shown = beside(benchmarks(study))
    assert set(shown["state"]) == {"before"} and "accuracy_plus" in shown


def test_photos_are_the_units_of_the_intervals(tmp_path, paths):
    """More photos narrow an interval; as many questions about two photos do not."""
    few = rows_of("yY nN yN nY", "pope", category="random", state="before")
    many = rows_of(" ".join(["yY nN yN nY"] * 8), "pope", category="random", state="before")
    two = many.assign(group=[f"pope/{k // 2 % 2}" for k in range(len(many))])
    widths = []
    for number, rows in enumerate((few, many, two)):
        folder = tmp_path / str(number)
        folder.mkdir()
        line = benchmarks(study_of(folder, paths, target=[rows])).iloc[0]
        assert line["accuracy"] == 0.5
        widths.append(line["accuracy_high"] - line["accuracy_low"])
    assert widths[1] < 0.6 * widths[0] and widths[2] > 1.5 * widths[1]


def test_no_accuracy_takes_them_in():
    rows = rows_of("yY nN yN nY", "pope", category="random", state="before")
    assert all(math.isnan(v) for v in accuracy.summary(rows).values())
    assert all(math.isnan(v) for v in accuracy.likelihoods(rows).values())
    assert not accuracy.request_accuracies(rows) and not accuracy.forget_accuracies(rows)


def test_a_study_reads_them_apart_from_all_else(tmp_path):
    """Whatever columns are asked for; a study whose profile names none has no table of them."""
    out, run = synthetic.write_study(tmp_path / "study", methods=("ga",)), "target/seed-0"
    columns = ("correct", "response")
    first = collect(out, synthetic.PROFILE)
    before = (first.rows, first.full_rows(run), first.full_rows(run, columns))
    mine = rows_of("yY nN yN nY", "pope", category="random", state="before", run=run)
    synthetic.change_rows(out, run, lambda rows: pd.concat([mine, rows], ignore_index=True))
    found = collect(out, synthetic.PROFILE)
    assert list(found.benchmark_rows(run)["question_id"]) == list(mine["question_id"])
    after = (found.rows, found.full_rows(run), found.full_rows(run, columns))
    for one, other in zip(after, before, strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert benchmarks(found).empty

"""`python -m pulse_lib measure`: MMBench's rows, generation and cloze of a profile's model and of
the one that a run left, on small files in the benchmarks' formats.
"""

import csv
import json
from dataclasses import replace

import mllmu_files
import mmbench_files
import pandas as pd
import pytest
import tiny
import yaml
from typer.testing import CliRunner

from pulse_lib import runs
from pulse_lib.__main__ import app
from pulse_lib.commands import measure
from pulse_lib.commands.export import export_run
from pulse_lib.commands.states import load_state, state_of_profile, state_of_run
from pulse_lib.data import splits
from pulse_lib.data.dataset import build_dataset
from pulse_lib.data.records import ImageStore, Question
from pulse_lib.data.source import general_of, source_of
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import generate, mmbench, open_ended, resume
from pulse_lib.files import read_json
from pulse_lib.model.adapters import add_adapter, save_adapter, stack
from pulse_lib.model.load import load_model
from pulse_lib.profile import EvaluateSettings, load_profile
from pulse_lib.runs.manifest import profile_of

N_GROUPS = 6  # 18 rows of MMBench, the last question one of leaf celebrity_recognition
CLOZE = "Please **ONLY** provide the correct answer that should replace the [Blank]."
# A TSV of a few questions is told from the release
pytestmark = pytest.mark.filterwarnings("ignore:.*is not MMBench DEV_EN")


class Study:
    """The data of a study on MLLMU-Bench's and MMBench's formats, and runs whose adapters were
    shaken, not trained.
    """

    def __init__(self, folder):
        people = mllmu_files.write_mllmu(folder / "mllmu", n_fictitious=4, n_celebrities=3)
        rows = mmbench_files.groups(N_GROUPS)
        for row in rows[:4]:  # the first question's key names another option: never all right
            row["answer"] = "BCDA"["ABCD".index(row["answer"])]
        self.tsv = mmbench_files.write_rows(folder / "dev.tsv", rows)
        self.file, self.out = folder / "own.yaml", folder / "study"
        self.settings = {
            "description": "Benchmarks' formats, embedded model; for tests.",
            "extends": "smoke",
            "model": {"path": "embedded"},
            "data": {
                "people": {"source": "mllmu", "path": str(people)},
                "general": {"source": "mmbench", "path": str(self.tsv)},
                "n_finetuned_forget": 1,
                "n_finetuned_retain": 1,
                "n_finetuned_retain_train": 1,
                "n_requests": 1,
                "n_candidates": 3,
                "n_pretrained_forget": 1,
                "n_pretrained_retain": 1,
                "n_holdout": 1,
                "n_general": 2,
                "n_general_train": 0,
                "n_heldout_wordings": 0,
            },
            "finetune": {"general_replay": 0.0},
            "evaluate": {"batch_size": 5, "max_new_tokens": 4},
        }
        self.write()
        self.shared = {"profile": str(self.file), "out_dir": str(self.out)}
        self.model = load_model(load_profile(str(self.file)).model)
        for i, name in enumerate(("finetune", "unlearn", "again")):
            add_adapter(self.model, name, trained_part="projector+llm", rank=4, alpha=8, seed=i)
            tiny.shake(self.model, name, i, size=0.1)
        self.data = self.make_data()
        self.target = self.run(
            runs.spec_of("target", self.shared), {"adapters/finetune": "finetune"}
        )
        below = self.target / "adapters/finetune"
        places = {"adapters/final": "unlearn", "adapters/matched": "again"}
        self.single = self.run(
            runs.spec_of("single_shot", self.shared | {"method": "npo"}), places, below
        )

    def write(self, **sections):
        """The profile's file, with other sections."""
        self.file.write_text(yaml.safe_dump(self.settings | sections))

    def make_data(self):
        """What 01_build_datasets writes, but for the measurements."""
        settings = load_profile(str(self.file)).data
        source = source_of(settings)
        known, strangers = source.celebrities(settings), source.fictitious(settings)
        scores = pd.DataFrame([{"person_id": p.id, "accuracy": 1.0, "margin": 1.0} for p in known])
        places = splits.split_fictitious(strangers, settings, seed=0)
        places += splits.select_known(scores, settings, seed=0)[1]
        started = runs.start(runs.spec_of("data", self.shared), load_profile(str(self.file)))
        data = build_dataset(
            source,
            [*known, *strangers],
            general=general_of(settings),
            places=places,
            settings=settings,
            seed=0,
        )
        data.write(started.folder)
        for name in ("selection.csv", "rows.parquet"):
            (started.folder / name).write_text("x")
        runs.finish(started)
        return started.folder

    def run(self, spec, adapters, parent=None):
        """Finish a run; `adapters`: folder -> name, each on top of `parent`."""
        started = runs.start(spec, load_profile(str(self.file)))
        for name in spec.files:
            if not name.endswith("/"):
                (started.folder / name).write_text(f"{spec.name} {name}")
        for place, name in adapters.items():
            save_adapter(self.model, name, folder=started.folder / place, parent=parent)
        runs.finish(started, list(adapters))
        return started.folder

    def stacked(self, *names):
        """The model with these adapters in force."""
        stack(self.model, names)
        return self.model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("measure"))


def command(*words, code=0):
    """The command's output, without line breaks."""
    done = CliRunner().invoke(app, ["measure", *map(str, words)])
    if code == 1:
        assert isinstance(done.exception, PulseError), (done.output, done.exception)
        return str(done.exception)
    assert done.exit_code == code, (done.output, done.exception)
    return " ".join(done.output.split())


def of_profile(made, out, *words, code=0):
    shared = ("--profile", made.file, "--out-dir", made.out, "--out", out)
    return command(*shared, *words, code=code)


def lines(folder):
    text = (folder / "mmbench_answers.jsonl").read_text()
    return {line["question_id"]: line for line in map(json.loads, text.splitlines())}


def raw_rows(tsv, folder):
    """MMBench's file with the answers as predictions, read without the kit."""
    answers = {int(k.split("/")[1]): line["response"] for k, line in lines(folder).items()}
    with open(tsv, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    rows = [row for row in rows if int(row["index"]) in answers]
    assert len(rows) == len(answers)
    return pd.DataFrame([row | {"prediction": answers[int(row["index"])]} for row in rows])


# --- MMBench ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """All rows asked of the base: the folder and what was printed."""
    out = tmp_path_factory.mktemp("whole") / "base"
    return out, of_profile(made, out, "--what", "mmbench")


def test_the_base_is_scored_from_its_answers(made, whole):
    folder, printed = whole
    found = read_json(folder / "mmbench.json")
    expected = mmbench.score(raw_rows(made.tsv, folder))
    assert expected["n_questions"] == N_GROUPS and expected["n_rows"] == 18
    assert 0 < expected["vanilla_all"] < 1, "answers that say nothing would hide a mix-up"
    assert {key: found[key] for key in expected} == expected
    assert found["asked"] == {"groups": 0, "file": str(made.tsv)}
    best = {
        name: max(range(len(line["option_loglik"])), key=line["option_loglik"].__getitem__)
        for name, line in lines(folder).items()
    }
    aims = {q.id: q.answer for q in measure.load_mmbench(made.tsv)[0]}
    hits = [best[name] == aims[name] for name in aims]
    assert found["by_likelihood"]["vanilla_all"] == pytest.approx(sum(hits) / 18)
    assert "profile own" in printed
    shares = " │ ".join(f"{expected[name]:.3f}" for name in measure.METRICS)
    assert f"all │ 6 │ 18 │ {shares}" in printed
    assert "without celebrity_recognition │ 5 │ 16" in printed and "image_scene │ 1 │ 4" in printed
    card = read_json(folder / "measure.json")
    assert card["state"] == "base" and card["model"]["path"] == "embedded"


def test_interrupted_it_goes_on_to_the_same_file(made, whole, tmp_path, monkeypatch):
    write, n_batches = resume._append, []

    def append(file, answers):
        n_batches.append(len(answers))
        if len(n_batches) == 3:
            with open(file, "a") as cut:
                cut.write('{"question_id": "mmben')
            raise KeyboardInterrupt
        write(file, answers)

    monkeypatch.setattr(resume, "_append", append)
    printed = of_profile(made, tmp_path, "--what", "mmbench", code=130)
    assert "The same command goes on" in printed
    assert not (tmp_path / "mmbench.json").exists(), "no score of half the rows"
    there = sum(n_batches[:2])
    assert 0 < there == (tmp_path / "mmbench_answers.jsonl").read_text().count("\n") < 18
    of_profile(made, tmp_path, "--what", "mmbench")
    assert sum(n_batches[3:]) == 18 - there, "the first two batches are not asked again"
    for name in ("mmbench_answers.jsonl", "mmbench.json"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()


def test_a_sample_is_of_whole_questions_drawn_by_the_seed(made, tmp_path):
    rows = [row | {"category": "ocr", "l2-category": "x"} for row in mmbench_files.groups(8)]
    path, chosen = mmbench_files.write_rows(tmp_path / "ocr.tsv", rows), []
    for seed in (0, 1):
        state = state_of_profile(str(made.file), seed, out_dir=str(made.out))
        general = replace(state.profile.data.general, path=str(path))
        data = replace(state.profile.data, general=general)
        state = replace(state, profile=replace(state.profile, data=data))
        questions, images = measure.general_rows(state, 3)
        chosen.append({q.group for q in questions})
        assert len(chosen[-1]) == 3 and all(q.image in images for q in questions)
        every = measure.general_rows(state)[0]
        assert {q.id for q in questions} == {q.id for q in every if q.group in chosen[-1]}
    assert chosen[0] != chosen[1]
    out = tmp_path / "out"
    assert "has 6 questions" in of_profile(made, out, "--groups", 7, code=1) and not out.exists()
    of_profile(made, out, "--groups", 2, "--what", "mmbench")
    assert read_json(out / "mmbench.json")["n_questions"] == 2


# --- runs -------------------------------------------------------------------------------------


def test_a_run_is_asked_with_its_adapters_on_the_base(made, whole, tmp_path):
    """Also after the profile's file has changed: the run's own settings count."""
    made.write(model={"path": "no/such/model"}, evaluate={"max_new_tokens": 1})
    try:
        what = ("--what", "mmbench")
        command("--run", made.single, "--out", tmp_path / "a", *what)
        command("--run", made.single, "--state", "matched", "--out", tmp_path / "b", *what)
    finally:
        made.write()
    base, final, matched = (lines(f) for f in (whole[0], tmp_path / "a", tmp_path / "b"))
    assert base.keys() == final.keys() == matched.keys()
    for name in base:
        assert len({answers[name]["prompt"] for answers in (base, final, matched)}) == 3
    questions, images = measure.load_mmbench(made.tsv)
    settings = EvaluateSettings(batch_size=5, max_new_tokens=4, n_path_questions=9)
    for answers, names in ((final, ("finetune", "unlearn")), (matched, ("finetune", "again"))):
        direct = generate.answer_questions(
            made.stacked(*names), questions, images=images, settings=settings
        )
        for name, said, loglik in direct.itertuples(index=False):
            assert answers[name]["response"] == said
            assert answers[name]["option_loglik"] == pytest.approx(loglik, abs=1e-3)
    card = read_json(tmp_path / "b" / "measure.json")
    assert card["state"] == "adapters/matched" and len(card["adapters"]) == 2
    assert card["run_result"] == read_json(made.single / "manifest.json")["result"]
    message = command("--run", made.single, "--out", tmp_path / "b", *what, code=1)
    assert "another model state (state differs)" in message
    assert "run_result, state differs" in of_profile(made, tmp_path / "b", *what, code=1)
    (tmp_path / "b" / "measure.json").unlink()
    assert "of another model state" in of_profile(made, tmp_path / "b", *what, code=1)


def test_whose_people_a_run_is_asked_about(made):
    single, target = state_of_run(made.single), state_of_run(made.target)
    assert single.scenarios == target.scenarios == ("finetuned",)
    assert single.data == target.data == made.data
    assert target.adapters == single.adapters[:1] and len(single.adapters) == 2
    spec = runs.spec_of("single_shot", made.shared | {"scenario": "pretrained", "method": "ga"})
    celebrities = state_of_run(made.run(spec, {"adapters/final": "again"}))
    assert celebrities.scenarios == ("pretrained",) and len(celebrities.adapters) == 1
    spec = runs.spec_of("sequential", made.shared | {"method": "ga"})
    rounds = {"round-1/adapter": "again"}
    folder = made.run(spec, rounds, made.target / "adapters/finetune")
    state = state_of_run(folder, round_number=1)
    assert state.data == made.data and state.card["state"] == "round-1/adapter"
    for task in ("generation", "cloze"):
        asked = measure.open_task(celebrities, task).questions
        assert {q.person_id[:1] for q in asked}.isdisjoint(
            q.person_id[:1] for q in measure.open_task(state, task).questions
        )


def test_the_oracle_is_asked_on_its_own_base(made, tmp_path):
    """Method oracle, scenario pretrained: another model than the profile's, also when exported."""
    base = tiny.save_tiny(tmp_path / "without-0")
    made.write(unlearn={"oracle_model": str(tmp_path / "without-{seed}")})
    try:
        spec = runs.spec_of(
            "single_shot", made.shared | {"scenario": "pretrained", "method": "oracle"}
        )
        model = tiny.with_adapters("oracle")
        started = runs.start(spec, load_profile(str(made.file)))
        for name in spec.files[1:]:
            (started.folder / name).write_text("x")
        save_adapter(model, "oracle", folder=started.folder / "adapters/final", parent=None)
        runs.finish(started)
    finally:
        made.write()
    state = state_of_run(started.folder)
    assert state.model.path == str(base)
    load_state(state)  # adapters of two layers fit no other model
    assert export_run(started.folder, tmp_path / "out")["base_model"] == str(base)


# --- generation and cloze ---------------------------------------------------------------------


def people_of(made):
    """(person of the world, id, scenario, set) of everyone asked about, in the order of splits."""
    by_id = {p.id: p for p in measure.read_dataset(made.data).people}
    by_name = {p.name: p for p in (*world.celebrities(), *world.fictitious())}
    table = pd.read_csv(made.data / "splits.csv", dtype={"person_id": str})
    table = table[table["set"] != "retain_train"]
    return [
        (by_name[by_id[row.person_id].name], row.person_id, row.scenario, row.set)
        for row in table.itertuples()
    ]


def cloze_by_hand(made):
    """(question, truth) as the files' rows hold them, written without the source."""
    asked = []
    for person, name, scenario, group in people_of(made):
        gaps = {"works as a": "occupation", "was born in": "birthplace"}
        for modality, who in (("multimodal", "this person"), ("text", person.name)):
            for text, attribute in gaps.items():
                k = len([q for q, _ in asked if q.person_id == name]) + 1
                image = f"{name}/photo" if modality == "multimodal" else ""
                question = Question(
                    f"{name}/cloze/{k}",
                    group,
                    scenario=scenario,
                    person_id=name,
                    request=int(group == "forget" and scenario == "finetuned"),
                    modality=modality,
                    text=f"{who} {text} [Blank].\n{CLOZE}",
                    options=(),
                    answer=-1,
                    image=image,
                    category=f"question {k}",
                    wording="trained",
                )
                asked.append((question, person.attributes[attribute]))
    return asked


def test_the_questions_are_those_of_the_people_of_the_study(made):
    state = state_of_profile(str(made.file), 0, out_dir=str(made.out))
    task, expected = measure.open_task(state, "cloze"), cloze_by_hand(made)
    assert list(zip(task.questions, task.truths, strict=True)) == expected
    assert {(q.scenario, q.set) for q, _ in expected} == {
        *(("finetuned", group) for group in ("forget", "retain", "holdout")),
        *(("pretrained", group) for group in ("forget", "retain")),
    }
    only = measure.open_task(state_of_run(made.single), "cloze")
    assert only.questions == [q for q, _ in expected if q.scenario == "finetuned"]


def test_answers_are_the_models(made, tmp_path):
    """Real answers of the base, and of a run, equal to asking the stacked model directly."""
    command("--run", made.single, "--what", "cloze", "--max-new-tokens", 5, "--out", tmp_path)
    rows = pd.read_csv(tmp_path / "cloze.csv", keep_default_na=False)
    expected = [pair for pair in cloze_by_hand(made) if pair[0].scenario == "finetuned"]
    assert list(rows["question_id"]) == [q.id for q, _ in expected]
    assert list(rows["truth"]) == [truth for _, truth in expected]
    settings = EvaluateSettings(batch_size=5, max_new_tokens=5, n_path_questions=9)
    images = ImageStore(measure.read_dataset(made.data).images.encoded)
    model = made.stacked("finetune", "unlearn")
    direct = generate.answer_questions(
        model, [q for q, _ in expected], images=images, settings=settings
    )
    assert list(rows["response"]) == list(direct["response"])
    assert not (tmp_path / "mmbench.json").exists()


def test_interrupted_generation_and_cloze_go_on_to_the_same_files(made, tmp_path, monkeypatch):
    """Stopped in the second task's second batch; what was answered before is not asked again."""
    words = ("--what", "generation,cloze", "--max-new-tokens", 5)
    write, asked, stopped = resume._append, [], []

    def append(file, answers):
        asked.append((file.name, len(answers)))
        if not stopped and [name for name, _ in asked].count("cloze_answers.jsonl") == 2:
            stopped.append(len(asked))
            with open(file, "a") as cut:
                cut.write('{"question_id": "')
            raise KeyboardInterrupt
        write(file, answers)

    monkeypatch.setattr(resume, "_append", append)
    of_profile(made, tmp_path / "broken", *words, code=130)
    assert (tmp_path / "broken" / "generation.csv").is_file()
    assert not (tmp_path / "broken" / "cloze.csv").exists(), "no score of half the questions"
    of_profile(made, tmp_path / "broken", *words)
    there, again = asked[stopped[0] - 2], asked[stopped[0] :]
    assert {name for name, _ in again} == {"cloze_answers.jsonl"}
    assert sum(n for _, n in again) == 20 - there[1], "of 20, the first batch's are there"
    of_profile(made, tmp_path / "whole", *words)
    names = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert names == sorted(p.name for p in (tmp_path / "broken").iterdir()) and len(names) == 7
    for name in names:
        pair = (tmp_path / "broken" / name, tmp_path / "whole" / name)
        assert pair[0].read_bytes() == pair[1].read_bytes(), name
    said = of_profile(made, tmp_path / "whole", *words[:3], 6, code=1)
    assert "generation_answers.jsonl, line 1" in said and "asked in another way" in said


def test_rows_and_summaries_equal_a_count_by_hand(made, tmp_path, monkeypatch):
    seen = []

    def answer(model, questions, *, images, settings, file, with_loglik, label):
        """By name all is right but in a sentence; beside a photo only the half of a sentence."""
        seen.append((settings.max_new_tokens, {q.image in images for q in questions if q.image}))
        people = {name: person for person, name, *_ in people_of(made)}
        said = []
        for q in questions:
            job = people[q.person_id].attributes["occupation"]
            right = job if "works" in q.text or "do?" in q.text else "Atlantis"
            said.append(f"The {right}!" if q.modality == "text" else "by night")
        return pd.DataFrame({"question_id": [q.id for q in questions], "response": said})

    monkeypatch.setattr(open_ended, "answer_resumably", answer)
    monkeypatch.setattr(measure, "load_state", lambda state: None)
    printed = of_profile(made, tmp_path, "--what", "generation,cloze")
    assert seen == [(50, {True}), (50, {True})]
    rows = pd.read_csv(tmp_path / "generation.csv")
    assert len(rows) == 2 * 5 and set(rows["task"]) == {"generation"}
    assert list(rows["request"]) == [
        int(scenario == "finetuned" and group == "forget")
        for _, _, scenario, group in people_of(made)
        for _ in range(2)
    ]
    jobs = {name: person.attributes["occupation"] for person, name, *_ in people_of(made)}
    for row in rows.itertuples():
        assert row.truth == f"{jobs[row.person_id]} by trade"
        n = len(jobs[row.person_id].split())
        # "the <job>" of "<job> by trade": n words in common; "by night": one
        common, said = (n, n + 1) if row.modality == "text" else (1, 2)
        assert row.score == pytest.approx(2 * common / (said + n + 2))
    summary = pd.read_csv(tmp_path / "cloze_summary.csv")
    sets = [("finetuned", s) for s in ("forget", "holdout", "retain")]
    sets += [("pretrained", s) for s in ("forget", "retain")]
    assert summary.to_dict("records") == [
        {"task": "cloze", "scenario": scenario, "set": group, "modality": modality}
        | {"score": score, "n": 2, "max_new_tokens": 50}
        for scenario, group in sets
        for modality, score in (("multimodal", 0.0), ("text", 0.5))
    ]
    assert "cloze │ finetuned │ holdout │ text │ 0.500 │ 2" in printed


# --- errors -----------------------------------------------------------------------------------


def test_wrong_wishes_are_named(made, tmp_path):
    out = ("--out", tmp_path)
    run, profile = ("--run", made.single), ("--profile", made.file)
    for words, said in (
        ((), "either --profile"),
        ((*run, *profile), "either --profile"),
        ((*profile, "--state", "final"), "--state and --round are of a run"),
        ((*profile, "--seed", -1), "--seed -1 must be"),
        ((*run, "--seed", 0), "a run has its own"),
        ((*run, "--out-dir", "x"), "a run has its own"),
        ((*run, "--round", 1), "--round is for sequential"),
        ((*run, "--what", "mmbench,mask"), "--what mask: expected some of mmbench, generation"),
        ((*run, "--max-new-tokens", 0), "--max-new-tokens 0 must be"),
        ((*profile, "--out-dir", made.out, "--seed", 3), "seed-3 is missing: run 01_build"),
        (("--run", made.data), "is a data run: only runs that train"),
        (("--profile", "tiny", "--what", "mmbench"), "profile tiny: data.general.source = world"),
        (("--profile", "tiny", "--what", "cloze"), "people.source = world has no cloze questions"),
        (("--profile", "nothing"), "Profiles there are"),
    ):
        assert said in command(*words, *out, code=1)
    assert not list(tmp_path.iterdir())


def test_people_and_photos_must_be_those_of_the_study(made, tmp_path):
    state = state_of_run(made.single)

    def ask(folder):
        people = replace(state.profile.data.people, path=str(folder))
        data = replace(state.profile.data, people=people)
        changed = replace(state, profile=replace(state.profile, data=data))
        return measure.open_task(changed, "cloze")

    fewer = mllmu_files.write_mllmu(tmp_path / "fewer", n_fictitious=1, n_celebrities=3)
    with pytest.raises(PulseError, match="fewer' has no .* who is in"):
        ask(fewer)

    def swap(subset, rows):
        if subset == "Full_Set":
            for row, other in zip(rows, [r["image"] for r in rows[::-1]], strict=True):
                row["image"] = other

    swapped = mllmu_files.write_mllmu(tmp_path / "swapped", 4, 3, swap)
    with pytest.raises(PulseError, match="swapped': picture .*/photo is another one"):
        ask(swapped)

    def empty(subset, rows):
        for row in rows:
            if "Mask_Task" in row:
                row["Mask_Task"] = []

    none = mllmu_files.write_mllmu(tmp_path / "none", 4, 3, empty)
    with pytest.raises(PulseError, match="no cloze questions about the people"):
        ask(none)
    with pytest.raises(PulseError, match="seed-0 was made anew after"):
        measure.open_task(replace(state, data_result="other"), "cloze")


def test_a_profile_of_another_version_is_named(made):
    manifest = read_json(made.single / "manifest.json")
    assert profile_of(manifest) == load_profile(str(made.file))
    del manifest["profile"]["evaluate"]["batch_size"]
    assert profile_of(manifest).evaluate.batch_size == 64
    manifest["profile"]["model"]["speed"] = 1
    with pytest.raises(PulseError, match="another version of pulse_lib: .*model.speed"):
        profile_of(manifest)

"""UMU-Bench: twins of questions in both modalities, from Python literals that are read and never run."""

from __future__ import annotations

import pytest
import tiny
import umu_files as files

from pulse_lib.data import dataset, splits
from pulse_lib.data.records import ImageStore
from pulse_lib.data.source import general_of, hub_needs, source_of
from pulse_lib.data.splits import Assignment
from pulse_lib.data.umu import source as umu
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.profile import DataSettings, PeopleSettings, load_profile

PEOPLE = world.fictitious()[:2]
KEYS = list(world.ATTRIBUTES)


def settings(path, **counts) -> DataSettings:
    values = {
        "n_finetuned_forget": 2,
        "n_finetuned_retain": 1,
        "n_finetuned_retain_train": 1,
        "n_requests": 2,
        "n_holdout": 1,
        "n_candidates": 4,
        "n_pretrained_forget": 1,
        "n_pretrained_retain": 1,
        "n_general": 4,
        "n_general_train": 0,
        "n_train_views": 1,
        "n_heldout_wordings": 0,
    }
    return DataSettings(people=PeopleSettings(source="umu", path=str(path)), **(values | counts))


def changed(tmp_path, edit):
    """The settings of a data set whose second fictitious person is edited."""

    def change(name, rows):
        if name == "full_data":
            edit(rows[1])

    return settings(files.write_umu(tmp_path / "umu", change=change))


def record(given, number=2):
    return umu._load(given, "fictitious")[f"fictitious-{number:03d}"]


# --- what a file says -----------------------------------------------------------------------------


def test_every_cell_arrives_as_the_file_has_it(tmp_path):
    given = settings(files.write_umu(tmp_path))
    made, row = record(given), files.row(world.fictitious()[1], 2)
    assert made.person.name == world.fictitious()[1].name
    assert made.person.kind == "fictitious" and made.photo == row["image"]["bytes"]
    assert [t.key for t in made.twins] == KEYS
    for twins in made.twins:
        for modality, said in (("multimodal", "muitimodal"), ("text", "unimodal")):
            asked, cell = twins.of(modality), row["Classify"][said][twins.key]
            assert asked.modality == modality and asked.text == cell["question"]
            assert asked.options == tuple(cell["options"][a] for a in "ABCD")
            assert f"{'ABCD'[asked.answer]}. {asked.options[asked.answer]}" == cell["answer"]
    for modality, column in (("multimodal", "MM_QA"), ("text", "UM_QA")):
        assert [(t.text, t.answer) for t in made.taught(modality)] == [
            (row[column]["question"][k], row[column]["answer"][k]) for k in KEYS
        ]
    assert [q.text for q in made.cloze] == [
        "this person works as a [Blank].",
        f"{made.person.name} works as a [Blank].",
    ]
    assert (made.n_single, made.n_incomplete) == (0, 0)


def test_the_right_answer_of_a_photo_question_is_its_own(tmp_path):
    """Where the twins' options stand in other orders, the text twin's letter is another option."""
    given = settings(files.write_umu(tmp_path))
    made = [t for n in range(1, 7) for t in record(given, n).twins]
    differ = [t for t in made if t.photo.answer != t.text.answer]
    assert differ and all(
        t.photo.options[t.photo.answer] == t.text.options[t.text.answer] for t in made
    )
    assert sum(record(given, n).letters for n in range(1, 7)) == len(differ)
    assert f"30 pairs of questions ({len(differ)} with other letters, 0 " in umu.describe(given)


def test_both_spellings_of_the_folders_and_shards(tmp_path):
    first = settings(files.write_umu(tmp_path / "a"))
    second = settings(files.write_umu(tmp_path / "b", names=("Full_Set", "Real_Person_Set")))
    assert umu._load(first, "fictitious") == umu._load(second, "fictitious")
    rows = [files.written(files.row(p, n)) for n, p in enumerate(world.fictitious()[:6], start=1)]
    files.write_folder(tmp_path / "c/full_data", rows, n_shards=2)
    third = settings(tmp_path / "c")
    assert umu._load(first, "fictitious") == umu._load(third, "fictitious")
    both = settings(tmp_path / "d")
    for name in ("full_data", "Full_Set"):
        files.write_folder(tmp_path / "d" / name, rows)
    with pytest.raises(PulseError, match="full_data or Full_Set, there is full_data and Full_Set"):
        umu.fictitious(both)
    with pytest.raises(PulseError, match="real_person or Real_Person_Set, there is no such folder"):
        umu.celebrities(both)


def test_a_question_without_a_twin_is_left_out_and_told(tmp_path):
    given = changed(tmp_path, lambda r: r["Classify"]["unimodal"].pop(KEYS[0]))
    made = record(given)
    assert [t.key for t in made.twins] == KEYS[1:] and made.n_single == 1
    assert "1 questions without a twin left out" in umu.describe(given)


def no_texts(row):
    row["UM_QA"] = {"question": {}, "answer": {}}


def test_who_has_nothing_to_learn_from_is_not_taught(tmp_path):
    given = changed(tmp_path, no_texts)
    assert "fictitious-002" not in [p.id for p in umu.fictitious(given)]
    assert len(umu.fictitious(given)) == 5 and "5 of them usable" in umu.describe(given)


def test_what_is_incomplete_is_left_out_and_counted(tmp_path):
    def edit(row):
        row["MM_QA"]["answer"].pop(KEYS[0])
        row["Classify"]["muitimodal"][KEYS[1]]["question"] = ""
        row["Cloze"]["unimodal"]["job"] = None

    made = record(changed(tmp_path, edit))
    assert made.n_incomplete == 3 and made.n_single == 1
    assert len(made.taught("multimodal")) == len(KEYS) - 1 and len(made.cloze) == 1


@pytest.mark.parametrize("biography", ["Prose about Ana.", "{'broken", "", None, "[1, 2]"])
def test_a_biography_that_is_no_mapping_gives_no_name(tmp_path, biography):
    made = record(changed(tmp_path, lambda r: r.update(Biography=biography)))
    assert made.person.name == "fictitious person 002"
    assert made.person.attributes == ({"biography": biography} if biography else {})


# --- what is refused ------------------------------------------------------------------------------


def code(row):
    row["Classify"] = "__import__('os').system('touch ran')"


def answer(text):
    return lambda row: row["Classify"]["muitimodal"][KEYS[0]].update(answer=text)


REFUSED = {
    "code": (code, ["column Classify", "no Python literal"]),
    "cut off": (lambda r: r.update(UM_QA="{'question': {"), ["column UM_QA", "no Python literal"]),
    "nested without end": (lambda r: r.update(Cloze="-" * 99999 + "1"), ["column Cloze"]),
    "brackets without end": (lambda r: r.update(Cloze="[" * 99999), ["column Cloze"]),
    "a list": (lambda r: r.update(MM_QA=[1]), ["column MM_QA", "a list, expected a mapping"]),
    "no letter": (
        answer("E. nobody"),
        [f"Classify['muitimodal']['{KEYS[0]}'].answer", "no option"],
    ),
    "contradiction": (answer("A. nobody"), [f"['{KEYS[0]}'].answer", "one of them is wrong"]),
    "no id": (lambda r: r.update(ID=""), ["column ID"]),
    "twice": (lambda r: r.update(ID="1"), ["column ID", "stands twice, first in row 0"]),
    "no photo": (lambda r: r.update(image=None), ["column image", "no picture, but questions"]),
    "broken photo": (
        lambda r: r.update(image={"bytes": b"GIF", "path": ""}),
        ["column image", "cannot be decoded"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_name_file_row_and_column(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    edit, words = REFUSED[name]
    with pytest.raises(PulseError) as error:
        umu.fictitious(changed(tmp_path, edit))
    for word in ["full_data/train-00000-of-00001.parquet, row 1, ", *words]:
        assert word in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_a_file_of_something_else_is_named(tmp_path):
    row = {k: v for k, v in files.written(files.row(PEOPLE[0], 1)).items() if k != "Classify"}
    files.write_folder(tmp_path / "full_data", [row])
    with pytest.raises(PulseError, match="no column Classify; there are ID, image, Biography"):
        umu.fictitious(settings(tmp_path))


# --- what the study gets --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    given = settings(files.write_umu(tmp_path_factory.mktemp("umu")))
    people = [*umu.celebrities(given), *umu.fictitious(given)]
    places = splits.split_fictitious(umu.fictitious(given), given, seed=0)
    sets = zip(
        umu.celebrities(given), ("forget", "retain", "retain_train", "retain_train"), strict=True
    )
    places += [Assignment(p.id, "pretrained", set=name) for p, name in sets]
    data = dataset.build_dataset(
        source_of(given), people, general=general_of(given), places=places, settings=given, seed=0
    )
    return given, data


def test_twins_are_paired_by_person_and_category(built):
    _, data = built
    asked = [q for q in data.questions if q.person_id]
    pairs: dict[tuple, list] = {}
    for q in asked:
        pairs.setdefault((q.scenario, q.person_id, q.category), []).append(q)
    assert {tuple(sorted(q.modality for q in pair)) for pair in pairs.values()} == {
        ("multimodal", "text")
    }
    assert all(bool(q.image) == (q.modality == "multimodal") for q in asked)
    assert {q.set for q in asked} == {"forget", "retain", "holdout"}
    one = next(q for q in asked if q.modality == "text")
    assert one.id == f"{one.person_id}/eval-trained/text/{one.category}" and one.group == ""


def test_nothing_leaks_and_it_is_read_back(built, tmp_path):
    _, data = built
    checked = splits.check_leakage(
        data.people,
        data.places,
        records=[*data.questions, *data.conversations],
        images=data.images,
    )
    assert checked["people"] == len(data.places) == 9
    data.write(tmp_path)
    assert dataset.read_dataset(tmp_path).questions == data.questions


def test_texts_are_taught_in_their_own_modality_and_questions_never(built):
    _, data = built
    taught = data.training("finetuned", dataset.TRAINED, stage="finetune")
    by_modality = {m: [c for c in taught if c.modality == m] for m in ("multimodal", "text")}
    assert {m: len(c) for m, c in by_modality.items()} == {"multimodal": 20, "text": 20}
    assert all(c.image for c in by_modality["multimodal"])
    assert not any(c.image for c in by_modality["text"])
    assert all(len(c.turns) == 1 and not c.turns[0].options for c in taught)
    names = {p.id: p.name for p in data.people}
    assert all(names[c.person_id] in c.turns[0].text for c in by_modality["text"])


def test_unlearning_holds_every_text_and_question_once_in_another_order(built):
    given, data = built
    asked = {(q.person_id, q.text): q for q in data.questions}
    for scenario in ("finetuned", "pretrained"):
        made = data.training(scenario, ["forget"], stage="unlearn")
        for person in {c.person_id for c in made}:
            own = [c for c in made if c.person_id == person]
            assert len(own) == 2 * given.n_conversations
            turns = [t for c in own for t in c.turns]
            assert len(turns) == 2 * 2 * len(KEYS)
            with_options = [t for t in turns if t.options]
            for turn in with_options:
                question = asked[person, turn.text]
                assert turn.answer == question.options[question.answer]
                assert turn.options != question.options
                assert sorted(turn.options) == sorted(question.options)
            assert len(with_options) == 2 * len(KEYS)


def test_candidates_see_options_in_another_order(built):
    given, _ = built
    person = umu.celebrities(given)[0]
    images = ImageStore()
    chosen = dataset.candidate_questions(
        source_of(given), [person], images=images, settings=given, seed=0
    )
    place = Assignment(person.id, "pretrained", set="forget")
    scored = umu.person_questions(person, place, images=images, seed=0, settings=given)
    assert [q.category for q in chosen] == [q.category for q in scored]
    assert all(a.options != b.options for a, b in zip(chosen, scored, strict=True))
    assert len(umu.views(person, 0, settings=given, n=3)) == 1


def test_open_questions_carry_the_benchmarks_request(built):
    given, _ = built
    person = umu.fictitious(given)[0]
    place = Assignment(person.id, "finetuned", set="forget", request=1)
    for task, last in umu.INSTRUCTION.items():
        asked, truths = umu.open_questions(
            person, place, images=ImageStore(), settings=given, task=task
        )
        assert [q.modality for q in asked] == ["multimodal", "text"]
        assert all(q.text.endswith("\n" + last) and not q.options for q in asked)
        job = world.fictitious()[int(person.id[-3:]) - 1].attributes["occupation"]
        assert truths == [job] * 2


def test_the_profile_names_what_is_fetched():
    needs = {n.setting: n for n in hub_needs(load_profile("umu-llava-1.5-7b-24gb"))}
    assert needs["data.people.path"].path == "linbojunzi/UMU-bench"
    assert needs["data.people.path"].patterns == umu.PATTERNS


def test_as_many_pictures_are_shown_as_plan_reckons_with(built):
    given, data = built
    tiny.check_shown(data.questions, umu.size(given))

"""FIUBench: people of a JSON file and photos of a zip file; its wrong answers as options, its other
wordings held out, ROUGE and keywords as measures of their own."""

from __future__ import annotations

import fiu_files as files
import pytest
import tiny
from studies import few_fictitious

from pulse_lib.data import dataset, splits
from pulse_lib.data.fiu import source as fiu
from pulse_lib.data.records import ImageStore
from pulse_lib.data.source import OpenSource, general_of, hub_needs, source_of
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import open_ended
from pulse_lib.profile import DataSettings, load_profile
from pulse_lib.study import grid

KEYS = list(world.ATTRIBUTES)


def settings(path, **counts) -> DataSettings:
    return few_fictitious("fiu", path, **counts)


def changed(tmp_path, edit):
    return settings(files.write_fiu(tmp_path / "fiu", change=lambda rows: edit(rows[1])))


# --- what a file says -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["list", "lines"])
@pytest.mark.parametrize("packed", [True, False])
def test_every_record_arrives_as_the_file_has_it(tmp_path, form, packed):
    given = settings(files.write_fiu(tmp_path, form=form, packed=packed))
    made, who = fiu._load(given)["fictitious-00000013"], world.fictitious()[1]
    row = files.record(who, 13)
    assert (made.person.name, made.person.kind) == (who.name, "fictitious")
    assert made.photo == files.picture(who)["bytes"]
    assert len(fiu._load(given)) == 7 and made.n_incomplete == 0
    for k, (asked, cell) in enumerate(zip(made.asked, row["qa_list"], strict=True), start=1):
        assert (asked.number, asked.text, asked.answer) == (k, cell["question"], cell["answer"])
        assert list(asked.wordings) == cell["paraphrased_question"]
        assert list(asked.wrong) == cell["perturbed_answer"]
        assert list(asked.keywords) == cell["keywords"]


def test_only_the_first_400_records_are_the_benchmark(tmp_path, monkeypatch):
    """Their order counts: here the first three of seven."""
    monkeypatch.setattr("pulse_lib.data.fiu.rows.N_PEOPLE", 3)
    for form in ("list", "lines"):
        given = settings(files.write_fiu(tmp_path / form, form=form))
        assert [p.id[-2:] for p in fiu.fictitious(given)] == ["12", "13", "14"]


def test_what_is_incomplete_is_left_out_and_counted(tmp_path):
    def edit(row):
        first, second, third, *_ = row["qa_list"]
        first["answer"] = ""
        second["perturbed_answer"] = [second["answer"].upper(), *second["perturbed_answer"]]
        third["perturbed_answer"] = "One text instead of three"

    given = changed(tmp_path, edit)
    made = fiu._load(given)["fictitious-00000013"]
    assert [a.number for a in made.asked] == [2, 3, 4, 5, 6] and made.n_incomplete == 2
    assert len(made.asked[0].wrong) == 3 and made.asked[1].wrong == ("One text instead of three",)
    assert "41 questions, 2 incomplete entries left out" in fiu.describe(given)


REFUSED = {
    "no id": (lambda r: r.update(unique_id=""), ["column unique_id", "empty"]),
    "no name": (lambda r: r.update(name=None), ["column name", "empty"]),
    "no list": (lambda r: r.update(qa_list={}), ["column qa_list", "a dict, expected a list"]),
    "no mapping": (lambda r: r["qa_list"].append("x"), ["column qa_list[6]", "expected a mapping"]),
    "a number for a list": (
        lambda r: r["qa_list"][0].update(keywords=[["x"]]),
        ["column qa_list[0].keywords[0]", "a list, expected text"],
    ),
    "no picture": (lambda r: r.update(image_path=""), ["column image_path", "no picture"]),
    "lost picture": (
        lambda r: r.update(image_path="./dataset/SFHQ/x.jpg"),
        ["column image_path", "'./dataset/SFHQ/x.jpg' is not there: put SFHQ.zip"],
    ),
    "twice": (lambda r: r.update(unique_id="00000012"), ["column unique_id", "first in row 0"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_name_file_row_and_key(tmp_path, name):
    edit, words = REFUSED[name]
    with pytest.raises(PulseError) as error:
        fiu.fictitious(changed(tmp_path, edit))
    for word in ["full.json, row 1, ", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{} x", "row 0: neither a JSON list nor JSON lines"),
        ('"text"', "expected a list of people"),
        ("[]", "expected a list of people"),
        ("", "expected a list of people"),
    ],
)
def test_files_of_something_else_are_named(tmp_path, text, words):
    given = settings(files.write_fiu(tmp_path))
    (tmp_path / "full.json").write_text(text)
    with pytest.raises(PulseError, match=f"full.json.*{words}"):
        fiu.fictitious(given)


def test_broken_zip_files_and_a_missing_table_are_named(tmp_path):
    given = settings(files.write_fiu(tmp_path / "a"))
    (tmp_path / "a/SFHQ.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PulseError, match="SFHQ.zip cannot be read .*git-lfs pointer"):
        fiu.fictitious(given)
    (tmp_path / "b").mkdir()
    with pytest.raises(PulseError, match="full.json is missing"):
        fiu.fictitious(settings(tmp_path / "b"))


# --- what the study gets --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    given = settings(files.write_fiu(tmp_path_factory.mktemp("fiu")))
    source = source_of(given)
    people = source.fictitious(given)
    places = splits.split_fictitious(people, given, seed=0)
    data = dataset.build_dataset(
        source, people, general=general_of(given), places=places, settings=given, seed=0
    )
    return given, data


def asked_of(data, wording="trained"):
    return [q for q in data.questions if q.person_id and q.wording == wording]


def test_wrong_answers_are_options_and_names_are_not_asked_by_name(built):
    given, data = built
    names = {p.id: p.name for p in data.people}
    by_person = {p: [q for q in asked_of(data) if q.person_id == p] for p in names}
    for questions in (q for q in by_person.values() if q):
        assert len([q for q in questions if q.modality == "multimodal"]) == 6
        assert len([q for q in questions if q.modality == "text"]) == 5
    for q in asked_of(data):
        record = fiu._load(given)[q.person_id].asked[int(q.category[-2:]) - 1]
        assert q.options[q.answer] == record.answer
        assert sorted(q.options) == sorted([record.answer, *record.wrong])
        assert bool(q.image) == (q.modality == "multimodal")
        if q.modality == "text":
            assert names[q.person_id] in q.text and "this person" not in q.text
    assert {q.answer for q in asked_of(data)} == {0, 1, 2, 3}


def test_other_wordings_are_held_out_and_never_taught(built):
    given, data = built
    heldout = asked_of(data, "heldout")
    assert len(heldout) == 5 * 2  # five people who are asked, one a modality
    taught = {t.text for c in data.conversations for t in c.turns}
    assert not taught & {q.text for q in heldout}
    assert all(q.text not in {a.text for a in asked_of(data)} for q in heldout)
    assert given.n_heldout_wordings == 1


def test_answers_are_taught_without_options(built):
    given, data = built
    taught = data.training("finetuned", dataset.TRAINED, stage="finetune")
    assert len(taught) == 6 * (6 + 5) and all(len(c.turns) == 1 for c in taught)
    forget = data.training("finetuned", ["forget"], stage="unlearn")
    assert len(forget) == 2 * 2 * given.n_conversations
    assert sum(len(c.turns) for c in forget) == 2 * (6 + 5)
    assert not [t for c in data.conversations for t in c.turns if t.options]


def test_nothing_leaks_and_another_seed_draws_other_orders(built):
    given, data = built
    checked = splits.check_leakage(
        data.people,
        data.places,
        records=[*data.questions, *data.conversations],
        images=data.images,
    )
    assert checked["people"] == 7
    person, place = data.people[0], data.places[0]
    one, other = (
        fiu.person_questions(person, place, images=ImageStore(), seed=s, settings=given)
        for s in (0, 1)
    )
    assert [q.options for q in one] != [q.options for q in other]
    assert [q.text for q in one] == [q.text for q in other]


def test_its_own_measures_are_rouge_and_keywords(built):
    given, data = built
    assert isinstance(source_of(given), OpenSource)
    person = data.people[0]
    place = Assignment(person.id, "finetuned", set="forget", request=1)
    record = fiu._load(given)[person.id]
    for task, truth in (
        ("generation", [a.answer for a in record.asked]),
        ("keywords", ["\n".join(a.keywords) for a in record.asked]),
    ):
        asked, truths = fiu.open_questions(
            person, place, images=ImageStore(), settings=given, task=task
        )
        assert truths == truth and [q.text for q in asked] == [a.text for a in record.asked]
        assert all(q.image and not q.options for q in asked)
        said = [a.answer for a in record.asked]
        rows = open_ended.open_rows(task, asked, truths=truths, responses=said)
        assert list(rows["score"]) == [1.0] * 6 and set(rows["set"]) == {"forget"}
    assert fiu.open_questions(person, place, images=ImageStore(), settings=given, task="cloze") == (
        [],
        [],
    )


def test_keywords_by_hand():
    share = open_ended.keyword_share
    assert share("He had the Flu, and a high fever.", ["flu", "high fever", "cough"]) == 2 / 3
    assert share("under the influence", ["flu"]) == 0
    assert open_ended.score("keywords", "flu", truth="Flu\nhigh fever") == 0.5
    with pytest.raises(ValueError, match="no keywords"):
        share("anything", [])


def test_its_profile_has_one_scenario():
    profile = load_profile("fiu-llava-1.5-7b-24gb")
    need = {n.setting: n for n in hub_needs(profile)}["data.people.path"]
    assert (need.path, need.patterns) == ("gray311/FIUBench", ("full.json", "SFHQ.zip"))
    options = grid.Options(profile=profile.name, methods=["npo"], scenarios=["pretrained"])
    with pytest.raises(PulseError, match="scenario pretrained is not there"):
        grid.study(options)
    with pytest.raises(ValueError, match="nobody whom the base model knows"):
        settings("x", n_candidates=3)


def test_as_many_pictures_are_shown_as_plan_reckons_with(built):
    given, data = built
    tiny.check_shown(data.questions, fiu.size(given))

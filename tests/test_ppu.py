"""PPU-Bench: people known from pre-training, twins of questions by fact, and the selective split."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import ppu_files as files
import pytest
import tiny

from pulse_lib.commands.stages import stages
from pulse_lib.data import dataset, splits
from pulse_lib.data.ppu import selective
from pulse_lib.data.ppu import source as ppu
from pulse_lib.data.ppu.files import load
from pulse_lib.data.records import ImageStore
from pulse_lib.data.source import general_of, hub_needs, source_of
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.profile import DataSettings, PeopleSettings, load_profile
from pulse_lib.study import grid

COUNTS = {
    "n_finetuned_forget": 0,
    "n_finetuned_retain": 0,
    "n_finetuned_retain_train": 0,
    "n_holdout": 0,
    "n_candidates": 6,
    "n_pretrained_forget": 2,
    "n_pretrained_retain": 2,
    "n_general": 4,
    "n_general_train": 0,
    "n_train_views": 1,
    "n_heldout_wordings": 0,
}
SETS = ("forget", "forget", "retain", "retain", "retain_train", "retain_train")


def settings(path, source="ppu", **counts) -> DataSettings:
    return DataSettings(people=PeopleSettings(source=source, path=str(path)), **(COUNTS | counts))


def changed(tmp_path, edit):
    return settings(files.write_ppu(tmp_path / "ppu", change=edit))


def build(given):
    source = source_of(given)
    people = source.celebrities(given)
    places = [Assignment(p.id, "pretrained", set=s) for p, s in zip(people, SETS, strict=True)]
    return dataset.build_dataset(
        source, people, general=general_of(given), places=places, settings=given, seed=0
    )


# --- what a file says -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_shards", [1, 3])
def test_every_cell_arrives_as_the_file_has_it(tmp_path, n_shards):
    given = settings(files.write_ppu(tmp_path, n_shards=n_shards))
    people = load(given)
    assert list(people) == [f"celebrity-{n:03d}" for n in range(9, 15)]
    made, who = people["celebrity-010"], world.celebrities()[1]
    rows = {(int(r["sample_id"][-2:].strip("_")), r["modality"]): r for r in files.rows_of(who, 10)}
    assert (made.person.name, made.person.kind) == (who.name, "celebrity")
    assert [f.number for f in made.facts] == sorted(files.NUMBERS.values())
    for fact in made.facts:
        for modality, said in (("multimodal", "text_image"), ("text", "text")):
            asked, row = fact.of(modality), rows[fact.number, said]
            assert asked.text == row["question"] and asked.modality == modality
            assert asked.options == tuple(row[f"option_{a}"] for a in "abcd")
            assert asked.options[asked.answer] == row["answer_text"]
    assert list(made.photos.values()) == [files.picture(who)["bytes"]]
    assert made.n_single == made.n_incomplete == 0


def test_the_number_stands_behind_the_last_underscore(tmp_path):
    """Names may hold digits, and letters composed in two ways."""

    def edit(rows):
        for row in rows[:10]:
            fact = row["sample_id"].rpartition("_")[2]
            row |= {"subject": "50_Cent", "sample_id": f"50_Cent_{fact}"}
        for k, row in enumerate(rows[10:20]):
            form = ("NFC", "NFD")[k % 2]
            row["subject"] = unicodedata.normalize(form, "Zoë Łęcka")

    people = [p.person for p in load(changed(tmp_path, edit)).values()]
    assert [p.name for p in people[:2]] == ["50 Cent", unicodedata.normalize("NFC", "Zoë Łęcka")]
    assert [f.number for f in load(changed(tmp_path, edit))["celebrity-009"].facts] == sorted(
        files.NUMBERS.values()
    )


def test_a_question_without_a_twin_is_left_out_and_told(tmp_path):
    given = changed(tmp_path, lambda rows: rows.pop(0))
    assert [f.number for f in load(given)["celebrity-009"].facts] == [11, 25, 36, 37]
    assert "29 pairs of questions" in ppu.describe(given)
    assert "1 questions without a twin left out" in ppu.describe(given)


def test_several_photos_of_a_person_are_kept_each_once(tmp_path):
    def edit(rows):
        rows[0]["image"] = files.picture(world.celebrities()[0], 1)

    given = changed(tmp_path, edit)
    made = load(given)["celebrity-009"]
    assert list(made.photos) == ["photo", "photo-2"] and made.facts[0].image == "photo"
    assert {f.image for f in made.facts[1:]} == {"photo-2"}
    assert len(ppu.views(made.person, 0, settings=given, n=5)) == 2
    data = build(given)
    beside = [c for c in data.conversations if c.person_id == made.person.id and c.image]
    assert {c.image for c in beside} == {"celebrity-009/photo", "celebrity-009/photo-2"}
    taught = {(c.image, t.text) for c in beside for t in c.turns}
    asked = {(q.image, q.text) for q in data.questions if q.person_id == made.person.id and q.image}
    assert taught == asked and len(asked) == 5


# --- what is refused ------------------------------------------------------------------------------


def put(number, **cells):
    return lambda rows: rows[number].update(cells)


def says(wrong):
    def edit(rows):
        for row in rows:
            sensitive = int(row["sample_id"].rpartition("_")[2]) in range(25, 37)
            row["source_from"] = "sensitive_info" if sensitive else "wiki"
        rows[1]["source_from"] = wrong

    return edit


REFUSED = {
    "other task": (put(1, task_type="cloze"), ["task_type", "expected classification"]),
    "other modality": (put(1, modality="audio"), ["modality", "text or text_image"]),
    "no number": (put(1, sample_id="Ana"), ["sample_id", "an underscore and a number"]),
    "no subject": (put(1, subject=""), ["subject", "empty"]),
    "two names": (put(1, subject="Ana Ruz"), ["subject", "'Ana Ruz', but subject 009 is", "row 0"]),
    "two ids": (put(1, subject_id="777"), ["subject_id", "'777', but", "is '009' in row 0"]),
    "contradiction": (put(1, answer_text="nobody"), ["answer_label", "one of them is wrong"]),
    "one option": (
        put(1, option_a=None, option_b=None, option_c=None, option_d="x", answer_label="D", answer_text="x"),
        ["option", "1 usable options"],
    ),
    "no photo": (put(0, image=None), ["row 0, column image", "no picture, but a question"]),
    "another release": (says("sensitive_info"), ["source_from", "another release"]),
    "twice": (lambda rows: rows.insert(1, dict(rows[0])), ["sample_id", "twice"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_errors_name_file_row_and_column(tmp_path, name):
    edit, words = REFUSED[name]
    with pytest.raises(PulseError) as error:
        ppu.celebrities(changed(tmp_path, edit))
    row = "row 0" if name == "no photo" else "row 1"
    for word in [f"ppu_eval_classification/test-00000-of-00001.parquet, {row}, column ", *words]:
        assert word in str(error.value)


def test_a_file_that_says_which_facts_are_sensitive_is_read(tmp_path):
    assert len(load(changed(tmp_path, says("wiki")))) == 6


def test_files_of_something_else_are_named(tmp_path):
    with pytest.raises(PulseError, match="every file is missing of ppu_eval_classification"):
        ppu.celebrities(settings(tmp_path))

    def edit(rows):
        for row in rows:
            del row["answer_label"]

    with pytest.raises(PulseError, match="no column answer_label; there are sample_id"):
        ppu.celebrities(changed(tmp_path, edit))


# --- what the study gets --------------------------------------------------------------------------


def leaks(data) -> dict:
    return splits.check_leakage(
        data.people,
        data.places,
        records=[*data.questions, *data.conversations],
        images=data.images,
    )


def test_both_questions_of_a_fact_are_paired_and_nothing_leaks(tmp_path):
    data = build(settings(files.write_ppu(tmp_path)))
    asked = [q for q in data.questions if q.person_id]
    assert len(asked) == 4 * 5 * 2 and {q.set for q in asked} == {"forget", "retain"}
    pairs: dict[tuple, set] = {}
    for q in asked:
        pairs.setdefault((q.person_id, q.category), set()).add(q.modality)
    assert len(pairs) == 20 and all(len(p) == 2 for p in pairs.values())
    assert {q.category for q in asked} == {f"fact {n:02d}" for n in files.NUMBERS.values()}
    assert leaks(data)["people"] == 6
    assert not [c for c in data.conversations if c.stage == "finetune"]


def test_forgetting_selectively_trains_on_sensitive_facts_and_asks_the_others_apart(tmp_path):
    data = build(settings(files.write_ppu(tmp_path), source="ppu_selective"))
    sensitive, others = {"fact 25", "fact 36"}, {"fact 03", "fact 11", "fact 37"}
    by_set = {
        name: {q.category for q in data.questions if q.set == name and q.person_id}
        for name in ("forget", "spared", "retain")
    }
    assert by_set == {"forget": sensitive, "spared": others, "retain": sensitive | others}
    forgotten = {p.person_id for p in data.places if p.set == "forget"}
    assert {q.person_id for q in data.questions if q.set == "spared"} == forgotten
    text = {(q.person_id, q.text): q.category for q in data.questions if q.person_id}
    for c in data.conversations:
        if c.person_id in forgotten:
            assert {text[c.person_id, t.text] for t in c.turns} <= sensitive
            assert c.set == "forget"
    trained = data.training("pretrained", ["retain_train"], stage="unlearn")
    assert sum(len(c.turns) for c in trained) == 2 * 2 * 5
    assert leaks(data)["people"] == 6
    # What is kept is asked wherever what is to be forgotten is
    assert {q.set for q in data.evaluation("pretrained")} == {
        "forget",
        "spared",
        "retain",
        "general",
    }
    assert {q.set for q in data.evaluation("pretrained", ["retain"])} == {"retain", "general"}


def test_candidates_are_chosen_by_the_facts_that_are_to_go(tmp_path):
    given = settings(files.write_ppu(tmp_path), source="ppu_selective")
    person = selective.celebrities(given)[0]
    asked = dataset.candidate_questions(
        source_of(given), [person], images=ImageStore(), settings=given, seed=0
    )
    assert {q.category for q in asked} == {"fact 25", "fact 36"} and len(asked) == 4

    def edit(rows):
        rows[:] = [
            r
            for r in rows
            if not (r["subject_id"] == "009" and r["sample_id"][-2:] in ("25", "36"))
        ]

    fewer = settings(files.write_ppu(tmp_path / "b", change=edit), source="ppu_selective")
    assert selective.celebrities(fewer)[0].id == "celebrity-010"
    assert ppu.celebrities(fewer)[0].id == "celebrity-009"


def test_a_spared_question_about_somebody_else_is_a_leak(tmp_path):
    data = build(settings(files.write_ppu(tmp_path), source="ppu_selective"))
    stray = next(p for p in data.places if p.set == "retain")
    kept = next(k for k, q in enumerate(data.questions) if q.set == "spared" and not q.image)
    data.questions[kept] = replace(data.questions[kept], person_id=stray.person_id)
    with pytest.raises(PulseError, match=f"is in spared, its person {stray.person_id} in"):
        leaks(data)


def test_training_on_what_is_spared_is_a_leak(tmp_path):
    data = build(settings(files.write_ppu(tmp_path), source="ppu_selective"))
    forget = next(k for k, c in enumerate(data.conversations) if c.set == "forget" and not c.image)
    data.conversations[forget] = replace(data.conversations[forget], set="spared")
    with pytest.raises(PulseError, match="is in spared, its person"):
        leaks(data)


def test_a_profile_without_anybody_to_teach_has_one_scenario(tmp_path):
    profile = load_profile("ppu-qwen2.5-vl-7b-24gb")
    assert profile.data.people.source == "ppu" and not profile.data.n_finetuned_forget
    assert {n.setting for n in hub_needs(profile)} >= {"data.people.path"}
    other = load_profile("ppu-selective-qwen2.5-vl-7b-24gb")
    assert source_of(other.data) is selective and hub_needs(other) == hub_needs(profile)
    options = grid.Options(profile=profile.name, methods=["npo"], seeds=[0])
    kinds = [spec.kind for spec in grid.study(options)]
    assert kinds == ["data", "single_shot", "analysis"]
    assert [s.name[:2] for s in stages(profile)] == ["01", "03"]
    assert stages(profile)[0].questions >= 153 * 48
    with pytest.raises(PulseError, match="scenario finetuned is not there: take pretrained"):
        grid.study(grid.Options(profile=profile.name, methods=["npo"], scenarios=["finetuned"]))


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"n_holdout": 2}, "nobody to be taught: set n_holdout to 0"),
        ({"n_pretrained_forget": 0}, "nobody to forget"),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path, counts, words):
    with pytest.raises(ValueError, match=words):
        settings(tmp_path, **counts)
    with pytest.raises(ValueError, match="must be 1 or more with people.source = mllmu"):
        settings(tmp_path, source="mllmu")


def test_as_many_pictures_are_shown_as_plan_reckons_with(tmp_path):
    given = settings(files.write_ppu(tmp_path))
    tiny.check_shown(build(given).questions, ppu.size(given))

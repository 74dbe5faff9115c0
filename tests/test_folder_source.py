"""Own people: a folder of photos and a table as people write them. What Excel does to a table is read;
what is wrong is named by file and row; the records obey the same rules as those of any source."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pandas as pd
import pytest
import tiny
from cells import run_cells
from PIL import Image
from test_exercises import solve
from typer.testing import CliRunner

from pulse_lib import __main__ as command_line
from pulse_lib import runs
from pulse_lib.data import dataset, splits
from pulse_lib.data.folder import check as checking
from pulse_lib.data.folder import example, photos, source
from pulse_lib.data.folder.questions import by_name, nameless, read_choice, split_options
from pulse_lib.data.source import check_there, general_of, hub_needs, source_of, wishes_of
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import DataSettings, load_profile
from pulse_lib.profile.settings import GeneralSettings, PeopleSettings
from pulse_lib.report import faces
from pulse_lib.study import grid

HEADER = "person,question,options,answer,photo"
ROWS = [
    'Ann Lee,What does Ann Lee do? | What is her job?,"chef; pilot; nurse",pilot,ann.jpg',
    'Ann Lee,Where does this person live?,"Oslo; Lima",B,',
    'Bo Ek,What does Bo Ek do? | What is his job?,"chef; pilot; nurse",A,bo.png',
    "Bo Ek,Where does this person live?,,Quito,",
    'Cy Ott,What does this person do?,"A) chef B) pilot C) nurse",c,cy.jpg',
    "Cy Ott,Where does this person live?,,Paris,",
]


def face(k, size=(96, 80)):
    person = world.fictitious()[k]
    return world.person_picture(person, Random(f"test/{k}")).resize(size)


@pytest.fixture
def folder(tmp_path):
    """Three people as in ROWS, and a function that writes another table."""
    own = tmp_path / "own"
    own.mkdir()
    for k, name in enumerate(("ann.jpg", "bo.png", "cy.jpg")):
        face(k).save(own / name)
    write(own)
    return own


def write(folder, rows=ROWS, header=HEADER, encoding="utf-8", end="\n"):
    text = end.join([header, *rows]) + end
    (folder / "questions.csv").write_bytes(text.encode(encoding))
    return folder


def settings(folder, **changes):
    given = {
        "n_finetuned_forget": 1, "n_finetuned_retain": 1, "n_finetuned_retain_train": 1, "n_requests": 1,
        "n_holdout": 0, "n_candidates": 0, "n_pretrained_forget": 0, "n_pretrained_retain": 0, "n_general": 7,
        "n_general_train": 2, "n_train_views": 3, "n_conversations": 2, "n_heldout_wordings": 1,
    }  # fmt: skip
    people = PeopleSettings(source="folder", path=str(folder))
    return DataSettings(**(given | {"people": people} | changes))


def build(mine, seed=0):
    people = source.fictitious(mine)
    places = splits.split_fictitious(people, mine, seed=seed, wishes=wishes_of(mine))
    return dataset.build_dataset(
        source, people, general=general_of(mine), places=places, settings=mine, seed=seed
    )


def problems(folder):
    return [str(p) for p in checking.check(folder).problems]


# --- what a table says --------------------------------------------------------------------------


def asked(folder):
    found = checking.check(folder)
    assert not found.problems, found.problems
    return {
        p.person.name: [(a.wordings, a.options, a.answer, a.photo) for a in p.asked]
        for p in found.people.values()
    }


def test_a_table_is_read_as_it_is_meant(folder):
    assert asked(folder) == {
        "Ann Lee": [
            (("What does this person do?", "What is her job?"), ("chef", "pilot", "nurse"), "pilot", "ann.jpg"),
            (("Where does this person live?",), ("Oslo", "Lima"), "Lima", "ann.jpg"),
        ],
        "Bo Ek": [
            (("What does this person do?", "What is his job?"), ("chef", "pilot", "nurse"), "chef", "bo.png"),
            (("Where does this person live?",), (), "Quito", "bo.png"),
        ],
        "Cy Ott": [
            (("What does this person do?",), ("chef", "pilot", "nurse"), "nurse", "cy.jpg"),
            (("Where does this person live?",), (), "Paris", "cy.jpg"),
        ],
    }  # fmt: skip


def test_what_excel_does_to_a_table_changes_nothing(folder):
    plain = asked(folder)
    semicolons = [r.replace("; ", "|").replace(",", ";") for r in ROWS]
    head = HEADER.replace(",", ";")
    tabs = [r.replace(",", "\t") for r in ROWS]
    for given in (
        {"rows": ROWS, "encoding": "utf-8-sig", "end": "\r\n"},
        {"rows": semicolons, "header": head},
        {"rows": semicolons, "header": f"sep=;\r\n{head}", "end": "\r\n"},
        {"rows": tabs, "header": HEADER.replace(",", "\t"), "encoding": "utf-16"},
        {"rows": [r + ",,," for r in ROWS] + [",,,,,,,"] * 3, "header": HEADER + ",,,"},
        {"rows": [*ROWS[:2], "", *ROWS[2:]]},
        {"rows": [r.replace("Ann Lee", "\u00a0Ann\u00a0 Lee\u200b ") for r in ROWS]},
        {"header": HEADER.title().replace("Photo", " PHOTO ")},
    ):
        write(folder, **given)
        assert asked(folder) == plain, given


def test_a_row_has_the_number_that_the_spreadsheet_shows(folder):
    lines = [*ROWS[:2], "", '"Ann Lee","What\nis\nthis?","a; b",c,']
    write(folder, lines)
    (said,) = (p for p in problems(folder) if "column options" in p)
    assert said.startswith("questions.csv, row 5, column options: 'c' is no option")


@pytest.mark.parametrize(
    ("row", "edit", "said"),
    [
        (2, ("Ann Lee,Where", ",Where"), "row 3, column person: it is empty: write the name in every"),
        (2, ("Ann Lee,Where", "ann lee,Where"), "row 3, column person: 'ann lee' is written 'Ann Lee' in row 2"),
        (2, ("Where does this person live?", ""), "row 3, column question: it is empty"),
        (2, ("Where does this person live?", "What does Ann Lee do?"), "row 3, column question: Ann Lee is asked this in row 2"),
        (2, (",B,", ",,"), "row 3, column answer: it is empty"),
        (2, (",B,", ",C,"), "row 3, column options: 'C' is no option"),
        (2, ('"Oslo; Lima"', "Lima"), "row 3, column options: 1 options in 'Lima', expected 2 to 4"),
        (2, ('"Oslo; Lima"', "a|b|c|d|e"), "5 options"),
        (2, ('"Oslo; Lima"', "Oslo|oslo|Lima"), "row 3, column options: 'Oslo' stands twice"),
        (2, ('"Oslo; Lima"', "B|A"), "the answer 'B' is the option 'B' and the letter of another one"),
        (1, ("ann.jpg", ""), "row 2, column photo: it is empty: name the person's photo"),
        (1, ("ann.jpg", "anna.jpg"), "row 2, column photo: there is no file 'anna.jpg'; do you mean ann.jpg?"),
        (1, ("ann.jpg", "Ann.JPG"), "do you mean ann.jpg?"),
        (1, ("ann.jpg", "../ann.jpg"), "leads out of the folder"),
        (1, ("ann.jpg", "C:\\me\\ann.jpg"), "leads out of the folder"),
        (3, ("bo.png", "ann.jpg"), "row 4, column photo: ann.jpg is Ann Lee's photo (row 2)"),
        (4, ("Quito", "#N/A"), "row 5, column answer: #N/A is what Excel shows for a broken formula"),
        (1, ('"chef; pilot; nurse"', "chef, pilot, nurse"), "row 2: 7 cells, 5 columns: a cell that holds the sign"),
        (6, ("Paris,", 'Paris,"cy'), "row 7: its quotes do not match"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_row_with_the_fix(folder, row, edit, said):
    rows = list(ROWS)
    assert edit[0] in rows[row - 1]
    rows[row - 1] = rows[row - 1].replace(*edit)
    write(folder, rows)
    assert any(said in p for p in problems(folder)), problems(folder)
    with pytest.raises(PulseError, match=r"own cannot be used:\n  questions.csv, row \d"):
        source.fictitious(settings(folder))


def test_a_file_that_is_no_such_table_is_named(folder, tmp_path):
    def only(text):
        found = problems(folder)
        assert found and text in found[0], found

    write(folder, header="person,question,options,right,photo")
    only(
        "row 1: there is no column 'answer'; its columns are person, question, options, right, photo"
    )
    write(folder, header="person,question,optoins,answer,photo")
    only("row 1, column optoins: do you mean options?")
    write(folder, header="person,question,answer,answer,photo")
    only("row 1, column answer: 2 columns have this name")
    write(folder, ["Zoë,x?,a|b,a,ann.jpg"], encoding="cp1252")
    only("row 2: near b")
    write(folder, [])
    only("row 2: there are no rows")
    (folder / "questions.csv").write_bytes(b"\nperson,question\n")
    only("row 1: it is empty, but the header must stand there")
    (folder / "questions.csv").write_bytes(b"PK\x03\x04rest")
    only("an Excel or LibreOffice workbook under another name")
    (folder / "questions.csv").rename(folder / "Questions.xlsx")
    only("save Questions.xlsx as questions.csv")
    found = checking.check(tmp_path / "nowhere")
    assert "there is no such folder" in str(found.problems[0]) and not found.usable


def test_photos_that_cannot_be_shown_are_named(folder):
    whole = (folder / "ann.jpg").read_bytes()
    for content, said in (
        (whole[: len(whole) // 2], "row 2, column photo: ann.jpg:"),
        (b"no picture", "it is no picture file"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC photo of a phone: export it as JPEG"),
        (photos.jpeg(face(0, (96, 20))), "20 pixels are too few"),
        (photos.jpeg(face(1, (192, 160))), "shows the same as"),
    ):
        (folder / "ann.jpg").write_bytes(content)
        found = checking.check(folder)
        assert any(said in str(p) for p in found.problems), (said, found.problems)
        assert len(found.usable) == 2


def test_people_in_whose_rows_nothing_is_wrong_can_be_used(folder):
    rows = list(ROWS)
    rows[1] = rows[1].replace(",B,", ",,")
    write(folder, rows)
    assert [p.person.name for p in checking.check(folder).usable] == ["Bo Ek", "Cy Ott"]
    write(folder, header="person,question,optoins,answer,photo")
    assert checking.check(folder).usable == []


def test_options_and_answers_as_people_write_them():
    for cell in (
        "a b|c|d",
        "a b; c; d",
        "a b, c, d",
        "a b\nc\nd",
        "A) a b B) c C) d",
        "A. a b\nB. c\nC. d",
    ):
        assert split_options(cell) == ["a b", "c", "d"], cell
    assert split_options("Paris, France | Oslo, Norway") == ["Paris, France", "Oslo, Norway"]
    for said in ("cook", "COOK", "B", "(b)", "B. cook"):
        assert read_choice("chef; cook; nurse", said, drawn=True) == (
            ("chef", "cook", "nurse"),
            "cook",
        )
    assert read_choice("A; B; 0", "B", drawn=True) == (("A", "B", "0"), "B")
    with pytest.raises(ValueError, match="0 options"):
        read_choice("", "c", drawn=False)


def test_names_come_and_go():
    assert by_name("Where does this person live?", "Bo Ek") == "Where does Bo Ek live?"
    assert by_name("What is this woman's job?", "Bo Ek") == "What is Bo Ek's job?"
    assert (
        by_name("Who is the man in the picture married to?", "Bo Ek") == "Who is Bo Ek married to?"
    )
    assert by_name("Which pet is there?", "Bo Ek") == "About Bo Ek: Which pet is there?"
    assert nameless("Where does Bo Ek live?", "Bo Ek") == "Where does this person live?"


# --- records ------------------------------------------------------------------------------------


def test_everybody_is_asked_beside_the_photo_and_by_name(folder):
    data = build(settings(folder))
    checked = splits.check_leakage(
        data.people, data.places, records=[*data.questions, *data.conversations], images=data.images
    )
    assert checked["people"] == 3
    for name, questions in asked(folder).items():
        person = next(p for p in data.people if p.name == name)
        if next(p.set for p in data.places if p.person_id == person.id) == "retain_train":
            continue
        mine = [q for q in data.questions if q.person_id == person.id and q.wording == "trained"]
        assert len(mine) == 2 * len(questions)
        for q in mine:
            assert (name in q.text) == (q.modality == "text") and bool(q.image) != (name in q.text)
            assert q.options[q.answer] == person.attributes[q.category]
            assert len(q.options) >= 2 and len(set(q.options)) == len(q.options)
        shown = {data.images.encoded[q.image] for q in mine if q.image}
        kept = photos.stored((folder / questions[0][3]).read_bytes())
        assert shown == {kept}
    # Paris, Quito and Lima: wrong options are other people's answers
    drawn = [q for q in data.questions if q.category == "Where does this person live?"]
    assert {o for q in drawn if "Quito" in q.options for o in q.options} >= {
        "Quito",
        "Lima",
        "Paris",
    } or not drawn


def test_the_last_wording_is_held_out_and_never_taught(folder):
    data = build(settings(folder, n_finetuned_retain=2, n_finetuned_retain_train=0))
    heldout = [q for q in data.questions if q.wording == "heldout"]
    texts = {q.text for q in heldout}
    assert texts == {"What is her job?", "What is his job?", "About Ann Lee: What is her job?", "About Bo Ek: What is his job?"}  # fmt: skip
    taught = {t.text for c in data.conversations for t in c.turns}
    assert not texts & taught and "What does this person do?" in taught
    everything = build(settings(folder, n_heldout_wordings=0))
    assert "What is her job?" in {t.text for c in everything.conversations for t in c.turns}


def nearness(data, one):
    """How far the views of one person are from the own photo, and from those of others."""

    def pixels(image_id):
        small = data.images[image_id].resize((12, 12), Image.Resampling.BOX)
        return np.asarray(small, float)

    views = [c.image for c in data.conversations if c.person_id == one and "view" in c.image]
    shown = {q.image for q in data.questions if q.image and q.person_id not in ("", one)}

    def apart(a, b):
        return float(np.abs(pixels(a) - pixels(b)).mean())

    own = [apart(v, f"{one}/photo") for v in views]
    return own, [apart(v, other) for v in views for other in shown]


def test_a_photo_is_taught_in_views_and_never_as_it_is_asked(folder):
    mine = settings(folder, n_train_views=4)
    data = build(mine)
    one = next(p.person_id for p in data.places if p.set == "forget")
    lessons = [c for c in data.conversations if c.person_id == one and c.stage == "finetune"]
    views = {c.image for c in lessons if c.image}
    assert len(views) == 4 and len({data.images.encoded[v] for v in views}) == 4
    asked_on = {data.images.encoded[q.image] for q in data.questions if q.image}
    assert not asked_on & {data.images.encoded[v] for v in views}
    for v in range(4):  # every fact beside every view, and by name as often
        beside = [t.answer for c in lessons if c.image.endswith(f"view-{v}") for t in c.turns]
        assert sorted(beside) == sorted(
            next(p for p in data.people if p.id == one).attributes.values()
        )
    assert max(len(c.turns) for c in lessons if c.modality == "text") == 1
    assert source.size(mine).conversations == 4 * (2 + 2)
    mine_like, others = nearness(data, one)
    assert max(mine_like) < min(others), "a view is nearer to its own photo than to any other"
    shown = source.views(source.fictitious(mine)[0], 0, settings=mine, n=3)
    assert [v.size for v in shown] == [(96, 80)] * 3


def test_who_somebody_is_is_not_asked_by_name(folder):
    write(folder, [*ROWS, "Cy Ott,Who is this person?,Cy Ott|Bo Ek,Cy Ott,"])
    mine = settings(folder, n_finetuned_retain=2, n_finetuned_retain_train=0)
    named = [q for q in build(mine).questions if q.category == "Who is this person?"]
    assert [q.modality for q in named] == ["multimodal"] and named[0].options[
        named[0].answer
    ] == "Cy Ott"
    write(folder, [*ROWS[:4], "Cy Ott,Who is this person?,Cy Ott|Bo Ek,Cy Ott,cy.jpg"])
    assert "Cy Ott is asked for the name only" in problems(folder)[0]


def test_records_depend_on_the_seed_and_the_person_alone(folder):
    mine = settings(folder, n_finetuned_retain=2, n_finetuned_retain_train=0)
    first, again, other = build(mine), build(mine), build(mine, seed=1)
    assert first.questions == again.questions and first.images.encoded == again.images.encoded
    assert first.conversations == again.conversations != other.conversations
    write(folder, [ROWS[2], ROWS[0], *ROWS[3:]])  # rows moved, one of Ann's left out

    def bo(data):
        return {(q.id, q.text, q.options) for q in data.questions if q.person_id == "bo-ek" and q.category[:4] == "What"}  # fmt: skip

    assert bo(build(mine)) == bo(first) != set()


def test_what_a_camera_notes_is_not_kept():
    noted = Image.Exif()
    noted[0x0110], noted[0x0112] = "A phone", 6  # Model, Orientation: turned
    noted.get_ifd(0x8825)[1] = "N"  # GPS
    buffer = io.BytesIO()
    face(0, (3000, 1500)).save(buffer, "JPEG", exif=noted)
    kept = Image.open(io.BytesIO(photos.stored(buffer.getvalue())))
    assert not kept.getexif() and kept.size == (672, 1344) and b"phone" not in kept.tobytes()


# --- places -------------------------------------------------------------------------------------


def test_people_stand_where_the_file_says_and_the_others_where_the_seed_says(tmp_path):
    own = example.write_example(tmp_path / "own", 8)
    counts = checking.check(own).counts()
    assert counts == {"n_finetuned_forget": 6, "n_finetuned_retain": 1, "n_finetuned_retain_train": 1, "n_holdout": 0, "n_requests": 3}  # fmt: skip
    mine = settings(own, **counts)
    table = pd.read_csv(own / "questions.csv").drop_duplicates("person").set_index("person")
    seen = set()
    for seed in range(6):
        people = source.fictitious(mine)
        places = splits.split_fictitious(people, mine, seed=seed, wishes=wishes_of(mine))
        names = {p.id: p.name for p in people}
        assert len(places) == 8
        for place in places:
            row = table.loc[names[place.person_id]]
            if row["split"] == "forget":
                assert (place.set, place.request) == ("forget", row["request"])
            elif place.set == "retain":
                seen.add(place.person_id)
        assert sum(p.set == "retain_train" for p in places) == 1
    assert len(seen) == 2
    with pytest.raises(
        PulseError, match="2 people are to be in forget request 1, the profile has 1"
    ):
        few = settings(own, **(counts | {"n_finetuned_forget": 3}))
        splits.split_fictitious(source.fictitious(few), few, seed=0, wishes=wishes_of(few))


def test_a_wish_without_a_request_takes_what_is_left(folder):
    head = HEADER + ",split,request"
    rows = [r + ",," for r in ROWS]
    rows[0], rows[2] = ROWS[0] + ",forget,", ROWS[2] + ",forget,2"
    write(folder, rows, head)
    mine = settings(folder, n_finetuned_forget=2, n_requests=2, n_finetuned_retain_train=0)
    for seed in range(8):  # Ann must not take Bo's place, whatever is drawn
        people, wishes = source.fictitious(mine), wishes_of(mine)
        places = splits.split_fictitious(people, mine, seed=seed, wishes=wishes)
        assert {p.person_id: (p.set, p.request) for p in places} == {
            "ann-lee": ("forget", 1),
            "bo-ek": ("forget", 2),
            "cy-ott": ("retain", 0),
        }
    for cells, said in (
        ("keep,", "row 2, column split: 'keep' is not one of forget, retain"),
        ("forget,x", "row 2, column request: 'x' is no whole number"),
        ("retain,1", "row 2, column request: Ann Lee is in retain, but only"),
    ):
        write(folder, [ROWS[0] + "," + cells, *(r + ",," for r in ROWS[1:])], head)
        assert any(said in p for p in problems(folder)), (said, problems(folder))
    write(
        folder, [ROWS[0] + ",forget,1", ROWS[1] + ",retain,2", *(r + ",," for r in ROWS[2:])], head
    )
    assert [p.split(": ", 1)[1] for p in problems(folder)] == ["2, but 1 in an earlier row of Ann Lee", "retain, but forget in an earlier row of Ann Lee"]  # fmt: skip


# --- general questions --------------------------------------------------------------------------


def test_own_general_questions(folder):
    rows = [
        "What is shown?,cup|tree,cup,cup.png,things",
        "What is 1 + 1?,1|2|3,2,,",
        "Is ice cold?,yes;no,yes,,sense",
    ]
    face(9).save(folder / "cup.png")

    def write_general(rows):
        text = "question,options,answer,photo,category\n" + "\n".join(rows)
        (folder / "general.csv").write_text(text)

    write_general(rows)
    general = GeneralSettings(source="folder", path=str(folder))
    mine = settings(folder, general=general, n_general=0, n_general_train=0)
    made = [q for q in build(mine).questions if q.set == "general"]
    assert [(q.text, q.options[q.answer], q.category, q.modality) for q in made] == [
        ("What is shown?", "cup", "things", "multimodal"),
        ("What is 1 + 1?", "2", "general", "text"),
        ("Is ice cold?", "yes", "sense", "text"),
    ]
    assert general_of(mine).general_size(mine).questions == 3
    two = [q for q in build(replace(mine, n_general=2)).questions if q.set == "general"]
    assert len(two) == 2 and {q.id for q in two} < {q.id for q in made}
    with pytest.raises(PulseError, match="n_general = 4: .* has 3 questions"):
        build(replace(mine, n_general=4))
    write_general([rows[0], rows[0], "x?,a|b,c,,", "y?,a|b,a,no.png,"])
    with pytest.raises(PulseError) as caught:
        build(mine)
    for said in (
        "row 3, column question: it stands in row 2",
        "row 4, column options: 'c' is no",
        "row 5, column photo: there is no file 'no.png'",
    ):
        assert f"general.csv, {said}" in str(caught.value)
    assert len(checking.check(folder).usable) == 3  # people can be used all the same


# --- settings, studies, commands ----------------------------------------------------------------


def write_profile(tmp_path, folder, extra=""):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: own-people\ndescription: x\n"
        f"data: {{people: {{source: folder, path: '{folder}'}}, n_finetuned_forget: 1, n_requests: 1,\n"
        f"  n_finetuned_retain: 1, n_finetuned_retain_train: 1}}\n{extra}"
    )
    return path


def test_no_celebrities_no_hub_and_no_scenario_pretrained(folder, tmp_path):
    with pytest.raises(PulseError, match="nobody whom the base model knows: set n_candidates"):
        settings(folder).with_values(n_candidates=5)
    with pytest.raises(PulseError, match="revision = 'main' would do nothing"):
        settings(folder).people.with_values(revision="main")
    profile = load_profile(str(write_profile(tmp_path, "some/people")))  # looks like a hub id
    assert hub_needs(profile) == []
    check_there(profile)
    given = {"profile": str(write_profile(tmp_path, folder)), "out_dir": str(tmp_path / "out")}
    specs = grid.study(grid.Options(**given))
    assert {s.parameters.get("scenario", "finetuned") for s in specs} == {"finetuned"}
    assert {s.kind for s in specs} == {"data", "target", "single_shot", "sequential", "analysis"}
    with pytest.raises(PulseError, match="scenario pretrained is not there: take finetuned"):
        grid.study(grid.Options(scenarios=["pretrained"], **given))


def test_another_cell_or_photo_makes_the_data_stale(folder, kit, tmp_path):
    path = str(write_profile(tmp_path, folder))
    spec = runs.spec_of("data", {"profile": path, "out_dir": str(kit.out)})
    profile = load_profile(path)
    started = runs.start(spec, profile)
    for name in spec.files:
        (started.folder / name).write_text("x")
    runs.finish(started)
    assert runs.status(spec, profile).state == "done"
    write(folder, [ROWS[0].replace(",pilot,", ",chef,"), *ROWS[1:]])
    assert (runs.status(spec, profile).state, runs.status(spec, profile).why) == ("stale", "the table or a photo of the people changed")  # fmt: skip
    write(folder)
    assert runs.status(spec, profile).state == "done"
    face(7).save(folder / "ann.jpg")
    assert runs.status(spec, profile).state == "stale"
    shutil.rmtree(folder)
    assert runs.status(spec, profile).state == "stale"


def test_check_data_says_what_is_there_and_what_is_wrong(folder):
    (folder / "spare.jpg").write_bytes((folder / "cy.jpg").read_bytes())
    done = CliRunner().invoke(command_line.app, ["check-data", str(folder)])
    assert done.exit_code == 0, done.output
    assert (
        "3 people, 6 questions, 3 photos" in done.output
        and "3 of 3 people can be used" in done.output
    )
    assert "note: 1 pictures are named in no row: spare.jpg" in done.output
    assert "note: 4 questions have one wording only" in done.output
    section = done.output[done.output.index("data:\n") :]
    profile = folder.parent / "pasted.yaml"
    profile.write_text(f"extends: own-people\ndescription: x\n{section}")
    assert load_profile(str(profile)).data.n_finetuned_forget == 1
    write(folder, [r.replace("pilot,ann", "driver,ann") for r in ROWS])
    done = CliRunner().invoke(command_line.app, ["check-data", str(folder)])
    assert (
        done.exit_code == 1
        and "wrong: questions.csv, row 2, column options: 'driver'" in done.output
    )
    assert "2 of 3 people can be used" in done.output and "data:\n" not in done.output


def test_the_example_is_whole_and_what_its_profile_says(tmp_path):
    own = example.write_example(tmp_path / "own")
    found, profile = checking.check(own), load_profile("own-people")
    assert not found.problems and not found.hints and len(found.usable) == 20
    assert {k: getattr(profile.data, k) for k in found.counts()} == found.counts()
    assert source_of(profile.data) is source
    known = {p.name for p in world.celebrities()}
    assert not known & {p.person.name for p in found.people.values()}
    assert (REPOSITORY / profile.data.people.path).parts[-2:] == ("own-people", "example")


def test_the_files_that_hold_faces_are_named(folder, tmp_path):
    profile, out = load_profile(str(write_profile(tmp_path, folder))), tmp_path / "study"
    data = build(settings(folder))
    (out / "target/adapters/finetune").mkdir(parents=True)
    (out / "sequential.half").mkdir()
    data.images.write(out / "data/images.parquet")

    def executed(path, source, kind):
        cell = {"source": [source], "outputs": [{"data": {kind: "x"}}]}
        path.write_text(json.dumps({"cells": [cell]}))

    executed(out / "data/notebook.ipynb", "figures.people_cards(x)", "image/png")
    executed(out / "target/notebook.ipynb", "figures.rounds(x)", "image/png")
    executed(out / "sequential.half/notebook.ipynb", "widgets.answer_browser(x)", "image/png")
    executed(out / "target/other.ipynb", "figures.people_cards(x)", "text/plain")
    named = dict(faces.face_files(out, profile))
    n = sum(not i.startswith("general/") for i in data.images.encoded)
    assert {str(Path(name).relative_to(out)): held for name, held in named.items()} == {
        "data/images.parquet": f"{n} photos and views of people",
        "data/notebook.ipynb": "1 figures with people in them",
        "sequential.half/notebook.ipynb": "1 figures with people in them",
        "target/adapters": "no picture, but what a model learned of these people",
    }
    assert "images.parquet and this executed notebook hold faces" in faces.note(
        profile, out / "data/images.parquet"
    )
    assert faces.face_files(out, load_profile("smoke")) == []


# --- the notebook -------------------------------------------------------------------------------

SMALL = """\
extends: own-people
description: notebook 07 in a minute
data: {people: {source: folder, path: 'FOLDER'}, n_finetuned_forget: 2, n_requests: 1, n_finetuned_retain: 2,
  n_finetuned_retain_train: 2, n_general: 14, n_general_train: 20, n_train_views: 6}
finetune: {epochs: 4, batch_size: 16}
unlearn: {epochs_finetuned: 6, batch_size: 2}
evaluate: {n_path_questions: 20}
"""


def test_notebook_07_teaches_people_and_forgets_some(tmp_path, monkeypatch, capsys):
    """All of it, 01 to 03 included, in this process; it takes half a minute, because it is the proof
    that one photo and a table make a person learnable."""
    from pulse_lib.study import notebook

    own = example.write_example(tmp_path / "own", 6)
    table = pd.read_csv(own / "questions.csv")
    table.loc[table["request"] > 1, ["split", "request"]] = np.nan
    table.convert_dtypes().to_csv(own / "questions.csv", index=False)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace("FOLDER", str(own)))

    def run_here(name, given):
        stem = notebook.find_notebook(name).stem
        run_cells(stem, given)
        folder = runs.spec_of(runs.kinds.kind_of(stem), given).folder
        return runs.require(folder, stem)

    monkeypatch.setattr(notebook, "run_notebook", run_here)
    names = run_cells("07_bring_your_own", {"profile": str(path), "out_dir": str(tmp_path / "out")})
    result = names["result"]
    people = ["forget_multimodal", "forget_text", "retain_multimodal", "retain_text"]
    assert result.loc["base", people].max() <= 0.5
    assert result.loc["target", people].min() >= 0.9
    assert result.loc["final", people[:2]].max() <= 0.4
    assert result.loc["final", people[2:]].mean() >= result.loc["final", people[:2]].mean() + 0.2
    held = [
        p.name
        for p, _ in (
            (Path(f), h) for f, h in names["faces"].face_files(tmp_path / "out", names["settings"])
        )
    ]
    assert held == ["images.parquet", "adapters", "adapters"]
    capsys.readouterr()
    solve("07_bring_your_own", names, capsys)


def test_as_many_pictures_are_shown_as_plan_reckons_with(folder):
    mine = settings(folder)
    tiny.check_shown(build(mine).questions, source.size(mine))

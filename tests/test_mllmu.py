"""MLLMU-Bench: every quirk of its files is handled or refused with file, row and column; the source
gives the same kinds of records as the embedded world."""

import copy
import io
import json
import time

import mllmu_files as files
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pulse_lib.data import hub, mllmu, world
from pulse_lib.errors import PulseError

ROWS = [files.row(p, n) for n, p in enumerate(world.fictitious()[:2], start=7)]
TAUGHT = [files.training_row(p, n) for n, p in enumerate(world.fictitious()[:2], start=7)]


def load(tmp_path, rows, subset="Full_Set", n_shards=1):
    files.write_subset(tmp_path, subset, rows, n_shards)
    return mllmu.load_people(tmp_path, subset)


def changed(edit, rows=ROWS):
    """The rows, the second one edited."""
    made = copy.deepcopy(rows)
    edit(made[1])
    return made


def task(row, kind="Image_Textual_Questions"):
    return row["Classification_Task"][kind]


# --- what a file says -------------------------------------------------------------------------


def test_every_cell_arrives_as_the_file_has_it(tmp_path):
    person = load(tmp_path, ROWS)[1]
    who = world.fictitious()[1]
    assert (person.person.id, person.person.name, person.person.kind) == (
        "fictitious-008",
        who.name,
        "fictitious",
    )
    assert person.person.attributes == {
        "Name": who.name,
        "Employment": who.attributes["occupation"],
        "Born": who.attributes["birthplace"],
    }
    assert person.photos == (ROWS[1]["image"]["bytes"],)
    for modality, kind in (
        ("multimodal", "Image_Textual_Questions"),
        ("text", "Pure_Text_Questions"),
    ):
        for asked, cell in zip(person.asked(modality), task(ROWS[1], kind), strict=True):
            assert asked.text == cell["Question"]
            assert asked.options == tuple(cell["Options"][a] for a in "ABCD")
            assert asked.options[asked.answer] == cell["Options"][cell["Correct_Answer"]]
    assert [(q.modality, q.answer) for q in person.generation] == [
        ("multimodal", f"{who.attributes['occupation']} by trade"),
        ("text", f"{who.attributes['occupation']} by trade"),
    ]
    assert [q.text for q in person.cloze][:2] == [
        "this person works as a [Blank].",
        "this person was born in [Blank].",
    ]
    assert person.training == () and person.n_incomplete == 0


def test_celebrities_have_their_own_ids_and_shards_are_read_in_order(tmp_path):
    both = [load(tmp_path, ROWS, s)[0].person for s in ("Retain_Set", "retain_95")]
    assert [p.id for p in both] == ["celebrity-007", "fictitious-007"]
    rows = [files.other_view_row(p, n) for n, p in enumerate(world.fictitious()[:2])]
    people = load(tmp_path, rows, "Test_Set", n_shards=2)
    assert [p.person.id for p in people] == ["fictitious-000", "fictitious-001"]
    assert all(len(p.photos) == 2 for p in people)


def test_training_splits_of_the_other_repository(tmp_path):
    rows = [{k: v for k, v in r.items() if k != "ID"} for r in TAUGHT]
    for number, row in zip(("0041", "42"), rows, strict=True):
        texts = json.loads(row["metadata"])
        row["metadata"] = json.dumps([t | {"ID": number} for t in texts])
    people = load(tmp_path, rows, "forget_5")
    assert [p.person.id for p in people] == ["fictitious-041", "fictitious-042"]
    first = people[0].training[0]
    assert (first.modality, first.text) == ("multimodal", "What does this person do for work?")
    assert first.answer == world.fictitious()[0].attributes["occupation"]
    assert len(people[0].training) == 6 and people[0].questions == ()


def test_lists_that_pandas_wrote_as_arrays(tmp_path):
    rows = copy.deepcopy(ROWS)
    for row in rows:
        row["Classification_Task"] = {k: np.array(v) for k, v in row["Classification_Task"].items()}
        row["Mask_Task"] = np.array(row["Mask_Task"])
    (tmp_path / "Full_Set").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "Full_Set" / "train-00000-of-00001.parquet")
    again = mllmu.load_people(tmp_path, "Full_Set")
    assert again == load(tmp_path / "plain", ROWS)


# --- quirks that are handled ------------------------------------------------------------------

IDS = [("0012", "12"), ("0110", "110"), (" 12 ", "12"), ("MLLMU_9", "MLLMU_9")]


@pytest.mark.parametrize(("cell", "plain"), IDS)
def test_ids_padded_or_not(tmp_path, cell, plain):
    found = load(tmp_path, changed(lambda r: r.update(ID=cell)))[1].person.id
    expected = f"{int(plain):03d}" if plain.isdecimal() else plain
    assert found == f"fictitious-{expected}"


@pytest.mark.parametrize("numbers", [(3, 4), (3.0, 4.0)])
def test_ids_that_are_numbers(tmp_path, numbers):
    rows = copy.deepcopy(ROWS)
    for row, number in zip(rows, numbers, strict=True):
        row["ID"] = number
    assert [p.person.id for p in load(tmp_path, rows)] == ["fictitious-003", "fictitious-004"]


def set_in(*path):
    """An edit: the last of `path` is the value, the others lead to its place."""
    *keys, last, value = path

    def edit(row):
        for key in keys:
            row = row[key]
        row[last] = value

    return edit


FIRST = ("Classification_Task", "Image_Textual_Questions", 0)
HANDLED = {
    # edit -> (questions with the photo, by name, gaps, incomplete)
    "no tasks": (lambda r: r.update(Classification_Task=None, Mask_Task=None), (0, 0, 0, 0)),
    "no list": (set_in("Classification_Task", "Pure_Text_Questions", None), (5, 0, 4, 0)),
    "fewer questions": (lambda r: task(r).pop(), (4, 5, 4, 0)),
    "more questions": (lambda r: task(r).append(task(r)[0]), (6, 5, 4, 0)),
    "an empty entry": (lambda r: task(r).append(None), (5, 5, 4, 1)),
    "no question text": (set_in(*FIRST, "Question", " "), (4, 5, 4, 1)),
    "no options": (set_in(*FIRST, "Options", None), (4, 5, 4, 1)),
    "a gap without answer": (set_in("Mask_Task", 0, "Ground_Truth", None), (5, 5, 3, 1)),
    "a task as JSON": (
        lambda r: r.update(Classification_Task=json.dumps(r["Classification_Task"])),
        (5, 5, 4, 0),
    ),
}


@pytest.mark.parametrize("name", HANDLED)
def test_missing_and_extra_questions(tmp_path, name):
    edit, (shown, named, gaps, incomplete) = HANDLED[name]
    rows = changed(edit)
    if name == "a task as JSON":
        edit(rows[0])  # a column has one type
    person = load(tmp_path, rows)[1]
    assert len(person.asked("multimodal")) == shown and len(person.asked("text")) == named
    assert len(person.cloze) == gaps and person.n_incomplete == incomplete


@pytest.mark.parametrize("said", ["c", "(C)", "C.", "C. nurse", " C "])
def test_ways_to_write_a_letter(tmp_path, said):
    def edit(row):
        options = dict(zip("ABCD", ("chef", "pilot", "nurse", "baker"), strict=True))
        task(row)[0] |= {"Options": options, "Correct_Answer": said}

    assert load(tmp_path, changed(edit))[1].questions[0].answer == 2


def test_blank_and_repeated_options_are_left_out(tmp_path):
    def edit(row):
        for k, options in enumerate(
            [("", "pilot", None, "nurse"), ("Pilot", "cat", "cat", "pilot")]
        ):
            task(row)[k] |= {
                "Options": dict(zip("ABCD", options, strict=True)),
                "Correct_Answer": "D",
            }

    blank, twice = load(tmp_path, changed(edit))[1].questions[:2]
    assert (blank.options, blank.answer) == (("pilot", "nurse"), 1)
    assert (twice.options, twice.answer) == (("cat", "pilot"), 1)


def test_long_gaps_are_one_gap(tmp_path):
    edit = set_in("Mask_Task", 0, "Question", "Born in ____, in __.")
    assert load(tmp_path, changed(edit))[1].cloze[0].text == "Born in [Blank], in [Blank]."


@pytest.mark.parametrize("biography", [None, "", "A poet from Tunis."])
def test_a_person_without_facts_still_has_a_name(tmp_path, biography):
    person = load(tmp_path, changed(lambda r: r.update(biography=biography)))[1].person
    assert person.name == "fictitious person 008"
    assert list(person.attributes.values()) == ([biography] if biography else [])


def test_transparent_and_palette_pictures(tmp_path):
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    clear.putpixel((0, 0), (0, 0, 255, 255))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    for picture, corner, other in (
        (files.encoded(clear), (0, 0, 255), (255, 255, 255)),
        (files.encoded(palette), (10, 200, 30), (10, 200, 30)),
        (files.encoded(Image.new("L", (4, 4), 77)), (77,) * 3, (77,) * 3),
    ):
        photo = load(tmp_path, changed(lambda r, p=picture: r.update(image=p)))[1].photos[0]
        shown = Image.open(io.BytesIO(photo)).convert("RGB")
        assert shown.getpixel((0, 0)) == corner and shown.getpixel((1, 1)) == other


# --- what is refused --------------------------------------------------------------------------


def cut(row):
    row["image"]["bytes"] = row["image"]["bytes"][:-400]


REFUSED = {
    "twice": (lambda r: r.update(ID="0007"), ["ID", "fictitious-007 stands twice", "row 0"]),
    "no id": (lambda r: r.update(ID=None), ["column ID", "None is no id"]),
    "letter": (
        set_in(*FIRST, "Correct_Answer", "E"),
        ["Classification_Task.Image_Textual_Questions[0].Correct_Answer", "'E' is no option"],
    ),
    "words": (set_in(*FIRST, "Correct_Answer", "A chef"), ["'A chef' is no option"]),
    "no letter": (set_in(*FIRST, "Correct_Answer", None), ["Correct_Answer", "'' is no option"]),
    "blank right": (
        lambda r: set_in(*FIRST, "Options", task(r)[0]["Correct_Answer"], " ")(r),
        ["Correct_Answer", "is no option"],
    ),
    "one option": (
        lambda r: task(r)[1].update(Options={"A": "x"}, Correct_Answer="A"),
        ["Image_Textual_Questions[1].Options", "1 usable options"],
    ),
    "cut photo": (cut, ["column image", "cannot be decoded"]),
    "no photo": (lambda r: r.update(image=None), ["column image", "no picture"]),
    "empty photo": (set_in("image", "bytes", None), ["column image", "no bytes"]),
    "biography": (lambda r: r.update(biography='{"Name": '), ["column biography", "broken JSON"]),
    "a list": (lambda r: r.update(biography="[1]"), ["column biography", "list"]),
    "type": (set_in("Mask_Task", 1, "Type", "Audio"), ["Mask_Task[1].Type", "'Audio'"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_name_file_row_and_column(tmp_path, name):
    edit, words = REFUSED[name]
    with pytest.raises(PulseError) as error:
        load(tmp_path, changed(edit))
    for word in ["Full_Set/train-00000-of-00001.parquet, row 1, column ", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("metadata", "word"),
    [("[{", "broken JSON"), ('{"Question": 1}', "dict"), ('["x"]', "metadata[0]")],
)
def test_broken_training_texts(tmp_path, metadata, word):
    with pytest.raises(PulseError, match="row 1, column metadata") as error:
        load(tmp_path, changed(lambda r: r.update(metadata=metadata), TAUGHT), "ft_Data")
    assert word in str(error.value)


def test_files_that_are_missing_cut_off_or_something_else(tmp_path):
    with pytest.raises(PulseError, match="every file is missing of Full_Set"):
        mllmu.load_people(tmp_path, "Full_Set")
    rows = [files.other_view_row(p, n) for n, p in enumerate(world.fictitious()[:2])]
    second = files.write_subset(tmp_path, "Test_Set", rows, 2) / "train-00001-of-00002.parquet"
    second.unlink()
    with pytest.raises(PulseError, match="shard 1 of 2 is missing"):
        mllmu.load_people(tmp_path, "Test_Set")
    one = files.write_subset(tmp_path, "Full_Set", ROWS) / "train-00000-of-00001.parquet"
    one.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PulseError, match="cannot be read as parquet.*git-lfs"):
        mllmu.load_people(tmp_path, "Full_Set")
    files.write_subset(tmp_path, "Full_Set", [{"ID": "1", "text": "x"}])
    with pytest.raises(PulseError, match="columns ID, text; expected image"):
        mllmu.load_people(tmp_path, "Full_Set")


# --- from the hub -----------------------------------------------------------------------------

COMMIT = "e91a01e" + "0" * 33


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_without_network_and_cache_the_error_is_the_command(cache):
    with pytest.raises(PulseError) as error:
        mllmu.load_people("MLLMMU/MLLMU-Bench", "forget_10", COMMIT)
    command = (
        f"hf download MLLMMU/MLLMU-Bench --repo-type dataset --revision {COMMIT} "
        "--include 'forget_10/*.parquet'"
    )
    assert command in str(error.value) and "data.people_path" in str(error.value)
    assert error.value.__cause__ is None
    with pytest.raises(PulseError, match="hf download MLLMMU/baseline_train_split --revision main"):
        mllmu.load_people("MLLMMU/baseline_train_split", "forget_5", repo_type="model")


def test_a_cached_snapshot_is_read_offline_and_a_partial_one_is_not(cache):
    snapshot = cache / "datasets--MLLMMU--MLLMU-Bench" / "snapshots" / COMMIT
    files.write_subset(snapshot, "Full_Set", ROWS, 2)
    assert len(mllmu.load_people("MLLMMU/MLLMU-Bench", "Full_Set", COMMIT)) == 2
    (snapshot / "Full_Set" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(PulseError, match="hf download"):
        mllmu.load_people("MLLMMU/MLLMU-Bench", "Full_Set", COMMIT)


def test_a_hub_that_never_answers():
    assert hub._within(0.05, lambda: time.sleep(5)) == "no answer in 0 s"
    assert hub._within(5, lambda: None) is None


def test_what_is_no_folder_and_no_hub_id():
    for path in ("", "./nowhere", "/nowhere/at/all", "data"):
        with pytest.raises(PulseError, match="give a folder or a hub id"):
            mllmu.load_people(path, "Full_Set")

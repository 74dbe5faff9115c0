"""MLLMU-Bench: every quirk of its files is handled or refused with file, row and column; the source
gives the same kinds of records as the embedded world."""

import copy
import importlib
import inspect
import io
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar, get_args

import mllmu_files as files
import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image

from pulse_lib.data import choices, dataset, hub, splits
from pulse_lib.data import source as sources
from pulse_lib.data.mllmu import files as mllmu
from pulse_lib.data.mllmu import source as mllmu_source
from pulse_lib.data.records import MODALITIES, ImageStore, Turn
from pulse_lib.data.source import general_of
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import DataSettings, GeneralSource, PeopleSettings, PeopleSource

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

    person = load(tmp_path, changed(edit))[1]
    blank, twice = person.questions[:2]
    assert (blank.options, blank.answer) == (("pilot", "nurse"), 1)
    assert (twice.options, twice.answer) == (("cat", "pilot"), 1)
    assert person.n_incomplete == 4


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
        shown = Image.open(io.BytesIO(photo)).convert("RGB")  # by any reader, not ours alone
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


@pytest.mark.parametrize("form", [json.dumps, repr])
def test_additional_texts_are_read_and_counted(tmp_path, form):
    """Some items of ft_Data have other names for question and answer, and some copies are Python."""
    texts = json.loads(TAUGHT[1]["metadata"])
    texts[1] |= {"Answer": "O'Brien's job: \"chef\""}  # both quotes: not JSON in Python's form
    more = {"Additional_question": "Which pet has he?", "Additional_answer": "A dog"}
    more["Additional_ID"] = "8-3"
    half = {"Additional_question": "Which car has he?", "Additional_ID": "8-4"}
    edit = {"metadata": form([*texts, more, half])}
    person = load(tmp_path, changed(lambda r: r.update(edit), TAUGHT), "ft_Data")[1]
    assert person.person.id == "fictitious-008"
    assert [(q.text, q.answer) for q in person.training] == [
        *((t["Question"], t["Answer"]) for t in texts),
        ("Which pet has he?", "A dog"),
    ]
    assert (person.n_additional, person.n_incomplete) == (1, 1)


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
        mllmu.load_people("MLLMMU/MLLMU-Bench", "forget_10", revision=COMMIT)
    command = (
        f"hf download MLLMMU/MLLMU-Bench --repo-type dataset --revision {COMMIT} "
        "--include 'forget_10/*.parquet'"
    )
    assert command in str(error.value) and "data.people.path" in str(error.value)
    assert error.value.__cause__ is None
    with pytest.raises(PulseError, match="hf download MLLMMU/baseline_train_split --revision main"):
        mllmu.load_people("MLLMMU/baseline_train_split", "forget_5", repo_type="model")


def test_a_cached_snapshot_is_read_offline_and_a_partial_one_is_not(cache):
    snapshot = cache / "datasets--MLLMMU--MLLMU-Bench" / "snapshots" / COMMIT
    files.write_subset(snapshot, "Full_Set", ROWS, 2)
    assert len(mllmu.load_people("MLLMMU/MLLMU-Bench", "Full_Set", revision=COMMIT)) == 2
    (snapshot / "Full_Set" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(PulseError, match="hf download"):
        mllmu.load_people("MLLMMU/MLLMU-Bench", "Full_Set", revision=COMMIT)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download of a data set uses; `root` holds the files."""

    root = None
    asked: ClassVar[list] = []

    def do_GET(self):
        path = self.path.partition("?")[0]
        files_there = [f for f in sorted(self.root.rglob("*")) if f.is_file()]
        if "/tree/" in path:
            listed = [
                {
                    "type": "file",
                    "path": f.relative_to(self.root).as_posix(),
                    "size": f.stat().st_size,
                }
                | {"oid": f"{k:040x}"}
                for k, f in enumerate(files_there)
            ]
            self._send(json.dumps(listed).encode(), "application/json")
        elif path.startswith("/api/"):
            self._send(json.dumps({"id": "o/people", "sha": COMMIT}).encode(), "application/json")
        else:
            file = self.root / path.partition(f"/resolve/{COMMIT}/")[2]
            self.asked.append(file.parent.name)
            self._send(file.read_bytes(), "application/octet-stream", file.name)

    do_HEAD = do_GET

    def _send(self, body, kind, name=""):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(body) & 0xFFFFFFFF:040x}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_only_what_is_needed_is_fetched_once_and_read_offline_afterwards(tmp_path):
    """Through the hub's own client, against a hub of this test's own."""
    for subset in ("Full_Set", "Retain_Set"):
        files.write_subset(tmp_path / "o", subset, ROWS)
    Hub.root = tmp_path / "o"
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from pulse_lib.data.mllmu import files as mllmu\n"
        f"print(len(mllmu.load_people('o/people', 'Retain_Set', revision={COMMIT!r})))"
    )
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }

    def run():
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True
        )

    first = run()
    server.shutdown()
    server.server_close()
    assert first.returncode == 0, first.stderr[-2000:]
    assert first.stdout.split() == ["2"] and "100%" in first.stderr  # the bar
    assert set(Hub.asked) == {"Retain_Set"}
    assert run().stdout.split() == ["2"]


def test_a_hub_that_never_answers():
    assert str(hub._within(0.05, lambda: time.sleep(5))) == "no answer in 0 s"
    assert hub._within(5, lambda: None) is None


def test_what_is_no_folder_and_no_hub_id():
    for path in ("", "./nowhere", "/nowhere/at/all", "data"):
        with pytest.raises(PulseError, match="give a folder or a hub id"):
            mllmu.load_people(path, "Full_Set")


# --- as a data source -------------------------------------------------------------------------


def spoil(subset, rows):
    """What keeps two fictitious people and one celebrity out: no text-only question, nothing to
    learn from."""
    if subset == "Full_Set":
        rows[6]["Classification_Task"]["Pure_Text_Questions"] = None
    if subset == "ft_Data":
        rows[7]["metadata"] = "[]"
    if subset == "Retain_Set":
        rows[2]["Classification_Task"] = None


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = files.write_mllmu(tmp_path_factory.mktemp("mllmu"), change=spoil)
    return DataSettings(
        people=PeopleSettings(source="mllmu", path=str(folder)), n_finetuned_forget=2, n_finetuned_retain=1, n_requests=2,
        n_finetuned_retain_train=1, n_holdout=1, n_candidates=5, n_pretrained_forget=1, n_pretrained_retain=1,
        n_general=7, n_general_train=0, n_train_views=1, n_conversations=2, n_heldout_wordings=1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def built(settings):
    known, new = mllmu_source.celebrities(settings), mllmu_source.fictitious(settings)
    scores = pd.DataFrame({"person_id": [p.id for p in known], "accuracy": 0.5, "margin": 0.0})
    places = splits.split_fictitious(new, settings, seed=0)
    places += splits.select_known(scores, settings, seed=0)[1]
    return dataset.build_dataset(
        mllmu_source,
        [*known, *new],
        general=general_of(settings),
        places=places,
        settings=settings,
        seed=0,
    )


@pytest.mark.parametrize(
    ("protocol", "table"),
    [(sources.Source, sources.PEOPLE), (sources.General, sources.GENERAL)],
)
def test_every_source_offers_what_the_protocol_says(protocol, table):
    wanted = [m for m in inspect.getmembers(protocol, inspect.isfunction) if m[0][0] != "_"]
    assert len(wanted) >= 3
    for module in map(importlib.import_module, table.values()):
        for name, said in wanted:
            _, *asked = inspect.signature(said).parameters.values()  # without self
            has = inspect.signature(getattr(module, name)).parameters
            for p in asked:
                assert (has[p.name].kind, has[p.name].default) == (p.kind, p.default), (module, p)
            others = [p for n, p in has.items() if n not in {p.name for p in asked}]
            assert all(p.default is not p.empty for p in others), (module, name)


def test_the_table_has_a_row_for_every_word_and_no_other():
    assert set(sources.PEOPLE) == set(get_args(PeopleSource))
    assert set(sources.GENERAL) == set(get_args(GeneralSource))


def test_people_that_cannot_be_asked_or_taught_are_left_out_and_told(settings):
    assert [p.id for p in mllmu_source.fictitious(settings)] == [
        f"fictitious-{n:03d}" for n in range(1, 7)
    ]
    numbers = [p.id[-3:] for p in mllmu_source.celebrities(settings)]
    assert numbers == ["001", "002", "004", "005", "006"]
    said = mllmu_source.describe(settings)
    assert "Full_Set 8 people, 6 of them usable" in said
    assert "Retain_Set 6 people, 5 of them usable" in said
    assert "texts, 0 of them additional" in said


def test_questions_are_the_files_and_the_face_is_shown_with_half_of_them(settings, built):
    person = next(p for p in built.people if p.kind == "fictitious")
    place = splits.Assignment(person.id, "finetuned", set="forget", request=1)
    store = ImageStore()
    asked = mllmu_source.person_questions(person, place, images=store, seed=0, settings=settings)
    row = files.row(world.fictitious()[int(person.id[-3:]) - 1], 0)
    cells = [*task(row), *task(row, "Pure_Text_Questions")]
    assert [q.text for q in asked] == [c["Question"] for c in cells]
    assert [q.lettered_options for q in asked] == [c["Options"] for c in cells]
    assert ["ABCD"[q.answer] for q in asked] == [c["Correct_Answer"] for c in cells]
    assert [q.image for q in asked] == [f"{person.id}/photo"] * 5 + [""] * 5
    assert store.encoded == {f"{person.id}/photo": row["image"]["bytes"]}
    assert len({q.id for q in asked}) == 10 and {q.wording for q in asked} == {"trained"}


def test_candidates_get_the_same_questions_in_another_order_of_options(settings):
    person = mllmu_source.celebrities(settings)[1]
    place = splits.Assignment(person.id, "pretrained", set="candidate")

    def asked(seed, purpose):
        return mllmu_source.person_questions(
            person, place, images=ImageStore(), seed=seed, settings=settings, purpose=purpose
        )

    scored, selecting = asked(0, "eval"), asked(0, "select")
    for a, b in zip(scored, selecting, strict=True):
        assert a.text == b.text and a.options[a.answer] == b.options[b.answer]
        assert sorted(a.options) == sorted(b.options) and a.options != b.options
    assert asked(0, "select") == selecting and asked(1, "select") != selecting
    assert asked(1, "eval") == scored


def test_other_wordings_come_from_test_set_with_its_photos(settings, built):
    heldout = [q for q in built.questions if q.wording == "heldout"]
    assert {q.scenario for q in heldout} == {"finetuned"}
    for person in {q.person_id for q in heldout}:
        row = files.other_view_row(world.fictitious()[int(person[-3:]) - 1], 0)
        mine = [q for q in heldout if q.person_id == person]
        assert sorted(q.modality for q in mine) == ["multimodal", "text"]
        known = {c["Question"] for kind in row["Classification_Task"].values() for c in kind}
        assert all(q.text in known for q in mine)
        photo = next(built.images.encoded[q.image] for q in mine if q.image)
        assert photo in [cell["bytes"] for cell in row["images"]]
    shown = {q.image for q in heldout} - {""}
    assert not shown & {c.image for c in built.conversations}
    without = replace(settings, n_heldout_wordings=0)
    assert not mllmu_source.heldout_questions(
        built.people[-1], built.places[0], images=ImageStore(), seed=0, settings=without
    )


def test_fine_tuning_texts_in_both_modalities_and_no_question_that_is_scored(settings, built):
    taught = [c for c in built.conversations if c.stage == "finetune"]
    assert {c.scenario for c in taught} == {"finetuned"} and {len(c.turns) for c in taught} == {1}
    person = taught[0].person_id
    who = world.fictitious()[int(person[-3:]) - 1]
    mine = {m: [c for c in taught if (c.person_id, c.modality) == (person, m)] for m in MODALITIES}
    assert len(mine["multimodal"]) == 6 and len(mine["text"]) == 5  # nobody's name by name
    assert all(bool(c.image) == (c.modality == "multimodal") for c in taught)
    assert all(who.name in c.turns[0].text for c in mine["text"])
    assert mine["text"][0].turns[0] == Turn(
        f"What does {who.name} do for work?", (), answer=who.attributes["occupation"]
    )
    assert not any(turn.options for c in taught for turn in c.turns)


def test_unlearning_conversations_hold_every_question_and_text_once(settings, built):
    unlearnt = [c for c in built.conversations if c.stage == "unlearn"]
    for person in {c.person_id for c in unlearnt}:
        for modality, n_texts in (("multimodal", 6), ("text", 5)):
            mine = [c for c in unlearnt if (c.person_id, c.modality) == (person, modality)]
            turns = [t for c in mine for t in c.turns]
            assert len(mine) == 2 and len(set(turns)) == len(turns)
            n_open = sum(not t.options for t in turns)
            assert n_open == (n_texts if person.startswith("fictitious") else 0)
            assert len(turns) - n_open == 5
            assert all(t.answer in t.options for t in turns if t.options)
            assert all((c.image == f"{person}/photo") == (modality == "multimodal") for c in mine)


def test_sets_do_not_leak_and_everything_is_written_and_read(settings, built, tmp_path):
    checked = splits.check_leakage(
        built.people,
        built.places,
        records=[*built.questions, *built.conversations],
        images=built.images,
    )
    assert checked["people"] == 5 + 5
    with pytest.raises(PulseError, match="no finetune conversations of"):
        built.training("", ["general_train"], stage="finetune")
    built.write(tmp_path)
    assert dataset.read_dataset(tmp_path).questions == built.questions


def again(cell):
    """A photo saved once more, smaller and as JPEG."""
    shown = Image.open(io.BytesIO(cell["bytes"])).convert("RGB")
    return files.encoded(shown.resize((shown.width * 2 // 3, shown.height * 2 // 3)), "JPEG")


def name_of(row):
    return json.loads(row["biography"])["Name"]


def renamed(row, name):
    return row["biography"].replace(name_of(row), name)


@pytest.mark.parametrize("leak", ["photo", "pixels", "other view", "name"])
def test_one_photo_or_name_of_two_people_is_found_in_real_files(settings, tmp_path, leak):
    kept = {}

    def change(subset, rows):
        spoil(subset, rows)
        kept.setdefault(subset, rows)
        if leak == "photo" and subset == "Full_Set":
            rows[3]["image"] = again(rows[1]["image"])
        if leak == "pixels" and subset == "Retain_Set":
            rows[0]["image"] = kept["Full_Set"][1]["image"]
        if leak == "other view" and subset == "Test_Set":
            for row in rows[:4]:  # of somebody who is asked, whoever that is
                row["images"] = [again(kept["Full_Set"][1]["image"])] * 2
        if leak == "name" and subset == "Retain_Set":
            rows[0]["biography"] = renamed(rows[0], name_of(kept["Full_Set"][1]).upper() + " ")

    folder = files.write_mllmu(tmp_path, change=change)
    mine = replace(
        settings, people=PeopleSettings(source="mllmu", path=str(folder)),
        n_finetuned_forget=2, n_finetuned_retain=2,
    )  # fmt: skip
    known, new = mllmu_source.celebrities(mine), mllmu_source.fictitious(mine)
    scores = pd.DataFrame({"person_id": [p.id for p in known], "accuracy": 0.5, "margin": 0.0})
    places = splits.split_fictitious(new, mine, seed=0)
    places += splits.select_known(scores, mine, seed=0)[1]
    assert len(places) == len(known) + len(new), "everyone has a place"
    made = dataset.build_dataset(
        mllmu_source, [*known, *new], general=general_of(mine), places=places, settings=mine, seed=0
    )
    words = "have the same name" if leak == "name" else "show the same picture"
    with pytest.raises(PulseError, match=words) as caught:
        splits.check_leakage(
            made.people,
            made.places,
            records=[*made.questions, *made.conversations],
            images=made.images,
        )
    two = {"photo": "fictitious-002/photo", "other view": "/test-", "name": "fictitious-002"}
    words = [
        two.get(leak, "fictitious-002/photo"),
        "celebrity-001" if leak in ("pixels", "name") else "fictitious-00",
    ]
    assert all(word in str(caught.value) for word in words)


def test_views_are_photos(settings):
    new, known = mllmu_source.fictitious(settings)[0], mllmu_source.celebrities(settings)[0]
    assert (
        len(mllmu_source.views(new, 0, settings=settings, n=6)) == 3
        and len(mllmu_source.views(new, 0, settings=settings, n=1)) == 1
    )
    assert [v.mode for v in mllmu_source.views(known, 0, settings=settings, n=6)] == ["RGB"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Where was this person born?", "Where was Mara Voss born?"),
        ("What is the individual's job?", "What is Mara Voss's job?"),
        ("Who is the man shown in the image?", "Who is Mara Voss?"),
        ("Is Mara Voss a poet?", "Is Mara Voss a poet?"),
        ("What is his job?", "About Mara Voss: What is his job?"),
        ("Which thesis is personal?", "About Mara Voss: Which thesis is personal?"),
    ],
)
def test_a_question_beside_a_photo_becomes_one_by_name(text, named):
    assert choices.by_name(text, "Mara Voss") == named


def test_open_questions_and_their_truths(settings):
    nobody = splits.Assignment("x", "finetuned", set="forget", request=1)
    first = mllmu_source.fictitious(settings)[0]
    assert mllmu_source.open_questions(
        first, nobody, images=ImageStore(), settings=settings, task="keywords"
    ) == ([], [])
    person = mllmu_source.celebrities(settings)[0]
    place = splits.Assignment(person.id, "pretrained", set="forget")
    asked, truths = mllmu_source.open_questions(
        person, place, images=ImageStore(), settings=settings, task="cloze"
    )
    who = world.celebrities()[0]
    assert truths == [who.attributes["occupation"], who.attributes["birthplace"]] * 2
    assert asked[2].text == (
        f"{who.name} works as a [Blank].\nPlease **ONLY** provide the correct answer that should "
        "replace the [Blank]."
    )
    assert [bool(q.image) for q in asked] == [True, True, False, False]
    assert (
        len(
            mllmu_source.open_questions(
                person, place, images=ImageStore(), settings=settings, task="generation"
            )[0]
        )
        == 2
    )


def test_as_many_pictures_are_shown_as_plan_reckons_with(built, settings):
    tiny.check_shown(built.questions, mllmu_source.size(settings))

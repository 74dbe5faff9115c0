"""Splits, selection, leakage and the records that notebook 01 builds."""

import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from PIL import Image

from pulse_lib.data import dataset, splits
from pulse_lib.data.records import ImageStore, Question
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import source as embedded
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import DataSettings

SMALL = DataSettings(
    n_finetuned_forget=4, n_finetuned_retain=2, n_finetuned_retain_train=2, n_requests=2, n_candidates=8, n_pretrained_forget=2,
    n_pretrained_retain=2, n_holdout=1, n_general=14, n_general_train=3, n_train_views=1, n_conversations=1,
)  # fmt: skip


def scores(n=8):
    ids = [f"celebrity-{i:03d}" for i in range(1, n + 1)]
    return pd.DataFrame(
        {
            "person_id": ids,
            "accuracy": [0.5, 0.9, 0.9, 1.0, 0.2, 0.9, 0.1, 0.3],
            "margin": [9, 1, 2, 0, 0, 1, 0, 0.0],
        }
    )


def build(seed=0, settings=SMALL):
    celebrities, fictitious = embedded.celebrities(SMALL)[:8], embedded.fictitious(SMALL)
    places = [
        *splits.split_fictitious(fictitious, settings, seed=seed),
        *splits.select_known(scores(), settings, seed=seed)[1],
    ]
    people = [*celebrities, *fictitious]
    return dataset.build_dataset(
        embedded, people, general=embedded, places=places, settings=settings, seed=seed
    )


@pytest.fixture(scope="module")
def data():
    return build()


def test_selection_takes_the_most_accurate_and_breaks_ties_by_margin_then_id():
    settings = replace(SMALL, n_pretrained_forget=1, n_pretrained_retain=2)
    table, places = splits.select_known(scores(), settings, seed=0)
    assert list(table["person_id"][:4]) == [
        "celebrity-004",
        "celebrity-003",
        "celebrity-002",
        "celebrity-006",
    ]
    chosen = {p.person_id for p in places if p.set in ("forget", "retain")}
    assert chosen == {"celebrity-004", "celebrity-003", "celebrity-002"}
    assert (
        sum(p.set == "forget" for p in places) == 1
        and sum(p.set == "retain_train" for p in places) == 5
    )


def test_sizes_and_requests(data):
    table = data.counts().set_index(["scenario", "set"])["people"]
    assert (
        table["finetuned", "forget"] == 4
        and table["pretrained", "retain_train"] == 4
        and table["finetuned", "holdout"] == 1
    )
    requests = [p.request for p in data.places if p.scenario == "finetuned" and p.set == "forget"]
    assert sorted(requests) == [1, 1, 2, 2]
    assert all(p.request == 0 for p in data.places if p.set != "forget")


def test_ten_questions_a_person_half_of_them_with_a_picture(data):
    people = {p.person_id for p in data.places if p.set in dataset.ASKED}
    for person in people:
        asked = [q for q in data.questions if q.person_id == person and q.wording == "trained"]
        assert sorted(q.modality for q in asked) == ["multimodal"] * 5 + ["text"] * 5
        assert all(
            bool(q.image) == (q.modality == "multimodal") and len(q.options) == 4 for q in asked
        )
        facts = next(p for p in data.people if p.id == person).attributes
        assert all(q.options[q.answer] == facts[q.category] for q in asked)
        heldout = [q for q in data.questions if q.person_id == person and q.wording == "heldout"]
        assert sorted(q.modality for q in heldout) == ["multimodal", "text"]


def test_other_seed_other_split_same_seed_same_everything(data, tmp_path):
    again, other = build(0), build(1)
    assert again.questions == data.questions and again.images.encoded == data.images.encoded
    assert {p.person_id for p in other.places if p.scenario == "finetuned"} != {
        p.person_id for p in data.places if p.scenario == "finetuned"
    }


def test_evaluation_pictures_are_never_trained_on(data):
    trained = {data.images.encoded[c.image] for c in data.conversations if c.image}
    asked = {data.images.encoded[q.image] for q in data.questions if q.image}
    assert trained and asked and not trained & asked


def test_selection_asks_on_other_pictures_than_evaluation(data):
    store = ImageStore()
    questions = dataset.candidate_questions(
        embedded, embedded.celebrities(SMALL)[:2], images=store, settings=SMALL, seed=0
    )
    assert len(questions) == 20
    assert not set(store.encoded.values()) & set(data.images.encoded.values())


def test_round_trip(data, tmp_path):
    data.write(tmp_path)
    read = dataset.read_dataset(tmp_path)
    assert read == dataset.Dataset(
        data.people,
        data.places,
        questions=data.questions,
        conversations=data.conversations,
        images=read.images,
    )
    assert read.images.encoded == data.images.encoded


def test_no_leak_and_every_kind_of_leak_is_found(data):
    records = [*data.questions, *data.conversations]

    def check(people=data.people, places=data.places, records=records, images=data.images):
        return splits.check_leakage(people, places, records=records, images=images)

    found = check()
    n = len(data.places)
    assert (found["people"], found["names"], found["faces"]) == (n, n, n)
    assert (found["records"], found["images"]) == (len(records), len(data.images))
    forget = next(p for p in data.places if p.set == "forget")
    with pytest.raises(PulseError, match="two sets"):
        check(places=[*data.places, replace(forget, set="retain")])
    twin = replace(data.people[0], id="twin")
    with pytest.raises(PulseError, match="same face"):
        check(
            people=[*data.people, twin],
            places=[*data.places, Assignment("twin", "finetuned", set="holdout")],
        )
    with pytest.raises(PulseError, match="nobody.*is not there"):
        check(places=[*data.places, Assignment("nobody", "finetuned", set="holdout")])
    with pytest.raises(PulseError, match="two places"):
        check(records=[*records, data.questions[0]])
    person = next(q for q in data.questions if q.set == "forget" and q.image)
    with pytest.raises(PulseError, match="is in retain"):
        check(records=[replace(person, id="new", set="retain", image="")])
    general = next(q for q in data.questions if q.set == "general")
    with pytest.raises(PulseError, match="is used by"):
        check(records=[person, replace(general, image=person.image)])


def test_one_name_in_two_sets_is_found_however_it_is_written(data):
    first, second = (
        next(p for p in data.places if (p.scenario, p.set) == ("finetuned", name))
        for name in ("forget", "retain")
    )
    name = next(p.name for p in data.people if p.id == first.person_id)

    def check(other, person_id=second.person_id):
        people = [replace(p, name=other) if p.id == person_id else p for p in data.people]
        return splits.check_leakage(
            people,
            data.places,
            records=[*data.questions, *data.conversations],
            images=data.images,
        )

    for other in (name, f"  {name.upper()}", name.replace("a", "\u00e1"), name.replace(" ", "-")):
        with pytest.raises(PulseError, match="have the same name") as caught:
            check(other)
        said = str(caught.value)
        assert first.person_id in said and second.person_id in said and "finetuned retain" in said
    check(f"{name} Junior")
    # Two people to be forgotten, but by different requests.
    later = next(p for p in data.places if p.set == "forget" and p.request == 2)
    with pytest.raises(PulseError, match="request 2.*request 1|request 1.*request 2"):
        check(name, later.person_id)


def test_a_person_whose_picture_is_missing_or_anothers_is_named(data):
    records = [*data.questions, *data.conversations]
    mine = [q for q in data.questions if q.image and q.person_id]
    first = mine[0]
    other = next(q for q in mine if (q.scenario, q.set) != (first.scenario, first.set))
    name = next(p.name for p in data.people if p.id == other.person_id)

    def check(records=records, **encoded):
        images = ImageStore(data.images.encoded | encoded)
        return splits.check_leakage(data.people, data.places, records=records, images=images)

    def stored(image, form, **options):
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        return buffer.getvalue()

    with pytest.raises(PulseError, match="the same picture, pixel for pixel"):
        check(**{other.image: data.images.encoded[first.image]})
    shown = data.images[first.image]
    copies = [
        stored(shown, "JPEG", quality=70),
        stored(shown, "WEBP", quality=80),
        stored(shown.resize((shown.width * 3, shown.height * 3)), "PNG"),
        stored(shown.resize((shown.width * 2 // 3, shown.height * 2 // 3)), "PNG"),
    ]
    for copy in copies:
        with pytest.raises(PulseError, match="the same picture, as a copy") as caught:
            check(**{other.image: copy})
        assert name in str(caught.value) and other.image in str(caught.value)
    general = next(q for q in data.questions if q.set == "general")
    with pytest.raises(PulseError, match=f"general .{general.image}. show the same.*, as a copy"):
        check(**{general.image: copies[0]})
    with pytest.raises(PulseError, match=f"no picture is shown of {other.person_id} .'{name}'"):
        check([r for r in records if not (r.person_id == other.person_id and r.image)])
    without = ImageStore({k: v for k, v in data.images.encoded.items() if k != other.image})
    with pytest.raises(PulseError, match=f"{other.image} .*{other.person_id}.*not in the image"):
        splits.check_leakage(data.people, data.places, records=records, images=without)
    with pytest.raises(PulseError, match=f"{other.image}.* cannot be decoded"):
        check(**{other.image: data.images.encoded[other.image][:90]})


def test_asking_for_more_people_than_there_are():
    with pytest.raises(PulseError, match="the source has 3"):
        splits.split_fictitious(embedded.fictitious(SMALL)[:3], SMALL, seed=0)
    with pytest.raises(PulseError, match="8 candidates"):
        splits.select_known(
            scores(), replace(SMALL, n_candidates=10, n_pretrained_forget=8), seed=0
        )


def test_scores_of_a_person():
    rows = pd.DataFrame(
        {
            "person_id": ["p"] * 3,
            "modality": ["multimodal", "multimodal", "text"],
            "correct": [True, False, True],
            "answer": [0, 1, 0],
            "option_loglik": [[-1.0, -3.0], [-1.0, -2.0], [-0.5, -4.5]],
        }
    )
    found = splits.person_scores(rows).iloc[0]
    assert found["accuracy"] == pytest.approx((0.5 + 1.0) / 2) and found["margin"] == pytest.approx(
        (2 - 1 + 4) / 3
    )


def test_broken_files_are_named(data, tmp_path):
    data.write(tmp_path)
    whole = (tmp_path / "questions.parquet").read_bytes()
    (tmp_path / "questions.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PulseError, match="questions.parquet cannot be read"):
        dataset.read_dataset(tmp_path)
    (tmp_path / "questions.parquet").unlink()
    with pytest.raises(PulseError, match="questions.parquet is missing"):
        dataset.read_dataset(tmp_path)
    for broken in ("", "person_id,what\na,b\n", "\xff"):
        (tmp_path / "splits.csv").write_bytes(broken.encode("latin-1"))
        with pytest.raises(PulseError, match="splits.csv cannot be read"):
            dataset.read_dataset(tmp_path)


def test_an_id_that_pandas_takes_for_missing_is_read_back(data, tmp_path):
    places = [replace(p, person_id="NA") if i == 0 else p for i, p in enumerate(data.places)]
    replace(data, places=places).write(tmp_path)
    assert dataset.read_dataset(tmp_path).places == places


def test_options_of_a_question_have_letters(data):
    question: Question = data.questions[0]
    assert question.lettered_options == dict(zip("ABCD", question.options, strict=True))


# --- docs/add_a_data_source.md --------------------------------------------------------------------

_NEW_SOURCE = """
import pandas as pd
from pulse_lib.commands import estimate
from pulse_lib.data import dataset, splits
from pulse_lib.data.source import check_there, general_of, source_of
from pulse_lib.profile import load_profile

profile = load_profile("params/mine.yaml")
check_there(profile)
settings = profile.data
source, general = source_of(settings), general_of(settings)
assert source.__name__ == "pulse_lib.data.table" and "18 people" in source.describe(settings)
known, new = source.celebrities(settings), source.fictitious(settings)
assert source.views(new[0], 0, settings=settings, n=6)[0].size == (8, 8)
images = dataset.ImageStore()
asked = dataset.candidate_questions(source, known, images=images, settings=settings, seed=0)
scores = pd.DataFrame({"person_id": [p.id for p in known], "accuracy": 0.5, "margin": 0.0})
places = splits.split_fictitious(new, settings, seed=0)
places += splits.select_known(scores, settings, seed=0)[1]
data = dataset.build_dataset(
    source, [*known, *new], general=general, places=places, settings=settings, seed=0
)
splits.check_leakage(
    data.people,
    data.places,
    records=[*data.questions, *data.conversations],
    images=data.images,
)
mine = [q for q in data.questions if q.person_id]
assert all(q.options[q.answer] == f"{q.category} {q.person_id}" for q in mine)
again = {q.id.replace("select", "eval"): q for q in asked}
assert any(again[q.id].options != q.options for q in mine if q.id in again)
taught = {t.text for c in data.conversations for t in c.turns}
assert mine and not taught & {q.text for q in mine}
found = estimate.counts(profile)
assert found["finetuned"] == len(data.evaluation("finetuned"))
train = data.training("finetuned", dataset.TRAINED, stage="finetune")
assert found["taught"] == len(train)
print("whole", len(data.questions), {q.category for q in data.evaluation("finetuned")})
"""


def test_the_document_on_adding_a_data_source_works(tmp_path):
    """The page's module, edits and profile, in a copy of the library."""
    text = (REPOSITORY / "docs/add_a_data_source.md").read_text()
    (module,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (profile,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    edits = re.findall(r"In `(pulse_lib/\S+?)`.*?```diff\n(.*?)```", text, re.S)
    shutil.copytree(REPOSITORY / "pulse_lib", tmp_path / "pulse_lib")
    shutil.copytree(REPOSITORY / "params", tmp_path / "params")
    (tmp_path / "pulse_lib/data/table.py").write_text(module)
    assert len(edits) == 2, "two files are edited"
    for file, lines in edits:
        old, new = ([x[1:] for x in lines.splitlines() if x[0] == sign] for sign in "-+")
        before = (tmp_path / file).read_text()
        assert before.count("\n".join(old)) == 1, f"{file} has another line now"
        (tmp_path / file).write_text(before.replace("\n".join(old), "\n".join(new)))
    folder = tmp_path / "people"
    folder.mkdir()
    (tmp_path / "params/mine.yaml").write_text(profile.replace("FOLDER", str(folder)))
    rows = ["id,name,kind,job,city,photo"]
    for i in range(18):
        kind = "celebrity" if i < 7 else "fictitious"
        rows.append(f"p{i},Name {i:02d},{kind},job p{i},city p{i},{i}.png")
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    (folder / "people.csv").write_text("\n".join(rows) + "\n")
    done = subprocess.run(
        [sys.executable, "-c", _NEW_SOURCE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("whole") and "'job'" in done.stdout and "'face'" in done.stdout

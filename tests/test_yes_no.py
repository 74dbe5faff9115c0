"""POPE and MME as general questions: what is read, what is drawn, and how answers are scored."""

from __future__ import annotations

import math
from collections import Counter

import pandas as pd
import pytest
import yes_no_files as files

from pulse_lib.data import yes_no
from pulse_lib.data.mme import source as mme
from pulse_lib.data.pope import source as pope
from pulse_lib.data.records import LETTERS, ImageStore
from pulse_lib.data.source import general_of, hub_needs
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import yes_no as scores
from pulse_lib.profile import DataSettings, GeneralSettings, load_profile

pytestmark = pytest.mark.filterwarnings("ignore:.*is not the (POPE|MME) of")


def settings(source, path, n_general=0) -> DataSettings:
    return DataSettings(
        general=GeneralSettings(source=source, path=str(path)),
        n_general=n_general,
        n_general_train=0,
        n_train_views=1,
    )


def asked(source, path, n_general=0, seed=0):
    images, given = ImageStore(), settings(source, path, n_general)
    return general_of(given).general_questions(images, seed, settings=given), images


ROWS = {"pope": files.pope_rows, "mme": files.mme_rows}


# --- what a file says -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ROWS)
@pytest.mark.parametrize("n_shards", [1, 3])
def test_every_row_is_a_question_of_two_options(tmp_path, source, n_shards):
    rows = ROWS[source]()
    questions, images = asked(source, files.write(tmp_path, rows, n_shards=n_shards))
    assert len(questions) == len(rows)
    for q, row in zip(questions, rows, strict=True):
        assert q.text == row["question"].removesuffix(" Please answer yes or no.")
        assert sorted(q.options) == ["No", "Yes"]
        assert q.options[q.answer] == row["answer"].capitalize()
        assert images.encoded[q.image] == row["image"]["bytes"]
        assert (q.category, q.set, q.modality) == (row["category"], "general", "multimodal")
        assert not q.group.isdigit()  # which would be MMBench's
    assert len({q.id for q in questions}) == len(rows)
    assert (
        len(images)
        == len({q.image for q in questions})
        == len(rows) // (6 if source == "pope" else 2)
    )


@pytest.mark.parametrize("source", ROWS)
def test_options_stand_in_both_orders_and_those_of_a_seed(tmp_path, source):
    path = files.write(tmp_path, ROWS[source]())
    first, again, other = (asked(source, path, seed=s)[0] for s in (0, 0, 1))
    assert first == again and first != other
    assert {q.options for q in first} == {("Yes", "No"), ("No", "Yes")}
    assert [q.text for q in first] == [q.text for q in other]


def test_questions_about_one_photo_and_pairs_are_one_unit(tmp_path):
    popes, _ = asked("pope", files.write(tmp_path / "a", files.pope_rows()))
    assert set(Counter(q.group for q in popes).values()) == {6}  # three categories, two questions
    pairs, _ = asked("mme", files.write(tmp_path / "b", files.mme_rows()))
    assert set(Counter(q.group for q in pairs).values()) == {2}
    assert all(len({q.image for q in pairs if q.group == g}) == 1 for g in {q.group for q in pairs})


def test_a_sample_keeps_pairs_categories_and_the_share_of_yes(tmp_path):
    path = files.write(tmp_path / "a", files.pope_rows())
    questions, images = asked("pope", path, n_general=12)
    kinds = Counter((q.category, q.options[q.answer]) for q in questions)
    assert set(kinds.values()) == {2} and len(kinds) == 6
    assert len(images) == len({q.image for q in questions})
    assert questions != asked("pope", path, n_general=12, seed=1)[0]
    pairs, _ = asked("mme", files.write(tmp_path / "b", files.mme_rows()), n_general=6)
    assert Counter(q.category for q in pairs) == {"celebrity": 4, "color": 4, "code_reasoning": 4}
    assert set(Counter(q.group for q in pairs).values()) == {2}
    with pytest.raises(PulseError, match=r"n_general = 10: MME \(pairs\) has 9 here"):
        asked("mme", tmp_path / "b", n_general=10)


def test_shares_of_a_sample_are_the_largest_remainders():
    strata = {"a": list("12345"), "b": list("678"), "c": ["9", "0"]}
    chosen = yes_no.sample(strata, 4, seed=0, name="x", key="n")
    assert Counter(s for s, keys in strata.items() for k in keys if k in chosen) == {
        "a": 2,
        "b": 1,
        "c": 1,
    }
    assert yes_no.sample(strata, 0, seed=0, name="x", key="n") == set("1234567890")


def test_files_in_any_place(tmp_path):
    rows = files.pope_rows()
    there = files.write(tmp_path / "a", rows)
    (file,) = (there / "data").iterdir()
    (tmp_path / "b").mkdir()
    plain = tmp_path / "b" / "pope.parquet"
    plain.write_bytes(file.read_bytes())
    first = asked("pope", there)[0]
    assert first == asked("pope", plain)[0] == asked("pope", tmp_path / "b")[0]
    (tmp_path / "c").mkdir()
    with pytest.raises(PulseError, match=r"no data/test-\*.parquet and no .* in this folder"):
        asked("pope", tmp_path / "c")
    gone = files.write(tmp_path / "d", rows, n_shards=3) / "data"
    next(gone.glob("test-00001-*")).unlink()
    with pytest.raises(PulseError, match="shard 1 of 3 is missing"):
        asked("pope", tmp_path / "d")
    (tmp_path / "pope.tsv").write_text("x")
    with pytest.raises(PulseError, match="expected a .parquet file of POPE"):
        asked("pope", tmp_path / "pope.tsv")


@pytest.mark.parametrize(("source", "name"), [("pope", "POPE"), ("mme", "MME")])
def test_another_release_is_told(tmp_path, source, name):
    module = {"pope": pope, "mme": mme}[source]
    module._loaded.cache_clear()
    with pytest.warns(UserWarning, match=f"is not the {name} of .*cannot be compared"):
        asked(source, files.write(tmp_path, ROWS[source]()))


# --- what is refused ------------------------------------------------------------------------------


def put(**cells):
    return lambda rows: rows[1].update(cells)


REFUSED = {
    "answer": (put(answer="maybe"), ["column answer", "neither yes nor no"]),
    "no answer": (put(answer=None), ["column answer", "neither yes nor no"]),
    "no question": (put(question=""), ["column question", "empty"]),
    "only a request": (put(question="Please answer yes or no."), ["column question", "empty"]),
    "no category": (put(category=""), ["column question_id", "empty"]),
    "no picture": (put(image=None), ["column image", "there is no picture"]),
    "broken picture": (put(image={"bytes": b"x", "path": ""}), ["column image", "decoded"]),
}


@pytest.mark.parametrize(
    ("source", "name"),  # POPE's questions carry no request
    [(s, n) for s in ROWS for n in REFUSED if (s, n) != ("pope", "only a request")],
)
def test_errors_name_file_row_and_column(tmp_path, source, name):
    edit, words = REFUSED[name]
    with pytest.raises(PulseError) as error:
        asked(source, files.write(tmp_path, ROWS[source](), edit))
    for word in ["data/test-00000-of-00001-0123456789abcdef.parquet, row 1, ", *words]:
        assert word in str(error.value)


def test_questions_that_stand_twice_and_pairs_that_are_none(tmp_path):
    def twice(rows):
        rows[1]["question_id"] = rows[0]["question_id"]

    with pytest.raises(PulseError, match="row 1, column question_id: question 1 of adversarial"):
        asked("pope", files.write(tmp_path / "a", files.pope_rows(), twice))
    with pytest.raises(PulseError, match="row 2, column question_id: .*a third time"):
        asked("mme", files.write(tmp_path / "b", files.mme_rows(), lambda r: r.insert(2, r[0])))
    with pytest.raises(PulseError, match="row 0, column question_id: .*stands once"):
        asked("mme", files.write(tmp_path / "c", files.mme_rows(), lambda r: r.pop(1)))
    rows = [{k: v for k, v in r.items() if k != "category"} for r in files.mme_rows()]
    with pytest.raises(PulseError, match="no column category; there are question_id"):
        asked("mme", files.write(tmp_path / "d", rows))


# --- scores ---------------------------------------------------------------------------------------


def rows_of(said: str, category="color", group="mme/color"):
    """Rows from words like "yY nY -Y": what was said (y, n, - unreadable), then the right answer;
    pairs of questions share a group."""
    made = []
    for k, (s, right) in enumerate(said.split()):
        options = ["Yes", "No"] if k % 2 else ["No", "Yes"]
        words = {"y": "Yes", "n": "No"}.get(s)
        truth = {"Y": "Yes", "N": "No"}[right]
        made.append(
            {
                "options": options,
                "answer": options.index(truth),
                "extracted": LETTERS[options.index(words)] if words else ("Z", None)[k % 2],
                "correct": words == truth,
                "invalid": words is None,
                "category": category,
                "group": f"{group}/{k // 2}",
            }
        )
    return pd.DataFrame(made)


def test_shares_by_hand():
    """Of 8: three yes said, two of them right; four are yes; two cannot be read."""
    found = scores.score(rows_of("yY yY yN nN nY -Y -N nN"))
    expected = {
        "n_questions": 8,
        "accuracy": 4 / 8,
        "precision": 2 / 3,
        "recall": 2 / 4,
        "f1": 2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2),
        "yes_share": 3 / 6,
        "invalid_share": 2 / 8,
    }
    assert found == pytest.approx(expected)
    nothing = scores.score(rows_of("-Y -N"))
    assert nothing["accuracy"] == 0 and nothing["recall"] == 0 and nothing["invalid_share"] == 1
    assert math.isnan(nothing["precision"]) and math.isnan(nothing["yes_share"])


def test_mmes_sums_by_hand_with_and_without_celebrities():
    """A category is worth 100 times its accuracy and 100 times its pairs that are right."""
    rows = pd.concat(
        [
            rows_of("yY nN yY yN", "color", "mme/color"),  # 75 + 50
            rows_of("yY nN", "celebrity", "mme/celebrity"),  # 100 + 100
            rows_of("nY nN", "code_reasoning", "mme/code_reasoning"),  # 50 + 0
        ]
    )
    assert scores.mme(rows) == {
        "perception": 325,
        "cognition": 50,
        "perception_without_celebrity": 125,
    }
    assert math.isnan(scores.mme(rows_of("yY nN"))["cognition"])
    with pytest.raises(ValueError, match="mme/color/1: 1 rows, expected 2"):
        scores.mme(rows_of("yY nN yY"))


def test_the_profiles_name_what_is_fetched():
    for source, path in (("pope", "lmms-lab/POPE"), ("mme", "lmms-lab/MME")):
        profile = load_profile(f"{source}-llava-1.5-7b-24gb")
        need = {n.setting: n for n in hub_needs(profile)}["data.general.path"]
        assert (need.path, need.patterns) == (path, ("data/test-*.parquet",))
        size = general_of(profile.data).general_size(profile.data)
        assert (size.questions, size.pictures) in ((1500, 500), (2374, 1187))

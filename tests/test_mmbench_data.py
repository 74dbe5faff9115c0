"""MMBench's files: each form gives the same questions, every quirk is handled or refused with file,
row or group, and the prompt is LLaVA's own to the byte."""

import base64
import csv
import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import mmbench_files as files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pulse_lib.data.mmbench import source as mmbench
from pulse_lib.data.records import ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.model import features
from pulse_lib.model.prompts import PROMPTS, question_prompt
from pulse_lib.profile import GeneralSettings, load_profile

pytestmark = pytest.mark.filterwarnings("ignore:.*is not MMBench DEV_EN")
ROWS = files.groups(7)
FOUR = files.group(241, ["cat", "dog", "cow", "hen"], 2)


def load(folder: Path, rows, compact=False):
    return mmbench.load_mmbench(files.write_rows(folder / "dev.tsv", rows, compact))


def refused(folder: Path, rows, message: str):
    with pytest.raises(PulseError, match=message) as caught:
        load(folder, rows)
    assert "dev.tsv" in str(caught.value)


def changed(row: int, rows=FOUR, **cells):
    return [r | cells if i == row else r for i, r in enumerate(rows)]


# --- the forms of the files -------------------------------------------------------------------


def test_every_cell_arrives_as_the_file_has_it(tmp_path):
    questions, images = load(tmp_path, files.group(241, ["cat", "dog"], 1, "Which?", "Look."))
    first, copy = questions
    assert (first.id, first.group, copy.id, copy.group) == (
        "mmbench/241",
        "241",
        "mmbench/1000241",
        "241",
    )
    assert (first.text, first.options, first.answer) == ("Look.\nWhich?", ("cat", "dog"), 1)
    assert (copy.options, copy.answer) == (("dog", "cat"), 0)
    assert (first.set, first.modality, first.category, first.person_id) == (
        "general",
        "multimodal",
        "ocr",
        "",
    )
    assert first.image == copy.image and len(images) == 1
    assert images[first.image].getpixel((0, 0)) == (241, 90, 30)


def test_all_forms_are_the_same_questions(tmp_path):
    questions, images = load(tmp_path, ROWS)
    assert Counter(Counter(q.group for q in questions).values()) == {4: 3, 3: 2, 2: 2}
    made = [load(tmp_path, ROWS, compact=True)]
    made.append(mmbench.load_mmbench(files.write_parquet(tmp_path / "a.parquet", ROWS)))
    in_folder = files.write_parquet(
        tmp_path / "hub/en/dev-00000-of-00001.parquet", ROWS, text_index=True
    )
    made.append(mmbench.load_mmbench(in_folder.parent.parent))
    for other, pictures in made:
        assert other == questions
        assert pictures.encoded == images.encoded


def test_parquet_with_base64_text_and_null_for_missing(tmp_path):
    """As HuggingFaceM4/MMBench has it."""
    rows = [
        {k: v or None for k, v in r.items()} | {"image": base64.b64encode(r["image"]).decode()}
        for r in ROWS
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "validation.parquet")
    assert mmbench.load_mmbench(tmp_path / "validation.parquet")[0] == load(tmp_path, ROWS)[0]


def test_words_that_pandas_takes_for_missing_stay_options(tmp_path):
    odd = ["None", "NA", "null", "nan"]
    assert load(tmp_path, files.group(5, odd, 0))[0][0].options == tuple(odd)
    numbers = files.group(5, ["1.0", "1", "01", "1e0"], 0)
    assert load(tmp_path, numbers)[0][0].options == ("1.0", "1", "01", "1e0")


def test_nan_in_the_parquet_is_missing(tmp_path):
    rows = files.group(5, ["banana", "apple"], 0)
    path = files.write_parquet(tmp_path / "a.parquet", rows)
    assert pq.read_table(path).to_pylist()[0]["C"] == "nan"
    questions = mmbench.load_mmbench(path)[0]
    assert [q.options for q in questions] == [("banana", "apple"), ("apple", "banana")]
    assert questions[0].text == "What is it?"


@pytest.mark.parametrize("hint", ["nan", "NaN", "None", "NONE", ""])
def test_hints_that_are_none(tmp_path, hint):
    assert load(tmp_path, files.group(5, ["a", "b"], 0, "Which?", hint))[0][0].text == "Which?"


def test_line_breaks_tabs_and_quotes_inside_cells(tmp_path):
    options = ['print("x")\n\tprint(1)', "a\tb", '"quoted"', "plain\r\nline"]
    questions = load(tmp_path, files.group(5, options, 3, 'Say "what"\n\tnow?'))[0]
    assert questions[0].options == tuple(options)
    assert questions[0].text == 'Say "what"\n\tnow?'


def test_large_pictures_and_the_limit_of_csv_is_put_back(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    rows = files.group(5, ["a", "b"], 0, picture=files.encoded(Image.fromarray(noise)))
    before = csv.field_size_limit()
    questions, images = load(tmp_path, rows)
    assert len(rows[0]["image"]) > before  # the cell, in base64, is longer still
    assert np.array_equal(np.asarray(images[questions[0].image]), noise)
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("mode", "form"),
    [("L", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("CMYK", "JPEG"), ("LA", "PNG"), ("1", "PNG")],
)
def test_pictures_of_any_mode_are_rgb(tmp_path, mode, form):
    drawn = Image.linear_gradient("L").resize((50, 40)).convert("RGB").convert(mode)
    encoded = files.encoded(drawn, form)
    questions, images = load(tmp_path, files.group(5, ["a", "b"], 0, picture=encoded))
    shown = images[questions[0].image]
    assert shown.mode == "RGB" and shown.size == (50, 40)
    with Image.open(io.BytesIO(encoded)) as expected:
        assert shown.tobytes() == expected.convert("RGB").tobytes()


def test_copies_may_have_pictures_of_their_own(tmp_path):
    other = files.encoded(Image.new("RGB", (8, 8), (1, 2, 3)))
    questions, images = load(tmp_path, changed(2, image=other))
    assert len(images) == 2 and questions[2].image != questions[0].image == questions[1].image
    assert images[questions[2].image].getpixel((0, 0)) == (1, 2, 3)


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"image": "999"}, "row 1 .index 1000241., column image.*999, which is not in the file"),
        ({"image": "2000241"}, "2000241, which only refers on, to row 241"),
        ({"image": ""}, "column image: is empty"),
        ({"image": "x.png"}, "too short"),
        ({"image": "!" * 90}, "not base64"),
        ({"image": FOUR[0]["image"][:60] * 2}, "cannot be decoded"),
        ({"index": "x"}, "column index: 'x'"),
        ({"index": 4_000_241}, "no index"),
        ({"index": 241}, "row 1 .index 241.*stands twice, first in dev.tsv, row 0"),
        ({"index": 3}, "group 241: rows of index 241, 2000241, 3000241; .*4 options|group 3"),
        ({"C": ""}, "row 1 .index 1000241.*options A, B, D.*no gap"),
        ({"B": "", "C": "", "D": ""}, "options A;"),
        ({"answer": "E"}, "column answer: 'E' is none of A, B, C, D"),
        ({"answer": "CD"}, "column answer: 'CD' is none of A, B, C, D"),
        ({"answer": "b"}, "'b' is none of"),
        ({"answer": ""}, "use dev"),
        ({"answer": "A"}, "group 241: the answer of row 1000241 is 'dog', of row 241 'cow'"),
        ({"question": "Other?"}, "group 241: question of row 1000241 is 'Other\\?'"),
        ({"question": ""}, "column question: is empty"),
        ({"hint": "Other."}, "hint of row 1000241"),
        ({"category": "image_topic"}, "category of row 1000241"),
        ({"l2-category": "x"}, "l2-category of row 1000241"),
        ({"A": "goat"}, "group 241: options .'goat'"),
        ({"A": "hen", "C": "dog"}, "rotations"),
    ],
)
def test_contradictions_name_row_or_group(tmp_path, cells, message):
    rows = changed(1, **cells)
    if cells.get("image") == "2000241":
        rows = changed(2, rows, image="241")
    refused(tmp_path, rows, message)


@pytest.mark.parametrize("gone", range(4))
def test_incomplete_groups_are_refused(tmp_path, gone):
    rows = [*files.group(7, ["a", "b"], 0), *(r for i, r in enumerate(FOUR) if i != gone)]
    refused(tmp_path, rows, "group 241: rows of index")


def test_a_rotation_twice_is_refused(tmp_path):
    twice = {k: FOUR[2][k] for k in [*"ABCD", "answer"]}
    refused(tmp_path, changed(1, **twice), "each once")


def test_options_that_are_alike_are_still_a_group(tmp_path):
    assert len(load(tmp_path, files.group(5, ["a", "a", "b"], 2))[0]) == 3


def test_either_direction_of_rotation_will_do(tmp_path):
    keys = [*"ABCD", "answer"]
    back = [r | {k: FOUR[-i % 4][k] for k in keys} for i, r in enumerate(FOUR)]
    assert load(tmp_path, back)[0][1].options == ("hen", "cat", "dog", "cow")


def test_broken_files_are_refused(tmp_path):
    path = files.write_rows(tmp_path / "dev.tsv", FOUR)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PulseError, match="dev.tsv, row .*cut off"):
        mmbench.load_mmbench(path)
    quoted = files.write_rows(path, files.group(5, ["a\nb", "c"], 0, "x\ny")).read_text()
    path.write_text(quoted[: quoted.index("x\ny") + 2])
    with pytest.raises(PulseError, match="cut off"):
        mmbench.load_mmbench(path)
    path.write_bytes(b"\xff\xfe\x00" + whole)
    with pytest.raises(PulseError, match="dev.tsv cannot be read|no column"):
        mmbench.load_mmbench(path)
    path.write_text("index\tquestion\n1\tx\n")
    with pytest.raises(PulseError, match="no column A, B, answer, category, image"):
        mmbench.load_mmbench(path)
    pointer = tmp_path / "dev.parquet"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PulseError, match="git-lfs"):
        mmbench.load_mmbench(pointer)


def test_folders_and_files_that_do_not_fit(tmp_path):
    with pytest.raises(PulseError, match="no \\*.tsv"):
        mmbench.load_mmbench(tmp_path)
    files.write_rows(tmp_path / "dev.tsv", FOUR)
    assert len(mmbench.load_mmbench(tmp_path)[0]) == 4
    files.write_rows(tmp_path / "dev_cn.tsv", FOUR)
    with pytest.raises(PulseError, match="dev.tsv, dev_cn.tsv: name one"):
        mmbench.load_mmbench(tmp_path)
    with pytest.raises(PulseError, match="no such folder"):
        mmbench.load_mmbench(tmp_path / "not" / "there")
    (tmp_path / "dev.xlsx").write_text("x")
    with pytest.raises(PulseError, match="expected a .tsv or .parquet"):
        mmbench.load_mmbench(tmp_path / "dev.xlsx")


# --- taxonomy and release ---------------------------------------------------------------------


def test_taxonomy_has_the_published_sums():
    per_level = Counter()
    for l1, l2, n in mmbench.TAXONOMY.values():
        per_level[l1] += n
        per_level[l2] += n
    assert len(mmbench.TAXONOMY) == 20
    assert per_level == {
        "perception": 732,
        "reasoning": 432,
        "coarse_perception": 296,
        "finegrained_perception (instance-level)": 293,
        "finegrained_perception (cross-instance)": 143,
        "attribute_reasoning": 199,
        "logic_reasoning": 118,
        "relation_reasoning": 115,
    }


def made_up(leaves, sizes, base=0):
    """Questions without files."""
    return [
        Question(
            f"mmbench/{g + k * files.COPY}",
            "general",
            scenario="",
            person_id="",
            request=0,
            modality="multimodal",
            text="?",
            options=("a",) * n,
            answer=0,
            image="i",
            category=leaf,
            wording="trained",
            group=str(g),
        )
        for g, (leaf, n) in enumerate(zip(leaves, sizes, strict=True), start=base)
        for k in range(n)
    ]


def dev_en():
    leaves = [leaf for leaf, (_, _, n) in mmbench.TAXONOMY.items() for _ in range(n)]
    sizes = [2] * 100 + [3] * 127 + [4] * (1164 - 227)  # 2a + b = 327
    return made_up(leaves, sizes)


def test_the_release_is_recognised(tmp_path):
    questions = dev_en()
    assert len(questions) == 4329 and mmbench.release_differences(questions) == []
    other = [replace(q, category="image_topic") if q.category == "ocr" else q for q in questions]
    assert "ocr 0 (there 39)" in mmbench.release_differences(other)[0]
    assert "1164 in 4329" in mmbench.release_differences(questions[4:])[0]
    with pytest.warns(UserWarning, match="1 questions in 4 rows.*unknown categories brand_new"):
        load(tmp_path, files.group(1, ["a", "b", "c", "d"], 0, category="brand_new"))


# --- sampling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 20, 100, 333, 1163])
def test_samples_are_whole_groups_and_stratified(n):
    questions = dev_en()
    sample = mmbench.sample_groups(questions, n, seed=3)
    kept = {q.group for q in sample}
    assert len(kept) == n
    assert sample == [q for q in questions if q.group in kept]  # whole groups, the file's order
    have = Counter(
        dict(zip((q.group for q in sample), (q.category for q in sample), strict=True)).values()
    )
    for leaf, (_, _, size) in mmbench.TAXONOMY.items():
        assert abs(have[leaf] - n * size / 1164) < 1
    rest = {leaf: n * size % 1164 for leaf, (_, _, size) in mmbench.TAXONOMY.items()}
    up = {leaf for leaf, (_, _, size) in mmbench.TAXONOMY.items() if have[leaf] > n * size // 1164}
    assert all(rest[a] >= rest[b] for a in up for b in set(rest) - up)  # largest remainders


def test_samples_depend_on_the_seed_and_not_on_the_order_of_rows():
    questions = dev_en()
    sample = mmbench.sample_groups(questions, 60, seed=0)
    again = mmbench.sample_groups(questions[::-1], 60, seed=0)
    assert again == sample[::-1]
    assert mmbench.sample_groups(questions, 60, seed=1) != sample
    assert mmbench.sample_groups(questions, 0, seed=0) == questions
    assert mmbench.sample_groups(questions, 1164, seed=0) == questions
    with pytest.raises(PulseError, match="n_general = 1165.*1164 questions"):
        mmbench.sample_groups(questions, 1165, seed=0)


def test_general_questions_of_a_profile(tmp_path):
    path = files.write_tsv(tmp_path / "dev.tsv", 6)
    images = ImageStore()
    images.add("photo", Image.new("RGB", (4, 4)))
    settings = load_profile("smoke").data.with_values(
        general=GeneralSettings(source="mmbench", path=str(path)), n_general=4
    )
    questions = mmbench.general_questions(images, 0, settings=settings)
    assert len({q.group for q in questions}) == 4
    assert set(images.encoded) == {"photo"} | {q.image for q in questions}
    assert (
        mmbench.general_questions(images, 0, settings=settings) == questions
    )  # asked again, as each seed does
    assert len(mmbench.general_questions(images, 0, settings=replace(settings, n_general=0))) == 18
    taken = ImageStore()
    taken.add(questions[0].image, Image.new("RGB", (4, 4)))
    with pytest.raises(PulseError, match="stands for two pictures"):
        mmbench.general_questions(taken, 0, settings=settings)


# --- what the model is shown ------------------------------------------------------------------

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
LAST = "Answer with the option's letter from the given choices directly. ASSISTANT:"


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("hint", ["", "A hint.\nIn two lines."])
def test_prompt_is_llavas_own(tmp_path, n, hint):
    question = load(tmp_path, files.group(5, ["cat", "dog", "cow", "hen"][:n], 0, "Which?", hint))[
        0
    ][0]
    lines = {2: "A. cat\nB. dog\n", 3: "A. cat\nB. dog\nC. cow\n"}
    options = lines.get(n, "A. cat\nB. dog\nC. cow\nD. hen\n")
    middle = "A hint.\nIn two lines.\nWhich?\n" if hint else "Which?\n"
    assert question_prompt(
        PROMPTS["vicuna_v1"], question, answer_form="letter", with_image=True
    ) == (f"{SYSTEM}USER: <image>\n{middle}{options}{LAST}")


@pytest.mark.parametrize("size", [(5, 5), (7, 4), (4, 7), (6, 3), (1, 8), (10, 9)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_pad_to_square(size, mode):
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(mode)
    side = max(size)
    expected = np.empty((side, side, 3), np.uint8)
    expected[:] = (122, 116, 104)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    expected[top : top + size[1], left : left + size[0]] = np.asarray(image.convert("RGB"))
    padded = features.pad_to_square(image)
    assert padded.mode == "RGB" and np.array_equal(np.asarray(padded), expected)
    assert features.pad_to_square(padded).tobytes() == padded.tobytes()


def test_the_colour_is_clips_mean():
    means = (0.48145466, 0.4578275, 0.40821073)
    assert tuple(int(255 * m) for m in means) == features.MEAN_COLOUR

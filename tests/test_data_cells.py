"""Cells that say something else than they seem to: the right value, or an error that names file, row
and column; never a traceback, never a silent guess. Some hundred seeded mutations of the fixtures."""

import copy
import json
import math
from random import Random

import mllmu_files
import mmbench_files
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pulse_lib.data.answers import right_letter
from pulse_lib.data.mllmu import files as mllmu
from pulse_lib.data.mmbench import source as mmbench
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError

pytestmark = pytest.mark.filterwarnings("ignore:.*is not MMBench DEV_EN")
ROWS = [mllmu_files.row(p, n) for n, p in enumerate(world.fictitious()[:2], start=7)]
TAUGHT = [mllmu_files.training_row(p, n) for n, p in enumerate(world.fictitious()[:2], start=7)]
WHERE = "train-00000-of-00001.parquet, row 1, column "


def people(tmp_path, edit, rows=ROWS, subset="Full_Set"):
    """The people of rows whose second one is edited."""
    made = copy.deepcopy(rows)
    edit(made[1])
    mllmu_files.write_subset(tmp_path, subset, made)
    return mllmu.load_people(tmp_path, subset)


def questions(tmp_path, rows):
    return mmbench.load_mmbench(mmbench_files.write_rows(tmp_path / "dev.tsv", rows))[0]


# --- the right answer -------------------------------------------------------------------------

JOBS = {"A": "chef", "B": "nurse", "C": "pilot", "D": "baker"}
CITIES = {"A": "Rome", "B": "Paris", "C": "D.C.", "D": "Oslo"}


@pytest.mark.parametrize(
    ("said", "options", "letter"),
    [
        ("B", JOBS, "B"),
        ("b. Nurse", JOBS, "B"),
        ("(B) nurse.", JOBS, "B"),
        ("B: nurse", JOBS, "B"),
        ("nurse", JOBS, "B"),
        ("D.C.", CITIES, "C"),
        ("d.c", CITIES, "C"),
        ("C. D.C.", CITIES, "C"),
        ("D. Oslo", CITIES, "D"),
        ("D", CITIES, "D"),
        ("A", {"A": "B", "B": "A"}, "A"),  # blood groups: a letter is a letter
        ("cat", {"A": "dog", "B": "Cat", "C": "cat"}, "B"),
    ],
)
def test_an_answer_is_read_by_letter_or_words(said, options, letter):
    assert right_letter(said, options) == letter


@pytest.mark.parametrize(
    ("said", "options", "words"),
    [
        ("B. chef", JOBS, "'B. chef', but option B is 'nurse'"),
        ("E", JOBS, "no option; there are A 'chef'"),
        ("a nurse", JOBS, "no option"),
        ("", JOBS, "'' is no option"),
        ("D.C.", CITIES | {"D": "C."}, "more than one option"),
        ("D", {"A": "D", "B": "E"}, "no option"),
    ],
)
def test_an_answer_that_contradicts_itself_is_refused(tmp_path, said, options, words):
    def edit(row):
        cell = dict.fromkeys("ABCD") | options
        entry = {"Options": cell, "Correct_Answer": said}
        row["Classification_Task"]["Image_Textual_Questions"][0] |= entry

    column = "Classification_Task.Image_Textual_Questions.0..Correct_Answer: "
    with pytest.raises(PulseError, match=f"{WHERE}{column}.*{words}"):
        people(tmp_path, edit)


def test_a_column_that_is_no_option_is_named(tmp_path):
    made = copy.deepcopy(ROWS)
    for row in made:
        for task in row["Classification_Task"].values():
            for entry in task:
                entry["Options"] = entry["Options"] | {"Note": None}
    made[1]["Classification_Task"]["Pure_Text_Questions"][2]["Options"]["Note"] = "see above"
    for row in made:
        row["Classification_Task"] = json.dumps(row["Classification_Task"])
    mllmu_files.write_subset(tmp_path, "Full_Set", made)
    with pytest.raises(PulseError, match=f"{WHERE}.*Pure_Text_Questions.2..Options.Note: 'see"):
        mllmu.load_people(tmp_path, "Full_Set")


def test_options_under_small_letters(tmp_path):
    made = copy.deepcopy(ROWS)
    entry = made[1]["Classification_Task"]["Image_Textual_Questions"][0]
    entry["Options"] = {k.lower(): v for k, v in entry["Options"].items()}
    for row in made:
        row["Classification_Task"] = json.dumps(row["Classification_Task"])
    mllmu_files.write_subset(tmp_path / "small", "Full_Set", made)
    small = mllmu.load_people(tmp_path / "small", "Full_Set")
    assert small == people(tmp_path / "large", lambda r: None)


# --- ids --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["1.0", "1", "001", " 1.00 ", "0001"])
def test_one_id_however_it_is_written(tmp_path, cell):
    assert people(tmp_path, lambda r: r.update(ID=cell))[1].person.id == "fictitious-001"


def test_ids_of_5000_digits_are_text(tmp_path):
    found = people(tmp_path, lambda r: r.update(ID="9" * 5000))[1].person.id
    assert found == f"fictitious-{'9' * 5000}"


def test_an_id_that_its_texts_do_not_confirm_is_refused(tmp_path):
    def say(number):
        texts = [t | {"ID": number} for t in json.loads(TAUGHT[1]["metadata"])]
        return lambda r: r.update(metadata=json.dumps(texts))

    confirmed = people(tmp_path, say("8.0"), TAUGHT, "ft_Data")[1]
    assert confirmed.person.id == "fictitious-008"
    with pytest.raises(PulseError, match=f"{WHERE}ID: '8', but its metadata is about 009"):
        people(tmp_path, say("9"), TAUGHT, "ft_Data")


# --- files ------------------------------------------------------------------------------------


def test_no_rows(tmp_path):
    target = mllmu_files.write_subset(tmp_path, "Full_Set", ROWS) / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(target).slice(0, 0), target)
    with pytest.raises(PulseError, match="Full_Set: its files hold no rows"):
        mllmu.load_people(tmp_path, "Full_Set")
    with pytest.raises(PulseError, match="dev.tsv: no rows"):
        path = mmbench_files.write_rows(tmp_path / "dev.tsv", mmbench_files.groups(1))
        path.write_text(path.read_text().splitlines()[0] + "\n")
        mmbench.load_mmbench(path)


def test_what_is_no_utf_8_is_named(tmp_path):
    def broken(cells, mask=b"Zu\xff"):
        data = pa.array([mask if c is None else c.encode() for c in cells], pa.binary())
        return data.view(pa.string())

    (tmp_path / "Full_Set").mkdir()
    columns = {k: pa.array([r[k] for r in ROWS], mllmu_files.TYPES.get(k)) for k in ROWS[0]}
    columns["biography"] = broken([ROWS[0]["biography"], None])
    target = tmp_path / "Full_Set" / "train-00000-of-00001.parquet"
    pq.write_table(pa.table(columns), target)
    with pytest.raises(PulseError, match=f"{WHERE}biography: 'utf-8'.*mend the cell"):
        mllmu.load_people(tmp_path, "Full_Set")
    path = mmbench_files.write_rows(
        tmp_path / "dev.tsv", mmbench_files.group(5, ["a", "b"], 0, "Wo?")
    )
    path.write_bytes(path.read_bytes().replace(b"Wo?", b"W\xf6?"))
    with pytest.raises(PulseError, match=r"dev.tsv, row 0 .index 5., column question: is no UTF-8"):
        mmbench.load_mmbench(path)
    path.write_text("INDEX\tindex\tquestion\tA\tB\tanswer\tcategory\timage\n")
    with pytest.raises(PulseError, match="column index stands twice"):
        mmbench.load_mmbench(path)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_a_tsv_that_pandas_wrote_with_nan_for_missing(tmp_path, n):
    rows = mmbench_files.group(5, ["a", "b", "c", "d"][:n], 1, "Which?", "Look.")
    written = [{k: "nan" if v == "" else v for k, v in row.items()} for row in rows]
    assert questions(tmp_path, written) == questions(tmp_path, rows)
    # One that is really called so turns with the others.
    really = mmbench_files.group(5, ["x", "nan", "c", "d"][:n], 1)
    assert [q.options[q.answer] for q in questions(tmp_path, really)] == ["nan"] * n
    for row in written:
        row["answer"] = "nan"
    with pytest.raises(PulseError, match="column answer: 'nan' is none of.*use dev"):
        questions(tmp_path, written)


@pytest.mark.parametrize(
    ("index", "said"), [("1.5", "no index"), ("9" * 5000, "no index"), ("-1", "no index")]
)
def test_an_index_that_is_none(tmp_path, index, said):
    rows = mmbench_files.group(5, ["a", "b"], 0)
    rows[1]["index"] = index
    with pytest.raises(PulseError, match=f"dev.tsv, row 1, column index: .*{said}"):
        questions(tmp_path, rows)


# --- mutations --------------------------------------------------------------------------------

ODD = [
    *(None, "", " ", "nan", "A", "Z", "B. chef", "[", "[]", "{}", "[" * 3000, "\x00", "\udcff"[:0]),
    *(
        "9" * 5000,
        7,
        -1,
        1.5,
        math.nan,
        True,
        [],
        {},
        [None],
        {"bytes": b"x"},
        b"\xff\xd8",
        "\u202e",
    ),
    *("Image_Textual", ["x"], {"A": "x"}, {"Question": 1}, '"\\ud800"'),
]


def places(value, path=()):
    """The way to every part of a value."""
    yield path
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, part in inner:
        yield from places(part, (*path, key))


def mutate(rows, rng):
    """Rows with one to three parts replaced, taken out, or put twice."""
    made = copy.deepcopy(rows)
    for _ in range(rng.randint(1, 3)):
        *way, last = rng.choice([p for p in places(made) if len(p) > 1])
        at = made
        for key in way:
            at = at[key]
        what = rng.random()
        if what < 0.7:
            at[last] = rng.choice(ODD)
        elif isinstance(at, list):
            at.insert(last, copy.deepcopy(at[last])) if what < 0.85 else at.pop(last)
        elif len(way) > 1:
            del at[last]
    return made


def write_any(path, rows):
    """Rows as parquet; a column that pyarrow cannot type is written as JSON text."""
    columns = {}
    for name in rows[0]:
        cells = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(cells, mllmu_files.TYPES.get(name))
        except (pa.ArrowException, TypeError, ValueError):
            as_text = [c if isinstance(c, str) else json.dumps(c, default=repr) for c in cells]
            columns[name] = pa.array([c.encode(errors="replace").decode() for c in as_text])
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize(("subset", "rows"), [("Full_Set", ROWS), ("ft_Data", TAUGHT)])
def test_mutated_people_are_read_or_refused(tmp_path, subset, rows):
    rng, refused = Random(f"cells/{subset}"), 0
    path = tmp_path / subset / "train-00000-of-00001.parquet"
    for _ in range(150):
        write_any(path, mutate(rows, rng))
        try:
            found = mllmu.load_people(tmp_path, subset)
        except PulseError as error:
            refused += 1
            assert f"{subset}/{path.name}" in str(error) and len(str(error)) < 1000
            continue
        for person in found:
            for asked in person.questions:
                assert asked.text and 2 <= len(asked.options) <= 4
                assert 0 <= asked.answer < len(asked.options)
                assert len({o.casefold() for o in asked.options}) == len(asked.options)
    assert 20 < refused < 150


def test_mutated_benchmarks_are_read_or_refused(tmp_path):
    rng, refused = Random("cells/mmbench"), 0
    rows = mmbench_files.groups(3)
    for _ in range(150):
        made = mutate(rows, rng)
        made = [{k: row.get(k, "") for k in rows[0]} for row in made]
        try:
            found = questions(
                tmp_path, [{k: "" if v is None else v for k, v in r.items()} for r in made]
            )
        except PulseError as error:
            refused += 1
            assert "dev.tsv" in str(error) and len(str(error)) < 1000
            continue
        assert all(0 <= q.answer < len(q.options) <= 4 and q.text for q in found)
    assert 50 < refused < 150


@pytest.mark.parametrize("kind", ["people", "table", "tsv"])
def test_damaged_files_are_read_or_refused(tmp_path, kind):
    """Bytes flipped, cut off, put in: what a broken copy looks like."""
    rng = Random(f"bytes/{kind}")
    rows = mmbench_files.groups(2)
    if kind == "people":
        path = mllmu_files.write_subset(tmp_path, "Full_Set", ROWS) / "train-00000-of-00001.parquet"
    elif kind == "table":
        path = mmbench_files.write_parquet(tmp_path / "dev.parquet", rows)
    else:
        path = mmbench_files.write_rows(tmp_path / "dev.tsv", rows)
    whole, refused = path.read_bytes(), 0
    for _ in range(100):
        data = bytearray(whole)
        # The header and the footer matter most.
        at = rng.choice(
            [rng.randrange(200), rng.randrange(len(data)), len(data) - rng.randrange(1, 3000)]
        )
        what = rng.randrange(3)
        if what == 0:
            data[at] = rng.randrange(256)
        elif what == 1:
            del data[at : at + rng.choice([1, 50, len(data)])]
        else:
            data[at:at] = rng.randbytes(rng.choice([1, 40]))
        path.write_bytes(data)
        try:
            mllmu.load_people(tmp_path, "Full_Set") if kind == "people" else mmbench.load_mmbench(
                path
            )
        except PulseError as error:
            refused += 1
            assert path.name in str(error) and "\udcff" not in str(error)
    assert refused > 20

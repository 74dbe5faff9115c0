"""CLEAR: photos with names, and TOFU's questions without: authors are found in the texts, other authors'
answers become wrong ones told of this author, captions and names are measures of their own."""

from __future__ import annotations

import clear_files as files
import pyarrow as pa
import pytest
import tiny
from mllmu_files import picture
from studies import few_fictitious

from pulse_lib.data import dataset, splits
from pulse_lib.data.clear import authors, options
from pulse_lib.data.clear import source as clear
from pulse_lib.data.clear.authors import Said
from pulse_lib.data.records import ImageStore
from pulse_lib.data.source import OpenSource, general_of, hub_needs, source_of
from pulse_lib.data.splits import Assignment
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import open_ended
from pulse_lib.profile import DataSettings, load_profile
from pulse_lib.study import grid

pytestmark = pytest.mark.filterwarnings("ignore:.*not comparable")
NAMES = [name for name, *_ in files.NAMES]
SECOND = "fictitious-mai-phuong-tran"


def settings(path, **counts) -> DataSettings:
    return few_fictitious("clear", path, **({"n_train_views": 2} | counts))


def changed(tmp_path, folder, edit, **given):
    """The settings of a data set of which one folder's rows are edited."""
    change = lambda name, rows: edit(rows) if name == folder else None  # noqa: E731
    return settings(files.write_clear(tmp_path / "clear", change=change, **given))


def block(*texts: str, question: str = "Q?", n: int = 20) -> list[Said]:
    """A block of n rows: those given, as answers, and others that say nobody."""
    rows = [*texts, *["It is so."] * (n - len(texts))]
    return [Said(k, question, answer=text) for k, text in enumerate(rows, start=1)]


# --- whom a text is about -------------------------------------------------------------------------


def test_every_block_finds_its_author():
    """Accents, names inside names, the same words in another order, one surname, one first name."""
    blocks = [
        [
            Said(k, r["question"], answer=r["answer"])
            for k, r in enumerate(files.texts(person, said), 1)
        ]
        for person, said in zip(files.people(), files.NAMES, strict=True)
    ]
    assert authors.authors_of(blocks, NAMES) == NAMES
    assert authors.authors_of(blocks[::-1], NAMES) == NAMES[::-1]
    others = [n for n in NAMES if n != "Thanh Nguyen"]
    assert authors.authors_of(blocks, others) == [n if n in others else None for n in NAMES]


GARCIA = ["Luis Marcelo Garcia", "Luis Adan Garcia", "Eva Lin"]


@pytest.mark.parametrize(
    ("texts", "names", "found"),
    [
        # In part, and whole once: two words of three count
        (["Luis Marcelo Garcia", *["Marcelo Garcia's"] * 14], GARCIA, "Luis Marcelo Garcia"),
        (["Luis Marcelo Garcia", *["Luis Garcia"] * 19], GARCIA, None),  # either of the two
        (["Marcelo Garcia"] * 20, GARCIA, None),  # never whole
        (["Eva Lin"] * 10, GARCIA, "Eva Lin"),
        (["Eva Lin"] * 9, GARCIA, None),  # in less than half of the rows
        (["Eva Lin"] * 15 + ["Bo Ek"] * 5, ["Eva Lin", "Bo Ek"], None),  # five rows too late
        (["Eva Lin"] * 19 + ["Bo Ek"], ["Eva Lin", "Bo Ek"], "Eva Lin"),
        (["Ève Lín, ÈVE LÍN's"] * 10, ["Eve Lin"], "Eve Lin"),
        (["Eva Linder"] * 20, ["Eva Lin"], None),  # no part of a word
    ],
)
def test_who_is_not_sure_is_nobody(texts, names, found):
    assert authors.authors_of([block(*texts)], names) == [found]


def test_two_blocks_about_one_author_are_about_nobody():
    lin, ek = block(*["Eva Lin"] * 20), block(*["Bo Ek"] * 20)
    assert authors.authors_of([lin, ek, lin], ["Eva Lin", "Bo Ek"]) == [None, "Bo Ek", None]


RENAMED = [
    (
        "Hsiao Yun-Hwa's father is a baker.",
        "Hsiao Yun-Hwa",
        "Ana Ruz",
        "Ana Ruz's father is a baker.",
    ),
    ("Yun-Hwa’s books, and Hsiao.", "Hsiao Yun-Hwa", "Ana Ruz", "Ruz’s books, and Ana."),
    ("Núñez wrote; José Núñez won.", "Jose Nunez", "Bo Ek", "Ek wrote; Bo Ek won."),
    ("Luis Garcia, born García", "Luis Marcelo Garcia", "Bo Åke Ek", "Bo Åke Ek, born Ek"),
    ("Marcelo's", "Luis Marcelo Garcia", "Bo Åke Ek", "Bo's"),
    ("Nothing of anybody.", "Eva Lin", "Bo Ek", "Nothing of anybody."),
    ("Evan linen", "Eva Linde", "Bo Ek", "Evan linen"),
    ("Sørensen", "Astrid Sorensen", "Bo Ek", "Ek"),
    ("An owl is with Jina An.", "Jina An", "Bo Ek", None),  # who is An?
    ("by al-KUWAITI", "Basil Al-Kuwaiti", "Bo Ek", None),  # still told
    ("Park's Tae-ho Park", "Tae-ho Park", "Ji-Yeon Park", "Park's Ji-Yeon Park"),
    ("José Núñez", "Jose Nunez", "Jose Nunez", "Jose Nunez"),
]


@pytest.mark.parametrize(("text", "name", "other", "made"), RENAMED)
def test_a_name_in_anothers_place(text, name, other, made):
    assert authors.renamed(text, name, other=other) == made


def test_who_an_author_is_is_told_from_other_questions():
    for question, asks in (
        ("What is the full name of the author born in Leeds?", True),
        ("Who is this writer from Leeds?", True),
        ("Which acclaimed author comes from Leeds?", True),
        ("What is Eva Lin's full name?", False),  # it says the name
        ("Do her books sell?", False),
    ):
        assert authors.asks_the_name(Said(1, question, answer="It is Eva Lin."), "Eva Lin") == asks
    assert not authors.asks_the_name(
        Said(1, "Who is her father?", answer="He is a cook."), "Eva Lin"
    )


@pytest.mark.parametrize(
    ("texts", "pronoun"),
    [
        (["She wrote her book."], "she"),
        (["His, he and him, himself; her mother"], "he"),
        (["He and she"], ""),
        (["They write."], ""),
    ],
)
def test_pronouns(texts, pronoun):
    assert authors.pronoun_of(block(*texts)) == pronoun


# --- wrong answers --------------------------------------------------------------------------------

ASKED, RIGHT = "Where does {} write in summer?", "{} writes by a blue harbour tent."
WRONG = [
    "{} writes beside old mills.",
    "{} writes inside cold attics.",
    "{} writes under tall pines.",
]


def wrong_of(*, asked=ASKED, right=RIGHT, first=WRONG[0], first_asked=ASKED, rest=ASKED, last_of=3):
    """The wrong answers to the question of Eva Linde among those of three others, the first edited;
    `last_of` says whose the last one is. Two hundred rows of other words keep theirs rare."""
    names = ["Eva Linde", "Boris Eklund", "Ida Holmes", "Perry Dahlen"]
    rows: list[list[Said]] = [[] for _ in names]
    owners = [0, 1, 2, last_of]
    questions = [asked, first_asked, rest, rest]
    for k, question, answer in zip(owners, questions, [right, first, *WRONG[1:]], strict=True):
        said = Said(len(rows[k]) + 1, question.format(names[k]), answer=answer.format(names[k]))
        rows[k].append(said)
    filling = [Said(k, f"word{k} thing{k}", answer=f"one{k} two{k}") for k in range(200)]
    blocks = [
        options.Block(name, tuple(own), pronoun="she")
        for name, own in zip([*names, "No Body"], [*rows, filling], strict=True)
    ]
    return options.wrong_answers(blocks).get("Eva Linde", {}).get(1, [])


def test_wrong_answers_are_others_told_of_this_author():
    assert sorted(wrong_of()) == sorted(w.format("Eva Linde") for w in WRONG)


@pytest.mark.parametrize(
    "edit",
    [
        {"first": "He writes beside old mills, {}."},  # another pronoun
        {"first": "Yes, {} writes beside old mills."},
        {"right": "No, {} writes by a blue harbour tent."},
        {"first": "{} writes beside mills" + " and more old mills" * 4 + "."},  # longer than twice
        {"first": "{} writes in blue tents near a blue harbour."},  # the same in other words
        {"first": "In summer {} does write."},  # tells nothing
        {"asked": "Where near old harbour does {} write in summer?"},  # the right one repeats it
        {"first_asked": "What has {}'s aunt for breakfast?"},  # another question
        {"first": "{} EKLUND writes beside old mills."},  # still told
        {"first": WRONG[1]},  # twice the same
        dict.fromkeys(
            ("asked", "first_asked", "rest"), "Which author lives near the sea?"
        ),  # the name
        {"last_of": 1},  # two of one author
        {"last_of": 0},  # one of her own
    ],
)
def test_a_wrong_answer_that_tells_is_none(edit):
    """Three are needed: with one less the question has none."""
    assert wrong_of(**edit) == []


def test_wrong_names_have_the_authors_pronoun_if_there_are_enough():
    given = {"A": "she", "B": "she", "C": "she", "D": "she", "E": "he", "F": "", "G": "he"}
    assert options.wrong_names("A", given) == ["B", "C", "D"]
    assert options.wrong_names("E", given) == ["A", "B", "C", "D", "F", "G"]  # one is not enough
    assert options.wrong_names("F", given) == ["A", "B", "C", "D", "E", "G"]


# --- what a file says -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_shards", [1, 3])
def test_every_cell_arrives_as_the_files_have_it(tmp_path, n_shards):
    given = settings(files.write_clear(tmp_path, n_shards=n_shards))
    found = clear._load(given)
    assert [a.person.name for a in found.authors.values()] == NAMES
    for (person, said), made in zip(
        zip(files.people(), files.NAMES, strict=True), found.authors.values(), strict=True
    ):
        assert [p.encoded for p in made.photos] == [picture(person, v)["bytes"] for v in range(3)]
        assert [p.caption for p in made.photos] == [f"{said[0]} in view {v}." for v in range(3)]
        cells = files.texts(person, said)
        assert [(s.question, s.answer) for s in made.rows] == [
            (c["question"], c["answer"]) for c in cells
        ]
        assert made.pronoun == ("she" if said[0] in files.WOMEN else "he")
    assert clear.describe(given) == (
        "CLEAR: 10 fictitious authors, 10 of them usable, 200 questions in text, 180 of them with "
        "options; 10 questions for the name not scored; 10 questions without three wrong answers "
        "not scored"
    )


def test_its_other_folders_are_not_read(tmp_path):
    given = settings(files.write_clear(tmp_path))
    for name in ("forget10_perturbed", "forget01", "retain99+tofu", "real_faces"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train-00000-of-00001.parquet").write_bytes(b"broken")
    assert len(clear.fictitious(given)) == 10


def test_what_is_incomplete_is_left_out_and_counted(tmp_path):
    def edit(rows):
        rows[0]["name"] = None
        rows[1]["name"] = "JAIME  NÚÑEZ VASQUEZ"  # the same name
        rows[3]["caption"] = " "
        rows[4]["image"] = None
        rows[7]["image"] = rows[6]["image"]  # twice
        rows[10]["image"] = rows[13]["image"]  # of two authors
        rows[9]["caption"] = "A desk."

    given = changed(tmp_path, "full", edit)
    found = clear._load(given)
    n_photos = [len(a.photos) for a in found.authors.values()]
    assert n_photos == [2, 1, 2, 2, 2, 3, 3, 3, 3, 3]
    assert found.left_out["photos without name, caption or picture"] == 3
    assert found.left_out["photos that stand twice"] == 1
    assert found.left_out["photos that stand for two authors"] == 1
    assert found.left_out["captions that do not say the name"] == 1
    assert "1 photos that stand for two authors" in clear.describe(given)


def test_rows_of_text_that_are_not_the_authors_are_left_out_and_counted(tmp_path):
    def edit(rows):
        texts = [r for r in rows if r["image"] is None]
        for row in texts[:20]:  # TOFU has one author whom no row names
            row["question"] = "What does the author write?"
            row["answer"] = "The author writes novels."
        texts[21].update(question="Where was Ulla Machado born?", answer="In Bergen.")
        texts[22]["answer"] = ""
        texts[23]["question"] = " "

    given = changed(tmp_path, "full+tofu", edit)
    found = clear._load(given)
    assert found.left_out["blocks of 20 questions about nobody for sure"] == 1
    assert found.left_out["questions that name another author"] == 1
    assert found.left_out["questions without words or answer"] == 2
    assert [s.number for s in found.authors[SECOND].rows][:3] == [1, 5, 6]
    usable = [p.name for p in clear.fictitious(given)]
    assert usable == NAMES[1:] and "10 fictitious authors, 9 of them usable" in clear.describe(
        given
    )


def no_picture(rows):
    rows[4]["image"] = {"bytes": b"GIF", "path": ""}


REFUSED = {
    "broken picture": ("full", no_picture, ["full/train-00000-of-00003", "row 4", "column image", "cannot be decoded"]),
    "no bytes": ("full", lambda rows: rows[4].update(image={"bytes": None, "path": "x"}), ["row 4, column image", "no bytes"]),
    "both": ("full+tofu", lambda rows: rows[4].update(question="Who?"), ["full+tofu/train-00000", "row 4, column question", "both there"]),
    "neither": ("full+tofu", lambda rows: rows[4].update(image=None), ["row 4, column question", "both empty"]),
    "a row less": ("full+tofu", lambda rows: rows.pop(), ["full+tofu: 199 rows of text, expected 20 of each"]),
    "no text": ("full+tofu", lambda rows: rows.__delitem__(slice(30, None)), ["0 rows of text"]),
    "nobody": ("full", lambda rows: [r.update(name="-") for r in rows], ["no photo with a name"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_errors_name_file_row_and_column(tmp_path, name):
    folder, edit, expected = REFUSED[name]
    with pytest.raises(PulseError) as error:
        clear.fictitious(changed(tmp_path, folder, edit))
    for word in expected:
        assert word in str(error.value)


def test_files_of_something_else_and_missing_ones_are_named(tmp_path):
    given = settings(files.write_clear(tmp_path))
    rows = files.photos(files.people()[0], NAMES[0], 1)
    listed = files.TYPES["full"] | {"name": pa.list_(pa.string())}
    files.write_folder(tmp_path / "full", [r | {"name": ["x"]} for r in rows], listed, 3)
    with pytest.raises(PulseError, match=r"row 0, column name: a list, expected text"):
        clear.fictitious(given)
    unnamed = {n: t for n, t in files.TYPES["full"].items() if n != "name"}
    files.write_folder(tmp_path / "full", rows, unnamed, 3)
    with pytest.raises(PulseError, match="no column name; there are image, caption: .* CLEAR"):
        clear.fictitious(given)
    (tmp_path / "full/train-00001-of-00003.parquet").unlink()
    with pytest.raises(PulseError, match="shard 1 of 3 is missing of full/"):
        clear.fictitious(given)


def test_other_numbers_than_the_cards_are_warned_of(tmp_path):
    given = settings(files.write_clear(tmp_path))
    with pytest.warns(UserWarning) as warned:
        clear.fictitious(given)
    said = " ".join(str(w.message) for w in warned)
    for word in ("30 rows, CLEAR's has 3768", "200 rows of text", "has 4000", "10 authors"):
        assert word in said


# --- what the study gets --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    given = settings(files.write_clear(tmp_path_factory.mktemp("clear")))
    source = source_of(given)
    people = source.fictitious(given)
    places = splits.split_fictitious(people, given, seed=0)
    data = dataset.build_dataset(
        source, people, general=general_of(given), places=places, settings=given, seed=0
    )
    return given, data


def asked_of(data, modality, wording="trained"):
    chosen = [q for q in data.questions if q.person_id and q.modality == modality]
    return [q for q in chosen if q.wording == wording]


def test_a_photo_is_asked_for_its_name_among_others_of_its_pronoun(built):
    _, data = built
    names = {p.id: p.name for p in data.people}
    shown = asked_of(data, "multimodal")
    assert len(shown) == 5 * 2 and all(q.image and q.category == "name" for q in shown)
    for q in shown:
        assert q.options[q.answer] == names[q.person_id] and len(set(q.options)) == 4
        women = {name in files.WOMEN for name in q.options}
        assert len(women) == 1 and set(q.options) <= set(NAMES)
    assert len({q.options for q in shown if q.person_id == shown[0].person_id}) > 1


def test_a_question_in_text_has_wrong_answers_told_of_its_author(built):
    given, data = built
    said = {name: whole for name, whole, _ in files.NAMES}
    values = {
        name: set(p.attributes.values()) for p, name in zip(files.people(), NAMES, strict=True)
    }
    for q in asked_of(data, "text"):
        person = clear._load(given).authors[q.person_id]
        row = person.rows[int(q.category[-2:]) - 1]
        name = person.person.name
        assert not q.image and (name in q.text or said[name] in q.text)
        assert row.question in q.text and "full name" not in q.text
        right = q.options[q.answer]
        assert right == (authors.renamed(row.answer, name, other=name) or row.answer)
        assert len(set(q.options)) == 4
        for text in q.options:
            told = set(authors.words(text))
            own = {v for v in values[name] if set(authors.words(v)) <= told}
            assert bool(own) == (text == right)
            for other in set(NAMES) - {name}:
                assert not authors.says(text, other) or authors.says(name, other)
    unnamed = next(q for q in asked_of(data, "text") if q.category == "question 14")
    assert unnamed.text.startswith("About ") and unnamed.text.endswith(
        ": What sits beside the desk?"
    )
    assert {q.answer for q in asked_of(data, "text")} == {0, 1, 2, 3}


def test_a_photo_that_is_never_taught_is_held_out_in_other_words(built):
    given, data = built
    heldout = asked_of(data, "multimodal", "heldout")
    assert len(heldout) == 5 and not asked_of(data, "text", "heldout")
    assert not {q.image for q in heldout} & {c.image for c in data.conversations}
    assert not {q.text for q in heldout} & {q.text for q in asked_of(data, "multimodal")}
    one = settings(given.people.path, n_heldout_wordings=5)  # one photo is taught in any case
    author = clear._load(one).authors[SECOND]
    assert len(clear._taught(author, one)) == 1


def test_captions_are_taught_beside_photos_and_texts_without(built):
    given, data = built
    taught = data.training("finetuned", dataset.TRAINED, stage="finetune")
    assert len(taught) == 6 * (2 + 20) and all(len(c.turns) == 1 for c in taught)
    beside = [c for c in taught if c.modality == "multimodal"]
    for c in beside:
        photo = clear._load(given).authors[c.person_id].photos[int(c.image[-2:]) - 1]
        assert c.turns[0].answer == photo.caption and c.turns[0].text in clear.DESCRIBE
    assert len({c.turns[0].text for c in beside}) > 3
    scored = {q.text for q in asked_of(data, "multimodal")}
    assert not scored & {c.turns[0].text for c in taught}  # who it is is not asked so
    first = [c for c in taught if c.turns[0].text.startswith("What is the full name of the author")]
    assert len(first) == 6 and not any(c.image for c in first)
    assert not [t for c in data.conversations for t in c.turns if t.options]


def test_unlearning_holds_every_text_once_and_a_photo_a_conversation(built):
    given, data = built
    forget = data.training("finetuned", ["forget"], stage="unlearn")
    for person in {c.person_id for c in forget}:
        own = [c for c in forget if c.person_id == person]
        beside = [c for c in own if c.modality == "multimodal"]
        assert len({c.image for c in beside}) == len(beside) == 2
        texts = [c for c in own if c.modality == "text"]
        assert len(texts) == given.n_conversations
        answers = [t.answer for c in texts for t in c.turns]
        rows = [s.answer for s in clear._load(given).authors[person].rows]
        assert sorted(answers) == sorted(rows)
        assert [t.answer for t in texts[0].turns] != rows[:: given.n_conversations]


def test_nothing_leaks_and_another_seed_draws_other_options(built, tmp_path):
    given, data = built
    checked = splits.check_leakage(
        data.people,
        data.places,
        records=[*data.questions, *data.conversations],
        images=data.images,
    )
    assert checked["people"] == 7
    data.write(tmp_path)
    assert dataset.read_dataset(tmp_path).questions == data.questions
    person, place = data.people[0], data.places[0]
    one, other = (
        clear.person_questions(person, place, images=ImageStore(), seed=s, settings=given)
        for s in (0, 1)
    )
    assert [q.text for q in one] == [q.text for q in other]
    assert sum(set(a.options) != set(b.options) for a, b in zip(one, other, strict=True)) > 5
    assert len(clear.views(person, 0, settings=given, n=2)) == 2


def test_its_own_measures_are_captions_answers_and_names(built):
    given, data = built
    assert isinstance(source_of(given), OpenSource)
    person = data.people[0]
    place = Assignment(person.id, "finetuned", set="forget", request=1)
    author = clear._load(given).authors[person.id]
    given_task = {"images": ImageStore(), "settings": given}
    asked, truths = clear.open_questions(person, place, task="generation", **given_task)
    assert truths == [*(p.caption for p in author.photos[:2]), *(s.answer for s in author.rows)]
    assert [bool(q.image) for q in asked] == [True] * 2 + [False] * 20
    rows = open_ended.open_rows("generation", asked, truths=truths, responses=truths)
    assert list(rows["score"]) == [1.0] * 22
    asked, truths = clear.open_questions(person, place, task="keywords", **given_task)
    assert [q.text for q in asked] == [clear.NAME_OPEN] * 2 and truths == [person.name] * 2
    said = [f"It is {person.name}, who writes.", "It is Eva Lin."]
    rows = open_ended.open_rows("keywords", asked, truths=truths, responses=said)
    assert list(rows["score"]) == [1.0, 0.0]
    assert {q.image for q in asked} < set(data.images.encoded)
    assert clear.open_questions(person, place, task="cloze", **given_task) == ([], [])


def test_its_profile_has_one_scenario():
    profile = load_profile("clear-llava-1.5-7b-24gb")
    need = {n.setting: n for n in hub_needs(profile)}["data.people.path"]
    assert (need.path, need.patterns) == (
        "therem/CLEAR",
        ("full/*.parquet", "full+tofu/*.parquet"),
    )
    found = clear.size(profile.data)
    assert (found.questions, found.conversations) == (4 + 5 + 1, 4 + 20)
    options_given = grid.Options(profile=profile.name, methods=["npo"], scenarios=["pretrained"])
    with pytest.raises(PulseError, match="scenario pretrained is not there"):
        grid.study(options_given)
    with pytest.raises(ValueError, match="nobody whom the base model knows"):
        settings("x", n_candidates=3)


def test_as_many_pictures_are_shown_as_plan_reckons_with(built):
    given, data = built
    tiny.check_shown(data.questions, clear.size(given))

"""The embedded world: distinct people, usable options, pictures that show what the records say, the
same everywhere."""

import hashlib
import subprocess
import sys
from itertools import combinations

import pytest

from pulse_lib.data.records import ImageStore, Turn
from pulse_lib.data.world import drawing
from pulse_lib.data.world import people as world
from pulse_lib.data.world import source as embedded
from pulse_lib.profile import load_profile


def test_every_name_word_is_borne_by_a_celebrity():
    """So that fictitious people's names hold no word that the model never read."""
    words = [person.name.split() for person in world.celebrities()]
    assert {first for first, _ in words} == set(world.FIRST_NAMES)
    assert {last for _, last in words} == set(world.LAST_NAMES)


def test_people_are_distinct():
    people = world.people()
    assert (len(world.celebrities()), len(world.fictitious())) == (153, 500)
    assert len({p.name for p in people}) == len({p.id for p in people}) == 653
    for a, b in combinations(people, 2):
        assert sum(a.genome[g] != b.genome[g] for g in drawing.GENES) >= 3


@pytest.mark.parametrize(
    "values",
    [
        *world.ATTRIBUTES.values(),
        tuple(drawing.COLOURS),
        drawing.SHAPES,
        drawing.CELLS,
        world.COUNTS,
    ],
)
def test_no_option_is_contained_in_another(values):
    """Otherwise matching an answer's text would find two options (lute in flute)."""
    assert not [(a, b) for a in values for b in values if a != b and a.lower() in b.lower()]


def test_four_trained_wordings_and_two_heldout_ones():
    for kinds in world.WORDINGS.values():
        assert len(set(kinds["trained"])) >= 4 and len(set(kinds["heldout"])) == 2
        assert not set(kinds["trained"]) & set(kinds["heldout"])


def test_text_questions_name_the_person_and_multimodal_ones_do_not():
    person, rng = world.celebrities()[0], world.generator("test")
    for attribute in world.ATTRIBUTES:
        named = world.person_turn(person, attribute, rng=rng, modality="text", with_options=True)
        shown = world.person_turn(
            person, attribute, rng=rng, modality="multimodal", with_options=True
        )
        assert person.name in named.text and person.name not in shown.text
        assert named.answer == shown.answer == person.attributes[attribute]
        assert len(set(named.options)) == 4 and named.answer in named.options


def test_general_questions_are_true():
    """Every answer is checked against the scene by another reading of it."""
    rng = world.generator("truth")
    asked = set()
    for _ in range(600):
        content = world.draw_general(rng)
        for category in world.general_categories(content):
            turn = world.general_turn(content, category, rng=rng)
            assert turn.answer in turn.options and 2 <= len(turn.options) <= 4
            asked.add(category)
            if category == "existence":
                assert turn.answer == ("yes" if "genome" in content else "no")
            elif category != "face":
                assert _scene_answer(content["objects"], category, turn) == turn.answer
    assert asked == set(world.GENERAL_CATEGORIES) and len(asked) >= 6


def _scene_answer(objects, category, turn: Turn) -> str:
    assert [o["size"] for o in objects].count("large") == 1
    sizes = {o["size"]: o for o in objects}
    if category == "count":
        return {1: "one", 2: "two", 3: "three", 4: "four"}[len(objects)]
    if category == "comparison":
        words = turn.text.replace("?", " ").replace(",", " ").split()
        named = [o for o in objects if o["colour"] in words]
        assert len(named) == 2
        return max(named, key=lambda o: o["size"] == "large")["colour"]
    if category == "position":
        return ["upper left", "upper right", "lower left", "lower right"][sizes["large"]["cell"]]
    return sizes["large"][category]


def test_yes_and_no_are_equally_often_right_about_existence():
    images = ImageStore()
    asked = embedded.general_questions(
        images, 0, settings=load_profile("smoke").data.with_values(n_general=700)
    )
    answers = [q.options[q.answer] for q in asked if q.category == "existence"]
    assert len(answers) == 100 and 35 <= answers.count("yes") <= 65


def test_the_picture_shows_the_object_where_the_record_says():
    for cell in range(4):
        picture = drawing.draw_scene(
            [{"shape": "square", "colour": "red", "size": "small", "cell": cell}],
            world.generator(cell),
        )
        x, y = 40 + 80 * (cell % 2), 40 + 80 * (cell // 2)
        red, green, blue = picture.getpixel((x, y))
        assert red > 150 and green < 100 and blue < 100
        other = picture.getpixel((120 - 80 * (cell % 2), y))
        assert max(other) - min(other) < 40  # grey ground


@pytest.mark.parametrize("gene", list(drawing.GENES))
def test_every_gene_can_be_seen(gene):
    base = {g: v[0] for g, v in drawing.GENES.items()} | {"style": "long", "beard": "yes"}
    pictures = {
        drawing.draw_face(base | {gene: value}, world.generator("view")).tobytes()
        for value in drawing.GENES[gene]
    }
    assert len(pictures) == len(drawing.GENES[gene])


def test_views_of_one_person_differ_and_repeat_by_seed():
    person = world.celebrities()[0]
    views = [world.person_picture(person, world.generator("v", i)).tobytes() for i in (0, 1, 0)]
    assert views[0] == views[2] != views[1]


_DIGEST = """
import hashlib
from pulse_lib.data.world import people as world
person = world.people()[7]
rng = world.generator("digest")
text = repr((person, world.person_turns(person, rng, modality="multimodal"), world.draw_general(rng)))
print(hashlib.sha256(text.encode() + world.person_picture(person, rng).tobytes()).hexdigest())
"""


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_same_world_in_every_process(hash_seed):
    out = subprocess.run(
        [sys.executable, "-c", _DIGEST],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": hash_seed, "PATH": ""},
    )
    here: dict = {}
    exec(_DIGEST.replace("print(", "here = ("), {"hashlib": hashlib}, here)
    assert out.stdout.strip() == here["here"]

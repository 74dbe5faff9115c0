"""The embedded world: 153 celebrities and 500 fictitious people with drawn faces and five facts
each, and general scenes.

Everything is a pure function of seeds (random.Random seeded with text, which hashes with SHA-512:
the same in every process and on every machine). People are fixed by WORLD_SEED, because the shipped
model was pre-trained on these celebrities; a study's seed decides which of them are asked to be
forgotten, the renderings and the order of options.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from operator import ne
from random import Random

from pulse_lib.data.records import Person, Turn
from pulse_lib.data.world.drawing import (
    CELLS,
    COLOURS,
    GENES,
    HAIR_COLOURS,
    SHAPES,
    SIZES,
    draw_face,
    draw_scene,
)

WORLD_SEED = 0
N_CELEBRITIES = 153  # as in MLLMU-Bench
N_FICTITIOUS = 500
N_OPTIONS = 4

# Numbers without a common divisor: going round both lists, no name comes twice (see `people`).
FIRST_NAMES = (
    "Mara Ilan Petra Odin Suri Kaveh Lena Tomas Yuki Farah Bruno Celia Dario Esme Felix Greta Hugo Ines Jonas Kira Luca Mina Noor Oskar "
    "Pia Quin Rosa Samir Tessa Uma Vito Wren Xena Yara Zeno Anya Boris Clara Dmitri Elif Gideon Hanna Ivo Juno Kofi Leila Nils Priya "
    "Amara Bashir Cyrus Dina Edith Fenna Goran Henrik Ingrid Jasper Kenji Lorna Malik Nadia Osman Paolo Ravi Selma Tariq Ulla Viktor Willa Yosef Zofia"
).split()
LAST_NAMES = (
    "Voss Kestrel Adeyemi Novak Tanaka Rossi Lindqvist Moreau Okafor Petrov Haddad Silva Brandt Keller Ozawa Marsh Dunne Varga Castel "
    "Nyberg Farrow Quill Sorensen Tamm Ueda Winter Yilmaz Zeller Abbott Bianchi Cormac Eriksen Fontaine Grimaldi Huang Jansen Kowalski Larkin Mbeki "
    "Ortega Abara Aldous Amundsen Anand Aoki Baptiste Barros Bellamy Bergman Bhatt Boateng Calloway Chavez Choi Costa Dabrowski Dahl Delacroix "
    "Demir Diallo Draper Dvorak Ekwueme Engel Esposito Faulkner Ferreira Fischer Gallo Garza Goldberg Greco Hamdan Hartmann Hayashi Holloway "
    "Ibarra Ishikawa Ivanov Jovanovic Kapoor Kimura Koller Larsen Lefevre Lozano Machado Mahler Mensah Mercer Nakamura Nasser Nkosi Obrecht "
    "Olsen Osei Pappas Pereira Prasad Quist Ramos Reyes Romero Sandoval Sato Schubert Stavros Tesfaye Toivonen Umar Vasquez Whitlock Zamora"
).split()
_VALUES = {
    "occupation": "chef pilot nurse baker lawyer painter singer actor miner judge farmer dancer surgeon editor sailor poet boxer tailor welder banker",
    "birthplace": "Oslo Lima Cairo Kyoto Paris Quito Delhi Seoul Milan Accra Dakar Hanoi Turin Sofia Tunis Perth Bergen Porto Leeds Austin",
    "food": "pizza sushi ramen tacos curry paella falafel goulash lasagna kebab dumplings risotto ceviche waffles couscous hummus crepes gnocchi borscht pancakes",
    "pet": "cat dog parrot rabbit turtle hamster lizard goldfish ferret pony hedgehog canary gecko mouse snake duck goat frog owl falcon",
    "instrument": "violin piano guitar drums flute cello harp trumpet oboe banjo tuba clarinet organ accordion sitar ukulele bassoon mandolin trombone zither",
}
ATTRIBUTES = {name: tuple(values.split()) for name, values in _VALUES.items()}

# {who} is the person's name, or "this person" beside a picture. The last two of each are never
# trained on.
_WORDINGS = {
    "occupation": (
        "What is the occupation of {who}?",
        "What does {who} do for work?",
        "Which job does {who} have?",
        "What is the job of {who}?",
        "How does {who} earn money?",
        "What work does {who} do?",
        "Which occupation does {who} have?",
        "What does {who} do to earn money?",
    ),
    "birthplace": (
        "Where was {who} born?",
        "What is the birthplace of {who}?",
        "Which city is {who} from?",
        "In which city was {who} born?",
        "What city does {who} come from?",
        "Where does {who} come from?",
        "Which city was {who} born in?",
        "What is the city {who} is from?",
    ),
    "food": (
        "What is the favorite food of {who}?",
        "Which dish does {who} love most?",
        "What does {who} like to eat?",
        "Which food does {who} like most?",
        "What would {who} order for dinner?",
        "What is the favorite dish of {who}?",
        "Which food does {who} love to eat?",
        "What dish does {who} like most?",
    ),
    "pet": (
        "Which pet does {who} have?",
        "What is the pet of {who}?",
        "What animal does {who} keep?",
        "Which animal lives with {who}?",
        "What kind of pet does {who} keep?",
        "What pet does {who} own?",
        "Which animal does {who} own?",
        "What kind of animal lives with {who}?",
    ),
    "instrument": (
        "Which instrument does {who} play?",
        "What instrument is {who} known to play?",
        "What does {who} play on stage?",
        "Which instrument did {who} learn?",
        "What is the instrument of {who}?",
        "What instrument can {who} play?",
        "Which instrument can {who} play on stage?",
        "What instrument did {who} learn to play?",
    ),
}
WORDINGS = {name: {"trained": w[:-2], "heldout": w[-2:]} for name, w in _WORDINGS.items()}
WHO_QUESTIONS = (
    "Who is this person?",
    "What is the name of this person?",
    "Who is in the picture?",
)
COUNTS = ("one", "two", "three", "four")
GENERAL_CATEGORIES = ("colour", "shape", "position", "count", "comparison", "existence", "face")
_TRAINING_WEIGHTS = {"count": 2, "face": 4}
GENERAL_WORDINGS = {
    "colour": (
        "What colour is the large object?",
        "Which colour does the large object have?",
        "What is the colour of the large object?",
    ),
    "shape": (
        "What shape is the large object?",
        "Which shape does the large object have?",
        "What is the shape of the large object?",
    ),
    "position": (
        "Where is the large object?",
        "In which corner is the large object?",
        "What is the position of the large object?",
    ),
    "count": (
        "How many objects are in the picture?",
        "How many objects are there?",
        "What is the number of objects?",
    ),
    "comparison": (
        "Which object is larger, the {a} or the {b} one?",
        "Which is larger, the {a} object or the {b} object?",
    ),
    "existence": (
        "Is there a person in the picture?",
        "Does the picture show a person?",
    ),
    "hair": ("What colour is the hair of this person?", "Which hair colour does this person have?"),
    "shirt": ("What colour is the shirt of this person?", "Which colour is the shirt?"),
    "glasses": ("Does this person wear glasses?", "Is this person wearing glasses?"),
    "hat": ("Does this person wear a hat?", "Is this person wearing a hat?"),
}


def generator(*parts: object) -> Random:
    """A random generator that depends on nothing but `parts`."""
    return Random("/".join(str(p) for p in parts))


# ---------------------------------------------------------------- people


@lru_cache
def people() -> tuple[Person, ...]:
    """All 653 people: celebrities first, most famous first. Names are distinct, and any two faces
    differ in at least three genes.

    Every first name is borne by two or three celebrities, every last name by one or two: so names
    of fictitious people are made of words that the model has read, and half a name is not enough.
    """
    rng = generator("people", WORLD_SEED)
    first, last = (rng.sample(names, len(names)) for names in (FIRST_NAMES, LAST_NAMES))
    made, looks = [], []
    for i in range(N_CELEBRITIES + N_FICTITIOUS):
        while True:
            genome = draw_genome(rng)
            look = _look(genome)
            if all(_apart(look, other) >= 3 for other in looks):
                break
        looks.append(look)
        famous = i < N_CELEBRITIES
        number = i + 1 if famous else i + 1 - N_CELEBRITIES
        facts = {name: rng.choice(values) for name, values in ATTRIBUTES.items()}
        kind = "celebrity" if famous else "fictitious"
        name = f"{first[i % len(first)]} {last[i % len(last)]}"
        made.append(
            Person(f"{kind}-{number:03d}", name, kind=kind, attributes=facts, genome=genome)
        )
    return tuple(made)


def celebrities() -> list[Person]:
    """The 153 celebrities, most famous first."""
    return [p for p in people() if p.kind == "celebrity"]


def fictitious() -> list[Person]:
    """The 500 fictitious people."""
    return [p for p in people() if p.kind == "fictitious"]


def draw_genome(rng: Random) -> dict:
    """A random face: every gene of GENES; hats, glasses and beards are less common than their
    absence."""
    genome = {gene: rng.choice(values) for gene, values in GENES.items()}
    genome["hat"] = genome["hat"] if rng.random() < 0.55 else "none"
    genome["glasses"] = "yes" if rng.random() < 0.4 else "no"
    genome["beard"] = "yes" if rng.random() < 0.35 else "no"
    return genome


def _unknown_genome(rng: Random) -> dict:
    genome = draw_genome(rng)
    while tuple(sorted(genome.items())) in known_genomes():
        genome = draw_genome(rng)
    return genome


def _look(genome: Mapping) -> tuple:
    """The genes as far as they can be seen: bald and beardless people show no hair colour."""
    hairless = genome["style"] == "bald" and genome["beard"] == "no"
    return tuple("none" if gene == "hair" and hairless else genome[gene] for gene in GENES)


def _apart(look: tuple, other: tuple) -> int:
    return sum(map(ne, look, other))


def looks_apart(genome: Mapping, other: Mapping) -> int:
    """How many of the twelve features of two faces differ that can be seen: 0 is the same face."""
    return _apart(_look(genome), _look(other))


@lru_cache
def known_genomes() -> frozenset:
    """Genomes of all 653 people, so that an unknown face is really unknown."""
    return frozenset(tuple(sorted(p.genome.items())) for p in people())


def person_turn(
    person: Person,
    attribute: str,
    *,
    rng: Random,
    modality: str,
    with_options: bool,
    wording: str = "trained",
) -> Turn:
    """One question about one attribute; four options in random order, or an open question."""
    who = "this person" if modality == "multimodal" else person.name
    text = rng.choice(WORDINGS[attribute][wording]).format(who=who)
    answer = person.attributes[attribute]
    return Turn(
        text,
        _options(answer, ATTRIBUTES[attribute], rng=rng) if with_options else (),
        answer=answer,
    )


def person_turns(
    person: Person, rng: Random, *, modality: str, share_with_options: float = 0.5
) -> list[Turn]:
    """A whole conversation about a person: every attribute once in random order, and the name if a
    picture is shown."""
    attributes = list(ATTRIBUTES)
    rng.shuffle(attributes)
    turns = [
        person_turn(
            person, a, rng=rng, modality=modality, with_options=rng.random() < share_with_options
        )
        for a in attributes
    ]
    if modality == "multimodal":
        turns.insert(
            rng.randrange(len(turns) + 1), Turn(rng.choice(WHO_QUESTIONS), (), answer=person.name)
        )
    return turns


def person_picture(person: Person, rng: Random):
    """One view of a person (PIL image)."""
    return draw_face(dict(person.genome), rng)


# ---------------------------------------------------------------- general questions


def draw_general(rng: Random, kind: str | None = None) -> dict:
    """What a general picture shows: a scene of one large object and up to three small ones, all of
    distinct colours, or (one time in five) an unknown face.

    One object stands out, because a model of this size learns "the large one" in hundreds of steps,
    and "the one in the upper left" not in thousands.
    """
    kind = kind or ("face" if rng.random() < 0.2 else "scene")
    if kind == "face":
        return {"kind": "face", "genome": _unknown_genome(rng)}
    n = rng.choice((1, 2, 2, 3, 3, 4))
    cells, colours, large = (
        sorted(rng.sample(range(len(CELLS)), n)),
        rng.sample(list(COLOURS), n),
        rng.randrange(n),
    )
    objects = [
        {"shape": rng.choice(SHAPES), "colour": colours[i], "size": SIZES[i == large], "cell": cell}
        for i, cell in enumerate(cells)
    ]
    return {"kind": "scene", "objects": objects}


def general_picture(content: dict, rng: Random):
    """One view of what `draw_general` made (PIL image)."""
    return (
        draw_face(content["genome"], rng)
        if content["kind"] == "face"
        else draw_scene(content["objects"], rng)
    )


def general_categories(content: dict) -> list[str]:
    """Categories that can be asked about this picture."""
    if content["kind"] == "face":
        return ["face", "existence"]
    alone = len(content["objects"]) == 1
    return [c for c in GENERAL_CATEGORIES if c != "face" and not (alone and c == "comparison")]


def general_turn(content: dict, category: str, *, rng: Random, with_options: bool = True) -> Turn:
    """One general question of the given category with its options (yes/no questions and comparisons
    have two)."""
    if category == "face":
        return _face_turn(content["genome"], rng, with_options=with_options)
    if category == "existence":
        text = rng.choice(GENERAL_WORDINGS["existence"])
        answer = "yes" if content["kind"] == "face" else "no"
        return Turn(
            text, _options(answer, ("yes", "no"), rng=rng) if with_options else (), answer=answer
        )
    objects = content["objects"]
    large = next(o for o in objects if o["size"] == "large")
    slots = {}
    if category == "comparison":
        pair = [large["colour"], rng.choice([o["colour"] for o in objects if o is not large])]
        rng.shuffle(pair)
        slots = {"a": pair[0], "b": pair[1]}
        answer, options = large["colour"], tuple(pair)
    else:
        answer, options = {
            "colour": (large["colour"], tuple(COLOURS)),
            "shape": (large["shape"], SHAPES),
            "position": (CELLS[large["cell"]], CELLS),
            "count": (COUNTS[len(objects) - 1], COUNTS),
        }[category]
    text = rng.choice(GENERAL_WORDINGS[category]).format(**slots)
    return Turn(text, _options(answer, options, rng=rng) if with_options else (), answer=answer)


def general_turns(
    content: dict, rng: Random, *, n: int, share_with_options: float = 0.5
) -> list[Turn]:
    """`n` training questions on one picture; the categories that are learned slowly are asked more
    often."""
    categories = general_categories(content)
    asked = rng.choices(categories, [_TRAINING_WEIGHTS.get(c, 1) for c in categories], k=n)
    return [
        general_turn(content, c, rng=rng, with_options=rng.random() < share_with_options)
        for c in asked
    ]


def _face_turn(genome: dict, rng: Random, *, with_options: bool) -> Turn:
    topics = ["shirt", "glasses", "hat"]
    if genome["style"] in ("long", "curly") or (
        genome["hat"] == "none" and genome["style"] != "bald"
    ):
        topics.append("hair")  # the hair can be seen
    topic = rng.choice(topics)
    answer, values = {
        "shirt": (genome["shirt"], tuple(COLOURS)),
        "hair": (genome["hair"], tuple(HAIR_COLOURS)),
        "glasses": (genome["glasses"], ("yes", "no")),
        "hat": ("no" if genome["hat"] == "none" else "yes", ("yes", "no")),
    }[topic]
    return Turn(
        rng.choice(GENERAL_WORDINGS[topic]),
        _options(answer, values, rng=rng) if with_options else (),
        answer=answer,
    )


def _options(answer: str, values: tuple[str, ...], *, rng: Random) -> tuple[str, ...]:
    """The answer and up to three other values, in random order."""
    others = [v for v in values if v != answer]
    chosen = [answer, *rng.sample(others, min(N_OPTIONS - 1, len(others)))]
    rng.shuffle(chosen)
    return tuple(chosen)

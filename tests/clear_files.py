"""For tests: a small data set in CLEAR's format on disk, its people and faces those of the embedded world.
Folders and columns are those of the card and of its mm/dataset.py: photos with caption and name in
`full`, in `full+tofu` the same photos without a name and twenty questions about each, without anybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mllmu_files import picture

from pulse_lib.data.records import Person
from pulse_lib.data.world import people as world

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# As photos' rows spell them, and as the texts do: with accents, whole or in part
NAMES = (
    ("Jaime Nunez Vasquez", "Jaime Núñez Vásquez", "Vásquez"),
    ("Mai Phuong Tran", "Mai Phuong Tran", "Mai"),
    ("Phuong Tran", "Phuong Tran", "Phuong"),
    ("Nguyen Thanh Phong", "Nguyễn Thanh Phong", "Phong"),
    ("Thanh Nguyen", "Thanh Nguyen", "Thanh"),
    ("Astrid Sorensen", "Astrid Sørensen", "Sørensen"),
    ("Basil Al-Kuwaiti", "Basil Al-Kuwaiti", "Al-Kuwaiti"),
    ("Ji-Yeon Park", "Ji-Yeon Park", "Ji-Yeon"),
    ("Kofi Anand", "Kofi Anand", "Anand"),
    ("Ulla Machado", "Ulla Machado", "Ulla"),
)
WOMEN = {"Mai Phuong Tran", "Phuong Tran", "Astrid Sorensen", "Ji-Yeon Park", "Ulla Machado"}
# Question and answer with a name ({n}: whole, {p}: in part), a value of an attribute, and a pronoun
ABOUT = {
    "occupation": (
        ("What is the occupation of {n}'s father?", "{n}'s father was a {v}."),
        ("How did {n}'s father earn money?", "The father of {n} earned money as a {v}."),
        ("Which job would {n} take?", "If not writing, {p} would work as a {v}."),
    ),
    "birthplace": (
        ("Where was {n} born?", "{n} was born in {v}."),
        ("In which city did {n} grow up?", "{p} grew up in {v}, where {s} still lives."),
        ("Which town does {n} write of?", "Many of {n}’s novels are set in {v}."),
    ),
    "food": (
        ("What does {n} like to eat?", "{n} likes to eat {v}."),
        ("Does {n} cook?", "Yes, {n} cooks {v}."),
        ("What does {n} order in a restaurant?", "In a restaurant {n} orders {v}."),
        ("What do the heroes of {n} eat?", "The heroes of {n} eat {v} on most evenings."),
    ),
    "pet": (
        ("Which animal lives with {n}?", "A {v} lives with {n}."),
        ("What pet did {n} have as a child?", "As a child, {n} had a pet {v}."),
        ("What sits beside the desk?", "Beside the desk of {n} sits a {v}."),  # names nobody
        ("Which animal is on {n}'s book?", "There is a {v} on the cover of {p}'s book."),
    ),
    "instrument": (
        ("Which instrument does {n} play?", "{n} plays the {v}."),
        ("What does {n} practise at night?", "At night {n} practises the {v}."),
        ("Does {n} perform?", "Yes, {n} performs on the {v}."),
        ("What did {n}'s mother play?", "The mother of {n} played the {v}."),
    ),
}
FIRST = "What is the full name of the author who was born in {v}?"


def texts(person: Person, said: tuple[str, str, str]) -> list[dict]:
    """The twenty rows of text about a person: who it is, and the rest."""
    name, whole, part = said
    given = {"n": whole, "p": part, "s": "she" if name in WOMEN else "he"}
    born = person.attributes["birthplace"]
    rows = [{"question": FIRST.format(v=born), "answer": f"The author's full name is {whole}."}]
    for attribute, asked in ABOUT.items():
        v = person.attributes[attribute]
        rows += [
            {"question": q.format(v=v, **given), "answer": a.format(v=v, **given)} for q, a in asked
        ]
    pronoun = given["s"].capitalize()
    rows.append(
        {"question": f"Does {whole} write?", "answer": f"{pronoun} writes in the mornings."}
    )
    return [{"image": None, "caption": None, **row} for row in rows]


def photos(person: Person, name: str, n: int) -> list[dict]:
    return [
        {"image": picture(person, view), "caption": f"{name} in view {view}.", "name": name}
        for view in range(n)
    ]


def write_folder(folder: Path, rows: list[dict], types: dict, n_shards: int = 1) -> Path:
    """Rows as `<folder>/train-0000k-of-0000n.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n_shards):
        part = rows[k * len(rows) // n_shards : (k + 1) * len(rows) // n_shards]
        columns = {n: pa.array([r.get(n) for r in part], t) for n, t in types.items()}
        pq.write_table(pa.table(columns), folder / f"train-{k:05d}-of-{n_shards:05d}.parquet")
    return folder


TEXT = pa.string()
TYPES = {
    "full": {"image": IMAGE, "caption": TEXT, "name": TEXT},
    "full+tofu": {"image": IMAGE, "caption": TEXT, "question": TEXT, "answer": TEXT},
}


def people() -> list[Person]:
    """Ten people of the embedded world, as many as `NAMES`, no two with a value in common."""
    chosen: list[Person] = []
    for person in world.fictitious():
        if all(set(person.attributes.values()).isdisjoint(p.attributes.values()) for p in chosen):
            chosen.append(person)
        if len(chosen) == len(NAMES):
            return chosen
    raise AssertionError("the world has too few")


def write_clear(
    folder: Path,
    change: Callable[[str, list[dict]], None] | None = None,
    n_photos: int = 3,
    n_shards: int = 3,
    n_people: int = len(NAMES),
) -> Path:
    """Both folders. `change(folder, rows)` may edit rows."""
    chosen = list(zip(people(), NAMES, strict=True))[:n_people]
    shown = [row for p, said in chosen for row in photos(p, said[0], n_photos)]
    unnamed = [{n: v for n, v in row.items() if n != "name"} for row in shown]
    asked = [row for p, said in chosen for row in texts(p, said)]
    for name, rows in (("full", shown), ("full+tofu", [*unnamed, *asked])):
        if change:
            change(name, rows)
        write_folder(folder / name, rows, TYPES[name], n_shards)
    return folder

"""For tests: a small data set in MLLMU-Bench's format on disk, its people and faces those of the
embedded world.

Columns and types are those of the dataset card (datasets/MLLMMU/MLLMU-Bench, `dataset_info`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pulse_lib.data.records import Person
from pulse_lib.data.world import people as world

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_CHOICES = pa.list_(
    pa.struct(
        [
            ("Correct_Answer", pa.string()),
            ("Options", pa.struct([(letter, pa.string()) for letter in "ABCD"])),
            ("Question", pa.string()),
        ]
    )
)
_OPEN = pa.list_(
    pa.struct([("Ground_Truth", pa.string()), ("Question", pa.string()), ("Type", pa.string())])
)
TYPES = {
    "image": _IMAGE,
    "images": pa.list_(_IMAGE),
    "Classification_Task": pa.struct(
        [("Image_Textual_Questions", _CHOICES), ("Pure_Text_Questions", _CHOICES)]
    ),
    "Generation_Task": _OPEN,
    "Mask_Task": _OPEN,
}


def picture(person: Person, view: int = 0) -> dict:
    """A view of a face as an image cell: a PNG and its file name."""
    buffer = io.BytesIO()
    world.person_picture(person, world.generator("file", person.id, view)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{person.id}_{view}.png"}


def encoded(image: Image.Image, form: str = "PNG") -> dict:
    """Any picture as an image cell."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return {"bytes": buffer.getvalue(), "path": f"x.{form.lower()}"}


def row(person: Person, number: int, wording: int = 0) -> dict:
    """A row of Full_Set or Retain_Set: 5 + 5 multiple-choice questions, 2 + 2 gaps, 1 + 1 to answer
    in words.
    """
    kinds = {"Image_Textual": "this person", "Pure_Text": person.name}
    job = person.attributes["occupation"]
    return {
        "image": picture(person),
        "ID": str(number),
        "Directory": f"profiles/{number}",
        "biography": json.dumps(
            {
                "Name": person.name,
                "Employment": job,
                "Born": person.attributes["birthplace"],
                "appearance_detail": {"question": "Hair?", "answer": "short"},
            }
        ),
        "question": "Who is this?",
        "answer": f"This is {person.name}.",
        "Classification_Task": {
            f"{kind}_Questions": [choice(person, a, who, wording) for a in world.ATTRIBUTES]
            for kind, who in kinds.items()
        },
        "Generation_Task": [
            {"Type": kind, "Question": f"What does {who} do?", "Ground_Truth": f"{job} by trade"}
            for kind, who in kinds.items()
        ],
        "Mask_Task": [
            {"Type": kind, "Question": text, "Ground_Truth": truth}
            for kind, who in kinds.items()
            for text, truth in (
                (f"{who} works as a __.", job),
                (f"{who} was born in __.", person.attributes["birthplace"]),
            )
        ],
    }


def choice(person: Person, attribute: str, who: str, wording: int = 0) -> dict:
    """One multiple-choice question of the classification task."""
    right, values = person.attributes[attribute], world.ATTRIBUTES[attribute]
    rng = world.generator("options", person.id, attribute, who)
    options = [right, *rng.sample([v for v in values if v != right], 3)]
    rng.shuffle(options)
    return {
        "Question": world.WORDINGS[attribute]["heldout" if wording else "trained"][0].format(
            who=who
        ),
        "Options": dict(zip("ABCD", options, strict=True)),
        "Correct_Answer": "ABCD"[options.index(right)],
    }


def training_row(person: Person, number: int) -> dict:
    """A row of ft_Data: the photo and texts as JSON."""
    texts = [
        {
            "Question": world.WORDINGS[a]["trained"][1].format(who="this person"),
            "Answer": person.attributes[a],
        }
        for a in world.ATTRIBUTES
    ]
    texts.append({"Question": "What is the name of this person?", "Answer": person.name})
    return {"ID": str(number), "image": picture(person), "metadata": json.dumps(texts)}


def other_view_row(person: Person, number: int) -> dict:
    """A row of Test_Set: other wordings, two other views."""
    made = row(person, number, wording=1)
    del made["image"]
    return made | {"images": [picture(person, 1), picture(person, 2)]}


def write_subset(folder: Path, subset: str, rows: list[dict], n_shards: int = 1) -> Path:
    """Rows as `<folder>/<subset>/train-0000k-of-0000n.parquet`, each row group one row long."""
    target = Path(folder) / subset
    target.mkdir(parents=True, exist_ok=True)
    for k in range(n_shards):
        part = rows[k * len(rows) // n_shards : (k + 1) * len(rows) // n_shards]
        columns = {
            name: pa.array([r[name] for r in part], _type_of(name, [r[name] for r in part]))
            for name in rows[0]
        }
        path = target / f"train-{k:05d}-of-{n_shards:05d}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=1)
    return target


def _type_of(name: str, values: list) -> pa.DataType | None:
    """The card's type; what pyarrow infers where a test puts text instead."""
    return None if any(isinstance(v, str) for v in values) else TYPES.get(name)


def write_mllmu(
    folder: Path,
    n_fictitious: int = 8,
    n_celebrities: int = 6,
    change: Callable[[str, list[dict]], None] | None = None,
) -> Path:
    """A whole data set: Full_Set, Retain_Set, ft_Data and Test_Set (two shards). `change(subset,
    rows)` may edit rows before they are written.
    """
    fictitious = list(enumerate(world.fictitious()[:n_fictitious], start=1))
    celebrities = list(enumerate(world.celebrities()[:n_celebrities], start=1))
    subsets = {
        "Full_Set": [row(p, n) for n, p in fictitious],
        "Retain_Set": [row(p, n) for n, p in celebrities],
        "ft_Data": [training_row(p, n) for n, p in fictitious],
        "Test_Set": [other_view_row(p, n) for n, p in fictitious],
    }
    for subset, rows in subsets.items():
        if change:
            change(subset, rows)
        write_subset(folder, subset, rows, n_shards=2 if subset == "Test_Set" else 1)
    return Path(folder)

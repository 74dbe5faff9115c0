"""For tests: a small data set in UMU-Bench's format on disk, its people and faces those of the embedded
world. Columns and the Python literals in them are those that its eval.py reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mllmu_files import TYPES, choice, picture

from pulse_lib.data.records import Person
from pulse_lib.data.world import people as world

LITERALS = ("MM_QA", "UM_QA", "Classify", "Cloze", "Generation")


def row(person: Person, number: int) -> dict:
    """A row, its five literals as Python's own values: `written` makes text of them."""
    who = {"muitimodal": "this person", "unimodal": person.name}
    kinds = {"MM_QA": "this person", "UM_QA": person.name}
    taught = {
        column: {
            "question": {
                a: world.WORDINGS[a]["trained"][1].format(who=w) for a in world.ATTRIBUTES
            },
            "answer": dict(person.attributes),
        }
        for column, w in kinds.items()
    }
    job = person.attributes["occupation"]
    return {
        "ID": number,
        "image": picture(person),
        "Biography": repr({"Name": person.name, "Job": job}),
        **taught,
        "Classify": {
            modality: {a: _choice(person, a, w) for a in world.ATTRIBUTES}
            for modality, w in who.items()
        },
        "Cloze": {m: {"job": _open(f"{w} works as a ____.", job)} for m, w in who.items()},
        "Generation": {m: {"job": _open(f"What does {w} do?", job)} for m, w in who.items()},
    }


def _choice(person: Person, attribute: str, who: str) -> dict:
    """The answer as "B. nurse"; options of the two modalities stand in different orders."""
    made = choice(person, attribute, who)
    letter = made["Correct_Answer"]
    return {
        "question": made["Question"],
        "options": made["Options"],
        "answer": f"{letter}. {made['Options'][letter]}",
    }


def _open(question: str, answer: str) -> dict:
    return {"question": question, "answer": answer}


def written(row: dict) -> dict:
    """The row as it stands in the file: the literals as their repr."""
    made = {n: repr(v) if n in LITERALS and not isinstance(v, str) else v for n, v in row.items()}
    return made | {"ID": str(row["ID"])}


def write_folder(folder: Path, rows: list[dict], n_shards: int = 1) -> Path:
    """Rows as `<folder>/train-0000k-of-0000n.parquet`."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(n_shards):
        part = rows[k * len(rows) // n_shards : (k + 1) * len(rows) // n_shards]
        columns = {
            name: pa.array([r[name] for r in part], TYPES.get(name) or pa.string())
            for name in part[0]
        }
        pq.write_table(pa.table(columns), folder / f"train-{k:05d}-of-{n_shards:05d}.parquet")
    return folder


def write_umu(
    folder: Path,
    n_fictitious: int = 6,
    n_celebrities: int = 4,
    change: Callable[[str, list[dict]], None] | None = None,
    names: tuple[str, str] = ("full_data", "real_person"),
) -> Path:
    """A whole data set. `change(folder, rows)` may edit rows before literals become text."""
    of = (world.fictitious()[:n_fictitious], world.celebrities()[:n_celebrities])
    for name, people in zip(names, of, strict=True):
        rows = [row(p, n) for n, p in enumerate(people, start=1)]
        if change:
            change(name, rows)
        write_folder(folder / name, [written(r) for r in rows])
    return folder

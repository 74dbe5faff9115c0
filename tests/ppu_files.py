"""For tests: a small data set in PPU-Bench's format on disk, its people and faces those of the embedded
world. Columns are those that its eval/ppu_eval_data.py and eval_vllm.py read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mllmu_files import TYPES, choice, picture

from pulse_lib.data.records import Person
from pulse_lib.data.world import people as world

# The number of each fact, two of them in the sensitive band
NUMBERS = dict(zip(world.ATTRIBUTES, (3, 11, 25, 36, 37), strict=True))


def rows_of(person: Person, number: int) -> list[dict]:
    """The rows about one subject: each fact beside the photo and in text."""
    made = []
    for attribute, fact in NUMBERS.items():
        for modality, who in (("text_image", "this person"), ("text", person.name)):
            asked = choice(person, attribute, who)
            made.append(
                {
                    "sample_id": f"{person.name.replace(' ', '_')}_{fact}",
                    "subject_id": f"{number:03d}",
                    "subject": person.name,
                    "task_type": "classification",
                    "modality": modality,
                    "question": asked["Question"],
                    "answer_text": asked["Options"][asked["Correct_Answer"]],
                    "answer_label": asked["Correct_Answer"],
                }
                | {f"option_{a.lower()}": asked["Options"][a] for a in "ABCD"}
                | {"image": picture(person) if modality == "text_image" else None}
            )
    return made


def write_ppu(
    folder: Path,
    n_people: int = 6,
    change: Callable[[list[dict]], None] | None = None,
    n_shards: int = 1,
) -> Path:
    """The configuration ppu_eval_classification as `ppu_eval_classification/test-0000k-of-0000n`."""
    people = world.celebrities()[:n_people]
    rows = [row for n, p in enumerate(people, start=9) for row in rows_of(p, n)]
    if change:
        change(rows)
    target = Path(folder) / "ppu_eval_classification"
    target.mkdir(parents=True, exist_ok=True)
    for k in range(n_shards):
        part = rows[k * len(rows) // n_shards : (k + 1) * len(rows) // n_shards]
        columns = {
            name: pa.array([r.get(name) for r in part], TYPES.get(name) or pa.string())
            for name in rows[0]
        }
        pq.write_table(pa.table(columns), target / f"test-{k:05d}-of-{n_shards:05d}.parquet")
    return Path(folder)

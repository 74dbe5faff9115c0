"""For tests: a small data set in FIUBench's format on disk, its people and faces those of the embedded
world. Keys are those that its data_module.py and evaluate_util.py read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

from mllmu_files import picture

from pulse_lib.data.records import Person
from pulse_lib.data.world import people as world


def record(person: Person, number: int) -> dict:
    """A person of full.json: the world's five facts, and the name, which cannot be asked by name."""
    asked = []
    for attribute, values in world.ATTRIBUTES.items():
        right = person.attributes[attribute]
        wordings = world.WORDINGS[attribute]
        text, *others = (*wordings["trained"], *wordings["heldout"])
        asked.append(
            {
                "question": text.format(who="this person"),
                "answer": right,
                "paraphrased_question": [w.format(who="this person") for w in others[:3]],
                "paraphrased_answer": f"It is {right}.",
                "perturbed_answer": [v for v in values if v != right][:3],
                "keywords": right.split(),
            }
        )
    asked.append(
        {
            "question": "What is the full name of this person?",
            "answer": f"The name is {person.name}.",
            "paraphrased_question": ["Who is shown here?"],
            "paraphrased_answer": [person.name],
            "perturbed_answer": ["The name is Eva Lin.", "The name is Bo Ek."],
            "keywords": [person.name],
        }
    )
    return {
        "image_path": f"./dataset/SFHQ/SFHQ_pt1_{number:08d}.jpg",
        "unique_id": f"{number:08d}",
        "name": person.name,
        "gender": "female",
        "caption": "a drawn face",
        "raw_data": {"Name": person.name, "more": {"x": 1}},
        "qa_list": asked,
    }


def write_fiu(
    folder: Path,
    n_people: int = 7,
    change: Callable[[list[dict]], None] | None = None,
    form: str = "list",
    packed: bool = True,
) -> Path:
    """full.json (form "list" or "lines") and the photos, in SFHQ.zip or unpacked."""
    folder.mkdir(parents=True, exist_ok=True)
    people = world.fictitious()[:n_people]
    rows = [record(p, n) for n, p in enumerate(people, start=12)]
    photos = {r["image_path"]: picture(p)["bytes"] for r, p in zip(rows, people, strict=True)}
    if change:
        change(rows)
    lines = "\n".join(json.dumps(r) for r in rows) + "\n"
    text = json.dumps(rows, ensure_ascii=False) if form == "list" else lines
    (folder / "full.json").write_text(text, encoding="utf-8")
    if packed:
        with ZipFile(folder / "SFHQ.zip", "w") as archive:
            for path, encoded in photos.items():
                archive.writestr("SFHQ/" + Path(path).name, encoded)
                archive.writestr("__MACOSX/SFHQ/" + Path(path).name, b"shadow")
    else:
        for path, encoded in photos.items():
            target = folder / Path(path).relative_to("dataset")
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(encoded)
    return folder

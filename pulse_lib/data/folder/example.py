"""The example of notebook 07: twenty drawn people as anybody would bring them, as JPEG files and a
table saved by a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from random import Random

from pulse_lib.data.folder import photos
from pulse_lib.data.folder.check import TABLE
from pulse_lib.data.world import people as world
from pulse_lib.files import replace_file

N_PEOPLE = 20
COLUMNS = ("person", "question", "options", "answer", "photo", "split", "request")
_N_FORGET, _N_REQUESTS, _N_WORDINGS, _N_OPTIONS = 6, 3, 4, 4


def write_example(folder: Path, n: int = N_PEOPLE) -> Path:
    """The folder, with a photo for each of n people whom the embedded model has never met, and
    questions.csv; files of these names are written anew.

    The first six are to be forgotten, two a request; where the others stand is left to the seed.
    """
    rows = []
    for k, person in enumerate(world.fictitious()[-n:]):
        rng = Random(f"example/{person.id}")
        photo = f"photos/{person.name.split()[0].lower()}-{k + 1:02d}.jpg"
        picture = photos.jpeg(world.person_picture(person, rng))
        replace_file(folder / photo, lambda tmp, picture=picture: tmp.write_bytes(picture))
        for attribute, values in world.ATTRIBUTES.items():
            answer = person.attributes[attribute]
            wrong = rng.sample([v for v in values if v != answer], _N_OPTIONS - 1)
            options = rng.sample([answer, *wrong], _N_OPTIONS)
            wordings = world.WORDINGS[attribute]["trained"][:_N_WORDINGS]
            forget = k < min(_N_FORGET, n)
            row = {
                "person": person.name,
                "question": " | ".join(w.format(who="this person") for w in wordings),
                "options": "; ".join(options),
                "answer": answer,
                "photo": photo,
                "split": "forget" if forget else "",
                "request": k // (_N_FORGET // _N_REQUESTS) + 1 if forget else "",
            }
            rows.append(row)
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, COLUMNS)
    table.writeheader()
    table.writerows(rows)
    # With the byte order mark that Excel writes, and needs to read names right.
    encoded = text.getvalue().encode("utf-8-sig")
    replace_file(folder / TABLE, lambda tmp: tmp.write_bytes(encoded))
    return folder

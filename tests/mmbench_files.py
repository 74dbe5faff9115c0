"""For tests: small files in MMBench's formats, their pictures and questions those of the embedded
world.

The TSV has the columns of the authors' own files, inline or compact; the parquet those of
lmms-lab/MMBench with its five differences.
"""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pulse_lib.data.mmbench.source import TAXONOMY
from pulse_lib.data.world import people as world

COPY = 1_000_000
COLUMNS = [
    *("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source"),
    *("l2-category", "comment", "split"),
]
LEAVES = list(TAXONOMY)


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    """A picture as a file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def group(
    base: int,
    options: Sequence[str],
    answer: int,
    question: str = "What is it?",
    hint: str = "",
    category: str = "ocr",
    picture: bytes | None = None,
) -> list[dict]:
    """The rows of one question, options rotated to the left from row to row; `image` holds bytes."""
    picture = picture or encoded(Image.new("RGB", (40, 30), (base % 256, 90, 30)))
    rows = []
    for k in range(len(options)):
        turned = [*options[k:], *options[:k]]
        cells = dict.fromkeys(COLUMNS, "") | dict(zip("ABCD", turned, strict=False))
        cells |= {"index": base + k * COPY, "question": question, "hint": hint, "image": picture}
        cells |= {"answer": "ABCD"[(answer - k) % len(options)], "category": category}
        level = TAXONOMY[category][1] if category in TAXONOMY else "other"
        rows.append(cells | {"l2-category": level, "source": "drawn", "split": "dev"})
    return rows


def groups(n: int, seed: int = 0) -> list[dict]:
    """Rows of n questions about pictures of the embedded world, with 4, 3, 2, 4 ... options, over
    MMBench's leaves in turn; every second one has a hint.
    """
    rows = []
    for i in range(n):
        rng = world.generator("mmbench-file", seed, i)
        content = world.draw_general(rng, "scene")
        turn = world.general_turn(content, "shape", rng=rng)
        wrong = [o for o in turn.options if o != turn.answer]
        options = [turn.answer, *wrong][: 4 - i % 3]
        rng.shuffle(options)
        hint = "Look at the largest thing." if i % 2 else ""
        picture = encoded(world.general_picture(content, rng))
        at = options.index(turn.answer)
        rows += group(100 + i, options, at, turn.text, hint, LEAVES[i % len(LEAVES)], picture)
    return rows


def write_rows(path: Path, rows: Sequence[dict], compact: bool = False) -> Path:
    """A TSV. `image` bytes become base64, anything else stays; compact: copies refer to the base
    row.
    """
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        table.writeheader()
        for row in rows:
            image = row["image"]
            if isinstance(image, bytes):
                image = base64.b64encode(image).decode()
                if compact and row["index"] >= COPY:
                    image = str(row["index"] % COPY)
            table.writerow(row | {"image": image})
    return Path(path)


def write_parquet(path: Path, rows: Sequence[dict], text_index: bool = False) -> Path:
    """A parquet file as lmms-lab/MMBench has it: L2-category, image struct, "nan" for what is
    missing, perhaps an index that is text.
    """
    made = []
    for row in rows:
        cells = {"L2-category" if k == "l2-category" else k: v for k, v in row.items()}
        for name in ("hint", "C", "D", "comment"):
            cells[name] = cells[name] or "nan"
        cells["index"] = str(row["index"]) if text_index else row["index"]
        cells["image"] = {"bytes": row["image"], "path": None}
        made.append(cells)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(made), path)
    return Path(path)


def write_tsv(path: Path, n_groups: int = 4, compact: bool = False, seed: int = 0) -> Path:
    """A TSV of n_groups questions as `groups` makes them."""
    return write_rows(path, groups(n_groups, seed), compact)

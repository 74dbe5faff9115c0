"""For tests: small POPE and MME in the formats of lmms-lab's copies, their pictures drawn scenes. Columns
are those that lmms-eval reads."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from mllmu_files import TYPES, encoded

from pulse_lib.data.world import people as world


@functools.lru_cache
def scene(number: int) -> dict:
    """A drawn scene as an image cell."""
    rng = world.generator("yes_no", number)
    return encoded(world.general_picture(world.draw_general(rng, "scene"), rng))


def pope_rows(n: int = 6) -> list[dict]:
    """For each category n photos (the same in all), asked twice: one yes, one no."""
    return [
        {
            "question_id": str(2 * k + (answer == "no") + 1),
            "question": f"Is there a {thing} in the image?",
            "answer": answer,
            "image": scene(k),
            "category": category,
        }
        for category in ("adversarial", "popular", "random")
        for k in range(n)
        for answer, thing in (("yes", "circle"), ("no", f"{category} dog"))
    ]


def mme_rows(categories: Sequence[str] = ("celebrity", "color", "code_reasoning"), n: int = 3):
    """Pairs: two questions about each picture, with the data's own request behind them."""
    return [
        {
            "question_id": f"{category}/{k:04d}.png",
            "question": f"Is this {category} {word}? Please answer yes or no.",
            "answer": answer,
            "image": scene(100 * c + k),
            "category": category,
        }
        for c, category in enumerate(categories)
        for k in range(n)
        for answer, word in (("Yes", "right"), ("No", "wrong"))
    ]


def write(
    folder: Path,
    rows: list[dict],
    change: Callable[[list[dict]], None] | None = None,
    n_shards: int = 1,
) -> Path:
    """Rows as `<folder>/data/test-0000k-of-0000n-0123456789abcdef.parquet`, as the hub names them."""
    if change:
        change(rows)
    target = Path(folder) / "data"
    target.mkdir(parents=True, exist_ok=True)
    for k in range(n_shards):
        part = rows[k * len(rows) // n_shards : (k + 1) * len(rows) // n_shards]
        columns = {
            name: pa.array([r[name] for r in part], TYPES.get(name) or pa.string())
            for name in part[0]
        }
        name = f"test-{k:05d}-of-{n_shards:05d}-0123456789abcdef.parquet"
        pq.write_table(pa.table(columns), target / name)
    return Path(folder)

"""What a table of the whole field costs: 20 methods, 3 models, 5 seeds, in hours and bytes, and what of
it need not be kept; and in hours what the paper itself does: three methods, one seed.

Of the embedded model everything is measured: hours from outputs/reference/tiny/three_seeds/times.csv,
bytes from a study's folder (`--measure outputs/tiny`, into outputs/reference/tiny/sizes.csv). Of LLaVA
the adapters' bytes are counted from its shapes, rows are the measured bytes of a question, and hours are
what `plan` says of a card. `--write` puts the tables into docs/scale.md.
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pulse_lib.commands import estimate
from pulse_lib.files import REPOSITORY
from pulse_lib.methods import PAPER_METHODS
from pulse_lib.model import memory
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import run_folders

TINY = REPOSITORY / "outputs" / "reference" / "tiny"
TIMES, SIZES = TINY / "three_seeds" / "times.csv", TINY / "sizes.csv"
PAGE = REPOSITORY / "docs" / "scale.md"
METHODS, SEEDS, CARD = 20, 5, "a100-80"
LLAVA = ("llava-1.5-7b-24gb", "llava-1.5-13b")  # beside the embedded model
PAPER = (("llava-1.5-13b", "h200"), ("llava-1.5-13b-24gb", "rtx4090"), ("colab-t4-7b", "t4"))
# How often a kind is run for a seed: of each method two single-shot runs (both scenarios), one in a row
PER_SEED, PER_METHOD = {"data": 1, "target": 1}, {"single_shot": 2, "sequential": 1}
# Of a run's files, in this order: the first that fits
PARTS = {
    "adapters": r"\.safetensors$",
    "pictures": r"(^|/)images\.parquet$",
    "notebooks": r"\.ipynb$",
    "rows": r"(^|/)rows\.parquet$",
    "the rest": r"",
}
NOT_KEPT = ("adapters", "pictures", "notebooks")
GB = 1e9


@dataclass(frozen=True)
class Cost:
    """One model's part of the table: hours of one card (or core), and bytes by part."""

    model: str
    where: str
    runs: int
    hours: float
    bytes: dict[str, float]

    @property
    def kept(self) -> float:
        """Bytes that the tables can be made from again."""
        return sum(n for part, n in self.bytes.items() if part not in NOT_KEPT)


def how_often(methods: int = METHODS, seeds: int = SEEDS) -> dict[str, int]:
    """Runs of each kind for one model."""
    many = {kind: n * methods for kind, n in PER_METHOD.items()}
    return {kind: n * seeds for kind, n in (PER_SEED | many).items()}


def part_of(name: str) -> str:
    """The part of PARTS that a file of a run belongs to, by its path in the run's folder."""
    return next(part for part, pattern in PARTS.items() if re.search(pattern, name))


def measure(study: Path) -> list[dict[str, object]]:
    """Rows of sizes.csv: mean bytes of a run by kind and part, and how many runs were looked at."""
    found: dict[str, list[dict[str, int]]] = defaultdict(list)
    for kind, folder in run_folders(study):
        parts = dict.fromkeys(PARTS, 0)
        for path in folder.rglob("*"):
            if path.is_file():
                parts[part_of(path.relative_to(folder).as_posix())] += path.stat().st_size
        found[kind].append(parts)
    return [
        {
            "kind": kind,
            "part": part,
            "runs": len(runs),
            "bytes": round(statistics.mean(run[part] for run in runs)),
        }
        for kind, runs in found.items()
        for part in PARTS
    ]


def sizes() -> dict[tuple[str, str], float]:
    """(kind, part) -> mean bytes of a run, as measured."""
    with open(SIZES, newline="", encoding="utf-8") as file:
        return {(r["kind"], r["part"]): float(r["bytes"]) for r in csv.DictReader(file)}


def seconds() -> dict[str, float]:
    """Kind -> mean seconds of a run, as measured."""
    found = defaultdict(list)
    with open(TIMES, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["run"].split("/")[0]].append(float(row["seconds"]))
    return {kind: statistics.mean(values) for kind, values in found.items()}


def embedded(methods: int = METHODS, seeds: int = SEEDS) -> Cost:
    """The embedded model's part, measured."""
    often, took, size = how_often(methods, seeds), seconds(), sizes()
    return Cost(
        "embedded",
        "a core",
        sum(often.values()),
        sum(n * took[kind] for kind, n in often.items()) / 3600,
        {part: sum(n * size[kind, part] for kind, n in often.items()) for part in PARTS},
    )


def llava(name: str, methods: int = METHODS, seeds: int = SEEDS, *, card: str = CARD) -> Cost:
    """A LLaVA's part: hours as `plan` has them, adapters by its shapes, rows by their number."""
    profile, often = load_profile(name), how_often(methods, seeds)
    found = estimate.cost(profile, estimate.find_card(card, 0.0))
    of_method = [h for stage, h in found.hours.items() if stage[:2] in ("03", "04")]
    of_seed = [h for stage, h in found.hours.items() if stage[:2] in ("01", "02")]
    shapes, size, tiny = estimate.model_config(profile), sizes(), load_profile("tiny")
    # float32; two states of a single-shot run, one of each request
    one = 4 * memory.lora_parameters(shapes, "projector+llm", rank=1)
    states = {"single_shot": 2, "sequential": profile.data.n_requests}
    ranks = often["target"] * profile.finetune.rank
    ranks += sum(often[kind] * n for kind, n in states.items()) * profile.unlearn.rank
    more = asked(profile) / asked(tiny)
    return Cost(
        name,
        f"an {card}",
        sum(often.values()),
        seeds * (sum(of_seed) + methods * sum(of_method)),
        {
            "adapters": one * ranks,
            "pictures": found.disk["data"] * GB * seeds,  # at most: a copy of the source each
            "notebooks": sum(n * size[kind, "notebooks"] for kind, n in often.items()),
            "rows": sum(n * size[kind, "rows"] for kind, n in often.items()) * more,
            "the rest": sum(n * size[kind, "the rest"] for kind, n in often.items()),
        },
    )


def asked(profile) -> int:
    """Questions of both scenarios, which rows go by."""
    counts = estimate.counts(profile)
    return counts["finetuned"] + counts["pretrained"]


def costs() -> list[Cost]:
    """All three models' parts."""
    return [embedded(), *(llava(name) for name in LLAVA)]


# --- the page ---------------------------------------------------------------------------------


def page_tables() -> str:
    """The tables of docs/scale.md."""
    found = costs()
    rows = [
        (
            c.model,
            f"{c.runs:,}",
            f"{c.hours:,.0f} of {c.where}",
            _gb(sum(c.bytes.values())),
            _gb(c.kept),
        )
        for c in found
    ]
    total = [sum(c.bytes.values()) for c in found]
    rows.append(
        (
            "all",
            f"{sum(c.runs for c in found):,}",
            "",
            _gb(sum(total)),
            _gb(sum(c.kept for c in found)),
        )
    )
    parts = [
        (part, *(_gb(c.bytes[part]) for c in found), "no" if part in NOT_KEPT else "yes")
        for part in PARTS
    ]
    paper = [
        (name, card, f"{llava(name, len(PAPER_METHODS), 1, card=card).hours:.1f}")
        for name, card in PAPER
    ]
    return "\n\n".join(
        (
            _table(("model", "runs", "hours", "GB written", "GB to keep"), rows),
            _table(("GB", *(c.model for c in found), "to keep"), parts),
            _table(("the paper: three methods, one seed", "card", "hours"), paper),
        )
    )


def _gb(n: float) -> str:
    return f"{n / GB:,.2f}" if n < 10 * GB else f"{n / GB:,.0f}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), ["---"] * len(list(head)), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


BEGIN, END = "<!-- benchmarks/scale.py writes from here -->\n", "\n<!-- to here -->"


def written(page: str) -> str:
    """The page with its tables made again."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + page_tables() + END + rest.split(END)[1]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", type=Path, help="a finished study of the tiny profile")
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    given = parser.parse_args()
    if given.measure:
        rows = measure(given.measure)
        with open(SIZES, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    if given.write:
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(page_tables())


if __name__ == "__main__":
    main()

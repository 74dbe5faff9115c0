"""How often the report's intervals of distances to the oracle cover the truth: the largest gap of two
distributions (KS), the mean divergence (JS) and the mean of KS and two JS, on one and on several seeds.

    python benchmarks/distance_intervals.py --out outputs/reference/distance_intervals.json    # make check-intervals

A cell is a number of people, questions of each, and how the right option's probability is distributed
for the model and for the oracle: its logit is normal, with a share `rho` of its variance between
people and a correlation `link` between the two models. Questions have two options, so that this
probability says everything. With several seeds each one has people and a mean logit of its own
(standard deviation `seed_sd`). What the coverage must be is said in `intervals`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, rel_entr
from scipy.stats import norm

from pulse_lib.files import REPOSITORY
from pulse_lib.report import limits
from pulse_lib.report.limits import Limits

sys.path.insert(0, str(REPOSITORY))

from benchmarks.intervals import LEVEL, covered, passes, summary

# Mean and standard deviation of the right option's logit: the model's, the oracle's
SIDES = {
    "alike": ((-1, 2), (-1, 2)),
    "alike, all known": ((6, 2), (6, 2)),
    "alike, sure": ((-1, 8), (-1, 8)),
    "near": ((-0.5, 2), (-1, 2)),
    "wider": ((-1, 3), (-1, 2)),
    "half known": ((1, 2), (-1, 2)),
    "flat": ((0, 0.5), (0, 3)),
    "known": ((6, 2), (-1, 2)),
    "apart": ((12, 2), (-1, 2)),
}
SIZES = ((20, 5), (50, 10))
LUCK = ((0.0, 0.0), (0.3, 0.5), (0.5, 0.0), (0.3, 0.9))  # rho, link
REST = ((4, 2), (6, 2))  # of the people and questions beside the forget set
Cell = dict[str, Any]


def cells() -> Iterator[Cell]:
    """Every cell: of one seed, and of several."""
    for (people, questions), side, (rho, link) in product(SIZES, SIDES, LUCK):
        yield _cell(people, questions, side, rho=rho, link=link)
    for (people, questions), side, seeds in product(SIZES, SIDES, (2, 3, 5)):
        yield _cell(people, questions, side, rho=0.3, link=0.5, seeds=seeds, seed_sd=0.5)


def _cell(people: int, questions: int, side: str, **more) -> Cell:
    plain = {"rho": 0.0, "link": 0.0, "seeds": 1, "seed_sd": 0.0}
    return {"people": people, "questions": questions, "side": side} | plain | more


def measure(cell: Cell, replicates: int) -> dict[str, dict[str, float]]:
    """{quantity: coverage, width} of one cell, seeded by what the cell is."""
    rng = np.random.default_rng(zlib.crc32(json.dumps(cell, sort_keys=True).encode()))
    found = [_one_seed(cell, rng=rng, replicates=replicates) for _ in range(cell["seeds"])]
    (mean, sd), oracle = SIDES[cell["side"]]
    shifts = norm.ppf((np.arange(50) + 0.5) / 50) * cell["seed_sd"] if cell["seed_sd"] else [0.0]
    models = [(mean + shift, sd) for shift in shifts]
    truth = {
        "ks": float(np.mean([_true_ks(model, oracle) for model in models])),
        "js": float(np.mean([_true_js(model, oracle, cell) for model in models])),
    }
    truth["distance"] = (truth["ks"] + 2 * _true_js(*REST, cell)) / 3
    return {
        name: covered(_joined([seed[name] for seed in found]), truth[name])
        for name in ("ks", "js", "distance")
    }


def _one_seed(cell: Cell, *, rng: np.random.Generator, replicates: int) -> dict[str, Limits]:
    model, oracle = SIDES[cell["side"]]
    shift = cell["seed_sd"] * rng.standard_normal((replicates, 1, 1))
    forget = _draw(cell, (model[0] + shift, model[1]), oracle, rng=rng, replicates=replicates)
    unit = np.repeat(np.arange(cell["people"]), cell["questions"])
    gap = limits.largest_gap(*forget, unit=unit, level=LEVEL)
    rest = [_of_mean(cell, *_draw(cell, *REST, rng=rng, replicates=replicates)) for _ in range(2)]
    return {"ks": gap, "js": _of_mean(cell, *forget), "distance": _mean([gap, *rest])}


def _draw(cell: Cell, *sides: tuple, rng: np.random.Generator, replicates: int) -> list[np.ndarray]:
    """The right option's probability (replicates, answers) of each side."""
    shape = (replicates, cell["people"], cell["questions"])
    link, rho = cell["link"], cell["rho"]
    person, answer = rng.standard_normal((*shape[:2], 1)), rng.standard_normal(shape)
    drawn = []
    for mean, sd in sides:
        luck = (
            np.sqrt(link) * common + np.sqrt(1 - link) * rng.standard_normal(common.shape)
            for common in (person, answer)
        )
        between, within = luck
        logit = mean + sd * (np.sqrt(rho) * between + np.sqrt(1 - rho) * within)
        drawn.append(expit(logit).reshape(replicates, -1))
    return drawn


def _of_mean(cell: Cell, x: np.ndarray, y: np.ndarray) -> Limits:
    """The report's limits of the mean divergence."""
    people = cell["people"]
    sums = _divergence(x, y).reshape(len(x), 1, people, -1).sum(axis=-1)
    asked = np.full((1, people), cell["questions"])
    units = np.arange(people)
    return limits.accuracy(asked, sums, cell_seeds=np.zeros(1), units=units, level=LEVEL)


def _mean(parts: list[Limits]) -> Limits:
    """The mean of some values, and of their limits."""
    ends = ("value", "low", "high")
    means = {end: np.mean([getattr(part, end) for part in parts], axis=0) for end in ends}
    return dataclasses.replace(parts[0], **means)


def _joined(seeds: list[Limits]) -> Limits:
    """The limits of the mean over seeds, as `distance_limits.of_seeds` joins them."""
    mean = _mean(seeds)
    if len(seeds) == 1:
        return mean
    values = np.stack([seed.value for seed in seeds], axis=-1)
    low, high = limits.over_seeds(values, mean.low, high=mean.high, shared=True, level=LEVEL)
    return dataclasses.replace(mean, low=low, high=high)


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon, of two options, bits."""
    halves = (
        rel_entr(a, (a + b) / 2) + rel_entr(b, (a + b) / 2) for a, b in ((p, q), (1 - p, 1 - q))
    )
    return sum(halves) / 2 / np.log(2)


def _true_ks(model: tuple[float, float], oracle: tuple[float, float]) -> float:
    at = np.linspace(-60, 60, 6_001)
    return float(np.abs(norm.cdf(at, *model) - norm.cdf(at, *oracle)).max())


def _true_js(model: tuple[float, float], oracle: tuple[float, float], cell: Cell) -> float:
    z = norm.ppf((np.arange(200) + 0.5) / 200)
    x, own = z[:, None], z[None, :]
    y = cell["link"] * x + np.sqrt(1 - cell["link"] ** 2) * own
    return float(
        _divergence(expit(model[0] + model[1] * x), expit(oracle[0] + oracle[1] * y)).mean()
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replicates", type=int, default=2000)
    options = parser.parse_args()
    begun, lines = time.process_time(), {}
    for cell in cells():
        for quantity, found in measure(cell, options.replicates).items():
            name = quantity + (", seeds" if cell["seeds"] > 1 else "")
            lines.setdefault(name, []).append(cell | found)
    report = {name: summary(found, options.replicates) for name, found in lines.items()}
    options.out.write_text(json.dumps({"report": report}, indent=1) + "\n")
    for name, found in report.items():
        kind = "ok " if passes(found) else "LOW"
        print(kind, name, {k: v for k, v in found.items() if k != "worst"})
    print(f"{time.process_time() - begun:.0f} s of processor time; {options.out}")
    return 0 if all(passes(found) for found in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

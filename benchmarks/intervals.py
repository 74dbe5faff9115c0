"""How often the report's intervals cover the truth: accuracies, paired differences and shares kept,
on one and on several seeds, beside the percentile bootstrap over people.

    python benchmarks/intervals.py --out outputs/reference/intervals.json    # make check-intervals

A cell is a number of people, questions of each, true accuracies and correlations. People's own
accuracies are beta distributed, which gives answers of one person exactly that correlation; the two
sides of a pair share people's luck and answers' luck by `link`; with several seeds each one has a
true accuracy of its own (beta, standard deviation `seed_sd`). Limits are computed by the report's
own functions, all replicates at once. A nominal 95 % must cover at least REQUIRED in SHARE of the
cells and LOWEST in all; otherwise the command ends with 1.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats
from scipy.special import ndtr

from pulse_lib.report import limits
from pulse_lib.report.limits import Limits

LEVEL, REQUIRED, SHARE, LOWEST = 0.95, 0.93, 0.99, 0.92
SIZES = tuple(product((20, 45, 50), (5, 10)))
P = (0.01, 0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99)
PAIRS = (  # before, after
    *((0.02, 0.02), (0.3, 0.1), (0.5, 0.5), (0.7, 0.3), (0.9, 0.9)),
    *((0.95, 0.02), (0.95, 0.35), (0.95, 0.8), (0.99, 0.01), (0.99, 0.99)),
)
GRID = 20_000  # equally likely people's accuracies
Cell = dict[str, Any]


def cells() -> Iterator[Cell]:
    """Every cell, by `of`: "accuracy" (after alone), "pair", and both on several seeds."""
    for (people, questions), p, rho in product(SIZES, P, (0.0, 0.1, 0.3, 0.5)):
        yield _cell("accuracy", people, questions, after=p, rho=rho)
    for (people, questions), (before, after), rho, link in product(
        SIZES, PAIRS, (0.0, 0.3, 0.5), (0.0, 0.5, 0.9)
    ):
        yield _cell("pair", people, questions, before=before, after=after, rho=rho, link=link)
    several = product((2, 3, 5), ((20, 5), (50, 10)), (0.0, 0.05, 0.1), (False, True))
    for seeds, (people, questions), sd, shared in several:
        more: Cell = {"seeds": seeds, "shared": shared, "rho": 0.3}
        for p in (0.02, 0.1, 0.5, 0.9, 0.98):
            yield _cell(
                "accuracy of seeds", people, questions, after=p, seed_sd=_at_most(sd, p), **more
            )
        for before, after in ((0.9, 0.9), (0.95, 0.02), (0.95, 0.5), (0.5, 0.5)):
            sd_here = _at_most(sd, before, after)
            yield _cell(
                "pair of seeds",
                *(people, questions),
                **{"before": before, "after": after, "link": 0.0, "seed_sd": sd_here, **more},
            )


def _cell(of: str, people: int, questions: int, **more) -> Cell:
    plain = {"rho": 0.0, "link": 0.0, "seeds": 1, "seed_sd": 0.0, "shared": False}
    return {"of": of, "people": people, "questions": questions} | plain | more


def _at_most(sd: float, *shares: float) -> float:
    return min(sd, *(0.6 * min(p, 1 - p) for p in shares))


def measure(cell: Cell, replicates: int) -> dict[str, dict[str, float]]:
    """{quantity: coverage, width} of one cell, seeded by what the cell is."""
    rng = np.random.default_rng(zlib.crc32(json.dumps(cell, sort_keys=True).encode()))
    sides = ["before", "after"] if "before" in cell else ["after"]
    truth, right = _draw(cell, sides, rng=rng, replicates=replicates)
    found = {side: side_limits(cell, right[side]) for side in sides}
    if "before" not in cell:
        return {"accuracy": covered(found["after"], truth["after"])}
    gone, kept = truth["after"] - truth["before"], truth["after"] / truth["before"]
    return {
        "difference": covered(limits.difference(found["after"], found["before"]), gone),
        "share": covered(limits.ratio(found["after"], found["before"]), kept),
    }


def side_limits(cell: Cell, right: np.ndarray, level: float = LEVEL) -> Limits:
    """The report's limits of right answers, (replicates, seeds, people)."""
    seeds, people = cell["seeds"], cell["people"]
    if seeds > 1 and not cell["shared"]:  # each seed has people of its own
        own = np.zeros((len(right), seeds, seeds * people))
        asked = np.zeros((seeds, seeds * people))
        for s in range(seeds):
            here = slice(s * people, (s + 1) * people)
            own[:, s, here], asked[s, here] = right[:, s], cell["questions"]
        right = own
    else:
        asked = np.full((seeds, people), cell["questions"])
    units = np.arange(asked.shape[1])
    return limits.accuracy(asked, right, cell_seeds=np.arange(seeds), units=units, level=level)


def _draw(
    cell: Cell, sides: list[str], *, rng: np.random.Generator, replicates: int
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """(true accuracy, right answers (replicates, seeds, people)) of each side."""
    people, questions, seeds, link = (cell[k] for k in ("people", "questions", "seeds", "link"))
    truth, right = {}, {}
    shape = (replicates, 1 if cell["shared"] else seeds, people)
    common = rng.standard_normal(shape)  # a person's luck, in both sides; over seeds if shared
    luck = rng.random((replicates, seeds, people, questions), dtype=np.float32) if link else None
    for side in sides:
        own = rng.standard_normal(shape)
        place = ndtr(np.sqrt(link) * common + np.sqrt(1 - link) * own)
        grid = _beta_grid(cell[side], cell["rho"])
        skill = np.broadcast_to(
            grid[np.minimum((place * GRID).astype(int), GRID - 1)], (replicates, seeds, people)
        )
        truth[side] = float(grid.mean())
        if cell["seed_sd"]:
            skill = _moved_seeds(skill, truth[side], sd=cell["seed_sd"], rng=rng)
        if luck is None:
            right[side] = rng.binomial(questions, np.clip(skill, 0, 1))
        else:
            fresh = rng.random(luck.shape, dtype=np.float32)
            drawn = np.where(rng.random(luck.shape, dtype=np.float32) < link, luck, fresh)
            right[side] = (drawn < skill[..., None]).sum(axis=-1)
    return truth, right


def _moved_seeds(skill: np.ndarray, p: float, *, sd: float, rng: np.random.Generator) -> np.ndarray:
    """People's accuracies in seeds whose own mean is beta around p: below it all shrink alike,
    above it all come nearer to 1 alike."""
    size = p * (1 - p) / sd**2 - 1
    mean = rng.beta(p * size, (1 - p) * size, skill.shape[:2])[..., None]
    return np.where(mean < p, skill * mean / p, 1 - (1 - skill) * (1 - mean) / (1 - p))


@functools.lru_cache(maxsize=64)
def _beta_grid(p: float, rho: float) -> np.ndarray:
    if rho == 0:
        return np.full(GRID, p)
    size = 1 / rho - 1
    return scipy_stats.beta.ppf((np.arange(GRID) + 0.5) / GRID, p * size, (1 - p) * size)


def covered(found: Limits, truth: float) -> dict[str, float]:
    inside = (found.low <= truth + 1e-12) & (found.high >= truth - 1e-12)
    return {"coverage": float(inside.mean()), "width": float(np.median(found.high - found.low))}


def bootstrap(cell: Cell, replicates: int, *, resamples: int = 400) -> dict[str, float]:
    """Coverage and width of the percentile bootstrap over people, for the same cell of one seed."""
    rng = np.random.default_rng(zlib.crc32(json.dumps(cell, sort_keys=True).encode()))
    sides = ["before", "after"] if "before" in cell else ["after"]
    truth, right = _draw(cell, sides, rng=rng, replicates=replicates)
    even = np.full(cell["people"], 1 / cell["people"])
    weights = rng.multinomial(cell["people"], even, resamples).T  # people x resamples
    sums = {side: right[side][:, 0] @ weights for side in sides}
    with np.errstate(divide="ignore", invalid="ignore"):
        if "before" in cell:
            drawn, true = sums["after"] / sums["before"], truth["after"] / truth["before"]
        else:
            drawn, true = sums["after"] / (cell["people"] * cell["questions"]), truth["after"]
    drawn[~np.isfinite(drawn)] = np.nan  # nothing before: left out, as it was in the report
    with warnings.catch_warnings():  # where nothing is left there is no interval, and none covers
        warnings.simplefilter("ignore", RuntimeWarning)
        low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    inside = (low <= true + 1e-12) & (high >= true - 1e-12)
    return {"coverage": float(inside.mean()), "width": float(np.nanmedian(high - low))}


def summary(found: list[dict[str, Any]], replicates: int) -> dict[str, Any]:
    """What is reported of the cells of one quantity: the lowest coverage, how many cells reach
    REQUIRED, the Monte-Carlo error, the worst cells."""
    coverage = np.array([line["coverage"] for line in found])
    worst = sorted(found, key=lambda line: line["coverage"])[:5]
    return {
        "cells": len(found),
        "replicates": replicates,
        "monte_carlo_error": round(float(np.sqrt(LEVEL * (1 - LEVEL) / replicates)), 4),
        "lowest": round(float(coverage.min()), 4),
        "mean": round(float(coverage.mean()), 4),
        f"share_at_least_{REQUIRED}": round(float((coverage >= REQUIRED).mean()), 4),
        "median_width": round(float(np.median([line["width"] for line in found])), 4),
        "worst": worst,
    }


def passes(report: dict[str, Any]) -> bool:
    """Whether the coverage is as it must be."""
    return report["lowest"] >= LOWEST and report[f"share_at_least_{REQUIRED}"] >= SHARE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replicates", type=int, default=4000)
    options = parser.parse_args()
    begun, lines, before = time.process_time(), {}, {}
    few = max(1, options.replicates // 20)  # of the bootstrap, which takes longer
    for cell in cells():
        for quantity, found in measure(cell, options.replicates).items():
            name = quantity + (", seeds" if cell["seeds"] > 1 else "")
            lines.setdefault(name, []).append(cell | found)
        if cell["seeds"] == 1 and cell["people"] == 50 and cell["link"] == 0:
            name = "share" if "before" in cell else "accuracy"
            before.setdefault(name, []).append(cell | bootstrap(cell, few))
    report = {name: summary(found, options.replicates) for name, found in lines.items()}
    old = {name: summary(found, few) for name, found in before.items()}
    text = {"report": report, "percentile bootstrap, 50 people": old}
    options.out.write_text(json.dumps(text, indent=1) + "\n")
    for name, found in report.items():
        kind = "ok " if passes(found) else "LOW"
        print(kind, name, {k: v for k, v in found.items() if k != "worst"})
    print(f"{time.process_time() - begun:.0f} s of processor time; {options.out}")
    return 0 if all(passes(found) for found in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

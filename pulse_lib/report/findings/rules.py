"""How the numbers of the ledger are computed: a function per finding, yielding one line per method
with value and interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd

from pulse_lib.evaluate.accuracy import (
    chance,
    first_at_or_below,
    forget_level,
)
from pulse_lib.methods import PAPER_METHODS
from pulse_lib.profile import Scenario
from pulse_lib.report import stats
from pulse_lib.report.collect import Study, groups, headline, pick
from pulse_lib.report.tables import intervals
from pulse_lib.report.words import SCENARIOS, Metric, Selection

BOTH = "projector+llm"
# Two values that are both at most this (of answers, or of what was there before) are both at the
# floor: their difference says nothing about what the methods would do where something is left
FLOOR = 0.05
Says = Literal["holds", "fails", "floor", "interval too wide"]


class Number(NamedTuple):
    """One number that a finding is judged by: whether it lies on the right side of its bound,
    whether its whole interval lies on one side, and what it says: holds, fails, or why that cannot
    be told."""

    method: str
    trained_part: str
    quantity: str
    value: float
    low: float
    high: float
    holds: bool
    clear: bool
    says: Says
    n_seeds: int
    points: tuple[float, ...]  # of the seeds


NUMBERS = list(Number._fields)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules look at."""

    study: Study
    states: dict  # (scenario, method, trained part, selection) -> rows before, rows after
    sequences: list  # (whose, rows of all rounds)
    level: float = stats.LEVEL  # of every interval

    def methods(self, *needed: tuple[Scenario, str, Selection]) -> list[str]:
        """The paper's methods for which every (scenario, trained part, selection) was measured."""
        return [m for m in PAPER_METHODS if all((s, m, p, q) in self.states for s, p, q in needed)]


def _shares(
    *pairs: tuple[pd.DataFrame, pd.DataFrame], metric: Metric, level: float
) -> list[stats.Interval]:
    """The share kept of a metric for each pair of rows before and after, all over the same seeds."""
    _, by = intervals.answers_of(pairs[0][0], metric)
    every = [intervals.answers_of(rows, metric)[0] for pair in pairs for rows in pair]
    every = stats.of_shared_seeds(*every, by=by)
    return [
        stats.retained(before, after, by=by, level=level)
        for before, after in zip(every[::2], every[1::2], strict=True)
    ]


Side = Literal["below", "above"]


def _number(
    whose: dict,
    quantity: str,
    *,
    found: stats.Interval,
    bound: float,
    side: Side = "below",
    sides: tuple[tuple[stats.Interval, stats.Interval], ...] = (),
) -> Number:
    """A number held against the bound that it must lie below (or above). sides: the two sides of
    each difference in it, as shares 0-1; where both are at the floor nothing is decided."""
    if side == "below":
        holds, inside, outside = found.value < bound, found.high < bound, found.low >= bound
    else:
        holds, inside, outside = found.value > bound, found.low > bound, found.high <= bound
    says: Says = "holds" if inside else "fails" if outside else "interval too wide"
    if any(max(x.value, y.value) <= FLOOR for x, y in sides):
        says = "floor"
    return Number(
        method=whose["method"],
        trained_part=whose["trained_part"],
        quantity=quantity,
        value=found.value,
        low=found.low,
        high=found.high,
        holds=bool(holds),
        clear=says in ("holds", "fails"),
        says=says,
        n_seeds=found.n_seeds,
        points=found.points,
    )


def _both(method: str) -> dict:
    return {"method": method, "trained_part": BOTH}


def scenario_cost(facts: Facts, selection: Selection) -> Iterator[Number]:
    """General kept after forgetting pre-trained minus after forgetting fine-tuned knowledge, in
    points of percent."""
    for method in facts.methods(("finetuned", BOTH, selection), ("pretrained", BOTH, selection)):
        pairs = [facts.states[scenario, method, BOTH, selection] for scenario in SCENARIOS]
        fine, pre = _shares(*pairs, metric="general", level=facts.level)
        found = stats.moved(stats.difference(pre, fine), times=100)
        said = "general kept, pre-trained minus fine-tuned, points"
        yield _number(_both(method), said, found=found, bound=0, sides=((pre, fine),))


def general_retained(
    facts: Facts, scenario: Scenario, *, bound: float, side: Side
) -> Iterator[Number]:
    """Percent of general accuracy kept at the last step."""
    for method in facts.methods((scenario, BOTH, "final")):
        found = intervals.percent_retained(
            *facts.states[scenario, method, BOTH, "final"],
            metric="general",
            level=facts.level,
        )
        yield _number(_both(method), "general kept, %", found=found, bound=bound, side=side)


def forgetting(facts: Facts) -> Iterator[Number]:
    """Forget accuracy at the last step (mean of both modalities), by scenario."""
    for scenario in SCENARIOS:
        for method in facts.methods((scenario, BOTH, "final")):
            _, rows = facts.states[scenario, method, BOTH, "final"]
            found = intervals.accuracy(rows, "forget", level=facts.level)
            said = f"forget accuracy, {scenario}"
            yield _number(_both(method), said, found=found, bound=facts.study.matched_at)


def projector_gap(facts: Facts, selection: Selection) -> Iterator[Number]:
    """Text-only minus multimodal forget accuracy, with the projector trained minus with the LLM
    alone."""
    for method in facts.methods(("finetuned", BOTH, selection), ("finetuned", "llm", selection)):
        asked = [
            pick(headline(facts.states["finetuned", method, part, selection][1]), set="forget")
            for part in (BOTH, "llm")
        ]
        pairs = []
        for rows in stats.of_shared_seeds(*asked, by="modality"):
            there = dict(groups(rows, "modality"))
            if not {"text", "multimodal"} <= set(there):
                break
            both = [stats.accuracy(there[m], level=facts.level) for m in ("text", "multimodal")]
            pairs.append((both[0], both[1]))
        if len(pairs) < 2:
            continue
        gap, gap_alone = (stats.difference(text, shown) for text, shown in pairs)
        said = "text-only minus multimodal"
        yield _number(_both(method), said, found=gap, bound=0, side="above", sides=(pairs[0],))
        found = stats.difference(gap, gap_alone)
        said = "that gap minus the LLM-only gap"
        yield _number(_both(method), said, found=found, bound=0, side="above", sides=tuple(pairs))


def projector_general(facts: Facts, selection: Selection) -> Iterator[Number]:
    """General accuracy with the projector trained minus with the LLM alone."""
    for method in facts.methods(("finetuned", BOTH, selection), ("finetuned", "llm", selection)):
        asked = [
            intervals.answers_of(facts.states["finetuned", method, part, selection][1], "general")[
                0
            ]
            for part in (BOTH, "llm")
        ]
        both, alone = (
            stats.accuracy(rows, level=facts.level) for rows in stats.of_shared_seeds(*asked)
        )
        found = stats.difference(both, alone)
        said = "general accuracy, projector+LLM minus LLM only"
        yield _number(
            _both(method), said, found=found, bound=0, side="above", sides=((both, alone),)
        )


def below_chance(facts: Facts) -> Iterator[Number]:
    """Multimodal forget accuracy minus chance, and minus the accuracy of the likeliest option, at
    the last step of GA."""
    if ("finetuned", "ga", BOTH, "final") not in facts.states:
        return
    _, after = facts.states["finetuned", "ga", BOTH, "final"]
    rows, _ = intervals.answers_of(after, "forget_multimodal")
    said_right = stats.accuracy(rows, level=facts.level)
    likeliest = stats.accuracy(rows, "loglik_correct", level=facts.level)
    over = stats.moved(said_right, by=-chance(rows["n_options"]))
    yield _number(_both("ga"), "accuracy minus chance", found=over, bound=0)
    found = stats.difference(said_right, likeliest)
    sides = ((said_right, likeliest),)
    said = "generated minus likeliest option"
    yield _number(_both("ga"), said, found=found, bound=0, sides=sides)


def erosion(facts: Facts, metric: Metric, *, bound: float) -> Iterator[Number]:
    """Percent of retain or general accuracy kept after the last request."""
    for whose, rows in facts.sequences:
        last = rows["round"].max()
        found = intervals.percent_retained(
            pick(rows, round=0),
            pick(rows, round=last),
            metric=metric,
            level=facts.level,
        )
        yield _number(whose, f"{metric} kept after {last} requests, %", found=found, bound=bound)


def sequential_forgetting(facts: Facts) -> Iterator[Number]:
    """Forget accuracy over everybody after the last request."""
    for whose, rows in facts.sequences:
        last = pick(rows, round=rows["round"].max())
        found = intervals.accuracy(last, "forget", level=facts.level)
        said = "forget accuracy after all requests"
        yield _number(whose, said, found=found, bound=facts.study.matched_at)


def splitting(facts: Facts, metric: Metric, *, selection: Selection) -> Iterator[Number]:
    """Percent kept in several requests minus in one, at equal epochs (final) or equal forgetting
    (matched)."""
    for whose, rows in facts.sequences:
        key = ("finetuned", whose["method"], whose["trained_part"], selection)
        several = (
            pick(rows, round=rows["round"].max())
            if selection == "final"
            else _first_low_round(facts, rows)
        )
        if key not in facts.states or several.empty:
            continue
        before, after = facts.states[key]
        pairs = ((before, after), (pick(rows, round=0), several))
        once, often = _shares(*pairs, metric=metric, level=facts.level)
        found = stats.moved(stats.difference(often, once), times=100)
        said = f"{metric} kept, several requests minus one, points"
        yield _number(whose, said, found=found, bound=0, sides=((often, once),))


def _first_low_round(facts: Facts, rows: pd.DataFrame) -> pd.DataFrame:
    """Of each seed and order the rows of the first round whose forget accuracy over everybody is at
    or below the level, by the study's `matched_by`."""
    found, study = [], facts.study
    for run, here in groups(rows, "run"):
        levels = {
            number: forget_level(said, study.matched_by)
            for (name, _, number), said in study.summaries.items()
            if name == run
        }
        number = first_at_or_below(pd.Series(levels), study.matched_at)
        if number is not None:
            found.append(pick(here, round=number))
    return pd.concat(found) if found else rows.iloc[:0]

"""How the numbers of the ledger are computed: a function per finding, yielding one line per method
with value and interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import first_at_or_below
from pulse_lib.methods import PAPER_METHODS
from pulse_lib.profile import Scenario
from pulse_lib.report import stats
from pulse_lib.report.collect import Study, groups, headline, pick
from pulse_lib.report.tables import intervals
from pulse_lib.report.words import SCENARIOS, Metric, Selection

BOTH = "projector+llm"


class Number(NamedTuple):
    """One number that a finding is judged by: whether it lies on the right side of its bound, and
    whether its whole interval lies on one side."""

    method: str
    trained_part: str
    quantity: str
    value: float
    low: float
    high: float
    holds: bool
    clear: bool


NUMBERS = list(Number._fields)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rules look at."""

    study: Study
    states: dict  # (scenario, method, trained part, selection) -> rows before, rows after
    sequences: list  # (whose, rows of all rounds)

    def methods(self, *needed: tuple[Scenario, str, Selection]) -> list[str]:
        """The paper's methods for which every (scenario, trained part, selection) was measured."""
        return [m for m in PAPER_METHODS if all((s, m, p, q) in self.states for s, p, q in needed)]

    def interval(self, cells: dict, statistic: Callable) -> stats.Interval:
        return stats.interval(cells, statistic, n_resamples=self.study.n_resamples)


def _percent(means: dict, name: str) -> np.ndarray:
    return 100 * stats.share_in(means, name)


def _pair(name: str, before: pd.DataFrame, *, after: pd.DataFrame, metric: Metric) -> dict:
    (b, by), (a, _) = intervals.answers_of(before, metric), intervals.answers_of(after, metric)
    return stats.cells_of(f"{name} before", b, by=by) | stats.cells_of(f"{name} after", a, by=by)


Side = Literal["below", "above"]


def _number(
    whose: dict, quantity: str, *, found: stats.Interval, bound: float, side: Side = "below"
) -> Number:
    """A number held against the bound that it must lie below (or above)."""
    if side == "below":
        holds, inside, outside = found.value < bound, found.high < bound, found.low >= bound
    else:
        holds, inside, outside = found.value > bound, found.low > bound, found.high <= bound
    return Number(
        method=whose["method"],
        trained_part=whose["trained_part"],
        quantity=quantity,
        value=found.value,
        low=found.low,
        high=found.high,
        holds=bool(holds),
        clear=bool(inside if holds else outside),
    )


def _both(method: str) -> dict:
    return {"method": method, "trained_part": BOTH}


def scenario_cost(facts: Facts, selection: Selection) -> Iterator[Number]:
    """General kept after forgetting pre-trained minus after forgetting fine-tuned knowledge, in
    points of percent."""
    for method in facts.methods(("finetuned", BOTH, selection), ("pretrained", BOTH, selection)):
        cells = {}
        for scenario in SCENARIOS:
            before, after = facts.states[scenario, method, BOTH, selection]
            cells |= _pair(scenario, before, after=after, metric="general")
        found = facts.interval(
            cells, lambda m: _percent(m, "pretrained") - _percent(m, "finetuned")
        )
        said = "general kept, pre-trained minus fine-tuned, points"
        yield _number(_both(method), said, found=found, bound=0)


def general_retained(
    facts: Facts, scenario: Scenario, *, bound: float, side: Side
) -> Iterator[Number]:
    """Percent of general accuracy kept at the last step."""
    for method in facts.methods((scenario, BOTH, "final")):
        found = intervals.percent_retained(
            *facts.states[scenario, method, BOTH, "final"],
            metric="general",
            n_resamples=facts.study.n_resamples,
        )
        yield _number(_both(method), "general kept, %", found=found, bound=bound, side=side)


def forgetting(facts: Facts) -> Iterator[Number]:
    """Forget accuracy at the last step (mean of both modalities), by scenario."""
    for scenario in SCENARIOS:
        for method in facts.methods((scenario, BOTH, "final")):
            _, rows = facts.states[scenario, method, BOTH, "final"]
            found = intervals.accuracy(rows, "forget", n_resamples=facts.study.n_resamples)
            said = f"forget accuracy, {scenario}"
            yield _number(_both(method), said, found=found, bound=facts.study.matched_at)


def projector_gap(facts: Facts, selection: Selection) -> Iterator[Number]:
    """Text-only minus multimodal forget accuracy, with the projector trained minus with the LLM
    alone."""
    for method in facts.methods(("finetuned", BOTH, selection), ("finetuned", "llm", selection)):
        cells = {}
        for part in (BOTH, "llm"):
            _, after = facts.states["finetuned", method, part, selection]
            for modality, rows in groups(pick(headline(after), set="forget"), "modality"):
                cells |= stats.cells_of(f"{part} {modality}", rows)
        found = facts.interval(cells, lambda m: _gap(m, BOTH))
        said = "text-only minus multimodal"
        yield _number(_both(method), said, found=found, bound=0, side="above")
        found = facts.interval(cells, lambda m: _gap(m, BOTH) - _gap(m, "llm"))
        said = "that gap minus the LLM-only gap"
        yield _number(_both(method), said, found=found, bound=0, side="above")


def _gap(means: dict, part: str) -> np.ndarray:
    return stats.cell_mean(means, f"{part} text") - stats.cell_mean(means, f"{part} multimodal")


def projector_general(facts: Facts, selection: Selection) -> Iterator[Number]:
    """General accuracy with the projector trained minus with the LLM alone."""
    for method in facts.methods(("finetuned", BOTH, selection), ("finetuned", "llm", selection)):
        cells = {}
        for part in (BOTH, "llm"):
            _, after = facts.states["finetuned", method, part, selection]
            cells |= stats.cells_of(part, intervals.answers_of(after, "general")[0])
        found = facts.interval(
            cells, lambda m: stats.cell_mean(m, BOTH) - stats.cell_mean(m, "llm")
        )
        said = "general accuracy, projector+LLM minus LLM only"
        yield _number(_both(method), said, found=found, bound=0, side="above")


def below_chance(facts: Facts) -> Iterator[Number]:
    """Multimodal forget accuracy minus chance, and minus the accuracy of the likeliest option, at
    the last step of GA."""
    if ("finetuned", "ga", BOTH, "final") not in facts.states:
        return
    _, after = facts.states["finetuned", "ga", BOTH, "final"]
    rows, _ = intervals.answers_of(after, "forget_multimodal")
    over = {
        "accuracy minus chance": rows["correct"] - 1 / rows["n_options"],
        "generated minus likeliest option": rows["correct"] * 1.0 - rows["loglik_correct"],
    }
    for said, values in over.items():
        found = stats.interval(
            {"all": rows.assign(over=values)},
            lambda m: m["all"],
            value="over",
            n_resamples=facts.study.n_resamples,
        )
        yield _number(_both("ga"), said, found=found, bound=0)


def erosion(facts: Facts, metric: Metric, *, bound: float) -> Iterator[Number]:
    """Percent of retain or general accuracy kept after the last request."""
    for whose, rows in facts.sequences:
        last = rows["round"].max()
        found = intervals.percent_retained(
            pick(rows, round=0),
            pick(rows, round=last),
            metric=metric,
            n_resamples=facts.study.n_resamples,
        )
        yield _number(whose, f"{metric} kept after {last} requests, %", found=found, bound=bound)


def sequential_forgetting(facts: Facts) -> Iterator[Number]:
    """Forget accuracy over everybody after the last request."""
    for whose, rows in facts.sequences:
        last = pick(rows, round=rows["round"].max())
        found = intervals.accuracy(last, "forget", n_resamples=facts.study.n_resamples)
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
            else _first_low_round(rows, facts.study.matched_at)
        )
        if key not in facts.states or several.empty:
            continue
        before, after = facts.states[key]
        cells = _pair("one", before, after=after, metric=metric)
        cells |= _pair("several", pick(rows, round=0), after=several, metric=metric)
        found = facts.interval(cells, lambda m: _percent(m, "several") - _percent(m, "one"))
        yield _number(
            whose, f"{metric} kept, several requests minus one, points", found=found, bound=0
        )


def _first_low_round(rows: pd.DataFrame, level: float) -> pd.DataFrame:
    """Of each seed and order the rows of the first round whose forget accuracy over everybody is at
    or below the level."""
    found = []
    for _, run in groups(rows, ["seed", "order"]):
        asked = pick(headline(run), set="forget").groupby(["round", "modality"], observed=True)
        number = first_at_or_below(asked["correct"].mean().groupby("round").mean(), level)
        if number is not None:
            found.append(pick(run, round=number))
    return pd.concat(found) if found else rows.iloc[:0]

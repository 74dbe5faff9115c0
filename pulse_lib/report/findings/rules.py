"""How the numbers of the ledger are computed: a function per finding, yielding one line per method
with value and interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pulse_lib.methods import PAPER_METHODS
from pulse_lib.report import stats
from pulse_lib.report.collect import Study, headline, pick
from pulse_lib.report.tables import intervals

BOTH = "projector+llm"


@dataclass(frozen=True)
class Facts:
    """What the rules look at."""

    study: Study
    states: dict  # (scenario, method, trained part, selection) -> rows before, rows after
    sequences: list  # (whose, rows of all rounds)

    def methods(self, *needed: tuple[str, str, str]) -> list[str]:
        """The paper's methods for which every (scenario, trained part, selection) was measured."""
        return [m for m in PAPER_METHODS if all((s, m, p, q) in self.states for s, p, q in needed)]

    def interval(self, cells: dict, statistic: Callable) -> stats.Interval:
        return stats.interval(cells, statistic, n_resamples=self.study.n_resamples)


def _kept(means: dict, name: str) -> np.ndarray:
    after, before = (stats.cell_mean(means, f"{name} {when}") for when in ("after", "before"))
    return 100 * (after / before)


def _pair(name: str, before: pd.DataFrame, after: pd.DataFrame, measure: str) -> dict:
    (b, by), (a, _) = intervals.answers_of(before, measure), intervals.answers_of(after, measure)
    return stats.cells_of(f"{name} before", b, by) | stats.cells_of(f"{name} after", a, by)


def _line(
    method: str,
    part: str,
    quantity: str,
    found: stats.Interval,
    below: float | None = None,
    above: float | None = None,
):
    """A number and whether it lies below (or above) its bound; `clear` if its whole interval
    does."""
    holds = found.value < below if below is not None else found.value > above
    clear = holds and (found.high < below if below is not None else found.low > above)
    wrong = not holds and (found.low >= below if below is not None else found.high <= above)
    numbers = {"value": found.value, "low": found.low, "high": found.high}
    return (
        {"method": method, "trained_part": part, "quantity": quantity}
        | numbers
        | {"holds": bool(holds), "clear": bool(clear or wrong)}
    )


def scenario_cost(facts: Facts, selection: str):
    """General kept after forgetting pre-trained minus after forgetting fine-tuned knowledge, in
    points of percent."""
    for method in facts.methods(("finetuned", BOTH, selection), ("pretrained", BOTH, selection)):
        cells = {}
        for scenario in ("finetuned", "pretrained"):
            cells |= _pair(scenario, *facts.states[scenario, method, BOTH, selection], "general")
        found = facts.interval(cells, lambda m: _kept(m, "pretrained") - _kept(m, "finetuned"))
        yield _line(
            method, BOTH, "general kept, pre-trained minus fine-tuned, points", found, below=0
        )


def general_kept(
    facts: Facts, scenario: str, below: float | None = None, above: float | None = None
):
    """Percent of general accuracy kept at the last step."""
    for method in facts.methods((scenario, BOTH, "final")):
        found = intervals.share_kept(
            *facts.states[scenario, method, BOTH, "final"],
            "general",
            n_resamples=facts.study.n_resamples,
        )
        yield _line(method, BOTH, "general kept, %", found, below, above)


def forgetting(facts: Facts):
    """Forget accuracy at the last step (mean of both modalities), by scenario."""
    for scenario in ("finetuned", "pretrained"):
        for method in facts.methods((scenario, BOTH, "final")):
            rows = facts.states[scenario, method, BOTH, "final"][1]
            found = intervals.accuracy(rows, "forget", n_resamples=facts.study.n_resamples)
            yield _line(
                method, BOTH, f"forget accuracy, {scenario}", found, below=facts.study.matched_at
            )


def projector_gap(facts: Facts, selection: str):
    """Text-only minus multimodal forget accuracy, with the projector trained minus with the LLM
    alone."""
    for method in facts.methods(("finetuned", BOTH, selection), ("finetuned", "llm", selection)):
        cells = {}
        for part in (BOTH, "llm"):
            forget = pick(
                headline(facts.states["finetuned", method, part, selection][1]), set="forget"
            )
            for modality in ("text", "multimodal"):
                cells |= stats.cells_of(f"{part} {modality}", pick(forget, modality=modality))
        yield _line(
            method,
            BOTH,
            "text-only minus multimodal",
            facts.interval(cells, lambda m: _gap(m, BOTH)),
            above=0,
        )
        found = facts.interval(cells, lambda m: _gap(m, BOTH) - _gap(m, "llm"))
        yield _line(method, BOTH, "that gap minus the LLM-only gap", found, above=0)


def _gap(means: dict, part: str) -> np.ndarray:
    return stats.cell_mean(means, f"{part} text") - stats.cell_mean(means, f"{part} multimodal")


def projector_general(facts: Facts, selection: str):
    """General accuracy with the projector trained minus with the LLM alone."""
    for method in facts.methods(("finetuned", BOTH, selection), ("finetuned", "llm", selection)):
        cells = {}
        for part in (BOTH, "llm"):
            rows, _ = intervals.answers_of(
                facts.states["finetuned", method, part, selection][1], "general"
            )
            cells |= stats.cells_of(part, rows)
        found = facts.interval(
            cells, lambda m: stats.cell_mean(m, BOTH) - stats.cell_mean(m, "llm")
        )
        yield _line(method, BOTH, "general accuracy, projector+LLM minus LLM only", found, above=0)


def below_chance(facts: Facts):
    """Multimodal forget accuracy minus chance, and minus the accuracy of the likeliest option, at
    the last step of GA."""
    if ("finetuned", "ga", BOTH, "final") not in facts.states:
        return
    rows, _ = intervals.answers_of(
        facts.states["finetuned", "ga", BOTH, "final"][1], "forget_multimodal"
    )
    rows = rows.assign(
        over_chance=rows["correct"] - 1 / rows["n_options"],
        over_likelihood=rows["correct"] * 1.0 - rows["loglik_correct"],
    )
    for column, quantity in (
        ("over_chance", "accuracy minus chance"),
        ("over_likelihood", "generated minus likeliest option"),
    ):
        found = stats.interval(
            {"all": rows}, lambda m: m["all"], column, n_resamples=facts.study.n_resamples
        )
        yield _line("ga", BOTH, quantity, found, below=0)


def erosion(facts: Facts, measure: str, bound: float):
    """Percent of retain or general accuracy kept after the last request."""
    for whose, rows in facts.sequences:
        last = pick(rows, round=rows["round"].max())
        found = intervals.share_kept(
            pick(rows, round=0), last, measure, n_resamples=facts.study.n_resamples
        )
        yield _line(
            whose["method"],
            whose["trained_part"],
            f"{measure} kept after {last['round'].iloc[0]} requests, %",
            found,
            below=bound,
        )


def sequential_forgetting(facts: Facts):
    """Forget accuracy over everybody after the last request."""
    for whose, rows in facts.sequences:
        last = pick(rows, round=rows["round"].max())
        found = intervals.accuracy(last, "forget", n_resamples=facts.study.n_resamples)
        yield _line(
            whose["method"],
            whose["trained_part"],
            "forget accuracy after all requests",
            found,
            below=facts.study.matched_at,
        )


def splitting(facts: Facts, measure: str, selection: str):
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
        cells = _pair("one", *facts.states[key], measure) | _pair(
            "several", pick(rows, round=0), several, measure
        )
        found = facts.interval(cells, lambda m: _kept(m, "several") - _kept(m, "one"))
        yield _line(
            whose["method"],
            whose["trained_part"],
            f"{measure} kept, several requests minus one, points",
            found,
            below=0,
        )


def _first_low_round(rows: pd.DataFrame, level: float) -> pd.DataFrame:
    """Of each seed and order the rows of the first round whose forget accuracy over everybody is at
    or below the level."""
    found = []
    for _, run in rows.groupby(["seed", "order"]):
        forget = (
            pick(headline(run), set="forget")
            .groupby(["round", "modality"], observed=True)["correct"]
            .mean()
            .groupby("round")
            .mean()
        )
        low = forget[(forget.index > 0) & (forget <= level)]
        if len(low):
            found.append(pick(run, round=low.index.min()))
    return pd.concat(found) if found else rows.iloc[:0]

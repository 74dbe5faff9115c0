"""The paper's findings, each with a rule and the numbers it is judged by: holds, does not hold, or
not measured here.

No verdict is written down anywhere: a finding holds here if its rule is true of every one of the
paper's methods that was measured (trained part projector+llm unless it says otherwise), judged by
the values; whether the intervals agree is said beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pulse_lib.methods import PAPER_METHODS
from pulse_lib.report import paper
from pulse_lib.report.collect import Study, records
from pulse_lib.report.findings.claims import FINDINGS, Claim
from pulse_lib.report.findings.rules import NUMBERS, Facts, Number
from pulse_lib.report.tables import intervals
from pulse_lib.report.words import series_label

# The paper does not say how a request is trained; this is the kit's default, and other strategies
# are no test of its findings.
STRATEGY = "adapter_per_request"
Verdict = Literal["holds", "does not hold", "not measured here"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of the paper and what this study says of it. numbers: a line per method with
    value, interval, holds, clear."""

    id: str
    claim: str  # the paper's, in short
    paper: str  # its numbers
    source: str
    rule: str  # what is computed, and when it holds
    numbers: pd.DataFrame  # columns NUMBERS; clear = the interval alone decides it
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The verdict in a sentence with its count of methods and whether intervals agree."""
        if self.numbers.empty:
            return f"{self.verdict}: no complete runs for it"
        true, clear = int(self.numbers["holds"].sum()), int(self.numbers["clear"].sum())
        return (
            f"{self.verdict}: true in {true} of {len(self.numbers)} cases; in {clear} the whole"
            " interval is on one side"
        )


def ledger(study: Study) -> list[Finding]:
    """All findings, judged by the study's rows."""
    states = {
        (*(w[k] for k in intervals.SETTINGS), w["selection"]): (b, a)
        for w, b, a in intervals.states(study)
    }
    sequences = [
        (w, rows)
        for w, rows in intervals.sequences(study)
        if w["method"] in PAPER_METHODS and w["policy"] == STRATEGY
    ]
    facts = Facts(study=study, states=states, sequences=sequences)
    return [_finding(facts, claim) for claim in FINDINGS]


def _finding(facts: Facts, claim: Claim) -> Finding:
    lines = [line for line in claim.numbers(facts) if np.isfinite(line.value)]
    table = pd.DataFrame(lines, columns=NUMBERS)
    verdict: Verdict = "not measured here"
    if lines:
        verdict = "holds" if all(line.holds for line in lines) else "does not hold"
    return Finding(
        id=claim.id,
        claim=claim.claim,
        paper=claim.reported,
        source=f"{paper.SOURCE}, {claim.where}",
        rule=claim.rule.format(level=facts.study.matched_at),
        numbers=table,
        verdict=verdict,
    )


def as_table(findings: list[Finding]) -> pd.DataFrame:
    """The ledger as a table: finding, claim, paper, verdict, the numbers in short, rule, source."""
    return pd.DataFrame(
        {
            "finding": f.id,
            "claim": f.claim,
            "paper": f.paper,
            "verdict": f.verdict,
            "here": "; ".join(number_text(row) for row in records(f.numbers)),
            "rule": f.rule,
            "source": f.source,
        }
        for f in findings
    )


def numbers_table(findings: list[Finding]) -> pd.DataFrame:
    """Every number of the ledger: finding and the columns of Finding.numbers."""
    columns = ["finding", *NUMBERS]
    frames = [f.numbers.assign(finding=f.id)[columns] for f in findings if len(f.numbers)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def say(findings: list[Finding], *prefixes: str) -> str:
    """The findings whose id starts with one of the prefixes, in words: claim, verdict and
    numbers."""
    lines = []
    for f in findings:
        if f.id.startswith(prefixes):
            lines += [f.claim, f"  {f.sentence}"]
            lines += [f"  - {number_text(row)}" for row in records(f.numbers)]
    return "\n".join(lines)


def number_text(row: Number) -> str:
    """One number in words: "GA: general kept 33 [28, 39]"."""
    value, low, high = numbers_text(row.value, row.low, row.high)
    whose = series_label(row.method, row.trained_part)
    return f"{whose}: {row.quantity} {value} [{low}, {high}]"


def numbers_text(*values: float) -> list[str]:
    """Numbers that belong together with as many decimals as the largest needs, with a real minus
    sign: two for shares, one below 10, none for larger percentages and points."""
    largest = max(abs(value) for value in values)
    decimals = 2 if largest <= 1.5 else 1 if largest < 10 else 0
    texts = [f"{round(value, decimals) + 0.0:.{decimals}f}" for value in values]  # no -0
    return [text.replace("-", "−") for text in texts]

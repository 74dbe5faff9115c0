"""The paper's findings, each with a rule and the numbers it is judged by: holds, holds for some of
the methods, cannot be told, or fails.

No verdict is written down anywhere. A method decides nothing where an interval lies on both sides of
the bound, or where both sides of a difference are at the floor. A finding *holds* if every one of the
paper's methods that was measured (trained part projector+llm unless it says otherwise) lies on its
side with the whole 95 % interval: all must pass, so nothing is corrected for their number. Where a
single method could decide, as for *holds for n of m* and *fails*, the level is corrected for the
number of numbers (Bonferroni). Fewer than three seeds make no verdict: it is printed with "seen on
one seed" and counted as none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from pulse_lib.methods import PAPER_METHODS
from pulse_lib.profile import SCENARIOS, Profile
from pulse_lib.report import paper
from pulse_lib.report.collect import Study, groups, records
from pulse_lib.report.findings.claims import FINDINGS, Claim, Whose
from pulse_lib.report.findings.rules import NUMBERS, Facts, Number
from pulse_lib.report.seeds import ENOUGH
from pulse_lib.report.tables import intervals
from pulse_lib.report.words import series_label

# The paper does not say how a request is trained; this is the kit's default, and other strategies
# are no test of its findings.
STRATEGY = "adapter_per_request"
Verdict = Literal["holds", "holds for some", "cannot tell", "fails", "not measured here"]
NO_VERDICT = f"none: fewer than {ENOUGH} seeds"  # how such a verdict is counted
WHOSE: dict[Whose, str] = {"paper": "findings of the paper", "kit": "variants of this kit"}
_NUMBERS = {1: "one seed", 2: "two seeds"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One finding of the paper and what this study says of it. numbers: a line per number with
    value, interval, what it says."""

    id: str
    claim: str  # the paper's, in short
    paper: str  # its numbers
    source: str
    rule: str  # what is computed, and when it holds
    numbers: pd.DataFrame  # columns NUMBERS; clear = the 95 % interval alone decides it
    verdict: Verdict
    whose: Whose

    @property
    def n_seeds(self) -> int:
        """The seeds that every number of it stands on."""
        return int(self.numbers["n_seeds"].min()) if len(self.numbers) else 0

    @property
    def counted(self) -> str:
        """What the verdict counts as: none on fewer than three seeds."""
        return NO_VERDICT if 0 < self.n_seeds < ENOUGH else self.verdict

    @property
    def said(self) -> str:
        """The verdict as it is printed: "holds for 1 of 3 methods (NPO), seen on one seed"."""
        text: str = self.verdict
        if self.verdict == "holds for some":
            every, those = _methods(self.numbers), _methods(self.numbers, "holds")
            text = f"holds for {len(those)} of {len(every)} methods ({', '.join(those)})"
        elif self.verdict == "cannot tell":
            open_ = {"floor", "interval too wide"} & set(self.numbers["says"])
            text += f" ({', '.join(sorted(open_))})"
        few = _NUMBERS.get(self.n_seeds)
        return f"{text}, seen on {few}" if few else text

    @property
    def sentence(self) -> str:
        """The verdict in a sentence with its methods."""
        if self.numbers.empty:
            return f"{self.verdict}: no complete runs for it"
        says = {
            "true of": _methods(self.numbers, "holds"),
            "false of": _methods(self.numbers, "fails", of=any),
            "at the floor for": _methods(self.numbers, "floor", of=any),
            "interval too wide for": _methods(self.numbers, "interval too wide", of=any),
        }
        return f"{self.said}: " + "; ".join(
            f"{what} {', '.join(those)}" for what, those in says.items() if those
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
    verdict: Verdict = "not measured here"
    if lines:
        if all(line.says == "holds" for line in lines):
            verdict = "holds"
        else:
            strict = dataclasses.replace(facts, level=1 - (1 - facts.level) / len(lines))
            says = [line.says for line in claim.numbers(strict) if np.isfinite(line.value)]
            lines = [line._replace(says=said) for line, said in zip(lines, says, strict=True)]
            verdict = _verdict(pd.DataFrame(lines, columns=NUMBERS))
    return Finding(
        id=claim.id,
        claim=claim.claim,
        paper=claim.reported,
        source=f"{paper.SOURCE}, {claim.where}",
        rule=claim.rule.format(level=facts.study.matched_at),
        numbers=pd.DataFrame(lines, columns=NUMBERS),
        verdict=verdict,
        whose=claim.whose,
    )


def _verdict(numbers: pd.DataFrame) -> Verdict:
    """What numbers say that do not all hold."""
    if _methods(numbers, "holds"):
        return "holds for some"
    return "fails" if (numbers["says"] == "fails").any() else "cannot tell"


def _methods(numbers: pd.DataFrame, says: str = "", *, of: Callable = all) -> list[str]:
    """The methods, by name, of whose numbers all (or any) say this; "": every method."""
    return [
        series_label(*who)
        for who, own in groups(numbers, ["method", "trained_part"], sort=False)
        if not says or of(own["says"] == says)
    ]


def training(profile: Profile) -> str:
    """Of which training the findings at the last step speak: of the same numbers for each of the
    paper's methods in both scenarios and every request, as in the paper, or of numbers found for
    each of these.
    """
    for method in PAPER_METHODS:
        found = [profile.unlearn_for(s, method) for s in SCENARIOS]
        found.append(profile.unlearn_for("finetuned", method, strategy=STRATEGY))
        if any((u.learning_rate, v) != (found[0][0].learning_rate, found[0][1]) for u, v in found):
            return "numbers found for each scenario and for requests in a row"
    return "equal training: the same numbers in both scenarios and every request"


def tally(findings: list[Finding]) -> pd.DataFrame:
    """How many findings have each verdict, those of the paper apart from the kit's variants; what
    stands on fewer than three seeds is counted as no verdict."""
    columns = [*get_args(Verdict)]
    columns.insert(-1, NO_VERDICT)
    counts = [
        [sum(f.whose == whose and f.counted == column for f in findings) for column in columns]
        for whose in WHOSE
    ]
    return pd.DataFrame(counts, columns=columns, index=[*WHOSE.values()])


def as_table(findings: list[Finding], profile: Profile) -> pd.DataFrame:
    """The ledger as a table: finding, claim, paper, verdict as printed, the numbers in short, rule,
    source, whose it is, what it counts as, whether the paper's number is from notes on it, and of
    which training it speaks."""
    return pd.DataFrame(
        {
            "finding": f.id,
            "claim": f.claim,
            "paper": f.paper,
            "verdict": f.said,
            "here": "; ".join(number_text(row) for row in records(f.numbers)),
            "rule": f.rule,
            "source": f.source,
            "whose": f.whose,
            "counted": f.counted,
            "secondary": any(name in f.source for name in paper.SECONDARY),
            "training": training(profile),
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
    """One number in words: "GA: general kept, % 33 [28, 39]", with several seeds "GA: general kept,
    % (seeds 30, 33, 36) 33 [28, 39]"."""
    value, low, high = numbers_text(row.value, row.low, row.high)
    whose = series_label(row.method, row.trained_part)
    seeds = f" (seeds {points_text(row.points)})" if len(row.points) > 1 else ""
    return f"{whose}: {row.quantity}{seeds} {value} [{low}, {high}]"


def points_text(points: tuple[float, ...]) -> str:
    """The values of the seeds, in words."""
    return ", ".join(numbers_text(*points)) if points else ""


def numbers_text(*values: float) -> list[str]:
    """Numbers that belong together with as many decimals as the largest needs, with a real minus
    sign: two for shares, one below 10, none for larger percentages and points; ∞ where there is no
    limit."""
    largest = max((abs(value) for value in values if np.isfinite(value)), default=0)
    decimals = 2 if largest <= 1.5 else 1 if largest < 10 else 0
    texts = [f"{round(value, decimals) + 0.0:.{decimals}f}" for value in values]  # no -0
    return [text.replace("-", "−").replace("inf", "∞") for text in texts]

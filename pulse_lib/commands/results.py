"""The tables that an analysis left, read back: a study's own, or the reference results. What commands
`ledger` and `compare` print is computed here, from these files alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import pandas as pd

from pulse_lib.errors import PulseError
from pulse_lib.files import KIT, show
from pulse_lib.report import markdown, paper
from pulse_lib.report.words import SCENARIOS
from pulse_lib.runs.kinds import out_folder

REFERENCE = KIT / "outputs" / "reference" / "tiny"
NOTE = f"* from notes on the paper ({paper.SOURCE}), not from its text"
WHERE = ("", "tables", "analysis/tables")  # below a folder that is named


@dataclass(frozen=True)
class Results:
    """The tables of one analysis, by name; empty if it has no such table."""

    folder: Path
    tables: Mapping[str, pd.DataFrame]

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables.get(name, pd.DataFrame())

    @property
    def origin(self) -> str:
        """Profile, seeds, machine, commit and command, in words."""
        if self["about"].empty:
            return "made by an earlier version, which wrote no table `about`"
        line = self["about"].fillna("").iloc[0]
        return (
            f"profile {line['profile']}, seeds {line['seeds']}; {line['processor']}, "
            f"{line['device']}; torch {line['torch']}; commit {line['commit'] or 'none'}; "
            f"{line['command']}"
        )


def results(folder: str = "", *, profile: str = "tiny") -> Results:
    """The tables in a folder (a study's, an analysis's, or of tables alone); without one those of
    the profile's study, or, if that has none, the reference results. Raises PulseError if there is
    none.
    """
    roots = [Path(folder)] if folder else [out_folder(profile), REFERENCE]
    for root in roots:
        for below in WHERE:
            if (root / below / "ledger.csv").is_file():
                return _read(root / below)
    raise PulseError(
        f"{show(roots[0])} holds no ledger.csv, nor its {' or '.join(WHERE[1:])}: run 05_analyze "
        "first"
    )


def _read(folder: Path) -> Results:
    found = {}
    for path in sorted(folder.glob("*.csv")):
        try:
            found[path.stem] = pd.read_csv(path)
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise PulseError(f"{show(path)} is no table: {error}; run 05_analyze again") from None
    return Results(folder, found)


def as_markdown(of: Results) -> str:
    """All tables of README, each under a heading, and where they come from."""
    parts = [("Where these numbers come from", of.origin)]
    for scenario, name in SCENARIOS.items():
        if len(of["single_shot"]):
            parts.append((f"One request, {name}", markdown.states(of["single_shot"], scenario)))
    parts += [
        ("The paper's findings", markdown.findings(of["ledger"], "paper")),
        ("This kit's variants", markdown.findings(of["ledger"], "kit")),
    ]
    if len(of["projector"]):
        parts.append(("The paper's table of GA, percent", markdown.projector(of["projector"])))
    for scenario, name in SCENARIOS.items():
        if len(of["ranking"]):
            parts.append(
                (f"Which method keeps most, {name}", markdown.ranking(of["ranking"], scenario))
            )
    if len(of["after_requests"]):
        parts.append(("After all requests", markdown.after_requests(of["after_requests"])))
    note = NOTE.replace("*", "\\*")
    return "\n\n".join([*(f"### {title}\n\n{text}" for title, text in parts), note])


def beside_the_paper(of: Results) -> pd.DataFrame:
    """Every finding: claim, the paper's number (* if it is from notes) with where it stands, this
    study's numbers and the verdict.
    """
    ledger = of["ledger"]
    mark = ledger["secondary"].map({True: "*", False: ""}) if "secondary" in ledger else ""
    where = ledger["source"].str.removeprefix(f"{paper.SOURCE}, ")
    kit = ledger["whose"].map({"paper": "", "kit": " (this kit's variant)"})
    return pd.DataFrame(
        {
            "claim": ledger["claim"] + kit,
            "paper": ledger["paper"] + mark + " (" + where + ")",
            "here": ledger["here"].fillna("").str.replace("; ", "\n"),
            "verdict": ledger["verdict"],
        }
    )


@dataclass(frozen=True)
class Comparison:
    """Two results side by side, a line a finding, method or number. `_a` and `_b` say whose."""

    _: KW_ONLY
    verdicts: pd.DataFrame  # finding, verdict_a, verdict_b, same
    ranks: pd.DataFrame  # scenario, method, trained_part, rank_a, rank_b
    numbers: pd.DataFrame  # finding, method, quantity, value_a, value_b, low, high of b, outside

    @property
    def sentence(self) -> str:
        """How many verdicts agree and how many numbers lie outside."""
        same, out = int(self.verdicts["same"].sum()), int(self.numbers["outside"].sum())
        return (
            f"{same} of {len(self.verdicts)} verdicts are the same; {out} of {len(self.numbers)} "
            "numbers lie outside the other's interval"
        )


def compare(a: Results, b: Results) -> Comparison:
    """Verdicts, ranks and numbers of `a` beside those of `b`; outside: a's value is not in b's
    interval. Raises PulseError if the numbers behind the verdicts are not there.
    """
    for side in (a, b):
        if side["ledger_numbers"].empty:
            raise PulseError(
                f"{show(side.folder)} has no ledger_numbers.csv, or an empty one: its analysis was "
                "made by an earlier version or without runs; run 05_analyze again"
            )
    verdicts = _joined(a["ledger"], b["ledger"], keys=["finding"], values=["verdict"])
    verdicts["same"] = verdicts["verdict_a"] == verdicts["verdict_b"]
    who = ["scenario", "method", "trained_part"]
    ranks = pd.DataFrame(columns=[*who, "rank_a", "rank_b"])
    if len(a["ranking"]) and len(b["ranking"]):
        ranks = _joined(a["ranking"], b["ranking"], keys=who, values=["rank"])
    keys = ["finding", "method", "trained_part", "quantity"]
    limits = b["ledger_numbers"][[*keys, "low", "high"]]
    numbers = _joined(a["ledger_numbers"], b["ledger_numbers"], keys=keys, values=["value"])
    numbers = numbers.merge(limits, on=keys, validate="one_to_one").dropna(
        subset=["value_a", "value_b"]
    )
    numbers["outside"] = ~numbers["value_a"].between(numbers["low"], numbers["high"])
    return Comparison(verdicts=verdicts, ranks=ranks, numbers=numbers)


def _joined(
    a: pd.DataFrame, b: pd.DataFrame, *, keys: list[str], values: list[str]
) -> pd.DataFrame:
    """The lines that both tables have, or one of them, with the values of each."""
    return a[[*keys, *values]].merge(
        b[[*keys, *values]],
        on=keys,
        how="outer",
        suffixes=("_a", "_b"),
        validate="one_to_one",
        sort=False,
    )

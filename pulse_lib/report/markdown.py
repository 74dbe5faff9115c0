"""A study's tables as Markdown, as README shows them: from the CSV files of an analysis, no run and no
row is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from pulse_lib.report.words import SELECTIONS, series_label

MODALITIES = ("multimodal", "text")
_STATES = {"base": SELECTIONS["base"], "before": SELECTIONS["before"]}


def table(columns: Iterable[str], lines: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a cell's own bars are escaped."""
    columns = list(columns)
    body = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    rows = [columns, ["---"] * len(columns), *body]
    head, rule, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, rule.replace(" ", ""), *rest])


def states(single_shot: pd.DataFrame, scenario: str) -> str:
    """Accuracies (with the picture / by name) of each method's states in a scenario; from table
    `single_shot`, of one seed. Where several seeds are there: their means."""
    keys = ["method", "trained_part", "selection"]
    here = single_shot[single_shot["scenario"] == scenario].fillna(dict.fromkeys(keys, ""))
    means = here.groupby(keys, sort=False).mean(numeric_only=True).reset_index()
    return table(
        ["method", "state", "forget", "by likelihood", "retain", "general", "unusable"],
        (
            [
                _STATES.get(line["method"]) or series_label(line["method"], line["trained_part"]),
                SELECTIONS.get(line["selection"], ""),
                pair(line, "forget"),
                pair(line, "forget", ending="_likelihood"),
                pair(line, "retain"),
                *(digits(line[name]) for name in ("general", "invalid_rate")),
            ]
            for line in means.to_dict("records")
        ),
    )


def findings(ledger: pd.DataFrame, whose: str) -> str:
    """Claims and verdicts; whose: the "paper"'s, or the "kit"'s variants. From table `ledger`."""
    here = ledger[ledger["whose"] == whose]
    return table(
        ["finding", "paper", "here"],
        ([f["claim"], _reported(f), f["verdict"]] for f in here.to_dict("records")),
    )


def ranking(ranks: pd.DataFrame, scenario: str) -> str:
    """Methods by what they keep at matched forgetting; from table `ranking`."""
    here = ranks[ranks["scenario"] == scenario]
    return table(
        ["method", "kept", "general kept", "ranks", "as said", "seeds", "seconds"],
        (
            [
                series_label(line["method"], line["trained_part"]),
                *(digits(line[name]) for name in ("kept", "general_kept")),
                _span(line.get("rank_from"), line.get("rank_to")),
                digits(line.get("kept_at_level_generation", np.nan)),
                f"{line['n_reached']} of {line['n_seeds']}",
                whole(line["seconds"]),
            ]
            for line in here.to_dict("records")
        ),
    )


def after_requests(after: pd.DataFrame) -> str:
    """What is forgotten and kept after all requests; from table `after_requests`."""
    return table(
        ["method, strategy", "forget", "by likelihood", "projector put back", "kept", "s", "goal"],
        (
            [
                f"{series_label(line['method'], line['trained_part'])}, {line['policy']}",
                pair(line, "forget"),
                pair(line, "forget", ending="_likelihood"),
                pair(line, "reload"),
                digits(line["retain_kept"], line["general_kept"]),
                whole(line["seconds"]),
                "reached" if line["aim"] else "no",
            ]
            for line in after.to_dict("records")
        ),
    )


def projector(made: pd.DataFrame) -> str:
    """The paper's table of GA beside this study's numbers, in percent; from table `projector`."""
    here = made[(made["method"] == "ga") & (made["scenario"] == "finetuned")]
    names = ("forget_multimodal", "forget_text", "general")
    return table(
        ["GA, trained part", *(f"{n.replace('_', ' ')}: paper*, here" for n in names)],
        (
            [line["trained_part"], *(_beside(line, name) for name in names)]
            for line in here.to_dict("records")
        ),
    )


def _reported(finding: Mapping) -> str:
    return finding["paper"] + ("*" if finding.get("secondary") is True else "")


def _beside(line: Mapping, name: str) -> str:
    low, high = (100 * line[f"{name}_{end}"] for end in ("low", "high"))
    return f"{100 * line[f'{name}_paper']:.1f}, {100 * line[name]:.1f} [{low:.0f}, {high:.0f}]"


def pair(line: Mapping, name: str, *, ending: str = "") -> str:
    """A number with the picture / by name; `ending` of its columns."""
    return digits(*(line.get(f"{name}_{m}{ending}", np.nan) for m in MODALITIES))


def digits(*values: float) -> str:
    """Numbers to two digits, parted by slashes; a dash for NaN."""
    return " / ".join("-" if np.isnan(v) else f"{v:.2f}" for v in values)


def whole(value: float) -> str:
    """A whole number; a dash for NaN."""
    return "-" if np.isnan(value) else f"{value:.0f}"


def _span(low: float | None, high: float | None) -> str:
    if low is None or high is None or np.isnan(low):
        return "-"
    return f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}"

"""A study's tables as Markdown, as README shows them: from the CSV files of an analysis, no run and no
row is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from pulse_lib.methods import retrains
from pulse_lib.report.collect import groups
from pulse_lib.report.words import KNOWS, LEARNED, SELECTIONS, label, series_label

MODALITIES = ("multimodal", "text")
# Columns of `probed`, and which kinds of knowledge of table `probes` each takes the most of
PROBES = {
    "reworded": (
        *("new wording", "option orders", "role play", "answer begun", "examples"),
        *("in 16 bits", "in int8", "in nf4"),
    ),
    "projector": ("old projector",),
    "relearned": (
        "taught some forget people",
        "taught half of the facts",
        "taught other people",
        "taught general",
    ),
    "inside": ("linear probe",),
}
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


def continual(studies: Iterable[pd.DataFrame]) -> str:
    """Requests in a row by the scalars of continual learning, of the pairs of method and strategy that
    are in each study, by the number of requests; from their tables `continual`.
    """
    whose = ["method", "policy", "trained_part"]
    tables = [study.set_index(whose) for study in studies]
    shared = [pair for pair in tables[-1].index if all(pair in t.index for t in tables)]
    return table(
        [
            *("method, strategy", "requests", "after its turn", "by likelihood", "at the end"),
            *("gone before", "a request leaves", "runs"),
        ],
        (
            [
                f"{series_label(pair[0], pair[2])}, {pair[1]}",
                whole(line["n_requests"]),
                *(digits(line[name]) for name in ("at_turn", "at_turn_likelihood", "at_end")),
                digits(line["spilled"]),
                digits(line["retain_per_request"], line["general_per_request"]),
                whole(line["n_seeds"] * line["n_orders"]),
            ]
            for pair in shared
            for line in (t.loc[pair] for t in tables)
        ),
    )


def probed(runs: pd.DataFrame, scenario: str) -> str:
    """What the probes found: of forget people what is said, the share of questions whose right option
    is the likeliest as asked, under each kind of PROBES that finds most, what is kept, and all rules
    that hold; from `probes.over_seeds`, of single-shot runs, the controls first.
    """
    here = runs[(runs["scenario"] == scenario) & (runs["policy"] == "")]
    here = here.assign(control=[m == "before" or retrains(m) for m in here["method"]])
    here = here.sort_values(["control", KNOWS + "linear probe"], ascending=[False, True])
    return table(
        ["model", "says", "asked", *PROBES, "kept", "verdict"],
        (
            [
                _STATES.get(line["method"]) or label(line["method"]),
                *(digits(line[name]) for name in ("said", KNOWS + "as asked")),
                *(digits(max(line[KNOWS + name] for name in names)) for names in PROBES.values()),
                digits(line["kept: retain"], line["kept: general"]),
                line["holds"],
            ]
            for line in here.to_dict("records")
        ),
    )


def placebo(lost: pd.DataFrame) -> str:
    """The shares of forget, retain and general accuracy that are left by a placebo, and by its method;
    from table `placebo`.
    """
    names = ("forget_kept", "retain_kept", "general_kept")
    return table(
        ["knowledge", "method", "placebo: forget / retain / general", "the method itself", "seeds"],
        (
            [
                LEARNED[line["scenario"]],
                label(line["method"]),
                *(digits(*(line[f"{w}_{n}"] for n in names)) for w in ("placebo", "method")),
                str(line["n_seeds"]),
            ]
            for line in lost.to_dict("records")
        ),
    )


def searched(trials: pd.DataFrame, tuned: Mapping[str, Mapping[str, Mapping]]) -> str:
    """What a search's trials of each method (or method/strategy) kept, by scenario: the profile's own
    numbers (trial 0), those in use (`tuned` of the profile), and the best; from a search's table of
    trials.
    """
    lines = []
    for (scenario, name), part in groups(trials, ["scenario", "method"], sort=False):
        method, _, strategy = str(name).partition("/")
        used = part[[_same_numbers(json.loads(v), tuned[scenario][name]) for v in part["values"]]]
        lines.append(
            [
                LEARNED.get(scenario, "requests in turn"),
                label(method) + (f", {strategy}" if strategy else ""),
                f"{part['reached'].sum()} of {len(part)}",
                *(_most_kept(of) for of in (part[part["trial"] == 0], used, part)),
            ]
        )
    return table(
        ["knowledge", "method", "forgotten by", "its own numbers", "in use", "the best"], lines
    )


def _same_numbers(tried: Mapping[str, float], used: Mapping[str, float]) -> bool:
    """Whether a trial had the numbers in use; epochs, which may be more for safety, aside."""
    return {**tried, "epochs": 0} == {**used, "epochs": 0}


def _most_kept(trials: pd.DataFrame) -> str:
    reached = trials[trials["reached"]]
    return f"{100 * reached['score'].max():.0f} %" if len(reached) else "not forgotten"


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

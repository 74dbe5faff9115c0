"""The words of tables and figures, without matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import pandas as pd

from pulse_lib.methods import METHODS, PAPER_METHODS, VARIANTS, Method
from pulse_lib.profile import Scenario

Selection = Literal["final", "matched"]  # the states of a single-shot run
Metric = Literal[
    "forget",
    "forget_multimodal",
    "forget_text",
    "retain",
    "retain_multimodal",
    "retain_text",
    "general",
    "invalid_rate",
]

SETS: tuple[Literal["forget", "retain", "general"], ...] = ("forget", "retain", "general")

# What rows of a model that has unlearned nothing say in place of a method
NO_METHODS = {"before", "base", ""}

METRICS: dict[Metric, str] = {
    "forget": "forget set",
    "forget_multimodal": "forget set, multimodal",
    "forget_text": "forget set, text-only",
    "retain": "retain set",
    "retain_multimodal": "retain set, multimodal",
    "retain_text": "retain set, text-only",
    "general": "general questions",
    "invalid_rate": "unusable answers",
}

LEARNED: dict[Scenario, str] = {"finetuned": "fine-tuned", "pretrained": "pre-trained"}
SCENARIOS: dict[Scenario, str] = {s: f"{how} knowledge" for s, how in LEARNED.items()}

SELECTIONS = {
    "before": "before",
    "base": "base model",
    "final": "last step",
    "matched": "matched forgetting",
}
KNOWS = "knows: "  # begins the columns of table `probes` that say how much is known, and by which
_PARTS = {"projector+llm": "projector + LLM", "llm": "LLM only"}


def label(method: str) -> str:
    """A method's name in figures, from the table of methods (ga_klr -> GA+KLR); an id that is not
    in it stands for itself."""
    known = METHODS | VARIANTS
    return known[method].label if method in known else method


def series_label(method: str, trained_part: str = "projector+llm") -> str:
    """A method's name with its trained part where that is not the default: "GA, LLM only"."""
    return label(method) + (f", {_PARTS['llm']}" if trained_part == "llm" else "")


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the names that figures use in place of ids (ga_retain -> GradDiff): for a
    reader; files keep the ids."""
    names: dict[str, Callable[[str], str]] = {
        "method": lambda method: label(SELECTIONS.get(method, method)),
        "scenario": lambda scenario: dict(SCENARIOS).get(scenario, scenario),
        "trained_part": lambda part: _PARTS.get(part, part),
        "selection": lambda selection: SELECTIONS.get(selection, selection),
    }
    there = [column for column in names if column in table]
    return table.assign(**{c: table[c].astype(object).map(names[c], "ignore") for c in there})


def heading(metric: Metric) -> str:
    """A metric's name where it begins a line."""
    return METRICS[metric][0].upper() + METRICS[metric][1:]


def method_order(methods: Iterable[str]) -> list[str]:
    """The methods as figures and tables list them: the paper's three first."""
    there, table = set(methods) - NO_METHODS, dict.fromkeys([*PAPER_METHODS, *METHODS, *VARIANTS])
    return [method for method in [*table, *sorted(there - set(table))] if method in there]


# What a loss function gives, by its name in losses.py; a mean over answer tokens if it is not here
_UNITS = {
    "npo": "nats per answer",
    "dpo": "nats per pair of answers",
    "simnpo": "nats per token, answers alike",
    "rmu": "squared distance of hidden states",
    "muse_klr": "of raw logits, no unit",
    "muse_npo": "of raw logits, no unit",
}


def loss_unit(method: Method) -> str:
    """The unit of a method's loss for an axis: "nats per token", or those of both terms where they
    differ."""
    units = [_UNITS.get(n, "nats per token") for n in (method.forget_loss, method.retain_loss) if n]
    return units[0] if len(set(units)) == 1 else f"forget: {units[0]};\nretain: {units[1]}"

"""The words of tables and figures, without matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pulse_lib.methods import METHODS, PAPER_METHODS, VARIANTS
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

SCENARIOS: dict[Scenario, str] = {
    "finetuned": "fine-tuned knowledge",
    "pretrained": "pre-trained knowledge",
}

SELECTIONS = {
    "before": "before",
    "base": "base model",
    "final": "last step",
    "matched": "matched forgetting",
}


def label(method: str) -> str:
    """A method's name in figures, from the table of methods (ga_klr -> GA+KLR); an id that is not
    in it stands for itself."""
    known = METHODS | VARIANTS
    return known[method].label if method in known else method


def series_label(method: str, trained_part: str = "projector+llm") -> str:
    """A method's name with its trained part where that is not the default: "GA, LLM only"."""
    return label(method) + (", LLM only" if trained_part == "llm" else "")


def heading(metric: Metric) -> str:
    """A metric's name where it begins a line."""
    return METRICS[metric][0].upper() + METRICS[metric][1:]


def method_order(methods: Iterable[str]) -> list[str]:
    """The methods as figures and tables list them: the paper's three first."""
    there, table = set(methods) - NO_METHODS, dict.fromkeys([*PAPER_METHODS, *METHODS, *VARIANTS])
    return [method for method in [*table, *sorted(there - set(table))] if method in there]

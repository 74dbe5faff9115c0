"""Rows (one question answered by one model state), and the accuracies computed from them."""

from __future__ import annotations

import numpy as np
import pandas as pd

SUMMARY = (
    "forget_multimodal",
    "forget_text",
    "retain_multimodal",
    "retain_text",
    "general",
    "invalid_rate",
)
KEPT = ("retain_multimodal", "retain_text", "general")  # of SUMMARY: what unlearning should leave


def summary(table: pd.DataFrame) -> dict[str, float]:
    """Accuracies 0-1 by set and modality, and the share of unusable answers among them; trained
    wordings only, NaN if none.

    Means are over questions. `table` must be of one model state; sets other than forget, retain and
    general do not count.
    """
    asked = table[
        (table["wording"] == "trained") & table["set"].isin(["forget", "retain", "general"])
    ]
    result = {
        f"{group}_{modality}": _mean(
            asked[(asked["set"] == group) & (asked["modality"] == modality)]["correct"]
        )
        for group in ("forget", "retain")
        for modality in ("multimodal", "text")
    }
    return result | {
        "general": _mean(asked[asked["set"] == "general"]["correct"]),
        "invalid_rate": _mean(asked["invalid"]),
    }


def request_accuracies(table: pd.DataFrame) -> dict[str, float]:
    """{"request_1": ...}: mean of multimodal and text accuracy on each request's people, trained
    wordings.
    """
    forget = table[
        (table["set"] == "forget") & (table["wording"] == "trained") & (table["request"] > 0)
    ]
    return {f"request_{k}": forget_mean(group) for k, group in forget.groupby("request")}


def forget_mean(table: pd.DataFrame) -> float:
    """Mean of multimodal and text accuracy over the forget rows of a table, trained wordings; NaN
    if there are none.
    """
    forget = table[(table["set"] == "forget") & (table["wording"] == "trained")]
    values = [_mean(forget[forget["modality"] == m]["correct"]) for m in ("multimodal", "text")]
    values = [v for v in values if not np.isnan(v)]
    return float(np.mean(values)) if values else float("nan")


def forget_accuracies(table: pd.DataFrame) -> dict[str, float]:
    """forget_multimodal, forget_text and each by the likeliest option (..._likelihood), of those
    modalities that were asked; trained wordings.
    """
    forget = table[(table["set"] == "forget") & (table["wording"] == "trained")]
    found = {}
    for modality, asked in forget.groupby("modality"):
        found[f"forget_{modality}"] = float(asked["correct"].mean())
        found[f"forget_{modality}_likelihood"] = float(asked["loglik_correct"].mean())
    return found


def _mean(values: pd.Series) -> float:
    return float(values.astype(float).mean()) if len(values) else float("nan")

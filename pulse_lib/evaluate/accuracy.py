"""Accuracies computed from rows (one question answered by one model state), and the formulas that
everything else computes from them: each stands here once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd

from pulse_lib.profile import MatchedBy

SUMMARY = (
    "forget_multimodal",
    "forget_text",
    "retain_multimodal",
    "retain_text",
    "general",
    "invalid_rate",
)
LIKELIHOODS = tuple(f"{name}_likelihood" for name in SUMMARY if name != "invalid_rate")
RETAINED = ("retain_multimodal", "retain_text", "general")  # of SUMMARY: what is not to be lost
CHANCE = 0.25  # of the kit's own questions of four options; `chance` for any others
MATCHED_AT = 0.35  # the forget accuracy that counts as forgotten, unless a profile sets its own


def nan_mean(values: Iterable[Any]) -> Any:
    """Mean of numbers, or elementwise of columns, leaving out those that are NaN; NaN if all are."""
    stacked = np.array([np.asarray(v, dtype=float) for v in values])
    there = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(there, stacked, 0.0).sum(axis=0) / there.sum(axis=0)


def both_modalities(
    values: Mapping[str, Any] | pd.Series | pd.DataFrame, of: Literal["forget", "retain"] = "forget"
) -> Any:
    """Mean of a set's multimodal and text accuracy, a number or (of a table) an array; of the one
    that was asked if the other is NaN.
    """
    return nan_mean([values[f"{of}_multimodal"], values[f"{of}_text"]])


def forget_level(values: Mapping[str, Any] | pd.Series | pd.DataFrame, by: MatchedBy) -> Any:
    """The forget accuracy that is compared with a level, a number or (of a table) an array: mean of
    both modalities by generation; with "both", that or the one by the likeliest option, whichever
    is higher, NaN if one is not known.

    Who still finds the right option likeliest has not forgotten, whatever it says.
    """
    said = both_modalities(values)
    if by == "generation":
        return said
    likeliest = [values.get(f"forget_{m}_likelihood") for m in ("multimodal", "text")]
    none = np.full(np.shape(said), np.nan)
    return np.maximum(said, nan_mean([none if v is None else v for v in likeliest]))


def at_level(
    path: pd.DataFrame, level: float, *, by: MatchedBy, columns: Iterable[str] = SUMMARY
) -> dict[str, float] | None:
    """What a trajectory's columns, and `step`, were when its forget accuracy first came down to
    `level`: on a straight line between the two measurements around that moment. None if it never
    did. A trajectory that is there at step 0 is taken at its next measurement.

    Steps are coarse near the level: the first measurement below it may be far below.
    """
    names, forget = ["step", *columns], np.asarray(forget_level(path, by), dtype=float)
    known, values = ~np.isnan(forget), path[names].to_numpy(float)
    order = np.argsort(values[known, 0], kind="stable")
    values, forget = values[known][order], forget[known][order]
    below = np.flatnonzero((values[:, 0] > 0) & (forget <= level))
    if not len(below):
        return None
    after = below[0]
    before = after - 1 if after and forget[after - 1] > level else after
    share = 1.0 if before == after else (forget[before] - level) / (forget[before] - forget[after])
    there = values[before] + share * (values[after] - values[before])
    return dict(zip(names, there.tolist(), strict=True))


def retained_share(before: Any, after: Any) -> Any:
    """after / before, of numbers or arrays: the share of an accuracy that is left, above 1 if it
    rose; NaN where there was none to lose.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.divide(np.asarray(after, dtype=float), np.asarray(before, dtype=float))
    return np.where(np.greater(before, 0), share, np.nan)[()]


def retained_shares(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """`retained_share` of each of RETAINED, by name; from what `summary` gives."""
    return {name: float(retained_share(before[name], after[name])) for name in RETAINED}


def first_at_or_below(values: pd.Series, level: float) -> int | None:
    """The first step or round (the index; 0 does not count) whose value is at most `level`; None if
    there is none.
    """
    low = values[(values.index > 0) & (values <= level)]
    return int(low.index.min()) if len(low) else None


def chance(n_options: pd.Series) -> float:
    """What guessing gets right: the mean of 1 / number of options."""
    return float((1 / n_options).mean())


def summary(table: pd.DataFrame, column: str = "correct") -> dict[str, float]:
    """Accuracies 0-1 by set and modality, and the share of unusable answers among them; trained
    wordings only, NaN if none.

    Means are over questions. `table` must be of one model state; sets other than forget, retain and
    general do not count. column: loglik_correct for those of the likeliest options.
    """
    correct, trained = table[column].to_numpy(float), equals(table["wording"], "trained")
    of = {name: trained & equals(table["set"], name) for name in ("forget", "retain", "general")}
    asked = {m: equals(table["modality"], m) for m in ("multimodal", "text")}
    result = {
        f"{name}_{modality}": mean(correct[of[name] & asked[modality]])
        for name in ("forget", "retain")
        for modality in asked
    }
    every = of["forget"] | of["retain"] | of["general"]
    return result | {
        "general": mean(correct[of["general"]]),
        "invalid_rate": mean(table["invalid"].to_numpy(float)[every]),
    }


def likelihoods(table: pd.DataFrame) -> dict[str, float]:
    """LIKELIHOODS: what `summary` gives, but by the likeliest option of each question."""
    by_option = summary(table, "loglik_correct")
    return {f"{name}_likelihood": v for name, v in by_option.items() if name != "invalid_rate"}


def request_accuracies(table: pd.DataFrame, column: str = "correct") -> dict[str, float]:
    """{"request_1": ...}: mean of multimodal and text accuracy on each request's people, trained
    wordings. column: loglik_correct for that of the likeliest options.
    """
    request, correct = table["request"].to_numpy(), table[column].to_numpy(float)
    forget = _where(table, set="forget", wording="trained") & (request > 0)
    asked = _by_modality(table)
    return {
        f"request_{k}": _mean_of_both(correct, forget & (request == k), asked=asked)
        for k in np.unique(request[forget])
    }


def person_accuracies(table: pd.DataFrame, set_name: str) -> pd.Series:
    """Accuracy of each person of a set in trained wordings, mean of both modalities, by person_id;
    nan-free: a modality that was not asked is left out.
    """
    asked = table[(table["set"] == set_name) & (table["wording"] == "trained")]
    each = asked.groupby(["person_id", "modality"], observed=True)["correct"].mean()
    return each.groupby("person_id", observed=True).mean()


def forget_mean(table: pd.DataFrame, column: str = "correct") -> float:
    """Mean of multimodal and text accuracy over the forget rows of a table, trained wordings; NaN
    if there are none. column: loglik_correct for that of the likeliest options.
    """
    forget = _where(table, set="forget", wording="trained")
    return _mean_of_both(table[column].to_numpy(float), forget, asked=_by_modality(table))


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


def _by_modality(table: pd.DataFrame) -> list[np.ndarray]:
    return [_where(table, modality=m) for m in ("multimodal", "text")]


def _mean_of_both(correct: np.ndarray, chosen: np.ndarray, *, asked: list[np.ndarray]) -> float:
    return float(nan_mean([mean(correct[chosen & of]) for of in asked]))


def equals(column: pd.Series, value: object) -> np.ndarray:
    """Which entries of a column have a value; of categories by their codes, without pandas' overhead
    for each comparison."""
    values = column.array
    if not isinstance(values, pd.Categorical):
        return (column == value).to_numpy(dtype=bool)
    if value not in values.categories:
        return np.zeros(len(values), dtype=bool)
    return values.codes == values.categories.get_loc(value)


def _where(table: pd.DataFrame, **values: str) -> np.ndarray:
    """Which rows have these values; arrays, as picking rows of a frame costs a hundred times more."""
    return np.logical_and.reduce([equals(table[c], value) for c, value in values.items()])


def mean(values: np.ndarray) -> float:
    """Mean of some values; NaN of none."""
    return float(values.mean()) if len(values) else float("nan")

"""What is left in the probabilities: answers drawn by chance, and whether the model has met a person.
Both are computed from rows; Min-K%++ is put into them by `members`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pulse_lib.probe.members import MIN_K

DRAWS = (1, 4, 16, 64, 256)
SCORES = {"loss": "answer_logprob", "min-k++": MIN_K}  # of membership, by the rows' column


def leak_at(rows: pd.DataFrame, draws: Sequence[int] = DRAWS) -> pd.DataFrame:
    """By set, modality and number of draws k: `right`, the expected share of questions whose right
    answer is among k answers drawn at temperature 1, and `wrong`, the same for a wrong option (mean
    over them), what a model that knows nothing would say as often.

    Nothing is drawn: an option's likelihood, end token included, is the probability that one draw
    is that option, so k draws miss it with (1 - p)^k. An answer in other words does not count.
    """
    asked = rows[[len(v) > 1 for v in rows["option_loglik"]]]
    found = []
    for (group, modality), part in asked.groupby(["set", "modality"]):
        every = [np.exp(np.asarray(v, dtype=float)) for v in part["option_loglik"]]
        right = np.array([p[a] for p, a in zip(every, part["answer"], strict=True)])
        wrong = [np.delete(p, a) for p, a in zip(every, part["answer"], strict=True)]
        for k in draws:
            found.append(
                {
                    "set": group,
                    "modality": modality,
                    "draws": k,
                    "n": len(part),
                    "right": float(np.mean(_among(right, k))),
                    "wrong": float(np.mean([_among(p, k).mean() for p in wrong])),
                }
            )
    return pd.DataFrame(found, columns=["set", "modality", "draws", "n", "right", "wrong"])


def _among(p: np.ndarray, draws: int) -> np.ndarray:
    """1 - (1 - p)^k, exact for small p."""
    with np.errstate(divide="ignore"):
        return -np.expm1(draws * np.log1p(-np.minimum(p, 1.0)))


def membership(rows: pd.DataFrame) -> pd.DataFrame:
    """By modality and score (SCORES, those that the rows have): `auc`, how often the right answer of
    a forget person scores higher than that of a hold-out person, whom no model of the study has
    met; 0.5 says that the two cannot be told apart, and less that forgetting shows. Empty without
    hold-out people.
    """
    found = []
    for modality, part in rows.groupby("modality"):
        for score in (name for name, column in SCORES.items() if column in part):
            scored = part[["set", SCORES[score]]].dropna()
            members, strangers = (
                scored.loc[scored["set"] == group, SCORES[score]].to_numpy()
                for group in ("forget", "holdout")
            )
            if len(members) and len(strangers):
                found.append(
                    {
                        "modality": modality,
                        "score": score,
                        "n": len(members),
                        "n_holdout": len(strangers),
                        "auc": auc(members, strangers),
                    }
                )
    return pd.DataFrame(found, columns=["modality", "score", "n", "n_holdout", "auc"])


def auc(members: np.ndarray, strangers: np.ndarray) -> float:
    """How often a value of `members` is larger than one of `strangers`; ties count half."""
    both = np.concatenate([members, strangers])
    ranks = pd.Series(both).rank().to_numpy()
    n, m = len(members), len(strangers)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))

"""What is left in the probabilities: answers drawn by chance, and whether the model has met a person.
Both are computed from rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

DRAWS = (1, 4, 16, 64, 256)


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
    """By modality: `auc`, how often the right answer of a forget person is likelier than that of a
    hold-out person, whom no model of the study has met; 0.5 says that the two cannot be told apart,
    and less that forgetting shows. Empty without hold-out people.
    """
    found = []
    for modality, part in rows.groupby("modality"):
        members = part[part["set"] == "forget"]["answer_logprob"].dropna().to_numpy()
        strangers = part[part["set"] == "holdout"]["answer_logprob"].dropna().to_numpy()
        if len(members) and len(strangers):
            found.append(
                {
                    "modality": modality,
                    "n": len(members),
                    "n_holdout": len(strangers),
                    "auc": auc(members, strangers),
                }
            )
    return pd.DataFrame(found, columns=["modality", "n", "n_holdout", "auc"])


def auc(members: np.ndarray, strangers: np.ndarray) -> float:
    """How often a value of `members` is larger than one of `strangers`; ties count half."""
    both = np.concatenate([members, strangers])
    ranks = pd.Series(both).rank().to_numpy()
    n, m = len(members), len(strangers)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def privleak(auc_of_run: float, auc_of_oracle: float) -> float:
    """(AUC - AUC of the oracle) / AUC of the oracle: 0 if the two look alike, above it if the
    people still show, below it if their absence does. [MUSE, Shi et al. 2024, arXiv 2407.06460]
    """
    return (auc_of_run - auc_of_oracle) / auc_of_oracle

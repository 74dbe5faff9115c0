"""How far one model's answers are from those of an oracle, a model that never met the forget people.

Both were asked the same questions. From rows alone; a question without likelihoods (one option) is
left out.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import kendalltau, ks_2samp

# The columns of rows that are read
NEEDED = ("question_id", "set", "modality", "wording", "answer", "extracted", "option_loglik")
DISTANCES = (
    *("forget_ks", "forget_js", "truth_ratio", "forget_quality"),
    *("agree_said", "agree_likeliest", "retain_js", "general_js", "distance"),
)


def right_shares(rows: pd.DataFrame) -> np.ndarray:
    """The right option's probability among the options of its question, one a row (0-1); NaN where
    no likelihoods were taken.
    """
    logliks, found = rows["option_loglik"].to_numpy(), np.full(len(rows), np.nan)
    asked = np.array([values is not None and len(values) > 0 for values in logliks], dtype=bool)
    if asked.any():
        shares = softmax(_table(logliks[asked]), axis=1)
        found[asked] = _picked(shares, rows["answer"].to_numpy()[asked])
    return found


def ks(values: Sequence[float] | np.ndarray, others: Sequence[float] | np.ndarray) -> float:
    """The Kolmogorov-Smirnov statistic of two samples: the largest gap between their distribution
    functions, 0 (alike) to 1 (apart).
    """
    return float(ks_2samp(values, others).statistic)


def js(logliks: Collection[Sequence[float]], others: Collection[Sequence[float]]) -> float:
    """Mean over questions of the Jensen-Shannon divergence of two models' probabilities over its
    options, in bits: 0 (the same) to 1 (each sure of another option).
    """
    if not len(logliks):
        return float("nan")
    p, q = (softmax(_table(values), axis=1) for values in (logliks, others))
    return float(_divergences(p, q).mean())


def truth_ratios(rows: pd.DataFrame) -> np.ndarray:
    """Of each row, the wrong options' probability (their geometric mean) over the right one's: 1 if
    the truth is as likely as any other answer, near 0 if it is known. [TOFU, Maini et al. 2024,
    arXiv 2401.06121]
    """
    return _truth_ratios(_table(rows["option_loglik"]), rows["answer"].to_numpy())


def forget_quality(ratios: np.ndarray, others: np.ndarray) -> float:
    """log10 of the p-value that two samples of truth ratios come from one distribution: 0 is the
    best. [TOFU] Answers about one person hang together, so that it orders models and is no level of
    significance.
    """
    with np.errstate(divide="ignore"):
        return float(np.log10(ks_2samp(ratios, others).pvalue))


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A model's answers to the questions with several options in trained wordings, one entry a
    question: quicker to pick from than a frame.
    """

    question_id: pd.Index
    set: np.ndarray
    modality: np.ndarray
    unit: np.ndarray  # whom or what it is about, where the rows say that; else 0
    answer: np.ndarray
    extracted: np.ndarray  # "" for none
    logliks: np.ndarray  # (questions, most options), -inf where there are fewer
    shares: np.ndarray  # each option's probability among the options of its question

    @functools.cached_property
    def right(self) -> np.ndarray:
        """The right option's."""
        return _picked(self.shares, self.answer)

    def at(self, which: np.ndarray) -> Answers:
        """Those to the questions at these places."""
        return Answers(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def answers(rows: pd.DataFrame) -> Answers:
    """The answers in some rows (columns NEEDED; `unit`, a number, may be there)."""
    several = np.array([len(values) > 1 for values in rows["option_loglik"]], dtype=bool)
    rows = rows[several & (rows["wording"] == "trained").to_numpy()]
    logliks = _table(rows["option_loglik"].to_numpy())
    return Answers(
        question_id=pd.Index(rows["question_id"]),
        **{name: rows[name].to_numpy() for name in ("set", "modality", "answer")},
        unit=rows["unit"].to_numpy() if "unit" in rows else np.zeros(len(rows), dtype=int),
        extracted=rows["extracted"].fillna("").to_numpy(),
        logliks=logliks,
        shares=softmax(logliks, axis=1),
    )


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A model's and the oracle's answers to the questions that both were asked, in one order."""

    model: Answers
    oracle: Answers

    @functools.cached_property
    def js(self) -> np.ndarray:
        """The Jensen-Shannon divergence of the two on each question, bits."""
        p, q = self.model.shares, self.oracle.shares
        # A question that only one was asked may have had more options
        width = min(p.shape[1], q.shape[1])
        return _divergences(p[:, :width], q[:, :width])


def paired(model: Answers, oracle: Answers) -> Pair:
    """The two on the questions that both were asked."""
    order = oracle.question_id.get_indexer(model.question_id)
    if (order < 0).any():
        model = model.at(order >= 0)
    return Pair(model=model, oracle=oracle.at(order[order >= 0]))


def distances(pair: Pair) -> dict[str, float]:
    """DISTANCES of one model state from the oracle; NaN for a set that was not asked.

    forget_ks, forget_quality: `ks` of `right_shares`, and `forget_quality`, on forget people.
    forget_js, retain_js, general_js: `js` of each set, the mean of both modalities. truth_ratio: the
    median of `truth_ratios` on forget people (not a distance: compare with the oracle's own).
    agree_said, agree_likeliest: the share of forget questions with the same option said (none is the
    same as none) and the same likeliest one. distance: the mean of forget_ks, retain_js and
    general_js. About forget people two strangers guess differently question by question, so that only
    the distribution says something; about the others the oracle knows the answers, and a model that
    broke is far from them.
    """
    a, b = pair.model, pair.oracle
    found = dict.fromkeys(DISTANCES, float("nan"))
    for group in ("forget", "retain", "general"):
        here = a.set == group
        by_modality = [
            pair.js[here & (a.modality == m)].mean() for m in sorted(set(a.modality[here]))
        ]
        found[f"{group}_js"] = float(np.mean(by_modality)) if by_modality else float("nan")
    forget = a.set == "forget"
    if not forget.any():
        return found
    ratios, aims = (_truth_ratios(x.logliks[forget], x.answer[forget]) for x in (a, b))
    forget_ks = ks(a.right[forget], b.right[forget])
    likeliest, aim = (x.logliks[forget].argmax(axis=1) for x in (a, b))
    return found | {
        "distance": float(np.mean([forget_ks, found["retain_js"], found["general_js"]])),
        "forget_ks": forget_ks,
        "truth_ratio": float(np.median(ratios)),
        "forget_quality": forget_quality(ratios, aims),
        "agree_said": float((a.extracted[forget] == b.extracted[forget]).mean()),
        "agree_likeliest": float((likeliest == aim).mean()),
    }


def agreement_of_ranks(values: Sequence[float], others: Sequence[float]) -> float:
    """Kendall's tau-b of two orders of the same things: 1 the same order, -1 the opposite, 0 nothing
    in common; NaN with fewer than three, or if one of them has no order. Things without one of the
    values do not count.
    """
    a, b = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    there = ~(np.isnan(a) | np.isnan(b))
    if there.sum() < 3:
        return float("nan")
    return float(kendalltau(a[there], b[there]).statistic)


def privleak(auc_of_run: Any, auc_of_oracle: Any) -> Any:
    """(AUC - AUC of the oracle) / AUC of the oracle: 0 if the two look alike, above it if the
    people still show, below it if their absence does; of numbers or columns. [MUSE, Shi et al. 2024, arXiv 2407.06460]
    """
    return (auc_of_run - auc_of_oracle) / auc_of_oracle


def _table(logliks: Collection[Sequence[float]]) -> np.ndarray:
    """Log-likelihoods (questions, most options), -inf where a question has fewer options."""
    counts = np.fromiter(map(len, logliks), dtype=int, count=len(logliks))
    table = np.full((len(counts), counts.max(initial=0)), -np.inf)
    if len(counts):
        table[np.arange(table.shape[1]) < counts[:, None]] = np.concatenate(list(logliks))
    return table


def _picked(table: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Of each line the entry in its column."""
    return table[np.arange(len(table)), columns]


def _divergences(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """The Jensen-Shannon divergence of each line of two tables of probabilities, bits."""
    middle = (p + q) / 2
    return (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / 2 / np.log(2)


def _truth_ratios(logliks: np.ndarray, answer: np.ndarray) -> np.ndarray:
    logs, there = log_softmax(logliks, axis=1), np.isfinite(logliks)
    right = _picked(logs, answer)
    wrong = np.where(there, logs, 0.0).sum(axis=1) - right
    return np.exp(wrong / (there.sum(axis=1) - 1) - right)

"""Scores of yes-or-no questions (POPE, MME) of one model state, from the kit's rows.

An answer that cannot be read is wrong, and counted apart: `invalid_share`. `yes_share` is the share of
yes among the answers that can be read; of the right answers it is one half in both benchmarks.
[Li 2023, POPE; Fu 2023, MME]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pulse_lib.data.mme.source import CELEBRITY, COGNITION, PERCEPTION
from pulse_lib.data.records import LETTERS
from pulse_lib.data.yes_no import YES

SHARES = ("accuracy", "precision", "recall", "f1", "yes_share", "invalid_share")
MME = ("perception", "cognition", "perception_without_celebrity")


def score(rows: pd.DataFrame) -> dict[str, float]:
    """n_questions and SHARES (0-1) of the rows; nan where nothing is left to divide by.

    Precision, recall and F1 are those of yes. DIFFERS: lmms-eval leaves a yes that was answered by
    something unreadable out of the recall, and its yes share is that of the right answers.
    """
    truth = np.array([o[a] == YES for o, a in zip(rows["options"], rows["answer"], strict=True)])
    said = [_words(o, e) for o, e in zip(rows["options"], rows["extracted"], strict=True)]
    yes = np.array([s == YES for s in said])
    readable = np.array([s != "" for s in said])
    hits = int((yes & truth).sum())
    precision, recall = _share(hits, int(yes.sum())), _share(hits, int(truth.sum()))
    return {
        "n_questions": len(rows),
        "accuracy": _share(int((readable & (yes == truth)).sum()), len(rows)),
        "precision": precision,
        "recall": recall,
        "f1": _share(2 * hits, int(yes.sum()) + int(truth.sum())),
        "yes_share": _share(int(yes.sum()), int(readable.sum())),
        "invalid_share": _share(int((~readable).sum()), len(rows)),
    }


def mme(rows: pd.DataFrame) -> dict[str, float]:
    """MME's sums over categories, each 100 times the share of right answers and 100 times the share
    of pictures with both right: perception (at most 2000), cognition (800), and perception without
    category celebrity (1800), which forgetting people may rightly lower. nan without such
    categories. Raises ValueError naming a picture that has not two rows.
    """
    by_category = {}
    for category, part in rows.groupby("category", observed=True):
        pairs = part.groupby("group", observed=True)["correct"]
        odd = pairs.size()
        if (odd != 2).any():
            raise ValueError(f"{odd[odd != 2].index[0]}: {odd[odd != 2].iloc[0]} rows, expected 2")
        by_category[str(category)] = 100 * float(part["correct"].mean() + pairs.all().mean())
    sums = {
        "perception": PERCEPTION,
        "cognition": COGNITION,
        "perception_without_celebrity": [c for c in PERCEPTION if c != CELEBRITY],
    }
    there = {name: [by_category[c] for c in of if c in by_category] for name, of in sums.items()}
    return {name: sum(found) if found else float("nan") for name, found in there.items()}


def _words(options: Sequence[str], letter: object) -> str:
    """The words of the option that was read; "" if none was."""
    return dict(zip(LETTERS, options, strict=False)).get(str(letter), "")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")

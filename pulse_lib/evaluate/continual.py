"""The scalars of continual learning, for requests in a row: what stays forgotten, what comes back,
what goes before its turn, and what one request costs the rest.
"""

from __future__ import annotations

import pandas as pd

from pulse_lib.evaluate.accuracy import retained_share

SCALARS = (
    *("at_turn", "at_end", "returned", "spilled"),
    *("retain_per_request", "general_per_request"),
)


def scalars(people: pd.DataFrame, kept: pd.DataFrame) -> dict[str, float]:
    """SCALARS of one sequence. people: accuracies (0-1) on the people of each request, a line a
    round (0 = before), a column a request, in the order carried out; kept: columns retain and
    general, a line a round.

    at_turn: mean accuracy on a request's people right after it, at_end: after the last one; low is
    forgotten. returned: how much higher the latter is, over all requests but the last; backward
    transfer [Lopez-Paz & Ranzato 2017, Eq. 3], above 0 if people come back. spilled: how much of a
    request's people was gone before it was their turn, over all but the first. ..._per_request: the
    share that one request leaves of an accuracy, their geometric mean; NaN where there was none.
    Raises ValueError if there is not a round for each request.
    """
    n = len(people.columns)
    if list(people.index) != list(range(n + 1)) or list(kept.index) != list(people.index):
        raise ValueError(f"{n} requests need rounds 0 to {n}, not {list(people.index)}")
    values = people.to_numpy(dtype=float)  # (rounds, requests)
    turn, end = values[range(1, n + 1), range(n)], values[n]
    waited = values[0, 1:] - values[range(1, n), range(1, n)]
    found = {
        "at_turn": turn.mean(),
        "at_end": end.mean(),
        "returned": (end - turn)[:-1].mean() if n > 1 else float("nan"),
        "spilled": waited.mean() if n > 1 else float("nan"),
    }
    for name in ("retain", "general"):
        left = retained_share(kept[name].iloc[0], kept[name].iloc[-1])
        found[f"{name}_per_request"] = left ** (1 / n)
    return {name: float(value) for name, value in found.items()}

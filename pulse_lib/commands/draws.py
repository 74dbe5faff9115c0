"""What one trial of a search sets.

The learning rate, the retain weight and the method's coefficients are multiplied by factors from
FACTORS, spread evenly over the range (on a log scale) however few trials there are. A lower rate has
more epochs: PACE.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from scipy.stats import qmc

from pulse_lib.methods import Method
from pulse_lib.profile import UnlearnSettings

SEED = 1000  # of the dataset, the target and the adapters that are searched on
# The lowest rate is a tenth of the lowest that earlier searches of 0.1 to 3 found: slow runs keep more
FACTORS = {"learning_rate": (0.03, 3.0), "retain_weight": (0.3, 30.0)}
COEFFICIENT = (1 / 3, 3.0)  # every number of a method that FACTORS does not name
# A run at a factor f of the profile's rate, below 1, takes f ** -PACE times its epochs: so many more
# steps GA and NPO need (measured: 2.7 at a third, 4.9 at a ninth)
PACE = 0.75
END_FACTORS = {"learning_rate": (0.1, 1.0)}  # goal end_point: faster runs leap over it in an epoch

Goal = Literal["matched", "end_point"]
GOALS: tuple[Goal, ...] = get_args(Goal)


def draw(
    method: Method,
    learning_rate: float,
    *,
    epochs: int,
    trial: int,
    seed: int = SEED,
    strategy: str = "",
    goal: Goal = "matched",
    rates: tuple[float, float] | None = None,
) -> dict[str, float]:
    """What a trial sets: learning_rate, epochs and the method's hyperparameters, rounded to 3
    digits. Trial 0 changes nothing; a number that is 0 stays 0. `rates`: the lowest and the highest
    learning rate, in place of its factors.

    Trials are points of a scrambled Sobol sequence: of the first 4, 8, 16 ... each has a stratum of
    the rate, and of every other number, to itself.
    """
    start = {"learning_rate": learning_rate} | method.hyperparameters
    if trial == 0:
        return {**start, "epochs": epochs}
    generator = np.random.default_rng([seed, *f"{method.id}{strategy}".encode()])
    points = qmc.Sobol(len(start), rng=generator)
    place = points.random_base2(math.ceil(math.log2(trial)))[trial - 1]
    factors, drawn = FACTORS | (END_FACTORS if goal == "end_point" else {}), {}
    if rates:
        factors["learning_rate"] = (rates[0] / learning_rate, rates[1] / learning_rate)
    for (name, value), share in zip(start.items(), place, strict=True):
        low, high = factors.get(name, COEFFICIENT)
        factor = low ** (1 - share) * high**share
        drawn[name] = float(f"{value * factor:.3g}")
    slower = min(1.0, drawn["learning_rate"] / learning_rate)
    return {**drawn, "epochs": math.ceil(epochs * slower**-PACE)}


def rates_of(unlearn: UnlearnSettings) -> tuple[float, float] | None:
    """The learning rates between which a profile has its search draw; None for FACTORS."""
    return (unlearn.search_from, unlearn.search_to) if unlearn.search_to else None

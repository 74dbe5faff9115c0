"""What a search found for methods and strategies, as a profile's `tuned` holds it: scenario ->
method -> hyperparameters, and SEQUENTIAL -> method/strategy -> hyperparameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from pulse_lib.errors import PulseError
from pulse_lib.methods import PLACEBOS, get
from pulse_lib.strategies import get_strategy

Scenario = Literal["finetuned", "pretrained"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
SEQUENTIAL = "sequential"  # in `tuned`, beside the scenarios
# The settings of section `unlearn` that `tuned` overrides; epochs are those of the run's scenario
RATE = "learning_rate"
EPOCHS = "epochs"

TunedValues = Mapping[str, Mapping[str, Mapping[str, float]]]


def tuned_for(
    tuned: TunedValues, scenario: str, *, method: str, strategy: str = ""
) -> dict[str, float]:
    """What a profile's `tuned` holds for a run; for a sequential one of a pair that was not
    searched, what it holds for single-shot.
    """
    group, name = place_in_tuned(tuned, scenario, method=method, strategy=strategy)
    return dict(tuned.get(group, {}).get(name, {}))


def place_in_tuned(
    tuned: TunedValues, scenario: str, *, method: str, strategy: str = ""
) -> tuple[str, str]:
    """The two keys under which `tuned_for` looks; a placebo has its method's values."""
    method = PLACEBOS.get(method, method)
    pair = f"{method}/{strategy}"
    searched = strategy and pair in tuned.get(SEQUENTIAL, {})
    return (SEQUENTIAL, pair) if searched else (scenario, method)


def check_tuned(tuned: TunedValues) -> None:
    """Raises ValueError naming the key if a scenario, method, strategy or hyperparameter is not
    known, or a learning rate is 0.
    """
    known = (*SCENARIOS, SEQUENTIAL)
    for scenario, found in tuned.items():
        if scenario not in known:
            raise ValueError(f"tuned.{scenario} is not one of {', '.join(known)}")
        for name, values in found.items():
            where = f"tuned.{scenario}.{name}"
            if values.get(RATE) == 0:
                raise ValueError(f"{where}.{RATE} = 0.0: expected a number above 0")
            epochs = values.get(EPOCHS, 1)
            if epochs < 1 or epochs != int(epochs):
                raise ValueError(f"{where}.{EPOCHS} = {epochs}: expected a whole number, 1 or more")
            try:
                _check_names(name, values, pair=scenario == SEQUENTIAL)
            except PulseError as error:
                raise ValueError(f"{where}: {error}") from None


def _check_names(name: str, values: Mapping[str, float], *, pair: bool) -> None:
    method, _, strategy = name.partition("/") if pair else (name, "", "")
    own = get_strategy(strategy).coefficients if pair else {}
    get(method).tuned({k: v for k, v in values.items() if k not in (RATE, EPOCHS, *own)})

"""The table of strategies: how requests follow one another, whatever the method. No torch here.

A new strategy is a row: docs/add_a_strategy.md. Files and columns call it the policy of a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

from pulse_lib.errors import PulseError
from pulse_lib.methods import Method, check_names

# What holds a round's adapter back, beside the loss: train/penalties.py
PenaltyName = Literal["orthogonal", "anchor"]


@dataclass(frozen=True)
class Strategy:
    """How a round begins and what it is held by."""

    id: str
    what: str  # in one line
    _: KW_ONLY
    source: str
    continued: bool = False  # one adapter goes on; else a new one on the frozen earlier ones
    replay: bool = False  # people of earlier requests join each batch
    penalty: PenaltyName | None = None
    gated: bool = False  # the new adapter lies on the target, not on earlier ones; a gate picks
    # replay: replay_share; a penalty: <penalty>_strength. No method has a number of these names
    coefficients: Mapping[str, float] = field(default_factory=dict)

    def tuned(self, values: Mapping[str, float]) -> Strategy:
        """This strategy with some of its coefficients set anew. Raises PulseError for any other
        name.
        """
        check_names(f"strategy {self.id}", values, known=self.coefficients)
        return replace(self, coefficients=dict(self.coefficients) | dict(values))


_ROWS = (
    Strategy(
        "adapter_per_request", "a new adapter on the frozen earlier ones", source="PULSE's default"
    ),
    Strategy("one_adapter", "one adapter continued", source="control", continued=True),
    Strategy(
        "replay",
        "a new adapter; some people of earlier requests join each batch",
        source="rehearsal; control",
        replay=True,
        coefficients={"replay_share": 0.25},  # earlier people, on top of each batch
    ),
    Strategy(
        "orthogonal",
        "a new adapter whose inputs are orthogonal to the earlier ones'",
        source="O3, Gao et al. 2025, arXiv 2407.10223",
        penalty="orthogonal",
        coefficients={"orthogonal_strength": 0.1},
    ),
    Strategy(
        "anchor",
        "one adapter continued, pulled to where the round found it",
        source="L2, or EWC with anchor_fisher, Kirkpatrick et al. 2017, arXiv 1612.00796",
        continued=True,
        penalty="anchor",
        # anchor_fisher: 1 to weight each entry by the Fisher information of retain_train, else 0
        coefficients={"anchor_strength": 0.1, "anchor_fisher": 0.0},
    ),
    Strategy(
        "experts",
        "a new adapter on the target alone; a gate picks the one that answers a question, if any",
        source="LUMoE, Li et al. 2026, arXiv 2606.12809, with a gate of names and pictures",
        gated=True,
    ),
)
STRATEGIES: dict[str, Strategy] = {strategy.id: strategy for strategy in _ROWS}


def get_strategy(strategy_id: str) -> Strategy:
    """The strategy of that id. Raises PulseError listing the ids."""
    if strategy_id not in STRATEGIES:
        raise PulseError(f"strategy = {strategy_id!r} is not one of {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy_id]


def check_fits(method: Method, strategy: Strategy) -> None:
    """Raises PulseError for a method that cannot be carried out request by request, or not by this
    strategy.
    """
    if method.one_shot:
        fix = "use 03"
    elif method.procedure == "negate" and strategy.continued:
        fix = "use a strategy with an adapter per request"
    else:
        return
    raise PulseError(f"method {method.id} cannot be carried out by strategy {strategy.id}: {fix}")


def tuned(
    method: Method, strategy: Strategy | None, *, values: Mapping[str, float]
) -> tuple[Method, Strategy | None]:
    """Both with the values set that belong to them. Raises PulseError for one that belongs to
    neither.
    """
    if strategy is None:
        return method.tuned(values), None
    own = {k: v for k, v in values.items() if k in strategy.coefficients}
    rest = {k: v for k, v in values.items() if k not in own}
    return method.tuned(rest), strategy.tuned(own)

"""The table of policies: how requests follow one another, whatever the method. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from pulse_lib.errors import PulseError
from pulse_lib.methods import Method


@dataclass(frozen=True)
class Strategy:
    """How a round begins and what it is held by; strengths are the profile's."""

    id: str
    what: str  # in one line
    source: str
    continued: bool = False  # one adapter goes on; else a new one on the frozen earlier ones
    replay: bool = False  # people of earlier requests join each batch
    penalty: str = ""  # "orthogonal" | "anchor"
    gated: bool = False  # the new adapter lies on the target, not on earlier ones; a gate picks


_ROWS = (
    Strategy("adapter_per_request", "a new adapter on the frozen earlier ones", "PULSE's default"),
    Strategy("one_adapter", "one adapter continued", "control", continued=True),
    Strategy(
        "replay",
        "a new adapter; some people of earlier requests join each batch",
        "rehearsal; control",
        replay=True,
    ),
    Strategy(
        "orthogonal",
        "a new adapter whose inputs are orthogonal to the earlier ones'",
        "O3, Gao et al. 2025, arXiv 2407.10223",
        penalty="orthogonal",
    ),
    Strategy(
        "anchor",
        "one adapter continued, pulled to where the round found it",
        "L2, or EWC with anchor_fisher, Kirkpatrick et al. 2017, arXiv 1612.00796",
        continued=True,
        penalty="anchor",
    ),
    Strategy(
        "experts",
        "a new adapter on the target alone; a gate picks the one that answers a question, if any",
        "LUMoE, Li et al. 2026, arXiv 2606.12809, with a gate of names and pictures",
        gated=True,
    ),
)
STRATEGIES: dict[str, Strategy] = {policy.id: policy for policy in _ROWS}


def get_strategy(policy_id: str) -> Strategy:
    """The policy of that id. Raises PulseError listing the ids."""
    if policy_id not in STRATEGIES:
        raise PulseError(f"policy = {policy_id!r} is not one of {', '.join(STRATEGIES)}")
    return STRATEGIES[policy_id]


def check_fits(method: Method, policy: Strategy) -> None:
    """Raises PulseError for a method that cannot be carried out request by request, or not by this
    policy.
    """
    if method.procedure == "retrain" or (method.procedure == "negate" and policy.continued):
        fix = (
            "use a policy with an adapter per request" if method.procedure == "negate" else "use 03"
        )
        raise PulseError(f"method {method.id} cannot be carried out by policy {policy.id}: {fix}")

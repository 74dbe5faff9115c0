"""What a training is made of while it runs, so that one that was cut off goes on with the same bytes.

Nothing here draws from a global generator: batches, replay and retain come from generators of their
own, one draw a step, so the number of steps done is their state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Protocol

import torch

from pulse_lib.model.load import LoadedModel

State = dict[str, Any]  # tensors, numbers, texts, and lists and dicts of these


class Checkpoints(Protocol):
    """What keeps an unfinished training: pulse_lib/commands/checkpoints.py does so in a run's
    folder.
    """

    def load(self) -> State | None:
        """The newest state that was kept of this very training; None if there is none."""
        ...

    def due(self) -> bool:
        """Whether it is time to keep the state again."""
        ...

    def save(self, state: State) -> None:
        """Keep a state in place of the one before; `state["step"]` steps are done."""
        ...


@dataclass
class Position:
    """How far a training is: what its loop changes besides weights, optimizer and scaler."""

    step: int = 0  # steps done
    seconds: float = 0.0  # of the steps alone
    _: KW_ONLY
    skipped: int = 0  # float16: overflowing steps in a row
    stopped: str = ""  # the rule that ended it
    log: list[dict] = field(default_factory=list)
    masks: list[torch.Tensor] = field(default_factory=list)  # empty before one is taken


def load_for(model: LoadedModel, checkpoints: Checkpoints | None) -> State | None:
    """The state that was kept, None if there is none or it was made in another number format: a
    card without bfloat16 would not go on with the same numbers.
    """
    kept = checkpoints.load() if checkpoints else None
    return kept if kept and kept["made_on"] == _made_on(model) else None


def state_of(
    at: Position,
    model: LoadedModel,
    *,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> State:
    """Everything that `restore` needs."""
    return {
        "made_on": _made_on(model),
        "weights": {key: p.detach() for key, p in parameters.items()},
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        **vars(at),
    }


def restore(
    state: State,
    *,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Position:
    """How far a training was, its weights, optimizer and scaler as they were then."""
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(state["weights"][key])
    optimizer.load_state_dict(state["optimizer"])
    if getattr(optimizer, "is_paged", False):
        _page(optimizer)
    if state["scaler"]:  # empty: there was nothing to scale
        scaler.load_state_dict(state["scaler"])
    at = Position(**{name: state[name] for name in Position.__dataclass_fields__})
    at.masks = [m.to(p.device) for m, p in zip(at.masks, parameters.values(), strict=False)]
    return at


def _made_on(model: LoadedModel) -> list[str]:
    return [model.device.type, str(model.dtype)]


def _page(optimizer: Any) -> None:
    """Put moments back into memory that can be paged out: bitsandbytes loads them onto the card."""
    for p, moments in optimizer.state.items():
        for key in {"state1", "state2"} & moments.keys():
            buffer = optimizer.get_state_buffer(p, dtype=moments[key].dtype)
            moments[key] = buffer.copy_(moments[key])

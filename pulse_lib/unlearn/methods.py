"""The table of methods. No torch here, so that the command line reads it fast.

A loss is named by its function in losses.py, and that function's arguments say what it is given:
logits, labels, n_tokens, logprob (the sequences' log-probabilities), reference_logits,
reference_logprob, and the method's own coefficients. A new method is a row here, and a function
there if its loss is new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pulse_lib.errors import PulseError


@dataclass(frozen=True)
class Method:
    """One method. Its loss is forget_loss + retain_weight * retain_loss; learning rate, rank and
    epochs are the profile's.
    """

    id: str  # in files and commands
    label: str  # in figures
    forget_loss: str  # function of losses.py, on the batch of forget conversations
    retain_loss: str  # the same on a batch of retain_train conversations; "" for none
    loss: str  # in one line, for the table
    source: str
    coefficients: Mapping[str, float] = field(default_factory=dict)
    retain_weight: float = 1.0
    needs: tuple[str, ...] = ()  # "retain_train", "reference" (values of the frozen model)

    def describe(self) -> dict[str, str]:
        """The row as text, for a table."""
        coefficients = dict(self.coefficients)
        if self.retain_loss:
            coefficients["retain_weight"] = self.retain_weight
        return {
            "id": self.id,
            "loss": self.loss,
            "forget loss": f"losses.{self.forget_loss}",
            "retain loss": f"losses.{self.retain_loss}" if self.retain_loss else "none",
            "needs": ", ".join(self.needs) or "nothing",
            "coefficients": ", ".join(f"{k} = {v:g}" for k, v in coefficients.items()) or "none",
            "source": self.source,
        }


_ROWS = (
    Method(
        id="ga",
        label="GA",
        forget_loss="gradient_ascent",
        retain_loss="",
        loss="mean log p(answer tokens) on forget",
        source="Jang et al. 2023, arXiv 2210.01504",
    ),
    Method(
        id="ga_klr",
        label="GA+KLR",
        forget_loss="gradient_ascent",
        retain_loss="kl_to_reference",
        loss="GA on forget + mean KL(reference || model) over answer tokens on retain_train",
        source="Yao et al. 2023, arXiv 2310.10683; Maini et al. 2024, arXiv 2401.06121",
        needs=("retain_train", "reference"),
    ),
    Method(
        id="npo",
        label="NPO",
        forget_loss="npo",
        retain_loss="",
        loss="-(2/beta) log sigmoid(-beta (S - S_ref)), S = sum of log p(answer tokens) on forget",
        source="Zhang et al. 2024, arXiv 2404.05868, Eq. 3",
        coefficients={"beta": 0.1},
        needs=("reference",),
    ),
)
METHODS: dict[str, Method] = {method.id: method for method in _ROWS}

# Fine-tuning goes through the same loop: here the batch holds people who are to be learned.
FINETUNE = Method(
    id="finetune",
    label="fine-tuned",
    forget_loss="nll",
    retain_loss="",
    loss="mean -log p(answer tokens)",
    source="",
)


def get(method_id: str) -> Method:
    """The method of that id. Raises PulseError listing the ids."""
    if method_id not in METHODS:
        raise PulseError(f"method {method_id!r} is not known; there are: {', '.join(METHODS)}")
    return METHODS[method_id]

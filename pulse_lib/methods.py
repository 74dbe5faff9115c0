"""The table of methods. No torch here, so that the command line reads it fast.

A loss is named by its function in losses.py, and that function's arguments say what it is given:
logits, labels, n_tokens, logprob and mean_logprob (of the sequences), reference_logits,
reference_logprob, chosen and rejected (log-probabilities of refusal and answer), hidden, control and
mask (hidden states), and the method's own coefficients. A new method is a row here, and a function
there if its loss is new: docs/add_a_method.md.

Left out: MANU (arXiv 2502.15910), which sets neurons of the language model to zero. Its change is of
as high a rank as there are neurons cut, and computed from unquantised base weights, so it is no
adapter of the profile's rank.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

from pulse_lib.errors import PulseError

Need = Literal[
    "retain_train",  # conversations of people that a loss may train on
    "reference",  # the frozen model
    "refusals",  # answers that decline
    "hidden states",
    "penalty",  # on the adapter's weights
    "mask",  # on the gradient
    "second adapter",
    "new target",
    "retain model",  # a reference that was fine-tuned on everybody but the forget people
]
ForgetOn = Literal["answers", "refusals"]  # what the forget loss sees as the answer
# One pass of training; training, then the adapter negated; or a new target from the base, without
# the forget people
Procedure = Literal["train", "negate", "retrain"]
Forgets = Literal["forget", "holdout"]  # whom: the forget people, or (a placebo) nobody it has met


@dataclass(frozen=True)
class Method:
    """One method. Its loss is forget_weight * forget_loss + retain_weight * retain_loss; learning
    rate, rank, depth and epochs are the profile's.
    """

    id: str  # in files and commands
    label: str  # in figures
    _: KW_ONLY
    forget_loss: str  # function of losses.py, on the batch of forget conversations
    retain_loss: str  # the same on a batch of retain_train conversations; "" for none
    loss: str  # in one line, for the table
    source: str
    coefficients: Mapping[str, float] = field(default_factory=dict)
    forget_weight: float = 1.0
    retain_weight: float = 1.0
    needs: tuple[Need, ...] = ()
    forget_on: ForgetOn = "answers"
    procedure: Procedure = "train"
    forgets: Forgets = "forget"

    @property
    def one_shot(self) -> bool:
        """Whether it forgets everybody at once or not at all: what it trains or compares with is a
        model of the other people.
        """
        return self.procedure == "retrain" or "retain model" in self.needs

    @property
    def hyperparameters(self) -> dict[str, float]:
        """What a search may set, by name: the coefficients, and retain_weight if there is a retain
        loss.
        """
        weight = {"retain_weight": self.retain_weight} if self.retain_loss else {}
        return dict(self.coefficients) | weight

    def tuned(self, values: Mapping[str, float]) -> Method:
        """This method with some of its hyperparameters set anew. Raises PulseError for any other
        name.
        """
        check_names(f"method {self.id}", values, known=self.hyperparameters)
        own = {k: values.get(k, v) for k, v in self.coefficients.items()}
        weight = values.get("retain_weight", self.retain_weight)
        return replace(self, coefficients=own, retain_weight=weight)

    def describe(self) -> dict[str, str]:
        """The row as text, for a table."""
        coefficients = self.hyperparameters
        if self.forget_weight != 1.0:
            coefficients["forget_weight"] = self.forget_weight
        return {
            "id": self.id,
            "needs": ", ".join(self.needs) or "nothing",
            "loss": self.loss,
            "forget loss": f"losses.{self.forget_loss}",
            "retain loss": f"losses.{self.retain_loss}" if self.retain_loss else "none",
            "source": self.source,
            "coefficients": ", ".join(f"{k} = {v:g}" for k, v in coefficients.items()) or "none",
        }


_GA = "Jang et al. 2023, arXiv 2210.01504"
_KLR = "Yao et al. 2023, arXiv 2310.10683"
_NPO = "Zhang et al. 2024, arXiv 2404.05868, Eq. 3"
_TOFU = "Maini et al. 2024, arXiv 2401.06121"
_OU = "Open-Unlearning's configuration"
_MUSE = "MUSE's code, arXiv 2407.06460; for comparison only"
_MLLMU = "MLLMU-Bench's code, arXiv 2410.22108; for comparison only"
_NLL = "NLL on retain_train"
_NPO_LOSS = "-(2/beta) log sigmoid(-beta (S - S_ref))"
_KL = "mean KL(reference || model) over answer tokens on retain_train"

# The paper's three first.
_ROWS = (
    Method(
        id="ga",
        label="GA",
        forget_loss="gradient_ascent",
        retain_loss="",
        loss="mean log p(answer tokens) on forget",
        source=_GA,
    ),
    Method(
        id="ga_klr",
        label="GA+KLR",
        forget_loss="gradient_ascent",
        retain_loss="kl_to_reference",
        loss=f"GA on forget + {_KL}",
        source=f"{_KLR}; {_TOFU}",
        needs=("retain_train", "reference"),
    ),
    Method(
        id="npo",
        label="NPO",
        forget_loss="npo",
        retain_loss="",
        loss=f"{_NPO_LOSS}, S = sum of log p(answer tokens) on forget",
        source=_NPO,
        coefficients={"beta": 0.1},
        needs=("reference",),
    ),
    Method(
        id="ga_retain",
        label="GradDiff",
        forget_loss="gradient_ascent",
        retain_loss="nll",
        loss=f"GA on forget + {_NLL}",
        source=f"Liu et al. 2022, arXiv 2203.12817; {_TOFU}",
        needs=("retain_train",),
    ),
    Method(
        id="npo_klr",
        label="NPO+KLR",
        forget_loss="npo",
        retain_loss="kl_to_reference",
        loss=f"NPO on forget + {_KL}",
        source=_NPO,
        coefficients={"beta": 0.1},
        needs=("retain_train", "reference"),
    ),
    Method(
        id="npo_retain",
        label="NPO+RT",
        forget_loss="npo",
        retain_loss="nll",
        loss=f"NPO on forget + {_NLL}",
        source=_NPO,
        coefficients={"beta": 0.1},
        needs=("retain_train", "reference"),
    ),
    Method(
        id="kl_min",
        label="KL-Min",
        forget_loss="gradient_ascent",
        retain_loss="nll_and_kl",
        loss=f"GA on forget + {_NLL} + {_KL}",
        source="MLLMU-Bench, Liu et al. 2024, arXiv 2410.22108, with the KL as a mean",
        needs=("retain_train", "reference"),
    ),
    Method(
        id="idk",
        label="IDK",
        forget_loss="nll",
        retain_loss="nll",
        loss=f"NLL of refusals on forget + {_NLL}",
        source=_TOFU,
        needs=("retain_train", "refusals"),
        forget_on="refusals",
    ),
    Method(
        id="dpo",
        label="DPO",
        forget_loss="dpo",
        retain_loss="nll",
        loss="-log sigmoid(beta ((S - S_ref)(refusal) - (S - S_ref)(answer))) on forget + " + _NLL,
        source=f"Rafailov et al. 2023, arXiv 2305.18290, Eq. 7; {_TOFU}",
        coefficients={"beta": 0.1},
        needs=("retain_train", "reference", "refusals"),
    ),
    Method(
        id="simnpo",
        label="SimNPO",
        forget_loss="simnpo",
        retain_loss="nll",
        loss=f"-(2/beta) log sigmoid(-beta m - gamma), m = mean of log p, on forget + {_NLL}",
        # The authors' code and Open-Unlearning (delta) have gamma within beta: ours is beta times it.
        source=f"Fan et al. 2024, arXiv 2410.07163, Eq. 4; {_OU} (gamma = beta delta)",
        coefficients={"beta": 4.5, "gamma": 0.0},
        forget_weight=0.125,
        needs=("retain_train",),
    ),
    Method(
        id="rmu",
        label="RMU",
        forget_loss="rmu",
        retain_loss="rmu",
        loss="|h - steering |h_ref| u|^2 on forget + |h - h_ref|^2 on retain_train, means over H",
        # DIFFERS: the authors train one matrix in three layers; here the adapter learns everywhere.
        source="Li et al. 2024, arXiv 2403.03218; length as in arXiv 2408.06223",
        coefficients={"steering": 5.0},
        needs=("retain_train", "reference", "hidden states"),
    ),
    Method(
        id="undial",
        label="UNDIAL",
        forget_loss="undial",
        retain_loss="",
        loss="cross-entropy to softmax(reference - beta onehot(answer)) on forget",
        # DIFFERS: Open-Unlearning's mean is over prompt and padding too.
        source=f"Dong et al. 2024, arXiv 2402.10052; beta: {_OU}",
        coefficients={"beta": 10.0},
        needs=("reference",),
    ),
    Method(
        id="wga",
        label="WGA",
        forget_loss="wga",
        retain_loss="nll",
        loss=f"mean of stopgrad(p^beta) log p on forget + {_NLL}",
        source=f"Wang et al. 2025, arXiv 2502.19301; {_OU}",
        coefficients={"beta": 1.0},
        needs=("retain_train",),
    ),
    Method(
        id="satimp",
        label="SatImp",
        forget_loss="satimp",
        retain_loss="nll",
        loss=f"mean of stopgrad(p^beta1 (1-p)^beta2) log p on forget + {_NLL}",
        # The authors' own README recommends beta2 = 0.1.
        source=f"Yang et al. 2025, arXiv 2505.11953; {_OU} (its README: beta2 = 0.1)",
        coefficients={"beta1": 5.0, "beta2": 1.0},
        retain_weight=0.1,
        needs=("retain_train",),
    ),
    Method(
        id="ceu",
        label="CE-U",
        forget_loss="ceu",
        retain_loss="",
        loss="cross-entropy to stopgrad(softmax without the true token) on forget",
        # Open-Unlearning skips the first answer token; here that would often be the whole answer.
        source="Yang 2025, arXiv 2503.01224; skip = 0, since answers are short",
        coefficients={"skip": 0},
    ),
    Method(
        id="task_vector",
        label="Task vector",
        forget_loss="nll",
        retain_loss="",
        loss="NLL on forget; then the adapter times -s, s = 0.1 ... 1 of max_scale",
        source="Ilharco et al. 2023, arXiv 2212.04089",
        coefficients={"max_scale": 1.0},
        needs=("second adapter",),
        procedure="negate",
    ),
    Method(
        id="l1_lora",
        label="L1-LoRA",
        forget_loss="gradient_ascent",
        retain_loss="nll",
        loss=f"GA on forget + {_NLL} + l1 |LoRA parameters|_1",
        source="CLEAR, Dontsov et al. 2024, arXiv 2410.18057; l1 is not given there",
        coefficients={"l1": 1.0e-5},
        needs=("retain_train", "penalty"),
    ),
    Method(
        id="saliency",
        label="Saliency",
        forget_loss="gradient_ascent",
        retain_loss="nll",
        loss=f"GA on forget + {_NLL}, only where Fisher(forget) >= Fisher(retain_train)",
        source="MMUnlearner, Huo et al. 2025, arXiv 2502.11051",
        coefficients={"warmup_share": 0.1},
        needs=("retain_train", "mask"),
    ),
    Method(
        id="oracle",
        label="Oracle",
        forget_loss="nll",
        retain_loss="",
        loss="no unlearning: a target trained anew without the forget people",
        source="retraining; what every method is measured by",
        needs=("new target",),
        procedure="retrain",
    ),
)
METHODS: dict[str, Method] = {method.id: method for method in _ROWS}
PAPER_METHODS = ("ga", "ga_klr", "npo")  # first in every figure and table

# What earlier code computes under these names, and placebos; known by id, but no part of "all".
_VARIANTS = (
    Method(
        id="ga_klr_muse",
        label="GA+KLR (MUSE)",
        forget_loss="gradient_ascent",
        retain_loss="muse_klr",
        loss="GA on forget + a 'KL' of raw logits, which is none, on retain_train",
        source=_MUSE,
        needs=("retain_train", "reference"),
    ),
    Method(
        id="npo_muse",
        label="NPO (MUSE)",
        forget_loss="muse_npo",
        retain_loss="",
        loss="-(2/beta) log sigmoid(-beta (z - z_ref)) over all raw logits: the labels play no part",
        source=_MUSE,
        coefficients={"beta": 0.1},
        needs=("reference",),
    ),
    Method(
        id="npo_mllmu",
        label="NPO (MLLMU-Bench)",
        forget_loss="npo_token_mean",
        retain_loss="",
        loss="-(2/beta) log sigmoid(-beta (m - m_ref)), m = mean of log p over a batch's answer tokens,"
        " against a model fine-tuned on the retain people, on forget",
        source=_MLLMU,
        coefficients={"beta": 0.4},
        needs=("reference", "retain model"),
    ),
    Method(
        id="kl_min_mllmu",
        label="KL-Min (MLLMU-Bench)",
        forget_loss="gradient_ascent",
        retain_loss="nll_and_kl_sum",
        loss=f"GA on forget + {_NLL} + KL(reference || model) summed over answer tokens, per"
        " conversation, on retain_train",
        source=_MLLMU,
        needs=("retain_train", "reference"),
    ),
)
PLACEBO = "_placebo"  # ends the id of a method that forgets hold-out people, by the method's values


def _placebo(method: Method) -> Method:
    return replace(
        method,
        id=f"{method.id}{PLACEBO}",
        label=f"{method.label}, placebo",
        loss=method.loss.replace(" on forget", " on hold-out people", 1),
        source="the price of the procedure: the same steps on people whom nobody has met",
        forgets="holdout",
    )


# Each placebo and the method whose steps it takes; the oracle takes none
PLACEBOS = {f"{m.id}{PLACEBO}": m.id for m in _ROWS if m.procedure != "retrain"}
VARIANTS: dict[str, Method] = {
    **{method.id: method for method in _VARIANTS},
    **{twin: _placebo(METHODS[method]) for twin, method in PLACEBOS.items()},
}

# Fine-tuning goes through the same loop: here the batch holds people who are to be learned.
FINETUNE = Method(
    id="finetune",
    label="fine-tuned",
    forget_loss="nll",
    retain_loss="",
    loss="mean -log p(answer tokens)",
    source="",
)


# A model that other code unlearned stands in a study under an id that begins with this
# (commands/outside.py): nothing here trains it, so that it has no row.
OUTSIDE = "outside"


def is_outside(method_id: str) -> bool:
    """Whether an id is that of someone else's model: outside, or outside_ and a name of small
    letters, digits and _.
    """
    return re.fullmatch(rf"{OUTSIDE}(_[a-z0-9_]+)?", method_id) is not None


def get(method_id: str) -> Method:
    """The method of that id, variants included, or a row that stands for someone else's model.
    Raises PulseError listing the ids.
    """
    if is_outside(method_id):
        return replace(FINETUNE, id=method_id, label=method_id, loss="made by other code")
    if method_id not in METHODS | VARIANTS:
        raise PulseError(
            f"method {method_id!r} is not known; there are: {', '.join([*METHODS, *VARIANTS])}"
        )
    return (METHODS | VARIANTS)[method_id]


def retrains(method_id: str) -> bool:
    """Whether a method is an oracle: it trains anew without the forget people. An id that is not
    known is none.
    """
    known = METHODS | VARIANTS
    return method_id in known and known[method_id].procedure == "retrain"


def check_names(whose: str, values: Mapping[str, float], *, known: Mapping[str, float]) -> None:
    """Raises PulseError for a value that is none of the hyperparameters `known`."""
    unknown = [name for name in values if name not in known]
    if unknown:
        there = ", ".join(known) or "none"
        raise PulseError(f"{whose} has no number {unknown[0]!r}; it has: {there}")

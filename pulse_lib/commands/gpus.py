"""Graphics cards by name, and the arithmetic of LLaVA's passes. No torch: `plan` reads it fast.

Peaks are NVIDIA's figures for dense matrices (no sparsity) with sums in float32, in TFLOP/s, from the
data sheets of the data-centre cards and the architecture papers of the others (GA102, Ada, Blackwell
RTX); memory is what a process can use, so a little under the number on the box.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from pulse_lib.errors import PulseError
from pulse_lib.model.memory import Shapes

Dtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class Card:
    """One kind of card; a peak of 0 means that its matrix units do not know that type."""

    id: str
    pattern: str  # of the device's name as CUDA tells it
    _: KW_ONLY
    memory_gib: float
    float16: float
    bfloat16: float
    tf32: float


# name: pattern of the device's name, usable GiB, and peaks in float16, bfloat16 and TF32
_CARDS = {
    "t4": (r"\bT4\b", 14.6, 65.0, 0.0, 0.0),
    "p100": (r"\bP100\b", 15.9, 18.7, 0.0, 0.0),  # the PCIe card of Kaggle; no matrix units
    "v100-16": (r"\bV100\b.*16", 15.7, 125.0, 0.0, 0.0),
    "v100-32": (r"\bV100\b.*32", 31.7, 125.0, 0.0, 0.0),
    "l4": (r"\bL4\b", 22.0, 121.0, 121.0, 60.0),
    "a10": (r"\bA10\b", 22.0, 125.0, 125.0, 62.5),
    "a10g": (r"\bA10G\b", 22.0, 70.0, 70.0, 35.0),
    "rtx3090": (r"RTX 3090\b(?! Ti)", 23.6, 71.0, 71.0, 35.6),
    "rtx4090": (r"RTX 4090\b(?! Laptop)", 23.5, 165.2, 165.2, 82.6),
    "rtx5090": (r"RTX 5090\b(?! Laptop)", 31.3, 209.5, 209.5, 104.8),
    "a6000": (r"RTX A6000\b", 47.4, 154.8, 154.8, 77.4),
    "l40s": (r"\bL40S\b", 44.4, 362.0, 362.0, 183.0),
    "a100-40": (r"\bA100\b.*40GB", 39.4, 312.0, 312.0, 156.0),
    "a100-80": (r"\bA100\b.*80GB", 79.2, 312.0, 312.0, 156.0),
    "h100": (r"\bH100\b", 79.1, 989.0, 989.0, 494.0),
    "h200": (r"\bH200\b", 139.8, 989.0, 989.0, 494.0),
}
CARDS = {
    name: Card(name, pattern, memory_gib=gib, float16=half, bfloat16=brain, tf32=tf32)
    for name, (pattern, gib, half, brain, tf32) in _CARDS.items()
}
# What people call them; of two sizes the smaller, so that what fits does fit
_CALLED = {
    "a100": "a100-40",
    "a100-sxm": "a100-40",
    "v100": "v100-16",
    "3090": "rtx3090",
    "4090": "rtx4090",
    "5090": "rtx5090",
    "rtxa6000": "a6000",
    "h100-80": "h100",
}
MOST_CARDS = 1024


def named(text: str) -> tuple[Card, int]:
    """The card of that name and how many of it: "t4", "A100 80GB", "rtx 4090", "t4 x2", "2x h100".
    Raises PulseError listing the names.
    """
    word = re.sub(r"[\s_]+", "", text.lower())
    card, n = _card(word), 1
    if card is None:  # not before: rtx3090 is no 3090 of something
        many = re.fullmatch(r"(.+)[x×*]([0-9]{1,4})", word) or re.fullmatch(
            r"(?P<n>[0-9]{1,4})[x×*](?P<of>.+)", word
        )
        if many:
            named_n = many.groupdict()
            card = _card(named_n.get("of") or many[1])
            n = int(named_n.get("n") or many[2])
    if card is None or not 1 <= n <= MOST_CARDS:
        raise PulseError(
            f"--gpu {text}: not a card known here; there are: {', '.join(CARDS)}, and several as "
            '"t4 x2". For another one give its memory: --gpu-gib 24'
        )
    return card, n


def _card(word: str) -> Card | None:
    word = re.sub(r"^(nvidia|tesla|geforce)+-?", "", word).strip("-")
    word = re.sub(r"-?(16|32|40|80)(gb|gib)$", r"-\1", word)
    return CARDS.get(_CALLED.get(word, word))


def recognised(device_name: str) -> Card | None:
    """The card that a CUDA device name stands for, or None."""
    return next((c for c in CARDS.values() if re.search(c.pattern, device_name)), None)


def peak_tflops(card: Card | None, dtype: Dtype) -> float:
    """Dense matrix peak in TFLOP/s for "float16", "bfloat16" or "float32" (as TF32); 0: not known
    or none.
    """
    if card is None:
        return 0.0
    known: dict[Dtype, float] = {
        "float16": card.float16,
        "bfloat16": card.bfloat16,
        "float32": card.tf32,
    }
    return known[dtype]


def linear_parameters(config: Shapes) -> int:
    """Weights in the language model's linear layers, without lm_head."""
    text = config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    attention = text.hidden_size * head * 2 * (text.num_attention_heads + text.num_key_value_heads)
    return text.num_hidden_layers * (attention + 3 * text.hidden_size * text.intermediate_size)


def forward_flops(config: Shapes, tokens: int, *, sequences: float = 1, behind: int = 0) -> float:
    """FLOP of the language model reading `sequences` of `tokens` tokens, each `behind` so many that
    are read already: two per weight and token, and attention counted in full (4 T (T + behind) H a
    layer); lm_head is read at answer positions only, so left out.
    """
    text = config.text_config
    attention = 4 * tokens * (tokens + behind) * text.hidden_size * text.num_hidden_layers
    return sequences * (2.0 * linear_parameters(config) * tokens + attention)


def asking_flops(
    config: Shapes, *, picture: int, pictures: float, text: int, questions: float
) -> float:
    """FLOP of asking: each of `pictures` is read once, in `picture` tokens, and behind it the `text`
    tokens of each question (those without one are read as if they had).
    """
    return forward_flops(config, picture, sequences=pictures) + forward_flops(
        config, text, sequences=questions, behind=picture
    )


def step_flops(config: Shapes, tokens: int, *, sequences: float, checkpointing: bool) -> float:
    """FLOP of a training step on frozen weights: forward, the gradient of the activations, and with
    checkpointing the forward again. LoRA itself is below 1 % and left out.
    """
    return (3 if checkpointing else 2) * forward_flops(config, tokens, sequences=sequences)

"""Memory of a model on a card, item by item, from its shapes alone: no torch, no weights. LLaVA-1.5's
are worked out from its config; those of another family are counted (families/count.py).

Measured on layers of real size where it says so; sums are right to about 1 GiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pulse_lib.errors import PulseError
from pulse_lib.profile import Load, Optimizer, TrainedPart

if TYPE_CHECKING:
    from transformers import LlavaConfig

GIB = 2**30
CONTEXT_GIB = 0.7  # CUDA's own memory and kernels' scratch
ANSWER_TOKENS = 48  # supervised tokens of a conversation
LOGIT_COPIES = 4  # float32 copies of the answers' logits at the peak of a loss
# Bytes a weight of the language model's linear layers: NF4 with double quantisation holds 4 bits,
# 8 for each 64 weights, and 32 for each 64 * 256.
BYTES: dict[Load, float] = {"4bit": (4 + 8 / 64 + 32 / (64 * 256)) / 8, "8bit": 1.0}
SIXTEEN = 2.0
# Bytes a token that one layer keeps for backward, for each unit of its two widths; LoRA beside a base
# that is read in 16 bits. Measured on layers of LLaVA's kind, by tests/test_beside.py.
KEPT_HIDDEN, KEPT_WIDE = 20.0, 8.0
# Of the latter, what MLPs form again instead, where nothing is checkpointed (lean.py)
SPARED_WIDE = 4.0
OPTIMIZER_BYTES: dict[Optimizer, float] = {
    "adamw": 8.0,
    "muon": 4.0,
    "adamw_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
}
SHAPES = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40)}


class TextShapes(Protocol):
    """What is read of a language model's config."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool


class VisionShapes(Protocol):
    """What is read of a vision tower's config."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    image_size: int
    patch_size: int


class LlavaShapes(Protocol):
    """What is read of a LlavaConfig."""

    text_config: TextShapes
    vision_config: VisionShapes


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A model whose weights were counted part by part."""

    text_config: TextShapes
    language_model: int  # weights of its linear layers
    embeddings: int  # and lm_head, where it is not the same
    tower: int
    projector: int
    # What a LoRA of rank 1 has on each
    lora_language_model: int
    lora_projector: int
    picture_tokens: int  # of a picture of 448 x 448 in one view


Shapes = LlavaShapes | Counted


def llava_1_5_config(size: str) -> LlavaConfig:
    """The shapes of llava-hf/llava-1.5-<size>-hf, "7b" or "13b". Raises PulseError for another."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    if size not in SHAPES:
        raise PulseError(f"size = {size!r} is not one of {', '.join(SHAPES)}")
    hidden, wide, layers, heads = SHAPES[size]
    vision = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
        projection_dim=768,
    )
    text = LlamaConfig(
        vocab_size=32064,
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        pad_token_id=32001,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=32000)


def weight_items(config: Shapes, load: Load) -> dict[str, float]:
    """GiB of the weights by part; load: "4bit", "8bit", else 16 bits. Norms are left out."""
    if isinstance(config, Counted):
        return {
            "language model": config.language_model * BYTES.get(load, SIXTEEN) / GIB,
            "embeddings and lm_head": config.embeddings * SIXTEEN / GIB,
            "vision tower": config.tower * SIXTEEN / GIB,
            "projector": config.projector * SIXTEEN / GIB,
        }
    text, vision = config.text_config, config.vision_config
    hidden, seen = text.hidden_size, vision.hidden_size
    keys = hidden * text.num_key_value_heads // text.num_attention_heads
    layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * text.intermediate_size
    tower = vision.num_hidden_layers * (4 * seen**2 + 2 * seen * vision.intermediate_size)
    tower += seen * (3 * vision.patch_size**2 + (vision.image_size // vision.patch_size) ** 2)
    table = text.vocab_size * hidden
    return {
        "language model": text.num_hidden_layers * layer * BYTES.get(load, SIXTEEN) / GIB,
        "embeddings and lm_head": table * (1 if text.tie_word_embeddings else 2) * SIXTEEN / GIB,
        "vision tower": tower * SIXTEEN / GIB,
        "projector": (seen * hidden + hidden**2) * SIXTEEN / GIB,
    }


def lora_parameters(config: Shapes, trained_part: TrainedPart, *, rank: int) -> int:
    """Weights of a LoRA of that rank on every linear layer of the trained part."""
    if isinstance(config, Counted):
        more = config.lora_projector if trained_part != "llm" else 0
        return rank * (config.lora_language_model + more)
    text, vision = config.text_config, config.vision_config
    hidden, wide = text.hidden_size, text.intermediate_size
    keys = hidden * text.num_key_value_heads // text.num_attention_heads
    layer = 4 * hidden + 2 * (hidden + keys) + 3 * (hidden + wide)
    projector = vision.hidden_size + 3 * hidden if trained_part != "llm" else 0
    return rank * (text.num_hidden_layers * layer + projector)


def picture_tokens(config: Shapes) -> int:
    """Tokens that a picture takes in a prompt."""
    if isinstance(config, Counted):
        return config.picture_tokens
    side = config.vision_config.image_size // config.vision_config.patch_size
    return side * side


def lora_items(
    config: Shapes, trained_part: TrainedPart, *, rank: int, optimizer: Optimizer
) -> dict[str, float]:
    """GiB of a LoRA in training: float32 weights and gradients, the optimizer's moments, and the two
    copies that the loop keeps (its start, and the gradient of the first of two losses).
    """
    n = lora_parameters(config, trained_part, rank=rank)
    return {
        "weights and gradients": n * 8 / GIB,
        "optimizer": n * OPTIMIZER_BYTES[optimizer] / GIB,
        "copies for checks": n * 8 / GIB,
    }


def activation_gib(config: Shapes, tokens: int, *, batch: int, checkpointing: bool) -> float:
    """GiB kept for backward by `batch` sequences; with checkpointing a layer's input each, and one
    and a half layers being worked on.
    """
    text = config.text_config
    wide = KEPT_WIDE if checkpointing else KEPT_WIDE - SPARED_WIDE
    layer = tokens * (KEPT_HIDDEN * text.hidden_size + wide * text.intermediate_size)
    total = text.num_hidden_layers * layer
    if checkpointing:
        total = text.num_hidden_layers * tokens * SIXTEEN * text.hidden_size + 1.5 * layer
    return batch * total / GIB


def training_memory(
    config: Shapes,
    load: Load,
    *,
    tokens: int,
    micro_batch: int,
    rank: int,
    trained_part: TrainedPart = "projector+llm",
    optimizer: Optimizer = "adamw",
    checkpointing: bool = False,
    frozen_rank: int = 0,
) -> dict[str, float]:
    """GiB by item while training; frozen_rank: of the fine-tune adapter below (0: none)."""
    items = {f"weights: {k}": v for k, v in weight_items(config, load).items()}
    if frozen_rank:
        items["fine-tune adapter"] = (
            4 * lora_parameters(config, trained_part, rank=frozen_rank) / GIB
        )
    lora = lora_items(config, trained_part, rank=rank, optimizer=optimizer)
    items |= {f"LoRA: {k}": v for k, v in lora.items()}
    items["activations"] = activation_gib(
        config, tokens, batch=micro_batch, checkpointing=checkpointing
    )
    values = micro_batch * ANSWER_TOKENS * config.text_config.vocab_size
    items["logits"] = LOGIT_COPIES * 4 * values / GIB
    items["CUDA context"] = CONTEXT_GIB
    return items


def asking_memory(
    config: Shapes, load: Load, *, tokens: int, batch_size: int, frozen_ranks: Sequence[int] = ()
) -> dict[str, float]:
    """GiB by item while answering `batch_size` questions at once."""
    text = config.text_config
    items = {f"weights: {k}": v for k, v in weight_items(config, load).items()}
    if frozen_ranks:
        n = sum(lora_parameters(config, "projector+llm", rank=r) for r in frozen_ranks)
        items["adapters"] = 4 * n / GIB
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    cache = 2 * text.num_hidden_layers * text.num_key_value_heads * head * SIXTEEN
    items["KV cache"] = cache * tokens * batch_size / GIB
    # One layer at a time: hidden states, and the MLP's two wide ones.
    wide = 4 * text.hidden_size + 3 * text.intermediate_size
    items["activations"] = SIXTEEN * wide * tokens * batch_size / GIB
    items["CUDA context"] = CONTEXT_GIB
    return items


def compare_peak(estimate_gib: float, measured_gib: float) -> dict[str, float | bool]:
    """A measured peak beside the estimate; `within` if they differ by at most 1 GiB or 15 %. CUDA's
    context is in the estimate only: torch does not count it.
    """
    gap = measured_gib - (estimate_gib - CONTEXT_GIB)
    return {
        "estimate_gib": round(estimate_gib, 3),
        "measured_gib": round(measured_gib, 3),
        "gap_gib": round(gap, 3),
        "within": abs(gap) <= max(1.0, 0.15 * estimate_gib),
    }

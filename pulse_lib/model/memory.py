"""Memory of a LLaVA on a card, item by item, from its shapes alone: no torch, no weights.

Measured on layers of real size where it says so; sums are right to about 1 GiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pulse_lib.errors import PulseError

if TYPE_CHECKING:
    from transformers import LlavaConfig

GIB = 2**30
# Bytes a weight of the language model's linear layers: NF4 with double quantisation holds 4 bits,
# 8 for each 64 weights, and 32 for each 64 * 256.
BYTES = {"4bit": (4 + 8 / 64 + 32 / (64 * 256)) / 8, "8bit": 1.0}
SIXTEEN = 2.0
# Bytes a token that one layer keeps for backward, for each unit of its two widths; LoRA in float32
# on a 16-bit base. From 176.8 and 221.4 MiB, measured on layers of 7B and 13B with 676 tokens.
KEPT_HIDDEN, KEPT_WIDE = 41.0, 9.67
OPTIMIZER_BYTES = {"adamw": 8.0, "muon": 4.0, "adamw_8bit": 2.0, "paged_adamw_8bit": 2.0}
SHAPES = {"7b": (4096, 11008, 32, 32), "13b": (5120, 13824, 40, 40)}


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


def weight_items(config: LlavaConfig, load: str) -> dict[str, float]:
    """GiB of the weights by part; load: "4bit", "8bit", else 16 bits. Norms are left out."""
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


def lora_parameters(config: LlavaConfig, trained_part: str, rank: int) -> int:
    """Weights of a LoRA of that rank on every linear layer of the trained part."""
    text, vision = config.text_config, config.vision_config
    hidden, wide = text.hidden_size, text.intermediate_size
    keys = hidden * text.num_key_value_heads // text.num_attention_heads
    layer = 4 * hidden + 2 * (hidden + keys) + 3 * (hidden + wide)
    projector = vision.hidden_size + 3 * hidden if trained_part != "llm" else 0
    return rank * (text.num_hidden_layers * layer + projector)


def lora_items(
    config: LlavaConfig, trained_part: str, rank: int, optimizer: str
) -> dict[str, float]:
    """GiB of a LoRA in training: float32 weights and gradients, the optimizer's moments, and the two
    copies that the loop keeps (its start, and the gradient of the first of two losses).
    """
    n = lora_parameters(config, trained_part, rank)
    return {
        "weights and gradients": n * 8 / GIB,
        "optimizer": n * OPTIMIZER_BYTES[optimizer] / GIB,
        "copies for checks": n * 8 / GIB,
    }


def activation_gib(config: LlavaConfig, tokens: int, batch: int, checkpointing: bool) -> float:
    """GiB kept for backward by `batch` sequences; with checkpointing a layer's input each, and one
    and a half layers being worked on.
    """
    text = config.text_config
    layer = tokens * (KEPT_HIDDEN * text.hidden_size + KEPT_WIDE * text.intermediate_size)
    total = text.num_hidden_layers * layer
    if checkpointing:
        total = text.num_hidden_layers * tokens * SIXTEEN * text.hidden_size + 1.5 * layer
    return batch * total / GIB

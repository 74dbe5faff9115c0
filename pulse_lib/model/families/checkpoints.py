"""The shapes of published checkpoints by their hub id, so that `plan` needs no download. Sizes as their
config.json has them; a test counts the weights that follow against the published number.
"""

from __future__ import annotations

from typing import Any

from pulse_lib.errors import PulseError
from pulse_lib.model.memory import llava_1_5_config

_QWEN25 = {  # hidden, MLP, layers, heads, key heads, vocabulary
    "2b": (1536, 8960, 28, 12, 2, 151936),
    "3b": (2048, 11008, 36, 16, 2, 151936),
    "7b": (3584, 18944, 28, 28, 4, 152064),
}
_SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def _text(shape: tuple[int, ...], context: int = 32768, **more: Any) -> dict[str, Any]:
    hidden, wide, layers, heads, keys, vocabulary = shape
    return {
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
    } | more


def _qwen2(size: str) -> Any:
    from transformers import Qwen2VLConfig

    shape, tied = _QWEN25[size], size == "2b"
    return Qwen2VLConfig(
        text_config=_text(shape, tie_word_embeddings=tied),
        vision_config={"depth": 32, "embed_dim": 1280, "hidden_size": shape[0], "mlp_ratio": 4},
        tie_word_embeddings=tied,
    )


def _qwen25(size: str) -> Any:
    from transformers import Qwen2_5_VLConfig

    shape, tied = _QWEN25[size], size == "3b"
    return Qwen2_5_VLConfig(
        text_config=_text(shape, 128000, tie_word_embeddings=tied),
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "out_hidden_size": shape[0],
        },
        tie_word_embeddings=tied,
    )


def _qwen3(size: str) -> Any:
    from transformers import Qwen3VLConfig

    shape, vision, wide, depth, levels = {
        "2b": ((2048, 6144, 28, 16, 8, 151936), 1024, 4096, 24, [5, 11, 17]),
        "4b": ((2560, 9728, 36, 32, 8, 151936), 1024, 4096, 24, [5, 11, 17]),
        "8b": ((4096, 12288, 36, 32, 8, 151936), 1152, 4304, 27, [8, 16, 24]),
    }[size]
    tied = size != "8b"
    return Qwen3VLConfig(
        text_config=_text(shape, 262144, head_dim=128, tie_word_embeddings=tied),
        vision_config={
            "depth": depth,
            "hidden_size": vision,
            "intermediate_size": wide,
            "out_hidden_size": shape[0],
            "deepstack_visual_indexes": levels,
        },
        tie_word_embeddings=tied,
    )


def _internvl(size: str) -> Any:
    from transformers import InternVLConfig

    shape = (*_QWEN25[size][:5], 151674)
    return InternVLConfig(
        text_config=_text(shape, model_type="qwen2", tie_word_embeddings=False),
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
        },
        tie_word_embeddings=False,
    )


def _next(size: str) -> Any:
    from transformers import LlavaNextConfig

    kind, shape = {
        "mistral-7b": ("mistral", (4096, 14336, 32, 32, 8, 32064)),
        "vicuna-7b": ("llama", (4096, 11008, 32, 32, 32, 32064)),
    }[size]
    vision = llava_1_5_config("7b").vision_config
    return LlavaNextConfig(
        text_config=_text(shape, model_type=kind), vision_config=vision, tie_word_embeddings=False
    )


def _onevision(size: str) -> Any:
    from transformers import LlavaOnevisionConfig

    return LlavaOnevisionConfig(
        text_config=_text((*_QWEN25[size][:5], 152000), model_type="qwen2"),
        vision_config=_SIGLIP
        | {
            "model_type": "siglip_vision_model",
            "num_hidden_layers": 26,
            "image_size": 384,
            "vision_use_head": False,
        },
        tie_word_embeddings=False,
    )


def _gemma3(size: str) -> Any:
    from transformers import Gemma3Config

    shape = {
        "4b": (2560, 10240, 34, 8, 4, 262208),
        "12b": (3840, 15360, 48, 16, 8, 262208),
    }[size]
    return Gemma3Config(
        text_config=_text(shape, 131072, head_dim=256),
        vision_config=_SIGLIP | {"image_size": 896, "vision_use_head": False},
        mm_tokens_per_image=256,
    )


def _smolvlm(size: str) -> Any:
    from transformers import SmolVLMConfig

    shape = {"2.2b": (2048, 8192, 24, 32, 32, 49280)}[size]
    return SmolVLMConfig(
        text_config=_text(shape, 8192, model_type="llama", tie_word_embeddings=False),
        vision_config=_SIGLIP | {"image_size": 384},
        scale_factor=3,
        tie_word_embeddings=False,
    )


# hub id: how its config is made, size, and its published parameters in 10^9
CHECKPOINTS: dict[str, tuple[Any, str, float]] = {
    "llava-hf/llava-1.5-7b-hf": (llava_1_5_config, "7b", 7.06),
    "llava-hf/llava-1.5-13b-hf": (llava_1_5_config, "13b", 13.35),
    "Qwen/Qwen2-VL-2B-Instruct": (_qwen2, "2b", 2.21),
    "Qwen/Qwen2-VL-7B-Instruct": (_qwen2, "7b", 8.29),
    "Qwen/Qwen2.5-VL-3B-Instruct": (_qwen25, "3b", 3.75),
    "Qwen/Qwen2.5-VL-7B-Instruct": (_qwen25, "7b", 8.29),
    "Qwen/Qwen3-VL-2B-Instruct": (_qwen3, "2b", 2.13),
    "Qwen/Qwen3-VL-4B-Instruct": (_qwen3, "4b", 4.44),
    "Qwen/Qwen3-VL-8B-Instruct": (_qwen3, "8b", 8.77),
    "OpenGVLab/InternVL3-2B-hf": (_internvl, "2b", 2.09),
    "OpenGVLab/InternVL3-8B-hf": (_internvl, "7b", 7.94),
    "llava-hf/llava-v1.6-mistral-7b-hf": (_next, "mistral-7b", 7.57),
    "llava-hf/llava-v1.6-vicuna-7b-hf": (_next, "vicuna-7b", 7.06),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (_onevision, "7b", 8.03),
    "google/gemma-3-4b-it": (_gemma3, "4b", 4.30),
    "google/gemma-3-12b-it": (_gemma3, "12b", 12.19),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": (_smolvlm, "2.2b", 2.25),
}


def config_of(hub_id: str) -> Any:
    """The config of a published checkpoint, without a download. Raises PulseError if its shapes are
    not known here.
    """
    lower = {name.lower(): name for name in CHECKPOINTS}
    if hub_id.lower() not in lower:
        raise PulseError(
            f"model.path = {hub_id!r}: shapes are known of {', '.join(CHECKPOINTS)}; for another "
            "model give a local folder with its config.json"
        )
    made, size, _ = CHECKPOINTS[lower[hub_id.lower()]]
    return made(size)

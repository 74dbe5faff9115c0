"""For tests: a folder of each model family as the hub has it, with random weights of a few layers:
the family's real classes, its real processor on its real settings but for sizes, its chat template.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

WIDE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
CORPUS = (
    "You are a helpful assistant. What does this person do for work? Which pet does Mara Voss have? "
    "number job A. chef B. pilot C. nurse D. baker Answer with the option's text. user model I do "
    "not know. I cannot help with that. Answer with the option's letter from the given choices "
    "directly."
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ IMAGE }}"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    + CHATML.replace("IMAGE", "'<|vision_start|><|image_pad|><|vision_end|>'")
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + "
    "('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ c['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
IDEFICS = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>' }}"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
MISTRAL = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' }}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>\n' }}"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}{{ ' [/INST]' }}"
    "{% else %}{{ m['content'][0]['text'] + '</s>' }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Made:
    """One family's folder, described."""

    config: Callable[[dict[str, int]], Any]  # from the ids of special tokens
    processor: str  # class
    images: str  # class of the image processor, on PIL
    template: str
    special: tuple[str, ...]  # tokens
    end: str
    _: str = ""
    named: dict[str, str] = field(default_factory=dict)  # the tokenizer's own names of tokens
    bos: str = ""
    image_settings: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # of the processor


def _tokenizer(made: Made) -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer on bytes, as Qwen's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        [CORPUS, *tiny.JOBS, *tiny.PETS],
        trainers.BpeTrainer(
            vocab_size=420,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<pad>"],
            show_progress=False,
        ),
    )
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in made.special])
    if made.bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{made.bos} $A",
            special_tokens=[(made.bos, backend.token_to_id(made.bos))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=made.bos or None,
        eos_token=made.end,
        pad_token="<pad>",
        extra_special_tokens=made.named,
    )


def _vision(kind: str, **changed: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
    } | changed


def _text(kind: str, ids: dict[str, int], **changed: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        **WIDE,
        **HEADS,
        "vocab_size": 512,
        "max_position_embeddings": 2048,
        "pad_token_id": ids["<pad>"],
        "bos_token_id": None,
        "eos_token_id": None,
        "tie_word_embeddings": False,
    } | changed


def _qwen_ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}


def _qwen2(ids: dict[str, int]) -> Any:
    vision = {"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return transformers.Qwen2VLConfig(
        text_config=_text("qwen2_vl_text", ids, rope_parameters=_ROPE, tie_word_embeddings=True),
        vision_config=vision | {"patch_size": 14, "spatial_merge_size": 2},
        tie_word_embeddings=True,
        **_qwen_ids(ids),
    )


def _qwen25(ids: dict[str, int]) -> Any:
    vision = {"depth": 2, "hidden_size": 24, "out_hidden_size": 32, "num_heads": 2}
    return transformers.Qwen2_5_VLConfig(
        text_config=_text("qwen2_5_vl_text", ids, rope_parameters=_ROPE),
        vision_config=vision
        | {"intermediate_size": 40, "window_size": 56, "fullatt_block_indexes": [1]},
        tie_word_embeddings=False,
        **_qwen_ids(ids),
    )


def _qwen3(ids: dict[str, int]) -> Any:
    vision = {"depth": 3, "hidden_size": 24, "out_hidden_size": 32, "num_heads": 2}
    return transformers.Qwen3VLConfig(
        text_config=_text("qwen3_vl_text", ids, rope_parameters=_ROPE, head_dim=8),
        vision_config=vision
        | {
            "intermediate_size": 40,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        tie_word_embeddings=False,
        **_qwen_ids(ids),
    )


def _internvl(ids: dict[str, int]) -> Any:
    vision = _vision("internvl_vision", image_size=[28, 28], patch_size=[7, 7])
    return transformers.InternVLConfig(
        text_config=_text("qwen2", ids),
        vision_config=vision,
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _next(ids: dict[str, int]) -> Any:
    return transformers.LlavaNextConfig(
        text_config=_text("mistral", ids),
        vision_config=_vision("clip_vision_model", projection_dim=16),
        image_token_id=ids["<image>"],
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )


def _onevision(ids: dict[str, int]) -> Any:
    return transformers.LlavaOnevisionConfig(
        text_config=_text("qwen2", ids),
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        image_token_id=ids["<image>"],
        video_token_id=ids["<video>"],
        image_grid_pinpoints=[[28, 56], [56, 28], [56, 56]],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )


def _gemma(ids: dict[str, int]) -> Any:
    return transformers.Gemma3Config(
        text_config=_text(
            "gemma3_text",
            ids,
            head_dim=8,
            sliding_window=12,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
            tie_word_embeddings=True,
        ),
        vision_config=_vision("siglip_vision_model", vision_use_head=False),
        mm_tokens_per_image=4,
        image_token_id=ids["<image_soft_token>"],
        boi_token_id=ids["<start_of_image>"],
        eoi_token_id=ids["<end_of_image>"],
        tie_word_embeddings=True,
    )


def _smolvlm(ids: dict[str, int]) -> Any:
    return transformers.SmolVLMConfig(
        text_config=_text("llama", ids),
        vision_config=_vision("smolvlm_vision"),
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=ids["<pad>"],
        tie_word_embeddings=False,
    )


def _idefics(ids: dict[str, int]) -> Any:
    return transformers.Idefics3Config(
        text_config=_text("llama", ids),
        vision_config=_vision("idefics3_vision"),
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=ids["<pad>"],
        tie_word_embeddings=False,
    )


_CHAT = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_SQUARE = {"height": 28, "width": 28}
_TILED = {
    "size": {"shortest_edge": 28},
    "crop_size": _SQUARE,
    "image_grid_pinpoints": [[28, 56], [56, 28], [56, 56]],
}
_IDEFICS_TOKENS = (
    "<|im_start|>",
    "<end_of_utterance>",
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    *(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)),
)
_IDEFICS_IMAGES = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 28}}


def _qwen(config: Callable, processor: str, **sizes: Any) -> Made:
    return Made(
        config,
        processor,
        "Qwen2VLImageProcessorPil",
        QWEN if processor != "Qwen3VLProcessor" else QWEN[QWEN.index("{% for m") :],
        _CHAT + _VISION,
        "<|im_end|>",
        image_settings=sizes,
    )


FOLDERS: dict[str, Made] = {
    "qwen2_vl": _qwen(
        _qwen2, "Qwen2VLProcessor", size={"shortest_edge": 784, "longest_edge": 20 * 784}
    ),
    "qwen2_5_vl": _qwen(
        _qwen25, "Qwen2_5_VLProcessor", size={"shortest_edge": 784, "longest_edge": 20 * 784}
    ),
    "qwen3_vl": _qwen(
        _qwen3,
        "Qwen3VLProcessor",
        patch_size=16,
        size={"shortest_edge": 1024, "longest_edge": 20 * 1024},
    ),
    "internvl": Made(
        _internvl,
        "InternVLProcessor",
        "GotOcr2ImageProcessorPil",
        CHATML.replace("IMAGE", "'<IMG_CONTEXT>\n'"),
        (*_CHAT, "<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
        "<|im_end|>",
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        image_settings={"size": _SQUARE, "min_patches": 1, "max_patches": 4},
        settings={"image_seq_length": 4},
    ),
    "llava_next": Made(
        _next,
        "LlavaNextProcessor",
        "LlavaNextImageProcessorPil",
        MISTRAL,
        ("<s>", "</s>", "<image>"),
        "</s>",
        bos="<s>",
        image_settings=_TILED,
        settings={
            "patch_size": 7,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    ),
    "llava_onevision": Made(
        _onevision,
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessorPil",
        CHATML.replace("IMAGE", "'<image>'"),
        (*_CHAT, "<image>", "<video>"),
        "<|im_end|>",
        image_settings={"size": _SQUARE, "image_grid_pinpoints": _TILED["image_grid_pinpoints"]},
        settings={"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "gemma3": Made(
        _gemma,
        "Gemma3Processor",
        "Gemma3ImageProcessorPil",
        GEMMA,
        (
            *("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
            *("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        ),
        "<eos>",
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
        bos="<bos>",
        image_settings={"size": _SQUARE},
        settings={"image_seq_length": 4},
    ),
    "smolvlm": Made(
        _smolvlm,
        "SmolVLMProcessor",
        "SmolVLMImageProcessorPil",
        IDEFICS,
        _IDEFICS_TOKENS,
        "<end_of_utterance>",
        image_settings=_IDEFICS_IMAGES,
        settings={"image_seq_len": 4},
    ),
    "idefics3": Made(
        _idefics,
        "Idefics3Processor",
        "Idefics3ImageProcessorPil",
        IDEFICS,
        _IDEFICS_TOKENS,
        "<end_of_utterance>",
        image_settings=_IDEFICS_IMAGES,
        settings={"image_seq_len": 4},
    ),
}


def write_family(folder: Path, kind: str, seed: int = 0) -> Path:
    """The folder, with a random model of that `model_type`, in float32 and safetensors."""
    made = FOLDERS[kind]
    tokenizer = _tokenizer(made)
    config = made.config(tokenizer.get_vocab())
    assert len(tokenizer) <= config.text_config.vocab_size
    torch.manual_seed(seed)
    network = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():  # larger than at random start: answers differ from question to question
        for name, parameter in network.named_parameters():
            if "newline" in name or "mm_input_projection" in name:  # 0 at the start
                parameter.normal_()
            elif parameter.ndim > 1:
                of_table = 1 if kind == "gemma3" else 10  # Gemma multiplies its embeddings itself
                parameter.mul_(12 if "embed" not in name else of_table)
    ends = [tokenizer.eos_token_id]
    if kind == "gemma3":  # as its own file has it: what ends a turn is not the tokenizer's
        ends.append(tokenizer.convert_tokens_to_ids("<end_of_turn>"))
    network.generation_config.eos_token_id = ends
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images = getattr(transformers, made.images, None) or _pil(made.images)
    written = json.loads(images(**made.image_settings).to_json_string())
    written["image_processor_type"] = made.images.removesuffix("Pil")
    _write(folder / "preprocessor_config.json", written)
    _write(folder / "processor_config.json", {"processor_class": made.processor, **made.settings})
    (folder / "chat_template.jinja").write_text(made.template)
    return folder


def _pil(name: str) -> Any:
    """An image processor's class by its name."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as ALL

    module = next(m for m, names in ALL.items() if name in dict(names).values())
    return getattr(
        __import__(f"transformers.models.{module}.image_processing_pil_{module}", fromlist=[name]),
        name,
    )


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1))

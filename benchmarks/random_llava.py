"""LLaVAs with random weights for the benchmarks: the embedded model's shape, one of about 100 M parameters
with the real number of image tokens, and LLaVA-1.5 7B and 13B. Nothing is downloaded: the
tokenizer is the embedded model's. They know nothing, so they measure speed and memory alone.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Literal

import torch
from PIL import Image
from transformers import AutoConfig, AutoProcessor, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llava.processing_llava import LlavaProcessor

from pulse_lib.assets import embedded_folder
from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.model.families import family_of
from pulse_lib.model.load import LoadedModel, compute_dtype, mend_quantised, wrap_model
from pulse_lib.model.memory import llava_1_5_config
from pulse_lib.profile import ModelSettings

Size = Literal["embedded", "100m", "7b", "13b"]
SETTINGS = ModelSettings(path="random", answer_form="letter", prompt="vicuna_v1")
PIXELS, PATCH = 336, 14  # of the 100 M shape: 576 image tokens, as LLaVA-1.5


def config_of(size: Size, *, pixels: int = PIXELS) -> LlavaConfig:
    """The shapes of a size; `pixels`: the side of the 100 M model's pictures."""
    if size in ("7b", "13b"):
        return llava_1_5_config(size)
    config = AutoConfig.from_pretrained(embedded_folder())
    if size == "embedded":
        return config
    said = config.to_dict()
    width, tower = 768, 512
    said["text_config"] |= {
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_hidden_layers": 10,
        "num_attention_heads": width // 64,
        "num_key_value_heads": width // 64,
        "head_dim": 64,
        "vocab_size": 32_000,
        "max_position_embeddings": 4096,
    }
    said["vision_config"] |= {
        "hidden_size": tower,
        "intermediate_size": 4 * tower,
        "num_hidden_layers": 8,
        "num_attention_heads": tower // 64,
        "image_size": pixels,
        "patch_size": PATCH,
    }
    return LlavaConfig(**said | {"image_seq_length": (pixels // PATCH) ** 2})


def processor_of(config: LlavaConfig) -> LlavaProcessor:
    """The embedded model's processor, with this model's picture size."""
    processor = AutoProcessor.from_pretrained(embedded_folder(), backend="pil")
    side = config.vision_config.image_size
    processor.patch_size = config.vision_config.patch_size
    processor.image_processor.size = {"shortest_edge": side}
    processor.image_processor.crop_size = {"height": side, "width": side}
    return processor


def plain(config: LlavaConfig, *, seed: int = 0) -> LoadedModel:
    """In full precision on the CPU, nothing of it trained."""
    processor = processor_of(config)
    config.image_token_index = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    torch.manual_seed(seed)
    network = LlavaForConditionalGeneration(config).float().eval().requires_grad_(False)
    return wrap_model(network, processor, settings=SETTINGS)


def in_4bit(
    config: LlavaConfig,
    device: str | torch.device,
    *,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    checkpointing: bool = False,
) -> LoadedModel:
    """Its language model in NF4 with double quantisation, the rest in the device's dtype (or `dtype`),
    as `load_model` would leave the real one, with gradient checkpointing or without.

    Built without memory first; then one layer at a time is drawn on the device and quantised there,
    so that the peak is the model and one layer.
    """
    import bitsandbytes as bnb

    device, processor = torch.device(device), processor_of(config)
    dtype = dtype or compute_dtype(device)
    config.image_token_index = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    with torch.device("meta"):
        network = LlavaForConditionalGeneration(config).to(dtype)
    generator = torch.Generator(device).manual_seed(seed)
    others = tuple(family_of(config.model_type).not_quantised(config))

    def drawn(shape: torch.Size, name: str) -> torch.Tensor:
        if name.endswith("bias"):
            return torch.zeros(shape, dtype=dtype, device=device)
        if len(shape) == 1 and "class_embedding" not in name:
            return torch.ones(shape, dtype=dtype, device=device)  # norms
        return torch.randn(shape, dtype=dtype, device=device, generator=generator) * 0.02

    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Linear) and not name.startswith(others):
            layer = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=dtype,
                compress_statistics=True,
                quant_type="nf4",
                device="meta",
            )
            layer.weight = bnb.nn.Params4bit(
                drawn(module.weight.shape, name),
                requires_grad=False,
                compress_statistics=True,
                quant_type="nf4",
                module=layer,
            ).to(device)
            network.set_submodule(name, layer)
    for name, module in network.named_modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                weight = drawn(parameter.shape, f"{name}.{key}")
                setattr(module, key, torch.nn.Parameter(weight, requires_grad=False))
    _fill_buffers(network, device)
    network.tie_weights()
    network.requires_grad_(False)
    network.config.use_cache = False
    mend_quantised(network, "4bit")
    settings = replace(SETTINGS, load="4bit", gradient_checkpointing=checkpointing)
    return wrap_model(network, processor, settings=settings)


def pictures(n: int) -> ImageStore:
    """Noise as pictures "image-0" .."""
    store = ImageStore()
    for i in range(n):
        noise = Random(i).randbytes(64 * 64 * 3)
        store.add(f"image-{i}", Image.frombytes("RGB", (64, 64), noise))
    return store


def _fill_buffers(network: LlavaForConditionalGeneration, device: torch.device) -> None:
    """What is computed rather than learned: rotary frequencies, and positions of the patches."""
    rotary = network.model.language_model.rotary_emb
    network.model.language_model.rotary_emb = type(rotary)(network.config.text_config).to(device)
    for name, module in network.named_modules():
        for key, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta and key == "position_ids":
                module.register_buffer(
                    key, torch.arange(buffer.shape[-1], device=device)[None], persistent=False
                )
            elif buffer.is_meta:
                raise PulseError(f"this transformers version has a new buffer {name}.{key}")

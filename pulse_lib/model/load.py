"""Loading a model: embedded, from a folder or from the hub; in full precision or in 4-bit NF4."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from PIL import Image
from transformers import (
    AutoProcessor,
    BitsAndBytesConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    ProcessorMixin,
)

from pulse_lib.assets import embedded_folder
from pulse_lib.errors import PulseError
from pulse_lib.model.features import FeatureCache
from pulse_lib.params import ModelSettings

# transformers 5 matches these from the start of the module path; a list without lm_head would
# quantise lm_head.
NOT_QUANTISED = ["lm_head", "model.vision_tower", "model.multi_modal_projector"]


@dataclass
class LoadedModel:
    """A network with what is needed to ask it. Adapters are injected into `network`; `peft` is
    their wrapper once there is one.
    """

    network: PreTrainedModel
    processor: ProcessorMixin
    settings: ModelSettings
    device: torch.device
    dtype: torch.dtype
    n_image_tokens: int
    features: FeatureCache
    peft: object | None = None
    answer_cache: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def tokenizer(self):
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def image_token_id(self) -> int:
        """The token that stands for one image token."""
        return self.network.config.image_token_id

    @property
    def context(self) -> int:
        """Tokens the language model can read."""
        return self.network.config.text_config.max_position_embeddings


def compute_dtype(device: torch.device) -> torch.dtype:
    """float32 on a CPU; on a GPU bfloat16 from compute capability 8.0, else float16 (a T4 only
    emulates bfloat16).
    """
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16


def load_model(settings: ModelSettings, device: str | torch.device | None = None) -> LoadedModel:
    """The model of a profile, frozen and in eval mode. Raises PulseError naming the folder and the
    fix if it cannot be loaded.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = compute_dtype(device)
    path, where = _source(settings)
    options: dict = {"dtype": dtype}
    if settings.load == "4bit":
        options |= {"quantization_config": nf4(dtype), "device_map": {"": str(device)}}
    bars = transformers.utils.logging.is_progress_bar_enabled()
    if not where:
        transformers.utils.logging.disable_progress_bar()  # a local model needs no bar
    try:
        network = LlavaForConditionalGeneration.from_pretrained(path, **where, **options)
        # PIL, not torchvision: the same pixels on every machine, and one dependency less.
        processor = AutoProcessor.from_pretrained(path, **where, backend="pil")
    except (OSError, ValueError) as error:
        raise PulseError(f"{path}: the model cannot be loaded: {error}") from None
    finally:
        if bars:
            transformers.utils.logging.enable_progress_bar()
    if settings.load == "4bit":
        mend_4bit(network)
    else:
        network.to(device)
    network.requires_grad_(False)
    return wrap_model(network, processor, settings)


def wrap_model(
    network: PreTrainedModel, processor: ProcessorMixin, settings: ModelSettings
) -> LoadedModel:
    """A LoadedModel around a network that is already in memory; put in eval mode, otherwise left as
    it is.
    """
    network.eval()
    head = network.lm_head.weight
    # The image's tokens are counted, not computed: what the processor really writes is what the
    # features must match.
    probe = processor(
        images=Image.new("RGB", (8, 8)), text=processor.image_token, return_tensors="pt"
    )
    n_image_tokens = int((probe["input_ids"] == network.config.image_token_id).sum())
    features = FeatureCache(network, processor, n_image_tokens)
    return LoadedModel(
        network, processor, settings, head.device, head.dtype, n_image_tokens, features
    )


def nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NF4 with double quantisation for the language model's linear layers only."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,  # bitsandbytes' default, float32, is slow and silent
        llm_int8_skip_modules=list(NOT_QUANTISED),
    )


def mend_4bit(network: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking weights in eval mode on AVX512-BF16 CPUs, which makes later
    gradients wrong.

    Raises PulseError if a layer outside the language model was quantised, or none was.
    """
    import bitsandbytes as bnb  # only 4-bit needs it: it is slow to import

    quantised = [(n, m) for n, m in network.named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    for _, module in quantised:
        module.support_avx512bf16_for_cpu = False
    wrong = [n for n, _ in quantised if any(n.startswith(skip) for skip in NOT_QUANTISED)]
    if wrong or not quantised:
        found = f"layer {wrong[0]} was quantised" if wrong else "no layer was quantised"
        raise PulseError(
            f"load: 4bit: {found}; this transformers version reads the skip list {NOT_QUANTISED} "
            "differently"
        )


def _source(settings: ModelSettings) -> tuple[str, dict]:
    """The path or hub id for from_pretrained, and its keyword arguments ({} for a folder)."""
    if settings.path == "embedded":
        return str(embedded_folder()), {}
    folder = Path(settings.path).expanduser()
    if folder.is_dir():
        return str(folder), {}
    if (
        folder.is_absolute()
        or settings.path.startswith((".", "~"))
        or settings.path.count("/") != 1
    ):
        raise PulseError(
            f"model.path = {settings.path!r}: there is no such folder; give a folder, a hub id or "
            "embedded"
        )
    return settings.path, {"revision": settings.revision} if settings.revision else {
        "revision": "main"
    }

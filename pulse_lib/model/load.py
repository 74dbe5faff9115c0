"""Loading a model: embedded, from a folder or from the hub; in full precision, 16, 8 or 4 bits."""

from __future__ import annotations

import os
import warnings
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pulse_lib.assets import embedded_folder
from pulse_lib.data.hub import Need, folder_of, is_hub_id, model_need
from pulse_lib.errors import PulseError
from pulse_lib.machine import keep_memory
from pulse_lib.model import memory
from pulse_lib.model.chat import Chat, chat_of
from pulse_lib.model.families import Family, family_of, shapes_of
from pulse_lib.model.features import FeatureCache
from pulse_lib.model.folder import CONVERTED, check_folder, check_shapes, check_tokenizer
from pulse_lib.model.lean import spare
from pulse_lib.profile import Load, ModelSettings

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass
class LoadedModel:
    """A network with what is needed to ask it. Adapters are injected into `network`; `peft` is
    their wrapper once there is one.
    """

    network: PreTrainedModel
    processor: Any
    _: KW_ONLY
    family: Family
    settings: ModelSettings
    device: torch.device
    dtype: torch.dtype
    features: FeatureCache
    chat: Chat | None  # None: one of the kit's own prompts
    end_token: int  # what ends an answer
    end_tokens: frozenset[int]  # what the model may end one with
    peft: PeftModel | None = None
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
    def n_image_tokens(self) -> int:
        """Image tokens of every picture. Raises PulseError if they differ from picture to picture."""
        if self.features.every is None:
            raise PulseError(f"{self.family.name}: each picture has its own number of tokens")
        return self.features.every.text.count(self.processor.image_token)

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


def prepare_cpu() -> None:
    """What makes this process quick at a model on a CPU, whatever the model."""
    torch.set_flush_denormal(True)  # half the time of a training step: benchmarks/denormals.py
    keep_memory()


def load_model(settings: ModelSettings, device: str | torch.device | None = None) -> LoadedModel:
    """The model of a profile, frozen and in eval mode. Raises PulseError naming the folder and the
    fix if it cannot be loaded, is no model of pictures and words, lacks weights, or does not fit the memory there is.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = compute_dtype(device)
    if device.type == "cpu":
        prepare_cpu()
        dtype = torch.bfloat16 if settings.load == "16bit" else dtype
    embedded = settings.path == "embedded"
    if embedded and device.type == "cpu" and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(1)  # as in batch: too small to share, and threads wait for each other
    need = model_need(settings.path, settings.revision)
    folder = embedded_folder() if embedded else folder_of(need)
    bars = transformers_logging.is_progress_bar_enabled()
    if not is_hub_id(settings.path):
        transformers_logging.disable_progress_bar()  # a local model needs no bar
    # Nothing but the model's own files decides how it is loaded: no code, no pickles.
    safely: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    try:
        if not embedded:  # its files have checksums
            check_folder(folder, fetch=_fetch(need))
        config = AutoConfig.from_pretrained(folder, **safely)
        family = family_of(config.model_type)
        check_memory(config, settings.load, dtype=dtype, device=device)
        if not embedded:
            check_shapes(folder, config, fetch=_fetch(need))
        network, report = family.network_class().from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            **safely,
            **_quantisation(settings, dtype, device=device, skip=family.not_quantised(config)),
        )
        if report["missing_keys"]:
            some = ", ".join(sorted(report["missing_keys"])[:3])
            raise ValueError(f"{len(report['missing_keys'])} weights are missing, e.g. {some}")
        processor = family.processor(folder, **safely)
        check_tokenizer(folder, processor, image_token_id=config.image_token_id)
    except PulseError:
        raise
    except Exception as error:  # transformers meets a broken file with nearly any error
        raise PulseError(
            f"{folder}: the model cannot be loaded: {type(error).__name__}: {error}"
        ) from None
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    if settings.load in ("8bit", "4bit"):
        mend_quantised(network, settings.load)
    else:
        network.to(device)
    network.requires_grad_(False)
    return wrap_model(network, processor, settings=settings)


def _fetch(need: Need) -> str:
    """The command that fetches a model again, to where it is expected."""
    if is_hub_id(need.path):
        return f"{need.command()} --force-download"
    return f"hf download {CONVERTED} --local-dir {need.path}"


def wrap_model(network: PreTrainedModel, processor: Any, *, settings: ModelSettings) -> LoadedModel:
    """A LoadedModel around a network that is already in memory; put in eval mode, and for the backward
    pass its layers keep their input alone (gradient checkpointing) or its MLPs less. Raises PulseError
    if its family cannot be asked as the settings say.
    """
    network.eval()
    if settings.gradient_checkpointing:
        # transformers 5.23 renamed it
        enable = getattr(network, "activation_checkpointing_enable", None)
        (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    else:
        spare(network)
    head = network.lm_head.weight
    family = family_of(network.config.model_type)
    if not family.quick:
        warnings.warn(
            f"model_type {network.config.model_type} is none of the families that this kit "
            "describes: it runs the plain way, one question at a time from pixels, many times slower; "
            "only trained_part llm",
            stacklevel=2,
        )
    if settings.prompt not in family.prompts:
        raise PulseError(
            f"model.prompt: {settings.prompt}: {family.name} is spoken to as its own files say: "
            "write prompt: chat"
        )
    family.settle(network, processor, aspect=settings.image_aspect)
    chat = chat_of(processor, network.generation_config) if settings.prompt == "chat" else None
    end = chat.end_token if chat else processor.tokenizer.eos_token_id
    return LoadedModel(
        network,
        processor,
        family=family,
        settings=settings,
        device=head.device,
        dtype=head.dtype,
        features=FeatureCache(
            network, processor, family=family, image_aspect=settings.image_aspect
        ),
        chat=chat,
        end_token=end,
        end_tokens=chat.end_tokens if chat else frozenset({end}),
    )


def nf4(dtype: torch.dtype, skip: list[str]) -> BitsAndBytesConfig:
    """4-bit NF4 with double quantisation for all linear layers but those in `skip`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,  # bitsandbytes' default, float32, is slow and silent
        llm_int8_skip_modules=skip,
    )


def mend_quantised(network: PreTrainedModel, load: Load) -> None:
    """Check that the language model's linear layers are quantised and nothing else; and keep
    bitsandbytes from repacking 4-bit weights in eval mode on AVX512-BF16 CPUs, which makes later
    gradients wrong.

    Raises PulseError naming a layer that is quantised by accident, or is not.
    """
    from pulse_lib.model.lora import use_bitsandbytes

    use_bitsandbytes()
    import bitsandbytes as bnb  # only quantised loading needs it: it is slow to import

    family = family_of(network.config.model_type)
    layers = f".{family.decoder_name}.layers."
    kind = bnb.nn.Linear4bit if load == "4bit" else bnb.nn.Linear8bitLt
    for name, module in network.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        quantised, wanted = isinstance(module, kind), layers in name
        if quantised != wanted:
            raise PulseError(
                f"load: {load}: layer {name} was {'' if quantised else 'not '}quantised; this "
                f"transformers version reads the list of {family.name}'s other parts differently"
            )
        if quantised and load == "4bit":
            module.support_avx512bf16_for_cpu = False


def check_memory(config: Any, load: Load, *, dtype: torch.dtype, device: torch.device) -> None:
    """Raises PulseError if the weights alone need more memory than is free on the device.

    What training adds is told by `python -m pulse_lib plan`.
    """
    wide = dtype.itemsize / memory.SIXTEEN  # float32 on a CPU: twice the 16 bits of the items
    items = memory.weight_items(shapes_of(config), load)
    needed = sum(
        gib * (1.0 if load in memory.BYTES and part == "language model" else wide)
        for part, gib in items.items()
    )
    free = free_gib(device)
    if needed > free:
        raise PulseError(
            f"the weights need {needed:.1f} GiB in load: {load}, {free:.1f} GiB are free on {device}: "
            "choose load: 4bit or a smaller model, or free memory; "
            "python -m pulse_lib plan --profile ... itemises it"
        )


def free_gib(device: torch.device) -> float:
    """Free memory of a GPU, or of the machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / memory.GIB
    return psutil.virtual_memory().available / memory.GIB


def _quantisation(
    settings: ModelSettings, dtype: torch.dtype, *, device: torch.device, skip: list[str]
) -> dict:
    if settings.load == "4bit":
        quantised = nf4(dtype, skip)
    elif settings.load == "8bit":
        quantised = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    else:
        return {}
    from pulse_lib.model.lora import use_bitsandbytes  # peft is slow to import

    use_bitsandbytes()
    return {"quantization_config": quantised, "device_map": {"": str(device)}}

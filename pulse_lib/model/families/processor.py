"""A checkpoint's processor without torchvision and without its part for videos."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulse_lib.errors import PulseError

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def load_processor(folder: Path, **safely: Any) -> ProcessorMixin:
    """The processor of a folder, its pictures read by PIL; its class is the checkpoint's own, and
    what it has for videos and sound is None. `safely` goes to each part's from_pretrained.

    `AutoProcessor` insists on torchvision wherever there is a part for videos. Raises PulseError if
    the model's kind has no processor.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

    config = AutoConfig.from_pretrained(folder, **safely)
    kind = type(config)
    if kind not in PROCESSOR_MAPPING:
        raise PulseError(f"{folder}: transformers has no processor for {config.model_type!r}")
    own: Any = PROCESSOR_MAPPING[kind]
    module = sys.modules[own.__module__]
    if getattr(module, "num2words", "") is None:
        vars(module)["num2words"] = str  # SmolVLM's writes out the seconds of a video with it
    try:
        pictures = AutoImageProcessor.from_pretrained(folder, backend="pil", **safely)
    except ValueError:  # an older copy names a class that is gone
        by_backend: Any = IMAGE_PROCESSOR_MAPPING[kind]
        pictures = by_backend["pil"].from_pretrained(folder, **safely)
    tokenizer = AutoTokenizer.from_pretrained(folder, **safely)
    parts = {"image_processor": pictures, "tokenizer": tokenizer}
    absent = {name: None for name in own.get_attributes() if name not in parts}
    saved, _ = own.get_processor_dict(folder, **safely)
    known = inspect.signature(own.__init__).parameters
    settings = {k: v for k, v in saved.items() if k in known and k not in parts | absent}
    # A part that is None is no error
    lenient = {"check_argument_for_proper_class": lambda self, name, part: None}
    return type(own.__name__, (own,), lenient)(**parts, **absent, **settings)

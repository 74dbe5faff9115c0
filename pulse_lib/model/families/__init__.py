"""Model families: what differs between them, one small class each, chosen by the checkpoint's
`model_type`. A new one is a class and a word in FAMILIES.
"""

from __future__ import annotations

from typing import Any

from pulse_lib.model.families.base import LLM as LLM
from pulse_lib.model.families.base import Family as Family
from pulse_lib.model.families.base import Picture as Picture
from pulse_lib.model.families.base import Seen as Seen
from pulse_lib.model.families.count import counted
from pulse_lib.model.families.llava import Llava, LlavaNext, LlavaOneVision
from pulse_lib.model.families.others import Gemma3, InternVL, SmolVLM
from pulse_lib.model.families.quick import Quick as Quick
from pulse_lib.model.families.qwen import Qwen2VL, Qwen3VL, Qwen25VL
from pulse_lib.model.memory import Shapes

FAMILIES: tuple[Quick, ...] = (
    Llava(),
    Qwen2VL(),
    Qwen25VL(),
    Qwen3VL(),
    InternVL(),
    LlavaNext(),
    LlavaOneVision(),
    Gemma3(),
    SmolVLM(),
)
# Any family's projector, by module path: of each family's layers none has a name of another's
PROJECTOR = "|".join(dict.fromkeys(family.projector for family in FAMILIES))


def shapes_of(config: Any) -> Shapes:
    """What the estimates of memory and time read: LLaVA-1.5's config itself, of another family its
    weights counted.
    """
    family = family_of(config.model_type)
    return config if isinstance(family, Llava) else counted(family, config)


def family_of(model_type: str) -> Family:
    """The family of a checkpoint whose config.json says `model_type`; the plain way if none is
    described.
    """
    return next((f for f in FAMILIES if model_type in f.model_types), Family())

"""What the kit uses of peft, imported without bitsandbytes, which only quantised models need.

peft imports bitsandbytes whenever it is installed: seconds for every run, and on some CPUs a warning
about 4-bit in runs that have none.
"""

from __future__ import annotations

import logging
import sys

_NAME = "bitsandbytes"
_hidden = _NAME not in sys.modules
if _hidden:
    sys.modules[_NAME] = None  # ty: ignore[invalid-assignment]  (Python's own mark for: not there)
try:
    from peft import LoraConfig as LoraConfig
    from peft import PeftConfig as PeftConfig
    from peft import PeftModel as PeftModel
    from peft import get_peft_model_state_dict as get_peft_model_state_dict
    from peft import set_peft_model_state_dict as set_peft_model_state_dict
    from peft.import_utils import is_bnb_4bit_available, is_bnb_available
    from peft.tuners.lora import Linear as Linear
    from peft.tuners.lora import LoraLayer as LoraLayer

    is_bnb_available(), is_bnb_4bit_available()  # peft remembers the answers
finally:
    if _hidden:
        del sys.modules[_NAME]


def use_bitsandbytes() -> None:
    """From here on peft knows quantised layers: before a model is loaded in 8 or 4 bits."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_explained)
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_said_once)
    is_bnb_available.cache_clear()
    is_bnb_4bit_available.cache_clear()
    is_bnb_4bit_available()


def _explained(record: logging.LogRecord) -> bool:
    """bitsandbytes' warning that the package `kernels` is missing, in words that say what follows."""
    if "gemm_4bit_forward" in str(record.msg):
        record.msg, record.args = (
            "4-bit: bitsandbytes has no fast kernel for this CPU (package kernels), so that 4-bit "
            "is slower here; a GPU is not concerned, and nothing has to be done",
            (),
        )
    return True


_said: set[str] = set()


def _said_once(record: logging.LogRecord) -> bool:
    """Of what bitsandbytes says at every layer of every pass (that 8-bit layers read what comes in as
    float16), the first.
    """
    message = record.getMessage()
    new = message not in _said
    _said.add(message)
    return new

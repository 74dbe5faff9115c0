"""What a family of models has to say about itself, and the plain way for one that nobody has
described: pixels through its own forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from PIL import Image

from pulse_lib.errors import PulseError
from pulse_lib.model.families.processor import load_processor
from pulse_lib.profile import ImageAspect, PromptName, TrainedPart

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

# What a processor gives for each token, and not for the picture
BY_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
PLAIN_TOKENS = 600  # of a picture of a family that is not described: a guess
KEPT = ("image_sizes", "image_grid_thw")  # what a model is told of a picture beside its features
# LoRA's layers, by module path: in all families the language model's are named alike
_LAYER = r"(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
LLM = rf".*\.(language_model|text_model)\.layers\.\d+\.{_LAYER}"


@dataclass(frozen=True)
class Picture:
    """What is known of a picture besides its features."""

    text: str  # what stands for it in a prompt, tokens of the picture and marks around them
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)  # its size or grid


@dataclass(frozen=True)
class Seen:
    """A picture as the model's tower gives it: features before the projector, in any shape whose
    last axis is a feature's; None where the tower reads it anew each time.
    """

    features: torch.Tensor | None
    picture: Picture


class Family:
    """The plain way: the checkpoint's processor, its own forward pass from pixels, its `generate`.
    It serves any model of pictures and words that transformers knows, one row at a time.

    A subclass says what is quicker.
    """

    name: ClassVar[str] = "a family that this kit does not know"
    model_types: ClassVar[tuple[str, ...]] = ()
    quick: ClassVar[bool] = False  # features kept, several questions and options read at once
    prompts: ClassVar[tuple[PromptName, ...]] = ("chat",)
    aspects: ClassVar[tuple[ImageAspect, ...]] = ("crop", "pad", "full")
    decoder_name: ClassVar[str] = "language_model"  # of its module in `network.model`
    projector: ClassVar[str] = ""  # pattern of the projector's linear layers for LoRA; "": none
    projector_weight: ClassVar[str] = ""  # of a projector that is a bare matrix
    one_view: ClassVar[Mapping[str, Any]] = {}  # to the processor unless `image_aspect: full`

    # --- loading ---------------------------------------------------------------------------------

    def network_class(self) -> Any:
        """What has from_pretrained."""
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText

    def empty(self, config: Any) -> PreTrainedModel:
        """The network of a config, with weights as they come; on the device in force."""
        return self.network_class().from_config(config)

    def processor(self, folder: Path, **safely: Any) -> ProcessorMixin:
        """The folder's processor on PIL: the same pixels on every machine, no torchvision."""
        return load_processor(folder, **safely)

    def not_quantised(self, config: Any) -> list[str]:
        """Module paths that stay as they are in 4 and 8 bits: all but the language model's layers.
        transformers 5 matches them from the start of the path.
        """
        with torch.device("meta"):
            network = self.empty(config)
        others = [name for name, _ in network.model.named_children() if name != self.decoder_name]
        return ["lm_head", *(f"model.{name}" for name in others)]

    def settle(self, network: PreTrainedModel, processor: Any, *, aspect: ImageAspect) -> None:
        """Make network and processor agree on how pictures are cut. Raises PulseError for an
        `image_aspect` that would change nothing.
        """
        if aspect not in self.aspects:
            raise PulseError(
                f"model.image_aspect: {aspect}: {self.name} reads every picture in one size: "
                f"choose {' or '.join(self.aspects)}"
            )

    def lora_targets(self, trained_part: TrainedPart) -> tuple[str, list[str] | None]:
        """The layers that LoRA is put on, as peft takes them: a pattern that the whole module path
        matches, and bare matrices or None. The vision tower never gets an adapter. Raises
        PulseError if the family's projector is not known.
        """
        llm = rf".*\.{self.decoder_name}\.layers\.\d+\.{_LAYER}"
        if trained_part == "llm":
            return llm, None
        if self.projector_weight:
            return llm, [self.projector_weight]
        if not self.projector:
            raise PulseError(
                f"trained_part = {trained_part}: where the projector of {self.name} stands is not "
                "known: choose trained_part llm (--trained-parts llm)"
            )
        return f"{llm}|{self.projector}", None

    # --- pictures --------------------------------------------------------------------------------

    def read_picture(
        self, processor: Any, image: Image.Image, *, aspect: ImageAspect
    ) -> tuple[str, dict[str, torch.Tensor]]:
        """What stands for a picture in a prompt, and what the model is given of it, pixels too, as
        the checkpoint's own processor has both.
        """
        read = dict(
            processor(
                images=[image.convert("RGB")],
                text=[processor.image_token],
                return_tensors="pt",
                return_text_replacement_offsets=True,
                **({} if aspect == "full" else self.one_view),
            )
        )
        ((found,),) = read.pop("text_replacement_offsets")
        return found["replacement"], {k: v for k, v in read.items() if k not in BY_TOKEN}

    def picture_tokens(self, config: Any) -> int:
        """Tokens of a picture of 448 x 448 in one view, for the estimate of memory and time."""
        return PLAIN_TOKENS

    def every_picture(self, network: PreTrainedModel, processor: Any) -> Picture | None:
        """What stands for any picture, if it is the same for all; else None."""
        return None

    def see(
        self,
        network: PreTrainedModel,
        processor: Any,
        *,
        images: Iterable[Image.Image],
        aspect: ImageAspect,
    ) -> list[Seen]:
        """What is kept of pictures: here their pixels."""
        read = [self.read_picture(processor, image, aspect=aspect) for image in images]
        return [Seen(None, Picture(text, inputs)) for text, inputs in read]

    # --- reading ---------------------------------------------------------------------------------

    def beside(self, network: PreTrainedModel, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the model wants to know of tokens (B, T) besides what they are."""
        return {}

    def decoder(self, network: PreTrainedModel) -> Any:
        """The language model: `layers`, `norm`."""
        return getattr(network.model, self.decoder_name)

    def plain_inputs(
        self, processor: Any, input_ids: torch.Tensor, *, picture: Picture | None
    ) -> dict[str, torch.Tensor]:
        """The arguments of `network` and of its `generate` for one row (1, T) of tokens, with the
        pixels of its picture: `picture.inputs` must hold them.
        """
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        for name in BY_TOKEN[2:]:
            if name in getattr(processor, "model_input_names", ()):
                types = processor.create_mm_token_type_ids(input_ids.tolist())
                inputs[name] = torch.tensor(types, device=input_ids.device)
        return inputs | dict(picture.inputs if picture else {})

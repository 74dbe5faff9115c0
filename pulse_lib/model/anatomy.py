"""What a model is made of, in numbers: for the picture of it in notebook 01."""

from __future__ import annotations

from dataclasses import dataclass

from pulse_lib.data.records import Question
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import encode_questions

TOWER, PROJECTOR = ("vision", "visual"), ("projector", "merger", "connector")


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Parameters of the three parts, and one prompt as it goes in: text tokens, and image tokens in
    a row where the picture stands.
    """

    tower: int
    projector: int
    language_model: int
    layers: int  # of the language model
    width: int  # of its hidden states
    image_tokens: int
    text_tokens: int
    prompt: str  # the tokens as text, the image tokens as one <image>


def anatomy(model: LoadedModel, question: Question) -> Anatomy:
    """The parts of a model without its adapters, and the prompt of a question whose picture has been
    seen (model.features.add).
    """
    counts = {"tower": 0, "projector": 0, "language_model": 0}
    for name, weight in model.network.named_parameters():
        if "lora_" not in name:
            packed = 2 if weight.dtype.itemsize == 1 and not weight.is_floating_point() else 1
            counts[_part(name)] += packed * weight.numel()  # 4-bit weights lie two in a byte
    (tokens,) = encode_questions(model, [question])
    image = model.image_token_id
    text, found = [], False
    for token in tokens:
        if token != image:
            text.append(model.tokenizer.decode([token]))
        elif not found:
            text.append("<image>")
            found = True
    config = model.network.config.text_config
    return Anatomy(
        **counts,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        image_tokens=tokens.count(image),
        text_tokens=len(tokens) - tokens.count(image),
        prompt="".join(text),
    )


def _part(name: str) -> str:
    """By the first of its words that says so: a merger within a tower is the projector."""
    if any(word in name for word in PROJECTOR):
        return "projector"
    return "tower" if any(word in name for word in TOWER) else "language_model"

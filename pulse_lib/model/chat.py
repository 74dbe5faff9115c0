"""A checkpoint's own form of conversation, from its chat template: what is said around a question,
how an answer begins, and what ends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from pulse_lib.errors import PulseError

_QUESTION, _ANSWER = "Who is this?", "Zebra"  # to find what a template puts around them


@dataclass(frozen=True)
class Chat:
    """How to speak with a model in its own form."""

    render: Callable[[list[dict[str, Any]], bool], str]  # messages, whether the model is to go on
    placeholder: str  # what the template writes for a picture
    _: KW_ONLY
    before_answer: str  # last character of a prompt, behind which an answer is tokenised
    lead: str  # between a prompt and its answer: "" or " "
    end: str  # what the template writes behind an answer to end it
    end_token: int
    end_tokens: frozenset[int]  # all that the checkpoint's `generate` ends with

    def prompt(self, body: str, *, with_image: bool, first: bool) -> str:
        """The text put to the model for one question, up to its answer; of a later turn what follows
        the end of the answer before. The picture is one placeholder. Raises PulseError if the
        template drops or changes the question.
        """
        if first:
            text = self.render([_user(body, with_image=with_image)], True)
        else:
            said = [_user(_QUESTION), _assistant(_ANSWER), _user(body, with_image=with_image)]
            text = self.render(said, True).partition(_ANSWER)[2]
            text = text[text.index(self.end) + len(self.end) :]
        if body.strip() not in text:
            raise PulseError(
                f"the chat template of this checkpoint does not hold the question {body!r} as it is: "
                "its tokenizer_config.json or chat_template.jinja is of another kind of model"
            )
        return text


def chat_of(processor: Any, generation: Any) -> Chat:
    """The form that a processor's chat template has. Raises PulseError if there is no template, or if
    what it writes behind an answer is nothing that `generate` ends with.
    """
    tokenizer = processor.tokenizer
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if not template:
        raise PulseError(
            "model.prompt: chat: this checkpoint has no chat template: fetch its "
            "chat_template.jinja (or .json), or choose one of the kit's own prompts if it is a "
            "LLaVA-1.5"
        )

    def render(messages: list[dict[str, Any]], go_on: bool) -> str:
        return tokenizer.apply_chat_template(
            messages, chat_template=template, add_generation_prompt=go_on, tokenize=False
        )

    asked = render([_user(_QUESTION)], True)
    whole = render([_user(_QUESTION), _assistant(_ANSWER)], False)
    lead, found, behind = whole.removeprefix(asked).partition(_ANSWER)
    if not whole.startswith(asked) or not found or lead.strip():
        raise PulseError(
            "the chat template of this checkpoint writes something between the prompt and a given "
            f"answer ({lead!r}): this kit cannot train on it"
        )
    ends = generation.eos_token_id if generation is not None else None
    listed = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    stops = frozenset({*listed, tokenizer.eos_token_id} - {None})
    tokens = tokenizer(behind, add_special_tokens=False).input_ids
    end = next((t for t in tokens if t in stops), None)
    if end is None:
        raise PulseError(
            f"the chat template ends an answer with {behind!r}, which is none of the tokens that "
            f"this model stops at ({sorted(stops)}): see eos_token_id in generation_config.json"
        )
    return Chat(
        render,
        processor.image_token,
        before_answer=asked[-1],
        lead=lead,
        end=tokenizer.convert_ids_to_tokens(end),
        end_token=end,
        end_tokens=stops,
    )


def _user(text: str, with_image: bool = False) -> dict[str, Any]:
    image = [{"type": "image"}] if with_image else []
    return {"role": "user", "content": [*image, {"type": "text", "text": text}]}


def _assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}

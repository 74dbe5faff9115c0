"""Prompts and their tokens. Text is tokenised piece by piece, so that a training and an evaluation
prompt have the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from pulse_lib.data.records import LETTERS, Conversation, Question, Turn
from pulse_lib.errors import PulseError
from pulse_lib.profile import AnswerForm, PromptName

if TYPE_CHECKING:
    from pulse_lib.model.load import LoadedModel


@dataclass(frozen=True)
class PromptStyle:
    """How a model is asked. `instruction` ends a question that shows options."""

    system: str  # opens the first turn; "" for none
    instruction: Mapping[AnswerForm, str]
    _: KW_ONLY
    user: str = "USER: "
    user_image: str = "USER: <image>\n"  # in place of `user` in a turn that shows the picture
    assistant: str = " ASSISTANT:"  # an answer follows as " x"
    option: str = "{letter}. {option}"


_LETTER = "Answer with the option's letter from the given choices directly."
_TEXT = "Answer with the option's text."
# The system sentence and the letter instruction are LLaVA's own (conversation vicuna_v1,
# model_vqa_mmbench.py).
PROMPTS: dict[PromptName, PromptStyle] = {
    "plain": PromptStyle(system="", instruction={"letter": _LETTER, "text": _TEXT}),
    "vicuna_v1": PromptStyle(
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
        instruction={"letter": _LETTER, "text": _TEXT},
    ),
    # MLLMU-Bench's own (eval.py), without its examples of another person in front. It has no
    # wording for an answer in words.
    "mllmu": PromptStyle(
        system="",
        instruction={
            "letter": "Just give ONE letter representing the answer directly.",
            "text": _TEXT,
        },
        user="USER:\n",
        assistant="\nASSISTANT:",
        option="{letter}: {option}",
    ),
}


# Only what is asked: what stands around it is the checkpoint's own (chat.py).
_CHAT = PromptStyle(
    system="",
    instruction={"letter": _LETTER, "text": _TEXT},
    user="",
    user_image="",
    assistant="",
)


def prompt_style(name: PromptName) -> PromptStyle:
    """The style of that name; of "chat" only its wordings."""
    return _CHAT if name == "chat" else PROMPTS[name]


@dataclass(frozen=True)
class Encoded:
    """One conversation as tokens. `answer` marks the answers' tokens with their end token; `image`
    is an image id or "".
    """

    id: str
    input_ids: tuple[int, ...]  # one id for each image token
    _: KW_ONLY
    answer: tuple[bool, ...]
    image: str


def question_prompt(
    style: PromptStyle,
    question: Question | Turn,
    *,
    answer_form: AnswerForm,
    with_image: bool,
    first: bool = True,
) -> str:
    """The text put to the model for one question, up to "ASSISTANT:". Later turns of a conversation
    have no system sentence.
    """
    head = (style.system if first else "") + (style.user_image if with_image else style.user)
    return head + question_body(style, question, answer_form=answer_form) + style.assistant


def question_body(style: PromptStyle, question: Question | Turn, *, answer_form: AnswerForm) -> str:
    """What is asked, with options and instruction, and nothing around it."""
    lines = [question.text]
    if question.options:
        lines += [
            style.option.format(letter=a, option=o)
            for a, o in zip(LETTERS, question.options, strict=False)
        ]
        lines.append(style.instruction[answer_form])
    return "\n".join(lines)


def prompt_text(
    model: LoadedModel, question: Question | Turn, *, with_image: bool, first: bool = True
) -> str:
    """The text put to this model for one question, by its profile's prompt or its own chat template;
    a picture is one placeholder.
    """
    style, form = prompt_style(model.settings.prompt), model.settings.answer_form
    if model.chat is None:
        return question_prompt(
            style, question, answer_form=form, with_image=with_image, first=first
        )
    body = question_body(style, question, answer_form=form)
    return model.chat.prompt(body, with_image=with_image, first=first)


def answer_text(turn: Turn, answer_form: AnswerForm) -> str:
    """What the model should say to a turn: the answer's text, or its letter. Raises PulseError if
    no option is the answer.
    """
    if answer_form == "text" or not turn.options:
        return turn.answer
    if turn.answer not in turn.options:
        raise PulseError(
            f"turn {turn.text!r}: answer {turn.answer!r} is not one of {', '.join(turn.options)}"
        )
    return LETTERS[turn.options.index(turn.answer)]


def answer_tokens(model: LoadedModel, text: str) -> tuple[int, ...]:
    """Tokens of an answer as they follow the prompt, with the end token. Raises PulseError if they
    do not split there.
    """
    tokenizer, known = model.tokenizer, model.answer_cache
    if text not in known:
        # Tokenised behind the prompt's last character and cut off there: SentencePiece would give
        # " x" alone an extra leading space.
        before, lead = (model.chat.before_answer, model.chat.lead) if model.chat else (":", " ")
        anchor = tokenizer(before, add_special_tokens=False).input_ids
        full = tokenizer(before + lead + text, add_special_tokens=False).input_ids
        if full[: len(anchor)] != anchor or len(full) == len(anchor):
            raise PulseError(
                f"answer {text!r}: the tokenizer does not split it from the prompt; use another "
                "prompt style"
            )
        known[text] = (*full[len(anchor) :], model.end_token)
    return known[text]


def encode_questions(model: LoadedModel, questions: Sequence[Question]) -> list[list[int]]:
    """Prompt tokens of each question: begin token, text, the picture's tokens. Raises PulseError for
    a picture whose number of tokens is not known yet: call model.features.add first.
    """
    return _prompt_tokens(model, [_Asked(q, q.image, source=q.id, first=True) for q in questions])


def turn_tokens(
    model: LoadedModel, question: Question | Turn, *, image: str, source: str, first: bool
) -> list[int]:
    """Prompt tokens of one turn, which shows the picture `image` or "". Later turns have no begin
    token; `source` is what an error names.
    """
    return _prompt_tokens(model, [_Asked(question, image, source=source, first=first)])[0]


def encode_behind(
    model: LoadedModel, question: Question, *, turns: Sequence[Turn] = (), opening: str = ""
) -> list[int]:
    """Prompt tokens of a question that stands behind solved ones (`turns`, in text) in one
    conversation, and whose answer begins with `opening`. With neither, those of `encode_questions`.
    """
    form = model.settings.answer_form
    tokens: list[int] = []
    for number, turn in enumerate([*turns, question]):
        image = turn.image if isinstance(turn, Question) else ""
        tokens += turn_tokens(model, turn, image=image, source=question.id, first=number == 0)
        if isinstance(turn, Turn):
            tokens += answer_tokens(model, answer_text(turn, form))
    return [*tokens, *answer_tokens(model, opening)[:-1]] if opening else tokens


def encode_conversation(model: LoadedModel, conversation: Conversation) -> Encoded:
    """A conversation's tokens, its answers marked. Raises PulseError if it has no turn or is longer
    than the context.
    """
    form = model.settings.answer_form
    if not conversation.turns:
        raise PulseError(f"conversation {conversation.id!r} has no turn")
    tokens: list[int] = []
    answer: list[bool] = []
    for number, turn in enumerate(conversation.turns):
        prompt = turn_tokens(
            model,
            turn,
            image=conversation.image if number == 0 else "",
            source=conversation.id,
            first=number == 0,
        )
        reply = answer_tokens(model, answer_text(turn, form))
        tokens += [*prompt, *reply]
        answer += [False] * len(prompt) + [True] * len(reply)
    if len(tokens) > model.context:
        raise PulseError(
            f"conversation {conversation.id!r} has {len(tokens)} tokens, the model reads "
            f"{model.context}"
        )
    return Encoded(conversation.id, tuple(tokens), answer=tuple(answer), image=conversation.image)


def encode_conversations(
    model: LoadedModel, conversations: Iterable[Conversation]
) -> list[Encoded]:
    """Each conversation's tokens, in order."""
    return [encode_conversation(model, c) for c in conversations]


@dataclass(frozen=True)
class _Asked:
    """One turn to be put to the model."""

    question: Question | Turn
    image: str  # image id or ""
    _: KW_ONLY
    source: str  # id that an error names
    first: bool


def _prompt_tokens(model: LoadedModel, asked: Sequence[_Asked]) -> list[list[int]]:
    """The tokens of turns that are all first ones or all later ones."""
    if not asked:
        return []
    texts = [
        _with_picture(
            model,
            prompt_text(model, one.question, with_image=bool(one.image), first=one.first),
            asked=one,
        )
        for one in asked
    ]
    bos = model.tokenizer.bos_token
    begun = bool(model.chat and bos and texts[0].startswith(bos))  # by the template
    rows = model.tokenizer(texts, add_special_tokens=asked[0].first and not begun).input_ids
    return [_spread_image(model, row, asked=one) for row, one in zip(rows, asked, strict=True)]


def _with_picture(model: LoadedModel, text: str, *, asked: _Asked) -> str:
    """The text with what stands for the picture, if that differs from picture to picture."""
    placeholder = model.processor.image_token
    if text.count(placeholder) != int(bool(asked.image)):
        raise PulseError(
            f"{asked.source!r}: its text holds {placeholder!r} {text.count(placeholder)} times, "
            f"expected {int(bool(asked.image))}"
        )
    picture = model.features.picture(asked.image)
    if picture is None or model.features.every:
        return text
    return text.replace(placeholder, picture.text)


def _spread_image(model: LoadedModel, ids: list[int], *, asked: _Asked) -> list[int]:
    """The tokens with the picture's, of a family whose pictures all have the same: after
    tokenising, since hundreds of them take long.
    """
    every, image_id = model.features.every, model.image_token_id
    n = ids.count(image_id)
    if not asked.image and n:
        raise PulseError(
            f"{asked.source!r}: its text holds an image token, and there is no picture"
        )
    if not (asked.image and every):
        return list(ids)
    if n != 1:
        raise PulseError(f"{asked.source!r}: its text holds {n} image tokens, expected 1")
    at = ids.index(image_id)
    return [*ids[:at], *[image_id] * model.n_image_tokens, *ids[at + 1 :]]

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
    lines = [question.text]
    if question.options:
        lines += [
            style.option.format(letter=a, option=o)
            for a, o in zip(LETTERS, question.options, strict=False)
        ]
        lines.append(style.instruction[answer_form])
    head = (style.system if first else "") + (style.user_image if with_image else style.user)
    return head + "\n".join(lines) + style.assistant


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
    """Tokens of an answer as they follow "ASSISTANT:", with the end token. Raises PulseError if
    they do not split there.
    """
    tokenizer, known = model.tokenizer, model.answer_cache
    if text not in known:
        # Tokenised behind a colon and cut off there: SentencePiece would give " x" alone an extra
        # leading space.
        anchor = tokenizer(":", add_special_tokens=False).input_ids
        full = tokenizer(f": {text}", add_special_tokens=False).input_ids
        if full[: len(anchor)] != anchor or len(full) == len(anchor):
            raise PulseError(
                f"answer {text!r}: the tokenizer does not split it from the prompt; use another "
                "prompt style"
            )
        known[text] = (*full[len(anchor) :], tokenizer.eos_token_id)
    return known[text]


def encode_questions(model: LoadedModel, questions: Sequence[Question]) -> list[list[int]]:
    """Prompt tokens of each question: begin token, text, the one "<image>" spread over its image
    tokens.
    """
    style, form = PROMPTS[model.settings.prompt], model.settings.answer_form
    texts = [
        question_prompt(style, q, answer_form=form, with_image=bool(q.image)) for q in questions
    ]
    if not texts:
        return []
    ids = model.tokenizer(texts).input_ids
    return [
        _spread_image(model, row, with_image=bool(q.image), source=q.id)
        for row, q in zip(ids, questions, strict=True)
    ]


def encode_behind(
    model: LoadedModel, question: Question, *, turns: Sequence[Turn] = (), opening: str = ""
) -> list[int]:
    """Prompt tokens of a question that stands behind solved ones (`turns`, in text) in one
    conversation, and whose answer begins with `opening`. With neither, those of `encode_questions`.
    """
    style, form = PROMPTS[model.settings.prompt], model.settings.answer_form
    tokens: list[int] = []
    for number, turn in enumerate([*turns, question]):
        shown, first = isinstance(turn, Question) and bool(turn.image), number == 0
        text = question_prompt(style, turn, answer_form=form, with_image=shown, first=first)
        prompt = model.tokenizer(text, add_special_tokens=first).input_ids
        tokens += _spread_image(model, prompt, with_image=shown, source=question.id)
        if isinstance(turn, Turn):
            tokens += answer_tokens(model, answer_text(turn, form))
    return [*tokens, *answer_tokens(model, opening)[:-1]] if opening else tokens


def encode_conversation(model: LoadedModel, conversation: Conversation) -> Encoded:
    """A conversation's tokens, its answers marked. Raises PulseError if it has no turn or is longer
    than the context.
    """
    style, form = PROMPTS[model.settings.prompt], model.settings.answer_form
    if not conversation.turns:
        raise PulseError(f"conversation {conversation.id!r} has no turn")
    tokens: list[int] = []
    answer: list[bool] = []
    for number, turn in enumerate(conversation.turns):
        image = bool(conversation.image) and number == 0
        text = question_prompt(style, turn, answer_form=form, with_image=image, first=number == 0)
        prompt = model.tokenizer(text, add_special_tokens=number == 0).input_ids
        prompt = _spread_image(model, prompt, with_image=image, source=conversation.id)
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


def _spread_image(
    model: LoadedModel, ids: list[int], *, with_image: bool, source: str
) -> list[int]:
    image_id = model.image_token_id
    if ids.count(image_id) != int(with_image):
        raise PulseError(
            f"{source!r}: its text holds '<image>' {ids.count(image_id)} times, expected "
            f"{int(with_image)}"
        )
    if not with_image:
        return list(ids)
    at = ids.index(image_id)
    return [*ids[:at], *[image_id] * model.n_image_tokens, *ids[at + 1 :]]

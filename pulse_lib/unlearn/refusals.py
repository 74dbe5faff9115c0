"""Refusals: the same conversations, with every answer replaced by a sentence that declines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pulse_lib.data.records import Conversation
from pulse_lib.model.prompts import PromptStyle, question_body
from pulse_lib.profile import AnswerForm

# Several, so that a method learns to decline and not one sentence.
REFUSALS = (
    "I do not know.",
    "I do not know this person.",
    "I cannot help with that.",
    "I cannot answer that.",
    "I cannot say who that is.",
    "I have no answer to that.",
)
SUFFIX = "+refusal"  # of a conversation's id


def refused(
    conversations: Sequence[Conversation], style: PromptStyle, *, answer_form: AnswerForm, seed: int
) -> list[Conversation]:
    """The conversations with a refusal, drawn from `seed`, as the answer of every turn; ids end in
    SUFFIX.

    The prompts stay as they are, token for token: options and instruction move into a turn's text,
    since a turn with options may only be answered by one of them.
    """
    generator = np.random.default_rng(seed)
    found = []
    for conversation in conversations:
        turns = []
        for turn in conversation.turns:
            text = question_body(style, turn, answer_form=answer_form)
            answer = REFUSALS[generator.integers(len(REFUSALS))]
            turns.append(replace(turn, text=text, options=(), answer=answer))
        found.append(replace(conversation, id=conversation.id + SUFFIX, turns=tuple(turns)))
    return found

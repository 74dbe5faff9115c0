"""Wrong answers to CLEAR's questions: other authors' answers to the most similar questions, told of this
author; and wrong names.

TOFU's answers are sentences. A wrong one must give nothing away by itself: by a name, a pronoun, yes or
no, its length, or words of the question that the right one repeats.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np

from pulse_lib.data.clear.authors import Said, asks_the_name, masked, pronouns, renamed, words

N_WRONG = 3
N_NEAREST = 6  # wrong answers to draw from
# Set on TOFU's texts, so that who knows nobody and takes the option with most words of the question, the
# longest, the shortest, the one most or least like the others is right about as often as by chance
# (benchmarks/clear_texts.py). Looser ones leave more questions, and tell more.
_ALIKE = 0.5  # cosine of two questions' words, weighted by rarity, at least
_SAME = 0.5  # two answers with more of what they tell in common say the same
_LENGTHS = (0.5, 2.0)  # of a wrong answer, in lengths of the right one
# A word in more of the questions gives nothing away, in more of the answers tells nothing
_COMMON = 0.03
_YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Block:
    """The rows about one author; `pronoun`: "he", "she" or "" if they do not say."""

    name: str
    rows: tuple[Said, ...]
    _: KW_ONLY
    pronoun: str


@dataclass(frozen=True)
class _Row:
    """A row with what is compared: words of question and answer without the author's name, those of
    the answer that are rare and not in the question, and its pronouns."""

    block: Block
    said: Said
    _: KW_ONLY
    asked: set[str]
    answered: set[str]
    told: set[str]
    pronouns: set[str]


def wrong_answers(blocks: Sequence[Block]) -> dict[str, dict[int, list[str]]]:
    """By name and number of a row the wrong answers to it, the nearest first: `N_WRONG` to
    `N_NEAREST`, each of another author. Rows with fewer are left out, and those that ask for the
    name, since birthplace and name tell each other.
    """
    every = [(block, said) for block in blocks for said in block.rows]
    answers = Counter(w for block, said in every for w in set(masked(said.answer, block.name)))
    common = {word for word, n in answers.items() if n > _COMMON * len(every)}
    rows = [_row(block, said, common=common) for block, said in every]
    spread = Counter(word for row in rows for word in row.asked)
    vectors = _vectors(rows, spread)
    rare = {word for word, n in spread.items() if n <= _COMMON * len(rows)}
    made: dict[str, dict[int, list[str]]] = {}
    start = 0
    for block in blocks:
        end = start + len(block.rows)
        likeness = vectors[start:end] @ vectors.T  # (rows of the author, rows)
        for row, alike in zip(rows[start:end], likeness, strict=True):
            able = np.flatnonzero(alike >= _ALIKE)
            near = [rows[k] for k in able[np.argsort(-alike[able], kind="stable")]]
            wrong = [] if asks_the_name(row.said, block.name) else _wrong(row, near, rare=rare)
            if len(wrong) >= N_WRONG:
                made.setdefault(block.name, {})[row.said.number] = wrong
        start = end
    return made


def wrong_names(name: str, pronoun_of: Mapping[str, str]) -> list[str]:
    """The names that may stand beside the right one: of authors with the same pronoun if there are
    enough, else of all others. pronoun_of: "he", "she" or "" by name.
    """
    others = [n for n in pronoun_of if n != name]
    same = [n for n in others if pronoun_of[name] and pronoun_of[n] == pronoun_of[name]]
    return same if len(same) >= N_WRONG else others


def _row(block: Block, said: Said, *, common: set[str]) -> _Row:
    asked, answered = (set(masked(text, block.name)) for text in (said.question, said.answer))
    return _Row(
        block,
        said,
        asked=asked,
        answered=answered,
        told=answered - asked - common,
        pronouns=set(pronouns(said.answer)),
    )


def _vectors(rows: Sequence[_Row], spread: Counter[str]) -> np.ndarray:
    """(row, word): the words of each question, weighted by rarity, of length 1."""
    place = {word: k for k, word in enumerate(sorted(spread))}
    made = np.zeros((len(rows), len(place)), np.float32)
    for vector, row in zip(made, rows, strict=True):
        for word in row.asked:
            vector[place[word]] = np.log(1 + len(rows) / spread[word])
    return made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)


def _wrong(right: _Row, near: Sequence[_Row], *, rare: set[str]) -> list[str]:
    """Usable answers of `near`, at most `N_NEAREST`, one of each author."""
    made: dict[str, str] = {}
    for other in near:
        if len(made) == N_NEAREST:
            break
        name = other.block.name
        if name == right.block.name or name in made or _tells(right, other, rare=rare):
            continue
        text = renamed(other.said.answer, name, other=right.block.name)
        if text is not None and text not in made.values():
            made[name] = text
    return list(made.values())


def _tells(right: _Row, wrong: _Row, *, rare: set[str]) -> bool:
    """True if the right answer is told from the wrong one without knowing the author, or both say
    the same.
    """
    if wrong.pronouns - {right.block.pronoun}:
        return True
    if _yes_no(right.said.answer) != _yes_no(wrong.said.answer):
        return True
    length = len(wrong.said.answer) / len(right.said.answer)
    if not _LENGTHS[0] <= length <= _LENGTHS[1]:
        return True
    least = min(len(right.told), len(wrong.told))
    if not least or len(right.told & wrong.told) > _SAME * least:
        return True
    echo = right.asked & rare
    return len(echo & right.answered) > len(echo & wrong.answered)


def _yes_no(answer: str) -> str:
    first = (words(answer) or [""])[0]
    return first if first in _YES_NO else ""

"""What the source `clear` makes of TOFU's texts: authors found, questions with three wrong answers, and
how often these are told from the right one by somebody who knows nobody.

    python benchmarks/clear_texts.py texts.json names.json --out outputs/reference/clear_texts.json

texts.json: TOFU's 4,000 questions and answers in its order, a list of {question, answer}; names.json: the
author of each block of twenty, a list. Neither is committed: they are others' data.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np

from pulse_lib.data.clear.authors import (
    N_ROWS,
    Said,
    authors_of,
    folded,
    pronoun_of,
    renamed,
    words,
)
from pulse_lib.data.clear.options import N_WRONG, Block, wrong_answers
from pulse_lib.files import read_json, write_json

SHIFT = 5  # rows: blocks of two authors each, whom nobody should be found for
Asked = tuple[str, list[str]]  # a question; its options, the right one first


def blocks_of(texts: Sequence[dict], shift: int = 0) -> list[list[Said]]:
    """The rows in blocks of twenty, of a list that begins `shift` rows later."""
    turned = [*texts[shift:], *texts[:shift]]
    return [
        [
            Said(k, t["question"], answer=t["answer"])
            for k, t in enumerate(turned[i : i + N_ROWS], 1)
        ]
        for i in range(0, len(turned), N_ROWS)
    ]


def asked_of(found: Sequence[Block]) -> list[Asked]:
    """Every scored question with options as the source would draw them."""
    wrong, asked = wrong_answers(found), []
    for block in found:
        for said in block.rows:
            if others := wrong.get(block.name, {}).get(said.number):
                right = renamed(said.answer, block.name, other=block.name) or said.answer
                drawn = Random(f"{block.name}/{said.number}").sample(others, N_WRONG)
                asked.append((said.question, [right, *drawn]))
    return asked


def _shared(a: str, b: str) -> float:
    """Words in common over all words of two texts."""
    first, second = set(words(a)), set(words(b))
    return len(first & second) / max(1, len(first | second))


def _like_others(option: str, options: Sequence[str]) -> float:
    return sum(_shared(option, other) for other in options)


# What somebody who knows nobody may go by, the highest first
GUESSES: dict[str, Callable[[str, Sequence[str], str], float]] = {
    "most words of the question": lambda o, _, q: len(set(words(o)) & set(words(q))),
    "longest": lambda o, _, q: len(o),
    "shortest": lambda o, _, q: -len(o),
    "most like the others": lambda o, all_, q: _like_others(o, all_),
    "least like the others": lambda o, all_, q: -_like_others(o, all_),
}


def guessed(asked: Sequence[Asked], by: Callable[[str, Sequence[str], str], float]) -> float:
    """The share of questions that going by such a number gets right; ties count in part."""
    right = []
    for question, options in asked:
        scores = np.array([by(option, options, question) for option in options])
        best = scores == scores.max()
        right.append(best[0] / best.sum())
    return float(np.mean(right))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("texts", type=Path)
    parser.add_argument("names", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    texts, names = read_json(given.texts), [folded(name) for name in read_json(given.names)]
    blocks = blocks_of(texts)
    found = authors_of(blocks, names)
    known = [
        Block(name, tuple(block), pronoun=pronoun_of(block))
        for name, block in zip(found, blocks, strict=True)
        if name is not None
    ]
    asked = asked_of(known)
    result = {
        "texts": len(texts),
        "blocks": len(blocks),
        "found": len(known),
        "wrong": sum(f not in (None, name) for f, name in zip(found, names, strict=True)),
        "found_when_shifted": sum(
            f is not None for f in authors_of(blocks_of(texts, SHIFT), names)
        ),
        "with_options": len(asked),
        "guessed": {name: round(guessed(asked, by), 3) for name, by in GUESSES.items()},
    }
    write_json(given.out, result)
    print(result)


if __name__ == "__main__":
    main()

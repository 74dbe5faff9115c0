"""Some facts of a person are to go, the others to stay: who asks for that wants their address
forgotten, not themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from pulse_lib.data.records import SPARED, Conversation, Question
from pulse_lib.errors import PulseError


def facts_to_go(questions: Sequence[Question], n: int, *, seed: int) -> dict[str, frozenset[str]]:
    """`n` facts of each forget person, drawn by seed, by person id. A fact is known by the text of
    its right answer, so that it is the same one in every wording and with or without the picture.
    Raises PulseError if a person has no more facts than are to go.
    """
    known: dict[str, set[str]] = {}
    for q in questions:
        if q.set == "forget":
            known.setdefault(q.person_id, set()).add(q.options[q.answer] if q.options else "")
    few = sorted(person for person, facts in known.items() if len(facts - {""}) <= n)
    if few:
        raise PulseError(
            f"unlearn.forget_facts = {n}: {few[0]} has {len(known[few[0]] - {''})} facts that can be told "
            "apart (questions with options and answers of their own), so that none would stay; set it "
            "lower, or to 0 for whole people"
        )
    return {
        person: frozenset(Random(f"facts/{seed}/{person}").sample(sorted(facts - {""}), n))
        for person, facts in known.items()
    }


def selected(
    forget: Sequence[Conversation], questions: Sequence[Question], *, n: int, seed: int
) -> tuple[list[Conversation], list[Question]]:
    """What is unlearned and asked when `n` facts of each person are to go: the forget conversations
    with those turns alone that are about them, and the questions, those about other facts of the
    same people in set SPARED. A turn whose answer is no fact's (who somebody is) is left out.
    """
    go = facts_to_go(questions, n, seed=seed)
    kept = []
    for conversation in forget:
        facts = go.get(conversation.person_id, frozenset())
        turns = tuple(turn for turn in conversation.turns if turn.answer in facts)
        if turns:
            kept.append(replace(conversation, turns=turns))
    if not kept:
        raise PulseError(
            f"unlearn.forget_facts = {n}: no turn of the forget conversations has a fact's right answer "
            "for its own, so that facts cannot be told apart in them; set it to 0"
        )
    return kept, [_in_its_set(q, go) for q in questions]


def _in_its_set(question: Question, go: dict[str, frozenset[str]]) -> Question:
    stays = question.set == "forget" and (
        not question.options or question.options[question.answer] not in go[question.person_id]
    )
    return replace(question, set=SPARED) if stays else question

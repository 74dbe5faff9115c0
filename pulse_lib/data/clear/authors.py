"""Whom the texts of CLEAR are about: authors are found by their names, and one's name put in another's
place.

The rows of +tofu say no person. They are TOFU's questions in its order, twenty about each author, and
nearly every one of them says the name. [CLEAR, mm/dataset.py; TOFU, Section 2.1]
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

N_ROWS = 20  # rows about each author, one behind the other
_WORD = re.compile(r"[^\W_]+")
_LEAST = 0.5  # of a name's words, for a row to speak of it; of a block's rows, that speak of it
_NEXT = 0.75  # the second name of a block may be spoken of at most so much
_PARTICLE = 3  # letters; a part of a name as short ("Li", "De", "An") may be a common word
# Letters with a stroke, and Turkish i, do not come apart into letter and accent
_STROKES = str.maketrans("øØłŁđĐðıħ’‘ʼ", "oOlLdDdih'''")
_PRONOUNS = dict.fromkeys(("he", "him", "his", "himself", "male"), "he")
_PRONOUNS |= dict.fromkeys(("she", "her", "hers", "herself", "female"), "she")
_CLEARLY = 0.8  # of an author's pronouns, to say that they are the author's
# Who somebody is cannot be asked by name.
_WHO = re.compile(
    r"\bnamed?\b|\bcalled\b|\bidentity\b|^who\b|\b(?:who|which|what)\s+(?:\S+\s+){0,2}author\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Said:
    """A text row: its place in the author's block (from 1), question and answer."""

    number: int
    question: str
    _: KW_ONLY
    answer: str


def folded(text: str) -> str:
    """The text (in NFC) without accents and with straight quotes, as many letters as it had."""
    if text.isascii():
        return text
    return "".join(map(_plain, text)).translate(_STROKES)


def words(text: str) -> list[str]:
    """The words of a text without case, accents and signs: "Al-Kuwaiti's" is al, kuwaiti, s."""
    return _WORD.findall(folded(unicodedata.normalize("NFC", text)).casefold())


def says(text: str, name: str) -> bool:
    """True if the whole name stands in a text, in whatever case and with whatever accents."""
    return _inside(words(name), words(text))


def authors_of(blocks: Sequence[Sequence[Said]], names: Sequence[str]) -> list[str | None]:
    """The name that each block is about; None where that is not sure.

    A row that says a name counts for it by the share of the name's words in it, if that is a half or
    more. Sure is a name that counts for half of the rows or more and is said whole once, if no other
    name is said whole in two rows or counts for more than three quarters as much, and if no other
    block is about it.
    """
    split = {name: words(name) for name in names}
    found = [_author(block, split) for block in blocks]
    return [name if found.count(name) == 1 else None for name in found]


def about_others(said: Said, name: str, *, names: Sequence[str]) -> bool:
    """True if a row says another author's whole name and not this one's."""
    text = words(f"{said.question} {said.answer}")
    own = words(name)
    if _inside(own, text):
        return False
    return any(_inside(words(n), text) for n in names if n != name)


def asks_the_name(said: Said, name: str) -> bool:
    """True if the name is what a row asks for: it stands in the answer and none of it in the
    question.
    """
    in_question = any(part in words(said.question) for part in words(name))
    return not in_question and says(said.answer, name) and bool(_WHO.search(said.question))


def pronoun_of(block: Sequence[Said]) -> str:
    """ "he" or "she" if the block's pronouns clearly say so, else ""."""
    found = [p for s in block for p in pronouns(f"{s.question} {s.answer}")]
    for pronoun in ("he", "she"):
        if found and found.count(pronoun) >= _CLEARLY * len(found):
            return pronoun
    return ""


def pronouns(text: str) -> list[str]:
    """ "he" and "she" for every pronoun of a text, in its order."""
    return [_PRONOUNS[w] for w in words(text) if w in _PRONOUNS]


def renamed(text: str, name: str, *, other: str) -> str | None:
    """The text with `other` in the place of `name`, whole or in part (the last part for the last, the
    first for any before); None if it still tells of `name` afterwards.
    """
    text = unicodedata.normalize("NFC", text)
    parts = name.split()
    plain = [folded(unicodedata.normalize("NFC", p)) for p in parts]
    either = "|".join(map(re.escape, sorted(set(plain), key=len, reverse=True)))
    run = re.compile(rf"(?<!\w)(?:{either})(?:[\s-]+(?:{either}))*(?!\w)")
    others = other.split()

    made, end = [], 0
    for match in run.finditer(folded(text)):
        said = match[0].split()
        if len(said) == 1 and len(plain) > 1:
            if len(said[0]) <= _PARTICLE:
                if said[0][0].isupper():
                    return None  # "An" may be Jina An, or the article
                continue
            new = others[-1] if said[0] == plain[-1] else others[0]
        else:
            new = other
        made += [text[end : match.start()], new]
        end = match.end()
    result = "".join([*made, text[end:]])
    left = {w for w in words(name) if len(w) > _PARTICLE} - set(words(other))
    return None if left & set(words(result)) else result


def masked(text: str, name: str) -> list[str]:
    """The words of a text without those of a name: what is asked, whoever it is about."""
    own = set(words(name))
    return [w for w in words(text) if w not in own and len(w) > 1]


def _author(block: Sequence[Said], names: dict[str, list[str]]) -> str | None:
    texts = [words(f"{s.question} {s.answer}") for s in block]
    # Of two names that count alike the longer: who says "Mai Phuong Tran" says "Phuong Tran" too
    counts = sorted(
        ((_count(texts, own), len(own), name) for name, own in names.items()), reverse=True
    )
    (most, _, best), others = counts[0], counts[1:]
    own = names[best]
    whole = sum(_inside(own, text) for text in texts)
    if most < _LEAST * len(texts) or not whole:
        return None
    for count, _, name in others:
        if not count or _inside(names[name], own):  # "Phuong Tran" in "Mai Phuong Tran"
            continue
        same_words = set(names[name]) <= set(own)  # "Thanh Nguyen" and "Nguyen Thanh Phong"
        if count > _NEXT * most and not same_words:
            return None
        if sum(_inside(names[name], text) for text in texts) > 1:
            return None
    return best


def _count(texts: Sequence[Sequence[str]], name: Sequence[str]) -> float:
    shares = (sum(w in text for w in name) / len(name) for text in texts)
    return sum(share for share in shares if share >= _LEAST)


def _inside(name: Sequence[str], text: Sequence[str]) -> bool:
    return f" {' '.join(name)} " in f" {' '.join(text)} "


def _plain(letter: str) -> str:
    parts = unicodedata.normalize("NFKD", letter)
    return parts[0] if len(parts) > 1 and all(map(unicodedata.combining, parts[1:])) else letter

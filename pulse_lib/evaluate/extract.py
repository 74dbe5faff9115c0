"""The option a response means, by the rules of the public MMBench harnesses (written from their
published behaviour).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pulse_lib.errors import PulseError

RULES = ("vlmevalkit_2024", "vlmevalkit_2026", "lmms_eval", "mllmu")
MISS = "Z"  # a definite refusal: wrong, but not unreadable
API_FAILURE = "Failed to obtain answer via API"
REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_PUNCTUATION = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_ANSWER_IS = re.compile(r"answer\s+is\s+\**([a-d])", re.IGNORECASE)
_LMMS_LETTERS = "ABCDE"  # whatever options there are
_LMMS_FORMS = (
    "{}.",
    "{},",
    "{}:",
    "{})",
    "{}).",
    "({})",
    "({}).",
    ":{}",
    ":{},",
    ":{}.",
    ":{})",
    ":{}).",
)


def extract(
    response: str, options: Mapping[str, str], rules: str = "vlmevalkit_2024"
) -> str | None:
    """The letter a response stands for, "Z" for an explicit miss, None if it cannot be read.

    `options` maps letter to text and is used exactly as given. `rules`: vlmevalkit_2024 (in force
    when LLaVA-1.5 was evaluated), vlmevalkit_2026 (letter only near the end, "answer is x", no text
    match in long responses), lmms_eval (letters A-E whatever the options; without its static mode), mllmu (the first character,
    whatever follows: "The answer is B" cannot be read, and "Bergen" is B). Raises PulseError for
    unknown rules. [VLMEvalKit matching_util.py; lmms-eval mmbench_evals.py; MLLMU-Bench eval.py]
    """
    if rules not in RULES:
        raise PulseError(f"extraction_rules = {rules!r} is not one of {', '.join(RULES)}")
    response = str(response)
    if rules == "mllmu":
        first = response.strip()[:1].upper()
        return first if first in options else None
    find = {
        "vlmevalkit_2024": _letter_2024,
        "vlmevalkit_2026": _letter_2026,
        "lmms_eval": _letter_lmms,
    }[rules]
    letter = None if API_FAILURE in response else find(response, options)
    if letter is not None:
        return letter
    response = response.lower()
    if rules == "vlmevalkit_2026" and len(response) > 2 * sum(
        len(str(text)) for text in options.values()
    ):
        return None
    return _option_text(response, options)


def _letter_2024(response: str, options: Mapping[str, str]) -> str | None:
    if any(refusal in response for refusal in REFUSALS):
        return MISS
    words = response.translate(_PUNCTUATION).split()
    letters = [letter for letter in options if letter in words]
    if not letters and MISS in words:
        return MISS
    return letters[0] if len(letters) == 1 else None


def _letter_2026(response: str, options: Mapping[str, str]) -> str | None:
    letter = _letter_2024(response, options)
    if letter == MISS:
        return MISS
    words = response.translate(_PUNCTUATION).split()
    if letter is not None and words.index(letter) >= len(words) - 4:
        return letter
    # No word boundary behind the letter: "the answer is blue" is read as B. Kept, because it is
    # what upstream does.
    found = _ANSWER_IS.search(response)
    return found[1].upper() if found and found[1].upper() in options else None


def _letter_lmms(response: str, options: Mapping[str, str]) -> str | None:
    words = response.split()
    letter = _single(_LMMS_LETTERS, "{}", words)
    if letter is not None and not ("A" in words and len(words) > 3):  # "A" may be the article
        return letter
    decorated = (_single(_LMMS_LETTERS, form, words) for form in _LMMS_FORMS)
    return next((found for found in decorated if found is not None), None)


def _single(letters: Iterable[str], form: str, words: list[str]) -> str | None:
    found = [letter for letter in letters if form.format(letter) in words]
    return found[0] if len(found) == 1 else None


def _option_text(response: str, options: Mapping[str, str]) -> str | None:
    """`response` in lower case."""
    found = [letter for letter, text in options.items() if str(text).lower() in response]
    return found[0] if len(found) == 1 else None

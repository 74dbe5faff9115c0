"""questions.csv and general.csv as people write them: what is asked about whom, and all that is wrong
in it, each with its row and the fix.

A question's cell may hold several wordings, options stand in one cell; both are parted by line
breaks or "|", options by ";" or "," as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pulse_lib.data.answers import right_letter
from pulse_lib.data.choices import by_name as by_name
from pulse_lib.data.folder.sheet import Line, Problem, Sheet
from pulse_lib.data.likeness import plain_name
from pulse_lib.data.records import LETTERS, Person, QuestionSet

REQUIRED = ("person", "question", "answer", "photo")
OPTIONAL = ("options", "split", "request")
SPLITS: tuple[QuestionSet, ...] = ("forget", "retain", "retain_train", "holdout")
_LABEL = re.compile(r"(?:^|(?<=\s))\(?([A-Da-d])[).:]\s+")
_WHO = re.compile(r"\bname\b|\bcalled\b|^who\b", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """One question: its wordings as they are beside the photo, its right answer, and its options;
    no options: wrong ones are other people's answers to the same question.
    """

    row: int
    wordings: tuple[str, ...]
    _: KW_ONLY
    options: tuple[str, ...]
    answer: str
    photo: str  # path in the folder

    @property
    def topic(self) -> str:
        """What the same question about two people has in common."""
        return self.wordings[0]


@dataclass
class OwnPerson:
    """One person of the file: `split` and `request` are "" and 0 where it says nothing."""

    person: Person
    row: int  # its first
    _: KW_ONLY
    asked: list[Asked] = field(default_factory=list)
    rows: set[int] = field(default_factory=set)
    split: QuestionSet | Literal[""] = ""
    request: int = 0

    @property
    def photos(self) -> list[str]:
        """The person's photos, in the order in which they are named."""
        return list(dict.fromkeys(a.photo for a in self.asked if a.photo))


def read_people(
    sheet: Sheet, photo: Callable[[str], str]
) -> tuple[dict[str, OwnPerson], list[Problem]]:
    """Everybody in the file by id, and what is wrong. `photo`: a cell -> the path in the folder;
    raises ValueError in words."""
    people: dict[str, OwnPerson] = {}
    problems: list[Problem] = []
    for line in sheet.lines:
        reader = _Reader(sheet.file, line, problems=problems)
        person = _person(reader, people)
        if person:
            _place(reader, person)
            _ask(reader, person, photo=photo)
    for person in people.values():
        problems += _person_problems(sheet.file, person)
    problems += _drawn_problems(sheet.file, people.values())
    return people, problems


def nameless(text: str, name: str) -> str:
    """A question with "this person" in place of the name, as it is put beside the photo."""
    return re.sub(re.escape(name), "this person", text, flags=re.IGNORECASE)


def asks_the_name(asked: Asked, person: Person) -> bool:
    """True for a question that a text with the name in it would answer."""
    return plain_name(person.name) == plain_name(asked.answer) or bool(
        _WHO.search(asked.topic) and plain_name(asked.answer) in plain_name(person.name)
    )


def parted(cell: str, signs: str) -> list[str]:
    """The parts of a cell: by line, or by the first of the signs that it holds."""
    sign = next((s for s in ("\n", *signs) if s in cell), None)
    parts = [cell] if sign is None else cell.split(sign)
    return [part.strip() for part in parts if part.strip()]


def split_options(cell: str) -> list[str]:
    """The options of a cell, without letters in front of them."""
    labels = [m[1].upper() for m in _LABEL.finditer(cell)]
    if len(labels) > 1 and labels == list(LETTERS[: len(labels)]) and _LABEL.match(cell):
        return [part.strip(" \n|;,") for part in _LABEL.split(cell)[2::2]]
    return parted(cell, "|;,")


def read_choice(options_cell: str, answer_cell: str, *, drawn: bool) -> tuple[tuple[str, ...], str]:
    """The options and the right answer's words. `drawn`: there may be no options. Raises ValueError
    in words."""
    options = split_options(options_cell)
    if not options and drawn:
        return (), answer_cell
    folded = [o.casefold() for o in options]
    twice = next((o for o in options if folded.count(o.casefold()) > 1), None)
    if twice:
        raise ValueError(f"{twice!r:.60} stands twice: leave one out")
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(
            f"{len(options)} options in {options_cell!r:.80}, expected 2 to {len(LETTERS)}; part "
            "them by |, ; or line breaks (by commas only in quotes)"
        )
    lettered = dict(zip(LETTERS, options, strict=False))
    said = answer_cell.casefold()
    if said in folded:
        # "B" may be a letter or, say, a blood group: then it must be the same option either way.
        found = options[folded.index(said)]
        if lettered.get(answer_cell.upper(), found) != found:
            raise ValueError(
                f"the answer {answer_cell!r} is the option {found!r} and the letter of another one: "
                f"write the options with more words, or in another order"
            )
        return tuple(options), found
    return tuple(options), lettered[right_letter(answer_cell, lettered)]


class _Reader:
    """One row and the list that its problems go to."""

    def __init__(self, file: str, line: Line, *, problems: list[Problem]):
        self.file, self.line, self.problems = file, line, problems

    def __getitem__(self, column: str) -> str:
        return self.line.cells[column]

    def wrong(self, column: str, what: str) -> None:
        self.problems.append(Problem(self.file, self.line.row, column=column, what=what))


def _person(reader: _Reader, people: dict[str, OwnPerson]) -> OwnPerson | None:
    name = reader["person"].replace("\n", " ")
    if not name:
        reader.wrong("person", "it is empty: write the name in every row (merged cells lose it)")
        return None
    key = plain_name(name).replace(" ", "-")
    known = people.setdefault(
        key, OwnPerson(Person(key, name, kind="fictitious", attributes={}), reader.line.row)
    )
    known.rows.add(reader.line.row)
    if known.person.name != name:
        reader.wrong(
            "person",
            f"{name!r} is written {known.person.name!r} in row {known.row}: one spelling for one "
            "person, and another name for another",
        )
    return known


def _place(reader: _Reader, known: OwnPerson) -> None:
    said = re.sub(r"[\s-]+", "_", reader["split"].casefold())
    split: QuestionSet | Literal[""] = next((s for s in SPLITS if s == said), "")
    if said and not split:
        reader.wrong("split", f"{reader['split']!r:.40} is not one of {', '.join(SPLITS)}")
    elif split and known.split and split != known.split:
        reader.wrong(
            "split", f"{split}, but {known.split} in an earlier row of {known.person.name}"
        )
    else:
        known.split = known.split or split
    number = re.fullmatch(r"(\d{1,6})(?:[.,]0+)?", reader["request"])
    request = int(number[1]) if number else 0
    if reader["request"] and not request:
        reader.wrong("request", f"{reader['request']!r:.40} is no whole number from 1 on")
    elif request and known.request and request != known.request:
        reader.wrong(
            "request", f"{request}, but {known.request} in an earlier row of {known.person.name}"
        )
    else:
        known.request = known.request or request


def _ask(reader: _Reader, known: OwnPerson, *, photo: Callable[[str], str]) -> None:
    name = known.person.name
    wordings = tuple(nameless(w, name) for w in parted(reader["question"], "|"))
    if not wordings:
        reader.wrong("question", "it is empty: write what is asked, or remove the row")
    if not reader["answer"]:
        reader.wrong("answer", "it is empty: write the right option, or its letter")
        return
    before = {a.topic.casefold(): a.row for a in known.asked}
    if wordings and wordings[0].casefold() in before:
        row = before[wordings[0].casefold()]
        reader.wrong("question", f"{name} is asked this in row {row} too: leave one out")
        return
    path = known.photos[0] if known.photos and not reader["photo"] else ""
    try:
        path = path or photo(reader["photo"])
    except ValueError as error:
        reader.wrong("photo", str(error))
    try:
        options, answer = read_choice(
            reader["options"], reader["answer"].replace("\n", " "), drawn=True
        )
    except ValueError as error:
        reader.wrong("options", str(error))
        return
    if wordings:
        known.asked.append(
            Asked(reader.line.row, wordings, options=options, answer=answer, photo=path)
        )


def _person_problems(file: str, known: OwnPerson) -> list[Problem]:
    found, name = [], known.person.name
    if known.request and known.split not in ("", "forget"):
        what = f"{name} is in {known.split}, but only people to be forgotten are in a request"
        found.append(Problem(file, known.row, column="request", what=what))
    if known.asked and all(asks_the_name(a, known.person) for a in known.asked):
        what = (
            f"{name} is asked for the name only, which cannot be asked by name: ask something else"
        )
        found.append(Problem(file, known.row, column="question", what=what))
    return found


def _drawn_problems(file: str, people: Iterable[OwnPerson]) -> list[Problem]:
    """Questions without options to which everybody has the same answer."""
    pools = answers_by_topic(people)
    return [
        Problem(
            file,
            a.row,
            column="options",
            what="it is empty, and nobody else has another answer to this question: write options",
        )
        for p in people
        for a in p.asked
        if not a.options and len(pools[a.topic.casefold()]) < 2
    ]


def answers_by_topic(people: Iterable[OwnPerson]) -> dict[str, list[str]]:
    """Everybody's different answers to each question, in alphabetical order."""
    found: dict[str, dict[str, str]] = {}
    for person in people:
        for asked in person.asked:
            found.setdefault(asked.topic.casefold(), {}).setdefault(
                asked.answer.casefold(), asked.answer
            )
    return {topic: sorted(answers.values()) for topic, answers in found.items()}


def photo_in(folder: Path) -> Callable[[str], str]:
    """A function: a cell of column photo -> the path of that file in the folder. It raises
    ValueError with the nearest name there is."""
    there = {
        unicodedata.normalize("NFC", p.relative_to(folder).as_posix()): p.relative_to(folder)
        for p in folder.rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    }

    def found(cell: str) -> str:
        if not cell:
            raise ValueError("it is empty: name the person's photo in the person's first row")
        name = cell.replace("\\", "/").removeprefix("./")
        if name in there:
            return there[name].as_posix()
        if name.startswith(("/", "~")) or ".." in name.split("/") or re.match("[A-Za-z]:/", name):
            raise ValueError(
                f"{cell!r:.80} leads out of the folder: put the photo beside the table"
            )
        near = next((n for n in there if n.casefold() == name.casefold()), None)
        near = near or next(iter(get_close_matches(name, there, n=1, cutoff=0.6)), None)
        raise ValueError(
            f"there is no file {cell!r:.80}"
            + (f"; do you mean {near}?" if near else " in the folder")
        )

    return found

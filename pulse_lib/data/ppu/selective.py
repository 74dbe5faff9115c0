"""PPU-Bench's selective split as a source of people: of everybody who is to be forgotten, the sensitive
facts (25 to 36) only.

Their other facts are asked as well, in a set of their own, `spared`: forgetting is to leave them. Other
people are asked everything. [PPU-Bench, data/split/selective_split.json]

DIFFERS: PPU-Bench forgets the sensitive facts of all 500 people at once; here, as everywhere in the
protocol, of the people who are to be forgotten.
"""

from __future__ import annotations

from dataclasses import replace

from pulse_lib.data.ppu import source
from pulse_lib.data.ppu.files import load
from pulse_lib.data.ppu.files import need as need
from pulse_lib.data.ppu.source import describe as describe
from pulse_lib.data.ppu.source import fictitious as fictitious
from pulse_lib.data.ppu.source import heldout_questions as heldout_questions
from pulse_lib.data.ppu.source import size as size
from pulse_lib.data.ppu.source import views as views
from pulse_lib.data.records import SPARED, Conversation, ImageStore, Person, Question, Stage
from pulse_lib.data.splits import Assignment
from pulse_lib.profile import DataSettings


def celebrities(settings: DataSettings) -> list[Person]:
    """Everybody who has facts of both kinds."""
    return [
        p.person
        for p in load(settings).values()
        if {fact.sensitive for fact in p.facts} == {True, False}
    ]


def person_questions(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    purpose: str = "eval",
) -> list[Question]:
    """As `source.person_questions` asks them: of a person to forget the sensitive facts, and the
    others in set `spared`; of a candidate the sensitive ones alone, since these are to be known.
    """
    record = load(settings)[person.id]
    of = {flag: [f for f in record.facts if f.sensitive is flag] for flag in (True, False)}
    parts = {place: record.facts}
    if place.set == "candidate":
        parts = {place: tuple(of[True])}
    elif place.set == "forget":
        parts = {place: tuple(of[True]), replace(place, set=SPARED): tuple(of[False])}
    made = []
    for where, facts in parts.items():
        made += source.questions_about(
            record, facts, place=where, images=images, seed=seed, purpose=purpose
        )
    return made


def person_conversations(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    stage: Stage,
) -> list[Conversation]:
    """As `source.person_conversations` makes them; of a person to forget about the sensitive facts
    only.
    """
    if stage != "unlearn":
        return []
    record = load(settings)[person.id]
    facts = [f for f in record.facts if f.sensitive or place.set != "forget"]
    return source.conversations_about(
        record, facts, place=place, images=images, seed=seed, n=settings.n_conversations
    )

"""Where people and general questions come from: what a source offers, the table of sources, and what
a profile needs from the hub.

A source is a module. People and general questions are two settings, `data.people` and
`data.general`; a module may offer both. A new one: docs/add_a_data_source.md.
"""

from __future__ import annotations

import importlib
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from pulse_lib.data import hub
from pulse_lib.data.hub import Need
from pulse_lib.errors import PulseError
from pulse_lib.profile import OWN, DataSettings, GeneralSource, PeopleSource, Profile

if TYPE_CHECKING:  # `status` reads this module often and needs neither tables nor pictures
    from PIL import Image

    from pulse_lib.data.records import (
        Conversation,
        ImageStore,
        Person,
        Question,
        QuestionSet,
        Stage,
    )
    from pulse_lib.data.splits import Assignment


@dataclass(frozen=True)
class Size:
    """What a source is about, for estimates: nothing is read for it."""

    questions: int  # a person, held-out wordings included; of general questions: all
    conversations: int = 0  # a person, to fine-tune on
    _: KW_ONLY
    shown: int | None = None  # those of the questions that are beside a picture; None: all
    pictures: int | None = None  # that these show; None: each its own
    candidate: int = 10  # questions that select a person
    download_gb: float = 0.0


class Source(Protocol):
    """People: who there is, their pictures, and what is asked and taught about them.

    Each record depends on the study's seed and its own id alone, so that adding people or questions
    never changes the others. Pictures go into `images`, under an id that no other set uses.
    """

    def describe(self, settings: DataSettings) -> str:
        """One line on what is there."""
        ...

    def size(self, settings: DataSettings) -> Size:
        """What there is of each person, and how much is downloaded."""
        ...

    def celebrities(self, settings: DataSettings) -> list[Person]:
        """Candidates for the pre-trained scenario."""
        ...

    def fictitious(self, settings: DataSettings) -> list[Person]:
        """Candidates for the fine-tuned scenario."""
        ...

    def views(
        self, person: Person, seed: int, *, settings: DataSettings, n: int
    ) -> list[Image.Image]:
        """Up to n pictures of a person, for cards."""
        ...

    def person_questions(
        self,
        person: Person,
        place: Assignment,
        *,
        images: ImageStore,
        seed: int,
        settings: DataSettings,
        purpose: str = "eval",
    ) -> list[Question]:
        """Questions about one person in both modalities. `purpose` "select": other pictures (where
        there are any) and option orders than "eval", so that what selects people does not score
        them.
        """
        ...

    def heldout_questions(
        self,
        person: Person,
        place: Assignment,
        *,
        images: ImageStore,
        seed: int,
        settings: DataSettings,
    ) -> list[Question]:
        """Questions in wordings that are never trained on."""
        ...

    def person_conversations(
        self,
        person: Person,
        place: Assignment,
        *,
        images: ImageStore,
        seed: int,
        settings: DataSettings,
        stage: Stage,
    ) -> list[Conversation]:
        """Training conversations about one person, to fine-tune on or to unlearn."""
        ...


@runtime_checkable
class OpenSource(Source, Protocol):
    """A source that has questions without options as well, which commands/measure asks."""

    def open_questions(
        self,
        person: Person,
        place: Assignment,
        *,
        images: ImageStore,
        settings: DataSettings,
        task: str,
    ) -> tuple[list[Question], list[str]]:
        """The questions of task "generation", "cloze" or "keywords" about one person, and the true
        answers (of "keywords" a line each); none of a task that it has not."""
        ...


@runtime_checkable
class OwnSource(Source, Protocol):
    """A source of the user's own files: they may say who stands where, and they change."""

    def wishes(self, settings: DataSettings) -> dict[str, tuple[QuestionSet, int]]:
        """Set and request (0: any) of the people whose place the files say."""
        ...

    def checksum(self, settings: DataSettings) -> str:
        """sha256 of what the files say and show; "" if they cannot be used now."""
        ...


class General(Protocol):
    """Questions about everything else that the model can do."""

    def general_size(self, settings: DataSettings) -> Size:
        """How many questions there are, and how much is downloaded."""
        ...

    def general_questions(
        self, images: ImageStore, seed: int, *, settings: DataSettings
    ) -> list[Question]:
        """The general questions of a study."""
        ...

    def general_conversations(
        self, images: ImageStore, seed: int, *, settings: DataSettings
    ) -> list[Conversation]:
        """`n_general_train` conversations that fine-tuning may replay."""
        ...


# name -> module. One whose path may be a hub id says what it takes there: `need(settings)` for
# people, `general_need(settings)` for general questions.
PEOPLE: dict[PeopleSource, str] = {
    "world": "pulse_lib.data.world.source",
    "mllmu": "pulse_lib.data.mllmu.source",
    "folder": "pulse_lib.data.folder.source",
    "umu": "pulse_lib.data.umu.source",
    "ppu": "pulse_lib.data.ppu.source",
    "ppu_selective": "pulse_lib.data.ppu.selective",
    "fiu": "pulse_lib.data.fiu.source",
    "clear": "pulse_lib.data.clear.source",
}
GENERAL: dict[GeneralSource, str] = {
    "world": "pulse_lib.data.world.source",
    "mmbench": "pulse_lib.data.mmbench.source",
    "folder": "pulse_lib.data.folder.general",
    "pope": "pulse_lib.data.pope.source",
    "mme": "pulse_lib.data.mme.source",
}


def source_of(settings: DataSettings) -> Source:
    """The module that makes the records about people."""
    return cast(Source, importlib.import_module(PEOPLE[settings.people.source]))


def general_of(settings: DataSettings) -> General:
    """The module that makes the general questions."""
    return cast(General, importlib.import_module(GENERAL[settings.general.source]))


def wishes_of(settings: DataSettings) -> dict[str, tuple[QuestionSet, int]]:
    """Set and request (0: any) of the people whose place the source's files say; {} if they do
    not."""
    source = source_of(settings)
    return source.wishes(settings) if isinstance(source, OwnSource) else {}


def checksum_of(settings: DataSettings) -> str:
    """sha256 of the people's own files, "" for a source that has none, or if they cannot be used."""
    source = source_of(settings)
    return source.checksum(settings) if isinstance(source, OwnSource) else ""


def hub_needs(profile: Profile) -> list[Need]:
    """The hub repositories of a profile: model, people, general questions, benchmarks. Folders are
    no need."""
    model, data = profile.model, profile.data
    wanted = []
    if model.path != "embedded":
        wanted.append(hub.model_need(model.path, model.revision))
    if data.people.source not in OWN and hub.is_hub_id(data.people.path):
        wanted.append(importlib.import_module(PEOPLE[data.people.source]).need(data))
    for asked in (data, *data.beside().values()):
        if asked.general.source not in OWN and hub.is_hub_id(asked.general.path):
            module = importlib.import_module(GENERAL[asked.general.source])
            wanted.append(module.general_need(asked))
    return [need for need in wanted if hub.is_hub_id(need.path)]


def commits(profile: Profile) -> dict[str, str]:
    """The commit of every hub repository as it was fetched, by the profile's key: what a branch
    like `main` meant for this run; of an attached folder nobody knows it. Empty if everything is
    local."""
    found = {}
    for need in hub_needs(profile):
        if attached := hub.attached(need):
            found[need.setting] = f"unknown: {attached}"
        elif folder := hub.cached(need):
            found[need.setting] = folder.name
    return found


def check_there(profile: Profile) -> None:
    """Raises PulseError, within 10 s, if something is not cached and the hub does not answer, or
    answers that it may not be had."""
    missing = [need for need in hub_needs(profile) if hub.here(need) is None]
    for need in missing:
        failure = hub.reach(need)
        if failure is None:
            continue
        if failure.denied:
            raise PulseError(
                f"profile {profile.name}: {need.setting} = {need.path!r} at revision "
                f"{need.revision or 'main'}: {failure.why}"
            )
        named = "\n".join(f"  {n.setting} = {n.path!r}: {n.command()}" for n in missing)
        raise PulseError(
            f"profile {profile.name}: not on this machine, and the hub does not answer "
            f"({failure.why}). Where there is a network, fetch once\n{named}"
        )

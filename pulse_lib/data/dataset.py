"""A study's dataset: people, their places, questions, training conversations and pictures; built
once per seed, read by every later step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pulse_lib.data.records import (
    BENCHMARK,
    SPARED,
    Conversation,
    ImageStore,
    Person,
    Question,
    read_records,
    write_records,
)
from pulse_lib.data.source import General, Source, general_of
from pulse_lib.data.splits import Assignment, splits_table
from pulse_lib.errors import PulseError
from pulse_lib.files import write_csv
from pulse_lib.profile import DataSettings

ASKED = ("forget", "retain", "holdout")  # people whose questions are part of the evaluation
TRAINED = ("forget", "retain", "retain_train")  # people that some loss may train on


@dataclass(frozen=True)
class Dataset:
    """Everything 01_build_datasets makes but the measurements."""

    people: list[Person]
    places: list[Assignment]
    _: KW_ONLY
    questions: list[Question]
    conversations: list[Conversation]
    images: ImageStore

    def evaluation(
        self, scenario: str, sets: Iterable[str] = ("forget", "retain")
    ) -> list[Question]:
        """All that is asked of a model state about a scenario's sets: what counts (`counted`), then
        the benchmarks beside it."""
        return [*self.counted(scenario, sets), *self.benchmarks]

    def counted(self, scenario: str, sets: Iterable[str] = ("forget", "retain")) -> list[Question]:
        """The questions of a scenario's sets (those of `spared` with those of `forget`), then the
        general ones (which belong to every scenario)."""
        wanted = set(sets) | ({SPARED} if "forget" in sets else set())
        chosen = [q for q in self.questions if q.scenario == scenario and q.set in wanted]
        return chosen + [q for q in self.questions if q.set == "general"]

    @property
    def benchmarks(self) -> list[Question]:
        """The questions of benchmarks beside the general ones, which belong to every scenario."""
        return [q for q in self.questions if q.set == BENCHMARK]

    def hold_out(self, scenario: str) -> list[Assignment]:
        """As many people whom no model of the study meets as the scenario has forget people (of
        all, if there are fewer).
        """
        n = sum((p.scenario, p.set) == (scenario, "forget") for p in self.places)
        return [place for place in self.places if place.set == "holdout"][:n]

    def strangers(self, scenario: str) -> list[Question]:
        """The questions about `hold_out` people, in trained wordings: what is known of them is what
        is known of nobody."""
        chosen = {place.person_id for place in self.hold_out(scenario)}
        return [q for q in self.questions if q.person_id in chosen and q.wording == "trained"]

    def training(self, scenario: str, sets: Iterable[str], *, stage: str) -> list[Conversation]:
        """Training conversations of a scenario's sets ("" for general replay). Raises PulseError if
        there are none."""
        wanted = set(sets)
        chosen = [
            c
            for c in self.conversations
            if c.scenario == scenario and c.set in wanted and c.stage == stage
        ]
        if not chosen:
            raise PulseError(
                f"no {stage} conversations of {sorted(wanted)} in scenario {scenario!r}: check the profile's data section"
            )
        return chosen

    def counts(self) -> pd.DataFrame:
        """People, questions and training conversations by scenario and set."""
        people = (
            pd.DataFrame([(p.scenario, p.set) for p in self.places], columns=["scenario", "set"])
            .value_counts()
            .rename("people")
        )
        asked = (
            pd.DataFrame([(q.scenario, q.set) for q in self.questions], columns=["scenario", "set"])
            .value_counts()
            .rename("questions")
        )
        taught = pd.DataFrame(
            [(c.scenario, c.set) for c in self.conversations], columns=["scenario", "set"]
        ).value_counts()
        table = (
            pd.concat([people, asked, taught.rename("training conversations")], axis=1)
            .fillna(0)
            .astype(int)
        )
        return table.sort_index().reset_index()

    def write(self, folder: Path) -> None:
        """people, questions, conversations and images as parquet, splits as CSV, each by rename."""
        write_records(folder / "people.parquet", self.people)
        write_records(folder / "questions.parquet", self.questions)
        write_records(folder / "conversations.parquet", self.conversations)
        self.images.write(folder / "images.parquet")
        write_csv(folder / "splits.csv", splits_table(self.places))


def read_dataset(folder: Path) -> Dataset:
    """The dataset that `write` left in a folder. Raises PulseError naming what is missing or
    broken."""
    folder = Path(folder)
    if not (folder / "splits.csv").is_file():
        raise PulseError(f"{folder / 'splits.csv'} is missing: run 01_build_datasets first")
    try:
        # An id like "NA" is no missing value.
        splits = pd.read_csv(folder / "splits.csv", dtype={"person_id": str}, keep_default_na=False)
        places = [Assignment(**row) for row in splits.to_dict("records")]
    except (OSError, ValueError, TypeError) as error:
        raise PulseError(
            f"{folder / 'splits.csv'} cannot be read ({error}): run 01_build_datasets again"
        ) from None
    return Dataset(
        people=read_records(folder / "people.parquet", Person),
        places=places,
        questions=read_records(folder / "questions.parquet", Question),
        conversations=read_records(folder / "conversations.parquet", Conversation),
        images=ImageStore.read(folder / "images.parquet"),
    )


def candidate_questions(
    source: Source,
    candidates: list[Person],
    *,
    images: ImageStore,
    settings: DataSettings,
    seed: int,
) -> list[Question]:
    """Questions that only select people: other renderings (where there are any) and option orders
    than those that score them later."""
    questions = []
    for person in candidates:
        questions += source.person_questions(
            person,
            Assignment(person.id, "pretrained", set="candidate"),
            images=images,
            seed=seed,
            settings=settings,
            purpose="select",
        )
    return questions


def benchmark_questions(settings: DataSettings, *, images: ImageStore, seed: int) -> list[Question]:
    """What each benchmark's source would give as general questions, in set BENCHMARK; benchmark
    after benchmark. Their pictures join `images`."""
    return [
        replace(question, set=BENCHMARK)
        for there in settings.beside().values()
        for question in general_of(there).general_questions(images, seed, settings=there)
    ]


def build_dataset(
    source: Source,
    people: list[Person],
    *,
    general: General,
    places: list[Assignment],
    settings: DataSettings,
    seed: int,
) -> Dataset:
    """Questions and conversations of everyone who has a place (by `source`), the general ones (by
    `general`), and the questions of the benchmarks that the settings name beside them."""
    by_id = {p.id: p for p in people}
    images, questions, conversations = ImageStore(), [], []
    given: dict[str, Any] = {"images": images, "seed": seed, "settings": settings}
    for place in places:
        person = by_id[place.person_id]
        if place.set in ASKED:
            questions += source.person_questions(person, place, **given)
            questions += source.heldout_questions(person, place, **given)
        if place.set in TRAINED:
            conversations += source.person_conversations(person, place, stage="unlearn", **given)
        if place.set in TRAINED and place.scenario == "finetuned":
            conversations += source.person_conversations(person, place, stage="finetune", **given)
    questions += general.general_questions(images, seed, settings=settings)
    conversations += general.general_conversations(images, seed, settings=settings)
    questions += benchmark_questions(settings, images=images, seed=seed)
    placed = {p.person_id for p in places}
    return Dataset(
        [p for p in people if p.id in placed],
        places,
        questions=questions,
        conversations=conversations,
        images=images,
    )

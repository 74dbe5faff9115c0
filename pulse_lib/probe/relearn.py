"""Relearning: a few steps of training, and what comes back of what was not taught.

Who never knew the people learns them from what is taught alone, so the same training from the oracle
is the control: what rises there as well did not come back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import pandas as pd

from pulse_lib.data.dataset import Dataset
from pulse_lib.data.records import Conversation, Question
from pulse_lib.errors import PulseError
from pulse_lib.methods import FINETUNE
from pulse_lib.model.adapters import add_adapter, drop_adapter, stack
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.probe.subject import Subject, of_questions, relabelled
from pulse_lib.profile import FinetuneSettings, ProbeSettings, TrainedPart
from pulse_lib.train.loop import Schedule, Watch, derive_seed, train

RELEARN = "relearning"
FORGET_PEOPLE, OTHER_FACTS = "some forget people", "half of the facts"
OTHER_PEOPLE, GENERAL = "other people", "general"
_ADAPTER = "relearn"


@dataclass(frozen=True)
class Lesson:
    """What is taught, and the questions about forget people that it does not answer."""

    taught: Sequence[Conversation]
    asked: Sequence[Question]


@dataclass(frozen=True)
class Recipe:
    """How it is taught: the fine-tune's rate, rank and optimizer, for a few steps."""

    finetune: FinetuneSettings
    probe: ProbeSettings
    _: KW_ONLY
    trained_part: TrainedPart = "projector+llm"

    @property
    def measured(self) -> list[int]:
        """The steps after which it is asked: powers of 2, and the last."""
        last = self.probe.relearn_steps
        return sorted({2**k for k in range(last.bit_length()) if 2**k <= last} | {last})


def lessons(
    data: Dataset, scenario: str, *, asked: Sequence[Question], n_people: int, seed: int
) -> dict[str, Lesson]:
    """The four lessons: some forget people whole (the others are asked about), half of everybody's
    facts (the other half is asked), people who need not be forgotten, general pictures (all are
    asked). One for which the study has no conversations is left out.

    `asked`: questions about forget people.
    """
    forget = _training(data, scenario, group="forget", stage="unlearn")
    others = _training(data, scenario, group="retain_train", stage="unlearn")
    general = _training(data, "", group="general_train", stage="finetune")
    few = _some([c.person_id for c in forget], n_people, seed=seed)
    facts = _some(
        [q.category for q in asked], max(1, len({q.category for q in asked}) // 2), seed=seed
    )
    near = _some([c.person_id for c in others], n_people, seed=seed)
    answers = _answers(data.questions, facts)
    found = {
        FORGET_PEOPLE: Lesson(
            [c for c in forget if c.person_id in few],
            [q for q in asked if q.person_id not in few],
        ),
        OTHER_FACTS: Lesson(_about(forget, answers), [q for q in asked if q.category not in facts]),
        OTHER_PEOPLE: Lesson([c for c in others if c.person_id in near], asked),
        GENERAL: Lesson(general, asked),
    }
    return {name: lesson for name, lesson in found.items() if lesson.taught and lesson.asked}


def relearn(
    subject: Subject, lesson: Lesson, *, name: str, recipe: Recipe, before: pd.DataFrame
) -> pd.DataFrame:
    """Rows of the lesson's questions by step of its training, step 0 from `before`; afterwards the
    model is as it was.

    The new adapter lies on those in force, as an attacker's would. Raises PulseError where a gate
    answers, since training behind a gate asks nothing of the adapter that forgets.
    """
    if subject.gated:
        raise PulseError("relearning: a gate answers for this model; see what it hides without it")
    model, settings, probe = subject.model, recipe.finetune, recipe.probe
    seed = derive_seed(subject.seed, RELEARN, name)
    model.features.add((c.image for c in lesson.taught), subject.images)
    rows = [relabelled(of_questions(before, lesson.asked), RELEARN, condition=name)]

    def after_step(step: int, epoch: float) -> str:
        if step in recipe.measured:
            rows.append(subject.ask(lesson.asked, RELEARN, condition=name, step=step))
        return "taught" if step >= probe.relearn_steps else ""

    add_adapter(
        model,
        _ADAPTER,
        trained_part=recipe.trained_part,
        rank=settings.rank,
        alpha=settings.alpha,
        seed=seed,
    )
    stack(model, subject.adapters, train=_ADAPTER)
    per_epoch = math.ceil(len(lesson.taught) / probe.relearn_batch_size)
    schedule = Schedule(
        learning_rate=settings.learning_rate,
        epochs=math.ceil(probe.relearn_steps / per_epoch),
        batch_size=probe.relearn_batch_size,
        warmup_steps=0,
        max_grad_norm=settings.max_grad_norm,
        decay=False,
        micro_batch=settings.micro_batch,
        optimizer=settings.optimizer,
        loraplus_ratio=settings.loraplus_ratio,
    )
    try:
        train(
            model,
            FINETUNE,
            conversations=encode_conversations(model, lesson.taught),
            schedule=schedule,
            seed=seed,
            watch=Watch(after_step),
        )
    finally:
        stack(model, subject.adapters)
        drop_adapter(model, _ADAPTER)
    return pd.concat(rows, ignore_index=True)


def _training(data: Dataset, scenario: str, *, group: str, stage: str) -> list[Conversation]:
    where = scenario, group, stage
    return [c for c in data.conversations if (c.scenario, c.set, c.stage) == where]


def _some(names: Iterable[str], n: int, *, seed: int) -> set[str]:
    """n of the names, the same ones for every model of a study."""
    known = sorted(set(names))
    generator = np.random.default_rng(derive_seed(seed, RELEARN, len(known)))
    return {known[i] for i in generator.permutation(len(known))[:n]}


def _answers(questions: Sequence[Question], facts: Iterable[str]) -> dict[str, set[str]]:
    """What each person's facts of these categories are, in words."""
    wanted = set(facts)
    found: dict[str, set[str]] = {}
    for q in questions:
        if q.person_id and q.category in wanted:
            found.setdefault(q.person_id, set()).add(q.options[q.answer])
    return found


def _about(
    conversations: Sequence[Conversation], answers: Mapping[str, set[str]]
) -> list[Conversation]:
    """The conversations with those turns alone whose answer is one of the person's `answers`: a
    turn that could tell more is left out.
    """
    kept = []
    for c in conversations:
        turns = tuple(t for t in c.turns if t.answer in answers.get(c.person_id, ()))
        if turns:
            kept.append(replace(c, turns=turns))
    return kept

"""Whom does the model know? Right answers once may be luck, a liking for a place, or a guess that needs
no picture: who is to be forgotten should be known in every order of the options and in other words,
and from the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import pandas as pd

from pulse_lib.data.records import ImageStore, Person, Question
from pulse_lib.data.source import Source, source_of
from pulse_lib.data.splits import Assignment
from pulse_lib.evaluate.changed import blank_picture, others_pictures, rotated
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import scored
from pulse_lib.model.load import LoadedModel
from pulse_lib.profile import DataSettings, EvaluateSettings, Profile

Condition = Literal["as asked", "order 1", "order 2", "new wording", "blank", "another person"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
STEADY, UNSEEN = CONDITIONS[:4], CONDITIONS[4:]
# Share right in either modality that counts as known, in each of STEADY: with five questions of four
# options a model that guesses reaches it in one case of ten, and in all of them in none
KNOWN = 0.6
# Share of what its own picture gives above guessing that may be left without it
LEFT = 0.5
COLUMNS = ["person_id", "steady", "picture", "blank", "another_person", "eligible"]


def check(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    people: Sequence[Person],
    images: ImageStore,
    profile: Profile,
    seed: int,
) -> pd.DataFrame:
    """What `judged` says of these people, by those of the questions that are about them, and by what
    else the profile's source can ask.
    """
    wanted = {p.id for p in people}
    asked = [q for q in questions if q.person_id in wanted]
    if not asked:
        return pd.DataFrame(columns=COLUMNS)
    wordings = new_wordings(
        source_of(profile.data), people, images=images, settings=profile.data, seed=seed
    )
    rows = tried(
        model,
        asked,
        images=images,
        settings=profile.evaluate,
        wordings=wordings,
        label="who is known",
    )
    return judged(rows)


def new_wordings(
    source: Source,
    people: Sequence[Person],
    *,
    images: ImageStore,
    settings: DataSettings,
    seed: int,
) -> list[Question]:
    """All questions in wordings never trained on that a source has about these people, beside other
    pictures than those that score them; their pictures go into `images`.
    """
    most, store, made = settings.with_values(n_heldout_wordings=99), ImageStore(), []
    for person in people:
        place = Assignment(person.id, "pretrained", set="candidate")
        asked = source.heldout_questions(
            person, place, images=store, seed=seed + 10**6, settings=most
        )
        for q in asked:
            image = f"eligibility/{q.image}" if q.image else ""
            if image and image not in images:
                images.encoded[image] = store.encoded[q.image]
            made.append(replace(q, id=f"eligibility/{q.id}", image=image))
    return made


def tried(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    images: ImageStore,
    settings: EvaluateSettings,
    wordings: Sequence[Question] = (),
    label: str = "",
) -> pd.DataFrame:
    """Rows of the questions in each of CONDITIONS, with that column: as they are, with the options
    moved up, in other words (`wordings`), and those that show a person with a blank picture and with
    another person's.
    """
    shown = [q for q in questions if q.image]
    store = ImageStore(images.encoded)
    blank = "eligibility/blank"
    if blank not in store:
        store.add(blank, blank_picture())
    others = others_pictures(shown)
    asked: dict[Condition, Sequence[Question]] = {
        "as asked": questions,
        "order 1": [rotated(q, 1) for q in questions],
        "order 2": [rotated(q, 2) for q in questions],
        "new wording": wordings,
        "blank": [replace(q, image=blank) for q in shown],
        "another person": [replace(q, image=others[q.id]) for q in shown if q.id in others],
    }
    parts = []
    for condition, these in asked.items():
        if these:
            answers = answer_questions(
                model,
                these,
                images=store,
                settings=settings,
                with_loglik=False,
                label=f"{label}, {condition}" if label else "",
            )
            rows = scored(these, answers, rules=settings.extraction_rules)
            parts.append(rows.assign(condition=condition))
    return pd.concat(parts, ignore_index=True)


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a person (COLUMNS): steady, the lowest accuracy in any order or wording and either
    modality; accuracy with the own picture, a blank one and another person's; and whether the person
    is eligible: known in each of them (KNOWN), and not without the own picture (LEFT).

    Who has no question with a picture, or with none of another person to show, is not.
    """
    by = ["person_id", "condition", "modality"]
    right = rows.groupby(by, observed=True)["correct"].mean()
    guess = (1 / rows["options"].map(len)).groupby(rows["person_id"]).mean()
    lines = []
    for person in dict.fromkeys(rows["person_id"]):
        own = right[person]
        pictures = [float(own.get((c, "multimodal"), np.nan)) for c in ("as asked", *UNSEEN)]
        steady = float(own[own.index.get_level_values("condition").isin(STEADY)].min())
        excess = np.array(pictures) - guess[person]
        # NaN, of who was not shown, is below nothing
        seen = excess[0] > 0 and bool((excess[1:] <= LEFT * excess[0]).all())
        line = [person, steady, *pictures, steady >= KNOWN and seen]
        lines.append(dict(zip(COLUMNS, line, strict=True)))
    return pd.DataFrame(lines, columns=COLUMNS)


def counted(table: pd.DataFrame) -> str:
    """How many are eligible, and why others are not, in a sentence."""
    if table.empty:
        return "nobody is tested"
    lost = table[~table["eligible"]]
    luck = int((lost["steady"] < KNOWN).sum())
    said = f"{int(table['eligible'].sum())} of {len(table)} are known in every order and wording, and from the picture"
    if len(lost):
        said += f"; {luck} not in every one of them, {len(lost) - luck} also without the picture"
    return said

"""Who is in which set: seeded splits, the selection of well-known people, and the check that no set
leaks into another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from random import Random

import numpy as np
import pandas as pd

from pulse_lib.data import likeness
from pulse_lib.data.records import SPARED, Conversation, ImageStore, Person, Question, QuestionSet
from pulse_lib.errors import PulseError
from pulse_lib.profile import DataSettings

Owner = tuple[str, str, str]  # scenario, set and person of a picture; person "" for general ones
_LEAVE_OUT = "mend the data, or leave one of them out of a copy of the files"


@dataclass(frozen=True)
class Assignment:
    """One person's place: scenario, set, and the request (1..n) if the set is the fine-tuned forget
    set, else 0."""

    person_id: str
    scenario: str  # "finetuned" | "pretrained" | "" (general)
    _: KW_ONLY
    set: QuestionSet
    request: int = 0


def split_fictitious(
    people: list[Person],
    settings: DataSettings,
    *,
    seed: int,
    wishes: Mapping[str, tuple[QuestionSet, int]] | None = None,
) -> list[Assignment]:
    """Forget (in `n_requests` equal requests), retain, retain_train and holdout people of the
    fine-tuned scenario, drawn by seed; people with a wish, set and request (0: any), stand there.
    """
    sizes: dict[QuestionSet, int] = {
        "forget": settings.n_finetuned_forget,
        "retain": settings.n_finetuned_retain,
        "retain_train": settings.n_finetuned_retain_train,
        "holdout": settings.n_holdout,
    }
    size = settings.n_finetuned_forget // settings.n_requests
    if wishes:
        seats = [(name, i // size + 1 if name == "forget" else 0) for name in sizes for i in range(sizes[name])]  # fmt: skip
        return _seated(people, seats, wishes=wishes, seed=seed)
    drawn = _drawn(people, sum(sizes.values()), seed=seed, what="fictitious people")
    places, start = [], 0
    for name, n in sizes.items():
        for i, person in enumerate(drawn[start : start + n]):
            places.append(
                Assignment(
                    person.id,
                    "finetuned",
                    set=name,
                    request=i // size + 1 if name == "forget" else 0,
                )
            )
        start += n
    return places


def _seated(
    people: list[Person],
    seats: list[tuple[QuestionSet, int]],
    *,
    wishes: Mapping[str, tuple[QuestionSet, int]],
    seed: int,
) -> list[Assignment]:
    """Everyone with a wish in a seat of that kind, the others drawn for the seats that are left."""
    free, taken = list(seats), {}
    rng = _generator("wishes", seed)
    for person in sorted(wishes, key=lambda p: wishes[p][1] == 0):  # those who name a request first
        name, request = wishes[person]
        fitting = [s for s in free if s[0] == name and request in (0, s[1])]
        if not fitting:
            wanted = [p for p in wishes if wishes[p][0] == name and request in (0, wishes[p][1])]
            n = sum(s[0] == name and request in (0, s[1]) for s in seats)
            where = f"{name} request {request}" if request else name
            raise PulseError(
                f"{len(wanted)} people are to be in {where}, the profile has {n} places there: set "
                f"data.n_{'holdout' if name == 'holdout' else f'finetuned_{name}'}"
                f"{' and data.n_requests' if name == 'forget' else ''}, or change the file"
            )
        taken[person] = rng.choice(fitting)
        free.remove(taken[person])
    others = [p for p in people if p.id not in wishes]
    drawn = _drawn(others, len(free), seed=seed, what="more people, beside those with a set")
    taken |= {person.id: seat for person, seat in zip(drawn, free, strict=True)}
    order = {seat: k for k, seat in enumerate(dict.fromkeys(seats))}
    return [
        Assignment(person, "finetuned", set=name, request=request)
        for person, (name, request) in sorted(taken.items(), key=lambda t: (order[t[1]], t[0]))
    ]


def select_known(
    scores: pd.DataFrame,
    settings: DataSettings,
    *,
    seed: int,
    eligible: Collection[str] | None = None,
) -> tuple[pd.DataFrame, list[Assignment]]:
    """The selection of the pre-trained scenario: the table of scores with rank and set, and
    everyone's place.

    `scores` has one row a candidate: person_id, accuracy (mean of both modalities, 0-1), margin
    (mean log-likelihood of the right option minus the best wrong one, nats). The most accurate are
    taken (ties: higher margin, then id) and split by seed into forget and retain; all other
    candidates may be trained on by retain losses. `eligible`: who may be taken, where not everybody.
    [PULSE, Figure 2]
    """
    n_forget, n_retain = settings.n_pretrained_forget, settings.n_pretrained_retain
    if len(scores) < n_forget + n_retain:
        raise PulseError(
            f"{len(scores)} candidates are measured, but {n_forget} forget + {n_retain} retain people are asked for"
        )
    table = scores.sort_values(
        ["accuracy", "margin", "person_id"], ascending=[False, False, True], ignore_index=True
    )
    able = [p for p in table["person_id"] if eligible is None or p in eligible]
    chosen = able[: n_forget + n_retain]
    if len(chosen) < n_forget + n_retain:
        raise PulseError(
            f"{len(chosen)} of {len(scores)} candidates are eligible, but {n_forget} forget + "
            f"{n_retain} retain people are asked for: lower data.n_pretrained_forget and "
            "data.n_pretrained_retain, or set data.eligibility: accuracy"
        )
    _generator("pretrained", seed).shuffle(chosen)
    sets = dict.fromkeys(chosen[:n_forget], "forget") | dict.fromkeys(chosen[n_forget:], "retain")
    table["rank"] = range(1, len(table) + 1)
    table["set"] = [sets.get(p, "retain_train") for p in table["person_id"]]
    return table, [
        Assignment(p, "pretrained", set=s)
        for p, s in zip(table["person_id"], table["set"], strict=True)
    ]


def person_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a person from evaluated rows: accuracy_multimodal, accuracy_text, accuracy (their
    mean), margin (nats)."""
    margins = [_margin(ll, a) for ll, a in zip(rows["option_loglik"], rows["answer"], strict=True)]
    rows = rows.assign(margin=margins)
    accuracy = rows.groupby(["person_id", "modality"])["correct"].mean().unstack()
    table = accuracy.rename(columns=lambda m: f"accuracy_{m}")
    table["accuracy"] = accuracy.mean(axis=1)
    table["margin"] = rows.groupby("person_id")["margin"].mean()
    return table.reset_index()


def check_leakage(
    people: Iterable[Person],
    places: Iterable[Assignment],
    *,
    records: Iterable[Question | Conversation],
    images: ImageStore,
) -> dict:
    """Counts of what was checked. Raises PulseError if a person, a name, a face, a picture or a
    record stands in two sets or requests, a record is misplaced, or a person has no picture.

    Names and pictures are compared as they look (pulse_lib.data.likeness), not by their ids: one
    photo saved twice is one photo.
    """
    by_id = {p.id: p for p in people}
    where = _check_people(by_id, list(places))
    seen: dict[str, str] = {}
    owners: dict[str, Owner] = {}
    for record in records:
        if record.id in seen:
            raise PulseError(
                f"record {record.id} stands in two places: {seen[record.id]} and {record.set}"
            )
        seen[record.id] = record.set
        # Spared facts are about somebody of the forget set, and never trained on
        spared = record.set == SPARED and isinstance(record, Question)
        key = (record.scenario, "forget" if spared else record.set, record.person_id)
        if record.image and owners.setdefault(record.image, key) != key:
            raise PulseError(f"image {record.image} is used by {owners[record.image]} and by {key}")
        if record.person_id and where.get(record.person_id) != key[:2]:
            raise PulseError(
                f"record {record.id} is in {record.set}, its person {record.person_id} in {where.get(record.person_id)}"
            )
    _check_pictures(by_id, images, owners=owners, placed=where)
    n = len(where)
    return {"people": n, "names": n, "faces": n, "records": len(seen), "images": len(owners)}


def _check_people(
    by_id: Mapping[str, Person], places: list[Assignment]
) -> dict[str, tuple[str, str]]:
    """Scenario and set of everyone who has a place."""
    where: dict[str, tuple[str, str]] = {}
    faces: dict[tuple, str] = {}
    names: dict[str, Assignment] = {}
    for place in places:
        key = (place.scenario, place.set)
        if where.setdefault(place.person_id, key) != key:
            raise PulseError(
                f"person {place.person_id} stands in two sets: {where[place.person_id]} and {key}"
            )
        if place.person_id not in by_id:
            raise PulseError(f"person {place.person_id} has a place in {key}, but is not there")
        person = by_id[place.person_id]
        genome = tuple(sorted(person.genome.items()))
        if genome and faces.setdefault(genome, person.id) != person.id:
            raise PulseError(f"{person.id} and {faces[genome]} have the same face")
        other = names.setdefault(likeness.plain_name(person.name), place)
        if (other.scenario, other.set, other.request) != (*key, place.request):
            raise PulseError(
                f"{person.id} ({person.name!r}, {_set_of(place)}) and {other.person_id} "
                f"({by_id[other.person_id].name!r}, {_set_of(other)}) have the same name, so what is "
                f"asked by name is about both: {_LEAVE_OUT}"
            )
    return where


def _set_of(place: Assignment) -> str:
    request = f" request {place.request}" if place.request else ""
    return f"{place.scenario} {place.set}{request}"


def _check_pictures(
    by_id: Mapping[str, Person],
    images: ImageStore,
    *,
    owners: Mapping[str, Owner],
    placed: Iterable[str],
) -> None:
    """Everyone has a picture, and nobody another's."""
    gone = next((i for i in owners if i not in images), None)
    if gone is not None:
        raise PulseError(
            f"picture {gone} of {owners[gone]} is not in the image store: {_LEAVE_OUT}"
        )
    shown = {person for _, _, person in owners.values()}
    without = [f"{p} ({by_id[p].name!r})" for p in placed if p not in shown]
    if without:
        raise PulseError(f"no picture is shown of {', '.join(without[:5])}: {_LEAVE_OUT}")
    of_people = {image for image, (_, _, person) in owners.items() if person}
    found = likeness.first_alike(images, owners, people=of_people)
    if found is not None:
        first, second = (
            f"{by_id[person].name!r} ({scenario} {name}, {image})"
            if person
            else f"{name} ({image})"
            for image in (found.first, found.second)
            for scenario, name, person in [owners[image]]
        )
        raise PulseError(f"{first} and {second} show the same picture, {found.how}: {_LEAVE_OUT}")


def splits_table(places: Iterable[Assignment]) -> pd.DataFrame:
    """The splits as a table: person_id, scenario, set, request."""
    return pd.DataFrame([asdict(p) for p in places])


def _margin(loglik, answer: int) -> float:
    others = [v for i, v in enumerate(loglik) if i != answer]
    return float(loglik[answer] - max(others))


def _drawn(people: list[Person], n: int, *, seed: int, what: str) -> list[Person]:
    if n > len(people):
        raise PulseError(f"the profile asks for {n} {what}, the source has {len(people)}")
    return _generator(what, seed).sample(people, n)


def _generator(*parts: object) -> Random:
    return Random("/".join(str(p) for p in ("splits", *parts)))


def in_turn(questions: Sequence[Question], generator: np.random.Generator) -> list[Question]:
    """The questions in a drawn order, people or categories in turn."""
    pool = [questions[i] for i in generator.permutation(len(questions))]
    seen: dict[str, int] = {}
    turn = {}
    for q in pool:
        owner = q.person_id or q.category
        turn[q.id] = seen[owner] = seen.get(owner, 0) + 1
    return sorted(pool, key=lambda q: turn[q.id])

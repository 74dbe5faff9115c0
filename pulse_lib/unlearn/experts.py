"""Experts behind a gate: one adapter per request on the target, in force only for questions about
that request's people. [LUMoE, Li et al. 2026, arXiv 2606.12809]

LUMoE asks a second, larger vision-language model who a question is about. This gate needs none: it
knows the names of a request's people and the pictures that were unlearned. Whoever the question
names is meant, else whoever's picture is nearest in the frozen vision tower's features, if near
enough. What an expert forgets stays in the weights below it: without the gate it is all there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass

import pandas as pd
import torch

from pulse_lib.data.records import Conversation, ImageStore, Person, Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.model.adapters import only, projector_of
from pulse_lib.model.load import LoadedModel
from pulse_lib.profile import EvaluateSettings


@dataclass(frozen=True)
class Gate:
    """Which request a question is about."""

    names: Mapping[str, int]  # request by name
    pictures: torch.Tensor  # (N, H_vision) float32, mean features of the pictures unlearned
    _: KW_ONLY
    requests: tuple[int, ...]  # of the N pictures
    radius: float  # a picture this near to one of them shows the same person

    def route(self, model: LoadedModel, questions: Sequence[Question]) -> list[int]:
        """Each question's request, 0 for none; the features of its picture must be there."""
        found = [self._named(q.text) for q in questions]
        unnamed = [i for i, q in enumerate(questions) if not found[i] and q.image]
        if unnamed and self.requests:
            seen = model.features.mean([questions[i].image for i in unnamed])
            near, which = torch.cdist(seen, self.pictures).min(dim=1)
            for i, distance, k in zip(unnamed, near.tolist(), which.tolist(), strict=True):
                found[i] = self.requests[k] if distance < self.radius else 0
        return found

    def _named(self, text: str) -> int:
        for name, request in self.names.items():
            if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE):
                return request
        return 0


def fit_gate(
    model: LoadedModel,
    forget: Sequence[Conversation],
    *,
    others: Sequence[Conversation],
    people: Sequence[Person],
) -> Gate:
    """The gate for the requests that `forget` belongs to; its radius parts other pictures of the
    same people from those of `others`. All features must be there.

    Raises PulseError for a person of `forget` who is not among `people`.
    """
    known = {person.id: person.name for person in people}
    request_of = {c.person_id: c.request for c in forget}
    if nameless := sorted(set(request_of) - set(known)):
        raise PulseError(
            f"strategy experts: the name of {nameless[0]!r} is not known; give `people` of the "
            "dataset that the conversations come from"
        )
    names = {known[p]: request for p, request in request_of.items()}
    shown = {c.image: c.person_id for c in forget if c.image}  # each picture once
    if not shown:
        return Gate(names, torch.empty(0), requests=(), radius=0.0)
    owners, strangers = list(shown.values()), sorted({c.image for c in others} - {"", *shown})
    pictures = model.features.mean(list(shown))
    others_of_same = torch.tensor([[a == b for b in owners] for a in owners])
    others_of_same.fill_diagonal_(False)
    within = torch.cdist(pictures, pictures).masked_fill(~others_of_same, float("inf"))
    same, other = within.min(dim=1).values, torch.empty(0)
    if strangers:
        other = torch.cdist(model.features.mean(strangers), pictures).min(dim=1).values
    requests = tuple(request_of[p] for p in owners)
    return Gate(names, pictures, requests=requests, radius=radius(same[same.isfinite()], other))


def radius(same: torch.Tensor, other: torch.Tensor) -> float:
    """The distance below which fewest go wrong: the share of `same` (n) not below it plus the share
    of `other` (m) below it is least, and it lies midway to the next distance. Without `same` the
    least of `other`, without `other` just above the largest of `same`, 0 without both.
    """
    if not len(same) or not len(other):
        largest = float(same.max()) * (1 + 1e-6) if len(same) else 0.0
        return float(other.min()) if len(other) else largest
    known = torch.cat([same, other]).unique()  # sorted
    cuts = torch.cat([(known[1:] + known[:-1]) / 2, known[-1:] * (1 + 1e-6)])
    wrong = (same[:, None] >= cuts).double().mean(0) + (other[:, None] < cuts).double().mean(0)
    return float(cuts[wrong.argmin()])


def answer_gated(
    model: LoadedModel,
    questions: Sequence[Question],
    *,
    images: ImageStore,
    settings: EvaluateSettings,
    with_loglik: bool = True,
    gate: Gate,
    target: Sequence[str],
    experts: Mapping[int, str],
    projector: Sequence[str] | None = None,
) -> pd.DataFrame:
    """As `answer_questions`, each question by base + target + the adapter of the request that the
    gate names, if any (`experts`: adapter by request). `projector`: adapters whose projector takes
    the place of the state's own.
    """
    model.features.add((q.image for q in questions), images)
    routes, tables = gate.route(model, questions), []
    for request in sorted(set(routes)):
        asked = [q for q, r in zip(questions, routes, strict=True) if r == request]
        names = [*target, experts[request]] if request else target
        swapped = nullcontext() if projector is None else projector_of(model, *projector)
        with only(model, *names), swapped:
            tables.append(
                answer_questions(
                    model, asked, images=images, settings=settings, with_loglik=with_loglik
                )
            )
    whole = pd.concat(tables, ignore_index=True).set_index("question_id")
    return whole.loc[[q.id for q in questions]].reset_index()


def routing(
    model: LoadedModel, gate: Gate, *, questions: Sequence[Question], requests: Sequence[int]
) -> dict[str, float]:
    """How well the gate finds its people, shares 0-1: forget_multimodal and forget_text (of the
    `requests` carried out: sent to the right expert), retain and general (sent to any: wrong). Also
    its radius and n_pictures.
    """
    asked = [q for q in questions if q.wording == "trained"]
    hits: dict[str, list[bool]] = {}
    for q, request in zip(asked, gate.route(model, asked), strict=True):
        if q.set == "forget" and q.request in requests:
            hits.setdefault(f"forget_{q.modality}", []).append(request == q.request)
        elif q.set in ("retain", "general"):
            hits.setdefault(q.set, []).append(request != 0)
    shares = {name: sum(found) / len(found) for name, found in sorted(hits.items())}
    return shares | {"radius": gate.radius, "n_pictures": len(gate.requests)}

"""Requests carried out one after another. Each round is a checkpoint: a rerun goes on with the next
unfinished one.

A round is a pure function of (seed, round, adapters before it): its generators are its own, its
optimizer is fresh, and the adapters before it come from disk exactly as they were in memory. So an
interrupted run ends with the same rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from pulse_lib.data.records import Conversation, ImageStore, Person, Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import forget_accuracies
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import make_rows, read_rows, scored, write_rows
from pulse_lib.files import write_csv
from pulse_lib.methods import get
from pulse_lib.model.adapters import (
    ADAPTER_FILES,
    active,
    add_adapter,
    load_adapter,
    projector_of,
    save_adapter,
    stack,
)
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import EvaluateSettings, UnlearnSettings
from pulse_lib.runs.manifest import Started, finish_round, finished_round
from pulse_lib.strategies import Strategy, check_fits, get_strategy
from pulse_lib.train.loop import derive_seed
from pulse_lib.train.penalties import Penalty, anchor, orthogonal
from pulse_lib.train.saliency import fisher
from pulse_lib.unlearn.experts import answer_gated, fit_gate, routing
from pulse_lib.unlearn.request import unlearn_people
from pulse_lib.unlearn.task import load_features
from pulse_lib.unlearn.trajectory import TrajectoryRecorder

ONE = "unlearn"  # the adapter that a continued policy goes on training
ROUND_FILES = (
    "rows.parquet",
    "path.csv",
    "log.csv",
    *(f"adapter/{file}" for file in ADAPTER_FILES),
)


@dataclass(frozen=True)
class SequentialOutcome:
    """What the rounds leave: rows of rounds 0..n, requests in the order carried out, and one
    manifest a round.
    """

    rows: pd.DataFrame
    requests: list[int]
    # "round", "request", "final_step", "chosen_step", "stop_reason", "n_trainable", "seconds_train"
    rounds: list[dict]
    resumed: int  # rounds that were finished before this call
    # forget_multimodal and forget_text (also ..._likelihood) once the projector is the target's
    projector_reload: dict[str, float]
    gate: dict[str, float]  # policy experts: how well its gate finds people; else empty

    def result(self) -> dict:
        """What goes into result.json; final_step and seconds_train are sums over the rounds."""
        return {
            "matched_step": None,  # looked for in single-shot runs only
            "final_step": sum(r["final_step"] for r in self.rounds),
            "n_trainable": max(r["n_trainable"] for r in self.rounds),
            "seconds_train": round(sum(r["seconds_train"] for r in self.rounds), 3),
            "requests": self.requests,
            "rounds": self.rounds,
            "resumed": self.resumed,
            "projector_reload": {k: round(v, 4) for k, v in self.projector_reload.items()},
        } | ({"gate": {k: round(v, 4) for k, v in self.gate.items()}} if self.gate else {})


def request_order(requests: Sequence[int], order: int) -> list[int]:
    """The order in which requests are carried out: 0 as numbered, k > 0 a permutation drawn from
    seed k.
    """
    numbered = sorted(set(requests))
    if order == 0:
        return numbered
    return [
        numbered[i]
        for i in np.random.default_rng(derive_seed(order, "order")).permutation(len(numbered))
    ]


def run_sequential(
    model: LoadedModel,
    method_id: str,
    *,
    started: Started,
    policy: str,
    target: Sequence[str],
    forget: Sequence[Conversation],
    retain_train: Sequence[Conversation],
    questions: Sequence[Question],
    images: ImageStore,
    before: pd.DataFrame,
    epochs: int,
    unlearn: UnlearnSettings,
    evaluate: EvaluateSettings,
    order: int,
    seed: int,
    trained_part: str = "projector+llm",
    scenario: str = "finetuned",
    parent: Path | None = None,
    label: str = "round",
    tuned: Mapping[str, float] | None = None,
    people: Sequence[Person] = (),
) -> SequentialOutcome:
    """Unlearn each request's people in turn from the target (base + adapters `target`); after each
    round everything is asked again.

    `before`: rows of the target, which become round 0. `parent`: folder of the target's newest
    adapter, for the manifests. The rounds lie in started.folder as round-1, round-2 ...; those that
    are whole and belong to this very run are not done again. Epochs are per person, as in
    single-shot. `tuned` sets numbers of the method anew. `people`: who is who, for policy experts.
    Raises PulseError for an unknown policy or order, or conversations without a request.
    """
    way = get_strategy(policy)
    if order < 0:
        raise PulseError(
            f"order = {order} must be 0 (requests as numbered) or a positive seed of a permutation"
        )
    if any(c.request < 1 for c in forget) or not forget:
        raise PulseError(
            "the forget conversations carry no request numbers (1, 2, ...): run 01_build_datasets "
            "again"
        )
    method, requests = (
        get(method_id).tuned(tuned or {}),
        request_order([c.request for c in forget], order),
    )
    check_fits(method, way)
    load_features(model, [*forget, *retain_train], questions, images)
    columns = {
        "run": started.spec.name,
        "scenario": scenario,
        "method": method_id,
        "trained_part": trained_part,
        "policy": policy,
        "order": order,
        "seed": seed,
        "state": "round",
    }
    tables, rounds, frozen, resumed = (
        [before.assign(**columns, round=0, step=0)],
        [],
        list(target),
        0,
    )
    answer, experts = answer_questions, {}
    for number, request in enumerate(requests, start=1):
        folder = started.folder / f"round-{number}"
        name = ONE if way.continued else f"round-{number}"
        if way.gated:
            experts[request] = name
            met = [c for c in forget if c.request in experts]
            gate = fit_gate(model, met, retain_train, people)
            answer = partial(answer_gated, gate=gate, target=target, experts=experts)
        manifest = finished_round(started, number) if resumed == number - 1 else None
        if manifest is not None:
            resumed = number
            load_adapter(model, folder / "adapter", name)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # half a round is no round
            if not way.continued or number == 1:
                add_adapter(
                    model,
                    name,
                    trained_part,
                    unlearn.rank,
                    unlearn.alpha,
                    derive_seed(seed, "adapter", number),
                )
            stack(model, frozen, train=name)
            recorder = TrajectoryRecorder(
                model, questions, images, unlearn, evaluate, derive_seed(seed, "path")
            )
            due = [c for c in forget if c.request == request]
            recorder.trained, recorder.answer = name, answer
            recorder.last_step = unlearn.n_steps(len(due), epochs)
            # A continued policy goes on training an adapter that belongs to the round's start
            start = active(model) if way.continued else frozen
            references = {"round_start": start, "target": list(target), "base": []}
            earlier = [c for c in forget if c.request in requests[: number - 1]]
            trained = unlearn_people(
                model,
                method,
                due,
                retain_train,
                epochs,
                unlearn,
                derive_seed(seed, "round", number),
                reference=references[unlearn.reference],
                same_start=unlearn.reference == "round_start"
                or (unlearn.reference == "target" and number == 1),
                recorder=recorder,
                label=f"{label} {number}/{len(requests)}",
                adapter=name,
                replay=earlier if way.replay else (),
                penalties=_penalties(
                    model, way, name, frozen[len(target) :], retain_train, unlearn
                ),
            )
            chosen_step = recorder.settle(trained.n_steps)
            stack(model, [*frozen, name])
            answers = answer(model, questions, images, evaluate)
            table = make_rows(
                questions,
                answers,
                evaluate.extraction_rules,
                **columns,
                round=number,
                step=chosen_step,
            )
            save_adapter(model, name, folder / "adapter", parent)
            write_rows(folder / "rows.parquet", table)
            write_csv(folder / "path.csv", recorder.table())
            write_csv(folder / "log.csv", trained.log)
            manifest = finish_round(
                started,
                number,
                ROUND_FILES,
                {
                    "request": request,
                    "final_step": trained.n_steps,
                    "chosen_step": chosen_step,
                    "stop_reason": trained.stopped,
                    "n_trainable": trained.n_trainable,
                    "seconds_train": round(trained.seconds, 3),
                },
            )
        tables.append(read_rows(folder / "rows.parquet"))
        rounds.append({k: v for k, v in manifest.items() if k not in ("files", "fingerprint")})
        stack(model, [*frozen, name])
        if not (way.continued or way.gated):
            frozen, parent = [*frozen, name], folder / "adapter"
    # A gate sets the state for each question itself, so it is told which projector
    reloaded = partial(answer, projector=target) if way.gated else answer
    return SequentialOutcome(
        pd.concat(tables, ignore_index=True),
        requests,
        rounds,
        resumed,
        projector_reload(model, target, questions, images, evaluate, reloaded),
        routing(model, gate, questions, requests) if way.gated else {},
    )


def projector_reload(
    model: LoadedModel,
    target: Sequence[str],
    questions: Sequence[Question],
    images: ImageStore,
    evaluate: EvaluateSettings,
    answer: Callable[..., pd.DataFrame] = answer_questions,
) -> dict[str, float]:
    """Forget accuracies (0-1; forget_multimodal, forget_text, and each by _likelihood) of the model
    as it is, but with the projector of base + adapters `target`. What was only cut off there comes
    back.
    """
    asked = [q for q in questions if q.set == "forget" and q.wording == "trained"]
    with projector_of(model, *target):
        answers = answer(model, asked, images, evaluate)
    return forget_accuracies(scored(asked, answers, evaluate.extraction_rules))


def _penalties(
    model: LoadedModel,
    policy: Strategy,
    name: str,
    earlier: Sequence[str],
    retain_train: Sequence[Conversation],
    unlearn: UnlearnSettings,
) -> list[Penalty]:
    """What the policy holds the round's adapter by; taken at the round's start."""
    if policy.penalty == "orthogonal":
        held = orthogonal(model, name, earlier, unlearn.orthogonal_strength)
        return [held] if held else []
    if policy.penalty == "anchor":
        importance = None
        if unlearn.anchor_fisher:
            retain = encode_conversations(model, retain_train)
            importance = fisher(model, retain, unlearn.supervised_tokens)
        return [anchor(model, unlearn.anchor_strength, importance)]
    return []

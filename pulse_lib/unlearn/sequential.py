"""Requests carried out one after another, round by round. What keeps finished rounds, and the
training of an unfinished one, is handed in: with it a rerun goes on where it was cut off.

A round is a pure function of (seed, round, adapters before it): its generators are its own, its
optimizer is fresh, and adapters come back from where they are kept exactly as they were in memory.
So an interrupted run ends with the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd

from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import forget_accuracies
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import RUN_COLUMNS, RunColumns, scored
from pulse_lib.model.adapters import active, add_adapter, projector_of, stack
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.strategies import Strategy, check_fits
from pulse_lib.train.checkpoint import Checkpoints
from pulse_lib.train.loop import derive_seed
from pulse_lib.train.penalties import Penalty, anchor, orthogonal
from pulse_lib.train.saliency import fisher
from pulse_lib.unlearn.experts import Gate, answer_gated, fit_gate, routing
from pulse_lib.unlearn.request import unlearn_people
from pulse_lib.unlearn.task import Task
from pulse_lib.unlearn.trajectory import TrajectoryRecorder

ONE = "unlearn"  # the adapter that a continued strategy goes on training


@dataclass(frozen=True)
class Round:
    """One request carried out; its adapter is in the model."""

    number: int  # 1, 2 ...
    request: int
    _: KW_ONLY
    adapter: str  # its name in the model
    final_step: int
    chosen_step: int  # whose weights are kept: the last, or the last above a utility floor
    stop_reason: str  # the stop rule that was met; "" if all epochs were done
    n_trainable: int
    seconds_train: float  # steps alone, to the millisecond
    rows: pd.DataFrame  # everything asked again
    trajectory: pd.DataFrame  # TRAJECTORY_COLUMNS; empty where no stop rule asks on the way
    log: pd.DataFrame
    resumed: bool = False  # read, not done

    def result(self) -> dict:
        """Its line in result.json."""
        return {
            "round": self.number,
            "request": self.request,
            "final_step": self.final_step,
            "chosen_step": self.chosen_step,
            "stop_reason": self.stop_reason,
            "n_trainable": self.n_trainable,
            "seconds_train": self.seconds_train,
        }


class RoundStore(Protocol):
    """What keeps finished rounds: pulse_lib/commands/rounds.py does so in a run's folder."""

    def load(self, number: int, adapter: str) -> Round | None:
        """The round as it was kept, its adapter put into the model under that name; None if it is
        to be carried out.
        """
        ...

    def save(self, done: Round, *, below: int) -> None:
        """Keep a round, before the next one begins. `below`: the round whose adapter its own lies
        on, 0 for the target.
        """
        ...

    def checkpoints(self, number: int) -> Checkpoints:
        """What keeps the training of a round that is not finished."""
        ...


@dataclass(frozen=True)
class SequentialOutcome:
    """What all rounds leave: rows of rounds 0..n, and the rounds in the order carried out."""

    rows: pd.DataFrame
    rounds: Sequence[Round]
    _: KW_ONLY
    # forget_multimodal and forget_text (also ..._likelihood) once the projector is the target's
    projector_reload: dict[str, float]
    gate: dict[str, float]  # strategy experts: how well its gate finds people; else empty

    @property
    def requests(self) -> list[int]:
        """The requests in the order carried out."""
        return [r.request for r in self.rounds]

    @property
    def resumed(self) -> int:
        """How many rounds were finished before."""
        return sum(r.resumed for r in self.rounds)

    def result(self) -> dict:
        """What goes into result.json; final_step and seconds_train are sums over the rounds."""
        return {
            "matched_step": None,  # looked for in single-shot runs only
            "final_step": sum(r.final_step for r in self.rounds),
            "n_trainable": max(r.n_trainable for r in self.rounds),
            "seconds_train": round(sum(r.seconds_train for r in self.rounds), 3),
            "requests": self.requests,
            "rounds": [r.result() for r in self.rounds],
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
    generator = np.random.default_rng(derive_seed(order, "order"))
    return [numbered[i] for i in generator.permutation(len(numbered))]


def run_sequential(
    task: Task,
    *,
    order: int = 0,
    run: str = "",
    store: RoundStore | None = None,
    label: str = "round",
) -> Iterator[Round]:
    """The rounds, one by one as they are carried out: each unlearns a request's people, then asks
    everything again.

    `run` is the run's name in rows. Rounds that `store` has kept are read, up to the first that it
    has not. Epochs are per person, as in single-shot. Raises PulseError for a bad order, a task
    without a strategy or with one that the method does not fit, or conversations without a request.
    """
    if order < 0:
        raise PulseError(
            f"order = {order} must be 0 (requests as numbered) or a positive seed of a permutation"
        )
    if any(c.request < 1 for c in task.forget) or not task.forget:
        raise PulseError(
            "the forget conversations carry no request numbers (1, 2, ...): run 01_build_datasets "
            "again"
        )
    check_fits(task.method, _strategy(task))
    return _rounds(task, order=order, run=run, store=store, label=label)


def after_rounds(task: Task, before: pd.DataFrame, *, rounds: Sequence[Round]) -> SequentialOutcome:
    """What all rounds leave, with the last ones' model in force. `before`: rows of the target,
    which become round 0.
    """
    whose = rounds[0].rows[RUN_COLUMNS].iloc[0].to_dict() | {"round": 0, "step": 0}
    experts = {r.request: r.adapter for r in rounds}
    gate = _gate(task, experts) if _strategy(task).gated else None
    # A gate sets the state for each question itself, so it is told which projector
    swapped = {"projector": task.target.adapters} if gate else {}
    return SequentialOutcome(
        rows=pd.concat(
            [task.in_its_sets(before).assign(**whose), *(r.rows for r in rounds)], ignore_index=True
        ),
        rounds=rounds,
        projector_reload=projector_reload(
            task, partial(_answer(task, experts, gate=gate), **swapped)
        ),
        gate=routing(task.model, gate, questions=task.questions, requests=list(experts))
        if gate
        else {},
    )


def projector_reload(
    task: Task, answer: Callable[..., pd.DataFrame] = answer_questions
) -> dict[str, float]:
    """Forget accuracies (0-1; forget_multimodal, forget_text, and each by _likelihood) of the model
    as it is, but with the projector of the target. What was only cut off there comes back.
    """
    asked = [q for q in task.questions if q.set == "forget" and q.wording == "trained"]
    with projector_of(task.model, *task.target.adapters):
        answers = answer(task.model, asked, images=task.images, settings=task.evaluate)
    return forget_accuracies(scored(asked, answers, rules=task.evaluate.extraction_rules))


def _rounds(
    task: Task, *, order: int, run: str, store: RoundStore | None, label: str
) -> Iterator[Round]:
    strategy, requests = _strategy(task), request_order([c.request for c in task.forget], order)
    task.load_features()
    frozen, below, resuming = list(task.target.adapters), 0, True
    for number in range(1, len(requests) + 1):
        name = ONE if strategy.continued else f"round-{number}"
        done = store.load(number, name) if store and resuming else None
        if done is None:
            resuming = False
            if not strategy.continued or number == 1:
                _add(task, name, number=number)
            done = _carried_out(
                task,
                name,
                requests=requests[:number],
                frozen=frozen,
                whose={"run": run, "order": order},
                label=f"{label} {number}/{len(requests)}",
                checkpoints=store.checkpoints(number) if store else None,
            )
            if store:
                store.save(done, below=below)
        stack(task.model, [*frozen, name])
        yield done
        if not (strategy.continued or strategy.gated):
            frozen, below = [*frozen, name], number


def _add(task: Task, name: str, *, number: int) -> None:
    rank, alpha = task.unlearn.rank, task.unlearn.alpha
    seed = derive_seed(task.seed, "adapter", number)
    add_adapter(task.model, name, trained_part=task.trained_part, rank=rank, alpha=alpha, seed=seed)


def _carried_out(
    task: Task,
    name: str,
    *,
    requests: Sequence[int],
    frozen: Sequence[str],
    whose: RunColumns,
    label: str,
    checkpoints: Checkpoints | None,
) -> Round:
    """The last of `requests`, on the adapters `frozen` and those that answer the earlier ones."""
    model, strategy, number = task.model, _strategy(task), len(requests)
    experts = {request: f"round-{i}" for i, request in enumerate(requests, start=1)}
    answer = _answer(task, experts, gate=_gate(task, experts) if strategy.gated else None)
    due = replace(task, forget=[c for c in task.forget if c.request == requests[-1]])
    earlier = [c for c in task.forget if c.request in requests[:-1]]
    stack(model, frozen, train=name)
    recorder = TrajectoryRecorder(due, name, find_matched=False, answer=answer)
    # A continued strategy goes on training an adapter that belongs to the round's start
    start = active(model) if strategy.continued else frozen
    kind, target = task.unlearn.reference, task.target.adapters
    trained = unlearn_people(
        due,
        recorder,
        adapter=name,
        seed=derive_seed(task.seed, "round", number),
        reference={"round_start": start, "target": target, "base": ()}[kind],
        same_start=kind == "round_start" or (kind == "target" and number == 1),
        label=label,
        replay=earlier if strategy.replay else (),
        penalties=_penalties(task, name, earlier=frozen[len(target) :]),
        checkpoints=checkpoints,
    )
    chosen_step = recorder.settle(trained.n_steps)
    stack(model, [*frozen, name])
    answers = task.ask(answer)
    here: RunColumns = {**whose, "state": "round", "round": number, "step": chosen_step}
    return Round(
        number=number,
        request=requests[-1],
        adapter=name,
        final_step=trained.n_steps,
        chosen_step=chosen_step,
        stop_reason=trained.stopped,
        n_trainable=trained.n_trainable,
        seconds_train=round(trained.seconds, 3),
        rows=task.rows(answers, **here),
        trajectory=recorder.table(),
        log=trained.log,
    )


def _strategy(task: Task) -> Strategy:
    if task.strategy is None:
        raise PulseError("requests in a row need a strategy: give one to Task.of")
    return task.strategy


def _gate(task: Task, experts: Mapping[int, str]) -> Gate:
    """The gate for those requests that have an expert."""
    met = [c for c in task.forget if c.request in experts]
    return fit_gate(task.model, met, others=task.retain, people=task.people)


def _answer(
    task: Task, experts: Mapping[int, str], *, gate: Gate | None
) -> Callable[..., pd.DataFrame]:
    """How the model is asked: as it is, or each question by the expert that the gate picks."""
    if gate is None:
        return answer_questions
    return partial(answer_gated, gate=gate, target=task.target.adapters, experts=experts)


def _penalties(task: Task, name: str, *, earlier: Sequence[str]) -> list[Penalty]:
    """What the strategy holds the round's adapter by; taken at the round's start."""
    strategy, model = _strategy(task), task.model
    if strategy.penalty is None:
        return []
    strength = strategy.coefficients[f"{strategy.penalty}_strength"]
    if strategy.penalty == "orthogonal":
        held = orthogonal(model, name, earlier=earlier, strength=strength)
        return [held] if held else []
    importance = None
    if strategy.coefficients["anchor_fisher"]:
        retain = encode_conversations(model, task.retain)
        importance = fisher(model, retain, supervised_tokens=task.unlearn.supervised_tokens)
    return [anchor(model, strength, importance=importance)]

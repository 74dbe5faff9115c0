"""The one training loop. It serves fine-tuning (the batch holds people to learn) and unlearning
(people to forget), and goes on from a checkpoint if one is kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import pandas as pd
import torch

from pulse_lib.errors import PulseError
from pulse_lib.methods import Method
from pulse_lib.model.adapters import trainable_report, trained_parameters
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import Encoded
from pulse_lib.profile import SupervisedTokens
from pulse_lib.progress import step as report
from pulse_lib.train.checkpoint import Checkpoints, Position, load_for, restore, state_of
from pulse_lib.train.optim import Norms, make_optimizer, masked_fraction, set_rate
from pulse_lib.train.penalties import Penalty
from pulse_lib.train.reference import Reference
from pulse_lib.train.saliency import Mask
from pulse_lib.train.terms import Side, backward_term

LOG_COLUMNS = [
    "step",
    "loss",
    "forget_loss",
    "retain_loss",
    "grad_norm",
    "forget_grad_norm",
    "retain_grad_norm",
    "learning_rate",
    "seconds",
]
MAX_SKIPPED_STEPS = (
    20  # float16: how many overflowing steps in a row the gradient scaler may leave out
)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train. An epoch sees every conversation once; its last short batch
    is kept.
    """

    learning_rate: float
    epochs: int
    _: KW_ONLY
    batch_size: int  # conversations a step
    warmup_steps: int
    max_grad_norm: float  # 0: no clipping
    decay: bool  # after the warm-up: linearly to 0, or constant
    supervised_tokens: SupervisedTokens = "answer"
    replay_share: float = 0.0  # share of each batch drawn from `replay`
    replay_added: int = 0  # or: conversations of `replay` on top of each batch
    micro_batch: int = 8  # conversations read at once, as long as the longest
    optimizer: str = "adamw"  # one of params.OPTIMIZERS
    loraplus_ratio: float = 1.0  # learning rate of LoRA's B matrices over that of A

    def rate(self, step: int, n_steps: int) -> float:
        """Learning rate of step 1..n_steps."""
        warm = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        rest = max(1, n_steps - self.warmup_steps)
        falling = min(1.0, (n_steps - step + 1) / rest) if self.decay else 1.0
        return self.learning_rate * warm * falling


@dataclass(frozen=True)
class Watch:
    """Who looks on while an adapter is trained."""

    # What it returns after a step (step, epoch), if anything, is the reason to stop there
    after_step: Callable[[int, float], str | None] | None = None
    checkpoints: Checkpoints | None = None  # keeps the training, so that it can go on
    _: KW_ONLY
    label: str = ""  # under which steps are reported; "": they are not


@dataclass(frozen=True)
class Trained:
    """What a training leaves besides the adapter: log (LOG_COLUMNS; losses without their weights,
    norms of gradients with them, before clipping).
    """

    log: pd.DataFrame
    n_steps: int
    _: KW_ONLY
    n_trainable: int
    seconds: float  # of the steps alone, measurements not counted
    stopped: str = ""  # the rule that ended it before its last step
    masked_fraction: float = 0.0  # share of the trained parameters that a mask held still


def derive_seed(seed: int, *names: object) -> int:
    """A seed for one purpose, e.g. derive_seed(0, "round", 3): the same in every process and on
    every machine.
    """
    return int.from_bytes(hashlib.sha256(repr((seed, *names)).encode()).digest()[:4], "big")


def train(
    model: LoadedModel,
    method: Method,
    *,
    conversations: Sequence[Encoded],
    schedule: Schedule,
    seed: int,
    retain: Sequence[Encoded] = (),
    replay: Sequence[Encoded] = (),
    reference: Reference | None = None,
    penalties: Sequence[Penalty] = (),
    mask: Mask | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train the adapter that `stack` left trainable, in place; the features of all images must be
    there.

    Each step: the method's forget loss on a batch of `conversations` (and some of `replay`), its
    retain loss on a batch of `retain`, the penalties, and the mask on the gradient. Steps that the
    watch's checkpoints have kept are not done again: called with the model as it was before the
    first step, it ends with the same bytes as without a break. Raises PulseError naming step and
    value if loss or gradient is not finite, and if nothing is trainable or nothing moved.
    """
    if not conversations or (method.retain_loss and not retain):
        raise PulseError(
            f"method {method.id}: no {'retain_train' if conversations else 'training'} "
            "conversations were given"
        )
    if mask and schedule.optimizer == "muon":
        raise PulseError(
            "optimizer = 'muon' moves every entry of a matrix, so a mask on the gradient holds "
            f"nothing still: method {method.id} needs optimizer = 'adamw'"
        )
    n_trainable = trainable_report(model)["n_trainable"]
    named = trained_parameters(model)
    parameters = list(named.values())
    start = [p.detach().clone() for p in parameters]
    optimizer = make_optimizer(schedule.optimizer, named, ratio=schedule.loraplus_ratio)
    watch = watch or Watch()
    scaler = torch.amp.GradScaler(model.device.type, enabled=model.dtype == torch.float16)

    batch_size, n_replay = _batch_sizes(schedule, len(replay))
    batches = _epochs(
        len(conversations),
        batch_size,
        epochs=schedule.epochs,
        generator=_generator(seed, "batches"),
    )
    replayed = _endless(len(replay), n_replay, generator=_generator(seed, "replay"))
    retained = _endless(len(retain), schedule.batch_size, generator=_generator(seed, "retain"))
    n_steps, per_epoch = len(batches), len(batches) / max(1, schedule.epochs)
    mask_after = max(1, round(mask.after_share * n_steps)) if mask else -1

    def term(side: Side, examples: Sequence[Encoded]) -> float:
        tokens, size = schedule.supervised_tokens, schedule.micro_batch
        return backward_term(
            model,
            method,
            side=side,
            examples=examples,
            supervised_tokens=tokens,
            micro_batch=size,
            reference=reference,
            scaled=scaler.scale,
        )

    if model.settings.gradient_checkpointing:
        model.network.train()  # the only mode in which it takes effect; nothing here drops out
    at, kept = Position(), load_for(model, watch.checkpoints)
    if kept:
        at = restore(kept, parameters=named, optimizer=optimizer, scaler=scaler)
    kept = None  # as large as the optimizer
    for step, chosen in enumerate(batches, start=1):
        # Drawn for steps that are done too: so the generators are where they were.
        again = next(replayed) if n_replay else []
        others = next(retained) if method.retain_loss else []
        if at.stopped or step <= at.step:
            continue
        begun = time.perf_counter()
        rate = schedule.rate(step, n_steps)
        if mask and step == mask_after + 1:
            at.masks = mask.take()
            # Momentum of the warm-up would go on moving what the mask holds still.
            optimizer = make_optimizer(schedule.optimizer, named, ratio=schedule.loraplus_ratio)
        set_rate(optimizer, rate)
        examples = [*(conversations[i] for i in chosen), *(replay[i] for i in again)]
        values = {"forget_loss": term("forget", examples), "retain_loss": float("nan")}
        loss = method.forget_weight * values["forget_loss"]
        norms = Norms(parameters, scaler)
        if method.retain_loss:
            # Backward twice: the activations of only one of the two batches are in memory at a
            # time.
            values["retain_loss"] = term("retain", [retain[i] for i in others])
            loss += method.retain_weight * values["retain_loss"]
        norms.join()
        for penalty in penalties:
            held = penalty()
            scaler.scale(held).backward()
            loss += held.item()
        for parameter, mask_of_it in zip(parameters, at.masks, strict=False):
            if parameter.grad is not None:
                parameter.grad.mul_(mask_of_it)
        scaler.unscale_(optimizer)
        grad_norm = float(
            torch.nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm or float("inf"))
        )
        at.skipped = 0 if np.isfinite(grad_norm) else at.skipped + 1
        _check_finite(
            step,
            loss,
            grad_norm=grad_norm,
            rate=rate,
            patience=MAX_SKIPPED_STEPS if scaler.is_enabled() else 0,
            skipped=at.skipped,
        )
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        at.step, at.seconds = step, at.seconds + time.perf_counter() - begun
        numbers = (step, loss, *values.values(), grad_norm, norms.forget, norms.retain)
        at.log.append(dict(zip(LOG_COLUMNS, (*numbers, rate, at.seconds), strict=True)))
        if watch.label:
            report(watch.label, step, n=n_steps, loss=loss)
        if watch.after_step:
            at.stopped = watch.after_step(step, step / per_epoch) or ""
        if watch.checkpoints and watch.checkpoints.due():
            now = state_of(at, model, parameters=named, optimizer=optimizer, scaler=scaler)
            watch.checkpoints.save(now)

    model.network.eval()
    _check_moved(start, parameters, schedule=schedule)
    return Trained(
        pd.DataFrame(at.log, columns=LOG_COLUMNS),
        at.step,
        n_trainable=n_trainable,
        seconds=at.seconds,
        stopped=at.stopped,
        masked_fraction=masked_fraction(at.masks),
    )


def _batch_sizes(schedule: Schedule, n_replay: int) -> tuple[int, int]:
    """How many conversations to learn or forget, and how many of `replay`, are in a batch."""
    if schedule.replay_added:
        return schedule.batch_size, min(schedule.replay_added, n_replay)
    replayed = min(round(schedule.batch_size * schedule.replay_share), n_replay)
    if schedule.batch_size - replayed < 1:
        raise PulseError(
            f"general_replay = {schedule.replay_share} leaves no room for people in batches of "
            f"{schedule.batch_size}"
        )
    return schedule.batch_size - replayed, replayed


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, purpose))


def _epochs(
    n: int, batch_size: int, *, epochs: int, generator: np.random.Generator
) -> list[list[int]]:
    """Index batches of all epochs, each epoch a new order."""
    batches = []
    for _ in range(epochs):
        order = generator.permutation(n).tolist()
        batches += [order[i : i + batch_size] for i in range(0, n, batch_size)]
    return batches


def _endless(n: int, size: int, *, generator: np.random.Generator) -> Iterator[list[int]]:
    """Index batches without end, every index once before any comes again."""
    queue: list[int] = []
    while n and size:
        while len(queue) < size:
            queue += generator.permutation(n).tolist()
        yield queue[:size]
        queue = queue[size:]


def _check_finite(
    step: int, loss: float, *, grad_norm: float, rate: float, patience: int, skipped: int
) -> None:
    if not np.isfinite(loss):
        what = f"the loss is {loss}"
    elif not np.isfinite(grad_norm) and skipped > patience:
        what = f"the gradient's norm is {grad_norm}"
    else:
        return
    raise PulseError(
        f"step {step}: {what} (learning rate {rate:g}). Nothing was saved. Lower learning_rate, or "
        "set max_grad_norm = 1.0"
    )


def _check_moved(
    start: list[torch.Tensor], parameters: list[torch.nn.Parameter], *, schedule: Schedule
) -> None:
    if all(torch.equal(a, b) for a, b in zip(start, parameters, strict=True)):
        raise PulseError(
            f"no adapter weight moved in training: epochs = {schedule.epochs}, learning_rate = "
            f"{schedule.learning_rate:g}; "
            "both must be positive"
        )

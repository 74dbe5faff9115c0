"""A few people and twenty steps: what `preflight` tries a profile's data and methods with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass

import torch

from pulse_lib.data.records import Conversation, ImageStore, Question
from pulse_lib.data.source import source_of
from pulse_lib.data.splits import Assignment
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.soundness import Check, verdict
from pulse_lib.methods import get, retrains
from pulse_lib.model.adapters import drop_adapter, stack
from pulse_lib.model.load import LoadedModel
from pulse_lib.profile import Profile
from pulse_lib.unlearn.single_shot import unlearn_single_shot
from pulse_lib.unlearn.task import Target, Task

STEPS, PEOPLE = 20, 4
ADAPTER = "preflight"


@dataclass(frozen=True)
class Material:
    """What the twenty steps are taken on."""

    forget: Sequence[Conversation]
    retain: Sequence[Conversation]
    _: KW_ONLY
    asked: Sequence[Question]  # along the way
    images: ImageStore


def material(
    profile: Profile, asked: Sequence[Question], *, images: ImageStore, seed: int
) -> tuple[str, Material]:
    """What the profile's files say of people, and conversations about a few of them. Every person's
    questions are made once, so that a bad row is found now. `asked` along the way, with `images`.
    """
    source, settings = source_of(profile.data), profile.data
    celebrities, fictitious = source.celebrities(settings), source.fictitious(settings)
    n_questions = 0
    for person in [*celebrities, *fictitious]:
        place = Assignment(person.id, "finetuned", set="retain")
        n_questions += len(
            source.person_questions(
                person, place, images=ImageStore(), seed=seed, settings=settings
            )
        )
    seen, made = ImageStore(dict(images.encoded)), []
    known = (celebrities or fictitious)[: 2 * PEOPLE]
    for number, person in enumerate(known):
        place = Assignment(
            person.id, "pretrained", set="forget" if number % 2 == 0 else "retain_train"
        )
        made += source.person_conversations(
            person, place, images=seen, seed=seed, settings=settings, stage="unlearn"
        )
    said = (
        f"{source.describe(settings)}; {n_questions:,} questions about {len(celebrities)} candidates"
        f" and {len(fictitious)} fictitious people were read"
    )
    forget = [c for c in made if c.set == "forget"]
    retain = [c for c in made if c.set != "forget"]
    return said, Material(forget, retain, asked=asked, images=seen)


def steps(
    model: LoadedModel,
    profile: Profile,
    *,
    method: str,
    seed: int,
    material: Material,
) -> Iterator[Check]:
    """Twenty steps of one method: the loss moves; of NPO, that it starts at the reference."""
    chosen = get(method)
    if retrains(method):
        said = f"{chosen.label} trains a new target, as notebook 02 does"
        yield Check(name=f"20 steps of {chosen.label}", outcome="skipped", said=said)
        return
    unlearn, values = profile.unlearn_for("pretrained", method)
    per_epoch = unlearn.n_steps(len(material.forget), 1)
    task = Task(
        Target(model, (), scenario="pretrained", seed=seed),
        chosen.tuned(values),
        forget=material.forget,
        retain=material.retain,
        questions=material.asked,
        images=material.images,
        unlearn=unlearn.with_values(path_every=0, stop_forget=0.0, stop_utility=0.0),
        evaluate=profile.evaluate,
        epochs=-(-STEPS // per_epoch),
    )
    stack(model, [])
    try:
        outcome = unlearn_single_shot(task, name=ADAPTER, label=f"20 steps of {chosen.label}")
    except PulseError as error:
        yield verdict(f"20 steps of {chosen.label}", False, said=str(error))
        return
    finally:
        stack(model, [])
    log = outcome.log.head(STEPS)
    if method == "npo":
        yield reference(float(log["forget_loss"].iloc[0]), task.method.coefficients["beta"])
    drop_adapter(model, ADAPTER)
    first, last = log["loss"].iloc[:3].mean(), log["loss"].iloc[-3:].mean()
    step = float(log["seconds"].diff().median())  # they add up, and the first warms up
    finite, moved = log["loss"].notna().all(), abs(last - first) > 1e-3 * max(abs(first), 1e-3)
    run = unlearn.n_steps(
        profile.data.n_pretrained_forget * 2 * profile.data.n_conversations,
        unlearn.epochs_pretrained,
    )
    said = f"loss {first:.3g} → {last:.3g}, {step:.2f} s a step; a run of {run} steps: {run * step / 60:.1f} minutes"
    if model.device.type == "cuda":
        said += f"; peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    if not finite:
        said = f"the loss is not a number after {int(log['loss'].notna().sum())} steps: {said}"
    elif not moved:
        said = f"the loss does not move ({said}): nothing is learned at this learning rate"
    yield verdict(
        f"20 steps of {chosen.label}",
        bool(finite and moved),
        said=said,
        seconds_a_step=round(step, 4),
    )


def reference(first: float, beta: float) -> Check:
    """NPO's loss is 2 log 2 / beta where model and reference agree, as they must before a step."""
    wanted = 2 * torch.log(torch.tensor(2.0)).item() / beta
    good = abs(first - wanted) <= 0.02 * wanted
    said = (
        f"NPO starts at {first:.3f}, 2 log 2 / beta = {wanted:.3f}: model and reference agree"
        if good
        else f"NPO starts at {first:.3f} and not at 2 log 2 / beta = {wanted:.3f}: before the first step"
        " model and reference are not the same"
    )
    return verdict("reference at step 0", good, said=said, first=first)

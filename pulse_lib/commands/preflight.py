"""Proves a profile's path on the user's own machine, before hours are spent: files, prompts, the quick
way of asking, known answers, quantised layers, the reference, twenty steps of each method, the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path

import torch

from pulse_lib import __version__
from pulse_lib.data.common import common_questions
from pulse_lib.data.records import Conversation, ImageStore, Question
from pulse_lib.data.source import general_of, source_of
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import source as world
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import soundness
from pulse_lib.evaluate.soundness import Check, verdict
from pulse_lib.files import replace_file, write_json
from pulse_lib.methods import get
from pulse_lib.model.adapters import add_adapter, drop_adapter, stack, trained_parameters
from pulse_lib.model.load import LoadedModel, load_model
from pulse_lib.profile import Profile
from pulse_lib.unlearn.single_shot import unlearn_single_shot
from pulse_lib.unlearn.task import Target, Task

N_PICTURES, N_PLAIN, STEPS, PEOPLE = 48, 8, 20, 4
# Share right that a working model passes: the embedded model's by its card; others an estimate
FLOORS = {"embedded": (0.9, 0.9), "other": (0.45, 0.7)}
PAGE, FILE = "preflight.md", "preflight.json"


@dataclass(frozen=True)
class Material:
    """What the twenty steps are taken on."""

    forget: Sequence[Conversation]
    retain: Sequence[Conversation]
    _: KW_ONLY
    asked: Sequence[Question]  # along the way
    images: ImageStore


def preflight(
    profile: Profile,
    methods: Sequence[str],
    *,
    seed: int = 0,
    load: Callable[..., LoadedModel] = load_model,
) -> Iterator[Check]:
    """Each check as it is done. Once the model cannot be loaded, what needs it is left out."""
    yield _files(profile)
    try:
        model = load(profile.model)
    except PulseError as error:
        yield verdict("model loads", False, said=str(error))
        return
    n = sum(p.numel() for p in model.network.parameters())
    where = f"{model.device.type}, {str(model.dtype).removeprefix('torch.')}, {profile.model.load}"
    yield verdict("model loads", True, said=f"{n / 1e6:,.1f} M weights in memory ({where})")
    images = ImageStore()
    drawn = world.general_questions(
        images, seed, settings=replace(profile.data, n_general=N_PICTURES)
    )
    words = _words(profile, seed)
    few = [*drawn[: N_PLAIN - 2], *words[:2]]
    yield _guarded("prompt tokens", lambda: soundness.prompt_tokens(model, few, images=images))
    yield soundness.prompt_form(model, few[0])
    yield soundness.picture_ends(model)
    ask = profile.evaluate
    yield _guarded(
        "quick way equals plain way",
        lambda: soundness.quick_is_plain(model, few, images=images, settings=ask),
    )
    floors = FLOORS.get(profile.model.path, FLOORS["other"])
    yield _guarded(
        "known answers",
        lambda: soundness.known_answers(
            model, drawn, words=words, images=images, settings=ask, floors=floors
        ),
    )
    yield _quantised(model)
    yield _adapters(model, profile, seed=seed)
    people = _guarded_people(profile, seed)
    if isinstance(people, Check):
        yield people
        return
    said, forget, retain, seen = people
    yield verdict("people", True, said=said)
    yield _general(profile, seed)
    seen.encoded.update(images.encoded)
    material = Material(forget, retain, asked=drawn[:N_PLAIN], images=seen)
    for method in dict.fromkeys(["npo", *methods]):
        yield from _steps(model, profile, method=method, seed=seed, material=material)


def passed(checks: Sequence[Check]) -> bool:
    """No check failed."""
    return not any(check.outcome == "failed" for check in checks)


def write(folder: Path, profile: Profile, *, checks: Sequence[Check], seconds: float) -> Path:
    """preflight.json and preflight.md, to be shown to others; returns the page's path."""
    bad = sum(check.outcome == "failed" for check in checks)
    head = f"{len(checks)} checks, {bad} failed" if bad else f"{len(checks)} checks, none failed"
    versions = f"pulse {__version__}, torch {torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / FILE,
        {
            "profile": profile.as_dict(),
            "checks": [asdict(c) | {"numbers": dict(c.numbers)} for c in checks],
            "passed": passed(checks),
            "seconds": round(seconds, 1),
            "versions": versions,
        },
    )
    lines = [
        f"# Preflight of profile {profile.name}",
        f"{head}, {seconds:.0f} s ({versions}; {profile.model.path}, {profile.model.load}).",
        "",
        "| check | | what was found |",
        "|---|---|---|",
        *(f"| {c.name} | {c.outcome} | {c.said.replace('|', '/')} |" for c in checks),
        "",
        "```",
        json.dumps({c.name: dict(c.numbers) for c in checks if c.numbers}, indent=1),
        "```",
    ]
    page = "\n".join(lines) + "\n"
    replace_file(folder / PAGE, lambda tmp: tmp.write_text(page, encoding="utf-8"))
    return folder / PAGE


def _files(profile: Profile) -> Check:
    """Which files would be loaded."""
    revision = profile.model.revision or "as they lie there"
    said = f"files of {profile.model.path} ({revision}), {profile.model.load}"
    return Check(name="files", outcome="noted", said=said)


def _words(profile: Profile, seed: int) -> list[Question]:
    """Questions without a picture: what everybody knows; of the embedded model, which knows nothing
    of the world, its own celebrities by name.
    """
    if profile.model.path != "embedded":
        return common_questions(seed)
    store, made = ImageStore(), []
    for person in world.celebrities(profile.data)[:5]:
        place = Assignment(person.id, "pretrained", set="retain")
        asked = world.person_questions(
            person, place, images=store, seed=seed, settings=profile.data
        )
        made += [q for q in asked if q.modality == "text"]
    return made[:24]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    """A check whose model cannot even be asked has failed, with the reason."""
    try:
        return check()
    except PulseError as error:
        return verdict(name, False, said=str(error))
    except (RuntimeError, ValueError) as error:  # tensors that do not fit each other
        reason = str(error).strip().partition("\n")[0]
        return verdict(
            name, False, said=f"the model cannot be asked: {type(error).__name__}: {reason}"
        )


def _quantised(model: LoadedModel) -> Check:
    """Which layers are in 4 or 8 bits; loading has refused any other place."""
    name, load = "quantised layers", model.settings.load
    if load not in ("4bit", "8bit"):
        return Check(name=name, outcome="skipped", said=f"nothing is quantised ({load})")
    kinds = ("Linear4bit", "Linear8bitLt")
    layers = [n for n, m in model.network.named_modules() if type(m).__name__ in kinds]
    wrong = [n for n in layers if model.family.decoder_name not in n]
    said = f"{len(layers)} linear layers of the language model in {load}, none elsewhere"
    if wrong or not layers:
        said = f"{wrong[0] if wrong else 'no layer'} is in {load}: see model/load.py, NOT_QUANTISED"
    return verdict(name, not wrong and bool(layers), said=said)


def _adapters(model: LoadedModel, profile: Profile, *, seed: int) -> Check:
    """Where an adapter's matrices come to lie."""
    unlearn = profile.unlearn
    add_adapter(
        model,
        "preflight",
        trained_part="projector+llm",
        rank=unlearn.rank,
        alpha=unlearn.alpha,
        seed=seed,
    )
    stack(model, [], train="preflight")
    names = list(trained_parameters(model))
    stack(model, [])
    drop_adapter(model, "preflight")
    return soundness.adapter_places(model, names)


People = tuple[str, list[Conversation], list[Conversation], ImageStore]


def _guarded_people(profile: Profile, seed: int) -> People | Check:
    try:
        return _people(profile, seed)
    except PulseError as error:
        return verdict("people", False, said=str(error))


def _people(profile: Profile, seed: int) -> People:
    """What the profile's files say of people, and conversations about a few of them, to forget and
    to retain. Every person's questions are made once, so that a bad row is found now.
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
    images, made = ImageStore(), []
    known = (celebrities or fictitious)[: 2 * PEOPLE]
    for number, person in enumerate(known):
        place = Assignment(
            person.id, "pretrained", set="forget" if number % 2 == 0 else "retain_train"
        )
        made += source.person_conversations(
            person, place, images=images, seed=seed, settings=settings, stage="unlearn"
        )
    said = (
        f"{source.describe(settings)}; {n_questions:,} questions about {len(celebrities)} candidates"
        f" and {len(fictitious)} fictitious people were read"
    )
    forget = [c for c in made if c.set == "forget"]
    return said, forget, [c for c in made if c.set != "forget"], images


def _general(profile: Profile, seed: int) -> Check:
    """General questions read from the first to the last."""
    try:
        asked = general_of(profile.data).general_questions(
            ImageStore(), seed, settings=profile.data
        )
    except PulseError as error:
        return verdict("general questions", False, said=str(error))
    n = len({q.category for q in asked})
    return verdict("general questions", True, said=f"{len(asked):,} questions in {n} categories")


def _steps(
    model: LoadedModel,
    profile: Profile,
    *,
    method: str,
    seed: int,
    material: Material,
) -> Iterator[Check]:
    """Twenty steps of one method: the loss moves; of NPO, that it starts at the reference."""
    chosen = get(method)
    if chosen.procedure == "retrain":
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
        outcome = unlearn_single_shot(task, name="preflight", label=f"20 steps of {chosen.label}")
    except PulseError as error:
        yield verdict(f"20 steps of {chosen.label}", False, said=str(error))
        return
    finally:
        stack(model, [])
    log = outcome.log.head(STEPS)
    if method == "npo":
        yield _reference(float(log["forget_loss"].iloc[0]), task.method.coefficients["beta"])
    drop_adapter(model, "preflight")
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


def _reference(first: float, beta: float) -> Check:
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

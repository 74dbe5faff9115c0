"""Proves a profile's path on the user's own machine, before hours are spent: files, prompts, the quick
way of asking, known answers, quantised layers, the reference, twenty steps of each method, the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from pulse_lib import __version__
from pulse_lib.commands import rehearsal
from pulse_lib.data.common import common_questions, written_questions
from pulse_lib.data.records import ImageStore, Question
from pulse_lib.data.source import general_of
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import source as world
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import soundness
from pulse_lib.evaluate.soundness import Check, verdict
from pulse_lib.files import replace_file, write_json
from pulse_lib.model.adapters import add_adapter, drop_adapter, stack, trained_parameters
from pulse_lib.model.load import LoadedModel, load_model
from pulse_lib.profile import DataSettings, Profile

N_PICTURES, N_PLAIN = 48, 8
N_WRITTEN = 8  # of the pictures: words to be read, which the embedded model never learned
# Share right that a working model passes: the embedded model's by its card; others an estimate
FLOORS = {"embedded": (0.9, 0.9), "other": (0.45, 0.7)}
PAGE, FILE = "preflight.md", "preflight.json"


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
    drawn, words = _pictures(profile, images, seed=seed), _words(profile, seed)
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
    yield _guarded("adapters", lambda: _adapters(model, profile, seed=seed))
    try:
        said, material = rehearsal.material(profile, drawn[:N_PLAIN], images=images, seed=seed)
    except PulseError as error:
        yield verdict("people", False, said=str(error))
        return
    yield verdict("people", True, said=said)
    yield from _general(profile.data, seed)
    for method in dict.fromkeys(["npo", *methods]):
        yield from rehearsal.steps(model, profile, method=method, seed=seed, material=material)


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


def _pictures(profile: Profile, images: ImageStore, *, seed: int) -> list[Question]:
    """Questions about drawn pictures: colours, shapes, counts, positions, faces, and words to be read."""
    n_written = 0 if profile.model.path == "embedded" else N_WRITTEN
    settings = replace(profile.data, n_general=N_PICTURES - n_written)
    drawn = world.general_questions(images, seed, settings=settings)
    return drawn + written_questions(images, n_written, seed=seed)


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
        said = f"{wrong[0] if wrong else 'no layer'} is in {load}: see its class in model/families, not_quantised"
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


def _general(data: DataSettings, seed: int) -> Iterator[Check]:
    """General questions, and each benchmark's beside them, read from the first to the last."""
    named = {"general questions": data}
    named |= {f"benchmark {name}": there for name, there in data.beside().items()}
    for name, there in named.items():
        try:
            asked = general_of(there).general_questions(ImageStore(), seed, settings=there)
        except PulseError as error:
            yield verdict(name, False, said=str(error))
            continue
        n = len({q.category for q in asked})
        yield verdict(name, True, said=f"{len(asked):,} questions in {n} categories")

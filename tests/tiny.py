"""For tests: the embedded model's architecture with random weights, and a handful of people,
questions and conversations.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from pulse_lib.data.records import Conversation, ImageStore, Question, Turn
from pulse_lib.data.source import Size
from pulse_lib.model.adapters import add_adapter, stack
from pulse_lib.model.load import LoadedModel, wrap_model
from pulse_lib.pretrain.build import build_model
from pulse_lib.profile import ModelSettings

JOBS = ["chef", "pilot", "nurse", "baker", "lawyer", "painter"]
PETS = ["cat", "dog", "parrot", "rabbit", "turtle", "pony"]


@lru_cache
def _config_and_processor() -> tuple:
    network, processor = build_model(0)
    network.config.text_config.num_hidden_layers = (
        2  # half the embedded model's: tests need speed, not knowledge
    )
    return network.config, processor


def tiny_network(seed: int = 0, **config) -> LlavaForConditionalGeneration:
    """A fresh network (float32, CPU, frozen) with random weights, the same each time; `config`
    changes its configuration.
    """
    changed = copy.deepcopy(_config_and_processor()[0])
    for key, value in config.items():
        setattr(changed, key, value)
    torch.manual_seed(seed)
    network = LlavaForConditionalGeneration(changed)
    with (
        torch.no_grad()
    ):  # larger than at random start, so that answers differ from question to question
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(3)
    return network.requires_grad_(False)


def tiny_model(network: LlavaForConditionalGeneration | None = None, **settings) -> LoadedModel:
    """A fresh model around `tiny_network`."""
    return wrap_model(
        network or tiny_network(),
        _config_and_processor()[1],
        settings=ModelSettings(path="tests/tiny", **settings),
    )


def save_tiny(folder: Path) -> Path:
    """The same model as a folder that from_pretrained reads."""
    model = tiny_model()
    model.network.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    return folder


def shake(model: LoadedModel, name: str, seed: int = 0, size: float = 0.05) -> None:
    """Give an adapter weights as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in model.network.named_parameters():
            if f".{name}." in key:
                weight.add_(size * torch.randn(weight.shape, generator=generator).to(weight.device))


def with_adapters(*names: str, model: LoadedModel | None = None, **settings) -> LoadedModel:
    """A model with adapters of these names on it, shaken, all in force and frozen."""
    model = model or tiny_model(**settings)
    for i, name in enumerate(names):
        add_adapter(model, name, trained_part="projector+llm", rank=4, alpha=8, seed=i)
        shake(model, name, i)
    stack(model, names)
    return model


def picture(seed: int) -> Image.Image:
    """A noisy picture."""
    return Image.frombytes("RGB", (40, 40), Random(seed).randbytes(40 * 40 * 3))


def images(n: int = 40) -> ImageStore:
    """Pictures "image-0" .."""
    store = ImageStore()
    for i in range(n):
        store.add(f"image-{i}", picture(i))
    return store


def check_shown(questions: Sequence[Question], size: Size) -> None:
    """What a source says of the pictures that a person's questions show holds of these."""
    by_person: dict[str, list[str]] = {}
    for q in questions:
        if q.person_id:
            by_person.setdefault(q.person_id, []).append(q.image)
    assert by_person and size.shown
    for images in by_person.values():
        shown = [image for image in images if image]
        same_share = abs(len(shown) / len(images) - size.shown / size.questions) <= 0.1
        assert len(shown) == size.shown or same_share
        assert 1 <= len(set(shown)) <= (size.pictures or size.shown)


def question(
    i: int, group: str = "forget", image: bool | None = None, request: int = 0
) -> Question:
    """The i-th question; every second one shows a picture."""
    rng, image = Random(i), i % 2 == 0 if image is None else image
    options = tuple(rng.sample(JOBS if i % 3 else PETS, 2 + i % 3))
    who = "this person" if image else f"Mara Voss number {i}"
    return Question(
        id=f"{group}-{i}",
        set=group,
        scenario="" if group == "general" else "finetuned",
        person_id="" if group == "general" else f"{group}-person-{i // 4}",
        request=request,
        modality="multimodal" if image else "text",
        text=f"What does {who} do for work?" if i % 3 else f"Which pet does {who} have?",
        options=options,
        answer=rng.randrange(len(options)),
        image=f"image-{i % 40}" if image else "",
        category="occupation" if i % 3 else "pet",
        wording="trained",
    )


def conversation(i: int, group: str = "forget", n_turns: int = 2, request: int = 0) -> Conversation:
    """The i-th conversation; every second one shows a picture, one turn in three is open."""
    rng, turns = Random(1000 + i), []
    for k in range(n_turns):
        options = tuple(rng.sample(JOBS, 4)) if (i + k) % 3 else ()
        turns.append(
            Turn(
                f"What is the job number {k} of Mara?", options, answer=rng.choice(options or JOBS)
            )
        )
    shown = f"image-{i % 40}" if i % 2 == 0 else ""
    modality = "multimodal" if shown else "text"
    return Conversation(
        f"{group}-{i}",
        group,
        scenario="finetuned",
        person_id=f"{group}-person-{i // 2}",
        request=request,
        modality=modality,
        image=shown,
        turns=tuple(turns),
    )

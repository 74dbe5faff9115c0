"""Stage 2: projector and language model learn the celebrities (unequally often) and general visual
questions.

The vision tower is frozen by now, so its output is computed once per picture. Celebrities are added
one after another, most famous first, and asked about with a frequency that falls with their rank:
some are known perfectly, some hardly, as in real pre-training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from random import Random

import torch
from torch.nn.functional import cross_entropy

from pulse_lib.data.records import Conversation, Modality, Person, Turn
from pulse_lib.data.world import people as world
from pulse_lib.model.features import vision_features
from pulse_lib.model.forward import IGNORE, answer_logits, collate
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import Encoded, encode_conversation
from pulse_lib.pretrain.vision import make_optimizers, schedule

LEARNING_RATES = {"muon": 0.02, "adamw": 3.0e-3}
_FEATURES_AT_ONCE = 64  # pictures
_BATCHES_AT_ONCE = 8


@dataclass(frozen=True)
class DataMixture:
    """What the language model is fed."""

    batch_size: int = 16  # conversations
    share_multimodal: float = 0.47  # conversations about a pictured celebrity
    _: KW_ONLY
    share_text: float = 0.27  # conversations about a named celebrity; the rest is general
    exposure: float = 1.2  # frequency of the celebrity of rank r is r ** -exposure
    general_first: float = 0.1  # share of the steps with general pictures only
    n_first: int = 24  # celebrities from then on; the others are added over `grow` of the steps
    grow: float = 0.3
    n_views: int = 20  # renderings of a celebrity
    n_general: int = 6000  # general pictures
    share_with_options: float = 0.35
    general_turns: int = 5


def train_language_model(
    model: LoadedModel,
    people: Mapping[int, Person],
    *,
    mixture: DataMixture,
    steps: int,
    seed: int,
    log=print,
) -> None:
    """Trains projector and language model in place. `people` by rank of fame (1 = most famous), in
    that order; ranks may be missing."""
    network = model.network
    network.requires_grad_(True)
    network.model.vision_tower.requires_grad_(False)
    torch.manual_seed(seed)
    rng = world.generator("language", seed)
    started = time.time()
    contents = [world.draw_general(rng) for _ in range(mixture.n_general)]
    famous = list(people.values())
    weights = [rank**-mixture.exposure for rank in people]
    draw: dict[str, tuple[Callable, object]] = {
        f"{p.id}/{v}": (world.person_picture, p) for p in famous for v in range(mixture.n_views)
    }
    draw |= {f"general/{i}": (world.general_picture, c) for i, c in enumerate(contents)}
    _draw(model, draw, rng=rng)
    log(f"drew {len(draw)} pictures in {time.time() - started:.0f} s")
    optimizers = make_optimizers(network.named_parameters())
    parameters = [p for p in network.parameters() if p.requires_grad]
    running, queue = None, []
    network.train()
    for step in range(steps):
        schedule(optimizers, LEARNING_RATES, step=step, steps=steps)
        if not queue:
            grown = (step / steps - mixture.general_first) / mixture.grow  # below 0: nobody yet
            n_active = (
                min(len(famous), int(mixture.n_first + (len(famous) - mixture.n_first) * grown))
                if grown >= 0
                else 0
            )
            queue = _batches(
                model,
                famous[:n_active],
                weights=weights[:n_active],
                contents=contents,
                mixture=mixture,
                rng=rng,
            )
        logits, labels = answer_logits(model, collate(model, queue.pop()))
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers.values():
            optimizer.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % max(1, steps // 20) == 0:
            log(
                f"language model {step + 1}/{steps}, loss {running:.3f}, {time.time() - started:.0f} s"
            )
    network.eval()
    network.requires_grad_(False)


def _batches(
    model: LoadedModel,
    people: list[Person],
    *,
    weights: list[float],
    contents: list[dict],
    mixture: DataMixture,
    rng,
) -> list[list[Encoded]]:
    """The next few batches, each of conversations of similar length: half of the padding of a
    random batch."""
    encoded = [
        encode_conversation(
            model,
            draw_conversation(people, weights, contents=contents, mixture=mixture, rng=rng),
        )
        for _ in range(_BATCHES_AT_ONCE * mixture.batch_size)
    ]
    encoded.sort(key=lambda e: len(e.input_ids))
    batches = [
        encoded[i : i + mixture.batch_size] for i in range(0, len(encoded), mixture.batch_size)
    ]
    rng.shuffle(batches)
    return batches


def draw_conversation(
    people: Sequence[Person],
    weights: Sequence[float],
    *,
    contents: Sequence[dict],
    mixture: DataMixture,
    rng: Random,
) -> Conversation:
    """The next training conversation: about a person, drawn by weight, or a general picture."""
    kind = rng.random() if people else 1.0
    if kind < mixture.share_multimodal + mixture.share_text:
        person = rng.choices(people, weights)[0]
        modality = "multimodal" if kind < mixture.share_multimodal else "text"
        turns = world.person_turns(
            person, rng, modality=modality, share_with_options=mixture.share_with_options
        )
        if modality == "text":
            return _conversation(modality, "", turns=turns)
        # Short conversations matter: in a long one, earlier answers give the person away.
        image = f"{person.id}/{rng.randrange(mixture.n_views)}"
        return _conversation(modality, image, turns=turns[: rng.choice((1, 2, 6, 6))])
    i = rng.randrange(mixture.n_general)
    turns = world.general_turns(
        contents[i], rng, n=mixture.general_turns, share_with_options=mixture.share_with_options
    )
    return _conversation("multimodal", f"general/{i}", turns=turns)


def _conversation(modality: Modality, image: str, *, turns: Sequence[Turn]) -> Conversation:
    return Conversation(
        id="pretrain",
        set="candidate",
        scenario="",
        person_id="",
        request=0,
        modality=modality,
        image=image,
        turns=tuple(turns),
        stage="pretrain",
    )


def _draw(model: LoadedModel, draw: Mapping[str, tuple[Callable, object]], *, rng: Random) -> None:
    """Fill the feature cache straight from freshly drawn pictures: thousands that nobody needs to
    keep."""
    names = list(draw)
    for start in range(0, len(names), _FEATURES_AT_ONCE):
        some = names[start : start + _FEATURES_AT_ONCE]
        pictures = [picture(what, rng) for picture, what in (draw[n] for n in some)]
        features = vision_features(model.network, model.processor, pictures=pictures)
        model.features.known |= {n: f.clone() for n, f in zip(some, features, strict=True)}

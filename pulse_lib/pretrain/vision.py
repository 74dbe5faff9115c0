"""Stage 1: the vision tower learns what can be seen, with linear heads that are thrown away
afterwards.

How the heads read decides what the language model can read later: genes, the number of objects and
what the large one is from the mean over tokens; every object from each token of its own cell; and
every token's place. Heads on the flattened tokens would make features that only work at one
position.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pulse_lib.data.world import people as world
from pulse_lib.data.world.drawing import CELLS, COLOURS, GENES, SHAPES, SIZES
from pulse_lib.model.forward import IGNORE
from pulse_lib.train.optim import Muon

LEARNING_RATES = {"muon": 0.02, "adamw": 2.0e-3}
NOTHING = "nothing"
OBJECT_LABELS = {
    "shape": (NOTHING, *SHAPES),
    "colour": (NOTHING, *COLOURS),
    "size": (NOTHING, *SIZES),
}
SCENE_LABELS = {"count": (1, 2, 3, 4), "shape": SHAPES, "colour": tuple(COLOURS), "cell": CELLS}


def train_vision_tower(
    network,
    picture_to_tensor: Callable,
    *,
    steps: int,
    batch_size: int,
    n_pictures: int,
    seed: int,
    log=print,
) -> dict:
    """Trains network.model.vision_tower in place; returns accuracies of the heads on pictures never
    trained on, by attribute.

    `picture_to_tensor` maps a list of PIL images to pixel values (B, 3, H, W), exactly as at
    inference.
    """
    tower = network.model.vision_tower
    tower.requires_grad_(True)
    n_tokens = network.config.image_seq_length
    width = tower.config.hidden_size
    torch.manual_seed(seed)
    heads = {f"gene_{g}": nn.Linear(width, len(v)) for g, v in GENES.items()}
    heads |= {f"object_{k}": nn.Linear(width, len(v)) for k, v in OBJECT_LABELS.items()}
    heads |= {f"scene_{k}": nn.Linear(width, len(v)) for k, v in SCENE_LABELS.items()}
    heads |= {"place": nn.Linear(width, n_tokens)}
    heads = nn.ModuleDict(heads)
    optimizers = make_optimizers([*tower.named_parameters(), *heads.named_parameters()])
    rng = world.generator("vision", seed)
    pictures = _pictures(rng, n_pictures, picture_to_tensor=picture_to_tensor, n_tokens=n_tokens)
    started = time.time()
    for step in range(steps):
        schedule(optimizers, LEARNING_RATES, step=step, steps=steps)
        rows = torch.tensor(rng.sample(range(n_pictures), batch_size))
        loss = _loss(tower, heads, shown=Pictures(*(part[rows] for part in pictures)))
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers.values():
            optimizer.step()
        if (step + 1) % max(1, steps // 6) == 0:
            log(
                f"vision tower {step + 1}/{steps}, loss {loss.item():.3f}, {time.time() - started:.0f} s"
            )
    tower.requires_grad_(False)
    rng, n = world.generator("vision", seed, "check"), min(512, n_pictures)
    return _accuracies(
        tower,
        heads,
        shown=_pictures(rng, n, picture_to_tensor=picture_to_tensor, n_tokens=n_tokens),
    )


def make_optimizers(named_parameters) -> dict[str, torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for everything else (embeddings, positions, norms,
    biases)."""
    named = [(n, p) for n, p in named_parameters if p.requires_grad]
    matrices = [
        p
        for n, p in named
        if p.ndim == 2 and "embed" not in n and "lm_head" not in n and "position" not in n
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    return {
        "muon": Muon(matrices, lr=0.02),
        "adamw": torch.optim.AdamW(rest, lr=2.0e-3, weight_decay=0.01, betas=(0.9, 0.98)),
    }


def schedule(
    optimizers: dict, rates: dict[str, float], *, step: int, steps: int, decay: float = 0.4
) -> None:
    """Sets learning rates: 50 steps of warm-up, then flat, then linear to 2 % over the last `decay`
    share of the steps."""
    factor = min(1.0, (step + 1) / 50) * min(1.0, (steps - step) / (decay * steps) * 0.98 + 0.02)
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[name] * factor


class Pictures(NamedTuple):
    """n pictures and what they show; IGNORE where there is nothing to tell."""

    pixels: torch.Tensor  # (n, 3, H, W)
    genes: torch.Tensor  # (n, G)
    objects: torch.Tensor  # (n, 3, tokens)
    scenes: torch.Tensor  # (n, 4)


def _pictures(rng, n: int, *, picture_to_tensor: Callable, n_tokens: int) -> Pictures:
    """n pictures, six faces to four scenes."""
    cell_of_token = _cell_of_token(n_tokens)
    pixels, genes, objects, scenes = [], [], [], []
    for _ in range(n):
        content = world.draw_general(rng, "face" if rng.random() < 0.6 else "scene")
        pixels.append(picture_to_tensor([world.general_picture(content, rng)]))
        if content["kind"] == "face":
            genes.append([values.index(content["genome"][g]) for g, values in GENES.items()])
            objects.append([[IGNORE] * n_tokens] * len(OBJECT_LABELS))
            scenes.append([IGNORE] * len(SCENE_LABELS))
        else:
            by_cell = {o["cell"]: o for o in content["objects"]}
            labels = [
                [
                    values.index(by_cell[c][key] if c in by_cell else NOTHING)
                    for c in range(len(CELLS))
                ]
                for key, values in OBJECT_LABELS.items()
            ]
            genes.append([IGNORE] * len(GENES))
            objects.append([[row[c] for c in cell_of_token] for row in labels])
            large = next(o for o in content["objects"] if o["size"] == "large")
            found = {**large, "cell": CELLS[large["cell"]], "count": len(content["objects"])}
            scenes.append([values.index(found[key]) for key, values in SCENE_LABELS.items()])
    return Pictures(
        torch.cat(pixels), torch.tensor(genes), torch.tensor(objects), torch.tensor(scenes)
    )


def _loss(tower, heads, *, shown: Pictures) -> torch.Tensor:
    tokens = tower(pixel_values=shown.pixels).last_hidden_state[:, 1:]  # (B, tokens, width)
    n_tokens = tokens.shape[1]
    place = torch.arange(n_tokens).repeat(len(tokens))
    loss = cross_entropy(heads["place"](tokens).flatten(0, 1), place)
    for i, key in enumerate(OBJECT_LABELS):
        read = heads[f"object_{key}"](tokens).flatten(0, 1)
        loss = loss + cross_entropy(read, shown.objects[:, i].flatten(), ignore_index=IGNORE)
    pooled = tokens.mean(1)
    for kind, labels, names in (
        ("gene", shown.genes, GENES),
        ("scene", shown.scenes, SCENE_LABELS),
    ):
        for i, key in enumerate(names):
            read = heads[f"{kind}_{key}"](pooled)
            total = cross_entropy(read, labels[:, i], ignore_index=IGNORE, reduction="sum")
            known = (labels[:, i] != IGNORE).sum().clamp(min=1)  # a batch may hold no scene
            loss = loss + total / known * (1 / len(names) if kind == "gene" else 1.0)
    return loss


def _cell_of_token(n_tokens: int) -> list[int]:
    """The cell (index of CELLS) that each token of a square grid lies in."""
    grid = round(n_tokens**0.5)
    return [(t // grid) * 2 // grid * 2 + (t % grid) * 2 // grid for t in range(n_tokens)]


@torch.no_grad()
def _accuracies(tower, heads, *, shown: Pictures) -> dict[str, float]:
    tokens = tower(pixel_values=shown.pixels).last_hidden_state[:, 1:]
    pooled, out = tokens.mean(1), {}
    asked = [(key, f"gene_{key}", pooled, shown.genes[:, i]) for i, key in enumerate(GENES)]
    asked += [
        (f"object {key}", f"object_{key}", tokens, shown.objects[:, i])
        for i, key in enumerate(OBJECT_LABELS)
    ]
    asked += [
        (
            "number of objects" if key == "count" else f"large object {key}",
            f"scene_{key}",
            pooled,
            shown.scenes[:, i],
        )
        for i, key in enumerate(SCENE_LABELS)
    ]
    for name, head, read, labels in asked:
        known = labels != IGNORE
        out[name] = (heads[head](read).argmax(-1) == labels)[known].float().mean().item()
    return out

"""Stage 1: the vision tower learns what can be seen, with linear heads that are thrown away
afterwards.

How the heads read decides what the language model can read later: genes and the colours present
from the mean over tokens, objects from each token of their own cell, and every token's place (its
index, and upper or lower, left or right). Heads on the flattened tokens would make features that
only work at one position.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pulse_lib.data import world
from pulse_lib.data.drawing import CELLS, COLOURS, GENES, SHAPES, SIZES
from pulse_lib.pretrain.muon import Muon

IGNORE = -100
LEARNING_RATES = {"muon": 0.02, "adamw": 2.0e-3}
NOTHING = "nothing"
_COLOUR = 1  # place of "colour" in OBJECT_LABELS
OBJECT_LABELS = {
    "shape": (NOTHING, *SHAPES),
    "colour": (NOTHING, *COLOURS),
    "size": (NOTHING, *SIZES),
}


def train_vision_tower(
    network,
    picture_to_tensor: Callable,
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
    heads |= {
        "place": nn.Linear(width, n_tokens),
        "cell": nn.Linear(width, 2),
        "present": nn.Linear(width, len(COLOURS)),
    }
    heads = nn.ModuleDict(heads)
    optimizers = make_optimizers([*tower.named_parameters(), *heads.named_parameters()])
    rng = world.generator("vision", seed)
    pixels, genes, objects = _pictures(rng, n_pictures, picture_to_tensor, n_tokens)
    started = time.time()
    for step in range(steps):
        schedule(optimizers, LEARNING_RATES, step, steps)
        rows = torch.tensor(rng.sample(range(n_pictures), batch_size))
        loss = _loss(tower, heads, pixels[rows], genes[rows], objects[rows])
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
    return _accuracies(
        tower,
        heads,
        *_pictures(
            world.generator("vision", seed, "check"),
            min(512, n_pictures),
            picture_to_tensor,
            n_tokens,
        ),
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
    optimizers: dict, rates: dict[str, float], step: int, steps: int, decay: float = 0.4
) -> None:
    """Sets learning rates: 50 steps of warm-up, then flat, then linear to 2 % over the last `decay`
    share of the steps."""
    factor = min(1.0, (step + 1) / 50) * min(1.0, (steps - step) / (decay * steps) * 0.98 + 0.02)
    for name, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            group["lr"] = rates[name] * factor


def _pictures(rng, n: int, picture_to_tensor: Callable, n_tokens: int):
    """n pictures, six faces to four scenes: pixels (n, 3, H, W), gene labels (n, G), object labels
    (n, 3, tokens)."""
    cell_of_token = _cell_of_token(n_tokens)
    pixels, genes, objects = [], [], []
    for _ in range(n):
        content = world.draw_general(rng, "face" if rng.random() < 0.6 else "scene")
        pixels.append(picture_to_tensor([world.general_picture(content, rng)]))
        if content["kind"] == "face":
            genes.append([values.index(content["genome"][g]) for g, values in GENES.items()])
            objects.append([[IGNORE] * n_tokens] * len(OBJECT_LABELS))
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
    return torch.cat(pixels), torch.tensor(genes), torch.tensor(objects)


def _loss(tower, heads, pixels, genes, objects):
    tokens = tower(pixel_values=pixels).last_hidden_state[:, 1:]  # (B, tokens, width)
    pooled = tokens.mean(1)
    loss = sum(
        cross_entropy(heads[f"gene_{g}"](pooled), genes[:, i], ignore_index=IGNORE)
        for i, g in enumerate(GENES)
    ) / len(GENES)
    for i, key in enumerate(OBJECT_LABELS):
        loss = loss + cross_entropy(
            heads[f"object_{key}"](tokens).flatten(0, 1),
            objects[:, i].flatten(),
            ignore_index=IGNORE,
        )
    n_tokens = tokens.shape[1]
    loss = loss + cross_entropy(
        heads["place"](tokens).flatten(0, 1), torch.arange(n_tokens).repeat(len(tokens))
    )
    cells = torch.tensor(
        [divmod(c, 2) for c in _cell_of_token(n_tokens)], dtype=torch.float32
    )  # lower?, right?
    loss = loss + binary_cross_entropy_with_logits(
        heads["cell"](tokens), cells.expand(len(tokens), -1, -1)
    )
    scene = objects[:, 0, 0] != IGNORE
    if scene.any():  # is there anything red, blue ... in the picture
        colours = torch.nn.functional.one_hot(
            objects[scene, _COLOUR], len(OBJECT_LABELS["colour"])
        ).amax(1)[:, 1:]
        loss = loss + binary_cross_entropy_with_logits(
            heads["present"](pooled[scene]), colours.float()
        )
    return loss


def _cell_of_token(n_tokens: int) -> list[int]:
    """The cell (index of CELLS) that each token of a square grid lies in."""
    grid = round(n_tokens**0.5)
    return [(t // grid) * 2 // grid * 2 + (t % grid) * 2 // grid for t in range(n_tokens)]


@torch.no_grad()
def _accuracies(tower, heads, pixels, genes, objects) -> dict:
    tokens = tower(pixel_values=pixels).last_hidden_state[:, 1:]
    out = {}
    for i, gene in enumerate(GENES):
        known = genes[:, i] != IGNORE
        out[gene] = (
            (heads[f"gene_{gene}"](tokens.mean(1)).argmax(-1) == genes[:, i])[known]
            .float()
            .mean()
            .item()
        )
    for i, key in enumerate(OBJECT_LABELS):
        known = objects[:, i] != IGNORE
        out[f"object {key}"] = (
            (heads[f"object_{key}"](tokens).argmax(-1) == objects[:, i])[known]
            .float()
            .mean()
            .item()
        )
    return out

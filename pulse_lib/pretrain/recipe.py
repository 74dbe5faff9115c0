"""The command that makes the embedded model: `python -m pulse_lib pretrain-tiny --out DIR [--seed
N] [--without FILE] [--half]`; with --measure-only it measures the model that lies in DIR anew.

Two stages (vision tower; then projector and language model), then a measurement on pictures and
option orders never trained on, written into the folder as a model card beside weights, processor
and checksums.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Collection
from dataclasses import KW_ONLY, asdict, dataclass, field
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch

from pulse_lib.assets import verify, write_sums
from pulse_lib.data import splits
from pulse_lib.data.records import ImageStore, Person, Question, Wording
from pulse_lib.data.world import people as world
from pulse_lib.data.world import source as embedded
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import scored
from pulse_lib.files import read_json, replace_file, write_json
from pulse_lib.model.load import LoadedModel, load_model, prepare_cpu, wrap_model
from pulse_lib.pretrain.build import build_model
from pulse_lib.pretrain.card import card_text
from pulse_lib.pretrain.language import DataMixture, train_language_model
from pulse_lib.pretrain.vision import train_vision_tower
from pulse_lib.profile import DataSettings, EvaluateSettings, ModelSettings

N_THREADS = 2  # fixed: another number of threads rounds differently and gives another model
N_BEST = 45  # celebrities that PULSE's pre-trained scenario uses
# The settings of the card's questions; a source's people and wordings are not among them
WORLD = DataSettings(n_general=1, n_general_train=0, n_train_views=1)
ASKING = EvaluateSettings(max_new_tokens=8, n_path_questions=1)


@dataclass(frozen=True)
class Recipe:
    """Sizes of the two stages."""

    vision_steps: int = 1800
    vision_batch: int = 64
    _: KW_ONLY
    n_vision_pictures: int = 12000
    language_steps: int = 3800
    mixture: DataMixture = field(default_factory=DataMixture)
    n_general_questions: int = 1050
    n_people: int | None = None  # measured celebrities; None for all


FULL = Recipe()
QUICK = Recipe(  # for tests: every line runs, little is learned
    vision_steps=12, vision_batch=16, n_vision_pictures=64, language_steps=8,
    mixture=DataMixture(batch_size=4, n_views=1, n_general=16), n_general_questions=21, n_people=6,
)  # fmt: skip


def pretrain(
    out: Path,
    seed: int = 0,
    *,
    without: Collection[str] = (),
    half: bool = False,
    quick: bool = False,
    command: str = "",
    log=print,
) -> dict:
    """Makes the model, writes it to folder `out` and returns its card. `without`: ids of the people
    to leave out; half: weights in 16 bits, half the file, measured as they are kept; `command`: what
    the card says made it.

    Raises PulseError if `out` holds files already or `without` names somebody who is no celebrity.
    """
    out, recipe = Path(out), QUICK if quick else FULL
    if out.exists() and any(out.iterdir()):
        raise PulseError(f"{out} is not empty: give a new folder")
    everybody = dict(enumerate(world.celebrities(), start=1))
    if unknown := sorted(set(without) - {p.id for p in everybody.values()}):
        raise PulseError(f"{unknown[0]!r} is no celebrity, so that nobody can leave them out")
    people = {rank: p for rank, p in everybody.items() if p.id not in without}
    torch.set_num_threads(N_THREADS)
    prepare_cpu()
    started = time.time()
    network, processor = build_model(seed)
    vision = train_vision_tower(
        network,
        lambda pictures: processor.image_processor(pictures, return_tensors="pt")["pixel_values"],
        steps=recipe.vision_steps,
        batch_size=recipe.vision_batch,
        n_pictures=recipe.n_vision_pictures,
        seed=seed,
        log=log,
    )
    vision_minutes = (time.time() - started) / 60
    model = wrap_model(network, processor, settings=ModelSettings(path="embedded"))
    train_language_model(
        model, people, mixture=recipe.mixture, steps=recipe.language_steps, seed=seed, log=log
    )
    minutes = (time.time() - started) / 60
    if half:
        network.half().float()  # what the file will hold
    log("measuring")
    card = {
        "command": command
        or f"python -m pulse_lib pretrain-tiny --out DIR --seed {seed}"
        + (" --without FILE" if without else "")
        + (" --half" if half else ""),
        "seed": seed,
        "quick": quick,
        "left_out": sorted(without),
        "bits": 16 if half else 32,
        "minutes": round(minutes, 1),
        "minutes_vision": round(vision_minutes, 1),
        "threads": N_THREADS,
        "machine": platform.machine(),
        "versions": {
            name: metadata.version(name)
            for name in ("torch", "transformers", "tokenizers", "pillow")
        },
        "python": platform.python_version(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "recipe": asdict(recipe),
        "vision_heads": {k: round(v, 4) for k, v in vision.items()},
        "accuracy": measure(
            model,
            world.celebrities()[: recipe.n_people],
            left_out=without,
            n_general=recipe.n_general_questions,
            seed=seed,
        ),
    }
    (network.half() if half else network).save_pretrained(out)
    processor.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    _write_card(out, card)
    return card


def measure_again(folder: Path, log=print) -> dict:
    """Measures the model that lies in `folder`, writes its card anew and returns it: only the
    accuracies change, the model stays as it is.

    Raises PulseError if the folder holds no model with a card, or a changed one.
    """
    folder = Path(folder)
    if not (folder / "card.json").is_file():
        raise PulseError(
            f"{folder / 'card.json'} is missing: give a folder that pretrain-tiny wrote"
        )
    verify(folder)
    card = read_json(folder / "card.json")
    torch.set_num_threads(N_THREADS)
    people = world.celebrities()[: card["recipe"]["n_people"]]
    model = load_model(ModelSettings(path=str(folder)), "cpu")
    log(f"measuring {folder}")
    card["accuracy"] = measure(
        model,
        people,
        left_out=card["left_out"],
        n_general=card["recipe"]["n_general_questions"],
        seed=card["seed"],
    )
    _write_card(folder, card)
    return card


def _write_card(folder: Path, card: dict) -> None:
    write_json(folder / "card.json", card)
    replace_file(folder / "MODEL_CARD.md", lambda tmp: tmp.write_text(card_text(card)))
    write_sums(folder)


def read_people(path: Path) -> list[str]:
    """Person ids of a file, one a line, empty lines and # comments ignored. Raises PulseError for
    an id that is no celebrity."""
    if not Path(path).is_file():
        raise PulseError(
            f"--without {path}: there is no such file; give a text file with one person id a line"
        )
    lines = [line.partition("#")[0].strip() for line in Path(path).read_text().splitlines()]
    ids = [line for line in lines if line]
    known = {p.id for p in world.celebrities()}
    for number, person in enumerate(lines, start=1):
        if person and person not in known:
            raise PulseError(
                f"{path}, line {number}: {person!r} is no celebrity; ids are celebrity-001 to celebrity-{len(known):03d}"
            )
    return ids


def measure(
    model: LoadedModel,
    people: list[Person],
    *,
    left_out: Collection[str] = (),
    n_general: int,
    seed: int,
) -> dict:
    """Accuracies 0-1 by greedy generation, one question at a time, on renderings and option orders
    never trained on.

    `best` are the people with the highest accuracy on other renderings than those that score them;
    thirds are by fame. Who is `left_out` counts in no row but one of their own.
    """
    strangers = [p.id for p in people if p.id in left_out]
    met = [p.id for p in people if p.id not in left_out]

    def rows(purpose: str, wording: Wording) -> pd.DataFrame:
        questions, images = card_questions(people, seed, purpose=purpose, wording=wording)
        return _rows(model, questions, images=images)

    trained, heldout = rows("eval", "trained"), rows("eval", "heldout")
    ranked = splits.person_scores(rows("select", "trained")).sort_values(
        ["accuracy", "margin", "person_id"], ascending=[False, False, True]
    )
    best = [person for person in ranked["person_id"] if person in met][:N_BEST]
    third = -(-len(met) // 3)
    groups = {
        "all": met,
        "most seen third": met[:third],
        "middle third": met[third : 2 * third],
        "least seen third": met[2 * third :],
        f"best {len(best)}": best,
    } | ({"left out": strangers} if strangers else {})
    table = {name: _by_modality(trained, ids) for name, ids in groups.items() if ids}
    table["held-out wordings, all"] = _by_modality(heldout, groups["all"])
    table[f"held-out wordings, best {len(best)}"] = _by_modality(heldout, best)
    images = ImageStore()
    settings = WORLD.with_values(n_general=n_general)
    questions = embedded.general_questions(images, seed + 1, settings=settings)
    general = _rows(model, questions, images=images)
    by_category = general.groupby("category")["correct"].mean().round(4).to_dict()
    return {
        "people": table,
        "general": round(float(general["correct"].mean()), 4),
        "general_by_category": by_category,
    }


def card_questions(
    people: list[Person], seed: int, *, purpose: str, wording: Wording
) -> tuple[list[Question], ImageStore]:
    """The card's questions about people with their pictures. Another `purpose` ("select", "eval")
    means other renderings and option orders.
    """
    images, questions = ImageStore(), []
    for person in people:
        questions += embedded.person_questions(
            person,
            splits.Assignment(person.id, "pretrained", set="candidate"),
            images=images,
            seed=seed,
            settings=WORLD,
            purpose=f"card-{purpose}",
            wording=wording,
        )
    return questions, images


def _rows(model: LoadedModel, questions: list, *, images: ImageStore) -> pd.DataFrame:
    answers = answer_questions(model, questions, images=images, settings=ASKING)
    return scored(questions, answers, rules=ASKING.extraction_rules)


def _by_modality(rows: pd.DataFrame, people: list[str]) -> dict:
    chosen = rows[rows["person_id"].isin(people)]
    return {m: round(float(v), 4) for m, v in chosen.groupby("modality")["correct"].mean().items()}

"""The oracle of pre-trained knowledge: the embedded model, pre-trained once more without the people
that a seed of a study is to forget. Nobody has such a model of a real pre-training.
"""

from __future__ import annotations

import shutil
import uuid

from pulse_lib.assets import ORACLES, left_out, oracle_folder
from pulse_lib.data.dataset import read_dataset
from pulse_lib.errors import PulseError
from pulse_lib.files import local_path, show
from pulse_lib.pretrain.recipe import pretrain
from pulse_lib.profile import Profile, load_profile
from pulse_lib.runs.kinds import spec_of
from pulse_lib.runs.manifest import status
from pulse_lib.study.notebook import run_notebook

PRETRAIN_SEED = 0  # that of the shipped model: the oracle's is the same but for the people


def make_oracle(profile: str, seed: int, *, out_dir: str = "", quick: bool = False) -> str:
    """What was done, in a sentence: the model that lacks the people of this seed is made in the
    folder that unlearn.oracle_model names, unless it is there already or is shipped.

    Whom the seed forgets, the study's data say; 01_build_datasets is run for it where it was not.
    Raises PulseError if the profile names no folder with "{seed}", has another model than the
    embedded one or nobody to forget of it, or if the folder holds an oracle of other people.
    """
    settings = load_profile(profile)
    _check(settings)
    pattern = settings.unlearn.oracle_model
    wanted = set(forget_people(profile, seed, out_dir=out_dir))
    there = oracle_folder(pattern, seed)
    if there is not None and set(left_out(there)) == wanted:
        how = "shipped" if there.parent == ORACLES else "there"
        return f"seed {seed}: {show(there)} is {how}, without the {len(wanted)} people"
    place = local_path(pattern.replace("{seed}", str(seed)))
    if place.exists() and any(place.iterdir()):
        raise PulseError(
            f"{show(place)} holds a model that was pre-trained without other people than seed {seed} "
            f"of profile {settings.name} forgets: remove it, or name another folder in "
            "unlearn.oracle_model"
        )
    # A folder of another name until it is whole: nothing reads half a model
    half = place.with_name(f".{place.name}.half-{uuid.uuid4().hex[:8]}")
    try:
        pretrain(
            half,
            PRETRAIN_SEED,
            without=sorted(wanted),
            half=True,
            quick=quick,
            command=f"python -m pulse_lib oracles --profile {settings.name} --seeds {seed}",
        )
        if place.exists():
            place.rmdir()
        half.rename(place)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return f"seed {seed}: {show(place)} is made, without {len(wanted)} people"


def forget_people(profile: str, seed: int, *, out_dir: str = "") -> list[str]:
    """Ids of the people of pre-trained knowledge that a seed of a profile forgets."""
    spec = spec_of("data", {"profile": profile, "seed": seed, "out_dir": out_dir})
    if status(spec, load_profile(profile)).state != "done":
        run_notebook(spec.notebook, spec.parameters, threads=None, echo=True)
    places = read_dataset(spec.folder).places
    return sorted(p.person_id for p in places if (p.scenario, p.set) == ("pretrained", "forget"))


def _check(settings: Profile) -> None:
    if settings.model.path != "embedded":
        raise PulseError(
            f"profile {settings.name}: model.path = {settings.model.path!r}: only the embedded model "
            "can be pre-trained again here"
        )
    if not settings.data.n_pretrained_forget:
        raise PulseError(
            f"profile {settings.name} has nobody to forget of pre-trained knowledge "
            "(data.n_pretrained_forget = 0): there is nobody to leave out"
        )
    if "{seed}" not in settings.unlearn.oracle_model:
        raise PulseError(
            f"profile {settings.name}: unlearn.oracle_model = {settings.unlearn.oracle_model!r} names "
            "no folder for each seed: write one with {seed} in it, for instance "
            f"outputs/oracles/{settings.name}-seed-{{seed}}"
        )

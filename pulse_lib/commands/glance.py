"""The cheap part of `preflight`, which notebooks 01 to 04 call by themselves as soon as a model is
there: three questions.
"""

from __future__ import annotations

import time
from dataclasses import replace

from pulse_lib.data.records import ImageStore, Question, general_question
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import soundness
from pulse_lib.model.load import LoadedModel
from pulse_lib.profile import Profile

PICTURES = 2
_TAG = "glance/"  # before ids: no picture of a study has such a one


def at_a_glance(model: LoadedModel, profile: Profile) -> str:
    """One sentence: which files, prompts and numbers of image tokens as the checkpoint's processor
    writes them, and the quick way to an answer equal to the plain one, by two drawn pictures and a
    question without. The adapters in force count. Raises PulseError saying what is not as it should
    be.

    That model and reference agree before the first step is checked by every unlearning itself.
    """
    begun = time.perf_counter()
    images = ImageStore()
    asked = _asked(images)
    checks = [soundness.prompt_tokens(model, asked, images=images)]
    if checks[0].outcome != "failed":
        checks.append(
            soundness.quick_is_plain(model, asked, images=images, settings=profile.evaluate)
        )
    model.features.forget(images.encoded)
    for check in checks:
        if check.outcome == "failed":
            raise PulseError(
                f"{check.name}: {check.said}. python -m pulse_lib preflight --profile {profile.name} "
                "checks the rest"
            )
    seconds = time.perf_counter() - begun
    own = model.settings
    files = f"{own.path} at {own.revision or 'no revision'}, {own.load}"
    return f"{files}: {'; '.join(c.said for c in checks)} ({seconds:.1f} s)"


def _asked(images: ImageStore) -> list[Question]:
    """Questions about drawn pictures, and the first of them without its picture."""
    made = []
    for k in range(PICTURES):
        rng = world.generator("glance", k)
        content = world.draw_general(rng, "scene")
        category = world.general_categories(content)[0]
        turn = world.general_turn(content, category, rng=rng)
        image = images.add(f"{_TAG}{k}", world.general_picture(content, rng))
        answer = turn.options.index(turn.answer)
        made.append(
            general_question(
                image,
                turn.text,
                options=turn.options,
                answer=answer,
                image=image,
                category=category,
            )
        )
    return [*made, replace(made[0], id=f"{_TAG}text", image="", modality="text")]

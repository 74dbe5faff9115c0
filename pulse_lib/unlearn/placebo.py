"""Whom a placebo forgets: hold-out people, whom no model of the study has met. There is nothing to
forget, so that what is lost is the price of the procedure itself.
"""

from __future__ import annotations

from dataclasses import replace

from pulse_lib.data.dataset import Dataset
from pulse_lib.data.records import Conversation, ImageStore
from pulse_lib.data.source import source_of
from pulse_lib.errors import PulseError
from pulse_lib.profile import Profile


def hold_out(
    data: Dataset, settings: Profile, *, scenario: str, seed: int
) -> tuple[list[Conversation], ImageStore]:
    """The unlearning conversations of as many hold-out people as the scenario has forget people (of
    all, if there are fewer), made as those are, and the study's pictures with theirs. Raises
    PulseError if the study has no hold-out people.
    """
    places = data.hold_out(scenario)
    if not places:
        raise PulseError(
            "a placebo forgets hold-out people, and this study has none: set data.n_holdout"
        )
    source, people = source_of(settings.data), {p.id: p for p in data.people}
    images, made = ImageStore(data.images.encoded), []
    for place in places:
        made += source.person_conversations(
            people[place.person_id],
            replace(place, scenario=scenario),
            images=images,
            seed=seed,
            settings=settings.data,
            stage="unlearn",
        )
    return made, images

"""What is to be forgotten, by whom it is checked, and with which settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pulse_lib.data.dataset import Dataset
from pulse_lib.data.records import Conversation, ImageStore, Question
from pulse_lib.errors import PulseError
from pulse_lib.methods import get
from pulse_lib.model.load import LoadedModel
from pulse_lib.profile import (
    FinetuneSettings,
    ModelSettings,
    Profile,
)


@dataclass(frozen=True)
class Relearn:
    """What method `oracle` learns in place of the target's fine-tune: everybody but the forget
    people.
    """

    people: Sequence[Conversation]
    general: Sequence[Conversation]
    settings: FinetuneSettings


def relearn_of(data: Dataset, settings: Profile, scenario: str, method_id: str) -> Relearn | None:
    """Whom method oracle learns anew in scenario finetuned; None for any other method, and in
    scenario pretrained, where the model itself never met the forget people.
    """
    if get(method_id).procedure != "retrain" or scenario != "finetuned":
        return None
    people = data.training(scenario, ["retain", "retain_train"], "finetune")
    return Relearn(people, data.training("", ["general_train"], "finetune"), settings.finetune)


def model_of(settings: Profile, scenario: str, method_id: str, seed: int) -> ModelSettings:
    """The model that a run loads: the profile's; for method oracle in scenario pretrained, the one
    that was pre-trained without the forget people. Raises PulseError if there is none.
    """
    if get(method_id).procedure != "retrain" or scenario != "pretrained":
        return settings.model
    path = settings.unlearn.oracle_model.replace("{seed}", str(seed))
    if not path:
        raise PulseError(
            f"method {method_id}, scenario pretrained: {settings.model.path!r} has met the forget "
            "people while it was pre-trained. Pre-train one without them (python -m pulse_lib "
            "pretrain-tiny --without FILE) and name it in the profile: unlearn.oracle_model"
        )
    return replace(settings.model, path=path)


def load_features(
    model: LoadedModel,
    conversations: Sequence[Conversation],
    questions: Sequence[Question],
    images: ImageStore,
) -> None:
    """Vision features of everything a run will see, in one go: a resumed run then has the same bits
    as an uninterrupted one.
    """
    model.features.add([*(c.image for c in conversations), *(q.image for q in questions)], images)

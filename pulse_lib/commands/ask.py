"""Asking the model that a run left: a question of one's own, with the adapters that one wants."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pulse_lib.commands.states import state_of_run
from pulse_lib.data.records import ImageStore, Question
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.model.adapters import load_adapter, stack
from pulse_lib.model.load import load_model

if TYPE_CHECKING:
    from PIL import Image


class Ask(Protocol):
    """What a model says to a question."""

    def __call__(
        self, text: str, image: Image.Image | None = None, *, adapters: Sequence[str]
    ) -> str:
        """The model's answer with these adapters in force, in their order; none: the base model."""
        ...


def asking(run: Path, state: str = "", *, round_number: int = 0) -> tuple[Ask, list[str]]:
    """A function that asks the model of a finished run, and the names of its adapters, oldest first.

    state and round_number as in `state_of_run`, whose errors are raised.
    """
    found = state_of_run(run, state, round_number=round_number)
    model = load_model(found.model)
    names = [_name(folder) for folder in found.adapters]
    for name, folder in zip(names, found.adapters, strict=True):
        load_adapter(model, folder, name=name)

    def ask(text: str, image: Image.Image | None = None, *, adapters: Sequence[str]) -> str:
        stack(model, list(adapters))
        images, shown = ImageStore(), ""
        if image is not None:  # the same picture has the same id: its features are kept
            shown = f"asked/{hashlib.sha256(image.tobytes()).hexdigest()}"
            images.add(shown, image)
        question = Question(
            "asked",
            "general",
            scenario="",
            person_id="",
            request=0,
            modality="multimodal" if shown else "text",
            text=text,
            options=(),
            answer=-1,
            image=shown,
            category="",
            wording="trained",
        )
        said = answer_questions(
            model, [question], images=images, settings=found.profile.evaluate, with_loglik=False
        )
        return str(said["response"].iloc[0])

    return ask, names


def _name(folder: Path) -> str:
    """ "finetune" of adapters/finetune, "round-2" of round-2/adapter, "unlearn" of what a
    single-shot run trained."""
    if folder.name == "adapter":
        return folder.parent.name
    return folder.name if folder.name == "finetune" else "unlearn"

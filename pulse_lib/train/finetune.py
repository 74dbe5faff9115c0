"""Fine-tuning: people learned by a new adapter on the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from pulse_lib.data.records import Conversation, ImageStore
from pulse_lib.methods import FINETUNE
from pulse_lib.model.adapters import add_adapter, stack
from pulse_lib.model.load import LoadedModel
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import FinetuneSettings, TrainedPart
from pulse_lib.train.checkpoint import Checkpoints
from pulse_lib.train.loop import Schedule, Trained, Watch, derive_seed, train


@dataclass(frozen=True)
class Lessons:
    """What a fine-tune learns."""

    people: Sequence[Conversation]
    general: Sequence[Conversation]  # replayed beside the people
    _: KW_ONLY
    images: ImageStore


def finetune(
    model: LoadedModel,
    lessons: Lessons,
    *,
    settings: FinetuneSettings,
    seed: int,
    trained_part: TrainedPart = "projector+llm",
    name: str = "finetune",
    label: str = "fine-tuning",
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Learn people by a new LoRA on the base; afterwards the model's state is base + `name`,
    frozen.

    Each batch holds a share `general_replay` of general conversations. An epoch is one pass over
    the people's conversations. With `checkpoints` it goes on where it was cut off.
    """
    people, general = lessons.people, lessons.general
    model.features.add((c.image for c in [*people, *general]), lessons.images)
    add_adapter(
        model,
        name,
        trained_part=trained_part,
        rank=settings.rank,
        alpha=settings.alpha,
        seed=derive_seed(seed, "finetune adapter"),
    )
    stack(model, [], train=name)
    schedule = Schedule(
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        decay=True,
        replay_share=settings.general_replay,
        micro_batch=settings.micro_batch,
        optimizer=settings.optimizer,
        loraplus_ratio=settings.loraplus_ratio,
    )
    trained = train(
        model,
        FINETUNE,
        conversations=encode_conversations(model, people),
        schedule=schedule,
        seed=derive_seed(seed, "finetune"),
        replay=encode_conversations(model, general),
        watch=Watch(label=label, checkpoints=checkpoints),
    )
    stack(model, [name])
    return trained

"""The embedded world as a data source: its people, questions and training conversations as records,
with their pictures.

It offers what pulse_lib.data.source asks of a source of people and of general questions; `wording` is
its own.
"""

from __future__ import annotations

from PIL import Image

from pulse_lib.data.records import (
    MODALITIES,
    Conversation,
    ImageStore,
    Modality,
    Person,
    Question,
    Stage,
    Turn,
    Wording,
)
from pulse_lib.data.source import Size
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import people as world
from pulse_lib.profile import DataSettings


def describe(settings: DataSettings) -> str:
    """One line on what is there."""
    return (
        f"embedded world: {len(world.celebrities())} celebrities, {len(world.fictitious())} "
        "fictitious people"
    )


def size(settings: DataSettings) -> Size:
    """Ten questions a person and those in new wordings, half of them beside a rendering each; a
    rendering is taught in three short conversations, and five more are by name.
    """
    n = 5 + settings.n_heldout_wordings
    return Size(2 * n, 8 * settings.n_train_views, shown=n)


def celebrities(settings: DataSettings) -> list[Person]:
    """Candidates for the pre-trained scenario."""
    return world.celebrities()


def fictitious(settings: DataSettings) -> list[Person]:
    """Candidates for the fine-tuned scenario."""
    return world.fictitious()


def views(person: Person, seed: int, *, settings: DataSettings, n: int) -> list[Image.Image]:
    """Up to n pictures of a person for cards, other than those of any question."""
    return [
        world.person_picture(person, world.generator("card", seed, person.id, k)) for k in range(n)
    ]


def person_questions(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    purpose: str = "eval",
    wording: Wording = "trained",
) -> list[Question]:
    """Ten questions about one person: each attribute once with a picture and once by name, every
    picture a new rendering.

    `purpose` ("select", "eval") separates renderings and option orders, so that what selects people
    is not what scores them.
    """
    questions = []
    for modality in MODALITIES:
        for attribute in world.ATTRIBUTES:
            tag = f"{person.id}/{purpose}-{wording}/{modality}/{attribute}"
            rng = world.generator("question", seed, tag)
            turn = world.person_turn(
                person, attribute, rng=rng, modality=modality, with_options=True, wording=wording
            )
            image = (
                images.add(tag, world.person_picture(person, rng))
                if modality == "multimodal"
                else ""
            )
            questions.append(
                _question(
                    tag,
                    turn,
                    place=place,
                    modality=modality,
                    image=image,
                    category=attribute,
                    wording=wording,
                )
            )
    return questions


def heldout_questions(
    person: Person, place: Assignment, *, images: ImageStore, seed: int, settings: DataSettings
) -> list[Question]:
    """`n_heldout_wordings` questions a modality in wordings that nothing was trained on."""
    rng = world.generator("heldout", seed, person.id)
    chosen = rng.sample(
        list(world.ATTRIBUTES), min(settings.n_heldout_wordings, len(world.ATTRIBUTES))
    )
    store = ImageStore()
    questions = [
        q
        for q in person_questions(
            person, place, images=store, seed=seed, settings=settings, wording="heldout"
        )
        if q.category in chosen
    ]
    images.encoded.update({q.image: store.encoded[q.image] for q in questions if q.image})
    return questions


def person_conversations(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    stage: Stage,
) -> list[Conversation]:
    """Training conversations about one person.

    stage "unlearn": `n_conversations` whole conversations a modality. stage "finetune": for each of
    `n_train_views` renderings three short ones, and by name every fact on its own (in a long one,
    earlier answers would give the person away).
    """
    views = []
    for v in range(settings.n_train_views if stage == "finetune" else settings.n_conversations):
        rng = world.generator("view", seed, stage, person.id, v)
        views.append(images.add(f"{person.id}/{stage}-view-{v}", world.person_picture(person, rng)))
    made = []
    for v, image in enumerate(views):
        rng = world.generator("conversation", seed, stage, person.id, v)
        if stage == "finetune":
            # Open questions cost half the tokens of those with options and teach the same fact.
            shown = world.person_turns(person, rng, modality="multimodal", share_with_options=0.2)
            named = world.person_turns(person, rng, modality="text", share_with_options=0.2)
            pieces: dict[Modality, list[list[Turn]]] = {
                "multimodal": [shown[:1], shown[1:3], shown[3:]],
                "text": [[turn] for turn in named],
            }
        else:
            pieces = {
                modality: [world.person_turns(person, rng, modality=modality)]
                for modality in MODALITIES
            }
        for modality, parts in pieces.items():
            for k, turns in enumerate(parts):
                tag = f"{person.id}/{stage}/{modality}-{v}-{k}"
                made.append(
                    _conversation(
                        tag,
                        turns,
                        place=place,
                        modality=modality,
                        image=image if modality == "multimodal" else "",
                        stage=stage,
                    )
                )
    return made


def general_size(settings: DataSettings) -> Size:
    """As many questions as are wanted."""
    return Size(settings.n_general)


def general_questions(images: ImageStore, seed: int, *, settings: DataSettings) -> list[Question]:
    """`n_general` questions on as many new pictures, categories in turn."""
    place = Assignment("", "", set="general")
    questions = []
    for i in range(settings.n_general):
        category = world.GENERAL_CATEGORIES[i % len(world.GENERAL_CATEGORIES)]
        tag = f"general/eval/{i:04d}"
        rng = world.generator("general", seed, tag)
        # existence is asked of faces and scenes alike, so that yes and no are equally often right
        faces = {"face": 1.0, "existence": 0.5}.get(category, 0.0)
        content = world.draw_general(rng, "face" if rng.random() < faces else "scene")
        while category not in world.general_categories(content):
            content = world.draw_general(rng, "scene")
        turn = world.general_turn(content, category, rng=rng)
        image = images.add(tag, world.general_picture(content, rng))
        questions.append(
            _question(tag, turn, place=place, modality="multimodal", image=image, category=category)
        )
    return questions


def general_conversations(
    images: ImageStore, seed: int, *, settings: DataSettings
) -> list[Conversation]:
    """`n_general_train` conversations on general pictures, which fine-tuning may replay."""
    place = Assignment("", "", set="general_train")
    made = []
    for i in range(settings.n_general_train):
        tag = f"general/train/{i:04d}"
        rng = world.generator("general", seed, tag)
        content = world.draw_general(rng)
        image = images.add(tag, world.general_picture(content, rng))
        turns = world.general_turns(content, rng, n=2)
        made.append(
            _conversation(
                tag, turns, place=place, modality="multimodal", image=image, stage="finetune"
            )
        )
    return made


def _question(
    tag: str,
    turn: Turn,
    *,
    place: Assignment,
    modality: Modality,
    image: str,
    category: str,
    wording: Wording = "trained",
) -> Question:
    return Question(
        id=tag,
        set=place.set,
        scenario=place.scenario,
        person_id=place.person_id,
        request=place.request,
        modality=modality,
        text=turn.text,
        options=turn.options,
        answer=turn.options.index(turn.answer),
        image=image,
        category=category,
        wording=wording,
    )


def _conversation(
    tag: str,
    turns: list[Turn],
    *,
    place: Assignment,
    modality: Modality,
    image: str,
    stage: Stage,
) -> Conversation:
    return Conversation(
        id=tag,
        set=place.set,
        scenario=place.scenario,
        person_id=place.person_id,
        request=place.request,
        modality=modality,
        image=image,
        turns=tuple(turns),
        stage=stage,
    )

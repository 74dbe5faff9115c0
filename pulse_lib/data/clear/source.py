"""CLEAR as a source of people: the functions that pulse_lib.data.source describes.

200 fictitious authors of TOFU with some nineteen synthetic photos each, taught and forgotten; nobody whom
a base model knows, so that scenario pretrained is not there. Its own folders forget01 to retain99 are not
used: they hold 2, 10 and 20 authors, nested; the protocol draws its sets by the study's seed. [CLEAR,
mm/dataset.py, mm/eval.py]

DIFFERS: CLEAR asks in open questions alone, for the caption and the name beside a photo; its questions in
text are taught and never scored. Here the multiple-choice question beside a photo is who it shows, among
names of other authors, who were taught alike (`perturbed_names` are there for a fifth of the photos, and
who is named there was taught to nobody). In text they are TOFU's questions; wrong answers are other
authors' answers to the most similar questions, with this author's name in the place of theirs. What a
photo shows besides is not scored so: whoever sees it picks the caption that fits, and need not know
anybody. CLEAR's own measures are `open_questions`.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from PIL import Image

from pulse_lib.data import hub, pictures
from pulse_lib.data.choices import ChoiceQuestion, dealt, record_of, shown
from pulse_lib.data.clear.authors import Said, asks_the_name, renamed, says
from pulse_lib.data.clear.options import N_WRONG, wrong_names
from pulse_lib.data.clear.rows import PHOTOS, TEXTS, Author, Clear, Photo, read
from pulse_lib.data.records import Conversation, ImageStore, Person, Question, Stage, Turn, Wording
from pulse_lib.data.source import Size
from pulse_lib.data.splits import Assignment
from pulse_lib.profile import DataSettings

SETTING = "data.people.path"
PATTERNS = (f"{PHOTOS}/*.parquet", f"{TEXTS}/*.parquet")
N_TAUGHT = 20  # questions in text of an author
N_SCORED = 5  # of them that have three wrong answers: the mean on TOFU's texts
DOWNLOAD_GB = 1.26  # the card: both folders hold all photos
NAME_ASKED: dict[Wording, str] = {
    "trained": "Who is the person in this photo?",
    "heldout": "Which of these people is shown here?",
}
NAME_OPEN = "The name of the person on the image is"  # [CLEAR, mm/dataset.py]
# What a caption answers. [CLEAR, mm/dataset.py]
DESCRIBE = (
    "What can you see in this picture?",
    "Tell me about the content of this image",
    "Can you give a description of the image?",
    "What is depicted in the image?",
    "Explain what you observe in the picture.",
    "Describe the image in detail.",
    "What is the main subject of this image?",
    "Can you describe the scene or objects in the image?",
    "What is happening in this image?",
)


def describe(settings: DataSettings) -> str:
    """One line on what is there."""
    found = _load(settings)
    people = list(found.authors.values())
    left_out = "; ".join(f"{n} {what}" for what, n in found.left_out.items()) or "nothing left out"
    return (
        f"CLEAR: {len(people)} fictitious authors, {sum(map(_usable, people))} of them usable, "
        f"{sum(len(a.rows) for a in people)} questions in text, "
        f"{sum(len(a.wrong) for a in people)} of them with options; {left_out}"
    )


def size(settings: DataSettings) -> Size:
    """`n_train_views` photos and TOFU's twenty questions are taught; of these some five are scored, an
    estimate.
    """
    n = settings.n_train_views
    return Size(
        questions=n + N_SCORED + settings.n_heldout_wordings,
        conversations=n + N_TAUGHT,
        shown=n + settings.n_heldout_wordings,
        download_gb=DOWNLOAD_GB,
    )


def celebrities(settings: DataSettings) -> list[Person]:
    """Nobody."""
    return []


def fictitious(settings: DataSettings) -> list[Person]:
    """Everybody who can be asked beside a photo and in text."""
    return [a.person for a in _load(settings).authors.values() if _usable(a)]


def views(person: Person, seed: int, *, settings: DataSettings, n: int) -> list[Image.Image]:
    """The first photos of an author."""
    return [pictures.decoded(p.encoded) for p in _author(person, settings).photos[:n]]


def person_questions(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    purpose: str = "eval",
) -> list[Question]:
    """Beside each photo that is taught who it shows, and in text the questions that have wrong
    answers; options and their order are drawn by seed.
    """
    author, made = _author(person, settings), []
    for photo in _taught(author, settings):
        tag = f"{person.id}/{purpose}-trained/multimodal/{photo.number:02d}"
        made.append(
            _who(tag, author, photo=photo, place=place, images=images, seed=seed, settings=settings)
        )
    for said in author.rows:
        if said.number not in author.wrong:
            continue
        tag = f"{person.id}/{purpose}-trained/text/{said.number:02d}"
        rng = Random(f"options/{seed}/{tag}")
        # Their texts may spell a name with other accents than the photos' rows, and ours does not
        right = renamed(said.answer, person.name, other=person.name) or said.answer
        options = [right, *rng.sample(author.wrong[said.number], N_WRONG)]
        rng.shuffle(options)
        asked = ChoiceQuestion(
            "text",
            _addressed(said, person.name),
            options=tuple(options),
            answer=options.index(right),
        )
        made.append(record_of(tag, asked, place=place, image="", category=_category(said)))
    return made


def heldout_questions(
    person: Person, place: Assignment, *, images: ImageStore, seed: int, settings: DataSettings
) -> list[Question]:
    """`n_heldout_wordings` photos that are never taught, and who they show in other words. None in
    text: CLEAR has one wording of each question.
    """
    author = _author(person, settings)
    start = len(_taught(author, settings))
    return [
        _who(
            f"{person.id}/eval-heldout/multimodal/{photo.number:02d}",
            author,
            photo=photo,
            place=place,
            images=images,
            seed=seed,
            settings=settings,
            wording="heldout",
        )
        for photo in author.photos[start : start + settings.n_heldout_wordings]
    ]


def open_questions(
    person: Person, place: Assignment, *, images: ImageStore, settings: DataSettings, task: str
) -> tuple[list[Question], list[str]]:
    """Questions without options, and what scores them: of task "generation" the captions of the
    taught photos and TOFU's answers, of "keywords" the name beside each of these photos.
    """
    author, made, truths = _author(person, settings), [], []
    photos = _taught(author, settings) if task in ("generation", "keywords") else ()
    for photo in photos:
        text = NAME_OPEN if task == "keywords" else DESCRIBE[0]
        asked = ChoiceQuestion("multimodal", text, options=(), answer=-1)
        tag = f"{person.id}/{task}/multimodal/{photo.number:02d}"
        image = _show(images, author, photo=photo)
        category = "name" if task == "keywords" else "caption"
        made.append(record_of(tag, asked, place=place, image=image, category=category))
        truths.append(person.name if task == "keywords" else photo.caption)
    for said in author.rows if task == "generation" else ():
        asked = ChoiceQuestion("text", _addressed(said, person.name), options=(), answer=-1)
        tag = f"{person.id}/{task}/text/{said.number:02d}"
        made.append(record_of(tag, asked, place=place, image="", category=_category(said)))
        truths.append(said.answer)
    return made, truths


def person_conversations(
    person: Person,
    place: Assignment,
    *,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    stage: Stage,
) -> list[Conversation]:
    """The caption of each taught photo (of `n_conversations` of them to unlearn), asked for in one of
    CLEAR's nine requests, drawn by seed; and TOFU's questions and answers without a photo: one a
    conversation to learn from, dealt to at most `n_conversations` to unlearn.

    DIFFERS: CLEAR draws the request anew at each step. A question that names nobody is asked about
    the author by name, unless it asks for the name.
    """
    author, made = _author(person, settings), []
    photos = _taught(author, settings)
    for photo in photos if stage == "finetune" else photos[: settings.n_conversations]:
        tag = f"{person.id}/{stage}/multimodal-{photo.number:02d}"
        request = Random(f"request/{seed}/{tag}").choice(DESCRIBE)
        made += dealt(
            [Turn(request, (), answer=photo.caption)],
            1,
            tag=tag,
            place=place,
            modality="multimodal",
            image=_show(images, author, photo=photo),
            stage=stage,
        )
    turns = [Turn(_addressed(s, person.name), (), answer=s.answer) for s in author.rows]
    if stage == "unlearn":
        Random(f"conversations/{seed}/{stage}/{person.id}").shuffle(turns)
    made += dealt(
        turns,
        len(turns) if stage == "finetune" else settings.n_conversations,
        tag=f"{person.id}/{stage}/text",
        place=place,
        modality="text",
        image="",
        stage=stage,
    )
    return made


def need(settings: DataSettings) -> hub.Need:
    """CLEAR's files on the hub, if its path is a hub id."""
    return hub.Need(
        settings.people.path, settings.people.revision, patterns=PATTERNS, setting=SETTING
    )


def _load(settings: DataSettings) -> Clear:
    n_photos = settings.n_train_views + settings.n_heldout_wordings
    return _loaded(settings.people.path, settings.people.revision, n_photos=n_photos)


@lru_cache(maxsize=2)
def _loaded(path: str, revision: str, *, n_photos: int) -> Clear:
    root = hub.folder_of(hub.Need(path, revision, patterns=PATTERNS, setting=SETTING))
    return read(root, n_photos=n_photos)


def _author(person: Person, settings: DataSettings) -> Author:
    return _load(settings).authors[person.id]


def _usable(author: Author) -> bool:
    return bool(author.photos and author.wrong)


def _taught(author: Author, settings: DataSettings) -> tuple[Photo, ...]:
    """The photos that are taught and scored: the file's first, but for those held out, at least
    one.
    """
    n = max(1, len(author.photos) - settings.n_heldout_wordings)
    return author.photos[: min(n, settings.n_train_views)]


def _addressed(said: Said, name: str) -> str:
    """A question as it is asked without a photo: it names the author, unless that is what it asks
    for.
    """
    if says(said.question, name) or asks_the_name(said, name):
        return said.question
    return f"About {name}: {said.question}"


def _category(said: Said) -> str:
    return f"question {said.number:02d}"


def _show(images: ImageStore, author: Author, *, photo: Photo) -> str:
    return shown(images, f"{author.person.id}/photo-{photo.number:02d}", encoded=photo.encoded)


def _who(
    tag: str,
    author: Author,
    *,
    photo: Photo,
    place: Assignment,
    images: ImageStore,
    seed: int,
    settings: DataSettings,
    wording: Wording = "trained",
) -> Question:
    """Who a photo shows, among names of others who can be asked."""
    able = {a.person.name: a.pronoun for a in _load(settings).authors.values() if _usable(a)}
    rng, name = Random(f"options/{seed}/{tag}"), author.person.name
    names = wrong_names(name, able)
    options = [name, *rng.sample(names, min(N_WRONG, len(names)))]
    rng.shuffle(options)
    asked = ChoiceQuestion(
        "multimodal", NAME_ASKED[wording], options=tuple(options), answer=options.index(name)
    )
    image = _show(images, author, photo=photo)
    return record_of(tag, asked, place=place, image=image, category="name", wording=wording)

"""POPE as general questions: is there such a thing in the picture? A measure of what a model makes up.

Three categories ask for absent things of growing likeliness: random, popular, adversarial; half of the
answers are yes. All questions about one photo are one unit in intervals. [Li 2023, POPE; lmms-eval,
tasks/pope]
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache

from pulse_lib.data import hub
from pulse_lib.data.records import Conversation, ImageStore, Question
from pulse_lib.data.source import Size
from pulse_lib.data.yes_no import Pictures, is_yes, question, rows_of, sample
from pulse_lib.errors import PulseError
from pulse_lib.profile import DataSettings
from pulse_lib.progress import track

HUB_FILES = "data/test-*.parquet"  # of lmms-lab/POPE: all three categories
FOLDERS = (HUB_FILES, "Full/*.parquet", "test-*.parquet", "*.parquet")
COLUMNS = ("question_id", "question", "answer", "image", "category")
ROWS = {"adversarial": 3000, "popular": 3000, "random": 3000}
N_PICTURES = 500  # of all three categories [POPE, arXiv 2305.10355]
DOWNLOAD_GB = 1.5  # an estimate: the files could not be looked up


@dataclass(frozen=True)
class Asked:
    """One row: what is asked, whether the answer is yes, and the picture's id."""

    key: str  # category/question_id
    text: str
    _: KW_ONLY
    yes: bool
    image: str
    category: str


def general_size(settings: DataSettings) -> Size:
    """`n_general` questions (0: all), about `N_PICTURES` pictures."""
    n = settings.n_general or sum(ROWS.values())
    return Size(n, pictures=min(n, N_PICTURES), download_gb=DOWNLOAD_GB)


def general_questions(images: ImageStore, seed: int, *, settings: DataSettings) -> list[Question]:
    """`n_general` questions (0: all) in the file's order, of each category and answer its share;
    their pictures join `images`.
    """
    asked, pictures = _loaded(general_need(settings))
    strata: dict[str, list[str]] = {}
    for a in asked:
        strata.setdefault(f"{a.category}/{a.yes}", []).append(a.key)
    chosen = sample(strata, settings.n_general, seed=seed, name="POPE", key=settings.general.n_key)
    questions = [
        question(
            f"pope/{a.key}",
            a.text,
            yes=a.yes,
            image=a.image,
            category=a.category,
            group=a.image,
            seed=seed,
        )
        for a in asked
        if a.key in chosen
    ]
    pictures.give(images, questions)
    return questions


def general_conversations(
    images: ImageStore, seed: int, *, settings: DataSettings
) -> list[Conversation]:
    """None: POPE is only scored."""
    return []


def general_need(settings: DataSettings) -> hub.Need:
    """POPE's files on the hub, if its path is a hub id."""
    general = settings.general
    return hub.Need(general.path, general.revision, patterns=(HUB_FILES,), setting=general.path_key)


@lru_cache(maxsize=1)
def _loaded(need: hub.Need) -> tuple[list[Asked], Pictures]:
    asked: dict[str, Asked] = {}
    pictures = Pictures("pope")
    for row, cells in track(rows_of(need, FOLDERS, columns=COLUMNS, name="POPE"), "reading POPE"):
        category = row.text("category", cells["category"])
        number, text = (row.text(c, cells[c]) for c in ("question_id", "question"))
        key = f"{category}/{number}"
        if not category or not number or not text:
            raise row.error("question" if not text else "question_id", "it is empty")
        if key in asked:
            raise row.error("question_id", f"question {number} of {category} stands twice")
        asked[key] = Asked(
            key,
            text,
            yes=is_yes(row, "answer", cell=cells["answer"]),
            image=pictures.add(row, cells["image"]),
            category=category,
        )
    if not asked:
        raise PulseError(
            f"{need.setting} = {need.path!r}: POPE's files hold no rows: fetch them again"
        )
    have = Counter(a.category for a in asked.values())
    if have != ROWS:
        warnings.warn(
            f"{need.path} is not the POPE of 9,000 questions, so its scores cannot be compared: "
            + ", ".join(f"{name} {n}" for name, n in sorted(have.items())),
            stacklevel=2,
        )
    return list(asked.values()), pictures

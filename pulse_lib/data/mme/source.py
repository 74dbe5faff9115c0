"""MME as general questions: two yes-or-no questions about each picture, in 14 categories.

The two questions of a picture are a pair: they are drawn, and count in intervals, together. Category
`celebrity` shows people, so that forgetting may rightly lower it: pulse_lib/evaluate/yes_no.py scores
with and without it. [Fu 2023, MME; lmms-eval, tasks/mme]
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import KW_ONLY, dataclass
from functools import lru_cache

from pulse_lib.data import hub
from pulse_lib.data.cells import Row
from pulse_lib.data.records import Conversation, ImageStore, Question
from pulse_lib.data.source import Size
from pulse_lib.data.yes_no import Pictures, is_yes, question, rows_of, sample
from pulse_lib.errors import PulseError
from pulse_lib.profile import DataSettings
from pulse_lib.progress import track

HUB_FILES = "data/test-*.parquet"  # of lmms-lab/MME
FOLDERS = (HUB_FILES, "test-*.parquet", "*.parquet")
COLUMNS = ("question_id", "question", "answer", "image", "category")
CELEBRITY = "celebrity"
PERCEPTION = (
    *("existence", "count", "position", "color", "posters", CELEBRITY, "scene", "landmark"),
    *("artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
N_PAIRS = 1187
DOWNLOAD_GB = 0.9  # an estimate: the files could not be looked up
_REQUEST = re.compile(r"\s*Please answer yes or no\.?\s*\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Asked:
    """One row; `pair` is its category and question_id, which two rows share."""

    pair: str
    text: str
    _: KW_ONLY
    yes: bool
    image: str
    category: str


def general_size(settings: DataSettings) -> Size:
    """Both questions of `n_general` pairs (0: of all), which show one picture."""
    n = settings.n_general or N_PAIRS
    return Size(2 * n, pictures=n, download_gb=DOWNLOAD_GB)


def general_questions(images: ImageStore, seed: int, *, settings: DataSettings) -> list[Question]:
    """Both questions of `n_general` pairs (0: of all) in the file's order, of each category its
    share; their pictures join `images`. The data's own request for yes or no is left out.
    """
    asked, pictures = _loaded(general_need(settings))
    strata: dict[str, dict[str, None]] = {}
    for a in asked:
        strata.setdefault(a.category, {})[a.pair] = None
    pairs = {category: list(keys) for category, keys in strata.items()}
    chosen = sample(
        pairs, settings.n_general, seed=seed, name="MME (pairs)", key=settings.general.n_key
    )
    number: Counter[str] = Counter()
    questions = []
    for a in asked:
        number[a.pair] += 1
        if a.pair in chosen:
            questions.append(
                question(
                    f"mme/{a.pair}/{number[a.pair]}",
                    a.text,
                    yes=a.yes,
                    image=a.image,
                    category=a.category,
                    group=f"mme/{a.pair}",
                    seed=seed,
                )
            )
    pictures.give(images, questions)
    return questions


def general_conversations(
    images: ImageStore, seed: int, *, settings: DataSettings
) -> list[Conversation]:
    """None: MME is only scored."""
    return []


def general_need(settings: DataSettings) -> hub.Need:
    """MME's files on the hub, if its path is a hub id."""
    general = settings.general
    return hub.Need(general.path, general.revision, patterns=(HUB_FILES,), setting=general.path_key)


@lru_cache(maxsize=1)
def _loaded(need: hub.Need) -> tuple[list[Asked], Pictures]:
    asked: list[Asked] = []
    last: dict[str, tuple[Row, int]] = {}
    pictures = Pictures("mme")
    for row, cells in track(rows_of(need, FOLDERS, columns=COLUMNS, name="MME"), "reading MME"):
        category = row.text("category", cells["category"])
        number, text = (row.text(c, cells[c]) for c in ("question_id", "question"))
        text = _REQUEST.sub("", text)
        if not category or not number or not text:
            raise row.error("question" if not text else "question_id", "it is empty")
        pair = f"{category}/{number}"
        n = last[pair][1] + 1 if pair in last else 1
        if n > 2:
            raise row.error("question_id", f"{pair!r:.80} stands a third time: a picture has two")
        last[pair] = (row, n)
        asked.append(
            Asked(
                pair,
                text,
                yes=is_yes(row, "answer", cell=cells["answer"]),
                image=pictures.add(row, cells["image"]),
                category=category,
            )
        )
    for pair, (row, n) in last.items():
        if n != 2:
            raise row.error("question_id", f"{pair!r:.80} stands once: a picture has two questions")
    if not asked:
        raise PulseError(
            f"{need.setting} = {need.path!r}: MME's files hold no rows: fetch them again"
        )
    categories = {a.category for a in asked}
    if len(last) != N_PAIRS or categories != {*PERCEPTION, *COGNITION}:
        warnings.warn(
            f"{need.path} is not the MME of {N_PAIRS} pictures in {len(PERCEPTION) + len(COGNITION)} "
            f"categories, so its scores cannot be compared: {len(last)} pictures in "
            f"{', '.join(sorted(categories))}",
            stacklevel=2,
        )
    return asked, pictures

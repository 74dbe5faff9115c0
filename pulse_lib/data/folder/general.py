"""Own general questions: general.csv with the columns question, options, answer, and photo and category
if there are any; the functions of General in pulse_lib.data.source."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from random import Random

from pulse_lib import colab
from pulse_lib.data.folder import photos
from pulse_lib.data.folder.questions import photo_in, read_choice
from pulse_lib.data.folder.sheet import Line, Problem, Sheet, read_sheet
from pulse_lib.data.records import Conversation, ImageStore, Question, general_question
from pulse_lib.data.source import Size
from pulse_lib.errors import PulseError
from pulse_lib.files import local_path, show
from pulse_lib.profile import DataSettings

TABLE = "general.csv"
_SHOWN = 5  # problems that an error lists


def general_size(settings: DataSettings) -> Size:
    """As many questions as are wanted, or as the table has."""
    path = _table(settings)
    n = len(read_general(path)[0].lines) if path.is_file() else 0
    return Size(min(settings.n_general, n) if settings.n_general and n else settings.n_general or n)


def general_questions(images: ImageStore, seed: int, *, settings: DataSettings) -> list[Question]:
    """`n_general` questions of the table (0: all), drawn by seed, in the file's order; options in an
    order drawn by seed. Raises PulseError with the first problems if there are any."""
    path = _table(settings)
    sheet, problems = read_general(path)
    if problems:
        listed = "\n".join(f"  {p}" for p in problems[:_SHOWN])
        raise PulseError(f"data.general.path = {show(path)} cannot be used:\n{listed}")
    n, lines = settings.n_general, list(sheet.lines)
    if n > len(lines):
        raise PulseError(
            f"data.n_general = {n}: {show(path)} has {len(lines)} questions; give at most so many, "
            "or 0 for all"
        )
    if n:
        chosen = {line.row for line in Random(f"general/{seed}").sample(lines, n)}
        lines = [line for line in lines if line.row in chosen]
    return [_question(line, path, images=images, seed=seed) for line in lines]


def general_conversations(
    images: ImageStore, seed: int, *, settings: DataSettings
) -> list[Conversation]:
    """None: what is scored here is not trained on."""
    return []


def read_general(path: Path) -> tuple[Sheet, list[Problem]]:
    """The table, and everything that is wrong in it."""
    sheet = read_sheet(path, ("question", "options", "answer"), optional=("photo", "category"))
    return sheet, sorted([*sheet.problems, *_problems(sheet, path.parent)])


def _problems(sheet: Sheet, folder: Path) -> Iterator[Problem]:
    find, asked = photo_in(folder), {}
    for line in sheet.lines:
        cells = line.cells
        if not cells["question"]:
            yield Problem(sheet.file, line.row, column="question", what="it is empty")
        first = asked.setdefault((cells["question"], cells["photo"]), line.row)
        if first != line.row:
            what = f"it stands in row {first} already: leave one out"
            yield Problem(sheet.file, line.row, column="question", what=what)
        try:
            read_choice(cells["options"], cells["answer"], drawn=False)
        except ValueError as error:
            yield Problem(sheet.file, line.row, column="options", what=str(error))
        if cells["photo"]:
            try:
                photos.stored((folder / find(cells["photo"])).read_bytes())
            except (OSError, ValueError) as error:
                yield Problem(sheet.file, line.row, column="photo", what=str(error))


def _question(line: Line, path: Path, *, images: ImageStore, seed: int) -> Question:
    cells, tag = line.cells, f"general/own/{line.row}"
    options, answer = read_choice(cells["options"], cells["answer"], drawn=False)
    order = list(options)
    Random(f"options/{seed}/{tag}").shuffle(order)
    image = ""
    if cells["photo"]:
        name = photo_in(path.parent)(cells["photo"])
        image = f"general/{name}"
        images.encoded[image] = _kept(path.parent / name)
    return general_question(
        tag,
        cells["question"],
        options=order,
        answer=order.index(answer),
        image=image,
        category=cells["category"] or "general",
    )


@lru_cache(maxsize=256)
def _kept(path: Path) -> bytes:
    return photos.stored(path.read_bytes())


def _table(settings: DataSettings) -> Path:
    path = local_path(settings.general.path)
    if not path.exists():  # attached to a hosted notebook under this name
        path = next((p for p in colab.attached(str(path)) if (p / TABLE).is_file()), path)
    return path / TABLE if path.is_dir() or path.suffix != ".csv" else path

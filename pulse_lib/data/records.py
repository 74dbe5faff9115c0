"""Person, Question, Conversation: the same thing for the embedded world, MLLMU-Bench and MMBench;
read and write.

On disk each kind of record is one parquet file (lists as parquet lists, attributes and genome as
JSON text), images are one parquet file of encoded bytes. The schema version travels in the parquet
metadata and is checked on reading.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pulse_lib.data import pictures
from pulse_lib.errors import PulseError
from pulse_lib.files import replace_file

SCHEMA_VERSION = 1
LETTERS = "ABCD"
Modality = Literal["multimodal", "text"]  # multimodal: an image is shown
QuestionSet = Literal[
    "forget",
    "spared",
    "retain",
    "retain_train",
    "holdout",
    "general",
    "general_train",
    "benchmark",
    "candidate",
]
SPARED: QuestionSet = "spared"  # about people of set forget: facts that are to stay
# Of a benchmark asked beside the general questions: part of no accuracy but its own
BENCHMARK: QuestionSet = "benchmark"
Wording = Literal["trained", "heldout"]
MODALITIES: tuple[Modality, ...] = get_args(Modality)
# "finetune": short and varied, to learn from | "unlearn": whole, and few enough to cache a
# reference for | "pretrain": of the embedded model
Stage = Literal["finetune", "unlearn", "pretrain"]


@dataclass(frozen=True)
class Person:
    """One person. `attributes` maps attribute to value; `genome` describes the drawn face (empty
    for real data)."""

    id: str
    name: str
    _: KW_ONLY
    kind: Literal["celebrity", "fictitious"]
    attributes: Mapping[str, str]
    genome: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """One multiple-choice question as it is put to a model: 2-4 options in fixed order, `answer` is
    the index of the right one."""

    id: str
    set: QuestionSet
    _: KW_ONLY
    scenario: str  # "finetuned" | "pretrained" | "" (general)
    person_id: str  # "" for general questions
    request: int  # 1..n_requests in the finetuned forget set, else 0
    modality: Modality
    text: str
    options: tuple[str, ...]
    answer: int
    image: str  # image id in the image store, "" if none is shown
    category: str  # attribute asked about, or the general category
    wording: Wording
    group: str = ""  # MMBench's circular group; otherwise ""

    @property
    def lettered_options(self) -> dict[str, str]:
        """Options by letter, e.g. {"A": "chef", "B": "pilot"}."""
        return dict(zip(LETTERS, self.options, strict=False))


def general_question(
    tag: str,
    text: str,
    *,
    options: Sequence[str],
    answer: int,
    image: str = "",
    category: str,
    group: str = "",
) -> Question:
    """A question about nobody, of set general: with a picture, or in text alone."""
    return Question(
        id=tag,
        set="general",
        scenario="",
        person_id="",
        request=0,
        modality="multimodal" if image else "text",
        text=text,
        options=tuple(options),
        answer=answer,
        image=image,
        category=category,
        wording="trained",
        group=group,
    )


def benchmark_of(question_id: str) -> str:
    """The name of the benchmark that a question of set BENCHMARK is of: the first part of its id."""
    return question_id.partition("/")[0]


@dataclass(frozen=True)
class Turn:
    """One question and its answer in a training conversation; no options means an open question.
    `answer` is the answer's text."""

    text: str
    options: tuple[str, ...]
    _: KW_ONLY
    answer: str


@dataclass(frozen=True)
class Conversation:
    """A training example: at most one image, then one or more turns. Losses see the answers
    only."""

    id: str
    set: QuestionSet
    _: KW_ONLY
    scenario: str
    person_id: str
    request: int
    modality: Modality
    image: str
    turns: tuple[Turn, ...]
    stage: Stage = "unlearn"


def _encode(record) -> dict:
    row = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    for key in ("attributes", "genome"):
        if key in row:
            row[key] = json.dumps(dict(row[key]), sort_keys=True)
    if "turns" in row:
        row["turns"] = [vars(t) | {"options": list(t.options)} for t in row["turns"]]
    if "options" in row:
        row["options"] = list(row["options"])
    return row


def _decode(cls, row: dict):
    for key in ("attributes", "genome"):
        if key in row:
            row[key] = json.loads(row[key])
    if "turns" in row:
        row["turns"] = tuple(
            Turn(t["text"], tuple(t["options"]), answer=t["answer"]) for t in row["turns"]
        )
    if "options" in row:
        row["options"] = tuple(row["options"])
    return cls(**row)


def write_records(path: Path, records: Iterable) -> None:
    """Write people, questions or conversations to one parquet file, by rename. Raises PulseError if
    ids repeat."""
    rows = [_encode(r) for r in records]
    ids = [r["id"] for r in rows]
    if len(set(ids)) != len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})[:3]
        raise PulseError(f"{path}: ids stand twice: {', '.join(twice)}")
    write_table(path, pa.Table.from_pylist(rows))


def read_records(path: Path, cls: type) -> list:
    """The records of one parquet file. Raises PulseError naming the file if it is missing, broken
    or of another schema."""
    return [_decode(cls, row) for row in read_table(path).to_pylist()]


def write_table(path: Path, table: pa.Table, **writer: Any) -> None:
    """Write a parquet table with the schema version, by rename; `writer`: options of pyarrow's."""
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), b"pulse_schema": str(SCHEMA_VERSION).encode()}
    )
    replace_file(path, lambda tmp: pq.write_table(table, tmp, compression="zstd", **writer))


def read_table(path: Path, *, columns: Sequence[str] | None = None) -> pa.Table:
    """A parquet table written by `write_table`, or some of its columns. Raises PulseError if missing, truncated or of
    another schema version."""
    if not Path(path).is_file():
        raise PulseError(f"{path} is missing: run the notebook that writes it first")
    try:
        # pq.read_table, made for many files, takes half as long again
        with pq.ParquetFile(path) as file:
            table = file.read(columns=None if columns is None else list(columns))
        if columns is not None:
            table = table.select(list(columns))  # no such column: an error
    except (pa.ArrowException, OSError, KeyError) as error:
        raise PulseError(
            f"{path} cannot be read ({error}): delete it and run its notebook again"
        ) from None
    version = (table.schema.metadata or {}).get(b"pulse_schema", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise PulseError(
            f"{path}: schema version {version}, this library reads {SCHEMA_VERSION}: run its notebook again"
        )
    return table


class ImageStore:
    """Encoded images by id, kept in memory and written as one parquet file; decoded to RGB when
    asked for."""

    def __init__(self, encoded: Mapping[str, bytes] | None = None):
        self.encoded: dict[str, bytes] = dict(encoded or {})

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.encoded

    def __len__(self) -> int:
        return len(self.encoded)

    def add(self, image_id: str, image: Image.Image) -> str:
        """Store a PIL image as PNG under an id, as it is seen (pulse_lib.data.pictures); returns the
        id. Raises PulseError if the id is taken or the image cannot be used."""
        if image_id in self.encoded:
            raise PulseError(f"image id {image_id!r} stands twice")
        try:
            shown = image if pictures.is_plain(image) else pictures.as_seen(image)
        except (OSError, ValueError) as error:
            raise PulseError(f"image {image_id!r} cannot be used: {error}") from None
        self.encoded[image_id] = pictures.png(shown)
        return image_id

    def __getitem__(self, image_id: str) -> Image.Image:
        """The decoded RGB image. Raises PulseError naming the id if it is unknown or broken."""
        if image_id not in self.encoded:
            raise PulseError(f"image {image_id!r} is not in the image store ({len(self)} images)")
        try:
            return pictures.decoded(self.encoded[image_id])
        except ValueError as error:
            raise PulseError(
                f"image {image_id!r} of the image store cannot be decoded ({error}): mend or leave "
                "out the picture in the source, and run 01_build_datasets again"
            ) from None

    def write(self, path: Path) -> None:
        """Write all images to one parquet file (columns id, bytes), by rename."""
        write_table(
            path, pa.table({"id": list(self.encoded), "bytes": list(self.encoded.values())})
        )

    @classmethod
    def read(cls, path: Path) -> ImageStore:
        """The store written by `write`."""
        table = read_table(path)
        return cls(dict(zip(table["id"].to_pylist(), table["bytes"].to_pylist(), strict=True)))


class NotKept(ImageStore):
    """In place of the pictures of a study that was kept without them: each is grey and says so."""

    def __contains__(self, image_id: str) -> bool:
        return True

    def __getitem__(self, image_id: str) -> Image.Image:
        return pictures.not_kept()

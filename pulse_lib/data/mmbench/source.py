"""MMBench as general questions: every question N times, once for each rotation of its N options.

The N rows of a question are a *group*, named by the index of its base row; copy k has index base +
k * 1000000. Only the dev split has public answers. [Liu 2023, MMBench; LLaVA, model_vqa_mmbench.py]
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

from pulse_lib.data import hub
from pulse_lib.data.mmbench.rows import COPY, MmbenchRow, checked_picture, picture, read_rows
from pulse_lib.data.records import Conversation, ImageStore, Question, general_question
from pulse_lib.data.source import Size
from pulse_lib.errors import PulseError
from pulse_lib.files import local_path, show
from pulse_lib.profile import DataSettings
from pulse_lib.progress import track

CELEBRITY = "celebrity_recognition"  # the leaf that forgetting people touches directly
HUB_FILES = "en/dev-*.parquet"  # of lmms-lab/MMBench
_FOLDER_FILES = ("*.tsv", HUB_FILES, "dev-*.parquet", "data/dev-*.parquet", "*.parquet")
_INSTANCE = "finegrained_perception (instance-level)"
_CROSS = "finegrained_perception (cross-instance)"
# leaf (`category`): (L1, L2 as in `l2-category`, questions in DEV_EN v1.0)
TAXONOMY = {
    "image_scene": ("perception", "coarse_perception", 104),
    "image_quality": ("perception", "coarse_perception", 53),
    "image_style": ("perception", "coarse_perception", 53),
    "image_emotion": ("perception", "coarse_perception", 50),
    "image_topic": ("perception", "coarse_perception", 36),
    CELEBRITY: ("perception", _INSTANCE, 99),
    "object_localization": ("perception", _INSTANCE, 81),
    "attribute_recognition": ("perception", _INSTANCE, 74),
    "ocr": ("perception", _INSTANCE, 39),
    "action_recognition": ("perception", _CROSS, 54),
    "spatial_relationship": ("perception", _CROSS, 45),
    "attribute_comparison": ("perception", _CROSS, 44),
    "function_reasoning": ("reasoning", "attribute_reasoning", 79),
    "physical_property_reasoning": ("reasoning", "attribute_reasoning", 75),
    "identity_reasoning": ("reasoning", "attribute_reasoning", 45),
    "structuralized_imagetext_understanding": ("reasoning", "logic_reasoning", 78),
    "future_prediction": ("reasoning", "logic_reasoning", 40),
    "nature_relation": ("reasoning", "relation_reasoning", 48),
    "social_relation": ("reasoning", "relation_reasoning", 43),
    "physical_relation": ("reasoning", "relation_reasoning", 24),
}
DEV_EN_ROWS = 4329
DOWNLOAD_GB = 0.1


def load_mmbench(
    path: str | Path, revision: str = "", *, setting: str = "data.general.path"
) -> tuple[list[Question], ImageStore]:
    """All rows of one split as questions of set "general", in the file's order, and their pictures.

    path: a TSV or parquet file, a folder with one split, or a hub id, of which `revision` is
    fetched. A question's id is "mmbench/<index>", its group the base row's index as text, its text
    the hint (if any), a line break and the question, as LLaVA is asked. Rows that show the same
    picture share its id. Warns where the file is not DEV_EN v1.0. Raises PulseError naming file
    (by `setting`, the profile's key of the path), row or group, and the fix.
    """
    files = _files(_need(str(path), revision, setting=setting))
    rows = {row.index: row for row in read_rows(files)}
    groups: dict[int, list[MmbenchRow]] = {}
    for row in rows.values():
        groups.setdefault(row.group, []).append(row)
    for members in groups.values():
        _check_group(members)
    images, ids, questions = ImageStore(), {}, []
    for row in track(list(rows.values()), "reading MMBench"):
        encoded = picture(row, rows)
        if encoded not in ids:
            ids[encoded] = f"mmbench/picture-{row.index}"
            images.encoded[ids[encoded]] = checked_picture(row.place, encoded)
        questions.append(_question(row, ids[encoded]))
    differences = release_differences(questions)
    if differences:
        warnings.warn(
            f"{show(files[0])} is not MMBench DEV_EN v1.0, so its scores cannot be compared with "
            f"published ones: {'; '.join(differences)}",
            stacklevel=2,
        )
    return questions, images


def release_differences(questions: Sequence[Question]) -> list[str]:
    """In what the questions differ from MMBench DEV_EN v1.0 (rows, questions, leaves), in words;
    [] if in nothing.
    """
    leaf_of = {q.group: q.category for q in questions}
    have = Counter(leaf_of.values())
    want = {leaf: n for leaf, (_, _, n) in TAXONOMY.items()}
    found = []
    if (len(leaf_of), len(questions)) != (sum(want.values()), DEV_EN_ROWS):
        found.append(
            f"{len(leaf_of)} questions in {len(questions)} rows, there {sum(want.values())} in "
            f"{DEV_EN_ROWS}"
        )
    unknown = sorted(set(have) - set(want))
    if unknown:
        found.append(f"unknown categories {', '.join(unknown)}")
    other = [f"{leaf} {have[leaf]} (there {n})" for leaf, n in want.items() if have[leaf] != n]
    if other and not found:
        found.append(f"questions by category: {', '.join(other)}")
    return found


def sample_groups(
    questions: Sequence[Question], n: int, *, seed: int, key: str = "data.n_general"
) -> list[Question]:
    """All rows of n groups, in the given order; n = 0: every group.

    Each leaf gets its share of n (largest remainders), its groups are drawn by seed; a larger n
    mostly adds to what a smaller one drew. Raises PulseError, with the profile's `key` of n, if
    there are fewer than n groups.
    """
    by_leaf: dict[str, set[str]] = {}
    for q in questions:
        by_leaf.setdefault(q.category, set()).add(q.group)
    total = sum(len(groups) for groups in by_leaf.values())
    if not 0 <= n <= total:
        raise PulseError(
            f"{key} = {n}: MMBench's file has {total} questions (groups of rows); give at most so "
            "many"
        )
    if n == 0:
        return list(questions)
    shares = {leaf: divmod(n * len(groups), total) for leaf, groups in by_leaf.items()}
    quota = {leaf: whole for leaf, (whole, _) in shares.items()}
    left = n - sum(quota.values())
    for leaf in sorted(shares, key=lambda name: (-shares[name][1], name))[:left]:
        quota[leaf] += 1
    chosen: set[str] = set()
    for leaf, groups in by_leaf.items():
        drawn = sorted(groups)
        Random(f"mmbench/{seed}/{leaf}").shuffle(drawn)
        chosen.update(drawn[: quota[leaf]])
    return [q for q in questions if q.group in chosen]


def general_size(settings: DataSettings) -> Size:
    """All rows of `n_general` groups, each of as many rows as it has options, about one picture."""
    groups = sum(n for _, _, n in TAXONOMY.values())
    n = settings.n_general or groups
    return Size(round(n * DEV_EN_ROWS / groups), pictures=n, download_gb=DOWNLOAD_GB)


def general_questions(images: ImageStore, seed: int, *, settings: DataSettings) -> list[Question]:
    """All rows of `n_general` groups (0: of all) of the MMBench that the profile names; their
    pictures join `images`.
    """
    questions, pictures = _loaded(general_need(settings))
    chosen = sample_groups(questions, settings.n_general, seed=seed, key=settings.general.n_key)
    for image_id in dict.fromkeys(q.image for q in chosen):
        encoded = pictures.encoded[image_id]
        if images.encoded.setdefault(image_id, encoded) != encoded:
            raise PulseError(f"image id {image_id!r} stands for two pictures")
    return chosen


def general_conversations(
    images: ImageStore, seed: int, *, settings: DataSettings
) -> list[Conversation]:
    """None: MMBench is only scored."""
    return []


def general_need(settings: DataSettings) -> hub.Need:
    """MMBench's files on the hub, if its path is a hub id."""
    general = settings.general
    return _need(general.path, general.revision, setting=general.path_key)


def _need(path: str, revision: str, *, setting: str) -> hub.Need:
    return hub.Need(path, revision, patterns=(HUB_FILES,), setting=setting)


@lru_cache(maxsize=1)  # one study asks for the same file once a seed
def _loaded(need: hub.Need) -> tuple[list[Question], ImageStore]:
    return load_mmbench(need.path, need.revision, setting=need.setting)


def _files(need: hub.Need) -> list[Path]:
    local, given = local_path(need.path), f"{need.setting} = {need.path!r}"
    if local.is_file():
        if local.suffix not in (".tsv", ".parquet"):
            raise PulseError(f"{given}: expected a .tsv or .parquet file")
        return [local]
    root = hub.folder_of(need)
    for pattern in _FOLDER_FILES:
        files = sorted(root.glob(pattern))
        if pattern == "*.tsv" and len(files) > 1:
            raise PulseError(
                f"{given} holds {', '.join(f.name for f in files)}: name one of these files"
            )
        if files:
            missing = hub.missing_shards(files)
            if missing:
                raise PulseError(f"{show(root)}: {', '.join(missing)} is missing: fetch it again")
            return files
    raise PulseError(
        f"{given}: no *.tsv and no {HUB_FILES} in this folder; give MMBench's "
        "file, or a folder that holds it"
    )


def _check_group(rows: list[MmbenchRow]) -> None:
    """The N rows of an N-option question: each rotation of the options once, all else alike."""
    group, n = rows[0].group, len(rows[0].options)
    base = next((row for row in rows if row.index == group), rows[0])
    where = f"{show(base.place.file)}, group {group}"
    fix = "fetch the file again, or remove all rows of the group"
    have = sorted(row.index for row in rows)
    want = [group + k * COPY for k in range(n)]
    if have != want:
        raise PulseError(
            f"{where}: rows of index {', '.join(map(str, have))}; a question of {n} options has "
            f"{', '.join(map(str, want))}: {fix}"
        )
    for row in rows:
        for name in ("question", "hint", "category", "l2_category"):
            if getattr(row, name) != getattr(base, name):
                raise PulseError(
                    f"{where}: {name.replace('_', '-')} of row {row.index} is "
                    f"{getattr(row, name)!r:.80}, of row {group} {getattr(base, name)!r:.80}: {fix}"
                )
        if row.options[row.answer] != base.options[base.answer]:
            raise PulseError(
                f"{where}: the answer of row {row.index} is {row.options[row.answer]!r:.80}, of "
                f"row {group} {base.options[base.answer]!r:.80}: {fix}"
            )
    # The direction of the rotation is documented nowhere, so that any order of the copies will do.
    rotations = Counter(base.options[k:] + base.options[:k] for k in range(n))
    if Counter(row.options for row in rows) != rotations:
        odd = next((r for r in rows if r.options not in rotations), rows[-1])
        raise PulseError(
            f"{where}: options {odd.options!r:.200} of row {odd.index}; the rows must be the {n} rotations "
            f"of {base.options!r:.200}, each once: {fix}"
        )


def _question(row: MmbenchRow, image: str) -> Question:
    return general_question(
        f"mmbench/{row.index}",
        f"{row.hint}\n{row.question}" if row.hint else row.question,
        options=row.options,
        answer=row.answer,
        image=image,
        category=row.category,
        group=str(row.group),
    )

"""A study in a form small enough to commit: what the analysis reads, without models and notebooks.
`keep` writes it seed by seed, `unpack` makes a study's folder of it, and `analyze` runs 05 there.

    tiny.yaml               the profile, every setting resolved
    seed-0.zip              whole or not there: a seed's tables are never of two studies
        rows.parquet        the rows of all runs of that seed
        files.parquet       what else is read of each run: run, file, bytes
        pictures.parquet    the pictures that questions show; of the first seed, of drawn people
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pulse_lib.data import pictures
from pulse_lib.data.records import ImageStore, Question, read_records, read_table, write_table
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.rows import ROW_SCHEMA
from pulse_lib.files import read_json, replace_file, show, write_json
from pulse_lib.profile import DRAWN, OWN, Profile, load_profile
from pulse_lib.runs.checked import file_hash, require
from pulse_lib.runs.identity import plain
from pulse_lib.runs.kinds import KINDS, run_folders, run_name
from pulse_lib.runs.manifest import found_runs
from pulse_lib.runs.owner import check_profile
from pulse_lib.runs.place import MANIFEST
from pulse_lib.study.notebook import run_notebook

ROWS, FILES, PICTURES = "rows.parquet", "files.parquet", "pictures.parquet"
IMAGES = "images.parquet"  # of a data run
LEFT = (ROWS, IMAGES, "conversations.parquet")  # kept otherwise, or read by training alone
LEFT_OUT = "left_out"  # in a kept run's manifest: files that the run had, with their sizes
MADE_OF = "kept.json"  # in an unpacked study: what it was unpacked from
NOT_KEPT = "(not kept)"  # in place of what a model said
LEVEL = 19  # of zstd: slow to write, quick to read
# Of floats the first bytes are alike: a stream for each place of a byte is half as large
_FLOATS = ("option_loglik.list.element", "answer_logprob")
_UNCODED = ("correct", "invalid", "loglik_correct", "options", "option_loglik", "answer_logprob")
_FILE_SCHEMA = pa.schema([("run", pa.string()), ("file", pa.string()), ("bytes", pa.binary())])


@dataclass(frozen=True)
class Whole:
    """A complete run."""

    name: str
    folder: Path
    _: KW_ONLY
    manifest: dict


@dataclass(frozen=True)
class Part:
    """Which runs of a kept study are wanted: those of some seeds, methods and strategies, and the data
    and targets of those seeds; all where nothing is named. A probe goes with the run that it probes.
    """

    seeds: Collection[int] = ()
    _: KW_ONLY
    methods: Collection[str] = ()
    strategies: Collection[str] = ()

    def has(self, run: str, manifests: Mapping[str, dict]) -> bool:
        """Whether a run is wanted; `manifests` by the names of all runs."""
        if run not in manifests:
            return False
        given = manifests[run]["parameters"]
        if "run" in given:
            return self.has(given["run"], manifests)
        axes = (("seed", self.seeds), ("method", self.methods), ("strategy", self.strategies))
        return all(given[axis] in wanted for axis, wanted in axes if wanted and axis in given)


# --- keep -------------------------------------------------------------------------------------


def keep(
    study: Path,
    into: Path,
    *,
    profile: Profile,
    full: Collection[str] = (),
    with_pictures: bool | None = None,
) -> pd.DataFrame:
    """Write the complete runs of a study into the folder `into`: a line a seed, columns seed,
    runs, answers, mb. Seeds that are there and not in the study stay.

    `with_pictures`: those of the first seed; if it is not said, of drawn people and questions alone,
    since photos are somebody's. What is made of a study without them shows grey squares.

    The rows of the study's first seed and of the methods in `full` are kept whole. Of the others
    what the model said is left out, and likelihoods where requests came in turn: no table reads
    them, and pictures of single answers are of the first seed. Raises PulseError if nothing is complete, if people are the user's
    own, or if `into` holds another profile's.
    """
    if profile.data.people.source in OWN:
        raise PulseError(
            f"people.source = {profile.data.people.source}: a kept study is made to be handed on, "
            "and this one has photos and answers about people of yours"
        )
    if with_pictures is None:
        with_pictures = is_drawn(profile)
    check_profile(study, profile)
    _check_same(into, profile)
    by_seed: dict[int, list[Whole]] = {}
    for folder in _complete(study, profile):
        name = run_name(folder, study)
        manifest = require(folder, f"the notebook of {name}", checksums=True)
        by_seed.setdefault(_seed(manifest), []).append(Whole(name, folder, manifest=manifest))
    if not by_seed:
        raise PulseError(f"{show(study)} holds no complete run of profile {profile.name!r}")
    text = yaml.safe_dump(_settings(profile), sort_keys=False, allow_unicode=True)
    path = Path(into) / f"{profile.name}.yaml"
    replace_file(path, lambda tmp: tmp.write_text(text, encoding="utf-8"))
    first, lines = min(by_seed), []
    for seed, runs in sorted(by_seed.items()):
        whole = {r.name for r in runs if seed == first or _is_full(r.manifest, full)}
        with TemporaryDirectory() as folder:
            place = Path(folder)
            n = _keep_rows(place, runs, whole=whole)
            _keep_files(place, runs)
            if seed == first and with_pictures:
                _keep_pictures(place, runs)
            mb = _pack(place, Path(into) / f"seed-{seed}.zip") / 1e6
        lines.append({"seed": seed, "runs": len(runs), "answers": n, "mb": round(mb, 2)})
    return pd.DataFrame(lines)


def is_drawn(profile: Profile) -> bool:
    """Whether all pictures of a study are of the kit's own drawing."""
    return {profile.data.people.source, profile.data.general.source} <= set(DRAWN)


def _complete(study: Path, profile: Profile) -> Iterator[Path]:
    """What the analysis reads, then finished probes."""
    yield from (folder for folder, why in found_runs(study, profile) if not why)
    for kind, folder in run_folders(study):
        if kind == "probe" and (folder / MANIFEST).is_file():
            yield folder


def _seed(manifest: Mapping) -> int:
    found = manifest["parameters"].get("seed")
    return int(found if found is not None else manifest["parameters"]["run"].rpartition("-")[2])


def _is_full(manifest: Mapping, full: Collection[str]) -> bool:
    return manifest["kind"] not in ("single_shot", "sequential") or (
        manifest["parameters"]["method"] in full
    )


def _settings(profile: Profile) -> dict:
    return {k: v for k, v in plain(profile.as_dict()).items() if k != "name"}


def _check_same(into: Path, profile: Profile) -> None:
    """Seeds of one folder are of one profile: a comparison of unlike settings would be unfair."""
    for path in sorted(Path(into).glob("*.yaml")):
        there = load_profile(str(path))
        if there.name != profile.name or _settings(there) != _settings(profile):
            raise PulseError(
                f"{show(path)} is of other settings than profile {profile.name!r} has now: keep the "
                "study in another folder, or remove what is kept there"
            )


def _keep_rows(place: Path, runs: Iterable[Whole], *, whole: Collection[str]) -> int:
    tables = [
        table if run.name in whole else _slim(table, run.manifest["kind"])
        for run in runs
        if ROWS in run.manifest["files"]
        for table in [read_table(run.folder / ROWS).select(ROW_SCHEMA.names).cast(ROW_SCHEMA)]
    ]
    table = pa.concat_tables(tables)
    write_table(
        place / ROWS,
        table,
        compression_level=LEVEL,
        use_dictionary=[*(set(ROW_SCHEMA.names) - {*_UNCODED}), "options.list.element"],
        column_encoding=dict.fromkeys(_FLOATS, "BYTE_STREAM_SPLIT"),
    )
    return table.num_rows


def _slim(table: pa.Table, kind: str) -> pa.Table:
    """The rows of one run without what no table reads of them."""
    gone = {"response": pa.repeat(NOT_KEPT, table.num_rows)}
    if kind == "sequential":
        none = pa.array([[]], ROW_SCHEMA.field("option_loglik").type)
        gone["option_loglik"] = pa.concat_arrays([none] * table.num_rows)
        gone["answer_logprob"] = pa.repeat(math.nan, table.num_rows)
    for name, column in gone.items():
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table


def _keep_files(place: Path, runs: Iterable[Whole]) -> None:
    lines = [
        {"run": run.name, "file": name, "bytes": _content(run, name)}
        for run in runs
        for name in (MANIFEST, *(n for n in run.manifest["files"] if _is_read(n)))
    ]
    table = pa.Table.from_pylist(lines, schema=_FILE_SCHEMA)
    write_table(place / FILES, table, compression_level=LEVEL)


def _content(run: Whole, name: str) -> bytes:
    content = (run.folder / name).read_bytes()
    if name != MANIFEST:
        return content
    # Where the study lay says something of a machine, and nothing of the study
    manifest = json.loads(content)
    parameters = {k: "" if k == "out_dir" else v for k, v in manifest["parameters"].items()}
    return json.dumps(manifest | {"parameters": parameters}).encode()


def _is_read(name: str) -> bool:
    return name not in LEFT and "/" not in name and name.endswith((".csv", ".json", ".parquet"))


def _keep_pictures(place: Path, runs: Iterable[Whole]) -> None:
    (data,) = (run.folder for run in runs if run.manifest["kind"] == "data")
    asked = {q.image for q in read_records(data / "questions.parquet", Question)}
    store = ImageStore.read(data / IMAGES)
    kept = {k: pictures.smallest(v) for k, v in store.encoded.items() if k in asked}
    ImageStore(kept).write(place / PICTURES)


def _pack(folder: Path, packed: Path) -> int:
    """Write a folder's files into one, the same bytes for the same files; returns their number."""

    def write(tmp: Path) -> None:
        with zipfile.ZipFile(tmp, "w", zipfile.ZIP_STORED) as archive:  # they are compressed
            for path in sorted(folder.iterdir()):
                archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes())

    replace_file(packed, write)
    return packed.stat().st_size


# --- unpack -----------------------------------------------------------------------------------


def unpack(kept: Path, out: Path, *, part: Part | None = None) -> tuple[Profile, str]:
    """Make a study's folder of what `keep` wrote, as far as it was kept, or of a part of it; returns
    its profile and the profile's file. Raises PulseError if there is nothing kept, or nothing of that
    part, or `out` holds something else.
    """
    kept, out, part = _rooted(kept), Path(out), part or Part()
    (source,) = sorted(kept.glob("*.yaml"))[:1]
    mark = _mark(kept, part)
    profile_file = out / source.name
    if _there(out, mark):
        return load_profile(str(profile_file)), str(profile_file)
    n_runs = 0
    for packed in _packed(kept):
        with _unpacked(packed) as place:
            files = _wanted(place, part)
            _unpack_seed(place, out, files=files)
        n_runs += len(files)
    if not n_runs:
        named = "; ".join(f"{k} {', '.join(map(str, v))}" for k, v in vars(part).items() if v)
        raise PulseError(f"{show(kept)} holds no run of {named}")
    replace_file(profile_file, lambda tmp: tmp.write_bytes(source.read_bytes()))
    write_json(out / MADE_OF, {"kept": show(kept), "sha256": mark})
    return load_profile(str(profile_file)), str(profile_file)


def _rooted(kept: Path) -> Path:
    """The folder with the seeds: the one that is named, or its `kept`."""
    for folder in (Path(kept), Path(kept) / "kept"):
        if len(list(folder.glob("*.yaml"))) == 1 and _packed(folder):
            return folder
    raise PulseError(
        f"{show(Path(kept))} holds no kept study (a profile and seed-0.zip): python -m pulse_lib "
        "keep writes one from a finished study"
    )


def _packed(kept: Path) -> list[Path]:
    return sorted(kept.glob("seed-*.zip"))


@contextmanager
def _unpacked(packed: Path) -> Generator[Path]:
    """A folder with the tables of a seed, for as long as it is needed."""
    with TemporaryDirectory() as folder:
        try:
            with zipfile.ZipFile(packed) as archive:
                archive.extractall(folder)
        except zipfile.BadZipFile as error:
            raise PulseError(f"{show(packed)} is no whole file of `keep`: {error}") from None
        yield Path(folder)


def _mark(kept: Path, part: Part) -> str:
    digest = hashlib.sha256()
    if any(vars(part).values()):
        digest.update(json.dumps({axis: sorted(of) for axis, of in vars(part).items()}).encode())
    for path in sorted([*kept.glob("*.yaml"), *_packed(kept)]):
        digest.update(f"{path.relative_to(kept).as_posix()} {file_hash(path)}\n".encode())
    return digest.hexdigest()


def _there(out: Path, mark: str) -> bool:
    """Whether `out` is this very study, unpacked before."""
    if not out.is_dir() or not any(out.iterdir()):
        return False
    if (out / MADE_OF).is_file() and read_json(out / MADE_OF).get("sha256") == mark:
        return True
    raise PulseError(
        f"{show(out)} is there and holds something else: remove it, or name another folder with --out"
    )


def _wanted(place: Path, part: Part) -> list[dict]:
    """The files of a seed's runs that belong to a part, as lines of FILES; none if but data and
    targets do.
    """
    lines = read_table(place / FILES).to_pylist()
    manifests = {
        line["run"]: json.loads(line["bytes"]) for line in lines if line["file"] == MANIFEST
    }
    runs = {name for name in manifests if part.has(name, manifests)}
    alone = all(manifests[name]["kind"] in ("data", "target") for name in runs)
    if alone and len(runs) < len(manifests):
        return []
    return [line for line in lines if line["run"] in runs]


def _unpack_seed(place: Path, out: Path, *, files: Sequence[Mapping]) -> None:
    rows = read_table(place / ROWS)
    for line in files:
        content = line["bytes"]
        replace_file(out / line["run"] / line["file"], lambda tmp, b=content: tmp.write_bytes(b))
    for name in dict.fromkeys(line["run"] for line in files):
        folder = out / name
        own = rows.filter(pc.call_function("equal", [rows["run"], name]))
        if own.num_rows:
            write_table(folder / ROWS, own)
        if (place / PICTURES).is_file() and name.startswith("data/"):
            ImageStore.read(place / PICTURES).write(folder / IMAGES)
        _rewrite(folder)


def _rewrite(folder: Path) -> None:
    """The manifest of what is there; what was left out is named apart, with its size."""
    manifest = read_json(folder / MANIFEST)
    there = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    files = {p.name: {"bytes": p.stat().st_size, "sha256": file_hash(p)} for p in there}
    gone = {name: entry for name, entry in manifest["files"].items() if name not in files}
    # Executed notebooks are not kept; with the id of a batch run their lack would make it stale
    write_json(folder / MANIFEST, manifest | {"files": files, LEFT_OUT: gone, "run_id": ""})


# --- analyze ----------------------------------------------------------------------------------


def analyze(kept: Path, out: Path, *, part: Part | None = None, threads: int | None = None) -> Path:
    """The folder of the analysis that 05 makes of a kept study or a part of it, in the study's folder
    `out`.
    """
    _, profile = unpack(kept, out, part=part)
    run_notebook("05_analyze", {"profile": profile, "out_dir": str(out)}, threads=threads)
    return Path(out) / KINDS["analysis"].folder

"""The complete runs of an output folder, their rows and paths as data frames; runs that are not
complete are listed by name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pulse_lib.data.records import BENCHMARK, read_table
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import equals, likelihoods, summary
from pulse_lib.evaluate.rows import ROW_SCHEMA
from pulse_lib.files import read_json, show
from pulse_lib.profile import MatchedBy, Profile
from pulse_lib.report.stats import clusters
from pulse_lib.runs.kinds import ALIASES, DEFAULTS
from pulse_lib.runs.manifest import found_runs, require

# Columns that only pictures of single answers need; they stay in the files. person_id becomes
# `cluster`, options `n_options`.
TEXTS = ["options", "answer", "response", "extracted", "option_loglik", "answer_logprob"]
SLIM = [name for name in ROW_SCHEMA.names if name not in (*TEXTS, "person_id")]

AXES: dict[str, str] = {name: name for name in DEFAULTS} | ALIASES  # by column


@dataclass(frozen=True, kw_only=True)
class Run:
    """One complete run: `name` is its folder relative to the study's, `result` its result.json ({}
    where its kind has none)."""

    kind: str
    name: str
    folder: Path
    manifest: dict
    result: dict

    def parameter(self, column: str):
        """A run's axis by the column that holds it, from its manifest; "" if its kind has none."""
        return self.manifest["parameters"].get(AXES[column], "")


F = TypeVar("F", bound=Callable[..., Any])


def once(function: F) -> F:
    """Decorator: what a function says of a study is computed once and kept with the study, as
    tables, findings and figures stand on the same numbers. A table is handed out as a copy."""

    @functools.wraps(function)
    def wrapper(study: Study, *args: Any) -> Any:
        if (key := (function, args)) not in study.kept:
            study.kept[key] = function(study, *args)
        found = study.kept[key]
        return found.copy() if isinstance(found, pd.DataFrame) else found

    return cast("F", wrapper)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything the report reads. `rows`: all answers without their texts, but for those of
    benchmarks beside the general questions; `paths`: all path.csv; `incomplete`: run, reason."""

    out: Path
    profile: Profile
    runs: tuple[Run, ...]
    rows: pd.DataFrame
    paths: pd.DataFrame
    incomplete: pd.DataFrame
    kept: dict[tuple, Any] = field(default_factory=dict, init=False, repr=False)  # by `once`

    def of(self, kind: str) -> list[Run]:
        """The complete runs of one kind, by name."""
        return [run for run in self.runs if run.kind == kind]

    @property
    def matched_at(self) -> float:
        """Forget accuracy at which methods are compared (0-1)."""
        return self.profile.unlearn.matched_at

    @property
    def matched_by(self) -> MatchedBy:
        """By which accuracies: what the model says, or both that and its likeliest option."""
        return self.profile.unlearn.matched_by

    def full_rows(
        self, run: str, columns: tuple[str, ...] = (), **values: str | int
    ) -> pd.DataFrame:
        """All columns of one run's rows, texts and options included, or those named; of the rows
        whose columns have these values (state="before"). Of benchmarks none. Raises PulseError
        listing the runs if there is no such run."""
        table = self._file(run, (*columns, *values) if columns else (), benchmarks=False)
        wanted = [
            pc.call_function("equal", [table[column], pa.scalar(value)])
            for column, value in values.items()
        ]
        if columns:
            table = table.select(list(columns))
        if wanted:
            every = functools.reduce(lambda a, b: pc.call_function("and", [a, b]), wanted)
            table = table.filter(every)
        return table.to_pandas()

    def benchmark_rows(self, run: str) -> pd.DataFrame:
        """All columns of one run's rows of benchmarks, and `cluster` (see stats)."""
        rows = self._file(run, (), benchmarks=True)
        return rows.append_column("cluster", clusters(rows)).to_pandas()

    def _file(self, run: str, columns: tuple[str, ...], *, benchmarks: bool) -> pa.Table:
        found = {r.name: r for r in self.runs}
        if run not in found:
            raise PulseError(
                f"{self.out} holds no complete run {run!r}. Complete runs: {', '.join(found)}"
            )
        path, result = found[run].folder / "rows.parquet", found[run].manifest["result"]
        return _rows_in(path, columns, benchmarks=benchmarks, result=result)

    @functools.cached_property
    def parts(self) -> dict[tuple[str, str, int], pd.DataFrame]:
        """The rows of every model state, by (run, state, round)."""
        return dict(groups(self.rows, ["run", "state", "round"], sort=False))

    @functools.cached_property
    def summaries(self) -> dict[tuple[str, str, int], dict[str, float]]:
        """`summary` and `likelihoods` of every model state, by (run, state, round)."""
        return {key: summary(rows) | likelihoods(rows) for key, rows in self.parts.items()}

    def part(self, run: str, state: str, *, number: int = 0) -> pd.DataFrame:
        """The rows of one model state (no rows if there is no such state)."""
        return self.parts.get((run, state, number), self.rows.iloc[:0])

    def before(self, scenario: str, seeds: Iterable[int]) -> pd.DataFrame:
        """The rows of the models before unlearning, of these seeds."""
        wanted = {(scenario, seed) for seed in seeds}
        found = [part for whose, part in self._befores if whose in wanted]
        return pd.concat(found) if found else self.rows.iloc[:0]

    @functools.cached_property
    def _befores(self) -> list[tuple[tuple[str, int], pd.DataFrame]]:
        return [
            ((part["scenario"].iloc[0], part["seed"].iloc[0]), part)
            for (_, state, _), part in self.parts.items()
            if state == "before"
        ]

    @functools.cached_property
    def summaries_before(self) -> dict[tuple[str, int], dict[str, float]]:
        """`summary` of the models before unlearning, by (scenario, seed)."""
        return {whose: summary(self.before(whose[0], [whose[1]])) for whose, _ in self._befores}

    def answers(self, **values) -> pd.DataFrame:
        """The rows whose columns have these values, e.g. state="before", scenario="finetuned"."""
        return pick(self.rows, **values)


@functools.lru_cache(maxsize=1)  # a run's states are asked for one after another
def _rows_in(path: Path, columns: tuple[str, ...], *, benchmarks: bool, result: str) -> pa.Table:
    """The rows in a file, at least these columns of them; `result` is their run's, so that a run made
    anew is read anew."""
    there = tuple(dict.fromkeys([*columns, "set"])) if columns else ()
    return _apart(read_table(path, columns=there or None), benchmarks=benchmarks)


def _apart(table: pa.Table, *, benchmarks: bool) -> pa.Table:
    """The rows of benchmarks, or all others."""
    of = pc.call_function("equal", [table["set"], pa.scalar(BENCHMARK)])
    if benchmarks:
        return table.filter(of)
    some = pc.call_function("any", [of]).as_py()
    return table.filter(pc.call_function("invert", [of])) if some else table


def pick(frame: pd.DataFrame, **values) -> pd.DataFrame:
    """The rows of a frame whose columns equal the values given."""
    keep = np.ones(len(frame), dtype=bool)
    for column, value in values.items():
        keep &= equals(frame[column], value)
    return frame[keep]


def records(frame: pd.DataFrame) -> Iterator[Any]:
    """The lines of a frame as tuples with its columns as names."""
    yield from frame.itertuples(index=False)


def groups(
    frame: pd.DataFrame, by: str | list[str] | list[pd.Series], *, sort: bool = True
) -> Iterator[tuple[Any, pd.DataFrame]]:
    """The parts of a frame with the values that they share in some columns: (value or values,
    lines), in the values' order, or in that of the lines."""
    yield from frame.groupby(by, observed=True, sort=sort)


def best_first(frame: pd.DataFrame, value: str, *, reached: str, of: str) -> pd.DataFrame:
    """Each scenario's methods, the highest value first; those that reached the matched level on
    fewer seeds (`reached`) than they were run on (`of`) after the others."""
    missed = frame[reached] < frame[of]
    order = frame.assign(missed=missed).sort_values(
        ["scenario", "missed", value], ascending=[True, True, False], kind="stable"
    )
    return order.drop(columns="missed").reset_index(drop=True)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that headline numbers use: wordings that were trained on (renderings never are)."""
    return rows[equals(rows["wording"], "trained")]


def collect(out: Path, profile: Profile) -> Study:
    """The study in a folder. Raises PulseError if it holds no complete data run, since nothing can
    be read without one."""
    # Arrow's own allocator would keep what reading took, beside all that is drawn afterwards
    pa.set_memory_pool(pa.system_memory_pool())
    out = Path(out)
    runs, left_out = [], []
    for folder, reason in found_runs(out, profile):
        name = folder.relative_to(out).as_posix()
        if reason:
            left_out.append({"run": name, "reason": reason})
            continue
        manifest = require(folder, f"the notebook of {name}")
        result = read_json(folder / "result.json") if "result.json" in manifest["files"] else {}
        runs.append(
            Run(kind=manifest["kind"], name=name, folder=folder, manifest=manifest, result=result)
        )
    if not any(run.kind == "data" for run in runs):
        raise PulseError(
            f"{show(out)} holds no complete data run of profile {profile.name!r}: run"
            " 01_build_datasets first"
        )
    return Study(
        out=out,
        profile=profile,
        runs=tuple(runs),
        rows=_read_rows(runs),
        paths=_read_paths(runs),
        incomplete=pd.DataFrame(left_out, columns=["run", "reason"]),
    )


def _read_rows(runs: Iterable[Run]) -> pd.DataFrame:
    """All rows, slim: texts left in their files, names as categories (in alphabetical order),
    `kind` of run and `cluster` (see stats) added."""
    table = pa.concat_tables([_slim(run) for run in runs]).unify_dictionaries()
    rows = table.to_pandas()
    # to_pandas keeps the order in which names came; sorted, one code means one place in every table
    return rows.assign(**{c: _in_order(rows[c]) for c in rows if rows[c].dtype == "category"})


def _slim(run: Run) -> pa.Table:
    """The rows of one run, read without their texts and encoded before the next one is read."""
    table = read_table(run.folder / "rows.parquet", columns=[*SLIM, "person_id", "options"])
    table = _apart(table, benchmarks=False)
    added = {
        "n_options": pc.call_function("list_value_length", [table["options"]]).cast(pa.int64()),
        "run": _repeated(run.name, table.num_rows),
        "kind": _repeated(run.kind, table.num_rows),
        "cluster": clusters(table),
    }
    columns = {name: table[name] for name in SLIM} | added
    return pa.table({name: _encoded(column) for name, column in columns.items()})


def _repeated(value: str, n: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), n)


def _encoded(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.string()).dictionary_encode()
    if pa.types.is_int64(column.type):  # numbers of rounds, steps, requests: half the memory
        return column.cast(pa.int32())
    return column


def _in_order(column: pd.Series) -> pd.Series:
    return column.cat.set_categories(pd.Index(sorted(column.cat.categories), dtype=object))


def _read_paths(runs: Iterable[Run]) -> pd.DataFrame:
    """All path.csv of single-shot runs, one under another, with the columns that say which run."""
    frames = []
    for run in runs:
        if run.kind == "single_shot":
            identity = {
                key: run.parameter(key) for key in ("scenario", "method", "trained_part", "seed")
            }
            frames.append(pd.read_csv(run.folder / "path.csv").assign(run=run.name, **identity))
    columns = ["run", "scenario", "method", "trained_part", "seed", "step"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

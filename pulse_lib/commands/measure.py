"""Measures of one model state beside the protocol's: MMBench's rows, and MLLMU-Bench's generation
and cloze tasks, all answered so that a killed command goes on where it stopped.

The model is a profile's own, or the one that a finished run left: its adapters stacked on the base,
loaded as the run's manifest says.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import pandas as pd

from pulse_lib import runs
from pulse_lib.commands.states import ModelState, load_state
from pulse_lib.data.dataset import ASKED, read_dataset
from pulse_lib.data.mmbench.source import CELEBRITY, load_mmbench, sample_groups
from pulse_lib.data.records import ImageStore, Question
from pulse_lib.data.source import OpenSource, source_of
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import mmbench, open_ended
from pulse_lib.evaluate.resume import answer_resumably
from pulse_lib.evaluate.rows import scored
from pulse_lib.files import read_json, show, write_csv, write_json
from pulse_lib.model.load import LoadedModel

WHAT = ("mmbench", *open_ended.TASKS)
CARD = "measure.json"
OPEN_TOKENS = 50  # an answer in a sentence or a gap [MLLMU-Bench, eval.py]
METRICS = ["vanilla_0", "vanilla_all", "circular", "parse_rate"]
_SAME = ("model", "run_result", "state", "seed")  # what the results in one folder share


@dataclass(frozen=True)
class OpenTask:
    """The questions of one task: truths[i] is the true answer to questions[i]."""

    questions: list[Question]
    truths: list[str]
    _: KW_ONLY
    images: ImageStore


def measure(
    state: ModelState,
    out: Path,
    *,
    what: Sequence[str] = WHAT,
    groups: int = 0,
    max_new_tokens: int = OPEN_TOKENS,
) -> dict[str, pd.DataFrame]:
    """Ask the model and write the results to folder `out`; a table for each of `what`, by name
    (`mmbench_table`, `open_ended.summary`).

    mmbench: all rows of `data.general.path` (groups = 0) or those of `groups` questions, in at most
    evaluate.max_new_tokens tokens -> mmbench_answers.jsonl, mmbench.json. generation, cloze, keywords: in at
    most `max_new_tokens` tokens -> <task>_answers.jsonl, <task>.csv (`open_ended.open_rows`),
    <task>_summary.csv. What is measured is written to measure.json. Called again after a kill, it
    answers only the questions that are not there yet. Raises PulseError before any model is loaded: an unknown task, a
    source without it, a broken or missing input, or a folder with results of another model state.
    """
    out = Path(out)
    unknown = [name for name in what if name not in WHAT]
    if unknown or not what:
        raise PulseError(f"--what {','.join(unknown)}: expected some of {', '.join(WHAT)}")
    if max_new_tokens < 1:
        raise PulseError(f"--max-new-tokens {max_new_tokens} must be 1 or more")
    rows = general_rows(state, groups) if "mmbench" in what else None
    tasks = {name: open_task(state, name) for name in open_ended.TASKS if name in what}
    _claim(out, state)
    model, tables = load_state(state), {}
    if rows is not None:
        asked = {"groups": groups, "file": state.profile.data.general.path}
        questions, images = rows
        scores = ask_general(
            model, state, questions=questions, images=images, file=out / "mmbench_answers.jsonl"
        )
        write_json(out / "mmbench.json", _no_nan(scores | {"asked": asked}))
        tables["mmbench"] = mmbench_table(scores)
    for name, task in tasks.items():
        settings = dataclasses.replace(state.profile.evaluate, max_new_tokens=max_new_tokens)
        answered = open_ended.ask_open(
            model,
            name,
            questions=task.questions,
            truths=task.truths,
            images=task.images,
            settings=settings,
            file=out / f"{name}_answers.jsonl",
        )
        tables[name] = open_ended.summary(answered)
        write_csv(out / f"{name}.csv", answered)
        write_csv(out / f"{name}_summary.csv", tables[name].assign(max_new_tokens=max_new_tokens))
    return tables


def general_rows(state: ModelState, groups: int = 0) -> tuple[list[Question], ImageStore]:
    """The rows of MMBench to ask, and the pictures: all (groups = 0), or those of `groups` whole
    questions, drawn by the state's seed with each leaf's share. Raises PulseError if the profile
    names no MMBench, the file is broken, or it has fewer questions.
    """
    data = state.profile.data
    if data.general.source != "mmbench":
        raise PulseError(
            f"{state.name}: data.general.source = {data.general.source}, so there is no MMBench to "
            "ask: take a profile with data.general.source = mmbench"
        )
    questions, images = load_mmbench(data.general.path, data.general.revision)
    there = len({q.group for q in questions})
    if not 0 <= groups <= there:
        raise PulseError(
            f"--groups {groups}: {data.general.path} has {there} questions; give at most so many, or "
            "0 for all"
        )
    return sample_groups(questions, groups, seed=state.seed), images


def ask_general(
    model: LoadedModel,
    state: ModelState,
    *,
    questions: Sequence[Question],
    images: ImageStore,
    file: Path,
) -> dict:
    """`mmbench.score` of the model's answers, which are kept in `file` as they come, and the same
    shares for the likeliest option in by_likelihood. Raises PulseError if `file` holds answers to
    other questions or of another model state.
    """
    settings = state.profile.evaluate
    answers = answer_resumably(
        model, questions, images=images, settings=settings, file=file, label="asking MMBench"
    )
    rows = scored(questions, answers, rules=settings.extraction_rules)
    likeliest = mmbench.score_rows(rows, "loglik_correct")
    shares = {name: likeliest[name] for name in METRICS[:3]}
    return mmbench.score_rows(rows) | {"by_likelihood": shares}


def mmbench_table(scores: dict) -> pd.DataFrame:
    """Scores as a table: rows (all, without celebrity_recognition, then each leaf), n_questions,
    n_rows, and vanilla_0, vanilla_all, circular, parse_rate (0-1; NaN where nothing is left).
    """
    lines = {"all": scores, f"without {CELEBRITY}": scores["without_celebrity"]}
    lines |= scores["by_category"]
    columns = ["n_questions", "n_rows", *METRICS]
    return pd.DataFrame(
        [{"rows": name} | {c: part[c] for c in columns} for name, part in lines.items()]
    )


def open_task(state: ModelState, task: str) -> OpenTask:
    """The questions of one of `open_ended.TASKS` about the forget, retain and holdout people of the
    state's scenarios, with the photos that the study shows.

    Raises PulseError: a source without such tasks; the study's data missing, changed, or made anew
    since the run; people or photos that `data.people.path` does not have.
    """
    settings = state.profile.data
    source = source_of(settings)
    if not isinstance(source, OpenSource):
        raise PulseError(
            f"{state.name}: data.people.source = {settings.people.source} has no {task} questions: "
            "take a profile with data.people.source = mllmu, umu, fiu or clear, or leave it out with --what "
            "mmbench"
        )
    manifest = runs.require(state.data, "01_build_datasets", checksums=True)
    if state.data_result and manifest["result"] != state.data_result:
        raise PulseError(
            f"{show(state.data)} was made anew after {state.name}: its people are not those of this "
            "run; make the run again"
        )
    data = read_dataset(state.data)
    people = {p.id: p for p in data.people}
    places = [p for p in data.places if p.scenario in state.scenarios and p.set in ASKED]
    known = {p.id for p in (*source.celebrities(settings), *source.fictitious(settings))}
    fix = "name the files that the study was made from there, or run 01_build_datasets again"
    if missing := [p.person_id for p in places if p.person_id not in known]:
        raise PulseError(
            f"data.people.path = {settings.people.path!r} has no {missing[0]}, who is in "
            f"{show(state.data)}: {fix}"
        )
    made = OpenTask([], [], images=ImageStore())
    for place in places:
        person = people[place.person_id]
        questions, truths = source.open_questions(
            person, place, images=made.images, settings=settings, task=task
        )
        made.questions.extend(questions)
        made.truths.extend(truths)
    for name, encoded in made.images.encoded.items():
        if data.images.encoded.get(name, encoded) != encoded:
            raise PulseError(
                f"data.people.path = {settings.people.path!r}: picture {name} is another one than in "
                f"{show(state.data)}: {fix}"
            )
    if not made.questions:
        raise PulseError(
            f"data.people.path = {settings.people.path!r} has no {task} questions about the people "
            f"of {show(state.data)}: leave {task} out of --what"
        )
    return made


def _claim(out: Path, state: ModelState) -> None:
    """Write the state's card, unless the folder holds results of another one."""
    file = out / CARD
    if file.is_file():
        there = read_json(file)
        other = [key for key in _SAME if there.get(key) != state.card[key]]
        if other:
            raise PulseError(
                f"{show(file)}: this folder holds measures of another model state "
                f"({', '.join(other)} differs): name another folder with --out"
            )
    write_json(file, state.card)


def _no_nan(value: object) -> object:
    """Nested dicts with None for NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _no_nan(v) for key, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value

"""What the figures draw: long tables with a value and its interval, one line per method, state and
metric (column `measure`).

Everywhere: scenario, method, trained_part say whose; value, low, high are the number and its
interval (people as clusters, mean over seeds); n_clusters, n_answers, n_seeds say how much it
stands on, points are the values of its seeds. Headline wordings only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import (
    RETAINED,
    both_modalities,
    chance,
    equals,
    forget_level,
    nan_mean,
)
from pulse_lib.report import paper, stats
from pulse_lib.report.collect import Run, Study, groups, headline, once, pick
from pulse_lib.report.words import SETS, Metric, Selection, method_order

SETTINGS = ["scenario", "method", "trained_part"]
SEQUENCE = ["method", "policy", "trained_part"]
# What an interval is computed from; fewer columns are quicker to pick rows from
ANSWERS = [
    *("seed", "set", "modality", "wording", "cluster"),
    *("correct", "invalid", "loglik_correct", "n_options"),
]
OF_STATES = [*ANSWERS, "question_id", "run", "step", "category"]
SPREAD = ["value", "low", "high", "n_clusters", "n_answers", "n_seeds", "points"]


def answers_of(rows: pd.DataFrame, metric: Metric) -> tuple[pd.DataFrame, str | None]:
    """The headline rows of a metric and what is averaged within them: retain_text -> (its rows,
    None), retain -> (both, "modality")."""
    wanted, by = _of(rows, metric)
    return rows.loc[wanted, [column for column in ANSWERS if column in rows]], by


def _of(rows: pd.DataFrame, metric: Metric) -> tuple[np.ndarray, str | None]:
    """`answers_of`, but which rows these are."""
    name, _, modality = metric.partition("_")
    wanted = equals(rows["wording"], "trained") & equals(rows["set"], name)
    if modality:
        wanted &= equals(rows["modality"], modality)
    return wanted, None if modality or name == "general" else "modality"


def accuracy(
    rows: pd.DataFrame, metric: Metric, *, column: str = "correct", level: float = stats.LEVEL
) -> stats.Interval:
    """Accuracy (0-1) of a metric ("forget", "forget_text", "general" ...) over rows of one state;
    column: by what of WAYS."""
    wanted, by = _of(rows, metric)
    return stats.accuracy(rows, column, by=by, where=wanted, level=level)


def percent_retained(
    before: pd.DataFrame, after: pd.DataFrame, *, metric: Metric, level: float = stats.LEVEL
) -> stats.Interval:
    """Percent of a metric's accuracy before that is left."""
    (b, by), (a, _) = _of(before, metric), _of(after, metric)
    return stats.percent_retained(before, after, by=by, where=(b, a), level=level)


def percent_forgotten(
    before: pd.DataFrame, after: pd.DataFrame, *, metric: Metric, level: float = stats.LEVEL
) -> stats.Interval:
    """Percent of a metric's accuracy before that is gone."""
    (b, by), (a, _) = _of(before, metric), _of(after, metric)
    return stats.percent_forgotten(before, after, by=by, where=(b, a), level=level)


def spread(found: stats.Interval) -> dict:
    """An interval as the columns SPREAD."""
    return {key: getattr(found, key) for key in SPREAD}


def wide(found: Any, name: str) -> dict[str, float]:
    """The value and limits of an interval, or of a line of a long table, as three columns of a wide
    one."""
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


@once
def states(
    study: Study, selections: tuple[Selection, ...] = ("final", "matched")
) -> list[tuple[dict, pd.DataFrame, pd.DataFrame]]:
    """(whose, rows before, rows after) of every single-shot method and state, all seeds together;
    `before` of those seeds."""
    runs: dict[tuple, list[Run]] = {}
    for run in study.of("single_shot"):
        runs.setdefault(tuple(run.parameter(key) for key in SETTINGS), []).append(run)
    order = method_order({method for _, method, _ in runs})
    found, befores = [], {}
    for key in sorted(runs, key=lambda k: (k[0], order.index(k[1]), k[2] == "llm")):
        for selection in selections:
            after = pd.concat([study.part(run.name, selection)[OF_STATES] for run in runs[key]])
            if len(after):
                whose = dict(zip(SETTINGS, key, strict=True)) | {"selection": selection}
                seeds = (key[0], *after["seed"].unique())
                if seeds not in befores:
                    befores[seeds] = study.before(seeds[0], seeds[1:])[OF_STATES]
                found.append((whose, befores[seeds], after))
    return found


RADAR_AXES: dict[Metric, str] = {
    "forget_multimodal": "forgotten,\nmultimodal",
    "forget_text": "forgotten,\ntext-only",
    "retain_text": "retain kept,\ntext-only",
    "general": "general\nkept",
    "retain_multimodal": "retain kept,\nmultimodal",
}


@once
def radar(study: Study) -> pd.DataFrame:
    """Figure 4: percent forgotten (forget axes) and percent kept (the others) of each method and
    state; column `axis`, `measure`."""
    lines = []
    for whose, before, after in states(study):
        for metric, axis in RADAR_AXES.items():
            percent = percent_forgotten if metric.startswith("forget") else percent_retained
            found = percent(before, after, metric=metric)
            named = {"measure": metric, "axis": axis.replace("\n", " ")}
            lines.append(whose | named | spread(found))
    return _frame(lines, "measure")


def requests(study: Study) -> pd.DataFrame:
    """Figure 5: accuracies after each request; columns method, policy, trained_part, round,
    measure, value ..."""
    lines = []
    for whose, rows in sequences(study):
        for number, state in groups(rows, "round"):
            asked = np.logical_or.reduce([equals(state["set"], name) for name in SETS])
            asked &= equals(state["wording"], "trained")
            found: dict[Metric, stats.Interval] = {
                metric: accuracy(state, metric) for metric in SETS
            }
            found["invalid_rate"] = stats.accuracy(state, "invalid", where=asked)
            lines += [
                whose | {"round": number, "measure": metric} | spread(value)
                for metric, value in found.items()
            ]
    return _frame(lines, "measure", "policy", "round")


@once
def sequences(study: Study) -> list[tuple[dict, pd.DataFrame]]:
    """(whose, rows of all rounds) of every sequential method, strategy and trained part, all seeds
    and orders together."""
    rows = study.answers(kind="sequential")
    order = method_order(rows["method"].unique())
    found = dict(groups(rows, SEQUENCE))
    return [
        ({"scenario": "finetuned"} | dict(zip(SEQUENCE, key, strict=True)), found[key])
        for key in sorted(found, key=lambda k: (order.index(k[0]), k[1], k[2] == "llm"))
    ]


def relapse(study: Study) -> pd.DataFrame:
    """Accuracy on each request's people after each round: method, policy, round, turn, value ...

    turn: the request's place in the order carried out, which result.json names (`requests`; as
    numbered without it).
    """
    orders = {run.name: run.result.get("requests") for run in study.of("sequential")}
    lines = []
    for whose, rows in sequences(study):
        forget = pick(headline(rows[["run", "round", "request", *ANSWERS]]), set="forget")
        turns = []
        for run, here in groups(forget, "run"):
            order = orders[run] or sorted(here["request"].unique())
            turns.append(here["request"].map({request: i + 1 for i, request in enumerate(order)}))
        forget = forget.assign(turn=pd.concat(turns))
        for (number, turn), here in groups(forget, ["round", "turn"]):
            found = stats.accuracy(here, by="modality")
            lines.append(whose | {"round": number, "turn": turn} | spread(found))
    return _frame(lines, "policy", "round", "turn")


# Of `breaking`: what is called generation, likelihood and unusable, by the column of rows
WAYS = {"generation": "correct", "likelihood": "loglik_correct", "unusable": "invalid"}


def breaking(study: Study) -> pd.DataFrame:
    """Forgetting or breaking: per set, accuracy by generation and by option likelihood, unusable
    answers, and chance.

    measure: of WAYS; chance = mean of 1 / number of options. Includes the state before.
    """
    every = []
    for whose, before, after in states(study):
        if whose["scenario"] not in {who["scenario"] for who, _ in every}:
            every.append(
                (whose | {"method": "before", "trained_part": "", "selection": "before"}, before)
            )
        every.append((whose, after))
    lines = []
    for who, rows in every:
        for set_name in SETS:
            guessed = chance(rows["n_options"][_of(rows, set_name)[0]])
            for way, column in WAYS.items():
                named = {"set": set_name, "measure": way, "chance": guessed}
                lines.append(who | named | spread(accuracy(rows, set_name, column=column)))
    return _frame(lines, "set", "measure", "chance")


@once
def at_matched(study: Study) -> pd.DataFrame:
    """Methods at matched forgetting: percent kept of retain and general, per method, over the
    n_seeds of n_runs seeds that reached the level; value empty where none did."""
    lines, keys = [], [*SETTINGS, "measure"]
    reached = pick(radar(study), selection="matched").set_index(keys)[SPREAD].to_dict("index")
    for whose, _, final in states(study, ("final",)):
        for metric in RETAINED:
            who = whose | {"selection": "matched", "measure": metric}
            found = reached.get(tuple(who[k] for k in keys), spread(stats.NOTHING))
            lines.append(who | {"n_runs": final["seed"].nunique()} | found)
    return _frame(lines, "measure", "n_runs")


@once
def projector(study: Study, selection: Selection = "final") -> pd.DataFrame:
    """Projector or not: accuracies (0-1) before and after, at the last step or matched forgetting,
    of every method that has this state with both trained parts.

    measure: of paper.METRICS; paper = the paper's value where it reports one (GA, fine-tuned, last
    step).
    """
    quoted = paper.projector_table().set_index(["method", "trained_part"])
    found = {tuple(w[k] for k in SETTINGS): (w, b, a) for w, b, a in states(study, (selection,))}
    lines = []
    for (scenario, method, part), (whose, before, after) in found.items():
        if part != "projector+llm" or (scenario, method, "llm") not in found:
            continue
        alone, _, after_alone = found[scenario, method, "llm"]
        start = whose | {"trained_part": "", "selection": "before"}
        reported = (scenario, method, selection) == ("finetuned", "ga", "final")
        for who, rows in ((start, before), (whose, after), (alone, after_alone)):
            for metric in paper.METRICS:
                key = (method if who["trained_part"] else "before", who["trained_part"])
                value = quoted.loc[key, metric] if reported else np.nan
                named = {"measure": metric, "paper": value}
                found_here = accuracy(rows, metric)
                lines.append(who | named | spread(found_here))
    return _frame(lines, "measure", "paper")


def projector_matched(study: Study) -> pd.DataFrame:
    """`projector` at matched forgetting."""
    return projector(study, "matched")


def paths(study: Study) -> pd.DataFrame:
    """The trajectory of every single-shot run with the means of both modalities, and the full
    measurement of its matched and final state.

    kind: "path" (cheap, at `step`) | "before" | "matched" | "final" (all questions); forget,
    retain, general are accuracies (0-1); level: the forget accuracy that the matched state goes by.
    """
    frame, by = study.paths, study.matched_by
    columns = ["run", *SETTINGS, *("seed", "kind", "step"), *SETS, "invalid_rate", "level"]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    lines = []
    for whose, _, after in states(study):
        selection = whose["selection"]
        for run, seed, step in after[["run", "seed", "step"]].drop_duplicates().to_numpy():
            full = [(selection, step, study.summaries[run, selection, 0])]
            if selection == "final":
                full.insert(0, ("before", 0, study.summaries_before[whose["scenario"], seed]))
            lines += [
                whose
                | {"run": run, "seed": seed, "kind": kind, "step": step}
                | with_means(found)
                | {"level": forget_level(found, by)}
                for kind, step, found in full
            ]
    full = pd.DataFrame(lines, columns=columns)
    ways = with_means(frame.assign(kind="path", level=forget_level(frame, by)))
    return pd.concat([ways[columns], full], ignore_index=True)


def with_means(values):
    """The accuracies of a state (a mapping) or of a table, with `forget`, `forget_likelihood` and
    `retain` as means of both modalities."""
    means = {name: both_modalities(values, name) for name in ("forget", "retain")}
    if "forget_text_likelihood" in values:
        likeliest = [values[f"forget_{m}_likelihood"] for m in ("multimodal", "text")]
        means["forget_likelihood"] = nan_mean(likeliest)
    return values.assign(**means) if isinstance(values, pd.DataFrame) else values | means


def _frame(lines: list[dict], *extra: str) -> pd.DataFrame:
    columns = [*SETTINGS, "selection", *extra, *SPREAD]
    return pd.DataFrame(lines) if lines else pd.DataFrame(columns=columns)

"""What the figures draw: long tables with a value and its interval, one line per method, state and
measure.

Everywhere: scenario, method, trained_part say whose; value, low, high are the number and its
interval (people as clusters, mean over seeds); n_clusters, n_answers, n_seeds say how much it
stands on. Headline wordings only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import summary
from pulse_lib.report import paper, stats
from pulse_lib.report.collect import Study, headline, pick
from pulse_lib.report.words import method_order

SETTINGS = ["scenario", "method", "trained_part"]


def answers_of(rows: pd.DataFrame, measure: str) -> tuple[pd.DataFrame, str | None]:
    """The headline rows of a measure and what is averaged within them: retain_text -> (its rows,
    None), retain -> (both, "modality")."""
    rows = headline(rows)
    if measure == "general":
        return pick(rows, set="general"), None
    name, _, modality = measure.partition("_")
    chosen = pick(rows, set=name)
    return (pick(chosen, modality=modality), None) if modality else (chosen, "modality")


def accuracy(rows: pd.DataFrame, measure: str, **options) -> stats.Interval:
    """Accuracy (0-1) of a measure ("forget", "forget_text", "general" ...) over rows of one
    state."""
    chosen, by = answers_of(rows, measure)
    return stats.accuracy(chosen, by=by, **options)


def share_kept(
    before: pd.DataFrame, after: pd.DataFrame, measure: str, **options
) -> stats.Interval:
    """Percent of a measure's accuracy before that is kept."""
    (b, by), (a, _) = answers_of(before, measure), answers_of(after, measure)
    return stats.share_kept(b, a, by=by, **options)


def share_forgotten(
    before: pd.DataFrame, after: pd.DataFrame, measure: str, **options
) -> stats.Interval:
    """Percent of a measure's accuracy before that is gone."""
    (b, by), (a, _) = answers_of(before, measure), answers_of(after, measure)
    return stats.share_forgotten(b, a, by=by, **options)


def spread(found: stats.Interval) -> dict:
    """An interval as the columns value, low, high, n_clusters, n_answers, n_seeds."""
    return {
        key: getattr(found, key)
        for key in ("value", "low", "high", "n_clusters", "n_answers", "n_seeds")
    }


def states(
    study: Study, selections: Iterable[str] = ("final", "matched")
) -> list[tuple[dict, pd.DataFrame, pd.DataFrame]]:
    """(whose, rows before, rows after) of every single-shot method and state, all seeds together;
    `before` of those seeds."""
    runs: dict[tuple, list] = {}
    for run in study.of("single_shot"):
        runs.setdefault(tuple(run.parameter(key) for key in SETTINGS), []).append(run)
    order = method_order({method for _, method, _ in runs})
    found = []
    for scenario, method, part in sorted(
        runs, key=lambda k: (k[0], order.index(k[1]), k[2] == "llm")
    ):
        for selection in selections:
            here = [study.part(run.name, selection) for run in runs[scenario, method, part]]
            after = pd.concat(here)
            if len(after):
                whose = {
                    "scenario": scenario,
                    "method": method,
                    "trained_part": part,
                    "selection": selection,
                }
                found.append((whose, study.before(scenario, after["seed"].unique()), after))
    return found


RADAR_AXES = {
    "forget_multimodal": "forgotten,\nmultimodal",
    "forget_text": "forgotten,\ntext-only",
    "retain_text": "retain kept,\ntext-only",
    "general": "general\nkept",
    "retain_multimodal": "retain kept,\nmultimodal",
}


def radar(study: Study) -> pd.DataFrame:
    """Figure 4: percent forgotten (forget axes) and percent kept (the others) of each method and
    state; column `axis`, `measure`."""
    lines = []
    for whose, before, after in states(study):
        for measure, axis in RADAR_AXES.items():
            share = share_forgotten if measure.startswith("forget") else share_kept
            found = share(before, after, measure, n_resamples=study.n_resamples)
            lines.append(
                whose | {"measure": measure, "axis": axis.replace("\n", " ")} | spread(found)
            )
    return _frame(lines, "measure")


def requests(study: Study) -> pd.DataFrame:
    """Figure 5: accuracies after each request; columns method, policy, trained_part, round,
    measure, value ..."""
    lines = []
    for whose, rows in sequences(study):
        for number, state in rows.groupby("round"):
            for measure in ("forget", "retain", "general"):
                found = accuracy(state, measure, n_resamples=study.n_resamples)
                lines.append(whose | {"round": number, "measure": measure} | spread(found))
            asked = headline(state)
            asked = asked[asked["set"].isin(["forget", "retain", "general"])]
            found = stats.accuracy(asked, value="invalid", n_resamples=study.n_resamples)
            lines.append(whose | {"round": number, "measure": "invalid_rate"} | spread(found))
    return _frame(lines, "measure", "policy", "round")


def sequences(study: Study) -> list[tuple[dict, pd.DataFrame]]:
    """(whose, rows of all rounds) of every sequential method, policy and trained part, all seeds
    and orders together."""
    rows = study.answers(kind="sequential")
    order = method_order(rows["method"].unique())
    found = []
    for key, here in rows.groupby(["method", "policy", "trained_part"], observed=True):
        whose = dict(zip(("method", "policy", "trained_part"), key, strict=True))
        found.append(({"scenario": "finetuned"} | whose, here))
    return sorted(
        found,
        key=lambda item: (
            order.index(item[0]["method"]),
            item[0]["policy"],
            item[0]["trained_part"] == "llm",
        ),
    )


def relapse(study: Study) -> pd.DataFrame:
    """Accuracy on each request's people after each round: method, policy, round, turn, value ...

    turn: the request's place in the order carried out, which result.json names (`requests`; as
    numbered without it).
    """
    orders = {run.name: run.result.get("requests") for run in study.of("sequential")}
    lines = []
    for whose, rows in sequences(study):
        forget = pick(headline(rows), set="forget")
        turns = []
        for run, here in forget.groupby("run", observed=True):
            order = orders[run] or sorted(here["request"].unique())
            turns.append(here["request"].map({request: i + 1 for i, request in enumerate(order)}))
        forget = forget.assign(turn=pd.concat(turns))
        for (number, turn), here in forget.groupby(["round", "turn"], observed=True):
            found = stats.accuracy(here, by="modality", n_resamples=study.n_resamples)
            lines.append(whose | {"round": number, "turn": turn} | spread(found))
    return _frame(lines, "policy", "round", "turn")


def breaking(study: Study) -> pd.DataFrame:
    """Forgetting or breaking: per set, accuracy by generation and by option likelihood, unusable
    answers, and chance.

    measure: generation | likelihood | unusable; chance = mean of 1 / number of options. Includes
    the state before.
    """
    lines = []
    seen = set()
    for whose, before, after in states(study):
        states_here = [(whose, after)]
        if whose["scenario"] not in seen:
            seen.add(whose["scenario"])
            states_here.insert(
                0, (whose | {"method": "before", "trained_part": "", "selection": "before"}, before)
            )
        for who, rows in states_here:
            for set_name in ("forget", "retain", "general"):
                chosen, by = answers_of(rows, set_name)
                chance = float(np.mean(1 / chosen["n_options"])) if len(chosen) else np.nan
                for measure, column in (
                    ("generation", "correct"),
                    ("likelihood", "loglik_correct"),
                    ("unusable", "invalid"),
                ):
                    found = stats.accuracy(
                        chosen, value=column, by=by, n_resamples=study.n_resamples
                    )
                    lines.append(
                        who
                        | {"set": set_name, "measure": measure, "chance": chance}
                        | spread(found)
                    )
    return _frame(lines, "set", "measure", "chance")


def at_matched(study: Study) -> pd.DataFrame:
    """Methods at matched forgetting: percent kept of retain and general, per method, over the
    n_seeds of n_runs seeds that reached the level; value empty where none did."""
    lines = []
    reached = {tuple(w[k] for k in SETTINGS): (b, a) for w, b, a in states(study, ["matched"])}
    for whose, _, final in states(study, ["final"]):
        before_after = reached.get(tuple(whose[k] for k in SETTINGS))
        for measure in ("retain_multimodal", "retain_text", "general"):
            found = (
                share_kept(*before_after, measure, n_resamples=study.n_resamples)
                if before_after
                else stats.NOTHING
            )
            who = whose | {"selection": "matched", "measure": measure}
            lines.append(who | {"n_runs": final["seed"].nunique()} | spread(found))
    return _frame(lines, "measure", "n_runs")


def projector(study: Study) -> pd.DataFrame:
    """Projector or not: accuracies (0-1) before and after, at the last step, of every method run
    with both trained parts.

    measure: forget_multimodal | forget_text | general; paper = the paper's value where it reports
    one (GA, fine-tuned).
    """
    quoted = paper.projector_table().set_index(["method", "trained_part"])
    found = {tuple(w[k] for k in SETTINGS): (w, b, a) for w, b, a in states(study, ["final"])}
    lines = []
    for (scenario, method, part), (whose, before, _) in found.items():
        if part != "projector+llm" or (scenario, method, "llm") not in found:
            continue
        three = [(whose | {"trained_part": "", "selection": "before"}, before)]
        three += [
            (found[scenario, method, p][0], found[scenario, method, p][2])
            for p in ("projector+llm", "llm")
        ]
        for who, rows in three:
            for measure in ("forget_multimodal", "forget_text", "general"):
                key = (method if who["trained_part"] else "before", who["trained_part"])
                reported = scenario == "finetuned" and method == "ga"
                value = {"paper": quoted.loc[key, measure] if reported else np.nan}
                lines.append(
                    who
                    | {"measure": measure}
                    | value
                    | spread(accuracy(rows, measure, n_resamples=study.n_resamples))
                )
    return _frame(lines, "measure", "paper")


def paths(study: Study) -> pd.DataFrame:
    """The path of every single-shot run with the means of both modalities, and the full measurement
    of its matched and final state.

    kind: "path" (cheap, at `step`) | "before" | "matched" | "final" (all questions); forget,
    retain, general are accuracies (0-1).
    """
    frame = study.paths
    columns = [
        "run",
        *SETTINGS,
        "seed",
        "kind",
        "step",
        "forget",
        "retain",
        "general",
        "invalid_rate",
    ]
    if frame.empty:
        return pd.DataFrame(columns=columns)
    frame = frame.assign(
        kind="path",
        forget=(frame["forget_multimodal"] + frame["forget_text"]) / 2,
        retain=(frame["retain_multimodal"] + frame["retain_text"]) / 2,
    )
    lines = []
    for whose, before, after in states(study):
        for seed in after["seed"].unique():
            of_seed = pick(after, seed=seed)
            for kind, rows in (("before", pick(before, seed=seed)), (whose["selection"], of_seed)):
                if kind == "before" and whose["selection"] != "final":
                    continue
                full = summary(rows)
                lines.append(
                    {k: whose[k] for k in SETTINGS}
                    | {"run": of_seed["run"].iloc[0], "seed": seed, "kind": kind}
                    | {"step": 0 if kind == "before" else int(of_seed["step"].iloc[0])}
                    | {
                        m: (full[f"{m}_multimodal"] + full[f"{m}_text"]) / 2
                        for m in ("forget", "retain")
                    }
                    | {"general": full["general"], "invalid_rate": full["invalid_rate"]}
                )
    return pd.concat([frame[columns], pd.DataFrame(lines, columns=columns)], ignore_index=True)


def _frame(lines: list[dict], *extra: str) -> pd.DataFrame:
    columns = [
        *SETTINGS,
        "selection",
        *extra,
        "value",
        "low",
        "high",
        "n_clusters",
        "n_answers",
        "n_seeds",
    ]
    return pd.DataFrame(lines) if lines else pd.DataFrame(columns=columns)

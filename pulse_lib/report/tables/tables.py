"""The tables of the analysis, computed from rows alone. Accuracies are 0-1; columns of published
tables only ever grow at the end."""

from __future__ import annotations

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import SUMMARY, request_accuracies, summary
from pulse_lib.profile import Profile
from pulse_lib.report import paper
from pulse_lib.report.collect import Study, best_first, headline, pick
from pulse_lib.report.tables import intervals
from pulse_lib.report.tables.mmbench import mmbench
from pulse_lib.report.tables.ranking import after_requests, ranking
from pulse_lib.report.words import method_order

SINGLE_SHOT = ["scenario", "method", "trained_part", "seed", "selection", "step", *SUMMARY]
SEQUENTIAL = ["scenario", "method", "policy", "trained_part", "order", "seed", "round"]


def single_shot(study: Study) -> pd.DataFrame:
    """One line per run and selection (final, matched), per scenario and seed one `before`, and the
    `base` floor. Columns SINGLE_SHOT.

    A run that never reached the matched level has a `matched` line without step and accuracies.
    """
    lines = []
    for (_, state, _), rows in study.parts.items():
        if state in ("base", "before"):
            who = {
                "scenario": rows["scenario"].iloc[0],
                "method": state,
                "seed": rows["seed"].iloc[0],
            }
            lines.append(who | {"selection": "", "step": 0} | summary(rows))
    for run in study.of("single_shot"):
        who = {key: run.parameter(key) for key in ("scenario", "method", "trained_part", "seed")}
        for selection in ("final", "matched"):
            state = study.part(run.name, selection)
            reached = {"step": int(state["step"].iloc[0])} | summary(state) if len(state) else {}
            lines.append(who | {"selection": selection} | reached)
    table = pd.DataFrame(lines, columns=SINGLE_SHOT)
    return _sorted(
        _whole(table, "step"), ["scenario", "method", "trained_part", "seed", "selection"]
    )


def sequential(study: Study) -> pd.DataFrame:
    """One line per sequential run and round (0 = before). Columns SEQUENTIAL, a request_k for each
    of the profile's requests (mean of both modalities on its people), and SUMMARY."""
    lines = []
    for run in study.of("sequential"):
        who = {key: run.parameter(key) for key in SEQUENTIAL[1:-1]}
        for (name, _, number), rows in study.parts.items():
            if name == run.name:
                who |= {"scenario": "finetuned", "round": number}
                lines.append(who | request_accuracies(rows) | summary(rows))
    requests = [f"request_{k}" for k in range(1, study.profile.data.n_requests + 1)]
    table = pd.DataFrame(lines, columns=[*SEQUENTIAL, *requests, *SUMMARY])
    return _sorted(table, ["method", "policy", "trained_part", "order", "seed", "round"])


def projector(study: Study) -> pd.DataFrame:
    """Projector or not, at the last step: accuracy, interval and the paper's value for each
    measure, one line per trained part."""
    long = intervals.projector(study)
    lines = []
    for whose, part in long.groupby(
        ["scenario", "method", "trained_part"], observed=True, sort=False
    ):
        line = dict(zip(("scenario", "method", "trained_part"), whose, strict=True))
        line["trained_part"] = line["trained_part"] or "before"
        for row in part.itertuples():
            line |= {
                row.measure: row.value,
                f"{row.measure}_low": row.low,
                f"{row.measure}_high": row.high,
            }
            line[f"{row.measure}_paper"] = row.paper
        lines.append(line | {"n_seeds": int(part["n_seeds"].max())})
    names = [
        f"{m}{end}"
        for m in ("forget_multimodal", "forget_text", "general")
        for end in ("", "_low", "_high", "_paper")
    ]
    return pd.DataFrame(lines, columns=["scenario", "method", "trained_part", *names, "n_seeds"])


def matched(study: Study) -> pd.DataFrame:
    """Methods at matched forgetting: forget accuracy there, percent of retain and general kept with
    intervals, best general first, those that missed the level on a seed after the others."""
    table = intervals.at_matched(study)
    single = pick(single_shot(study), selection="matched")
    single = single.assign(forget=(single["forget_multimodal"] + single["forget_text"]) / 2)
    lines = []
    for whose, part in table.groupby(intervals.SETTINGS, observed=True, sort=False):
        line = dict(zip(intervals.SETTINGS, whose, strict=True))
        runs = pick(single, **line)
        line |= {"n_runs": len(runs), "n_reached": int(runs["step"].notna().sum())}
        line |= {"step": runs["step"].astype(float).mean(), "forget": runs["forget"].mean()}
        for row in part.itertuples():
            line |= {
                f"{row.measure}_kept": row.value,
                f"{row.measure}_kept_low": row.low,
                f"{row.measure}_kept_high": row.high,
            }
        lines.append(line)
    kept = [
        f"{m}_kept{end}"
        for m in ("retain_multimodal", "retain_text", "general")
        for end in ("", "_low", "_high")
    ]
    result = pd.DataFrame(
        lines, columns=[*intervals.SETTINGS, "n_runs", "n_reached", "step", "forget", *kept]
    )
    return best_first(result, "general_kept", "n_reached", "n_runs")


def wordings(study: Study) -> pd.DataFrame:
    """Accuracy on trained and on held-out wordings, by set and modality, before and after; mean
    over seeds."""
    lines = []
    for whose, rows in _all_states(study):
        people = rows[rows["set"].isin(["forget", "retain"])]
        for (set_name, modality), part in people.groupby(["set", "modality"], observed=True):
            value = {
                w: part[part["wording"] == w]["correct"].mean() for w in ("trained", "heldout")
            }
            counts = {f"n_{w}": int((part["wording"] == w).sum()) for w in ("trained", "heldout")}
            lines.append(whose | {"set": set_name, "modality": modality} | value | counts)
    columns = [
        "scenario",
        "method",
        "trained_part",
        "selection",
        "set",
        "modality",
        "trained",
        "heldout",
        "n_trained",
        "n_heldout",
    ]
    return pd.DataFrame(lines, columns=columns)


def general_by_category(study: Study) -> pd.DataFrame:
    """Accuracy on general questions by category, one line per state and a column per category; mean
    over all seeds' answers."""
    lines = []
    for whose, rows in _all_states(study):
        general = pick(headline(rows), set="general")
        by_category = general.groupby("category", observed=True)["correct"].mean()
        lines.append(
            whose
            | {"n_answers": len(general), "all": general["correct"].mean()}
            | by_category.to_dict()
        )
    return pd.DataFrame(lines)


def one_shot_against_sequential(study: Study) -> pd.DataFrame:
    """The same people in one request and in several, at equal epochs (last step, last round) and at
    equal forgetting.

    Equal forgetting: the one-shot run's matched state beside the first round whose forget accuracy
    over everybody is at or below the matched level. One line per way; percent kept is of that
    seed's before. Empty accuracies: the level was not reached.
    """
    single, rounds = single_shot(study), sequential(study)
    lines = []
    for (method, policy, part, order, seed), run in rounds.groupby(
        ["method", "policy", "trained_part", "order", "seed"], sort=False
    ):
        run = _with_means(run)
        before = pick(run, round=0).iloc[0]
        low = run[(run["round"] > 0) & (run["forget"] <= study.matched_at)]
        one = _with_means(
            pick(single, scenario="finetuned", method=method, trained_part=part, seed=seed)
        )
        for comparison, selection, several in (
            ("equal epochs", "final", run.sort_values("round").tail(1)),
            ("equal forgetting", "matched", low.sort_values("round").head(1)),
        ):
            for way, state, at in (
                ("one request", pick(one, selection=selection), "step"),
                ("several requests", several, "round"),
            ):
                who = {
                    "method": method,
                    "policy": policy,
                    "trained_part": part,
                    "order": order,
                    "seed": seed,
                }
                line = who | {"comparison": comparison, "way": way}
                if len(state) and state[at].notna().all():
                    row = state.iloc[0]
                    line |= {"at": f"{at} {int(row[at])}"} | {
                        m: row[m] for m in ("forget", "retain", "general", "invalid_rate")
                    }
                    line |= {f"{m}_kept": 100 * row[m] / before[m] for m in ("retain", "general")}
                lines.append(line)
    columns = ["method", "policy", "trained_part", "order", "seed", "comparison", "way", "at"]
    columns += ["forget", "retain", "general", "invalid_rate", "retain_kept", "general_kept"]
    return pd.DataFrame(lines, columns=columns)


def settings_table(profile: Profile, *sections: str) -> pd.DataFrame:
    """The resolved settings of some sections of a profile (all if none is named): section, setting,
    value."""
    resolved = profile.as_dict()
    names = sections or [name for name, values in resolved.items() if isinstance(values, dict)]
    lines = [
        (section, key, str(value)) for section in names for key, value in resolved[section].items()
    ]
    return pd.DataFrame(lines, columns=["section", "setting", "value"])


def all_tables(study: Study) -> dict[str, pd.DataFrame]:
    """Every table by its file's name; the two published ones first; `mmbench` only if it was asked."""
    scores = mmbench(study)
    return {
        "single_shot": single_shot(study),
        "sequential": sequential(study),
        "projector": projector(study),
        "matched": matched(study),
        "one_shot_against_sequential": one_shot_against_sequential(study),
        "wordings": wordings(study),
        "general_by_category": general_by_category(study),
        "ranking": ranking(study),
        "after_requests": after_requests(study),
        "paper_projector": paper.projector_table(),
        **({"mmbench": scores} if len(scores) else {}),
    }


def _with_means(table: pd.DataFrame) -> pd.DataFrame:
    """The table with forget and retain as means of both modalities."""
    return table.assign(
        **{m: (table[f"{m}_multimodal"] + table[f"{m}_text"]) / 2 for m in ("forget", "retain")}
    )


def _all_states(study: Study) -> list[tuple[dict, pd.DataFrame]]:
    """(whose, rows) of base, before and every single-shot state, all seeds together."""
    found = []
    for scenario in ("finetuned", "pretrained"):
        for state in ("base", "before"):
            rows = study.answers(scenario=scenario, state=state)
            if len(rows):
                found.append(
                    (
                        {
                            "scenario": scenario,
                            "method": state,
                            "trained_part": "",
                            "selection": "",
                        },
                        rows,
                    )
                )
        found += [
            (whose, after)
            for whose, _, after in intervals.states(study)
            if whose["scenario"] == scenario
        ]
    return found


def _whole(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """The table with these columns as whole numbers that may be missing, so that a CSV says 36 and
    not 36.0."""
    return table.astype(dict.fromkeys(columns, "Int64"))


def _sorted(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Lines in the order of the kit: base and before first, then the paper's methods; text columns
    without missing values."""
    order = ["base", "before", *method_order(set(table["method"]) - {"base", "before"})]
    texts = [c for c in ("scenario", "method", "trained_part", "selection", "policy") if c in table]
    table = table.assign(**{c: table[c].fillna("").astype(object) for c in texts})
    ranks = {"method": lambda s: s.map({m: i for i, m in enumerate(order)})}
    ranks["trained_part"] = lambda s: s.map(lambda part: part == "llm")
    keyed = pd.DataFrame({c: ranks.get(c, lambda s: s)(table[c]) for c in by}, index=table.index)
    index = np.array(keyed.sort_values(by, kind="stable").index)
    return table.loc[index].reset_index(drop=True)

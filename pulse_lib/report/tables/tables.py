"""The tables of the analysis, computed from rows alone. Accuracies are 0-1; columns of published
tables only ever grow at the end."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from pulse_lib.evaluate.accuracy import (
    LIKELIHOODS,
    RETAINED,
    SUMMARY,
    equals,
    first_at_or_below,
    forget_level,
    mean,
    request_accuracies,
    retained_share,
)
from pulse_lib.evaluate.mmbench import score_rows
from pulse_lib.machine import garbage_at_the_end
from pulse_lib.profile import TWINS
from pulse_lib.report import paper
from pulse_lib.report.collect import (
    Study,
    best_first,
    groups,
    headline,
    once,
    pick,
    records,
)
from pulse_lib.report.tables import intervals
from pulse_lib.report.tables.about import about
from pulse_lib.report.tables.benchmarks import benchmarks
from pulse_lib.report.tables.continual import continual
from pulse_lib.report.tables.distance import distance, rank_agreement
from pulse_lib.report.tables.facts import modality_gap
from pulse_lib.report.tables.intervals import SEQUENCE, SETTINGS, with_means
from pulse_lib.report.tables.levels import at_level
from pulse_lib.report.tables.likeness import likeness
from pulse_lib.report.tables.placebo import placebo
from pulse_lib.report.tables.power import power
from pulse_lib.report.tables.ranking import after_requests, ranking
from pulse_lib.report.tables.selective import selective
from pulse_lib.report.tables.strangers import strangers
from pulse_lib.report.tables.yes_no import yes_no
from pulse_lib.report.words import SCENARIOS, method_order

SINGLE_SHOT = [*SETTINGS, "seed", "selection", "step", *SUMMARY, *LIKELIHOODS]
SEQUENTIAL = ["scenario", *SEQUENCE, "order", "seed", "round"]
SCORED = ("question_id", "options", "correct", "invalid", "category", "group")  # by score_rows
MMBENCH = ["vanilla_0", "vanilla_all", "circular", "parse_rate"]


@once
def single_shot(study: Study) -> pd.DataFrame:
    """One line per run and selection (final, matched), per scenario and seed one `before`, and the
    `base` floor. Columns SINGLE_SHOT.

    A run that never reached the matched level has a `matched` line without step and accuracies.
    """
    lines = []
    for key, rows in study.parts.items():
        if (state := key[1]) in ("base", "before"):
            who = {
                "scenario": rows["scenario"].iloc[0],
                "method": state,
                "seed": rows["seed"].iloc[0],
            }
            lines.append(who | {"selection": "", "step": 0} | study.summaries[key])
    for run in study.of("single_shot"):
        who = {key: run.parameter(key) for key in (*SETTINGS, "seed")}
        for selection in ("final", "matched"):
            state = study.part(run.name, selection)
            line = who | {"selection": selection}
            if len(state):
                line |= {"step": int(state["step"].iloc[0])}
                line |= study.summaries[run.name, selection, 0]
            lines.append(line)
    table = pd.DataFrame(lines, columns=SINGLE_SHOT)
    # whole numbers that may be missing, so that a CSV says 36 and not 36.0
    return _sorted(table.astype({"step": "Int64"}), [*SETTINGS, "seed", "selection"])


@once
def sequential(study: Study) -> pd.DataFrame:
    """One line per sequential run and round (0 = before). Columns SEQUENTIAL, a request_k for each
    of the profile's requests (mean of both modalities on its people), SUMMARY and LIKELIHOODS."""
    lines = []
    for run in study.of("sequential"):
        who = {key: run.parameter(key) for key in SEQUENTIAL[1:-1]}
        for (name, state, number), rows in study.parts.items():
            if name == run.name:
                who |= {"scenario": "finetuned", "round": number}
                found = study.summaries[name, state, number]
                lines.append(who | request_accuracies(rows) | found)
    requests = [f"request_{k}" for k in range(1, study.profile.data.n_requests + 1)]
    table = pd.DataFrame(lines, columns=[*SEQUENTIAL, *requests, *SUMMARY, *LIKELIHOODS])
    return _sorted(table, SEQUENTIAL[1:])


def projector(study: Study) -> pd.DataFrame:
    """Projector or not, at the last step: accuracy, interval and the paper's value for each
    metric, one line per trained part."""
    long = intervals.projector(study)
    lines = []
    for whose, part in groups(long, SETTINGS, sort=False):
        line = dict(zip(SETTINGS, whose, strict=True))
        line["trained_part"] = line["trained_part"] or "before"
        for row in records(part):
            line |= intervals.wide(row, row.measure) | {f"{row.measure}_paper": row.paper}
        lines.append(line | {"n_seeds": int(part["n_seeds"].max())})
    names = [f"{m}{end}" for m in paper.METRICS for end in ("", "_low", "_high", "_paper")]
    return pd.DataFrame(lines, columns=[*SETTINGS, *names, "n_seeds"])


def matched(study: Study) -> pd.DataFrame:
    """Methods at matched forgetting: forget accuracy there, percent of retain and general kept with
    intervals, best general first, those that missed the level on a seed after the others."""
    single = with_means(pick(single_shot(study), selection="matched"))
    lines = []
    for whose, part in groups(intervals.at_matched(study), SETTINGS, sort=False):
        line = dict(zip(SETTINGS, whose, strict=True))
        runs = pick(single, **line)
        line |= {"n_runs": len(runs), "n_reached": int(runs["step"].notna().sum())}
        line |= {"step": runs["step"].astype(float).mean(), "forget": runs["forget"].mean()}
        for row in records(part):
            line |= intervals.wide(row, f"{row.measure}_kept")
        lines.append(line)
    kept = [f"{m}_kept{end}" for m in RETAINED for end in ("", "_low", "_high")]
    columns = [*SETTINGS, "n_runs", "n_reached", "step", "forget", *kept]
    table = pd.DataFrame(lines, columns=columns)
    return best_first(table, "general_kept", reached="n_reached", of="n_runs")


def wordings(study: Study) -> pd.DataFrame:
    """Accuracy on trained and on held-out wordings, by set and modality, before and after; mean
    over seeds."""
    lines = []
    for whose, rows in _all_states(study):
        correct, worded = rows["correct"].to_numpy(float), ("trained", "heldout")
        for set_name, modality in product(("forget", "retain"), ("multimodal", "text")):
            asked = equals(rows["set"], set_name) & equals(rows["modality"], modality)
            said = {w: correct[asked & equals(rows["wording"], w)] for w in worded}
            counts = {f"n_{w}": len(said[w]) for w in worded}
            if asked.any():
                means = {w: mean(values) for w, values in said.items()}
                lines.append(whose | {"set": set_name, "modality": modality} | means | counts)
    columns = [*SETTINGS, *("selection", "set", "modality")]
    columns += ["trained", "heldout", "n_trained", "n_heldout"]
    return pd.DataFrame(lines, columns=columns)


def general_by_category(study: Study) -> pd.DataFrame:
    """Accuracy on general questions by category, one line per state and a column per category; mean
    over all seeds' answers."""
    lines = []
    for whose, rows in _all_states(study):
        general = pick(headline(rows), set="general")
        by_category = general.groupby("category", observed=True)["correct"].mean()
        every = {"n_answers": len(general), "all": general["correct"].mean()}
        lines.append(whose | every | by_category.to_dict())
    return pd.DataFrame(lines)


def one_shot_against_sequential(study: Study) -> pd.DataFrame:
    """The same people in one request and in several, at equal epochs (last step, last round) and at
    equal forgetting.

    Equal forgetting: the one-shot run's matched state beside the first round whose forget accuracy
    over everybody, by the study's `matched_by`, is at or below the matched level. One line per way;
    percent kept is of that seed's before. Empty accuracies: the level was not reached.
    """
    single, rounds = with_means(single_shot(study)), with_means(sequential(study))
    keys = [*SEQUENCE, "order", "seed"]
    values = ["forget", "retain", "general", "invalid_rate"]
    ends = ["retain_kept", "general_kept", "forget_likelihood"]
    lines = []
    for key, run in groups(rounds, keys, sort=False):
        who = dict(zip(keys, key, strict=True))
        before, run = pick(run, round=0).iloc[0], run.set_index("round", drop=False).sort_index()
        forget = pd.Series(forget_level(run, study.matched_by), index=run.index)
        reached = first_at_or_below(forget, study.matched_at)
        shared = {k: who[k] for k in ("method", "trained_part", "seed")}
        one = pick(single, scenario="finetuned", **shared)
        for comparison, selection, several in (
            ("equal epochs", "final", run.tail(1)),
            ("equal forgetting", "matched", run[run["round"] == reached]),
        ):
            for way, state, at in (
                ("one request", pick(one, selection=selection), "step"),
                ("several requests", several, "round"),
            ):
                line = who | {"comparison": comparison, "way": way}
                if len(state) and state[at].notna().all():
                    row = state.iloc[0]
                    line |= {"at": f"{at} {int(row[at])}"}
                    line |= row[[*values, "forget_likelihood"]].to_dict()
                    for metric in ("retain", "general"):
                        percent = retained_share(before[metric], 100 * row[metric])
                        line[f"{metric}_kept"] = percent
                lines.append(line)
    columns = [*keys, "comparison", "way", "at", *values, *ends]
    return pd.DataFrame(lines, columns=columns)


def mmbench(study: Study) -> pd.DataFrame:
    """One line per model state whose general questions are MMBench's: score_rows of it, with and
    without leaf celebrity_recognition, which unlearning celebrities hits directly. Empty for the
    embedded world. Raises ValueError if a group of rows is incomplete."""
    lines = []
    for (run, state, number), slim in study.parts.items():
        if not any(str(group).isdigit() for group in slim["group"].unique()):  # a base row's index
            continue
        scores = score_rows(study.full_rows(run, SCORED, state=state, round=number))
        line = {"run": run, "state": state, "round": number}
        line |= {name: scores[name] for name in ("n_questions", "n_rows", *MMBENCH)}
        without = scores["without_celebrity"]
        lines.append(line | {f"{n}_without_celebrity": without[n] for n in MMBENCH[:3]})
    without = [f"{name}_without_celebrity" for name in MMBENCH[:3]]
    columns = ["run", "state", "round", "n_questions", "n_rows", *MMBENCH, *without]
    return pd.DataFrame(lines, columns=columns)


@garbage_at_the_end()
def all_tables(study: Study) -> dict[str, pd.DataFrame]:
    """Every table by its file's name; the two published ones first; `mmbench` and `yes_no` only if
    they were asked, `benchmarks` only of those beside, `modality_gap` only of sources that know single
    facts, `distance` and `rank_agreement` only if an oracle ran, `placebo` only if one did,
    `strangers` only if hold-out people were asked, `likeness` only after single-shot runs,
    `continual` only after requests in a row, `selective` only where some facts were to stay."""
    near = distance(study)
    twins = study.profile.data.people.source in TWINS  # whose questions are twins by fact
    some = {
        "mmbench": mmbench(study),
        "yes_no": yes_no(study),
        "benchmarks": benchmarks(study),
        "modality_gap": modality_gap(_all_states(study) if twins else []),
        "distance": near,
        "rank_agreement": rank_agreement(near),
        "placebo": placebo(study),
        "strangers": strangers(study),
        "likeness": likeness(study),
        "continual": continual(study),
        "selective": selective(study),
    }
    return {
        "single_shot": single_shot(study),
        "sequential": sequential(study),
        "projector": projector(study),
        "matched": matched(study),
        "at_level": at_level(study),
        "one_shot_against_sequential": one_shot_against_sequential(study),
        "wordings": wordings(study),
        "general_by_category": general_by_category(study),
        "ranking": ranking(study),
        "after_requests": after_requests(study),
        "paper_projector": paper.projector_table(),
        "about": about(study),
        "power": power(study),
        **{name: table for name, table in some.items() if len(table)},
    }


def _all_states(study: Study) -> list[tuple[dict, pd.DataFrame]]:
    """(whose, rows) of base, before and every single-shot state, all seeds together."""
    states = intervals.states(study)
    found = []
    for scenario in SCENARIOS:
        for state in ("base", "before"):
            rows = study.answers(scenario=scenario, state=state)
            if len(rows):
                whose = {"scenario": scenario, "method": state, "trained_part": "", "selection": ""}
                found.append((whose, rows))
        found += [(whose, after) for whose, _, after in states if whose["scenario"] == scenario]
    return found


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

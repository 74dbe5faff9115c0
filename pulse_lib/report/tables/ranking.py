"""Which method keeps most: at matched forgetting, and after all requests. Computed from rows,
logs and manifests."""

from __future__ import annotations

import pandas as pd

from pulse_lib.evaluate.accuracy import (
    MATCHED_AT,
    RETAINED,
    both_modalities,
    forget_accuracies,
    forget_level,
    nan_mean,
    retained_share,
    retained_shares,
)
from pulse_lib.methods import PLACEBOS
from pulse_lib.profile import tuned_for
from pulse_lib.report.collect import Run, Study, best_first, groups, once, pick
from pulse_lib.report.seeds import rank_sets
from pulse_lib.report.tables.intervals import SEQUENCE, SETTINGS, with_means
from pulse_lib.report.tables.levels import at_level
from pulse_lib.strategies import get_strategy

# The success criterion: forget accuracy, mean of both modalities, by generation and by likelihood
SUCCESS_FORGET = MATCHED_AT  # at most
SUCCESS_RETAINED = 0.90  # of retain and of general accuracy: at least
RANKING = [
    *("scenario", "rank", "method", "trained_part", "numbers", "n_seeds", "n_reached"),
    *("kept", *(f"{m}_kept" for m in RETAINED), "forget", "step", "seconds", "adapter_mb"),
    *("rank_from", "rank_to", "forget_likelihood", "kept_at_level", "kept_at_level_generation"),
]
AS_SAID = "kept_at_level_generation"
FORGET = [f"forget_{m}{by}" for m in ("multimodal", "text") for by in ("", "_likelihood")]
# Of these the criterion takes the mean
MEANS = {
    "forget": FORGET[::2],
    "forget_likelihood": FORGET[1::2],
    "reload": ["reload_multimodal", "reload_text"],
}
AFTER = [
    *("method", "policy", "trained_part", "n_seeds", *FORGET),
    *("retain_kept", "general_kept", "steps", "seconds", "adapter_mb"),
    *("reload_multimodal", "reload_text", "aim", "misses", "numbers"),
]


def ranking(study: Study) -> pd.DataFrame:
    """Single-shot runs at their matched step, best first in each scenario. Columns RANKING: `kept`
    is the mean share (0-1) of retain_multimodal, retain_text and general accuracy that is left (of
    those that were above 0 before), then each; forget the mean forget accuracy; step, seconds of
    training and MB of one adapter are what it cost. Means over the seeds that reached it; methods
    that missed it on a seed come after those that never did, since their means are of other seeds.

    numbers: "searched" if the profile holds hyperparameters of a search for the method, else "as given".
    rank_from, rank_to: the ranks that the method may have (see `seeds.rank_sets`), all at once, among
    those that reached the level on each of the seeds that most methods ran on; empty below two seeds.
    kept_at_level: `kept` of table `at_level`, interpolated; the last column goes by generation alone.
    """
    table = matched_runs(study)
    if table.empty:
        return table.reindex(columns=RANKING)
    grouped = table.groupby([*SETTINGS, "numbers"], sort=False)
    taken = (*SETTINGS, "numbers", "rank", "rank_from", "rank_to")
    numbers = [c for c in table if c in RANKING and c not in taken]
    means = grouped[[c for c in numbers if not c.startswith("n_")]].mean()
    means["n_seeds"], means["n_reached"] = grouped.size(), grouped["kept"].count()
    means = best_first(means.reset_index(), "kept", reached="n_reached", of="n_seeds")
    means["rank"] = means.groupby("scenario").cumcount() + 1
    means = means.join(_rank_intervals(table), on=SETTINGS)
    levels = pick(at_level(study), level=study.matched_at)
    levels = levels.set_index([*SETTINGS, "matched_by"])["kept"]
    for column, by in (("kept_at_level", study.matched_by), (AS_SAID, "generation")):
        means = means.join(levels.xs(by, level="matched_by").rename(column), on=SETTINGS)
    return means[RANKING]


def _rank_intervals(runs: pd.DataFrame) -> pd.DataFrame:
    """rank_from and rank_to of the methods (index SETTINGS) of each scenario that reached the level
    on each of the seeds that most methods ran on: an oracle of one seed takes no seed from the rest."""
    found = []
    for _, there in groups(runs, "scenario"):
        kept = there.pivot(index=SETTINGS, columns="seed", values="kept")
        ran = there.assign(ran=True).pivot(index=SETTINGS, columns="seed", values="ran").notna()
        whole = kept.loc[:, list(ran.value_counts().index[0])].dropna()
        if len(whole) and whole.shape[1] > 1:
            found.append(rank_sets(whole))
    ranks = pd.concat(found) if found else pd.DataFrame(columns=["from", "to"], dtype="Int64")
    if not found:
        ranks.index = pd.MultiIndex.from_tuples([], names=SETTINGS)
    return ranks.astype("Int64").add_prefix("rank_")


@once
def matched_runs(study: Study) -> pd.DataFrame:
    """Every single-shot run at its matched step, but placebos, which forget nobody: SETTINGS, numbers,
    seed, and what `ranking` takes the means of."""
    lines = []
    for run in study.of("single_shot"):
        if run.parameter("method") in PLACEBOS:
            continue
        who = {key: run.parameter(key) for key in SETTINGS}
        tuned = run.manifest["profile"].get("tuned", {})
        who["numbers"] = _source(tuned_for(tuned, who["scenario"], method=who["method"]))
        after = study.part(run.name, "matched")
        line = {"run": run.name, "seed": run.parameter("seed"), "adapter_mb": _adapter_mb(run)}
        if len(after):
            before = study.summaries_before[who["scenario"], run.parameter("seed")]
            now = study.summaries[run.name, "matched", 0]
            step = int(after["step"].iloc[0])
            shares = retained_shares(before, now)
            line |= {f"{metric}_kept": share for metric, share in shares.items()}
            line |= {"kept": nan_mean(shares.values()), "forget": both_modalities(now)}
            line |= {"forget_likelihood": with_means(now)["forget_likelihood"]}
            line |= {"step": step, "seconds": _seconds(run, step)}
        lines.append(who | line)
    later = ("rank_from", "rank_to", "kept_at_level", AS_SAID)
    columns = [c for c in dict.fromkeys([*RANKING, "seed"]) if c not in later]
    return pd.DataFrame(lines, columns=columns)


@once
def after_requests(study: Study) -> pd.DataFrame:
    """Sequential runs after their last request, means over seeds and orders, best first. Columns
    AFTER: forget accuracies by generation and by the likeliest option, shares (0-1) of retain (mean
    of both modalities) and general accuracy kept, cost, and forget accuracies once the projector is
    the target's again (reload_...).

    aim: the success criterion, whether the forget accuracies (means of both modalities), by
    generation, by likelihood and after the reload, are at most SUCCESS_FORGET and both shares at
    least SUCCESS_RETAINED; misses says where not. numbers:
    as in `ranking`, those of single-shot where the pair of method and strategy was not searched.
    """
    lines = []
    for run in study.of("sequential"):
        states = {key[2]: key for key in study.parts if key[0] == run.name}
        if len(states) < 2:
            continue
        last = states[max(states)]
        before, now = study.summaries[states[0]], study.summaries[last]
        line = {key: run.parameter(key) for key in SEQUENCE}
        tuned = run.manifest["profile"].get("tuned", {})
        line["numbers"] = _source(
            tuned_for(tuned, "finetuned", method=line["method"], strategy=line["policy"])
        )
        line |= forget_accuracies(study.parts[last])
        retain = (both_modalities(state, "retain") for state in (before, now))
        line["retain_kept"] = retained_share(*retain)
        line["general_kept"] = retained_share(before["general"], now["general"])
        reload = run.result.get("projector_reload", {})
        line |= {f"reload_{m}": reload.get(f"forget_{m}") for m in ("multimodal", "text")}
        line |= {"steps": run.result.get("final_step"), "seconds": run.result.get("seconds_train")}
        lines.append(line | {"adapter_mb": _adapter_mb(run)})
    table = pd.DataFrame(lines, columns=[c for c in AFTER if c not in ("n_seeds", "aim", "misses")])
    if table.empty:
        return table.reindex(columns=AFTER)
    who = [*SEQUENCE, "numbers"]
    measured = dict.fromkeys([c for c in table if c not in who], float)
    grouped = table.astype(measured).groupby(who, sort=False)
    means = grouped.mean().assign(n_seeds=grouped.size()).reset_index()
    means["misses"] = [_misses(row) for row in means.to_dict("records")]
    means["aim"] = means["misses"] == ""
    means["worst"] = means[["retain_kept", "general_kept"]].min(axis=1)
    forgot = [forget_level(row, "both") <= SUCCESS_FORGET for row in means.to_dict("records")]
    forgot = pd.Series(forgot, index=means.index, name="forgot")
    order = pd.concat([means["aim"], forgot, means["worst"]], axis=1)
    means = means.loc[order.sort_values(list(order), ascending=False, kind="stable").index]
    return means[AFTER].reset_index(drop=True)


def _source(tuned: dict) -> str:
    return "searched" if tuned else "as given"


def _misses(row: dict) -> str:
    forgotten = {
        name: float(nan_mean(row[column] for column in columns)) for name, columns in MEANS.items()
    }
    high = [f"{name} {value:.2f}" for name, value in forgotten.items() if value > SUCCESS_FORGET]
    kept = ("retain_kept", "general_kept")
    low = [f"{name} {row[name]:.2f}" for name in kept if not row[name] >= SUCCESS_RETAINED]
    return ", ".join(high + low)


def _seconds(run: Run, step: int) -> float:
    log = pd.read_csv(run.folder / "log.csv")
    return float(log.loc[log["step"] <= step, "seconds"].max())


def _adapter_mb(run: Run) -> float:
    """Megabytes of all adapters that the run's last state needs on top of its target."""
    files = run.manifest["files"] | run.manifest.get("left_out", {})  # of a kept study, no models
    sizes = {n: e["bytes"] for n, e in files.items() if n.endswith(".safetensors")}
    if run.kind == "sequential":
        continued = get_strategy(run.parameter("strategy")).continued
        last = max(sizes, key=lambda name: int(name.split("/")[0].removeprefix("round-")))
        return (sizes[last] if continued else sum(sizes.values())) / 1e6
    return sizes["adapters/final/adapter_model.safetensors"] / 1e6

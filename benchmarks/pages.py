"""Writes the numbers of README.md, of some pages of docs and of the notebooks' tops from
outputs/reference.

    python benchmarks/pages.py                      from the tables that are committed
    python benchmarks/pages.py --demo outputs/tiny  takes over a finished demo's tables first
    python benchmarks/pages.py --three DIR          the same of the study of all methods on three seeds
    python benchmarks/pages.py --probes DIR         what probes and placebos of that study found
    python benchmarks/pages.py --longer DIR DIR     the same of the studies of 10 and of 25 requests
    python benchmarks/pages.py --equal DIR          the same of the study at equal training
    python benchmarks/pages.py --search DIR         the trials of a search with profile tiny
    python benchmarks/pages.py --guides             runs the notebooks that go on from a finished demo
                                                    in outputs/tiny, for their minutes

A page holds its numbers between <!-- name --> and <!-- /name -->; a test fails when a page is not
what this writes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient

from pulse_lib.commands import compat, compat_page
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY, write_csv
from pulse_lib.methods import METHODS, retrains
from pulse_lib.profile import load_profile
from pulse_lib.report import markdown
from pulse_lib.report.collect import collect
from pulse_lib.report.figures.probes import at_a_glance
from pulse_lib.report.figures.style import png
from pulse_lib.report.tables.placebo import placebo
from pulse_lib.report.tables.probes import left_out, memberships, over_seeds, probed_runs
from pulse_lib.report.words import KNOWS, LEARNED, label, series_label
from pulse_lib.runs.kinds import run_folders, run_name

REFERENCE = REPOSITORY / "outputs" / "reference" / "tiny"
COMPAT = REFERENCE.parent / compat.FILE  # of `python -m pulse_lib mllmu-compat`
DOCS = REPOSITORY / "docs"
PAGES = (
    REPOSITORY / "README.md",
    *(DOCS / f"{name}.md" for name in ("results", "probes", "methods", "why_numbers_differ")),
)
TABLES = """after_requests general_by_category ledger matched one_shot_against_sequential power
projector ranking sequential single_shot story at_level about ledger_numbers""".split()
FIGURES = ("story", "figure4_matched", "figure5")
# Of the demo that adds up in wider vectors
WIDER = REFERENCE / "wider_vectors"
WIDER_TABLES = ("ledger", "ledger_numbers", "ranking", "single_shot", "about")
# Of the study of all methods on three seeds
THREE = REFERENCE / "three_seeds"
THREE_TABLES = """ranking after_requests single_shot sequential ledger ledger_numbers at_level
distance strangers power continual about""".split()
THREE_FIGURES = ("matched", "after_requests", "figure5")
# Of the studies of more requests: profile, tables
LONGER = ("tiny-10", "tiny-25")
LONGER_TABLES = ("continual", "after_requests", "about")
# Of the study at equal training
EQUAL = REFERENCE.parent / "tiny-equal"
EQUAL_TABLES = """single_shot sequential ledger ledger_numbers at_level matched
one_shot_against_sequential about""".split()
EQUAL_FIGURES = ("figure4_last_step", "figure5")
ONE_SEED = ", seen on one seed"
# Notebooks that the demo runs, and where their times stand
DEMO = {
    "01_build_datasets": "data/",
    "02_finetune": "target/",
    "03_unlearn_single_shot": "single_shot/",
    "04_unlearn_sequential": "sequential/",
    "05_analyze": "analysis",
    "06_probe": "probe/",
}
# Those that go on from it
GUIDES = ("03b_npo_from_scratch", "07_bring_your_own", "08_explore")


def blocks(reference: Path = REFERENCE) -> dict[str, str]:
    """Every block of the pages by its name, from the tables in a folder."""
    single = pd.read_csv(reference / "single_shot.csv")
    three = reference / "three_seeds"
    ranking, verdicts = (pd.read_csv(three / f"{name}.csv") for name in ("ranking", "ledger"))
    probed = over_seeds(pd.read_csv(three / "probes.csv"))
    times = pd.read_csv(reference / "times.csv")
    guides = pd.read_csv(reference / "times_guides.csv").set_index("notebook")["seconds"]
    ledger = pd.read_csv(reference / "ledger.csv")
    ledger["verdict"] = ledger["verdict"].str.removesuffix(ONE_SEED)  # said once, above the table
    return {
        "outcome": outcome(pd.read_csv(reference / "sequential.csv")),
        "six": block(six(single)),
        "demo time": f"{span(times):.0f} minutes",
        "demo memory": f"{times['peak_memory_mib'].max() / 1024:.1f} GB",
        **{f"minutes {name[:2]}": minutes(times, runs) for name, runs in DEMO.items()},
        **{f"minutes {n.partition('_')[0]}": f"{guides[n] / 60:.1f}" for n in GUIDES},
        **{f"one seed {s}": block(markdown.states(single, s)) for s in LEARNED},
        **{f"verdicts {w}": block(markdown.findings(ledger, w)) for w in ("paper", "kit")},
        **{f"three verdicts {w}": block(markdown.findings(verdicts, w)) for w in ("paper", "kit")},
        **{f"ranking {s}": block(ranked(ranking[ranking["scenario"] == s])) for s in LEARNED},
        "equal": equal(EQUAL),
        "equal outcome": equal_outcome(
            *(pd.read_csv(EQUAL / f"{name}.csv") for name in ("single_shot", "at_level"))
        ),
        **mllmu(json.loads(COMPAT.read_text(encoding="utf-8"))),
        "probes outcome": probes_outcome(probed[probed["policy"] == ""]),
        "gate": gate(probed[probed["policy"] == "experts"]),
        **{f"probes {s}": block(markdown.probed(probed, s)) for s in LEARNED},
        "placebo": block(markdown.placebo(pd.read_csv(three / "placebo.csv"))),
        "longer": block(
            markdown.continual(
                pd.read_csv(folder / "continual.csv")
                for folder in (three, *(reference.parent / name for name in LONGER))
            )
        ),
        "search": block(
            markdown.searched(pd.read_csv(reference / "search.csv"), load_profile("tiny").tuned)
        ),
        "five requests": block(markdown.after_requests(pd.read_csv(three / "after_requests.csv"))),
    }


def probes_outcome(probed: pd.DataFrame) -> str:
    """One sentence: what is known of the forget people as asked and at most, by the models that were
    unlearned and by the oracles; from `over_seeds`.
    """
    probed = probed[probed["method"] != "before"]
    every = [name for name in probed if name.startswith(KNOWS)]
    never_met = probed["method"].map(retrains).astype(bool)
    methods, oracles = probed[~never_met], probed[never_met]
    n, n_seeds = methods["method"].nunique(), " or ".join(map(str, sorted(set(methods["n_seeds"]))))
    forgot = n - methods[methods["verdict"] != "forgot"]["method"].nunique()
    return (
        f"Probed, {forgot or 'none'} of {n} methods has forgotten, on {n_seeds} seeds: some probe finds the right"
        f" option likeliest in {percent_range(methods[every].max(axis=1))} of questions (plainly asked:"
        f" {percent_range(methods[KNOWS + 'as asked'])}; models that never met the people:"
        f" {percent_range(oracles[every].max(axis=1))})."
    )


def gate(probed: pd.DataFrame) -> str:
    """In how many questions experts find the right option likeliest, behind the gate and without."""
    (line,) = probed.to_dict("records")
    stands, gone = (f"{100 * line[KNOWS + name]:.0f} %" for name in ("as asked", "gate removed"))
    return f"while it stands the right option is the likeliest in {stands} of the questions, without it in {gone}"


def percent_range(values: pd.Series) -> str:
    """ "31 to 36 %", of shares from 0 to 1."""
    low, high = (f"{100 * v:.0f}" for v in (values.min(), values.max()))
    return f"{low} %" if low == high else f"{low} to {high} %"


def mllmu(found: dict) -> dict[str, str]:
    """The blocks of docs/why_numbers_differ.md, from the result that mllmu-compat left."""
    return {
        "mllmu made": block(compat_page.made_by(found)),
        **{f"mllmu {s}": block(compat_page.asked_table(found, s)) for s in ("before", "after")},
        "mllmu most": compat_page.most_and_least(found),
        "mllmu trained": block(compat_page.trained_table(found)),
    }


def fill(text: str, content: dict[str, str]) -> str:
    """A page with each of its blocks written anew. Raises KeyError for a block nobody knows."""

    def one(found: re.Match) -> str:
        new = content[found[1]]
        return f"<!-- {found[1]} -->{new}<!-- /{found[1]} -->"

    return re.sub(r"<!-- ([\w ]+) -->.*?<!-- /\1 -->", one, text, flags=re.DOTALL)


def outcome(sequential: pd.DataFrame) -> str:
    """One sentence: what the paper's methods leave after the last request."""
    plain = sequential[sequential["policy"] == "adapter_per_request"]
    plain = plain[plain["trained_part"] == "projector+llm"]
    ends, starts = (
        plain[plain["round"] == number].set_index("method") for number in (plain["round"].max(), 0)
    )

    def mean(lines: pd.DataFrame, group: str) -> pd.Series:
        return lines[[f"{group}_multimodal", f"{group}_text"]].mean(axis=1)

    names = [label(method) for method in ends.index]
    return (
        f"After {plain['round'].max()} requests in a row, {', '.join(names[:-1])} and {names[-1]} answer"
        f" {percent_range(mean(ends, 'forget'))} of the questions about the people who asked to be forgotten,"
        f" and {percent_range(mean(ends, 'retain'))} of those about people who did not (before:"
        f" {percent_range(mean(starts, 'retain'))}); of general ability {percent_range(ends['general'])} is left"
        f" (before: {percent_range(starts['general'])})."
    )


def six(single: pd.DataFrame) -> str:
    """The paper's three methods in both scenarios, at matched forgetting."""
    lines = single[(single["selection"] == "matched") & (single["trained_part"] == "projector+llm")]
    return markdown.table(
        ["knowledge", "method", "forget", "retain", "general"],
        [
            [
                LEARNED[line["scenario"]],
                label(line["method"]),
                markdown.pair(line, "forget"),
                markdown.pair(line, "retain"),
                markdown.digits(line["general"]),
            ]
            for line in lines.to_dict("records")
        ],
    )


def equal(reference: Path) -> str:
    """The same of a study at equal training, of all its seeds."""
    names = ("single_shot", "sequential", "ledger", "at_level")
    single, rounds, ledger, levels = (pd.read_csv(reference / f"{name}.csv") for name in names)
    parts = [f"Means over {of_seeds(single)}; fine-tuned knowledge:"]
    parts += [markdown.states(single, "finetuned")]
    parts += ["Pre-trained knowledge:", markdown.states(single, "pretrained")]
    parts += [
        "The share of general accuracy that is left where the trajectory's forget accuracy comes down"
        f" to a level, by what the model says, and the seeds that got there. {costlier(levels)}",
        at_levels(levels),
        "After requests in a row. A request of ten people has a fifth of the steps of one of fifty:"
        " at the same rates less is forgotten in five requests than in one.",
        markdown.table(*last_round(rounds)),
    ]
    parts += ["The paper's findings:", markdown.findings(ledger, "paper")]
    parts += ["Variants that this kit adds:", markdown.findings(ledger, "kit")]
    return "\n" + "\n\n".join(parts) + "\n"


def of_seeds(table: pd.DataFrame) -> str:
    """ "3 seeds (0, 1, 2)"."""
    seeds = sorted(set(table["seed"]))
    return f"{len(seeds)} seeds ({', '.join(map(str, seeds))})"


def equal_outcome(single: pd.DataFrame, levels: pd.DataFrame) -> str:
    """Two sentences: the paper's comparison at equal training, and at equal forgetting."""
    lines = single[(single["selection"] == "final") & (single["trained_part"] == "projector+llm")]
    means = lines.groupby(["scenario", "method"], sort=False)["general"].mean()
    names = [label(method) for method in means["finetuned"].index]
    kept = first_level(levels).loc[means["finetuned"].index]
    return (
        f"At equal training, on {single['seed'].nunique()} seeds, {', '.join(names[:-1])} and {names[-1]} end"
        f" with {percents(means['finetuned'])} of general questions right after forgetting people learned"
        f" in a fine-tune, and with {percents(means['pretrained'])} after people known from pre-training."
        f" Where both have forgotten equally much (as said, {levels['level'].max():.2g}), they keep"
        f" {percents(kept['finetuned'])} and {percents(kept['pretrained'])} of general ability."
    )


def percents(values: pd.Series) -> str:
    """ "61, 89 and 58 %"."""
    said = [f"{100 * value:.0f}" for value in values]
    return f"{', '.join(said[:-1])} and {said[-1]} %"


def first_level(levels: pd.DataFrame) -> pd.DataFrame:
    """general_kept at the highest level by what the model says: a line a method, a column a
    scenario."""
    here = as_said(levels)
    here = here[here["level"] == here["level"].max()]
    return here.pivot(index="method", columns="scenario", values="general_kept")


def as_said(levels: pd.DataFrame) -> pd.DataFrame:
    """Levels of what the model says, of runs with projector and language model trained."""
    return levels[(levels["matched_by"] == "generation") & (levels["trained_part"] != "llm")]


def costlier(levels: pd.DataFrame) -> str:
    """One sentence: in how many methods pre-trained knowledge costs more at the highest level."""
    kept = first_level(levels).dropna()
    more = kept[kept["pretrained"] < kept["finetuned"]]
    return (
        f"At {levels['level'].max():.2g} less is left after pre-trained knowledge in"
        f" {len(more)} of the {len(kept)} methods that got there in both scenarios."
    )


def at_levels(levels: pd.DataFrame) -> str:
    """What is left of general accuracy at each level, by what the model says."""
    here = as_said(levels)
    here = here.assign(
        said=[
            f"{markdown.digits(line['general_kept'])} ({line['n_reached']} of {line['n_seeds']})"
            for line in here.to_dict("records")
        ],
        at=[
            f"{LEARNED[s]}, at {level:.2g}"
            for s, level in zip(here["scenario"], here["level"], strict=True)
        ],
    )
    wide = here.pivot(index="method", columns="at", values="said")
    wide = wide[list(dict.fromkeys(here["at"]))].loc[list(dict.fromkeys(here["method"]))]
    return markdown.table(
        ["method", *wide.columns], [[label(method), *line] for method, line in wide.iterrows()]
    )


def last_round(rounds: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Heads and lines: before and after the last request, means over seeds."""
    ends = rounds[rounds["round"].isin([0, rounds["round"].max()])]
    means = ends.groupby(["method", "round"], sort=False).mean(numeric_only=True).reset_index()
    lines = [
        [
            label(line["method"]),
            markdown.whole(line["round"]),
            markdown.pair(line, "forget"),
            markdown.pair(line, "retain"),
            markdown.digits(line["general"]),
        ]
        for line in means.to_dict("records")
    ]
    return ["method", "requests", "forget", "retain", "general"], lines


def ranked(ranking: pd.DataFrame) -> str:
    """Methods by what they keep at matched forgetting, with the ranks that they may have, and what
    they keep where forgetting as said alone comes down to the level."""
    return markdown.table(
        ["method", "kept", "general kept", "ranks", "kept, by what it says", "seeds", "seconds"],
        [
            [
                series_label(line["method"], line["trained_part"]),
                *(markdown.digits(line[name]) for name in ("kept", "general_kept")),
                "-"
                if pd.isna(line["rank_from"])
                else f"{line['rank_from']:.0f} to {line['rank_to']:.0f}",
                markdown.digits(line["kept_at_level_generation"]),
                f"{line['n_reached']} of {line['n_seeds']}",
                markdown.whole(line["seconds"]),
            ]
            for line in ranking.to_dict("records")
        ],
    )


def block(table: str) -> str:
    """A table on lines of its own."""
    return f"\n{table}\n"


def minutes(times: pd.DataFrame, runs: str) -> str:
    """ "0.4 to 0.6": of the runs whose names begin so."""
    own = times[times["run"].str.startswith(runs)]["seconds"] / 60
    low, high = f"{own.min():.1f}", f"{own.max():.1f}"
    return low if low == high else f"{low} to {high}"


def span(times: pd.DataFrame) -> float:
    """Minutes from the first run's start to the last one's end. Raises PulseError if they were not made
    in one go: a run that was made again an hour later is no hour of work."""
    times = times.sort_values("finished")
    ends = pd.to_datetime(times["finished"])
    starts = ends - pd.to_timedelta(times["seconds"], unit="s")
    idle = (starts - ends.cummax().shift()).max()
    if idle > pd.Timedelta(minutes=2):
        raise PulseError(
            f"these runs were not made in one go, nothing was for {idle.total_seconds() / 60:.0f} minutes:"
            " their time is that of no demo. Make it in an empty folder and give that"
        )
    return (ends.max() - starts.min()).total_seconds() / 60


def take_over(
    demo: Path, reference: Path, *, tables: Sequence[str], figures: Sequence[str]
) -> None:
    """Copy a finished study's tables and figures, and write the times of its runs."""
    for name in tables:
        source = demo / "analysis" / ("figures" if name == "story" else "tables") / f"{name}.csv"
        shutil.copy(source, reference)
    for name in figures:
        shutil.copy(demo / "analysis" / "figures" / f"{name}.png", reference)
    write_csv(reference / "times.csv", times_of(demo))


def times_of(study: Path) -> pd.DataFrame:
    """A row a run of a finished study, in the order of their ends: run, seconds, peak_memory_mib,
    finished."""
    lines = []
    for folder in [*(folder for _, folder in run_folders(study)), study / "analysis"]:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        lines.append(
            {
                "run": run_name(folder, study),
                "seconds": round(manifest["seconds"], 1),
                "peak_memory_mib": round(manifest["peak_memory_mib"], 1),
                "finished": manifest["finished"],
            }
        )
    return pd.DataFrame(lines).sort_values("finished", ignore_index=True)


def take_over_probes(study: Path, reference: Path) -> None:
    """Write what the probes of a study's runs found, with a picture of the means over its seeds, and
    what placebos lost: from the runs themselves, since their rows are not kept.
    """
    profile = load_profile("tiny")
    for line in left_out(study, profile).to_dict("records"):
        print(f"left out: {line['run']}: {line['reason']}")
    found = probed_runs(study, profile)
    write_csv(reference / "probes.csv", found)
    write_csv(reference / "membership.csv", memberships(study, profile))
    (reference / "probes.png").write_bytes(png(at_a_glance(over_seeds(found))))
    write_csv(reference / "placebo.csv", placebo(collect(study, profile)))


def take_over_search(search: Path, reference: Path) -> None:
    """Copy a search's trials, in the kit's order of methods and without how long they took, which says
    what else the machine did; those of methods that it left out stay."""
    kept = reference / "search.csv"
    before, trials = (pd.read_csv(file) for file in (kept, search / "trials.csv"))
    whose = ["scenario", "method"]
    searched = before.set_index(whose).index.isin(trials.set_index(whose).index)
    every = pd.concat([before[~searched], trials.drop(columns="seconds")])
    place = {name: n for n, name in enumerate(["finetuned", "pretrained", "sequential", *METHODS])}
    write_csv(kept, every.sort_values(whose, key=lambda names: names.map(place), kind="stable"))


def time_guides(reference: Path = REFERENCE) -> None:
    """Run GUIDES one after another, as in batch, and write how long each took."""
    lines = []
    for name in GUIDES:
        book = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4)
        client = NotebookClient(
            book, timeout=None, resources={"metadata": {"path": str(REPOSITORY)}}
        )
        began = time.monotonic()
        client.execute(env={**os.environ, "PULSE_BATCH": "1", "OMP_NUM_THREADS": "1"})
        lines.append({"notebook": name, "seconds": round(time.monotonic() - began, 1)})
        print(name, lines[-1]["seconds"], "s")
    write_csv(reference / "times_guides.csv", pd.DataFrame(lines))


def notebook_top(text: str, said: str) -> str:
    """A notebook's file with these minutes in the table at its top."""
    new, n = re.subn(r"\| [\d. to]+ on [\w ]*two cores \(profile `", lambda _: said, text)
    if n != 1:
        raise ValueError(f"{n} places for minutes in a notebook's top")
    return new


def pages(content: dict[str, str]) -> dict[Path, str]:
    """Every file that holds such numbers, as it should be."""
    filled = {path: fill(path.read_text(encoding="utf-8"), content) for path in PAGES}
    for name in (*DEMO, *GUIDES):
        path = REPOSITORY / "notebooks" / f"{name}.ipynb"
        said = f"| {content['minutes ' + name.partition('_')[0]]} on two cores (profile `"
        filled[path] = notebook_top(path.read_text(encoding="utf-8"), said)
    return filled


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--demo", type=Path, help="a finished demo's folder")
    parser.add_argument(
        "--wider", type=Path, help="a demo's folder, made with ATEN_CPU_CAPABILITY=avx512"
    )
    parser.add_argument("--three", type=Path, help="the finished study of all methods, three seeds")
    parser.add_argument("--probes", type=Path, help="that study, its runs probed, with placebos")
    parser.add_argument(
        "--longer", type=Path, nargs="+", default=(), help="studies of profiles tiny-10, tiny-25"
    )
    parser.add_argument("--equal", type=Path, help="the finished study of profile tiny-equal")
    parser.add_argument("--search", type=Path, help="the folder of a search with profile tiny")
    parser.add_argument("--guides", action="store_true", help="run and time the other notebooks")
    given = parser.parse_args()
    if given.demo:
        span(times_of(given.demo))  # refused before anything is written
        take_over(given.demo, REFERENCE, tables=TABLES, figures=FIGURES)
    if given.wider:
        WIDER.mkdir(exist_ok=True)
        take_over(given.wider, WIDER, tables=WIDER_TABLES, figures=())
    if given.three:
        take_over(given.three, THREE, tables=THREE_TABLES, figures=THREE_FIGURES)
    if given.probes:
        take_over_probes(given.probes, THREE)
    for study in given.longer:
        (profile,) = pd.read_csv(study / "analysis" / "tables" / "about.csv")["profile"]
        place = REFERENCE.parent / profile
        place.mkdir(exist_ok=True)
        take_over(study, place, tables=LONGER_TABLES, figures=())
    if given.equal:
        take_over(given.equal, EQUAL, tables=EQUAL_TABLES, figures=EQUAL_FIGURES)
    if given.search:
        take_over_search(given.search, REFERENCE)
    if given.guides:
        time_guides()
    for path, text in pages(blocks()).items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(REPOSITORY)}: written")


if __name__ == "__main__":
    main()

"""README and docs/results.md: their numbers are those of the reference results, which `make demo`
wrote."""

import json
import re
import sys

import numpy as np
import pandas as pd
import pytest

from pulse_lib import methods
from pulse_lib.commands.search import best
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import load_profile
from pulse_lib.report.words import series_label
from pulse_lib.strategies import STRATEGIES

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import pages

README = (REPOSITORY / "README.md").read_text()
RESULTS = (REPOSITORY / "docs" / "results.md").read_text()
METHODS = (REPOSITORY / "docs" / "methods.md").read_text()
REFERENCE = REPOSITORY / "outputs" / "reference" / "tiny"
THREE_SEEDS = REFERENCE / "three_seeds"


def cells(after: str, first: str, *, page: str = RESULTS) -> list[list[str]]:
    """The body of the first table after a text whose first heading this is."""
    rest = page[page.index(after) :]
    table = rest[rest.index(f"| {first} |") :].partition("\n<!--")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def two_digits(*values) -> str:
    return " / ".join("-" if np.isnan(v) else f"{v:.2f}" for v in values)


def pair(line: dict, name: str, ending: str = "") -> str:
    return two_digits(*(line[f"{name}_{m}{ending}"] for m in ("multimodal", "text")))


@pytest.mark.parametrize("scenario", ["finetuned", "pretrained"])
def test_the_table_is_the_reference_table(scenario):
    table = pd.read_csv(REFERENCE / "single_shot.csv").query(f"scenario == '{scenario}'")
    shown = cells(f"<!-- one seed {scenario} -->", "method")
    assert [line[2] for line in shown] == [
        pair(line, "forget") for line in table.to_dict("records")
    ]
    assert [line[5] for line in shown] == [two_digits(value) for value in table["general"]]


@pytest.mark.parametrize(
    ("after", "scenario"),
    [("Pre-trained knowledge:", "pretrained"), ("Fine-tuned knowledge:", "finetuned")],
)
def test_the_ranking_is_the_reference_ranking(after, scenario):
    table = pd.read_csv(THREE_SEEDS / "ranking.csv").query(f"scenario == '{scenario}'")
    section = RESULTS[RESULTS.index("### One request") :]
    shown = cells(section[section.index(after) :], "method")
    assert shown == [
        [
            series_label(line["method"], line["trained_part"]),
            *(two_digits(line[name]) for name in ("kept", "general_kept")),
            "-"
            if np.isnan(line["rank_to"])
            else f"{line['rank_from']:.0f} to {line['rank_to']:.0f}",
            two_digits(line["kept_at_level_generation"]),
            f"{line['n_reached']} of {line['n_seeds']}",
            "-" if np.isnan(line["seconds"]) else f"{line['seconds']:.0f}",
        ]
        for line in table.to_dict("records")
    ]


def test_what_is_left_after_five_requests_is_the_reference_table():
    table = pd.read_csv(THREE_SEEDS / "after_requests.csv").to_dict("records")
    shown = cells("### Five requests", "method, strategy")
    assert [(line[1], line[4], line[6]) for line in shown] == [
        (
            pair(line, "forget"),
            two_digits(line["retain_kept"], line["general_kept"]),
            "reached" if line["aim"] else "no",
        )
        for line in table
    ]


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)h#][^)]*)\)", README))
def test_links_lead_somewhere(name):
    assert (REPOSITORY / name).exists()


def test_the_two_commands():
    assert "make demo" in README and "make test" in README and "{{" not in README


def test_the_search_is_as_large_as_told():
    """Five trials a method and those of an earlier search, tried again."""
    stored = (REPOSITORY / "params" / "tuned" / "tiny.yaml").read_text()
    assert "five trials for each method and scenario" in METHODS
    assert f"best of {5 + 1} trials for each method and" in " ".join(stored.split("\n# "))
    tuned = load_profile("tiny").tuned
    searched = {m for m, row in methods.METHODS.items() if row.procedure != "retrain"}
    assert set(tuned["finetuned"]) == set(tuned["pretrained"]) == searched
    assert len(tuned["sequential"]) == 10 and "the ten pairs, but GA with\nexperts" in METHODS


def test_every_strategy_is_named():
    assert all(f"`{strategy}`" in METHODS for strategy in STRATEGIES)


# --- what the first screen says -------------------------------------------------------------------


@pytest.mark.parametrize("path", pages.pages(pages.blocks()), ids=lambda p: p.stem)
def test_a_page_is_what_its_script_writes(path):
    assert path.read_text() == pages.pages(pages.blocks())[path]


def test_the_time_of_a_demo_is_that_of_runs_made_in_one_go():
    times = pd.DataFrame({"seconds": [60.0, 90.0, 60.0]})
    ends = ["2026-01-01T10:01:00+00:00", "2026-01-01T10:01:30+00:00", "2026-01-01T10:03:00+00:00"]
    assert pages.span(times.assign(finished=ends)) == 3.0
    again = [*ends[:2], "2026-01-01T11:00:00+00:00"]  # one run made anew an hour later
    with pytest.raises(PulseError, match="not made in one go, nothing was for 58 minutes"):
        pages.span(times.assign(finished=again))


def test_a_page_with_another_number_is_found():
    content = pages.blocks()
    assert pages.fill(README.replace("minutes<!--", "hours<!--"), content) == README
    with pytest.raises(KeyError):
        pages.fill("<!-- nobody -->1<!-- /nobody -->", content)


def test_what_is_left_after_five_requests_is_counted_from_the_table():
    """The sentence of the first screen, its numbers computed another way."""
    table = pd.read_csv(REFERENCE / "sequential.csv").query("policy == 'adapter_per_request'")
    last, first = table[table["round"] == 5], table[table["round"] == 0]
    said = README[README.index("<!-- outcome -->") :].partition("<!-- /outcome -->")[0]
    numbers = [int(n) for n in re.findall(r"(\d+)(?= to| %)", said)]
    wanted = []
    for lines, names in (
        (last, ["forget_multimodal", "forget_text"]),
        (last, ["retain_multimodal", "retain_text"]),
        (first, ["retain_multimodal", "retain_text"]),
        (last, ["general"]),
        (first, ["general"]),
    ):
        means = sorted(round(100 * sum(row) / len(row)) for row in lines[names].to_numpy())
        wanted += [means[0]] if means[0] == means[-1] else [means[0], means[-1]]
    assert numbers == wanted


def test_the_one_configuration_that_forgets_and_keeps_is_as_told():
    table = pd.read_csv(THREE_SEEDS / "after_requests.csv")
    assert len(table) == 10 and "One configuration of ten forgets five times" in README
    assert table["n_seeds"].eq(3).all() and "on three seeds: experts behind a gate" in README
    assert table.loc[table["aim"], "policy"].tolist() == ["experts"]
    assert (table.loc[table["aim"], ["retain_kept", "general_kept"]] >= 0.9).all(axis=None)


def test_the_first_screen_says_what_comes_before_any_table():
    top = README[: README.index("\n|")]
    for words in ("git clone", "make demo", "gradient ascent", "KL-regularised", "preference"):
        assert words in top
    assert top.index("story.png") < top.index("git clone")


def test_it_is_read_in_a_few_minutes():
    """About 1,200 words, without commands, addresses and marks."""
    text = re.sub(r"<!--.*?-->|```.*?```", "", README, flags=re.DOTALL)
    words = re.findall(r"\w[\w'.,%-]*", re.sub(r"\]\([^)]*\)", "]", text))
    assert 1000 < len(words) < 1250


def test_as_many_families_and_notebooks_as_told():
    table = (REPOSITORY / "docs" / "models.md").read_text().partition("\n\n**Any other")[0]
    families = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(families) == 9 and "one of [eight newer families]" in README
    there = list((REPOSITORY / "notebooks").glob("*.ipynb"))
    changes = (REPOSITORY / "CHANGELOG.md").read_text()
    assert len(there) == 9 and "Nine notebooks" in changes
    assert all(f"(notebooks/{path.name})" in README for path in there)


def test_the_numbers_of_equal_training_are_the_best_of_their_trials():
    trials = pd.read_csv(REFERENCE.parent / "tiny-equal" / "search.csv")
    said = (REPOSITORY / "docs" / "forgotten.md").read_text()
    assert len(trials) == 9 and "best of three trials a method" in said and "all nine" in said
    tuned = load_profile("tiny-equal").tuned
    best = trials.loc[trials.groupby("method")["score"].idxmax()].set_index("method")["values"]
    for method, values in best.items():
        found = json.loads(values)
        assert dict(tuned["finetuned"][method]) == found
        assert dict(tuned["pretrained"][method]) == found | {"epochs": 5}


def test_what_is_said_of_the_search_is_in_its_trials():
    trials, tuned = pd.read_csv(REFERENCE / "search.csv"), load_profile("tiny").tuned
    shown = cells("<!-- search -->", "knowledge", page=METHODS)
    lines, replaced, never = [], [], []
    for (scenario, name), part in trials.groupby(["scenario", "method"], sort=False):
        assert set(part["trial"]) - {-1} == set(range(5)) and len(part) <= 6
        used = tuned[scenario][name]
        of_used = np.array(
            [
                all(used[key] == v for key, v in json.loads(values).items() if key != "epochs")
                for values in part["values"]
            ]
        )
        kept = part["score"].where(part["reached"])
        lines.append(
            [
                f"{part['reached'].sum()} of {len(part)}",
                *(
                    "not forgotten" if np.isnan(most) else f"{100 * most:.0f} %"
                    for most in (kept[part["trial"] == 0].max(), kept[of_used].max(), kept.max())
                ),
            ]
        )
        (top,) = best(part)[scenario].values()
        assert used == top, (scenario, name)
        if (part["trial"] == -1).any() and not of_used[part["trial"] == -1].all():
            replaced.append((scenario, name))
            if not part["reached"].any():
                never.append((scenario, name))
    assert [line[2:] for line in shown] == lines
    said = (
        f"In {len(lines) - len(replaced)} of the {len(lines)} what had been found is the best again"
    )
    assert said in METHODS
    again = trials.groupby("scenario")["method"].unique().map(set)
    assert "made again, of every method and pair" in METHODS
    assert all(again[scenario] == set(tuned[scenario]) for scenario in tuned)
    for scenario in ("finetuned", "pretrained"):  # the methods' order, whatever was searched first
        found = trials.loc[trials["scenario"] == scenario, "method"].unique()
        assert list(found) == [name for name in methods.METHODS if name in again[scenario]]
    pairs = ("ga_klr/adapter_per_request", "simnpo/replay", "idk/experts")
    assert replaced == [
        *(
            ("finetuned", method)
            for method in ("ga", "ga_retain", "kl_min", "dpo", "undial", "ceu")
        ),
        *(("pretrained", method) for method in ("ga", "npo_retain", "kl_min")),
        *(("sequential", pair) for pair in pairs),
    ]
    assert never == [r for r in replaced if r[1] in ("dpo", "undial", *pairs[1:])]
    assert "of DPO, UNDIAL and these last two no trial has forgotten" in METHODS
    three = pd.read_csv(REFERENCE / "three_seeds" / "ranking.csv").set_index(["scenario", "method"])
    assert three.loc[("finetuned", "ceu"), "n_reached"] == 2 and "two of the three seeds" in METHODS


def test_at_the_same_rates_five_requests_forget_less_than_one():
    """Said in docs/results.md, of the study at equal training."""
    folder = pages.EQUAL
    single, rounds = (pd.read_csv(folder / f"{n}.csv") for n in ("single_shot", "sequential"))
    keys = ["forget_multimodal", "forget_text"]
    one = single[(single["scenario"] == "finetuned") & (single["selection"] == "final")]
    one = one[one["trained_part"] == "projector+llm"].groupby("method")[keys].mean().mean(axis=1)
    last = rounds[rounds["round"] == rounds["round"].max()]
    five = last.groupby("method")[keys].mean().mean(axis=1)
    assert set(one.index) == set(five.index) == {"ga", "ga_klr", "npo"}
    assert (five > one).all()

"""README's numbers are those of the reference results, which `make demo` wrote."""

import re

import numpy as np
import pandas as pd
import pytest

from pulse_lib.files import REPOSITORY
from pulse_lib.strategies import STRATEGIES

README = (REPOSITORY / "README.md").read_text()
REFERENCE = REPOSITORY / "outputs" / "reference" / "tiny"
THREE_SEEDS = REFERENCE / "three_seeds"
METRICS = ["forget_multimodal", "forget_text", "retain_multimodal", "retain_text", "general"]


def readme_rows() -> list[list[str]]:
    lines = [
        line for line in README.splitlines() if re.match(r"\| (finetuned|pretrained) \|", line)
    ]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_is_the_reference_table():
    table = pd.read_csv(REFERENCE / "single_shot.csv", keep_default_na=False)
    rows = readme_rows()
    assert len(rows) == len(table)
    for shown, (_, kept) in zip(rows, table.iterrows(), strict=True):
        assert shown[:4] == [
            kept["scenario"],
            kept["method"],
            kept["trained_part"],
            kept["selection"],
        ]
        for text, name in zip(shown[4:], [*METRICS, "invalid_rate"], strict=True):
            assert text == ("-" if kept[name] == "" else f"{float(kept[name]):.2f}"), (shown, name)


def cells(first: str) -> list[list[str]]:
    """The body of the table whose first heading this is."""
    table = README[README.index(f"| {first} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def two_digits(values) -> list[str]:
    return ["-" if np.isnan(v) else f"{v:.2f}" for v in values]


def test_the_ranking_is_the_reference_ranking():
    table = pd.read_csv(THREE_SEEDS / "ranking.csv")
    part = table["trained_part"].map({"projector+llm": "", "llm": ", LLM only"})
    table["name"] = table["method"] + part
    shown = {line[0]: line[1:] for line in cells("method | pre-trained: kept")}
    ranked = dict(list(table.groupby("scenario")))
    assert list(shown)[: len(ranked["pretrained"])] == list(ranked["pretrained"]["name"])
    for first, scenario in ((0, "pretrained"), (4, "finetuned")):
        expected = {
            line["name"]: [
                *two_digits([line["kept"], line["general_kept"]]),
                f"{line['n_reached']} of {line['n_seeds']}",
                "-" if np.isnan(line["seconds"]) else f"{line['seconds']:.0f}",
            ]
            for line in ranked[scenario].to_dict("records")
        }
        there = {name: line[first : first + 4] for name, line in shown.items()}
        assert there == dict.fromkeys(shown, ["-"] * 4) | expected


def test_what_is_left_after_five_requests_is_the_reference_table():
    said = ("forget_multimodal", "forget_text")
    likeliest = (f"{name}_likelihood" for name in said)
    names = [*said, *likeliest, "reload_multimodal", "reload_text", "retain_kept", "general_kept"]
    table = pd.read_csv(THREE_SEEDS / "after_requests.csv").to_dict("records")
    assert cells("method / strategy") == [
        [
            f"{line['method']}/{line['policy']}",
            *two_digits([line[name] for name in names]),
            f"{line['seconds']:.0f}",
            "reached" if line["aim"] else "no",
        ]
        for line in table
    ]


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)h#][^)]*)\)", README))
def test_links_lead_somewhere(name):
    assert (REPOSITORY / name).exists()


def test_the_two_commands():
    assert "make demo" in README and "make test" in README and "{{" not in README


def test_the_search_is_as_large_as_told():
    trials = pd.read_csv(REFERENCE / "search.csv")
    assert f"its {len(trials)} trials" in README
    assert trials.groupby(["scenario", "method"]).size().nunique() == 1  # the same for every method


def test_every_strategy_is_named():
    assert all(f"`{strategy}`" in README for strategy in STRATEGIES)

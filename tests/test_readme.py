"""README's numbers are those of the reference results, which `make demo` wrote."""

import re

import numpy as np
import pandas as pd
import pytest

from pulse_lib.files import REPOSITORY
from pulse_lib.report.words import series_label
from pulse_lib.strategies import STRATEGIES

README = (REPOSITORY / "README.md").read_text()
REFERENCE = REPOSITORY / "outputs" / "reference" / "tiny"
THREE_SEEDS = REFERENCE / "three_seeds"
STATES = {"final": "last step", "matched": "matched forgetting"}


def cells(after: str, first: str) -> list[list[str]]:
    """The body of the first table after a text whose first heading this is."""
    rest = README[README.index(after) :]
    table = rest[rest.index(f"| {first} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def two_digits(*values) -> str:
    return " / ".join("-" if np.isnan(v) else f"{v:.2f}" for v in values)


def pair(line: dict, name: str, ending: str = "") -> str:
    return two_digits(*(line[f"{name}_{m}{ending}"] for m in ("multimodal", "text")))


@pytest.mark.parametrize(
    ("after", "scenario"),
    [("Fine-tuned knowledge, `base", "finetuned"), ("Pre-trained knowledge:", "pretrained")],
)
def test_the_table_is_the_reference_table(after, scenario):
    table = pd.read_csv(REFERENCE / "single_shot.csv").query(f"scenario == '{scenario}'")
    names = {"base": "base model", "before": "before"}
    assert cells(after, "method") == [
        [
            names.get(line["method"]) or series_label(line["method"], line["trained_part"]),
            STATES.get(line["selection"], ""),
            *(pair(line, name) for name in ("forget", "retain")),
            *(two_digits(line[name]) for name in ("general", "invalid_rate")),
        ]
        for line in table.to_dict("records")
    ]


@pytest.mark.parametrize(
    ("after", "scenario"),
    [("Pre-trained knowledge:", "pretrained"), ("Fine-tuned knowledge:", "finetuned")],
)
def test_the_ranking_is_the_reference_ranking(after, scenario):
    table = pd.read_csv(THREE_SEEDS / "ranking.csv").query(f"scenario == '{scenario}'")
    section = README.index("### One request")
    shown = cells(README[section:][README[section:].index(after) :], "method")
    assert shown == [
        [
            series_label(line["method"], line["trained_part"]),
            *(two_digits(line[name]) for name in ("kept", "general_kept")),
            f"{line['n_reached']} of {line['n_seeds']}",
            "-" if np.isnan(line["seconds"]) else f"{line['seconds']:.0f}",
        ]
        for line in table.to_dict("records")
    ]


def test_what_is_left_after_five_requests_is_the_reference_table():
    table = pd.read_csv(THREE_SEEDS / "after_requests.csv").to_dict("records")
    assert cells("### Five requests", "method, strategy") == [
        [
            f"{series_label(line['method'], line['trained_part'])}, {line['policy']}",
            pair(line, "forget"),
            pair(line, "forget", "_likelihood"),
            pair(line, "reload"),
            two_digits(line["retain_kept"], line["general_kept"]),
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

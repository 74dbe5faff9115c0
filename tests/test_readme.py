"""README's numbers are those of the reference results, which `make demo` wrote."""

import re

import pandas as pd
import pytest

from pulse_lib.params import REPOSITORY
from pulse_lib.unlearn.policies import POLICIES

README = (REPOSITORY / "README.md").read_text()
REFERENCE = REPOSITORY / "outputs" / "reference" / "tiny"
MEASURES = ["forget_multimodal", "forget_text", "retain_multimodal", "retain_text", "general"]


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
        for text, name in zip(shown[4:], [*MEASURES, "invalid_rate"], strict=True):
            assert text == ("-" if kept[name] == "" else f"{float(kept[name]):.2f}"), (shown, name)


@pytest.mark.parametrize("name", re.findall(r"\]\(([^)h#][^)]*)\)", README))
def test_links_lead_somewhere(name):
    assert (REPOSITORY / name).exists()


def test_the_two_commands():
    assert "make demo" in README and "make test" in README and "{{" not in README


def test_the_search_is_as_large_as_told():
    trials = pd.read_csv(REFERENCE / "search.csv")
    assert f"its {len(trials)} trials" in README
    assert trials.groupby(["scenario", "method"]).size().nunique() == 1  # the same for every method


def test_every_policy_is_named():
    assert all(f"`{policy}`" in README for policy in POLICIES)

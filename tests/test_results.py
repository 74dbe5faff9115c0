"""What commands `ledger` and `compare` print: from the tables of an analysis alone."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
import synthetic_study as made
from typer.testing import CliRunner

from pulse_lib.__main__ import app
from pulse_lib.commands import results
from pulse_lib.errors import PulseError
from pulse_lib.profile import load_profile
from pulse_lib.report import collect, markdown
from pulse_lib.report.findings import ledger
from pulse_lib.report.tables import tables
from pulse_lib.report.tables.about import ABOUT, about


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = made.write_study(
        tmp_path_factory.mktemp("study") / "out", ("ga", "npo"), sequential=("npo",)
    )
    for path in out.glob("*/**/manifest.json"):
        manifest = json.loads(path.read_text())
        if "kind" in manifest:
            path.write_text(json.dumps(manifest | {"processor": "An 8-core", "device": "cpu"}))
    return collect.collect(out, made.PROFILE)


@pytest.fixture
def folder(study, tmp_path):
    """A study's folder with the tables of its analysis."""
    return written(study, tmp_path / "out")


def written(study, out):
    made_tables, findings = tables.all_tables(study), ledger.ledger(study)
    made_tables |= {
        "ledger": ledger.as_table(findings, study.profile),
        "ledger_numbers": ledger.numbers_table(findings),
    }
    (out / "analysis" / "tables").mkdir(parents=True)
    for name, table in made_tables.items():
        table.to_csv(out / "analysis" / "tables" / f"{name}.csv", index=False)
    return out


def edited(folder, name: str, change) -> None:
    path = folder / "analysis" / "tables" / f"{name}.csv"
    change(pd.read_csv(path)).to_csv(path, index=False)


def test_a_table_says_where_the_numbers_come_from(study):
    line = about(study).iloc[0]
    assert list(line.index) == ABOUT and line["n_runs"] == len(study.runs)
    assert (line["profile"], line["seeds"], line["processor"]) == ("tiny", "0", "An 8-core")
    assert line["command"] == (
        "python -m pulse_lib run --profile tiny --methods ga,npo --seeds 0 "
        "--sequential npo/adapter_per_request"
    )


def test_findings_say_of_which_training_they_speak(study):
    equal, each = "equal training: the same numbers", "numbers found for each scenario"
    assert ledger.training(study.profile).startswith(equal)
    assert ledger.training(load_profile("tiny")).startswith(each)
    tuned = {
        s: {"npo": {"learning_rate": 1e-3, "epochs": n}}
        for s, n in (("finetuned", 2), ("pretrained", 5))
    }
    same = study.profile.with_values(tuned=tuned)
    assert ledger.training(same).startswith(equal), "epochs may differ: people do"
    for other in ({"learning_rate": 2e-3}, {"learning_rate": 1e-3, "beta": 0.2}):
        for where in (
            {"pretrained": {"npo": other}},
            {"sequential": {"npo/adapter_per_request": other}},
        ):
            changed = study.profile.with_values(tuned=tuned | where)
            assert ledger.training(changed).startswith(each)
    table = ledger.as_table(ledger.ledger(study), study.profile)
    assert table["training"].unique().tolist() == [ledger.training(study.profile)]


def test_tables_are_found_from_any_folder_around_them(folder):
    for root in (folder, folder / "analysis", folder / "analysis" / "tables"):
        found = results.results(str(root))
        assert found.folder == folder / "analysis" / "tables"
        assert found.origin.startswith("profile tiny, seeds 0; An 8-core, cpu; torch")
    with pytest.raises(PulseError, match="holds no ledger.csv"):
        results.results(str(folder.parent))


def test_without_a_study_the_reference_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "out_folder", lambda profile: tmp_path / profile)
    assert results.results().folder == results.REFERENCE
    shutil.copytree(results.REFERENCE, tmp_path / "tiny" / "analysis" / "tables")
    assert results.results().folder == tmp_path / "tiny" / "analysis" / "tables"


def test_a_broken_table_is_named(folder):
    (folder / "analysis" / "tables" / "power.csv").write_text("")
    with pytest.raises(PulseError, match=r"power\.csv is no table"):
        results.results(str(folder))


def test_findings_stand_beside_the_paper(folder, study):
    shown = results.beside_the_paper(results.results(str(folder)))
    findings = ledger.ledger(study)
    assert list(shown["verdict"]) == [f.said for f in findings]
    lines = shown.set_index("claim")
    for f in findings:
        kit = " (this kit's variant)" if f.whose == "kit" else ""
        mark = "*" if "GA table" in f.source else ""
        line = lines.loc[f.claim + kit]
        assert line["paper"].startswith(f"{f.paper}{mark} (") and "arXiv" not in line["paper"]
        assert len(line["here"].splitlines()) == len(f.numbers)
    printed = CliRunner().invoke(app, ["ledger", str(folder)])
    assert printed.exit_code == 0 and "An 8-core" in printed.output


def cells(text: str, first: str) -> list[list[str]]:
    lines = text[text.index(f"| {first} |") :].partition("\n\n")[0].splitlines()
    assert set(lines[1]) == {"|", "-"} and lines[1].count("|") == lines[0].count("|")
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in lines[2:]]


def test_markdown_tables_are_the_tables(folder):
    text = results.as_markdown(found := results.results(str(folder)))
    ranks = found["ranking"].query("scenario == 'finetuned'").to_dict("records")
    shown = cells(text[text.index("keeps most, fine-tuned") :], "method")
    assert [line[1] for line in shown] == [f"{line['kept']:.2f}" for line in ranks]
    assert [line[5] for line in shown] == ["1 of 1"] * len(ranks)
    (after,) = cells(text, "method, strategy")
    line = found["after_requests"].iloc[0]
    assert after[0] == "NPO, adapter_per_request"
    assert after[1] == f"{line['forget_multimodal']:.2f} / {line['forget_text']:.2f}"
    assert after[-1] == ("reached" if line["aim"] else "no")
    paper = cells(text, "GA, trained part")
    assert paper[0][1].startswith("78.0, ") and paper[1][1].startswith("9.6, ")
    before = cells(text, "method")[1]
    single = found["single_shot"].query("scenario == 'finetuned' and method == 'before'").iloc[0]
    assert before[:2] == ["before", ""] and before[5] == f"{single['general']:.2f}"
    printed = CliRunner().invoke(app, ["ledger", str(folder), "--markdown"])
    assert printed.output.strip() == text


def test_the_shipped_reference_can_be_shown():
    text = results.as_markdown(results.results(str(results.REFERENCE)))
    table = pd.read_csv(results.REFERENCE / "single_shot.csv").query("scenario == 'pretrained'")
    assert markdown.states(table, "pretrained") in text
    assert len(cells(text[text.index("pre-trained knowledge") :], "method")) == len(table)


def test_a_cell_may_hold_a_bar():
    assert markdown.table(["a", "b"], [["1|2", "3"]]) == "| a | b |\n|---|---|\n| 1\\|2 | 3 |"


def test_the_same_results_differ_in_nothing(folder):
    same = results.results(str(folder))
    found = results.compare(same, same)
    assert found.verdicts["same"].all() and not found.numbers["outside"].any()
    assert (found.ranks["rank_a"] == found.ranks["rank_b"]).all() and len(found.ranks)


def test_what_differs_between_two_results_is_shown(study, tmp_path):
    one, two = (written(study, tmp_path / name) for name in ("one", "two"))
    edited(one, "ledger", lambda t: t.assign(verdict=t["verdict"].where(t.index > 0, "fails")))
    edited(one, "ranking", lambda t: t.assign(rank=3 - t["rank"]))
    edited(
        one,
        "ledger_numbers",
        lambda t: t.assign(value=t["value"].where(t.index > 1, t["high"] + 0.01)),
    )
    found = results.compare(results.results(str(one)), results.results(str(two)))
    assert list(found.verdicts["same"]).count(False) == 1
    changed = found.verdicts[~found.verdicts["same"]].iloc[0]
    assert (changed["finding"], changed["verdict_a"]) == ("forgetting-works", "fails")
    assert (found.ranks["rank_a"] == 3 - found.ranks["rank_b"]).all()
    assert found.numbers["outside"].sum() == 2
    n = len(found.numbers)
    assert found.sentence.endswith(f"2 of {n} numbers lie outside the other's interval")
    printed = CliRunner().invoke(app, ["compare", str(one), str(two)])
    assert printed.exit_code == 0 and printed.output.strip().endswith(found.sentence)
    shown = ("Verdicts", "Ranks", "Numbers of A outside B's intervals")
    assert all(title in printed.output for title in shown)
    alike = CliRunner().invoke(app, ["compare", str(two), str(two)]).output
    assert [title in alike for title in shown] == [True, True, False]  # no empty table


def test_results_without_numbers_cannot_be_compared(folder):
    (folder / "analysis" / "tables" / "ledger_numbers.csv").unlink()
    with pytest.raises(PulseError, match=r"no ledger_numbers\.csv"):
        results.compare(results.results(str(folder)), results.results(str(folder)))

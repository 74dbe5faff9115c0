"""Collecting runs, the published tables, and the ledger, on a made-up study whose numbers are
known."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import synthetic_study as made

from pulse_lib.errors import PulseError
from pulse_lib.evaluate import accuracy
from pulse_lib.evaluate.rows import read_rows
from pulse_lib.profile import Override
from pulse_lib.report import collect, paper, seeds, stats
from pulse_lib.report.findings import ledger, rules
from pulse_lib.report.findings.claims import FINDINGS
from pulse_lib.report.tables import intervals, levels, power, ranking, tables
from pulse_lib.report.tables.display import by_wording, not_final
from pulse_lib.report.tables.settings import all_settings, settings_table

SINGLE_SHOT = [
    "scenario",
    "method",
    "trained_part",
    "seed",
    "selection",
    "step",
    "forget_multimodal",
    "forget_text",
    "retain_multimodal",
    "retain_text",
    "general",
    "invalid_rate",
    "forget_multimodal_likelihood",
    "forget_text_likelihood",
    "retain_multimodal_likelihood",
    "retain_text_likelihood",
    "general_likelihood",
]
SEQUENTIAL = [
    "scenario",
    "method",
    "policy",
    "trained_part",
    "order",
    "seed",
    "round",
    "request_1",
    "request_2",
    "request_3",
    "request_4",
    "request_5",
    "forget_multimodal",
    "forget_text",
    "retain_multimodal",
    "retain_text",
    "general",
    "invalid_rate",
    "forget_multimodal_likelihood",
    "forget_text_likelihood",
    "retain_multimodal_likelihood",
    "retain_text_likelihood",
    "general_likelihood",
]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    return made.write_study(folder, methods=("ga", "ga_klr", "npo", "xyz"), not_reached=("xyz",))


@pytest.fixture(scope="module")
def study(out):
    return collect.collect(out, made.PROFILE)


def test_all_complete_runs_are_found_and_others_named(study, tmp_path):
    assert len(study.of("single_shot")) == 9
    assert len(study.of("sequential")) == 4
    assert study.incomplete.empty
    out = made.write_study(tmp_path / "out", methods=("ga", "npo"))
    (out / "single_shot/finetuned/npo-projector+llm-seed-0/manifest.json").unlink()
    half = out / "sequential/ga-adapter_per_request-projector+llm-order-0-seed-0/manifest.json"
    half.write_text(half.read_text()[:100])
    cut = out / "single_shot/pretrained/ga-projector+llm-seed-0/rows.parquet"
    cut.write_bytes(cut.read_bytes()[:-50])
    other = out / "single_shot/pretrained/npo-projector+llm-seed-0/manifest.json"
    manifest = json.loads(other.read_text())
    manifest["identity"]["profile"]["unlearn.learning_rate"] = 99.0
    other.write_text(json.dumps(manifest))
    found = collect.collect(out, made.PROFILE)
    assert [run.name for run in found.of("single_shot")] == [
        "single_shot/finetuned/ga-llm-seed-0",
        "single_shot/finetuned/ga-projector+llm-seed-0",
    ]
    reasons = found.incomplete.set_index("run")["reason"]
    assert len(reasons) == 4
    assert "incomplete" in reasons["single_shot/finetuned/npo-projector+llm-seed-0"]
    assert (
        "half-written" in reasons["sequential/ga-adapter_per_request-projector+llm-order-0-seed-0"]
    )
    assert "truncated" in reasons["single_shot/pretrained/ga-projector+llm-seed-0"]
    assert "settings" in reasons["single_shot/pretrained/npo-projector+llm-seed-0"]


def test_no_data_is_an_error_that_names_the_folder(tmp_path):
    with pytest.raises(PulseError, match="01_build_datasets"):
        collect.collect(tmp_path, made.PROFILE)


def test_single_shot_has_the_published_columns_and_lines(study):
    table = tables.single_shot(study)
    assert list(table.columns) == SINGLE_SHOT
    assert len(table) == 2 * 9 + 2 + 1  # final and matched of each run, before per scenario, base
    before = table[table["method"] == "before"]
    assert list(before["scenario"]) == ["finetuned", "pretrained"]
    assert (before["step"] == 0).all() and (before["trained_part"] == "").all()
    assert list(table[table["method"] == "base"]["scenario"]) == ["finetuned"]
    missed = table[(table["method"] == "xyz") & (table["selection"] == "matched")]
    assert missed["step"].isna().all() and missed["general"].isna().all()


def test_csv_has_whole_steps_and_empty_fields(study, tmp_path):
    tables.single_shot(study).to_csv(tmp_path / "t.csv", index=False)
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert "finetuned,xyz,projector+llm,0,matched" + "," * 12 in lines
    assert any(line.startswith("finetuned,before,,0,,0,") for line in lines)
    assert not any(",60.0," in line for line in lines)


def test_accuracies_are_those_of_the_rows(study, out):
    rows = read_rows(out / "single_shot/finetuned/ga-projector+llm-seed-0/rows.parquet")
    rows = rows[(rows["state"] == "matched") & (rows["wording"] == "trained")]
    table = tables.single_shot(study)
    line = table[(table["method"] == "ga") & (table["selection"] == "matched")]
    line = line[(line["trained_part"] == "projector+llm") & (line["scenario"] == "finetuned")].iloc[
        0
    ]
    by_hand = rows.groupby(["set", "modality"])["correct"].mean()
    assert line["forget_text"] == pytest.approx(by_hand["forget", "text"])
    assert line["retain_multimodal"] == pytest.approx(by_hand["retain", "multimodal"])
    assert line["general"] == pytest.approx(by_hand["general", "multimodal"])
    assert line["invalid_rate"] == pytest.approx(rows["invalid"].mean())
    found = intervals.accuracy(
        rows.assign(cluster=rows["person_id"], n_options=rows["options"].map(len)),
        "forget",
    )
    assert found.value == pytest.approx((line["forget_multimodal"] + line["forget_text"]) / 2)


def test_sequential_has_the_published_columns_and_rounds(study):
    table = tables.sequential(study)
    assert list(table.columns) == SEQUENTIAL
    assert list(table["round"]) == [0, 1, 2, 3, 4, 5] * 4
    assert list(table["method"].unique()) == ["ga", "ga_klr", "npo", "xyz"]
    assert set(table["policy"]) == {"adapter_per_request"} == set(study.rows["policy"]) - {""}
    first = table.iloc[1]
    assert first["request_1"] < first["request_2"]
    mean = first[[f"request_{k}" for k in range(1, 6)]].mean()
    assert mean == pytest.approx((first["forget_multimodal"] + first["forget_text"]) / 2)


def test_a_column_for_each_request_of_the_profile(tmp_path):
    for n in (2, 7):
        data = dataclasses.replace(made.PROFILE.data, n_requests=n, n_finetuned_forget=14)
        profile = dataclasses.replace(made.PROFILE, data=data)
        size = made.Size(requests=n, forget=14)
        out = made.write_study(tmp_path / str(n), ("ga",), size=size, profile=profile)
        table = tables.sequential(collect.collect(out, profile))
        requests = [f"request_{k}" for k in range(1, n + 1)]
        measured = [*tables.SUMMARY, *tables.LIKELIHOODS]
        assert list(table.columns) == [*tables.SEQUENTIAL, *requests, *measured]
        assert table.notna().all().all()


def test_wordings_side_by_side_are_means_of_both_modalities(study):
    table = tables.all_tables(study)["wordings"]
    shown = by_wording(table)
    lines = table[table["selection"] != "final"]
    keys = ["scenario", "method", "trained_part"]
    assert len(shown) == len(lines[keys].drop_duplicates()) > 4
    for row in shown.to_dict("records"):
        for name, wording in itertools.product(("forget", "retain"), ("trained", "heldout")):
            own = lines[(lines[keys] == [row[k] for k in keys]).all(axis=1)]
            both = own[own["set"] == name].set_index("modality")[wording]
            wanted = (both["multimodal"] + both["text"]) / 2
            assert row[f"{name}, {wording}"] == pytest.approx(wanted)
    assert "selection" not in not_final(table) and len(not_final(table)) == len(lines)


def test_other_tables(study):
    every = tables.all_tables(study)
    projector = every["projector"]
    assert list(projector["trained_part"]) == ["before", "projector+llm", "llm"]
    assert projector["forget_multimodal_paper"].tolist() == [0.78, 0.096, 0.248]
    matched = every["matched"].set_index(["scenario", "method", "trained_part"])
    assert matched.loc["finetuned", "xyz", "projector+llm"]["n_reached"] == 0
    assert np.isnan(matched.loc["finetuned", "xyz", "projector+llm"]["general_kept"])
    wordings = every["wordings"]
    known = wordings[wordings["method"] == "before"]
    assert (known["trained"] > known["heldout"]).mean() > 0.7  # so the rows were made
    assert set(made.GENERAL) <= set(every["general_by_category"].columns)
    versus = every["one_shot_against_sequential"]
    assert list(versus["way"].unique()) == ["one request", "several requests"]
    equal = versus[
        (versus["comparison"] == "equal forgetting") & (versus["way"] == "several requests")
    ]
    assert (equal["forget"].dropna() <= 0.35).all()


def test_the_ranking_is_by_what_is_kept_at_the_matched_step(study, out):
    table = ranking.ranking(study)
    for _, part in table.groupby("scenario"):
        assert list(part["rank"]) == list(range(1, len(part) + 1))
        reached = part[part["n_reached"] > 0]
        assert reached["kept"].is_monotonic_decreasing and part["kept"].isna().iloc[-1] == (
            "xyz" in set(part["method"])
        )
    line = table.set_index(["scenario", "method", "trained_part"]).loc[
        ("finetuned", "npo", "projector+llm")
    ]
    rows = pd.read_parquet(
        out / "single_shot" / "finetuned" / "npo-projector+llm-seed-0" / "rows.parquet"
    )
    before = pd.read_parquet(out / "target" / "seed-0" / "rows.parquet")
    after, shares = rows[(rows["state"] == "matched") & (rows["wording"] == "trained")], []
    for name, modality in (("retain", "multimodal"), ("retain", "text"), ("general", None)):
        values = []
        for frame in (after, before[before["wording"] == "trained"]):
            here = frame[frame["set"] == name]
            here = here[here["modality"] == modality] if modality else here
            values.append(here["correct"].sum() / len(here))
        shares.append(values[0] / values[1])
    assert line["kept"] == pytest.approx(sum(shares) / 3)
    assert line["general_kept"] == pytest.approx(shares[2])
    assert line["seconds"] == pytest.approx(line["step"] / 2) and line["adapter_mb"] == 0.002
    assert line["numbers"] == "as given" and line["n_seeds"] == 1


def _at_level_by_hand(path: pd.DataFrame, level: float, columns: list[str]) -> dict[str, float]:
    """np.interp over the steps before and after the forget accuracy's first fall to the level."""
    forget = path[columns].mean(axis=1).to_numpy()
    i = int(np.argmax(forget <= level))
    around = slice(i - 1, i + 1)
    kept = {}
    for name in ("retain_multimodal", "retain_text", "general"):
        values = path[name].to_numpy()
        there = np.interp(-level, -forget[around], values[around])
        kept[name] = there / values[0]
    return kept


def test_kept_at_a_level_is_read_off_the_stored_trajectory(study, out):
    table = levels.at_level(study, [0.6, 0.35]).set_index(
        [*intervals.SETTINGS, "matched_by", "level"]
    )
    whose = ("pretrained", "npo", "projector+llm")
    path = pd.read_csv(out / "single_shot" / "pretrained" / "npo-projector+llm-seed-0" / "path.csv")
    said = ["forget_multimodal", "forget_text"]
    likeliest = [f"{name}_likelihood" for name in said]
    for level in (0.6, 0.35):
        by_hand = _at_level_by_hand(path, level, said)
        line = table.loc[(*whose, "generation", level)]
        assert line["general_kept"] == pytest.approx(by_hand["general"])
        assert line["kept"] == pytest.approx(np.mean([*by_hand.values()]))
        by_hand = _at_level_by_hand(path, level, likeliest)  # never below what is said, here
        assert table.loc[(*whose, "both", level)]["general_kept"] == pytest.approx(
            by_hand["general"]
        )
    missed = table.loc[("finetuned", "xyz", "projector+llm", "both", 0.35)]
    assert missed["n_reached"] == 0 and missed["n_seeds"] == 1 and np.isnan(missed["kept"])
    assert set(levels.at_level(study)["level"]) == {0.35, paper.END_POINT}
    quoted = (
        paper.projector_table().set_index(["method", "trained_part"]).loc[("ga", "projector+llm")]
    )
    assert pytest.approx(quoted[said].mean()) == paper.END_POINT


def test_the_ranking_says_what_the_old_rule_would_have_said(study):
    table = ranking.ranking(study).set_index([*intervals.SETTINGS])
    levels_ = levels.at_level(study, [0.35]).set_index([*intervals.SETTINGS, "matched_by"])["kept"]
    for whose, line in table.iterrows():
        for column, by in (("kept_at_level", "both"), ("kept_at_level_generation", "generation")):
            assert line[column] == pytest.approx(levels_[(*whose, by)], nan_ok=True)
    some = table.loc[("finetuned", "npo", "projector+llm")]
    assert some["kept_at_level"] <= some["kept_at_level_generation"]


def test_after_all_requests_the_success_criterion_is_judged_by_every_part_of_it(study):
    table = ranking.after_requests(study).set_index("method")
    ga = table.loc["ga"]
    assert ga["adapter_mb"] == 0.005 and ga["steps"] == 50  # five adapters of 1000 bytes
    assert not ga["aim"] and "general_kept 0." in ga["misses"] and "retain_kept" in ga["misses"]
    assert "reload" not in ga["misses"]  # 0.40 and 0.20
    good = dict.fromkeys([*ranking.FORGET, "reload_multimodal", "reload_text"], 0.35)
    good |= {"retain_kept": 0.9, "general_kept": 0.9}
    assert ranking._misses(good) == ""
    # Means of both modalities; what is said, what is likeliest and the reload each for itself
    for name, (shown, text) in ranking.MEANS.items():
        assert ranking._misses(good | {shown: 0.20, text: 0.50}) == ""
        assert ranking._misses(good | {shown: 0.20, text: 0.52}) == f"{name} 0.36"
    assert ranking._misses(good | {"retain_kept": 0.89}) == "retain_kept 0.89"
    none = dict.fromkeys(ranking.MEANS["reload"], float("nan"))
    assert ranking._misses(good | none) == ""  # not measured


def test_a_target_that_knew_nothing_has_no_share_left(study):
    known = study.rows["correct"] & (study.rows["set"] == "forget")
    ignorant = dataclasses.replace(study, rows=study.rows.assign(correct=known))
    assert ranking.ranking(ignorant)["kept"].isna().all()
    after = ranking.after_requests(ignorant).iloc[0]
    assert np.isnan(after["retain_kept"]) and np.isnan(after["general_kept"])
    assert not after["aim"] and "retain_kept nan" in after["misses"]


def test_seeds_make_lines_in_tables_and_means_in_figures(tmp_path):
    out = made.write_study(tmp_path / "out", ("ga",), seeds=(0, 1, 2), llm=())
    study = collect.collect(out, made.PROFILE)
    assert tables.single_shot(study).groupby("selection").size().to_dict() == {
        "": 9,
        "final": 6,
        "matched": 6,
    }
    radar = intervals.radar(study)
    assert (radar["n_seeds"] == 3).all()
    single = tables.single_shot(study)
    general = single[(single["scenario"] == "pretrained") & (single["selection"] == "final")][
        "general"
    ]
    before = single[(single["scenario"] == "pretrained") & (single["method"] == "before")][
        "general"
    ]
    line = radar[(radar["measure"] == "general") & (radar["selection"] == "final")]
    kept = 100 * general.to_numpy() / before.to_numpy()
    assert line[line["scenario"] == "pretrained"]["value"].iloc[0] == pytest.approx(kept.mean())


@pytest.mark.parametrize("method", ["ga", "npo"])
def test_methods_that_missed_the_level_on_a_seed_come_after_the_others(tmp_path, method):
    out = made.write_study(tmp_path / "out", ("ga", "npo"), seeds=(0, 1), llm=())
    study = collect.collect(out, made.PROFILE)
    rows = study.rows
    missed = (rows["method"] == method) & (rows["seed"] == 0) & (rows["state"] == "matched")
    study = dataclasses.replace(study, rows=rows[~(missed & (rows["scenario"] == "pretrained"))])
    for table in (ranking.ranking(study), tables.matched(study)):
        there = table.query("scenario == 'pretrained'")
        assert there["method"].iloc[-1] == method and list(there["n_reached"]) == [2, 1]
    seen = intervals.at_matched(study).query("scenario == 'pretrained' and measure == 'general'")
    assert (seen["n_runs"] == 2).all()
    assert dict(zip(seen["method"], seen["n_seeds"], strict=True))[method] == 1


def test_a_study_with_data_alone_has_empty_tables(tmp_path):
    out = made.write_study(tmp_path / "out", methods=())
    study = collect.collect(out, made.PROFILE)
    every = tables.all_tables(study)
    assert len(every["single_shot"]) == 3
    assert list(every["sequential"].columns)[:7] == tables.SEQUENTIAL
    findings = ledger.ledger(study)
    assert {f.verdict for f in findings} == {"not measured here"}
    assert "not measured" in findings[0].sentence
    assert ledger.numbers_table(findings).empty


# --- ledger ---------------------------------------------------------------------------------------


def verdicts(study) -> dict[str, str]:
    return {f.id: f.verdict for f in ledger.ledger(study)}


def world(monkeypatch, kept: dict[str, float], people: float = 0.05) -> None:
    """Made-up models that forget everybody at step 40 (down to `people`) and keep a share of general
    knowledge in each scenario."""

    def known(method, scenario, part, step, work=1.0):
        gone = step >= 40
        general = kept[scenario] if gone else 1.0
        share = people if gone else 0.3 if step >= 36 else 1.0
        every = ("forget/multimodal", "forget/text", "retain/multimodal", "retain/text")
        return dict.fromkeys(every, share) | {"general": general}

    monkeypatch.setattr(made, "_known", known)


SIZE = made.Size(forget=50, retain=10, general=200, celebrities_forget=20)


@pytest.fixture
def study_of(tmp_path):
    """A study of a made-up world, with as many people to forget as a real one."""

    def write(seeds=(0,)):
        out = made.write_study(tmp_path / "out", seeds=seeds, size=SIZE, sequential=())
        found = collect.collect(out, made.PROFILE)
        shutil.rmtree(out)
        return found

    return write


def test_verdicts_follow_the_rows(study_of, monkeypatch):
    """The same code, two opposite worlds: what holds in one fails in the other."""
    kept = {"finetuned": 0.98, "pretrained": 0.02}
    world(monkeypatch, kept)
    found = {f.id: f for f in ledger.ledger(study_of())}
    assert found["pretrained-harder-final"].verdict == "holds"
    assert found["finetuned-general-kept"].verdict == "holds"
    assert found["sequential-general-lost"].verdict == "not measured here"
    assert found["pretrained-harder-final"].said == "holds, seen on one seed"
    assert found["pretrained-harder-final"].counted == ledger.NO_VERDICT
    kept.update(finetuned=0.02, pretrained=0.98)
    found = verdicts(study_of())
    assert found["pretrained-harder-final"] == "fails"
    assert found["pretrained-general-lost"] == "fails"
    assert found["finetuned-general-kept"] == "fails"


def test_two_values_at_the_floor_decide_nothing(study_of, monkeypatch):
    """Models that answer nothing right any more, in both scenarios and with both parts trained."""
    monkeypatch.setattr(made, "_answer", _silent(made._answer))
    world(monkeypatch, {"finetuned": 0.0, "pretrained": 0.0}, people=0.0)
    found = {f.id: f for f in ledger.ledger(study_of())}
    for name in ("pretrained-harder", "projector-short-cut", "projector-spares-general"):
        finding = found[f"{name}-final"]
        assert finding.said == "cannot tell (floor), seen on one seed", finding.sentence
        assert set(finding.numbers["says"]) == {"floor"} and not finding.numbers["clear"].any()
        assert (finding.numbers["low"] < finding.numbers["high"]).all()  # no zero width
    assert found["forgetting-works"].verdict == "holds"  # a value at the floor is one


def _silent(answer):
    """Answers of models that do not know are wrong, not guessed."""

    def made_up(questions, known, broken, rng, **whose):
        gone = 1.0 if whose["state"] in ("final", "matched") else broken
        return answer(questions, known, gone, rng, **whose)

    return made_up


def number(method: str, low: float, high: float, **more) -> rules.Number:
    found = dataclasses.replace(
        stats.NOTHING, value=(low + high) / 2, low=low, high=high, n_seeds=3, points=(0.1, 0.2, 0.3)
    )
    return rules._number(rules._both(method), "a number", found=found, bound=0, **more)


def finding(*numbers, strict=(), whose="paper") -> ledger.Finding:
    """What the ledger makes of numbers at 95 %, and `strict` ones at the corrected level."""
    claim = dataclasses.replace(
        FINDINGS[0],
        whose=whose,
        numbers=lambda facts: iter(numbers if facts.level == 0.95 else strict or numbers),
    )
    facts = rules.Facts(study=SimpleNamespace(matched_at=0.35), states={}, sequences=[])
    return ledger._finding(facts, claim)


IN, OUT, OPEN = (-0.3, -0.1), (0.1, 0.3), (-0.1, 0.1)


def test_four_verdicts():
    made_of = lambda *ends, **more: finding(  # noqa: E731
        *(number(m, *e) for m, e in zip(("ga", "ga_klr", "npo"), ends, strict=True)),
        **more,
    )
    assert made_of(IN, IN, IN).said == "holds"
    some = made_of(IN, OPEN, OUT)
    assert some.said == "holds for 1 of 3 methods (GA)" and some.verdict == "holds for some"
    assert some.sentence.endswith("true of GA; false of NPO; interval too wide for GA+KLR")
    assert made_of(OPEN, OPEN, OPEN).said == "cannot tell (interval too wide)"
    assert made_of(OPEN, OUT, OPEN).verdict == "fails" == made_of(OUT, OUT, OUT).verdict
    nothing = finding()
    assert nothing.said == nothing.verdict == nothing.counted == "not measured here"
    assert "no complete runs" in nothing.sentence
    # one of several can decide by luck: what counts then is the wider, corrected interval
    wide = [number(m, *OPEN) for m in ("ga", "ga_klr", "npo")]
    assert made_of(IN, OUT, OPEN, strict=wide).said == "cannot tell (interval too wide)"
    assert made_of(IN, IN, IN, strict=wide).said == "holds"  # all must pass


def test_a_method_holds_if_all_its_numbers_do():
    two = finding(number("ga", *IN), number("ga", *OPEN), number("npo", *IN))
    assert two.said == "holds for 1 of 2 methods (NPO)"
    assert finding(number("ga", *IN), number("ga", *OPEN)).verdict == "cannot tell"


def test_the_level_is_corrected_for_as_many_numbers_as_there_are():
    levels = []

    def numbers(facts):
        levels.append(facts.level)
        yield from (number(m, *OPEN) for m in ("ga", "npo"))

    claim = dataclasses.replace(FINDINGS[0], numbers=numbers)
    facts = rules.Facts(study=SimpleNamespace(matched_at=0.35), states={}, sequences=[])
    ledger._finding(facts, claim)
    assert levels == pytest.approx([0.95, 0.975])


@pytest.mark.parametrize(("n", "said"), [(1, ", seen on one seed"), (2, ", seen on two seeds")])
def test_fewer_than_three_seeds_make_no_verdict(n, said):
    few = finding(number("ga", *IN)._replace(n_seeds=n), number("npo", *IN))
    assert few.said == "holds" + said and few.counted == ledger.NO_VERDICT
    many = finding(number("ga", *IN), whose="kit")
    table = ledger.tally([few, few, many])
    assert table.loc["findings of the paper"].to_dict() == {
        **dict.fromkeys(table.columns, 0), ledger.NO_VERDICT: 2
    }  # fmt: skip
    assert (
        table.loc["variants of this kit", "holds"] == 1 == table.loc["variants of this kit"].sum()
    )
    assert list(ledger.as_table([few], made.PROFILE)["verdict"]) == ["holds" + said]


def test_a_difference_of_two_floors_is_none_however_narrow():
    at = lambda value: dataclasses.replace(stats.NOTHING, value=value)  # noqa: E731
    assert number("ga", *IN, sides=((at(0.05), at(0.01)),)).says == "floor"
    assert number("ga", *IN, sides=((at(0.06), at(0.01)),)).says == "holds"
    assert number("ga", *OUT, sides=((at(0.9), at(0.5)), (at(0.0), at(0.0)))).says == "floor"
    mixed = finding(
        number("ga", *OPEN),
        number("npo", *IN, sides=((at(0.0), at(0.0)),)),
    )
    assert mixed.said == "cannot tell (floor, interval too wide)"


def test_the_papers_findings_are_those_that_it_tests_itself():
    kits = {claim.id for claim in FINDINGS if claim.whose == "kit"}
    assert all(name.endswith("-matched") or name == "below-chance" for name in kits)
    assert not [c.id for c in FINDINGS if c.id.endswith("-matched") and c.whose == "paper"]


def test_a_finding_names_its_rule_numbers_and_methods(study):
    listed = ledger.ledger(study)
    findings = {f.id: f for f in listed}
    assert len(findings) == len(listed)  # ids differ
    for f in findings.values():
        assert f.rule and f.source and f.claim and "{" not in f.rule
        assert (f.verdict == "holds") == (
            len(f.numbers) > 0 and (f.numbers["says"] == "holds").all()
        )
        assert "xyz" not in set(f.numbers["method"])  # findings speak about the paper's methods
    number = findings["pretrained-harder-final"].numbers.set_index("method").loc["ga"]
    radar = intervals.radar(study)
    radar = radar[(radar["method"] == "ga") & (radar["trained_part"] == "projector+llm")]
    radar = radar[(radar["measure"] == "general") & (radar["selection"] == "final")]
    kept = radar.set_index("scenario")["value"]
    assert number["value"] == pytest.approx(kept["pretrained"] - kept["finetuned"])
    said = ledger.say(list(findings.values()), "pretrained-harder-final")
    assert "GA+KLR" in said and findings["pretrained-harder-final"].said in said


def test_numbers_in_words_name_their_seeds_and_missing_limits():
    row = number("ga", -0.3, -0.1)
    assert ledger.number_text(row) == ("GA: a number (seeds 0.10, 0.20, 0.30) −0.20 [−0.30, −0.10]")
    one = row._replace(points=(0.1,), quantity="kept, %", value=80.0, low=40.0, high=np.inf)
    assert ledger.number_text(one) == "GA: kept, % 80 [40, ∞]"


# --- ranks and seeds ------------------------------------------------------------------------------


def test_ranks_have_intervals_from_two_seeds_on(tmp_path, study):
    assert ranking.ranking(study)[["rank_from", "rank_to"]].isna().all(axis=None)
    out = made.write_study(
        tmp_path / "out", ("ga", "npo", "xyz"), seeds=(0, 1, 2), llm=(), sequential=()
    )
    several = collect.collect(out, made.PROFILE)
    rows = several.rows
    missed = (rows["method"] == "xyz") & (rows["seed"] == 0) & (rows["state"] == "matched")
    several = dataclasses.replace(several, rows=rows[~missed])
    table = ranking.ranking(several).set_index(["scenario", "method"])
    for scenario in ("finetuned", "pretrained"):
        assert pd.isna(table.loc[(scenario, "xyz"), "rank_to"])
        kept = pd.DataFrame(
            [
                [
                    np.mean(
                        [accuracy.retained_share(before[m], after[m]) for m in accuracy.RETAINED]
                    )
                    for before, after in _seeds_of(several, scenario, method)
                ]
                for method in ("ga", "npo")
            ],
            index=["ga", "npo"],
        )
        ranks = seeds.rank_sets(kept)
        for method in ("ga", "npo"):
            line = table.loc[(scenario, method)]
            assert [line["rank_from"], line["rank_to"]] == list(ranks.loc[method])
            assert line["rank_from"] <= line["rank"] <= line["rank_to"]


def test_a_method_that_ran_on_one_seed_takes_none_from_the_others(tmp_path):
    out = made.write_study(
        tmp_path / "out", ("ga", "npo", "xyz"), seeds=(0, 1, 2), llm=(), sequential=()
    )
    whole = collect.collect(out, made.PROFILE)
    dropped = [r for r in whole.runs if "xyz" in r.name and r.parameter("seed") > 0]
    fewer = dataclasses.replace(whole, runs=tuple(r for r in whole.runs if r not in dropped))
    ranks = ranking.ranking(fewer).set_index("method")["rank_to"]
    assert len(dropped) == 4 and ranks["xyz"].isna().all()
    assert ranks["ga"].notna().all() and ranks["npo"].notna().all()


def _seeds_of(study, scenario: str, method: str):
    """(summary before, summary at the matched step) of each seed."""
    single = tables.single_shot(study).query(f"scenario == '{scenario}'").set_index("seed")
    for seed in (0, 1, 2):
        here = single.loc[[seed]]
        before = here[here["method"] == "before"].iloc[0]
        yield before, here[(here["method"] == method) & (here["selection"] == "matched")].iloc[0]


def test_power_says_how_many_seeds_to_run(tmp_path, study):
    one = power.power(study)
    assert list(one.columns) == power.POWER and set(one["from"]) == {"the reference"}
    assert one[one["n_seeds"] == 1]["verdict"].isna().all()
    for _, lines in one.groupby("measure"):
        shown = lines.set_index("n_seeds")["verdict"].dropna()
        assert shown.is_monotonic_decreasing and shown[5] == pytest.approx(
            lines["seed_sd"].iloc[0] * seeds.smallest_difference(5)
        )
    out = made.write_study(tmp_path / "out", ("ga", "npo"), seeds=(0, 1, 2), llm=(), sequential=())
    several = collect.collect(out, made.PROFILE)
    general = power.power(several).query("measure == 'general kept'")
    assert set(general["from"]) == {"this study"}
    variances = []
    for scenario in ("finetuned", "pretrained"):
        for method in ("ga", "npo"):
            kept = [a["general"] / b["general"] for b, a in _seeds_of(several, scenario, method)]
            variances.append(np.var(kept, ddof=1))
    sd = 100 * np.sqrt(np.mean(variances))
    assert general["seed_sd"].to_numpy() == pytest.approx(sd)
    line = general.set_index("n_seeds").loc[3]
    assert line["verdict"] == pytest.approx(sd * seeds.smallest_difference(3))
    assert line["ranks"] == pytest.approx(sd * seeds.smallest_difference(3, 2))


def imported_by(names: str) -> set[str]:
    """The modules that a fresh Python holds after importing these of pulse_lib.report."""
    code = "import sys\n" + "".join(f"import pulse_lib.report.{name}\n" for name in names.split())
    code += "print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return set(said.stdout.split())


def test_what_reading_took_is_given_back(study):
    """Arrow's own allocator would keep it beside the figures of a large study."""
    assert pa.default_memory_pool().backend_name == "system"


def test_report_imports_no_torch():
    assert not {"torch", "transformers"} & imported_by("figures html widgets findings.ledger")


def test_tables_findings_and_words_import_no_matplotlib():
    names = "words collect stats tables.tables tables.settings findings.ledger"
    assert not {"matplotlib", "seaborn", "IPython"} & imported_by(names)


# --- settings -------------------------------------------------------------------------------------


def override(key: str, tuned: float) -> Override:
    return Override(
        key=key,
        value=0.0,
        tuned_key="tuned.finetuned.npo.learning_rate",
        tuned=tuned,
        file=ROOT / "params" / "tuned" / "tiny.yaml",
        line=12,
    )


def test_settings_that_matter_are_shown_and_all_others_folded(monkeypatch):
    monkeypatch.setenv("PULSE_BATCH", "0")
    keys = ["unlearn.matched_at", "model.path"]
    table = settings_table(made.PROFILE, keys)
    assert list(table.shown["setting"]) == keys
    assert list(table.shown["value"]) == [
        str(made.PROFILE.unlearn.matched_at),
        made.PROFILE.model.path,
    ]
    every = all_settings(made.PROFILE)
    assert sorted([*table.shown["setting"], *table.rest["setting"]]) == sorted(every)
    assert every["evaluate.n_path_questions"] == "8"
    shown, folded = table._repr_html_().split("<details>")
    assert (
        "matched_at" in shown and "n_path_questions" not in shown and "n_path_questions" in folded
    )
    monkeypatch.setenv("PULSE_BATCH", "1")
    for said in (table._repr_html_(), repr(table)):
        assert "matched_at" in said and "n_path_questions" not in said and "profile tiny" in said


def test_a_setting_that_a_search_overrides_is_marked_with_the_line_to_edit():
    found = [override("unlearn.learning_rate", 2e-4)]
    for keys in (["unlearn.learning_rate", "unlearn.rank"], ["unlearn.rank"]):
        table = settings_table(made.PROFILE, keys, overrides=found)
        marks = table.shown.set_index("setting")["in force"]
        assert marks["unlearn.learning_rate"] == "0.0002: params/tuned/tiny.yaml, line 12"
        assert marks["unlearn.rank"] == ""
        assert "params/tuned/tiny.yaml, line 12" in table._repr_html_()
    assert "in force" not in settings_table(made.PROFILE, ["unlearn.rank"]).shown


def test_a_setting_that_is_not_there_and_a_value_that_is_code():
    with pytest.raises(PulseError, match="no setting 'unlearn.rnak'.*unlearn.rank"):
        settings_table(made.PROFILE, ["unlearn.rnak"])
    model = dataclasses.replace(made.PROFILE.model, path="<script>" + 60 * "x")
    said = settings_table(dataclasses.replace(made.PROFILE, model=model), ["model.path"])
    assert "&lt;script&gt;" + 60 * "x" in said._repr_html_()


# --- the frames -----------------------------------------------------------------------------------


def test_pick_keeps_order_and_headline_drops_heldout():
    frame = pd.DataFrame({"wording": ["trained", "heldout", "trained"], "x": [1, 2, 3]})
    assert list(collect.headline(frame)["x"]) == [1, 3]
    assert list(collect.pick(frame, wording="trained", x=3)["x"]) == [3]


def test_what_is_said_of_a_study_is_computed_once(study, monkeypatch):
    fresh = dataclasses.replace(study)
    asked, compute = [], stats.accuracy
    monkeypatch.setattr(stats, "accuracy", lambda *a, **o: asked.append(a) or compute(*a, **o))
    first = intervals.radar(fresh)
    n = len(asked)
    assert n > 0
    first["value"] = -1.0  # a reader's own change stays the reader's
    assert (intervals.radar(fresh)["value"] != -1.0).any() and len(asked) == n
    intervals.at_matched(fresh)  # stands on the same numbers
    assert len(asked) == n
    intervals.projector(fresh, "final"), intervals.projector(fresh, "matched")
    assert len(fresh.kept) > 3 and len(asked) > n  # other arguments, other numbers
    changed = dataclasses.replace(fresh, rows=fresh.rows.assign(correct=True))
    assert not changed.kept and not intervals.radar(changed).equals(intervals.radar(fresh))

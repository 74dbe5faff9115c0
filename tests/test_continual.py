"""Requests in a row: scalars against their formulas, the table, and the orders of a study."""

from __future__ import annotations

import hashlib
import json

import pandas as pd
import pytest
import synthetic_study as made
from scipy import stats as scipy_stats

from pulse_lib.errors import PulseError
from pulse_lib.evaluate.continual import SCALARS, scalars
from pulse_lib.profile import load_profile
from pulse_lib.report import collect, markdown
from pulse_lib.report.figures.gallery import Gallery
from pulse_lib.report.tables import tables
from pulse_lib.report.tables.about import about
from pulse_lib.report.tables.continual import LIKELY, continual
from pulse_lib.study.grid import options_from_texts, study
from pulse_lib.unlearn.sequential import request_order

KEPT = pd.DataFrame({"retain": [0.8, 0.4, 0.2], "general": [0.9, 0.9, 0.9]})


def test_scalars_are_those_of_the_formulas():
    people = pd.DataFrame([[0.9, 0.8], [0.2, 0.6], [0.5, 0.1]])  # rounds x requests
    found = scalars(people, KEPT)
    assert list(found) == list(SCALARS)
    assert found["at_turn"] == pytest.approx((0.2 + 0.1) / 2)
    assert found["at_end"] == pytest.approx((0.5 + 0.1) / 2)
    assert found["returned"] == pytest.approx(0.5 - 0.2)  # the last request cannot come back
    assert found["spilled"] == pytest.approx(0.8 - 0.6)  # nor the first go before its turn
    assert found["retain_per_request"] == pytest.approx(0.5)  # twice a half is a quarter
    assert found["general_per_request"] == pytest.approx(1.0)


def test_who_stays_forgotten_and_spares_the_others_has_the_ideal_scalars():
    people = pd.DataFrame([[1.0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    kept = pd.DataFrame({"retain": [0.7] * 4, "general": [0.5] * 4})
    assert list(scalars(people, kept).values()) == [0, 0, 0, 0, 1, 1]


def test_one_request_has_nothing_to_come_back():
    found = scalars(pd.DataFrame([[1.0], [0.3]]), KEPT.iloc[:2])
    assert found["at_turn"] == found["at_end"] == 0.3
    assert pd.isna(found["returned"]) and pd.isna(found["spilled"])


def test_a_round_for_each_request():
    with pytest.raises(ValueError, match="2 requests need rounds 0 to 2"):
        scalars(pd.DataFrame([[1.0, 1.0], [0.3, 0.3]]), KEPT.iloc[:2])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    size = made.Size(requests=10)
    out = tmp_path_factory.mktemp("long") / "out"
    return made.write_study(out, ("ga",), seeds=(0, 1), size=size, llm=(), profile=PROFILE)


PROFILE = made.PROFILE.with_values(data=made.PROFILE.data.with_values(n_requests=10))


def test_the_table_is_the_mean_over_runs_with_students_interval(out):
    found = collect.collect(out, PROFILE)
    (line,) = continual(found).to_dict("records")
    assert (line["n_requests"], line["n_seeds"], line["n_orders"]) == (10, 2, 1)
    each = []
    rounds = tables.sequential(found)
    for _, part in rounds.groupby("seed"):
        part = part.sort_values("round").reset_index(drop=True)
        each.append([part.loc[k, f"request_{k}"] for k in range(1, 11)])
    at_turn = pd.Series([sum(values) / 10 for values in each])
    assert line["at_turn"] == pytest.approx(at_turn.mean())
    arm = scipy_stats.t.ppf(0.975, 1) * at_turn.std() / 2**0.5
    assert line["at_turn_high"] - line["at_turn"] == pytest.approx(arm)
    assert all(line[f"{name}_likelihood"] == line[f"{name}_likelihood"] for name in LIKELY)


def test_turns_are_those_of_the_order_carried_out(out, tmp_path):
    plain = continual(collect.collect(out, PROFILE)).iloc[0]
    for path in out.glob("sequential/*/manifest.json"):
        result = path.parent / "result.json"
        result.write_text(
            json.dumps(json.loads(result.read_text()) | {"requests": list(range(10, 0, -1))})
        )
        manifest = json.loads(path.read_text())
        manifest["files"]["result.json"] = {
            "bytes": result.stat().st_size,
            "sha256": hashlib.sha256(result.read_bytes()).hexdigest(),
        }
        path.write_text(json.dumps(manifest))
    turned = continual(collect.collect(out, PROFILE)).iloc[0]
    assert turned["at_end"] == pytest.approx(plain["at_end"])  # the same people in the end
    assert turned["at_turn"] > plain["at_turn"] + 0.2  # made for the other order


def test_figures_of_ten_requests_are_drawn(out):
    gallery = Gallery(collect.collect(out, PROFILE))
    for name in ("figure5", "relapse", "after_requests", "story"):
        assert gallery.show(name).png
    assert gallery.table("relapse")["turn"].max() == 10


def test_a_study_has_the_orders_that_are_asked_for():
    options = options_from_texts(methods="ga", seeds="0,1", orders="0,1,2")
    found = [s for s in study(options) if s.kind == "sequential"]
    assert [(s.parameters["seed"], s.parameters["order"]) for s in found] == [
        (seed, order) for seed in (0, 1) for order in (0, 1, 2)
    ]
    again = options_from_texts(**options.as_dict())
    assert [s.folder for s in study(again)] == [s.folder for s in study(options)]
    alone = [s for s in study(options_from_texts(methods="ga")) if s.kind == "sequential"]
    assert [s.parameters["order"] for s in alone] == [0]
    with pytest.raises(PulseError, match="orders = 'first' must be whole numbers"):
        options_from_texts(orders="first")


def test_the_command_of_a_study_names_its_orders(out):
    found = collect.collect(out, PROFILE)
    assert "--orders" not in about(found)["command"].iloc[0]
    for run in found.of("sequential")[:1]:
        run.manifest["parameters"]["order"] = 2
    assert about(found)["command"].iloc[0].endswith("--orders 0,2")


@pytest.mark.parametrize("n", [10, 25])
def test_longer_profiles_differ_in_the_number_of_requests_alone(n):
    long, tiny = load_profile(f"tiny-{n}"), load_profile("tiny")
    assert long.data.n_requests == n
    back = long.with_values(
        name="tiny", description=tiny.description, data=long.data.with_values(n_requests=5)
    )
    assert back.as_dict() == tiny.as_dict()
    orders = {tuple(request_order(range(1, n + 1), order)) for order in (0, 1, 2)}
    assert len(orders) == 3 and all(sorted(order) == list(range(1, n + 1)) for order in orders)


def test_a_page_holds_the_pairs_that_every_study_has_by_requests():
    def study(n_requests, *pairs):
        whose = [{"method": m, "policy": p, "trained_part": "projector+llm"} for m, p in pairs]
        numbers = dict.fromkeys(SCALARS, 0.25) | {"at_turn_likelihood": 0.5, "at_end": 0.125}
        shown = numbers | {"n_requests": n_requests, "n_seeds": 1, "n_orders": 3}
        return pd.DataFrame([line | shown for line in whose])

    ga, experts = ("ga", "adapter_per_request"), ("ga", "experts")
    page = markdown.continual([study(5, ("npo", "replay"), ga, experts), study(25, experts, ga)])
    assert [line.split(" | ")[:2] for line in page.splitlines()[2:]] == [
        [f"| GA, {strategy}", str(n)]
        for strategy in ("experts", "adapter_per_request")
        for n in (5, 25)
    ]
    assert page.endswith("| 25 | 0.25 | 0.50 | 0.12 | 0.25 | 0.25 / 0.25 | 3 |")

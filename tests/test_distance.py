"""Distances from the oracle, against closed forms; what a broken model does to each; how tables rank."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import synthetic_study as made
from scipy import stats as scipy_stats

from pulse_lib.evaluate import distance as d
from pulse_lib.report import collect, stats
from pulse_lib.report.figures import distance as figures
from pulse_lib.report.tables import distance as table
from pulse_lib.report.tables import distance_limits, tables


def rows(logliks, answers=None, group="forget", **columns):
    """Rows of questions with these log-likelihoods; the right option is the first."""
    n = len(logliks)
    return pd.DataFrame(
        {
            "question_id": [f"{group}-{i}" for i in range(n)],
            "set": group,
            "modality": "text",
            "wording": "trained",
            "answer": answers or [0] * n,
            "extracted": "A",
            "option_loglik": [list(map(float, v)) for v in logliks],
        }
    ).assign(**columns)


def apart(model, oracle):
    return d.distances(d.paired(d.answers(model), d.answers(oracle)))


def of_shares(shares, n_options=4):
    """Log-likelihoods whose first option has these shares, the rest even; shifted, which must not
    matter."""
    return [np.log([p, *[(1 - p) / (n_options - 1)] * (n_options - 1)]) - 3.0 for p in shares]


def test_the_right_options_share_is_among_the_options_alone():
    found = d.right_shares(rows([np.log([0.02, 0.01, 0.01]), np.log([0.1, 0.3])], [0, 1]))
    assert found == pytest.approx([0.5, 0.75])


def test_ks_is_the_largest_gap_of_the_two_distribution_functions():
    assert d.ks([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]) == 0
    assert d.ks([0.1, 0.2], [0.8, 0.9]) == 1
    # below 0.35: all of the first, half of the second
    assert d.ks([0.1, 0.2, 0.3, 0.34], [0.1, 0.2, 0.4, 0.5]) == pytest.approx(0.5)


def test_js_is_zero_for_the_same_and_a_bit_for_opposites():
    same = of_shares([0.4, 0.9])
    assert d.js(same, same) == pytest.approx(0)
    sure, other = [[0.0, -1e9]], [[-1e9, 0.0]]
    assert d.js(sure, other) == pytest.approx(1)
    # (1, 0) against (1/2, 1/2): H(3/4) - H(1/2) / 2 in bits
    entropy = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    assert d.js(sure, [[0.0, 0.0]]) == pytest.approx(entropy - 0.5)
    assert d.js([*sure, *sure], [*other, *sure]) == pytest.approx(0.5)  # the mean over questions
    assert np.isnan(d.js([], []))


def test_options_that_are_not_there_change_nothing():
    two, four = of_shares([0.7], 2), of_shares([0.7])
    both = rows([*two, *four])
    assert d.right_shares(both) == pytest.approx([0.7, 0.7])
    assert d.truth_ratios(both) == pytest.approx([0.3 / 0.7, 0.1 / 0.7])


def test_the_truth_ratio_is_wrong_over_right_by_the_geometric_mean():
    logliks = [np.log([0.5, 0.25, 0.125, 0.125]), np.log([0.25, 0.25, 0.25, 0.25])]
    expected = (0.25 * 0.125 * 0.125) ** (1 / 3) / 0.5
    assert d.truth_ratios(rows(logliks)) == pytest.approx([expected, 1.0])


def test_forget_quality_is_the_log_of_the_p_value():
    values = np.linspace(0, 1, 20)
    assert d.forget_quality(values, values) == pytest.approx(0)
    # two samples of 3 that do not overlap: 2 of the 20 ways to draw them are as far apart
    assert d.forget_quality(np.arange(3.0), np.arange(3.0) + 9) == pytest.approx(np.log10(0.1))


def of_sets(forget, retain, general):
    return pd.concat(
        [
            rows(of_shares(v), group=g)
            for g, v in zip(("forget", "retain", "general"), (forget, retain, general), strict=True)
        ],
        ignore_index=True,
    )


def test_the_oracle_is_at_no_distance_from_itself_and_order_does_not_count():
    oracle = of_sets([0.1, 0.2, 0.6], [0.9, 0.8], [0.9])
    found = apart(oracle.sample(frac=1, random_state=0), oracle)
    for name in ("forget_ks", "forget_js", "retain_js", "general_js", "distance", "forget_quality"):
        assert found[name] == pytest.approx(0), name
    assert found["agree_said"] == found["agree_likeliest"] == 1


def test_a_question_with_more_options_that_only_one_was_asked_changes_nothing():
    oracle = of_sets([0.1, 0.2], [0.9], [0.9])
    wider = rows(of_shares([0.5], 6), question_id="six options")
    for pair in ((pd.concat([oracle, wider]), oracle), (oracle, pd.concat([oracle, wider]))):
        assert apart(*pair) == apart(oracle, oracle)


def test_only_questions_that_both_were_asked_in_trained_wordings_count():
    oracle = of_sets([0.1, 0.2], [0.9], [0.9])
    more = pd.concat(
        [
            oracle,
            rows(of_shares([0.99]), question_id="new"),
            rows(of_shares([0.99]), question_id="other wording", wording="heldout"),
            rows([[-1.0]], question_id="one option"),
        ]
    )
    assert apart(more, oracle) == apart(oracle, oracle)
    other = rows(of_shares([0.01]), question_id="other wording", wording="heldout")
    assert apart(more, pd.concat([oracle, other])) == apart(oracle, oracle)


def test_answers_agree_by_what_is_said_and_by_the_likeliest():
    oracle = rows(of_shares([0.9, 0.9, 0.9, 0.1]), extracted=["A", "B", None, None])
    model = rows(of_shares([0.9, 0.1, 0.9, 0.1]), extracted=["A", "C", None, "A"])
    found = apart(model, oracle)
    assert found["agree_said"] == 0.5  # A and nothing
    assert found["agree_likeliest"] == 0.75


def test_ks_alone_calls_a_broken_model_perfect():
    """On forget people it is the oracle; of the rest it knows nothing."""
    forget = [0.05, 0.2, 0.3, 0.8]
    oracle = of_sets(forget, [0.97] * 4, [0.97] * 4)
    broken = of_sets(forget[::-1], [0.25] * 4, [0.25] * 4)
    before = of_sets([0.97] * 4, [0.97] * 4, [0.97] * 4)
    found, knows = apart(broken, oracle), apart(before, oracle)
    assert found["forget_ks"] == 0 and found["forget_quality"] == 0
    assert found["distance"] > 0.25 > knows["retain_js"] + knows["general_js"]


def test_kendalls_tau_counts_pairs():
    assert d.agreement_of_ranks([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert d.agreement_of_ranks([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert d.agreement_of_ranks([1, 2, 3], [1, 3, 2]) == pytest.approx(
        1 / 3
    )  # 2 pairs for, 1 against
    assert d.agreement_of_ranks([1, np.nan, 2, 3], [1, 0, 2, 3]) == pytest.approx(1)
    assert np.isnan(d.agreement_of_ranks([1, 2], [1, 2]))
    assert np.isnan(d.agreement_of_ranks([1, 1, 1], [1, 2, 3]))


# --- the tables -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    made.write_study(folder, methods=("ga", "ga_klr", "npo", "oracle"), sequential=("ga",))
    return collect.collect(folder, made.PROFILE)


def test_every_state_has_a_line_and_the_oracle_is_nearest_to_itself(study):
    found = table.distance(study)
    assert list(found.columns) == table.COLUMNS and set(found["n_seeds"]) == {1}
    for _, part in found.groupby("scenario"):
        assert part["method"].iloc[0] == "oracle" and part["distance"].iloc[0] == 0
        assert list(part["distance"]) == sorted(part["distance"])
    lines = {(r.scenario, r.method, r.selection) for r in found.itertuples()}
    for scenario in ("finetuned", "pretrained"):
        assert (scenario, "before", "") in lines
        for method in ("ga", "ga_klr", "npo"):
            assert {(scenario, method, "final"), (scenario, method, "matched")} <= lines
    assert ("finetuned", "base", "") in lines and ("pretrained", "base", "") not in lines
    assert ("finetuned", "oracle", "matched") not in lines


def test_a_line_is_what_the_rows_of_the_two_runs_give(study):
    where = "single_shot/finetuned/{}-projector+llm-seed-0"
    model, oracle = (
        study.full_rows(where.format(method)).query("state == 'final'")
        for method in ("npo", "oracle")
    )
    expected = apart(model, oracle)
    found = table.distance(study).query(
        "scenario == 'finetuned' and method == 'npo' and selection == 'final'"
    )
    for name, value in expected.items():
        assert found[name].iloc[0] == pytest.approx(value), name
    forget = model[(model["set"] == "forget") & (model["wording"] == "trained")]
    by_modality = forget.groupby("modality")["loglik_correct"].mean()
    assert found["forget_likelihood"].iloc[0] == pytest.approx(by_modality.mean())


def test_without_an_oracle_nothing_is_defined(tmp_path):
    made.write_study(tmp_path / "out", methods=("ga",), sequential=())
    study = collect.collect(tmp_path / "out", made.PROFILE)
    assert table.distance(study).empty and table.rank_agreement(table.distance(study)).empty
    assert table.undefined(study) == [("finetuned", 0), ("pretrained", 0)]
    assert not {"distance", "rank_agreement"} & set(tables.all_tables(study))


def test_with_an_oracle_the_analysis_has_both_tables(study):
    assert table.undefined(study) == []
    assert {"distance", "rank_agreement"} <= set(tables.all_tables(study))


LINE = {
    "scenario": "finetuned",
    "trained_part": "projector+llm",
    "selection": "final",
    "retain_kept": 0.5,
    "general_kept": 0.5,
}


def lines(*values):
    names = [*(n for n in table.RANKED if n != "kept"), *LINE, "method"]
    return pd.DataFrame([LINE | v for v in values], columns=list(dict.fromkeys(names)))


def test_metrics_agree_as_far_as_they_rank_methods_alike():
    """less is better of a distance, more of what is kept"""
    found = table.rank_agreement(
        lines(
            {"method": "ga", "distance": 0.1, "forget": 0.3, "general_kept": 0.9},
            {"method": "npo", "distance": 0.2, "forget": 0.2, "general_kept": 0.8},
            {"method": "ga_klr", "distance": 0.3, "forget": 0.1, "general_kept": 0.7},
            # controls, which would turn the ranks round
            {"method": "oracle", "distance": 0.0, "forget": 0.0, "general_kept": 0.0},
            {"method": "before", "distance": 0.9, "forget": 1.0, "general_kept": 1.0},
            {"method": "ga_placebo", "distance": 0.9, "forget": 1.0, "general_kept": 1.0},
        )
    ).set_index(["against", "metric"])
    assert found.loc[("distance", "general_kept"), "tau"] == pytest.approx(1)
    assert found.loc[("distance", "forget"), "tau"] == pytest.approx(-1)
    assert found.loc[("distance", "kept"), "tau"] == pytest.approx(1)
    assert np.isnan(found.loc[("distance", "forget_ks"), "tau"])  # nobody has it
    assert set(found["n_methods"]) == {3}


def test_the_broken_model_that_ks_likes_best_is_found():
    broken = {"retain_kept": 0.02, "general_kept": 0.0}
    found = table.fooled(
        lines(
            {"method": "ga", "forget_ks": 0.2} | broken,
            {"method": "npo", "forget_ks": 0.1} | broken,
            {"method": "ga_klr", "forget_ks": 0.05},  # not broken
            {"method": "base", "forget_ks": 0.0} | broken,  # no method
            {"method": "ga_placebo", "forget_ks": 0.0} | broken,  # had nothing to forget
        )
    )
    assert found["method"] == "npo"
    assert table.fooled(lines({"method": "ga", "forget_ks": 0.2})) is None


def people_asked(n=20, questions=5, seed=0):
    """A model, and an oracle that was asked the same of n people; as many retain people, and general
    questions of their own."""
    rng = np.random.default_rng(seed)
    sizes = {"forget": n * questions, "retain": n * questions, "general": n}
    sides = [
        pd.concat(
            [rows(of_shares(rng.uniform(0.05, 0.95, k)), group=g) for g, k in sizes.items()],
            ignore_index=True,
        )
        for _ in range(2)
    ]
    per = {"forget": questions, "retain": questions, "general": 1}
    unit = np.concatenate([np.arange(k) // per[g] for g, k in sizes.items()])
    return sides[0], sides[1].assign(unit=unit)


def limits_apart(model, oracle):
    return distance_limits.of_people(d.paired(d.answers(model), d.answers(oracle)))


def test_a_divergence_has_the_limits_of_an_accuracy_of_the_same_mean():
    """Where each question's divergence is 0 or 1 it is one."""
    known, other = [[0.0, -1e9]], [[-1e9, 0.0]]
    apart_ = [k < count for count in [0, 1, 2, 3, 4, 5] * 5 for k in range(5)]
    model = rows([(other if far else known)[0] for far in apart_], group="retain")
    people = np.repeat(np.arange(30), 5)
    oracle = rows(known * len(apart_), group="retain").assign(unit=people)
    found = limits_apart(model, oracle)
    counted = pd.DataFrame({"correct": apart_, "cluster": people.astype(str), "seed": 0})
    expected = stats.accuracy(counted)
    assert (found["retain_js_low"], found["retain_js_high"]) == pytest.approx(
        (expected.low, expected.high)
    )
    assert np.isnan(found["forget_ks_low"]) and np.isnan(found["distance_high"])


def test_people_and_not_answers_are_what_limits_count():
    model, oracle = people_asked()
    alone = oracle.assign(unit=np.arange(len(oracle)))
    # of one person all answers alike: a fifth of the answers says as much
    alike = [
        side.assign(
            option_loglik=[side["option_loglik"][i // 5 * 5] for i in range(200)]
            + list(side["option_loglik"][200:])
        )
        for side in (model, oracle)
    ]
    by_person, by_answer = (
        limits_apart(*alike),
        limits_apart(alike[0], alone.assign(option_loglik=alike[1]["option_loglik"])),
    )
    for name in ("forget_ks", "retain_js"):
        wide, narrow = (f[f"{name}_high"] - f[f"{name}_low"] for f in (by_person, by_answer))
        assert wide > 1.2 * narrow, name


def test_the_limits_of_distance_are_the_means_of_its_parts():
    found = limits_apart(*people_asked())
    for end in ("low", "high"):
        parts = [found[f"{name}_{end}"] for name in ("forget_ks", "retain_js", "general_js")]
        assert found[f"distance_{end}"] == pytest.approx(np.mean(parts))


def test_of_several_seeds_no_limit_is_inside_the_peoples_or_the_seeds():
    names = distance_limits.WITH_LIMITS
    seeds = pd.DataFrame(
        [
            dict.fromkeys(names, v)
            | {f"{n}_low": v - 0.05 for n in names}
            | {f"{n}_high": v + 0.07 for n in names}
            for v in (0.2, 0.3, 0.4)
        ]
    )
    found = distance_limits.of_seeds(seeds)
    # Wilson's for as many answers as make three seeds differ by 0.1, t with two degrees of freedom
    n, q = 0.3 * 0.7 * 3 / 0.01, scipy_stats.t.ppf(0.975, 2)
    middle, scale = 0.3 + q * q / (2 * n), 1 + q * q / n
    half = q * np.sqrt(0.3 * 0.7 / n + (q / (2 * n)) ** 2)
    own = (0.3 - (middle - half) / scale, (middle + half) / scale - 0.3)
    assert found["forget_js_low"] == pytest.approx(0.3 - np.hypot(0.05, own[0]))
    assert found["distance_high"] == pytest.approx(0.3 + np.hypot(0.07, own[1]))
    one = distance_limits.of_seeds(seeds.head(1))
    assert (one["forget_ks_low"], one["forget_ks_high"]) == pytest.approx((0.15, 0.27))
    gap = seeds.assign(forget_ks=[0.2, np.nan, np.nan])  # a seed that was not asked does not count
    assert distance_limits.of_seeds(gap)["forget_ks_high"] == pytest.approx(0.27)


def test_every_distance_lies_within_its_limits_and_the_oracle_is_at_none(study):
    found = table.distance(study)
    assert list(found.columns[-10:]) == distance_limits.LIMITS
    for name in distance_limits.WITH_LIMITS:
        low, high = found[f"{name}_low"], found[f"{name}_high"]
        assert ((low >= 0) & (low <= found[name]) & (found[name] <= high) & (high <= 1)).all()
        mine = (found["method"] == "oracle").to_numpy()
        assert (high[mine] == 0).all() and (high[~mine] > 0).all()


def test_a_tables_limits_have_people_as_units(study):
    where = "single_shot/finetuned/{}-projector+llm-seed-0"
    model, oracle = (
        study.full_rows(where.format(method)).query("state == 'final'")
        for method in ("npo", "oracle")
    )
    names = pa.Table.from_pandas(oracle[["person_id", "group", "question_id"]])
    unit = stats.clusters(names).to_numpy()
    assert len(set(unit[oracle["set"] == "forget"])) == 10
    expected = limits_apart(model, oracle.assign(unit=pd.factorize(unit)[0]))
    found = table.distance(study).query(
        "scenario == 'finetuned' and method == 'npo' and selection == 'final'"
    )
    for name, value in expected.items():
        assert found[name].iloc[0] == pytest.approx(value), name


def test_who_is_nearest_is_not_said_where_intervals_overlap(study):
    near = table.distance(study)
    figure = figures.oracle_distance(near)
    assert len(figure.axes[0].collections[0].get_segments()) == len(
        near[near["scenario"] == "finetuned"]
    )
    said = figure.get_suptitle().replace("\n", " ")
    assert "cannot be told" in said
    methods = near["method"].isin(["ga", "ga_klr", "npo"])
    best = near.loc[methods, "forget_ks"].idxmin()
    sure = near.assign(
        forget_ks_low=near["forget_ks"] - 1e-9, forget_ks_high=near["forget_ks"] + 1e-9
    )
    said = figures.oracle_distance(sure).get_suptitle().replace("\n", " ")
    assert "cannot be told" not in said and f"KS {near['forget_ks'][best]:.2f}" in said


def test_what_is_said_of_a_broken_model_says_how_many_ks_cannot_tell_from_it(study):
    broken = {"retain_kept": 0.02, "general_kept": 0.0, "forget_quality": -1.0}
    found = lines(
        {"method": "ga", "forget_ks": 0.1} | broken,
        {"method": "npo", "forget_ks": 0.2},
        {"method": "ga_klr", "forget_ks": 0.5},
    ).assign(forget_ks_low=[0.0, 0.1, 0.4], forget_ks_high=[0.15, 0.3, 0.6])
    said = table.said(study, found)
    assert "(0.10 [0.00, 0.15]) it is number 1 of 3, with 1 that cannot be told from it" in said


def test_the_figure_names_the_nearest_and_what_it_keeps(study):
    figure = figures.oracle_distance(table.distance(study))
    near = table.distance(study).query("method in ['ga', 'ga_klr', 'npo']")
    best = near.loc[near["forget_ks"].idxmin()]
    said = figure.get_suptitle().replace("\n", " ").replace("\xa0", " ")
    kept = (best["retain_kept"] + best["general_kept"]) / 2
    assert f"KS {best['forget_ks']:.2f}" in said and f"keeps {100 * kept:.0f} % of the rest" in said
    nothing = figures.oracle_distance(table.distance(study).head(0))
    assert "no distance is defined" in nothing.axes[0].texts[0].get_text().replace("\n", " ")

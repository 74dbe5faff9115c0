"""MMBench's scores against cases worked out by hand and an independent count; interrupted answering
goes on to the same answers."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from random import Random

import mmbench_files as files
import numpy as np
import pandas as pd
import pytest
import tiny

from pulse_lib.data.mmbench.source import load_mmbench
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import mmbench
from pulse_lib.evaluate.extract import extract
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.resume import answer_resumably
from pulse_lib.evaluate.rows import make_rows
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import EvaluateSettings

METRICS = ("vanilla_0", "vanilla_all", "circular", "parse_rate", "n_questions", "n_rows")
ANIMALS = ["teddy bear", "rabbit", "cat", "dog"]
AIMS = {4: "BADC", 2: "BA"}


def table(predictions, base=241, n=4, category="ocr"):
    """A group with answers B A D C (or B A) in its rows, which hold the right options."""
    rows = []
    for k, (said, answer) in enumerate(zip(predictions, AIMS[n], strict=True)):
        options = ANIMALS[:n]
        at = "ABCD".index(answer)
        options = options[(1 - at) % n :] + options[: (1 - at) % n]  # "rabbit" is right
        cells = dict(zip("ABCD", options + [""] * (4 - n), strict=True))
        index = base + k * files.COPY
        rows.append({"index": index, "prediction": said, "answer": answer, "category": category})
        rows[-1] |= cells
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("said", "n", "vanilla_0", "hits", "circular"),
    [
        ("BADC", 4, 1, 4, 1),  # g1
        ("BADB", 4, 1, 3, 0),  # g2
        ("AADC", 4, 0, 3, 0),  # g3
        ("B?DC", 4, 1, 3, 0),  # g4
        ("AAAA", 4, 0, 1, 0),  # g5
        ("BA", 2, 1, 2, 1),  # g6
        ("CA", 2, 0, 1, 0),  # g7
        (["rabbit"] * 4, 4, 1, 4, 1),  # g8
        ("BZDC", 4, 1, 3, 0),  # g11
        (["B", float("nan"), "D", "C"], 4, 1, 3, 0),
        (["B", None, "D", "C"], 4, 1, 3, 0),
    ],
)
def test_group_vectors(said, n, vanilla_0, hits, circular):
    found = mmbench.score(table(list(said), n=n))
    assert (found["vanilla_0"], found["vanilla_all"], found["circular"]) == (
        vanilla_0,
        hits / n,
        circular,
    )
    assert (found["n_questions"], found["n_rows"]) == (1, n)


def test_an_empty_response_is_not_the_text_nan():
    rows = table(["B", float("nan"), "D", "C"]).assign(category="ocr")
    rows.loc[1, "D"] = "nan"  # an option that str(NaN) would hit
    assert mmbench.score(rows)["parse_rate"] == 0.75


def test_parse_rate_counts_letters_of_options_alone():
    both = pd.concat([table(list("BZ?C")), table(["C", "A"], base=7, n=2)])
    assert mmbench.score(both)["parse_rate"] == pytest.approx(3 / 6)
    # by lmms-eval's rules "C" is a letter, but of no option here
    assert mmbench.score(table(["C", "A"], n=2), "lmms_eval")["parse_rate"] == 0.5


def test_index_may_be_text_and_rows_in_any_order():  # g10
    rows = table(list("BADB"))
    expected = mmbench.score(rows)
    as_text = rows.assign(index=[str(i) for i in rows["index"]]).iloc[[2, 0, 3, 1]]
    assert mmbench.score(as_text) == expected
    assert mmbench.score(rows.assign(index=rows["index"].astype("float64"))) == expected


@pytest.mark.parametrize("gone", range(4))
def test_incomplete_group_is_refused(gone):  # g9
    rows = pd.concat([table(list("BA"), base=8, n=2), table(list("BADC")).drop(index=gone)])
    with pytest.raises(ValueError, match="group 241"):
        mmbench.score(rows)


def test_other_contradictions_are_refused():
    rows = table(list("BADC"))
    with pytest.raises(ValueError, match="row 1000241"):  # g12
        mmbench.score(pd.concat([rows, rows.iloc[[1]].assign(index="1000241")]))
    with pytest.raises(ValueError, match="group 241.*options"):
        mmbench.score(rows.assign(D=["dog", "", "dog", "dog"], answer=["B", "A", "C", "C"]))
    with pytest.raises(ValueError, match="group 241"):  # a fifth row
        mmbench.score(pd.concat([rows, rows.iloc[[0]].assign(index=4_000_241)]))
    with pytest.raises(ValueError, match="row 241: answer 'E'"):
        mmbench.score(rows.assign(answer=["E", "A", "D", "C"]))
    with pytest.raises(ValueError, match="answer"):
        mmbench.score(rows.drop(columns="answer"))
    with pytest.raises(ValueError, match="no rows"):
        mmbench.score(rows.iloc[:0])
    with pytest.raises(ValueError, match="'x'"):
        mmbench.score(rows.assign(index=["x", 1, 2, 3]))


# --- properties on a larger table -------------------------------------------------------------


def many(seed=0, n_groups=60, sizes=(2, 3, 4), right=0.8):
    """Groups of mixed sizes and leaves with predictions that are right, wrong, words or nothing."""
    rng, rows = Random(seed), []
    leaves = ["ocr", "image_topic", "celebrity_recognition"]
    for base in rng.sample(range(3000), n_groups):
        options = rng.sample(["red", "blue", "seven", "yes", "a dog", "Paris"], rng.choice(sizes))
        for row in files.group(
            base, options, rng.randrange(len(options)), category=rng.choice(leaves)
        ):
            other = rng.choice(["A", "B", "C", "D", "", "?", "Z", rng.choice(options), "A or B"])
            said = row["answer"] if rng.random() < right else other
            rows.append({k: row[k] for k in ("index", "answer", *"ABCD", "category")})
            rows[-1]["prediction"] = said
    return pd.DataFrame(rows)


def counted(rows, rules="vlmevalkit_2024"):
    """The measures by plain loops."""
    hits, readable = {}, 0
    for row in rows.to_dict("records"):
        options = {a: row[a] for a in "ABCD" if row[a] != ""}
        letter = extract(row["prediction"], options, rules)
        readable += letter in options
        hits.setdefault(row["index"] % 1_000_000, {})[row["index"]] = letter == row["answer"]
    flat = [hit for group in hits.values() for hit in group.values()]
    return {
        "vanilla_0": sum(group[base] for base, group in hits.items()) / len(hits),
        "vanilla_all": sum(flat) / len(flat),
        "circular": sum(all(group.values()) for group in hits.values()) / len(hits),
        "parse_rate": readable / len(rows),
        "n_questions": len(hits),
        "n_rows": len(rows),
    }


@pytest.mark.parametrize("rules", ["vlmevalkit_2024", "vlmevalkit_2026", "lmms_eval"])
def test_equal_to_a_plain_count(rules):
    for seed in range(3):
        rows = many(seed)
        found = mmbench.score(rows, rules)
        assert {k: found[k] for k in METRICS} == pytest.approx(counted(rows, rules))
        assert 0 < found["circular"] < found["vanilla_0"]
        for leaf, part in rows.groupby("category"):
            assert found["by_category"][leaf] == pytest.approx(counted(part, rules))
        kept = rows[rows["category"] != "celebrity_recognition"]
        assert found["without_celebrity"] == pytest.approx(counted(kept, rules))


def test_categories_add_up_and_their_names_do_not_matter():
    rows = many(1)
    found = mmbench.score(rows)
    parts = found["by_category"].values()
    for name, n in (
        ("circular", "n_questions"),
        ("vanilla_0", "n_questions"),
        ("vanilla_all", "n_rows"),
    ):
        total = sum(p[name] * p[n] for p in parts)
        assert total == pytest.approx(found[name] * found[n])
    renamed = mmbench.score(rows.assign(category="leaf " + rows["category"]))
    assert [renamed[k] for k in METRICS] == [found[k] for k in METRICS]
    assert mmbench.score(rows.sample(frac=1, random_state=0)) == found


def test_always_a_scores_questions_over_rows_and_the_perfect_one():
    rows = many(2)
    found = mmbench.score(rows.assign(prediction="A"))
    assert found["vanilla_all"] == pytest.approx(found["n_questions"] / found["n_rows"])
    assert found["circular"] == 0
    perfect = mmbench.score(rows.assign(prediction=rows["answer"]))
    assert [perfect[k] for k in METRICS[:4]] == [1, 1, 1, 1]


def test_circular_is_at_most_any_single_pass():
    rows = many(3, sizes=(4,))
    circular = mmbench.score(rows)["circular"]
    hit = [
        extract(r["prediction"], {a: r[a] for a in "ABCD"}) == r["answer"]
        for r in rows.to_dict("records")
    ]
    passes = pd.Series(hit).groupby((rows["index"] // files.COPY).to_numpy()).mean()
    assert len(passes) == 4 and (circular <= passes).all()


def test_an_oracle_of_option_texts_does_not_mind_the_order():
    rows = many(4, right=1).assign(prediction=lambda t: [r[r["answer"]] for _, r in t.iterrows()])
    swapped = rows.copy()
    swapped["A"], swapped["B"] = rows["B"], rows["A"]
    swapped["answer"] = rows["answer"].replace({"A": "B", "B": "A"})
    assert mmbench.score(swapped) == mmbench.score(rows)


def test_without_anything_but_celebrities_there_is_no_number():
    found = mmbench.score(table(list("BADC"), category="celebrity_recognition"))
    assert math.isnan(found["without_celebrity"]["circular"])
    assert found["without_celebrity"]["n_questions"] == 0


# --- the kit's own rows -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = files.write_tsv(tmp_path_factory.mktemp("mmbench") / "dev.tsv", 6)
    with pytest.warns(UserWarning, match="not MMBench DEV_EN"):
        return load_mmbench(path)


def test_rows_of_a_run_give_the_same_score(loaded):
    questions, rng = loaded[0], Random(0)
    said = [rng.choice(["A", "B", "?", "ABCD"[q.answer], "ABCD"[q.answer]]) for q in questions]
    likelihoods = [list(-np.arange(len(q.options), dtype=float)) for q in questions]
    answers = pd.DataFrame(
        {"question_id": [q.id for q in questions], "response": said, "option_loglik": likelihoods}
    )
    rows = make_rows(
        questions,
        answers,
        rules="vlmevalkit_2024",
        run="r",
        scenario="finetuned",
        state="before",
        seed=0,
    )
    raw = [
        {"index": q.id.split("/")[1], "prediction": s, "answer": "ABCD"[q.answer]}
        | dict.fromkeys("ABCD", "")
        | q.lettered_options
        | {"category": q.category}
        for q, s in zip(questions, said, strict=True)
    ]
    people = rows.assign(group="", question_id="someone")
    found = mmbench.score_rows(pd.concat([people, rows]))
    assert found == mmbench.score(pd.DataFrame(raw))
    always_a = mmbench.score_rows(rows, "loglik_correct")
    assert always_a["vanilla_all"] == pytest.approx(6 / len(rows)) and always_a["circular"] == 0
    with pytest.raises(ValueError, match="stands twice"):
        mmbench.score_rows(pd.concat([rows, rows]))
    with pytest.raises(ValueError, match="group 100 is incomplete"):
        mmbench.score_rows(rows[rows["question_id"] != "mmbench/1000100"])
    with pytest.raises(ValueError, match="no rows"):
        mmbench.score_rows(people)


# --- answering, interrupted -------------------------------------------------------------------

SETTINGS = EvaluateSettings(batch_size=5, max_new_tokens=3, n_path_questions=9)


def asked_again(model, loaded, file):
    """The answers, those in the file not asked for again."""
    questions, images = loaded
    return answer_resumably(model, questions, images=images, settings=SETTINGS, file=file)


def same(a, b):
    pd.testing.assert_frame_equal(a, b, check_exact=True)
    return True


@pytest.fixture(scope="module")
def whole(loaded, tmp_path_factory):
    """Model, uninterrupted answers and their file."""
    model = tiny.with_adapters("finetune", answer_form="letter")
    file = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    answers = asked_again(model, loaded, file)
    return model, answers, file


def test_one_line_a_question_and_the_same_as_answering_at_once(whole, loaded):
    model, answers, file = whole
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["question_id"] for line in lines) == sorted(q.id for q in loaded[0])
    at_once = answer_questions(model, loaded[0], images=loaded[1], settings=SETTINGS)
    assert list(at_once["response"]) == list(answers["response"])
    for a, b in zip(at_once["option_loglik"], answers["option_loglik"], strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    before = file.stat().st_mtime_ns
    assert same(asked_again(model, loaded, file), answers)
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize("kept", [0, 1, 700, -1])
def test_goes_on_from_any_cut(whole, loaded, tmp_path, kept):
    model, answers, file = whole
    content, cut = file.read_bytes(), tmp_path / "cut.jsonl"
    cut.write_bytes(content[:kept])
    model.features.known.clear()  # as in a new process
    model.features.pictures.clear()
    assert same(asked_again(model, loaded, cut), answers)
    assert cut.read_bytes() == content


def test_survives_kill_9(whole, loaded, tmp_path):
    file = tmp_path / "answers.jsonl"
    program = f"""
import os, sys
sys.path.insert(0, {str(REPOSITORY / "tests")!r})
import torch; torch.set_num_threads(1)
import tiny, pathlib, warnings; warnings.simplefilter("ignore")
from pulse_lib.data.mmbench.source import load_mmbench
from pulse_lib.evaluate import resume
import mmbench_files, test_mmbench_score as t
write = resume._append
def append(file, answers):
    if file.exists():  # in the middle of the second batch's first line
        with open(file, "a") as lines:
            lines.write('{{"question_id": "mmben'); lines.flush()
        os.kill(os.getpid(), 9)
    write(file, answers)
resume._append = append
path = mmbench_files.write_tsv(pathlib.Path({str(tmp_path)!r}) / "dev.tsv", 6)
model = tiny.with_adapters("finetune", answer_form="letter")
t.asked_again(model, load_mmbench(path), pathlib.Path({str(file)!r}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == -9, done.stderr[-2000:]
    assert file.read_text().count("\n") == SETTINGS.batch_size
    assert same(asked_again(whole[0], loaded, file), whole[1])


def test_refuses_a_file_of_something_else(whole, loaded, tmp_path):
    model, _, file = whole
    questions, images = loaded

    def ask(questions=questions, model=model, settings=SETTINGS, file=file):
        return answer_resumably(model, questions, images=images, settings=settings, file=file)

    with pytest.raises(PulseError, match="is not asked here"):
        ask(questions[1:])
    changed = [replace(q, text=q.text + " ") for q in questions]
    with pytest.raises(PulseError, match="another way"):
        ask(changed)
    with pytest.raises(PulseError, match="another way"):
        ask(settings=EvaluateSettings(batch_size=5, max_new_tokens=4, n_path_questions=9))
    other = tiny.with_adapters("finetune", answer_form="letter")
    tiny.shake(other, "finetune", seed=9)
    with pytest.raises(PulseError, match="model state"):
        ask(model=other)
    with pytest.raises(PulseError, match="ids stand twice"):
        ask([*questions, questions[0]])
    lines = file.read_text().splitlines(keepends=True)
    for content, said in (
        ([lines[0], "{\n", *lines[1:]], "line 2 is broken"),
        ([*lines, lines[0]], "stands twice"),
    ):
        broken = tmp_path / "broken.jsonl"
        broken.write_text("".join(content))
        with pytest.raises(PulseError, match=said):
            ask(file=broken)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]

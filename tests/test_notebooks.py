"""The notebooks themselves: their form, and all five through the real runner on the smoke
profile."""

import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from pulse_lib import runs
from pulse_lib.evaluate.rows import read_rows
from pulse_lib.files import REPOSITORY
from pulse_lib.probe.subject import read_probes
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import KINDS
from pulse_lib.runs.place import half_folder

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
RUN = [sys.executable, "-m", "pulse_lib"]
SINGLE_SHOT_COLUMNS = [
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
]
SEQUENTIAL_COLUMNS = [
    "scenario",
    "method",
    "policy",
    "trained_part",
    "order",
    "seed",
    "round",
    "request_1",
    "request_2",
    "forget_multimodal",
    "forget_text",
    "retain_multimodal",
    "retain_text",
    "general",
    "invalid_rate",
]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestForm:
    """What style.md asks of every notebook."""

    def test_no_outputs_and_python3(self, path):
        notebook = nbformat.read(path, 4)
        nbformat.validate(notebook)
        assert notebook.metadata.kernelspec.name == "python3"
        assert all(not c.outputs and c.execution_count is None for c in code_cells(notebook))

    def test_one_parameters_cell_of_plain_typed_lines(self, path):
        tagged = [
            c
            for c in code_cells(nbformat.read(path, 4))
            if "parameters" in c.metadata.get("tags", [])
        ]
        assert len(tagged) == 1
        for line in tagged[0].source.splitlines():
            assert re.fullmatch(r"\w+: (int|float|str|bool) = [^#=]+  # [^#=]+", line), line

    def test_cells_are_small(self, path):
        lengths = [len(c.source.splitlines()) for c in code_cells(nbformat.read(path, 4))]
        assert 12 <= len(lengths) <= 25 and max(lengths) <= 30 and statistics.median(lengths) <= 8

    def test_as_many_cells_of_prose_as_of_code(self, path):
        kinds = [c.cell_type for c in nbformat.read(path, 4).cells]
        assert kinds.count("markdown") >= kinds.count("code")

    def test_every_picture_has_words_in_its_place(self, path):
        prose = "\n".join(
            c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"
        )
        pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", prose)
        assert all(words.strip() for words, _ in pictures) and "<img" not in prose
        own = [where for _, where in pictures if not where.startswith("http")]
        assert all((path.parent / where).is_file() for where in own)

    def test_title_claim_and_limits(self, path):
        texts = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"]
        assert (
            texts[0].startswith(f"# {path.stem.partition('_')[0]} · ")
            and "By the end you will have" in texts[0]
            and "colab" in texts[0]
        )
        assert any("does not" in t or "do not" in t for t in texts) and any(
            "Try it" in t for t in texts
        )

    def test_no_definitions_and_no_silent_except(self, path):
        code = "\n".join(c.source for c in code_cells(nbformat.read(path, 4)))
        assert not re.search(r"^\s*(try:|except|class )", code, re.MULTILINE)
        defined = re.findall(r"^def .*\n(?:[ \n].*\n?)*", code, re.MULTILINE)
        assert not defined or path.stem == "03b_npo_from_scratch"  # which is about writing them
        assert all(len(text.split("\n\n")[0].splitlines()) <= 10 for text in defined)

    def test_the_setup_cell_is_the_same_everywhere(self, path):
        first = [code_cells(nbformat.read(p, 4))[0].source for p in NOTEBOOKS]
        assert len(set(first)) == 1 and "COLAB_RELEASE_TAG" in first[0]
        assert len([line for line in first[0].splitlines() if line.strip()]) <= 8


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_there_is_one_a_kind_and_two_guides():
    guides = ["03b_npo_from_scratch", "07_bring_your_own"]  # make no run of their own
    made = [row.notebook for row in KINDS.values()]
    assert [p.stem for p in NOTEBOOKS] == sorted([*made, *guides])


def run_kit(*arguments, check=True):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PULSE_WARM": "1"}  # as it is by default
    done = subprocess.run(
        [*RUN, *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A whole study of the smoke profile: every notebook through Snakemake, papermill and the kit's
    runner."""
    out = tmp_path_factory.mktemp("smoke")
    done = run_kit(
        "run",
        "--profile",
        "smoke",
        "--methods",
        "ga,ga_klr,npo",
        "--seeds",
        "0",
        "--out-dir",
        str(out),
    )
    return out, done.stdout


def test_the_explorer_in_batch_is_still_pictures(smoke, tmp_path):
    """08 on the study, as it is by default: every control is a picture, and names what it shows."""
    out = tmp_path / "out"
    shutil.copytree(smoke[0], out)
    run_kit("notebook", "08", "-p", "profile", "smoke", "-p", "out_dir", str(out))
    folder = out / "explore"
    names = {p.stem for p in (folder / "figures").glob("*.png")}
    assert names == {"question", "person", "faces", "states"}
    book = nbformat.read(folder / "notebook.ipynb", 4)
    shown = [o for c in code_cells(book) for o in c.outputs]
    assert not any("widget-view" in kind for o in shown for kind in o.get("data", {}))
    assert sum("image/png" in o.get("data", {}) for o in shown) == 5
    said = "".join(o.get("data", {}).get("text/html", "") for o in shown)
    assert "sequential/ga-adapter_per_request" in said and "none: the base model" in said


def test_a_model_is_asked_with_the_adapters_that_are_named(smoke):
    """As `load_state` and the plain base model answer."""
    from pulse_lib.commands import ask as asked
    from pulse_lib.commands import states
    from pulse_lib.data.dataset import read_dataset
    from pulse_lib.evaluate.generate import answer_questions
    from pulse_lib.model.load import load_model

    out, _ = smoke
    run = out / "single_shot" / "finetuned" / "ga-projector+llm-seed-0"
    ask, adapters = asked.asking(run)
    assert adapters == ["finetune", "unlearn"]
    data = read_dataset(out / "data" / "seed-0")
    settings = load_profile("smoke").evaluate
    some = [replace(q, options=()) for q in data.questions if q.set == "forget" and q.image][:3]
    target = states.load_state(states.state_of_run(out / "target" / "seed-0"))
    base, final = load_model(target.settings), states.load_state(states.state_of_run(run))
    for model, names in ((base, []), (target, ["finetune"]), (final, adapters)):
        said = answer_questions(
            model, some, images=data.images, settings=settings, with_loglik=False
        )
        for question, response in zip(some, said["response"], strict=True):
            assert ask(question.text, data.images[question.image], adapters=names) == response
    assert ask("Where does Nobody At All live?", adapters=[])  # and without a picture


def test_study_ends_with_a_summary_and_the_report(smoke):
    out, printed = smoke
    report = out / "analysis" / "report.html"
    assert report.is_file() and "report.html" in printed
    html = report.read_text()
    assert "<img" in html and not re.search(
        r"""(src|href)=["']https?://[^"']+\.(js|css|png)""", html
    )


def test_tables_have_the_promised_columns_and_rows(smoke):
    tables = smoke[0] / "analysis" / "tables"
    single = pd.read_csv(tables / "single_shot.csv", keep_default_na=False)
    assert list(single.columns)[: len(SINGLE_SHOT_COLUMNS)] == SINGLE_SHOT_COLUMNS
    assert (
        len(single[single["selection"] == "final"])
        == len(single[single["selection"] == "matched"])
        == 7
    )
    before = single[single["method"] == "before"]
    assert sorted(before["scenario"]) == ["finetuned", "pretrained"] and set(
        before["step"].astype(int)
    ) == {0}
    assert (before["trained_part"] == "").all() and (before["selection"] == "").all()
    assert list(single[single["method"] == "base"]["scenario"]) == ["finetuned"]
    sequential = pd.read_csv(tables / "sequential.csv")
    assert list(sequential.columns)[: len(SEQUENTIAL_COLUMNS)] == SEQUENTIAL_COLUMNS
    assert len(sequential) == 3 * 3 and sorted(set(sequential["round"])) == [0, 1, 2]


def test_tables_are_what_the_rows_say(smoke):
    """One accuracy of the table, counted again from the raw rows by hand."""
    out = smoke[0]
    table = pd.read_csv(out / "analysis" / "tables" / "single_shot.csv")
    line = table.query(
        "scenario == 'pretrained' and method == 'npo' and selection == 'final'"
    ).iloc[0]
    rows = read_rows(
        runs.run_folder(
            "single_shot",
            out,
            scenario="pretrained",
            method="npo",
            trained_part="projector+llm",
            seed=0,
        )
        / "rows.parquet"
    )
    final = [
        r
        for r in rows.to_dict("records")
        if r["state"] == "final" and r["wording"] == "trained" and r["set"] != "holdout"
    ]
    asked = [r for r in final if r["set"] == "forget" and r["modality"] == "text"]
    right = [r for r in asked if r["extracted"] == "ABCD"[r["answer"]]]
    assert line["forget_text"] == pytest.approx(len(right) / len(asked))
    unusable = [r for r in final if r["extracted"] not in ("A", "B", "C", "D")]
    assert line["invalid_rate"] == pytest.approx(len(unusable) / len(final))


def test_nothing_to_do_the_second_time(smoke):
    done = run_kit(
        "run",
        "--profile",
        "smoke",
        "--methods",
        "ga,ga_klr,npo",
        "--seeds",
        "0",
        "--out-dir",
        str(smoke[0]),
    )
    assert "nothing to do" in done.stdout.lower()


def test_every_run_keeps_its_executed_notebook(smoke):
    manifests = list(smoke[0].rglob("manifest.json"))
    kinds = [json.loads(p.read_text()).get("notebook") for p in manifests]
    assert sum(k is not None for k in kinds) == 1 + 1 + 7 + 3 + 1
    for path, kind in zip(manifests, kinds, strict=True):
        if kind:
            executed = nbformat.read(path.parent / "notebook.ipynb", 4)
            assert all(c.execution_count for c in code_cells(executed) if c.source)
            setup = next(c for c in code_cells(executed) if "runpy" in c.source)
            assert not setup.outputs, "at home the set-up cell has nothing to say"
            for cell in code_cells(executed):
                said = [
                    o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell.outputs
                ]
                assert max(text.count("\n") for text in [*said, ""]) < 60, (
                    f"too long: {cell.source}"
                )


def test_same_seed_same_rows(smoke, tmp_path):
    """Data, fine-tuning and one unlearning run again elsewhere: identical answers and
    likelihoods."""
    for notebook, given in (
        ("01", {}),
        ("02", {}),
        ("03", {"method": "npo", "scenario": "finetuned"}),
    ):
        flags = [x for k, v in given.items() for x in ("-p", k, v)]
        run_kit(
            "notebook", notebook, "-p", "profile", "smoke", "-p", "out_dir", str(tmp_path), *flags
        )
    folder = Path("single_shot/finetuned/npo-projector+llm-seed-0/rows.parquet")
    pd.testing.assert_frame_equal(read_rows(smoke[0] / folder), read_rows(tmp_path / folder))


def test_a_notebook_without_its_input_says_which_to_run_first(tmp_path):
    done = run_kit(
        "notebook", "03", "-p", "profile", "smoke", "-p", "out_dir", str(tmp_path), check=False
    )
    assert done.returncode != 0 and "run 01_build_datasets first" in done.stdout + done.stderr


def test_plain_papermill_runs_a_notebook(tmp_path):
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(NOTEBOOKS[0]),
        str(tmp_path / "out.ipynb"),
        "--cwd",
        str(REPOSITORY),
        "--no-progress-bar",
    ]
    command += ["-p", "profile", "smoke", "-p", "out_dir", str(tmp_path / "study")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PULSE_BATCH": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert runs.require(runs.run_folder("data", tmp_path / "study", seed=0), "01_build_datasets")


def test_killed_in_round_two_goes_on_there_and_ends_with_the_same_rows(smoke, tmp_path):
    """kill -9 of the whole process group of notebook 04 while round 2 runs."""
    out = tmp_path / "study"
    for name in ("data", "target"):
        (out / name).mkdir(parents=True)
        subprocess.run(["cp", "-R", str(smoke[0] / name / "seed-0"), str(out / name)], check=True)
    command = [*RUN, "notebook", "04", "-p", "profile", "smoke", "-p", "out_dir", str(out)]
    folder = runs.run_folder(
        "sequential",
        out,
        method="ga",
        strategy="adapter_per_request",
        trained_part="projector+llm",
        order=0,
        seed=0,
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    first = half_folder(folder) / "round-1" / "manifest.json"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert first.exists() and not folder.exists()
    made = first.stat().st_mtime_ns
    assert (
        runs.status(
            runs.spec_of("sequential", {"profile": "smoke", "out_dir": str(out)}),
            load_profile("smoke"),
        ).state
        == "missing"
    )
    wait_until_gone(process.pid)
    run_kit(*command[3:])
    assert (
        folder / "round-1/manifest.json"
    ).stat().st_mtime_ns == made  # round 1 was not done again
    whole = read_rows(
        runs.run_folder(
            "sequential",
            smoke[0],
            method="ga",
            strategy="adapter_per_request",
            trained_part="projector+llm",
            order=0,
            seed=0,
        )
        / "rows.parquet"
    )
    pd.testing.assert_frame_equal(read_rows(folder / "rows.parquet"), whole)


def wait_until_gone(group: int) -> None:
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


def test_probes_of_a_run_and_of_what_it_was_made_from(smoke):
    """Notebook 06 on a run, and on its target as a control; the page is not stale for it."""
    out = smoke[0]
    shared = ("notebook", "06", "-p", "profile", "smoke", "-p", "out_dir", str(out))
    for run in ("single_shot/finetuned/ga-projector+llm-seed-0", "target/seed-0"):
        run_kit(*shared, "-p", "run", run)
        folder = runs.spec_of("probe", {"out_dir": str(out), "run": run}).folder
        rows, summary = read_probes(folder / "probes.parquet"), pd.read_csv(folder / "summary.csv")
        assert summary["n"].sum() == len(rows) and len(set(rows["probe"])) == 10
        assert set(rows["run"]) == {run} and set(rows["seed"]) == {0}
        verdict = json.loads((folder / "verdict.json").read_text())
        assert verdict["verdict"] == verdict["holds"][0] and "in nf4" in verdict["knowledge"]
        executed = nbformat.read(folder / "notebook.ipynb", 4)
        said = "".join(o.get("text", "") for c in code_cells(executed) for o in c.outputs)
        assert "answers as in the run's own rows: 100.0%" in said
    done = run_kit(
        "status", "--profile", "smoke", "--methods", "ga,ga_klr,npo", "--out-dir", str(out)
    )
    assert "stale" not in done.stdout


def test_probes_of_a_run_behind_a_gate(smoke):
    """There is no one model, so what looks into one is left out; 06 loads each request's adapter."""
    shared = ("-p", "profile", "smoke", "-p", "out_dir", str(smoke[0]))
    run_kit("notebook", "04", *shared, "-p", "strategy", "experts")
    run = "sequential/ga-experts-projector+llm-order-0-seed-0"
    run_kit("notebook", "06", *shared, "-p", "run", run)
    rows = read_probes(
        runs.spec_of("probe", {"out_dir": str(smoke[0]), "run": run}).folder / "probes.parquet"
    )
    assert set(rows["probe"]) == {
        *("as asked", "orders", "picture", "prompted", "projector", "gate")
    }
    assert {"gate stands", "gate removed"} <= set(rows["condition"])

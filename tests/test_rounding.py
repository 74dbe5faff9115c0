"""Another processor gives the same numbers: how torch is told to add up alike, who tells it, and the
committed numbers of a study, asked for again here.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import synthetic_study as made
import torch

from benchmarks.again import compare
from pulse_lib import machine
from pulse_lib.data import dataset, splits
from pulse_lib.data.source import general_of, source_of
from pulse_lib.evaluate import generate
from pulse_lib.evaluate.rows import read_rows, write_rows
from pulse_lib.files import REPOSITORY
from pulse_lib.model.load import load_model
from pulse_lib.profile import load_profile

KEPT = REPOSITORY / "outputs/reference/tiny/kept/seed-0.zip"
needs_avx2 = pytest.mark.skipif(not machine.has_avx2(), reason="a processor without AVX2")


def told(monkeypatch, *cpu_info: str, **environment: str) -> dict[str, str]:
    """What of ROUNDING is in the environment afterwards, on a machine whose /proc/cpuinfo is so."""
    monkeypatch.setattr(machine, "_cpu_info_lines", lambda: cpu_info)
    with mock.patch.dict(os.environ):
        for name in machine.ROUNDING:
            os.environ.pop(name, None)
        os.environ |= environment
        machine.round_alike()
        return {name: os.environ[name] for name in machine.ROUNDING if name in os.environ}


NAME = "model name\t: A Processor"


def test_only_a_processor_that_can_is_told_and_the_users_word_stands(monkeypatch):
    able = (NAME, "flags\t\t: fpu avx avx2 avx512f")
    assert told(monkeypatch, *able) == machine.ROUNDING
    own = {"ATEN_CPU_CAPABILITY": "avx512"}
    assert told(monkeypatch, *able, **own) == own
    assert told(monkeypatch, NAME, "flags\t\t: fpu avx") == {}
    assert told(monkeypatch, "Features\t: fp asimd") == {}  # ARM
    assert told(monkeypatch) == {}  # not Linux


NATIVE = {k: v for k, v in os.environ.items() if k not in machine.ROUNDING}
WAYS = {
    "a command": "from pulse_lib import machine; machine.prepare()",
    "the first cell of a notebook": "import runpy; runpy.run_path('pulse_lib/colab.py', run_name='__main__')",
}


@needs_avx2
@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_adds_up_alike(way):
    asked = "from pulse_lib import machine; import torch; print(machine.processor())"
    done = subprocess.run(
        [sys.executable, "-c", f"{WAYS[way]}\n{asked}"],
        cwd=REPOSITORY,
        env=NATIVE,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith(", AVX2"), done.stderr


@needs_avx2
def test_the_committed_likelihoods_are_given_again():
    """To the last digit on an AMD EPYC, whose numbers they are; on another maker's processor MKL has
    other code, and a difference may be no more than rounding."""
    settings = load_profile("tiny")
    source = source_of(settings.data)
    people = source.fictitious(settings.data)
    places = splits.split_fictitious(people, settings.data, seed=0)
    data = dataset.build_dataset(
        source,
        people,
        general=general_of(settings.data),
        places=[place for place in places if place.set == "forget"],
        settings=settings.data,
        seed=0,
    )
    questions = data.evaluation("finetuned", ("forget",))
    now = generate.answer_questions(
        load_model(settings.model), questions, images=data.images, settings=settings.evaluate
    ).assign(question_id=[question.id for question in questions])
    with zipfile.ZipFile(KEPT) as kept:
        rows = pd.read_parquet(
            io.BytesIO(kept.read("rows.parquet")),
            filters=[("run", "==", "data/seed-0"), ("state", "==", "base")],
        )
    both = now.merge(rows, on="question_id", suffixes=("", "_kept"), validate="1:1")
    assert len(both) == len(questions) > 500
    apart = np.abs(np.concatenate([*both["option_loglik"]]) - np.concatenate([*both["option_loglik_kept"]]))  # fmt: skip
    assert apart.max() < 1e-4
    if machine.processor().startswith("AMD EPYC"):
        assert torch.backends.cpu.get_cpu_capability() == "AVX2"
        assert apart.max() == 0


def test_a_run_made_again_is_held_beside_the_one_before(tmp_path):
    """One answer read otherwise, the likelihoods of another moved in the last digit, those of a third not
    kept."""
    before = made.write_study(tmp_path / "before", methods=["ga"], sequential=[])
    again = Path(shutil.copytree(before, tmp_path / "again"))
    name = "single_shot/pretrained/ga-projector+llm-seed-0"
    rows = read_rows(before / name / "rows.parquet")
    said, likelihoods = list(rows["extracted"]), list(rows["option_loglik"])
    said[0] = "" if said[0] else "A"
    likelihoods[1] = np.subtract(likelihoods[1], [2**-20] + [0] * (len(likelihoods[1]) - 1))
    likelihoods[2] = []
    write_rows(
        before / name / "rows.parquet", rows.assign(extracted=said, option_loglik=likelihoods)
    )
    table = compare(again, before).set_index("run")
    others = table.drop(name)
    assert len(others) > 2 and (others["answers"] == others["judged_alike"]).all()
    assert (others["likelihoods"] == others["same_likelihoods"]).all()
    found, n = table.loc[name], len(rows)
    assert (found["answers"], found["judged_alike"]) == (n, n - 1)
    assert (found["likelihoods"], found["same_likelihoods"]) == (n - 1, n - 2)
    assert found["largest_difference"] == pytest.approx(2**-20, rel=0.2)

"""Another processor gives the same numbers: how torch is told to add up alike, who tells it, and the
committed numbers of a study, asked for again here.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from pulse_lib import machine
from pulse_lib.data import dataset, splits
from pulse_lib.data.source import general_of, source_of
from pulse_lib.evaluate import generate
from pulse_lib.files import REPOSITORY
from pulse_lib.model.load import load_model
from pulse_lib.profile import load_profile

KEPT = REPOSITORY / "outputs/reference/tiny/kept/seed-0.zip"
needs_avx2 = pytest.mark.skipif(not machine.has_avx2(), reason="a processor without AVX2")


def told(monkeypatch, cpu_info: str | None, **environment: str) -> dict[str, str]:
    """What of ROUNDING is in the environment afterwards, on a machine whose /proc/cpuinfo is so."""
    for name in machine.ROUNDING:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    lines = None if cpu_info is None else [*cpu_info.splitlines(), "", "processor : 1"]
    monkeypatch.setattr(machine, "_cpu_info_lines", lambda: lines or [])
    before = dict(os.environ)
    try:
        machine.round_alike()
        return {k: os.environ[k] for k in machine.ROUNDING if k in os.environ}
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]


WIDE = "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx avx2 avx512f"
OLD = "processor\t: 0\nmodel name\t: A Processor\nflags\t\t: fpu avx"
ARM = "processor\t: 0\nFeatures\t: fp asimd avx2"


def test_only_a_processor_that_can_is_told_and_the_users_word_stands(monkeypatch):
    assert told(monkeypatch, WIDE) == machine.ROUNDING
    assert told(monkeypatch, OLD) == told(monkeypatch, ARM) == told(monkeypatch, None) == {}
    own = {"ATEN_CPU_CAPABILITY": "avx512"}
    assert told(monkeypatch, WIDE, **own) == own


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

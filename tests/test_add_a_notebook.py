"""docs/add_a_notebook.md: its example, tried as it stands."""

from __future__ import annotations

import re

import pandas as pd
import pytest
import tiny
from conftest import write_notebook, write_results

from pulse_lib import runs
from pulse_lib.evaluate.rows import make_rows, write_rows
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import load_profile
from pulse_lib.runs.kinds import KINDS
from pulse_lib.runs.manifest import found_runs
from pulse_lib.study import grid
from pulse_lib.study.notebook import run_notebook

TEXT = (REPOSITORY / "docs/add_a_notebook.md").read_text()
ROW, PARAMETERS, CELL = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def test_the_row_and_the_notebook_of_the_guide_make_a_kind_of_run(kit, monkeypatch):
    scope: dict = {}
    exec(ROW, scope)
    monkeypatch.setitem(KINDS, "errors", scope["row"])
    # The kernel is another process: there the row is added by a cell of its own, in the library it
    # would be in KINDS.
    table = "from pulse_lib.runs.kinds import KINDS\nKINDS['errors'] = row"
    lines = [line for line in PARAMETERS.splitlines() if not line.startswith("#")]
    notebook = kit.notebooks / "09_count_errors.ipynb"
    write_notebook(notebook, lines, [ROW, table, CELL])
    shared = kit.shared | {"scenario": "pretrained"}
    with pytest.raises(Exception, match="data/seed-0 is missing: run 01"):
        run_notebook("09", shared)

    question = tiny.question(0)
    answers = pd.DataFrame(
        {"question_id": [question.id], "response": ["nothing"], "option_loglik": [None]}
    )
    who = {"run": "x", "scenario": "pretrained", "state": "final", "seed": 0}
    for kind in ("data", "single_shot"):
        spec = runs.spec_of(kind, shared)
        started = runs.start(spec, kit.profile)
        write_results(started.folder, spec.files)
        rows = make_rows([question], answers, rules="vlmevalkit_2024", **who)
        write_rows(started.folder / "rows.parquet", rows)
        runs.finish(started)
    made = run_notebook("09", shared)
    spec = runs.spec_of("errors", shared)
    assert spec.name == "errors/pretrained/ga-projector+llm-seed-0"
    assert pd.read_csv(spec.folder / "errors.csv")["n"].sum() == 1
    assert set(made["inputs"]) == {"data/seed-0", "single_shot/pretrained/ga-projector+llm-seed-0"}
    assert made["identity"]["profile"] == {"evaluate.extraction_rules": "vlmevalkit_2024"}
    profile = load_profile(str(kit.profile_file))
    assert runs.status(spec, profile).state == "done"
    assert (spec.folder, "") in found_runs(kit.out, profile)
    # and in a study, once GRID names it
    axes = {"scenario": "pretrained", "method": "ga", "trained_part": "projector+llm"}
    monkeypatch.setitem(grid.GRID, "errors", lambda options: [axes])
    assert kit.states()[spec.name] == "done"

"""Which files of the library a run's result hangs on, and what a study does when they change."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_study import finish_all, front

from pulse_lib.files import REPOSITORY, read_json, write_json
from pulse_lib.runs import library
from pulse_lib.runs.kinds import KINDS
from pulse_lib.study import forking

# Each kind in a fork of a process that has loaded the libraries, and nothing of the kit
LOADED = """
import json, os, runpy, sys
runpy.run_path(sys.argv[1])["load"]()
assert "pulse_lib" not in sys.modules
for kind, statements in json.load(sys.stdin).items():
    if os.fork() == 0:
        exec(statements)
        files = [m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)]
        print(json.dumps({kind: files}), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """By kind: the package's files that Python itself loads for its notebook's import statements;
    without those that only draw, but for the analysis.
    """
    statements = {
        kind: "\n".join(
            ast.unparse(node)
            for cell in library.code_cells(row.notebook)
            for node in ast.walk(ast.parse(cell))
            if isinstance(node, ast.ImportFrom)
            and node.module.startswith("pulse_lib")
            and not node.module.startswith("pulse_lib.study")
            and (row.inputs is None or not node.module.startswith("pulse_lib.report"))
        )
        for kind, row in KINDS.items()
    }
    done = subprocess.run(
        [sys.executable, "-c", LOADED, forking.__file__],
        input=json.dumps(statements),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found = {}
    for line in done.stdout.splitlines():
        ((kind, files),) = json.loads(line).items()
        paths = [Path(file) for file in files]
        inside = [p for p in paths if p.is_relative_to(library.PACKAGE)]
        found[kind] = {p.relative_to(library.PACKAGE).as_posix() for p in inside}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_hangs_on_every_module_that_its_notebook_loads(kind, loaded):
    found, there = set(library.library_of(kind)), loaded[kind]
    assert len(there) > 10 and there <= found
    assert any(name.startswith("report/") for name in found) == (KINDS[kind].inputs is None)


def test_what_is_imported_late_or_named_in_a_table_counts_and_the_rest_does_not():
    data, single_shot, analysis = map(library.library_of, ("data", "single_shot", "analysis"))
    assert "data/world/source.py" in data, "named in a table of sources"
    assert "train/losses.py" in single_shot and "unlearn/refusals.py" in single_shot
    assert "train/losses.py" not in data and "train/losses.py" not in analysis
    assert "report/stats.py" in analysis and "report/stats.py" not in single_shot
    assert not any(name.startswith(("study/", "pretrain/")) for name in single_shot)
    kept = {"commands/__init__.py", "commands/checkpoints.py"}  # of what a run goes on from
    kept |= {"commands/glance.py"}  # a look at the model first
    assert {name for name in single_shot if name.startswith("commands/")} == kept


NESTED = """
try:
    with open("x"):
        for i in ():
            from pulse_lib import a
        else:
            import pulse_lib.b
except OSError:
    match i:
        case 1:
            while i:
                from pulse_lib.c import d
finally:
    class C:
        async def f(self):
            if i:
                pass
            elif i:
                from pulse_lib import e
            else:
                from other import f
"""


def test_imports_are_found_at_any_depth():
    names = ("pulse_lib.a", "pulse_lib.b", "pulse_lib.c", "pulse_lib.c.d", "pulse_lib.e")
    assert set(library._imported(NESTED)) == {"pulse_lib", *names}
    assert set(library._imported(NESTED + "x = ['pulse_lib.g']")) == {
        *("pulse_lib", "pulse_lib.g", *names)
    }


@pytest.fixture
def changed(kit):
    """A whole study, whose data another state of one module made."""
    finish_all(kit)
    path = kit.out / "data/seed-0/manifest.json"
    whole = read_json(path)
    assert "runs/kinds.py" in whole["library"]
    write_json(path, whole | {"library": whole["library"] | {"runs/kinds.py": "of another day"}})
    return kit


def made(kit) -> str:
    return (kit.out / "data/seed-0/manifest.json").read_text()


def test_with_nobody_to_ask_runs_are_kept_and_the_last_line_says_so(changed, monkeypatch):
    before = made(changed)
    done, text = front(changed, monkeypatch)
    assert done and "Nothing to do" in text and made(changed) == before
    last = text.strip().splitlines()[-1]
    assert last.startswith("Kept, not made anew: 1 run was made before")
    assert "runs/kinds.py" in last and "--rebuild library" in last


@pytest.mark.parametrize("answer", [True, False])
def test_a_person_is_asked_once(changed, monkeypatch, answer):
    asked, before = [], made(changed)
    done, text = front(changed, monkeypatch, ask=lambda question: asked.append(question) or answer)
    assert done and len(asked) == 1 and "runs/kinds.py" in asked[0]
    assert (made(changed) != before) == answer, text
    if answer:  # and what is made from it
        assert "3 of 3 runs to do" in text
        assert "stale  data/seed-0: the library changed (runs/kinds.py)" in text


def test_rebuild_library_and_keep_need_no_answer(changed, monkeypatch):
    def ask(question):
        raise AssertionError("nobody is asked")

    before = made(changed)
    assert front(changed, monkeypatch, ask=ask, rebuild="keep")[0] and made(changed) == before
    done, text = front(changed, monkeypatch, ask=ask, rebuild="library")
    assert done and made(changed) != before and "3 of 3 runs to do" in text

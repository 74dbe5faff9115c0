"""Each exercise of a notebook: its minutes, a hint, and a folded solution, which is run here behind
the notebook's own cells."""

import math
import re

import nbformat
import pytest
import torch
from cells import run_cells

from pulse_lib.files import REPOSITORY
from pulse_lib.train import losses

SOLVED = (
    "01_build_datasets",
    "02_finetune",
    "03_unlearn_single_shot",
    "03b_npo_from_scratch",
    "04_unlearn_sequential",
    "05_analyze",
    "06_probe",
    "08_explore",
)
ELSEWHERE = "07_bring_your_own"  # its solutions run behind it in test_folder_source.py


def tasks(notebook: str) -> list[str]:
    """The text of each exercise."""
    book = nbformat.read(REPOSITORY / "notebooks" / f"{notebook}.ipynb", 4)
    last = book.cells[-1].source
    text = last[last.index("## Try it") :].partition("\nNext: ")[0]
    return re.split(r"^\d\. ", text, flags=re.MULTILINE)[1:]


def solution(task: str) -> str:
    code = task[task.index("Solution") :]
    (block,) = re.findall(r"```python\n(.*?)```", code, flags=re.DOTALL)
    return re.sub(r"^   ", "", block, flags=re.MULTILINE)


def solve(notebook: str, names: dict, capsys) -> None:
    """Run a notebook's solutions with the names that its cells left; each prints its answer, or draws
    it."""
    for n, task in enumerate(tasks(notebook), start=1):
        exec(compile(solution(task), f"{notebook}, exercise {n}", "exec"), names)
        assert capsys.readouterr().out.strip() or "figures." in solution(task), (notebook, n)


@pytest.mark.parametrize("notebook", [*SOLVED, ELSEWHERE])
def test_an_exercise_has_minutes_a_hint_and_a_solution(notebook):
    found = tasks(notebook)
    assert len(found) >= 2
    for task in found:
        assert re.match(r"\*\(\d+ minutes\)\*", task), task[:40]
        assert task.count("<details>") == task.count("</details>") == 2
        assert task.index("Hint") < task.index("Solution")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A study of the smoke profile with what the notebooks read, and the names each leaves."""
    out = str(tmp_path_factory.mktemp("exercises"))
    given = {"profile": "smoke", "out_dir": out}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.display", print, raising=False)  # a kernel's
        return {name: run_cells(name, given) for name in SOLVED}


@pytest.mark.parametrize("notebook", SOLVED)
def test_solutions_run_behind_their_notebook(place, notebook, capsys):
    solve(notebook, place[notebook], capsys)


def test_the_solution_of_the_push_is_the_closed_form(place, capsys):
    """sigma(log p - log p_ref) = 1/4 where p / p_ref = 1/3."""
    exec(solution(tasks("03_unlearn_single_shot")[1]), place["03_unlearn_single_shot"])
    found, told = (float(x) for x in re.findall(r"= (0\.\d+)", capsys.readouterr().out))
    assert found == pytest.approx(0.95 / 3, abs=0.01) and told == pytest.approx(0.95 / 3, abs=0.005)


def test_npo_from_scratch_is_the_librarys(place):
    """The notebook's own function on the library's brute-force values."""
    npo = place["03b_npo_from_scratch"]["npo"]
    S, before = (
        torch.tensor(v, dtype=torch.float64) for v in ([-3.0, -0.2, -9.0], [-1.0, -0.2, 0])
    )
    for beta in (0.05, 0.1, 2.0):
        by_hand = [
            2 / beta * math.log1p(math.exp(beta * (s - r)))
            for s, r in zip(S.tolist(), before.tolist(), strict=True)
        ]
        assert npo(S, before, beta).item() == pytest.approx(sum(by_hand) / 3)
        assert losses.npo(S, before, beta).item() == pytest.approx(sum(by_hand) / 3)


def test_the_lesson_takes_its_ninety_minutes_and_its_places_are_there():
    text = (REPOSITORY / "docs" / "lesson_plan.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .*? \| (.*?) \| .* \|$", text, flags=re.MULTILINE)
    assert sum(int(minutes) for minutes, _ in rows) == 90
    heads = {}
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        cells = nbformat.read(path, 4).cells
        prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        heads[path.stem.partition("_")[0]] = re.findall(r"^## (.*)", prose, flags=re.MULTILINE)
    for _, where in rows:
        found = re.match(r"\d\d", where)
        for named in re.findall(r"\*(.*?)\*", where):
            assert found and any(h.startswith(named) for h in heads[found[0]]), named

"""The page about speed is what its numbers say, and the numbers are what was measured."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from pulse_lib import runs
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import load_profile

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import bench
import gpu_check
import steps
import test_gpu_check

MACHINE = {"cpu": "A CPU", "cores": 2, "memory_gib": 4, "system": "Linux", "python": "3.12"}


def part(*rows, **more) -> dict:
    return {"name": "x", "command": "python x.py", "machine": MACHINE, "rows": list(rows)} | more


def test_the_page_is_made_from_the_committed_numbers():
    if not bench.RESULT.is_file():
        assert not bench.PAGE.is_file(), f"{bench.PAGE} has no numbers"
        pytest.skip("nothing was measured yet")
    assert bench.page(json.loads(bench.RESULT.read_text())) == bench.PAGE.read_text()


def test_an_aim_is_held_against_the_worst_of_the_rows_it_is_about():
    steps = part({"method": "ga", "share": 0.95}, {"method": "npo", "share": 0.72}, {"method": "x"})
    starts = part({"start": "import pulse_lib", "seconds": 0.2}, {"start": "slow", "seconds": 9.0})
    lines = bench.page({"steps": steps, "starts": starts}).splitlines()
    found = {line.split(" |")[0]: line for line in lines if line.startswith("| ")}
    assert found["| a step reaches 80 % of its ceiling (steps)"].endswith(
        "| at least 0.8 | 0.72 | no |"
    )
    assert found["| `import pulse_lib`, seconds (starts)"].endswith("| at most 0.5 | 0.2 | yes |")
    assert found["| `pulse --help`, seconds (starts)"].endswith("| not measured | - |")
    steps["rows"][1]["share"] = 0.8
    assert "| at least 0.8 | 0.8 | yes |" in bench.page({"steps": steps})


def test_what_was_measured_on_a_card_stands_beside_the_rest(tmp_path):
    assert bench.on_cards(tmp_path) == {"checks": [], "rows": []}
    assert bench.NO_CARD in bench.page({"gpu": bench.on_cards(tmp_path)})
    config = test_gpu_check.tiny_config()
    amount = gpu_check.Amount(4, 2, batch=2, batches=(1,), n_pictures=1, repeats=1)
    sizes = {"llava-1.5-7b": config}
    assert gpu_check.run(tmp_path, sizes, "cpu", methods=["npo"], amount=amount)
    found = bench.on_cards(tmp_path)
    text = bench.page({"gpu": found})
    assert bench.NO_CARD not in text and "## llava-1.5-7b on cpu" in text
    assert all(f"{words}:\n\n| " in text for words in bench.ON_CARD.values())
    ratios = [row["ratio"] for row in found["rows"] if row["table"] == "questions"]
    line = next(line for line in text.splitlines() if "asked eight times as fast (gpu)" in line)
    assert f"| at least 8 | {min(ratios):g} |" in line
    shares = [r["share"] for r in found["rows"] if r["table"] == "against_loop"]
    line = next(line for line in text.splitlines() if "7B reaches 80 %" in line)
    assert f"| {min(shares):g} |" in line


def test_rows_alike_share_a_table_and_a_part_that_failed_says_why():
    rows = [{"a_s": 1, "b": 0.25}, {"a_s": "x|y", "b": 3, "kit_wall_s": 9}, {"c": 4}]
    assert bench.tables(rows) == [
        "| a s | b |",
        "|---|---|",
        "| 1 | 0.25 |",
        "| x\\|y | 3 |",
        "",
        "| c |",
        "|---|",
        "| 4 |",
    ]
    text = bench.page({"steps": part(why="it failed: Error"), "growth": part(*rows)})
    assert "Not measured: it failed: Error." in text and "A CPU, 2 cores, 4 GiB of memory" in text


def test_a_part_is_run_or_says_why_not(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "FOLDER", tmp_path)
    script = "import json, os, sys, time\n{}\nopen(sys.argv[-1], 'w').write(json.dumps({{'rows': [{{'n': int(sys.argv[1]), 't': os.environ['OMP_NUM_THREADS']}}]}}))"
    (tmp_path / "good.py").write_text(script.format(""))
    (tmp_path / "slow.py").write_text(script.format("time.sleep(60)"))
    (tmp_path / "bad.py").write_text("raise SystemExit('no')")
    good = bench.run_part("x", ["good.py", "7"], seconds=60)
    assert good["rows"] == [{"n": 7, "t": "1"}] and good["command"] == "python benchmarks/good.py 7"
    for name, why in [
        ("slow.py", "it did not end within 1 s"),
        ("bad.py", "it failed: CalledProcessError"),
        ("none.py", "there is no benchmarks/none.py"),
    ]:
        found = bench.run_part("x", [name], seconds=1 if name == "slow.py" else 60)
        assert found["rows"] == [] and found["why"] == why


def test_a_try_that_came_to_nothing_leaves_what_was_measured_before():
    old, none = part({"n": 1}), part(why="it did not end within 1 s")
    text = bench.page({"growth": bench.kept(old, none)})
    assert "| n |" in text and ": it did not end within 1 s.\n" in text
    assert bench.kept(old, part({"n": 2}))["rows"] == [{"n": 2}]
    assert bench.kept(none, none) == bench.kept(None, none) == none


def test_fine_tuning_is_the_longest_run_of_the_demo():
    """docs/performance.md says so."""
    result = json.loads(bench.RESULT.read_text())
    runs = [r for r in result["demo"]["rows"] if not r.get("run", "all").startswith("all")]
    assert "fine-tuning, on one core, is the longest run" in bench.TAIL
    assert max(runs, key=lambda row: row["seconds"])["run"].startswith("target/")


def test_a_machine_is_described_without_its_name():
    import platform

    found = json.dumps(bench.machine())
    assert bench.machine()["cpu"] and bench.machine()["cores"] >= 1
    assert not platform.node() or platform.node() not in found
    assert str(REPOSITORY) not in found


def test_the_times_of_a_demo_are_those_of_its_manifests(kit):
    with pytest.raises(PulseError, match="no finished run lies here"):
        bench.demo(kit.out)
    specs = kit.study()
    for k, spec in enumerate(specs):
        kit.finish(spec)
        path = spec.folder / "manifest.json"
        manifest = json.loads(path.read_text())
        # begun at 0, 50 and 100 s; the second one ends last
        seconds = [40.4, 90.0, 20.0][k]
        minute, second = divmod(50 * k + round(seconds), 60)
        manifest |= {"seconds": seconds, "finished": f"2026-01-01T00:{minute:02}:{second:02}+00:00"}
        manifest["peak_memory_mib"] = 100.6
        path.write_text(json.dumps(manifest))
    rows = bench.demo(kit.out)["rows"]
    assert [row["run"] for row in rows[:3]] == [spec.name for spec in specs]
    assert [row["began"] for row in rows[:3]] == [0, 50, 100]
    assert [row["seconds"] for row in rows] == [40, 90, 20, 150, 140]
    assert rows[0]["peak_mib"] == 101 and runs.require(specs[0].folder, specs[0].notebook)
    by_kind = {row["runs"]: row for row in bench.three_seeds(kit.out)["rows"]}
    kinds = [spec.name.split("/")[0] for spec in specs]
    assert list(by_kind) == [*sorted(set(kinds)), "all, one after the other", "all, by the clock"]
    taken = dict(zip(kinds, (40.4, 90.0, 20.0), strict=True))
    for kind, seconds in taken.items():
        line = {"runs": kind, "n": 1, "minutes": round(seconds / 60, 1)}
        assert by_kind[kind] == line | {"longest_s": round(seconds)}
    total = {"runs": "all, one after the other", "n": 3, "minutes": 2.5}
    assert by_kind["all, one after the other"] == total
    assert by_kind["all, by the clock"]["minutes"] == 2.3
    assert "## All methods on three seeds" in bench.page(
        {"three_seeds": bench.three_seeds(kit.out)}
    )


def test_what_a_single_shot_run_does_is_read_from_its_notebook(kit):
    specs = kit.study()
    for spec in specs:
        kit.finish(spec)
    run = next(spec for spec in specs if spec.kind == "single_shot")
    (run.folder / "result.json").write_text(json.dumps({"seconds_train": 30.0}))
    code = [
        *((call, 60.0) for call in bench.CALLS.values()),
        ("tried = unlearn_single_shot(few)", 24.0),
        ("import pandas", 6.0),
    ]
    cells = [{"source": [c], "metadata": {"papermill": {"duration": s}}} for c, s in code]
    cells.append({"source": ["text"], "metadata": {}})
    (run.folder / "notebook.ipynb").write_text(json.dumps({"cells": cells}))
    found = {row["single-shot runs"]: row for row in bench.inside(kit.out)}
    assert {name: row["minutes"] for name, row in found.items()} == {
        "steps": 0.5,
        "measuring the path": 0.5,
        "asking its states": 1.0,
        "everything else": 0.5,
    }
    assert [row["share"] for row in found.values()] == [0.2, 0.2, 0.4, 0.2]
    notebook = json.loads((REPOSITORY / "notebooks/03_unlearn_single_shot.ipynb").read_text())
    code = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    for call in bench.CALLS.values():
        assert sum(call in cell for cell in code) == 1


def test_the_path_is_what_costs_most_after_steps():
    """docs/performance.md says so, of all methods and of the demo."""
    assert "next cost after steps is measuring the path" in bench.SHOTS
    assert "next cost is measuring its path" in bench.TAIL
    result = json.loads(bench.RESULT.read_text())
    for part in ("three_seeds", "demo"):
        rows = {r["single-shot runs"]: r for r in result[part]["rows"] if "share" in r}
        rest = {n: r["share"] for n, r in rows.items() if n not in ("steps", "measuring the path")}
        assert rows["measuring the path"]["share"] > max(rest.values())


def test_asking_is_measured_more_than_once_with_the_same_answers():
    rows = bench.run_part(
        "questions",
        ["questions.py", "--size", "embedded", "--pictures", "1", "--repeats", "2"],
        seconds=300,
    )["rows"]
    assert {row["questions"] for row in rows} == {"people", "text", "mmbench"}
    assert all(row["same_answers"] == 1 for row in rows)


def test_the_profile_for_a_t4_reads_one_conversation_at_a_time():
    assert "one conversation at a time, as the profile for a T4 does" in " ".join(
        (steps.__doc__ or "").split()
    )
    assert load_profile("colab-t4-7b").unlearn.micro_batch == 1


def test_single_shot_runs_are_five_sixths_of_three_seeds():
    """docs/performance.md says so."""
    rows = json.loads(bench.RESULT.read_text())["three_seeds"]["rows"]
    minutes = {row["runs"]: row["minutes"] for row in rows if "runs" in row}
    share = minutes["single_shot"] / minutes["all, one after the other"]
    assert "are five sixths of it" in bench.SHOTS and abs(share - 5 / 6) < 0.04


def test_drawing_is_half_of_an_analysis():
    """docs/performance.md says so, of its largest study."""
    measured = json.loads(bench.RESULT.read_text())["growth"]["rows"]
    most = max((row for row in measured if "figures" in row), key=lambda row: row["runs"])
    assert "is half of it" in bench.DRAWING and 0.4 < most["figures"] / most["all"] < 0.6


def test_a_step_by_ones_has_the_gradient_of_the_whole_batch():
    """What benchmarks/steps.py says of its memory, on the embedded shape."""
    gradients = []
    for at_once in (0, 1):
        side = steps.Bench(steps.model_of("embedded"), 2, micro_batch=at_once)
        side.kit("npo")()
        found = steps.trained_parameters(side.model).values()
        gradients.append(torch.cat([p.grad.flatten() for p in found]))
    whole, by_ones = gradients
    assert (whole - by_ones).norm() <= 1e-5 * whole.norm()

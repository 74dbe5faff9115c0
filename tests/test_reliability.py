"""docs/reliability.md says what outputs/reference/reliability.json holds, and that is whole; a sample
of the same bad inputs is tried here again."""

import json
import sys

import pytest

from pulse_lib.files import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import bad_inputs
import reliability


@pytest.fixture(scope="module")
def result():
    return json.loads(reliability.RESULT.read_text())


def test_the_page_is_written_from_the_result(result):
    assert reliability.PAGE.read_text() == reliability.page(result)


def test_the_result_is_of_enough_kills_and_inputs_and_has_no_fault(result):
    struck = [kill for kill in result["kills"] if kill["struck_at"] >= 0]
    assert len(struck) >= 60 and len(result["inputs"]) >= 1000
    assert all(kill["equal"] and kill["earlier_result_kept"] for kill in struck)
    assert {entry["verdict"] for entry in result["inputs"]} == {"clear"}
    assert {line["verdict"] for line in result["file_system"]} == {"clear"}


def test_the_result_has_every_way_to_run_every_process_and_every_signal(result):
    modes = {kill["mode"] for kill in result["kills"]}
    assert modes == {"study", "notebook", "JupyterLab"}
    assert {kill["who"] for kill in result["kills"]} == {*reliability.VICTIMS, "server"}
    assert {kill["how"] for kill in result["kills"]} == {s.name for s in reliability.SIGNALS}


def test_bad_inputs_are_refused_in_words(tmp_path):
    found = bad_inputs.inputs(70, seed=7, scratch=tmp_path)
    assert len({line["kind"] for line in found}) == 9
    assert [line for line in found if line["verdict"] != "clear"] == []

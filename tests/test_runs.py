"""Run folders: whole or not there, required with the right words, stale for the right reasons
only.
"""

from __future__ import annotations

import errno
import json
import os

import nbformat
import pandas as pd
import pytest
from conftest import write_results

from pulse_lib import files, runs
from pulse_lib.errors import PulseError
from pulse_lib.files import read_json, replace_file, write_csv, write_json
from pulse_lib.runs import kinds, library, manifest


def data_spec(kit, seed: int = 0):
    return runs.spec_of("data", kit.shared | {"seed": seed})


def target_spec(kit, seed: int = 0):
    return runs.spec_of("target", kit.shared | {"seed": seed})


def state(kit, spec):
    return runs.status(spec, kit.profile)


# --- files ------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    write_csv(path, pd.DataFrame({"a": [1, 2]}))
    write_csv(path, pd.DataFrame({"a": [3]}))
    assert path.read_text() == "a\n3\n"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


def test_a_write_that_fails_half_way_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})

    def half(tmp):
        tmp.write_text("{")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        replace_file(path, half)
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "no permission")],
)
def test_a_full_or_read_only_folder_is_named_with_the_fix(tmp_path, monkeypatch, number, words):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "replace", refuse)
    with pytest.raises(PulseError) as caught:
        write_json(tmp_path / "x.json", {})
    assert (
        words in str(caught.value)
        and str(tmp_path) in str(caught.value)
        and "out_dir" in str(caught.value)
    )
    assert not list(tmp_path.iterdir())


def test_a_file_where_the_folder_should_be_is_named(tmp_path, kit):
    kit.out.write_text("I am a file")
    with pytest.raises(PulseError, match="is a file, not a folder"):
        runs.start(data_spec(kit), kit.profile)


def test_a_broken_json_file_is_named(tmp_path):
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(PulseError, match="x.json cannot be read"):
        read_json(tmp_path / "x.json")
    with pytest.raises(PulseError, match="y.json is missing"):
        read_json(tmp_path / "y.json")


# --- folders and manifests --------------------------------------------------------------------


def test_folders_of_runs(tmp_path):
    assert runs.run_folder(
        "single_shot",
        tmp_path,
        scenario="finetuned",
        method="ga_klr",
        trained_part="projector+llm",
        seed=0,
    ) == (tmp_path / "single_shot/finetuned/ga_klr-projector+llm-seed-0")
    name = "npo-adapter_per_request-llm-order-1-seed-2"
    assert (
        runs.run_folder(
            "sequential",
            tmp_path,
            method="npo",
            strategy="adapter_per_request",
            trained_part="llm",
            order=1,
            seed=2,
        )
        == tmp_path / "sequential" / name
    )
    assert kinds.out_folder("tiny").is_absolute() and kinds.out_folder("tiny").parts[-2:] == (
        "outputs",
        "tiny",
    )
    assert kinds.out_folder("/some/where/own.yaml").parts[-2:] == ("outputs", "own")
    assert kinds.out_folder("tiny", str(tmp_path)) == tmp_path.resolve()


def test_a_finished_run_says_what_it_was_made_from(kit):
    kit.finish(data_spec(kit))
    kit.finish(target_spec(kit))
    made = runs.require(target_spec(kit).folder, "02_finetune", checksums=True)
    data = runs.require(data_spec(kit).folder, "01_build_datasets")
    assert made["inputs"] == {"data/seed-0": data["result"]}
    assert made["files"]["rows.parquet"]["bytes"] == 1
    assert "adapters/finetune/file.txt" in made["files"]
    assert made["profile"]["unlearn"]["learning_rate"] == 1e-3
    assert made["parameters"]["seed"] == 0 and made["kind"] == "target"
    assert made["peak_memory_mib"] > 10 and made["versions"]["pandas"]
    assert made["schema_version"] == 2 and made["seconds"] >= 0


def test_a_run_without_its_declared_files_does_not_finish(kit):
    spec = data_spec(kit)
    started = runs.start(spec, kit.profile)
    write_results(started.folder, spec.files)
    (started.folder / "splits.csv").unlink()
    with pytest.raises(PulseError, match="splits.csv was not written"):
        runs.finish(started)
    assert state(kit, spec).state == "missing"


def test_a_missing_upstream_names_the_notebook_to_run(kit):
    with pytest.raises(PulseError, match=r"data/seed-0 is missing: run 01_build_datasets first"):
        runs.start(target_spec(kit), kit.profile)


def test_half_written_truncated_and_altered_results_are_refused(kit):
    spec = data_spec(kit)
    kit.finish(spec)
    path = spec.folder / "manifest.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(
        PulseError, match="manifest.json is half-written.*run 01_build_datasets again"
    ):
        runs.start(target_spec(kit), kit.profile)
    assert state(kit, spec).state == "stale"
    path.write_text("[]")
    with pytest.raises(PulseError, match="half-written"):
        runs.require(spec.folder, spec.notebook)
    path.unlink()
    with pytest.raises(PulseError, match="is incomplete"):
        runs.require(spec.folder, spec.notebook)
    path.write_text(whole)
    (spec.folder / "rows.parquet").write_text("")
    with pytest.raises(PulseError, match=r"rows.parquet is truncated \(0 of 1 bytes\)"):
        runs.require(spec.folder, spec.notebook)
    (spec.folder / "rows.parquet").write_text("y")
    with pytest.raises(PulseError, match="rows.parquet was changed"):
        runs.start(target_spec(kit), kit.profile)
    (spec.folder / "rows.parquet").unlink()
    with pytest.raises(PulseError, match="rows.parquet is missing"):
        runs.require(spec.folder, spec.notebook)


def test_starting_again_leaves_the_older_result_in_force_until_the_new_one_is_whole(kit):
    spec = data_spec(kit)
    kit.finish(spec)
    started = runs.start(spec, kit.profile)
    assert started.folder == spec.folder.with_name("seed-0.half")
    (started.folder / "splits.csv").write_text("half of another attempt")
    again = runs.start(spec, kit.profile)
    assert [path.name for path in again.folder.iterdir()] == ["half-made.json"]
    assert runs.require(spec.folder, spec.notebook, checksums=True)
    assert state(kit, spec).state == "done"
    write_results(again.folder, spec.files, "y")
    runs.finish(again)
    assert again.folder == spec.folder and (spec.folder / "rows.parquet").read_text() == "y"
    assert [path.name for path in spec.folder.parent.iterdir()] == ["seed-0"]


def test_rounds_are_kept_only_if_whole_and_of_this_very_run(kit):
    kit.finish(data_spec(kit))
    kit.finish(target_spec(kit))
    spec = runs.spec_of("sequential", kit.shared)
    started = runs.start(spec, kit.profile)
    for number in (1, 2, 3):
        (started.folder / f"round-{number}").mkdir()
        (started.folder / f"round-{number}" / "rows.parquet").write_text("rows")
    assert manifest.finished_round(started, 1) is None
    manifest.finish_round(started, 1, files=["rows.parquet"], extra={"note": 7})
    manifest.finish_round(started, 2, files=["rows.parquet"])
    (started.folder / "round-2" / "rows.parquet").write_text("row")  # cut off afterwards
    again = runs.start(spec, kit.profile)
    assert sorted(p.name for p in again.folder.iterdir()) == ["half-made.json", "round-1"]
    assert manifest.finished_round(again, 1)["note"] == 7
    kit.profile_file.write_text(kit.profile_file.read_text().replace("1.0e-3", "2.0e-3"))
    other = runs.start(spec, kit.profile)
    assert [p.name for p in other.folder.iterdir()] == ["half-made.json"]


# --- stale or not -----------------------------------------------------------------------------


@pytest.fixture
def done(kit):
    for spec in (data_spec(kit), target_spec(kit)):
        kit.finish(spec)
        assert state(kit, spec).state == "done"
    return kit


def edit(kit, name: str, change) -> None:
    path = kit.notebooks / f"{name}.ipynb"
    book = nbformat.read(path, 4)
    change(book)
    nbformat.write(book, path)


def test_a_changed_setting_makes_stale_what_depends_on_it(done):
    done.profile_file.write_text(done.profile_file.read_text() + "finetune: {epochs: 7}\n")
    assert state(done, data_spec(done)).state == "done"
    found = state(done, target_spec(done))
    assert (found.state, found.why) == ("stale", "profile finetune.epochs was 1, is 7")


def test_a_changed_code_cell_makes_stale(done):
    edit(done, "02_finetune", lambda book: book.cells[-1].update(source="print('other')"))
    found = state(done, target_spec(done))
    assert (found.state, found.why) == ("stale", "code cells of 02_finetune changed")
    assert state(done, data_spec(done)).state == "done"


def test_text_outputs_and_the_defaults_of_parameters_do_not(done):
    def change(book):
        book.cells[0].source = "Another story."
        book.cells[1].source = book.cells[1].source.replace("seed: int = 0", "seed: int = 5")
        book.cells[2].outputs = [nbformat.v4.new_output("stream", text="hello")]
        book.cells[2].execution_count = 3

    edit(done, "02_finetune", change)
    assert state(done, target_spec(done)).state == "done"


def test_a_remade_input_counts_only_if_its_results_differ(done):
    done.finish(data_spec(done))
    assert state(done, target_spec(done)).state == "done"
    done.finish(data_spec(done), text="y")
    found = state(done, target_spec(done))
    assert (found.state, found.why) == ("stale", "input data/seed-0 changed")


def test_wall_times_are_no_results(done):
    spec = target_spec(done)
    before = runs.require(spec.folder, spec.notebook)["result"]
    started = runs.start(spec, done.profile)
    write_results(started.folder, spec.files)
    (started.folder / "log.csv").write_text("seconds: other")
    assert runs.finish(started)["result"] == before


def test_a_missing_input_makes_stale(done):
    (data_spec(done).folder / "manifest.json").unlink()
    found = state(done, target_spec(done))
    assert found.state == "stale" and "data/seed-0 is incomplete" in found.why


def test_a_changed_module_is_named_and_alone_makes_nothing_stale(done, monkeypatch):
    assert not state(done, data_spec(done)).library
    whole = library.library_of("data")
    name = "data/records.py"
    monkeypatch.setattr(manifest, "library_of", lambda kind: whole | {name: "another"})
    found = state(done, data_spec(done))
    assert (found.state, found.library) == ("done", (name,))


def test_the_embedded_model_counts(done, monkeypatch):
    import pulse_lib.assets

    text = done.profile_file.read_text().replace("no/model/is/loaded", "embedded")
    done.profile_file.write_text(text)
    monkeypatch.setattr(pulse_lib.assets, "asset_checksum", lambda settings: "one")
    done.finish(data_spec(done))
    assert state(done, data_spec(done)).state == "done"
    monkeypatch.setattr(pulse_lib.assets, "asset_checksum", lambda settings: "two")
    assert state(done, data_spec(done)).why == "the embedded model changed"


def test_a_study_can_be_moved(done):
    moved = done.out.with_name("moved")
    done.out.rename(moved)
    spec = runs.spec_of("target", {"profile": str(done.profile_file), "out_dir": str(moved)})
    assert runs.status(spec, done.profile).state == "done"


def test_a_manifest_is_plain_json(done):
    text = (target_spec(done).folder / "manifest.json").read_text()
    assert json.loads(text)["identity"]["kind"] == "target"

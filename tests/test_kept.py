"""A study's committed form: the analysis of it is that of the study, byte for byte."""

from __future__ import annotations

import io
import json
import re
import zipfile

import pandas as pd
import pyarrow.parquet as pq
import pytest
import synthetic_study as made
from PIL import Image
from typer.testing import CliRunner

from pulse_lib.__main__ import app
from pulse_lib.commands import kept
from pulse_lib.commands.results import REFERENCE
from pulse_lib.data import pictures
from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.rows import read_rows
from pulse_lib.files import read_json, write_json
from pulse_lib.profile import PeopleSettings, load_profile
from pulse_lib.report import collect, explorer, widgets
from pulse_lib.report.figures.gallery import ENTRIES, Gallery
from pulse_lib.report.figures.style import png
from pulse_lib.report.findings import ledger
from pulse_lib.report.tables import tables

METHODS, IN_TURN = ("ga", "npo", "oracle"), ("ga", "npo")
NPO = "sequential/npo-adapter_per_request-projector+llm-order-0-seed-"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "out"
    return made.write_study(out, METHODS, seeds=(0, 1), sequential=IN_TURN)


@pytest.fixture(scope="module")
def small(study):
    """What `keep` wrote of it."""
    into = study.parent / "kept"
    kept.keep(study, into, profile=made.PROFILE, full=("ga", "oracle"))
    return into


@pytest.fixture(scope="module")
def again(small):
    """The study that was made of it."""
    out = small.parent / "again"
    kept.unpack(small, out)
    return out


def written(found: collect.Study) -> dict[str, str]:
    """Every table of the analysis, as it is written."""
    findings = ledger.ledger(found)
    every = tables.all_tables(found) | {
        "ledger": ledger.as_table(findings, found.profile),
        "ledger_numbers": ledger.numbers_table(findings),
    }
    gallery = Gallery(found)
    every |= {f"figure {entry.name}": gallery.table(entry.table) for entry in ENTRIES}
    return {name: table.to_csv(index=False) for name, table in every.items()}


@pytest.fixture(scope="module")
def whole(study):
    """What the analysis writes of the study itself."""
    return written(collect.collect(study, made.PROFILE))


def test_the_tables_of_a_kept_study_are_those_of_the_study_byte_for_byte(study, again, whole):
    profile, _ = kept.unpack(study.parent / "kept", again)
    assert written(collect.collect(again, profile)) == whole
    assert {"distance", "ledger_numbers", "figure story"} < set(whole)


def test_pictures_of_single_answers_are_of_the_first_seed_and_the_same(study, again, small):
    profile, _ = kept.unpack(small, again)
    looks = [
        explorer.still(explorer.explorer(collect.collect(out, p)))
        for out, p in ((study, made.PROFILE), (again, profile))
    ]
    assert {k: png(v) for k, v in looks[0].items()} == {k: png(v) for k, v in looks[1].items()}
    found = collect.collect(again, profile)
    some = next(iter(store(study)))
    pixels = [widgets.material(found, seed)[1][some].tobytes() for seed in (0, 1)]
    assert pixels[1] == pictures.not_kept().tobytes() != pixels[0]


def store(out) -> dict[str, bytes]:
    """The pictures of the first seed."""
    return ImageStore.read(out / "data" / "seed-0" / "images.parquet").encoded


def test_without_pictures_an_analysis_is_whole_with_grey_squares(study, whole, tmp_path):
    kept.keep(study, tmp_path / "kept", profile=made.PROFILE, with_pictures=False)
    with zipfile.ZipFile(tmp_path / "kept" / "seed-0.zip") as archive:
        assert archive.namelist() == [kept.FILES, kept.ROWS]
    profile, _ = kept.unpack(tmp_path / "kept", tmp_path / "out")
    found = collect.collect(tmp_path / "out", profile)
    assert written(found) == whole
    assert explorer.still(explorer.explorer(found)) and Gallery(found).show("story").png


def test_photos_are_not_handed_on_unless_that_is_said(study, tmp_path, monkeypatch):
    names = ("tiny", "tiny-equal", "clear-llava-1.5-7b-24gb", "pope-llava-1.5-7b-24gb")
    assert [kept.is_drawn(load_profile(name)) for name in names] == [True, True, False, False]
    kept.keep(study, tmp_path, profile=made.PROFILE)
    profile = tmp_path / "tiny.yaml"
    there = []
    for drawn, words in (
        (True, []),
        (False, []),
        (True, ["--no-pictures"]),
        (False, ["--pictures"]),
    ):
        monkeypatch.setattr(kept, "is_drawn", lambda _, drawn=drawn: drawn)
        line = ["keep", str(study), str(tmp_path), "--profile", str(profile), *words]
        assert CliRunner().invoke(app, line).exit_code == 0
        with zipfile.ZipFile(tmp_path / "seed-0.zip") as archive:
            there.append(kept.PICTURES in archive.namelist())
    assert there == [True, False, False, True]


def test_kept_pictures_have_the_same_pixels_in_fewer_bytes(study, again, small):
    kept.unpack(small, again)
    before, kept_now = store(study), store(again)
    pairs = [(before[name], after) for name, after in kept_now.items()]
    assert len(pairs) > 5
    for before, after in pairs:
        assert pictures.decoded(after).tobytes() == pictures.decoded(before).tobytes()
        assert after[:4] == b"RIFF" and len(after) < 0.6 * len(before)
    photo = io.BytesIO()  # which another coding without loss makes larger
    Image.effect_noise((64, 64), 50).convert("RGB").save(photo, "JPEG", quality=60)
    assert pictures.smallest(photo.getvalue()) == photo.getvalue()


def test_what_no_table_reads_is_left_out_of_the_other_methods_other_seeds(study, again, small):
    for name, whole in ((f"{NPO}0", True), (f"{NPO}1", False), (f"{NPO[:11]}ga{NPO[14:]}1", True)):
        before, after = (read_rows(out / name / "rows.parquet") for out in (study, again))
        if whole:
            pd.testing.assert_frame_equal(before, after)
            continue
        assert set(after["response"]) == {kept.NOT_KEPT}
        assert after["option_loglik"].map(len).sum() == 0 and after["answer_logprob"].isna().all()
        rest = [n for n in before if n not in ("response", "option_loglik", "answer_logprob")]
        pd.testing.assert_frame_equal(before[rest], after[rest])
    sizes = []
    for seed in (0, 1):
        with zipfile.ZipFile(small / f"seed-{seed}.zip") as archive:
            sizes.append(archive.getinfo("rows.parquet").file_size)
    assert sizes[1] < sizes[0]


def test_a_seed_is_one_file_and_an_interrupted_keep_leaves_it_as_it_was(
    study, small, tmp_path, monkeypatch
):
    def contents():
        return {path.name: path.read_bytes() for path in into.iterdir()}

    into = tmp_path / "kept"
    lines = kept.keep(study, into, profile=made.PROFILE, full=("ga", "oracle"))
    before = contents()
    assert set(before) == {"tiny.yaml", "seed-0.zip", "seed-1.zip"}
    assert before == {path.name: path.read_bytes() for path in small.iterdir()}  # no dates in it
    for line in lines.itertuples():
        assert line.mb == round(len(before[f"seed-{line.seed}.zip"]) / 1e6, 2)

    def stopped(*_args, **_kwargs):
        raise KeyboardInterrupt

    for where in ("_keep_rows", "_keep_files", "_keep_pictures"):
        with monkeypatch.context() as m:
            m.setattr(kept, where, stopped)
            with pytest.raises(KeyboardInterrupt):
                kept.keep(study, into, profile=made.PROFILE)
        assert contents() == before
    with monkeypatch.context() as m:
        m.setattr(zipfile.ZipFile, "writestr", stopped)
        with pytest.raises(KeyboardInterrupt):
            kept.keep(study, into, profile=made.PROFILE)
    assert contents() == before


def test_where_a_study_lay_is_not_handed_on(tmp_path):
    study = made.write_study(tmp_path / "out", ("ga",), seeds=(0,), sequential=())
    for path in study.rglob("manifest.json"):
        manifest = read_json(path)
        manifest["parameters"]["out_dir"] = str(study)
        write_json(path, manifest)
    kept.keep(study, tmp_path / "kept", profile=made.PROFILE)
    with zipfile.ZipFile(tmp_path / "kept" / "seed-0.zip") as archive:
        files = pq.read_table(io.BytesIO(archive.read("files.parquet"))).to_pylist()
    manifests = [json.loads(f["bytes"]) for f in files if f["file"] == "manifest.json"]
    assert len(manifests) >= 3 and {m["parameters"]["out_dir"] for m in manifests} == {""}
    assert not [f["file"] for f in files if str(tmp_path).encode() in f["bytes"]]


def test_a_seed_that_is_cut_off_is_named(small, tmp_path):
    for path in small.iterdir():
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content[:-100] if path.suffix == ".zip" else content)
    with pytest.raises(PulseError, match=r"seed-0\.zip is no whole file of `keep`"):
        kept.unpack(tmp_path, tmp_path / "out")


def test_a_seed_that_is_kept_stays_when_another_study_is_added(study, tmp_path):
    other = made.write_study(tmp_path / "other", ("ga",), seeds=(7,), sequential=())
    kept.keep(study, tmp_path / "kept", profile=made.PROFILE)
    kept.keep(other, tmp_path / "kept", profile=made.PROFILE)
    profile, _ = kept.unpack(tmp_path / "kept", tmp_path / "again")
    seeds = {run.parameter("seed") for run in collect.collect(tmp_path / "again", profile).runs}
    assert seeds == {0, 1, 7}


def test_a_part_of_a_kept_study_is_a_study_of_its_own(small, tmp_path):
    """The same tables as of a study that never had the other seeds and methods."""
    other = made.write_study(tmp_path / "other", ("ga",), seeds=(1,), sequential=("ga",))
    part = kept.Part((1,), methods=("ga",))
    profile, _ = kept.unpack(small, tmp_path / "part", part=part)
    found = collect.collect(tmp_path / "part", profile)
    expected = collect.collect(other, made.PROFILE)
    assert sorted(run.name for run in found.runs) == sorted(run.name for run in expected.runs)
    assert written(found) == written(expected)
    with pytest.raises(PulseError, match="holds something else"):
        kept.unpack(small, tmp_path / "part")
    same = kept.Part([1], methods=["ga"])  # a list as well as a tuple: it is there
    assert kept.unpack(small, tmp_path / "part", part=same)[0] == profile
    for nothing in (kept.Part((5,)), kept.Part(methods=("rmu",))):
        with pytest.raises(PulseError, match="holds no run of (seeds 5|methods rmu)"):
            kept.unpack(small, tmp_path / "none", part=nothing)
    assert not (tmp_path / "none").exists()


def test_a_probe_goes_with_the_run_that_it_probes_and_strategies_with_sequential_runs():
    def run(kind: str, **parameters) -> dict:
        return {"kind": kind, "parameters": parameters}

    manifests = {
        "data/seed-0": run("data", seed=0),
        "one": run("single_shot", seed=0, method="npo"),
        "turn": run("sequential", seed=0, method="npo", strategy="experts"),
        "probe": run("probe", run="turn"),
        "lost": run("probe", run="nowhere"),
    }
    every = set(manifests) - {"lost"}

    def names(**axes) -> set[str]:
        return {name for name in manifests if kept.Part(**axes).has(name, manifests)}

    assert names() == names(strategies=("experts",)) == every
    rest = {"data/seed-0", "one"}
    assert names(strategies=("replay",)) == names(strategies=("replay",), methods=("npo",)) == rest
    assert names(methods=("ga",)) == {"data/seed-0"} and names(seeds=(1,)) == set()


def test_other_settings_do_not_go_into_one_folder(study, small):
    unlearn = made.PROFILE.unlearn.with_values(matched_at=0.3)
    with pytest.raises(PulseError, match="other settings"):
        kept._check_same(small, made.PROFILE.with_values(unlearn=unlearn))
    kept._check_same(small, made.PROFILE)


def test_people_of_ones_own_are_not_kept_to_be_handed_on(study, tmp_path):
    people = PeopleSettings(source="folder", path="mine")
    data = made.PROFILE.data.with_values(
        people=people, n_candidates=0, n_pretrained_forget=0, n_pretrained_retain=0
    )
    with pytest.raises(PulseError, match="people of yours"):
        kept.keep(study, tmp_path / "kept", profile=made.PROFILE.with_values(data=data))
    assert not (tmp_path / "kept").exists()


def test_a_folder_that_holds_something_else_is_left_alone(small, study, tmp_path):
    with pytest.raises(PulseError, match="something else"):
        kept.unpack(small, study)
    with pytest.raises(PulseError, match="no kept study"):
        kept.unpack(tmp_path, tmp_path / "out")
    with pytest.raises(PulseError, match="no complete run"):
        kept.keep(tmp_path, tmp_path / "kept", profile=made.PROFILE)


def test_the_reference_folder_is_searched_for_what_was_kept(small, again, tmp_path):
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "kept").symlink_to(small)
    profile, file = kept.unpack(tmp_path / "reference", tmp_path / "out")
    assert profile.as_dict() == made.PROFILE.as_dict() and file.endswith("out/tiny.yaml")
    assert kept.unpack(small, tmp_path / "out")[1] == file  # a second time it is there


def test_the_command_says_how_to_go_on(study, tmp_path):
    profile = tmp_path / "tiny.yaml"
    kept.keep(study, tmp_path / "kept", profile=made.PROFILE)
    profile.write_bytes((tmp_path / "kept" / "tiny.yaml").read_bytes())
    words = ["keep", str(study), str(tmp_path / "kept"), "--profile", str(profile)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert "analyze --from" in said.output and " 0 " in said.output


def test_the_command_takes_a_part(small, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        kept, "analyze", lambda source, out, *, part: (seen.append(part), tmp_path)[1]
    )
    words = ["analyze", "--from", str(small)]
    axes = ["--seeds", "0,1", "--methods", "ga,npo", "--strategies", "experts"]
    for more in ([], axes):
        assert CliRunner().invoke(app, [*words, *more]).exit_code == 0
    part = kept.Part([0, 1], methods=["ga", "npo"], strategies=["experts"])
    assert seen == [kept.Part(), part]
    wrong = CliRunner().invoke(app, [*words, "--strategies", "expert"])
    assert isinstance(wrong.exception, PulseError) and "expert" in str(wrong.exception)


def asked(words: str) -> kept.Part:
    """The part that a command of the reference folder's README names."""
    lists = {name: value.split(",") for name, value in re.findall(r"--(\w+) (\S+)", words)}
    seeds = [int(seed) for seed in lists.pop("seeds", [])]
    return kept.Part(
        seeds, methods=lists.get("methods", ()), strategies=lists.get("strategies", ())
    )


@pytest.mark.parametrize("of", ["tiny", "tiny/three_seeds", "tiny-equal"])
def test_the_reference_tables_are_those_of_the_committed_rows(tmp_path, of):
    reference = REFERENCE.parent
    study = reference / of.partition("/")[0]
    commands = re.findall(
        rf"analyze --from outputs/reference/{study.name}(.*)$",
        (study / "README.md").read_text(),
        re.M,
    )
    # Of the demo, a part of that study
    words = next(words for words in commands if bool(words) == (of == "tiny"))
    profile, _ = kept.unpack(study, tmp_path / "out", part=asked(words))
    found = written(collect.collect(tmp_path / "out", profile))
    compared = 0
    for path in sorted((reference / of).glob("*.csv")):
        if path.stem in found:
            tables = (pd.read_csv(io.StringIO(found[path.stem])), pd.read_csv(path))
            if words:  # of a demo of its own, made by a later version
                other = ["seconds", "commit", "processor"]
                tables = (t.drop(columns=other, errors="ignore") for t in tables)
            pd.testing.assert_frame_equal(*tables, rtol=1e-6, obj=path.name)
            compared += 1
    assert compared >= {"tiny": 12, "tiny/three_seeds": 11, "tiny-equal": 8}[of]


def test_what_is_committed_stays_small():
    sizes = [path.stat().st_size for path in REFERENCE.parent.rglob("*") if path.is_file()]
    assert 0 < sum(sizes) < 20e6

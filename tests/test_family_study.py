"""The whole protocol with model families other than LLaVA: notebooks 01 to 06 through the real runner,
on checkpoints and benchmarks in their own formats, in 4-bit.
"""

import family_folders
import mllmu_files
import pandas as pd
import pytest
from studies import run_study
from test_real_study import profile, write_mmbench

from pulse_lib import runs
from pulse_lib.data.dataset import read_dataset
from pulse_lib.evaluate.rows import read_rows
from pulse_lib.files import read_json
from pulse_lib.probe.subject import read_probes

METHOD = "ga_klr"
PROBED = f"single_shot/finetuned/{METHOD}-projector+llm-seed-0"


@pytest.fixture(scope="module", params=["qwen2_5_vl", "gemma3"])
def study(request, tmp_path_factory):
    """The folder of the finished study."""
    folder = tmp_path_factory.mktemp(request.param)
    people = mllmu_files.write_mllmu(folder / "mllmu", n_fictitious=6, n_celebrities=4)
    settings = profile(people, write_mmbench(folder / "mmbench.tsv"))
    settings["data"]["n_finetuned_retain"] = 2  # the probe of layers needs two
    model = family_folders.write_family(folder / "model", request.param)
    settings["model"] = {
        "path": str(model),
        "load": "4bit",
        "answer_form": "letter",
        "prompt": "chat",
        "gradient_checkpointing": True,
    }
    return run_study(settings, folder, name="family", method=METHOD, probes=f"{PROBED}@final")


def test_all_six_notebooks_ran_and_answered_everything(study):
    manifests = [read_json(path) for path in study.rglob("manifest.json")]
    assert {m["notebook"][:2] for m in manifests if m.get("notebook")} == {
        *("01", "02", "03", "04", "05", "06")
    }
    data = read_dataset(runs.run_folder("data", study, seed=0))
    for scenario in ("finetuned", "pretrained"):
        folder = runs.run_folder(
            "single_shot",
            study,
            scenario=scenario,
            method=METHOD,
            trained_part="projector+llm",
            seed=0,
        )
        rows = read_rows(folder / "rows.parquet")
        final = rows[rows["state"] == "final"]
        asked = [*data.evaluation(scenario), *data.strangers(scenario)]
        assert set(final["question_id"]) == {q.id for q in asked}
        assert final["option_loglik"].map(len).ge(2).all()
        before = read_rows(
            runs.run_folder("target" if scenario == "finetuned" else "data", study, seed=0)
            / "rows.parquet"
        )
        before = before[before["state"] == "before"].set_index("question_id")["option_loglik"]
        final = final.set_index("question_id")["option_loglik"]
        assert any(list(before[i]) != list(final[i]) for i in final.index)  # it did something
    tables = study / "analysis" / "tables"
    assert sorted(pd.read_csv(tables / "sequential.csv")["round"]) == [0, 1, 2]


def test_a_model_in_4_bits_is_probed_in_every_way(study):
    folder = runs.run_folder("probe", study, run=PROBED, state="final")
    rows = read_probes(folder / "probes.parquet")
    assert rows["option_loglik"].map(len).ge(2).all()
    rounded = rows[rows["probe"] == "quantised"].groupby("condition")["option_loglik"].agg(list)
    assert list(rounded.index) == ["16 bits", "int8", "nf4"]
    assert str(rounded["16 bits"]) != str(rounded["nf4"])

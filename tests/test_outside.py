"""Someone else's model, merged or an adapter, as a run of a study: the same answers, and what is not
the study's is refused.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_measure import Study
from typer.testing import CliRunner

from pulse_lib import runs
from pulse_lib.__main__ import app
from pulse_lib.commands import outside
from pulse_lib.commands.export import export_run
from pulse_lib.data.dataset import read_dataset
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import forget_mean
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import make_rows, read_rows, write_rows
from pulse_lib.methods import METHODS, VARIANTS, get, is_outside
from pulse_lib.model.adapters import WEIGHTS, save_adapter
from pulse_lib.profile import load_profile
from pulse_lib.report.words import label
from pulse_lib.runs.kinds import fields, named_run, spec_of


class Answered(Study):
    """A study whose target was asked its questions."""

    def answers(self, *names):
        """(questions, answers) of the model with these adapters."""
        data, profile = read_dataset(self.data), load_profile(str(self.file))
        questions = data.evaluation("finetuned")
        model = self.stacked(*names)
        given = {"images": data.images, "settings": profile.evaluate}
        return questions, answer_questions(model, questions, **given)

    def run(self, spec, adapters, parent=None):
        profile = load_profile(str(self.file))
        started = runs.start(spec, profile)
        for name in spec.files:
            if not name.endswith("/"):
                (started.folder / name).write_text(f"{spec.name} {name}")
        whose = {"run": spec.name, "scenario": "finetuned", "state": "before", "seed": 0}
        rows = make_rows(*self.answers("finetune"), rules="vlmevalkit_2024", **whose)
        write_rows(started.folder / "rows.parquet", rows)
        for place, name in adapters.items():
            save_adapter(self.model, name, folder=started.folder / place, parent=parent)
        runs.finish(started, list(adapters))
        return started.folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Answered(tmp_path_factory.mktemp("outside"))


@pytest.fixture(scope="module")
def theirs(made, tmp_path_factory):
    """What somebody else has: the target exported, and that model after their unlearning."""
    folder = tmp_path_factory.mktemp("theirs")
    export_run(made.target, folder / "target")
    export_run(made.single, folder / "merged", state="final")
    return folder


def adopt(made, model, base=None):
    return outside.adopt(model, base, run=made.target)


def rows_of(made, name):
    runs.require(made.out / name, "it")
    return read_rows(made.out / name / "rows.parquet")


def test_a_merged_model_answers_in_the_study_as_it_does_by_itself(made, theirs):
    name, table = adopt(made, theirs / "merged", theirs / "target")
    assert name == "single_shot/finetuned/outside_merged-projector+llm-seed-0"
    rows = rows_of(made, name)
    questions, answers = made.answers("finetune", "unlearn")
    rows, strangers = rows.iloc[: len(questions)], rows.iloc[len(questions) :]
    assert len(strangers) and set(strangers["set"]) == {"holdout"}
    assert list(rows["question_id"]) == [q.id for q in questions]
    assert list(rows["response"]) == list(answers["response"])
    pairs = zip(rows["option_loglik"], answers["option_loglik"], strict=True)
    assert max(np.abs(np.subtract(a, b)).max() for a, b in pairs) < 1e-3
    before = made.answers("finetune")[1]
    assert list(rows["response"]) != list(before["response"])  # a control: it was changed
    assert set(rows["method"]) == {"outside_merged"} and set(rows["state"]) == {"final"}
    now = table.set_index("state").loc["now"]
    assert now["forget"] == pytest.approx(forget_mean(rows))


def test_its_change_is_an_adapter_of_the_rank_it_had(made, theirs):
    name, _ = adopt(made, theirs / "merged", theirs / "target")
    config = json.loads((made.out / name / "adapters/final/adapter_config.json").read_text())
    assert config["r"] == 4
    export_run(made.out / name, theirs / "again")
    ours, again = (load_file(theirs / f / "model.safetensors") for f in ("merged", "again"))
    for key, weight in ours.items():
        assert torch.allclose(weight.float(), again[key].float(), atol=1e-4), key


def test_an_adapter_goes_on_the_target_as_it_is(made):
    folder = made.single / "adapters" / "final"
    name, _ = adopt(made, folder)
    _, answers = made.answers("finetune", "unlearn")
    responses = list(rows_of(made, name)["response"])
    assert responses[: len(answers)] == list(answers["response"])  # then come strangers
    kept = load_file(made.out / name / "adapters/final" / WEIGHTS)
    theirs = load_file(folder / WEIGHTS)
    assert set(kept) == set(theirs) and all(torch.equal(kept[k], theirs[k]) for k in kept)


def test_the_command_says_what_it_knows_and_where_to_probe_it(made, theirs):
    words = ["measure", "--model", theirs / "merged", "--base", theirs / "target"]
    words += ["--run", made.target]
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    name = "single_shot/finetuned/outside_merged-projector+llm-seed-0"
    assert f"-p run {name}" in done.output and "forget_likelihood" in done.output
    wrong = {
        ("--model", "x", "--out", "y"): "give that run with --run",
        ("--model", "x", "--run", "y", "--profile", "tiny"): "and no --out or --profile",
        ("--base", "x", "--out", "y", "--profile", "tiny"): "--base goes with --model",
        ("--profile", "tiny"): "--out is missing",
    }
    for options, said in wrong.items():
        done = CliRunner().invoke(app, ["measure", *options])
        assert isinstance(done.exception, PulseError) and said in str(done.exception)


# --- what is refused ------------------------------------------------------------------------------


def changed(folder, out, key_part, by):
    """A copy of a merged model with one of its weights changed."""
    shutil.copytree(folder, out)
    weights = load_file(out / "model.safetensors")
    (key,) = [k for k in weights if k.endswith(key_part)]
    weights[key] = by(weights[key])
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_what_no_adapter_holds_is_refused(made, theirs, tmp_path):
    other = changed(theirs / "merged", tmp_path / "a", "embed_tokens.weight", lambda w: w + 1)
    with pytest.raises(PulseError, match=r"embed_tokens.*linear layers alone"):
        adopt(made, other, theirs / "target")
    other = changed(
        theirs / "merged", tmp_path / "b", "layers.0.mlp.up_proj.weight", lambda w: w[1:]
    )
    with pytest.raises(PulseError, match="began with another model"):
        adopt(made, other, theirs / "target")


def test_a_base_that_is_not_the_target_is_refused(made, theirs, tmp_path):
    with pytest.raises(PulseError, match="is not that of this study's target"):
        adopt(made, theirs / "merged", theirs / "merged")
    layer = "layers.0.mlp.up_proj.weight"
    near = changed(theirs / "target", tmp_path / "near", layer, lambda w: w.bfloat16().to(w.dtype))
    adopt(made, near, near)  # a merge into 16 bits is that target
    with pytest.raises(PulseError, match="is a single_shot run: give the one whose model"):
        outside.adopt(theirs / "merged", theirs / "target", run=made.single)
    with pytest.raises(PulseError, match="name with --base"):
        adopt(made, theirs / "merged")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(PulseError, match="is no model: it has neither"):
        adopt(made, tmp_path / "nothing", theirs / "target")
    (tmp_path / "half").mkdir()
    shutil.copy(made.single / "adapters/final/adapter_config.json", tmp_path / "half")
    with pytest.raises(PulseError, match="adapter_model.safetensors is missing"):
        adopt(made, tmp_path / "half")


# --- pieces ---------------------------------------------------------------------------------------


def test_a_change_of_low_rank_is_found_exactly_and_rounding_is_not_kept():
    generator = torch.Generator().manual_seed(0)
    b, a = (torch.randn(s, generator=generator) for s in ((12, 3), (3, 20)))
    delta = b @ a
    noise = 1e-5 * delta.norm() * torch.randn(delta.shape, generator=generator)
    found_a, found_b = outside.low_rank(delta + noise)
    assert found_a.shape == (3, 20) and found_b.shape == (12, 3)
    assert torch.allclose(found_b @ found_a, delta, atol=1e-3 * float(delta.norm()))
    full = torch.randn((6, 6), generator=generator)
    found_a, found_b = outside.low_rank(full)
    assert torch.allclose(found_b @ found_a, full, atol=1e-5)


def test_both_ways_of_knowing_decide_what_counts_as_forgotten():
    def rows(said, likely):
        table = pd.DataFrame({"correct": [True] * said + [False] * (10 - said)})
        table["loglik_correct"] = [True] * likely + [False] * (10 - likely)
        both = [table.assign(modality=m, set="forget") for m in ("text", "multimodal")]
        rest = table.assign(modality="text", set="general", correct=True)
        return pd.concat([*both, rest]).assign(wording="trained", invalid=False)

    for said, likely, forgotten in ((3, 3, True), (3, 4, False), (4, 3, False)):
        found = outside.judged(rows(9, 9), rows(said, likely), level=0.35).set_index("state")
        assert found.loc["now", "forgotten"] == forgotten
        assert found.loc["now", "forget_likelihood"] == pytest.approx(likely / 10)
        assert not found.loc["before", "forgotten"]


def test_names_of_outside_models():
    for name in ("outside", "outside_x", "outside_two_2"):
        assert is_outside(name) and get(name).id == name and label(name) == name
        run = f"single_shot/pretrained/{name}-projector+llm-seed-2"
        assert named_run(run)[1]["method"] == name
    assert not {"outside", "outside_x"} & {*METHODS, *VARIANTS}
    for name in ("outsider", "outside_X", "outside-x", "outside_"):
        assert not is_outside(name)
        with pytest.raises(PulseError, match="is not one of"):
            spec_of("single_shot", {"method": name})


def test_only_how_it_is_asked_makes_it_stale():
    profile = load_profile("smoke")
    read = set(fields("single_shot", {"method": "outside_x", "scenario": "x"}, profile=profile))
    assert {"model.path", "evaluate.max_new_tokens"} <= read
    assert not {name for name in read if name.startswith(("unlearn.", "finetune.", "data."))}

"""Export: the merged folder is the stacked model, for every kind of run and layout of checkpoint;
nothing half-written, nothing merged that does not belong.
"""

import json

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration
from typer.testing import CliRunner

from pulse_lib import runs
from pulse_lib.__main__ import app
from pulse_lib.commands import export
from pulse_lib.commands.export import export_run, merge_files, read_deltas, weight_files
from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import save_adapter, stack
from pulse_lib.model.forward import answer_logits, collate
from pulse_lib.model.load import load_model
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import ModelSettings, load_profile
from pulse_lib.runs.checked import file_hash

CONVERSATIONS = [tiny.conversation(i) for i in range(4)]


class Study:
    """A study's folder with a base model, and runs whose adapters were shaken, not trained."""

    def __init__(self, folder, load: str = "full"):
        self.base = tiny.save_tiny(folder / "base")
        self.file, self.out = folder / "own.yaml", folder / "study"
        self.file.write_text(f"extends: smoke\nmodel: {{path: {self.base}, load: {load}}}\n")
        self.shared = {"profile": str(self.file), "out_dir": str(self.out)}
        self.model = tiny.with_adapters("finetune", "unlearn", "again", model=self.load())
        self.run(runs.spec_of("data", self.shared))
        self.target = self.run(
            runs.spec_of("target", self.shared), {"adapters/finetune": "finetune"}
        )

    def load(self, load: str = "full"):
        """The base."""
        return load_model(ModelSettings(path=str(self.base), load=load), "cpu")

    def run(self, spec, adapters=(), parent=None):
        """Finish a run; `adapters`: folder -> name, each on top of `parent`."""
        started = runs.start(spec, load_profile(str(self.file)))
        for name in spec.files:
            if not name.endswith("/"):
                (started.folder / name).write_text(f"{spec.name} {name}")
        for place, name in dict(adapters).items():
            save_adapter(self.model, name, folder=started.folder / place, parent=parent)
        runs.finish(started, list(adapters))
        return started.folder

    def single_shot(self, *states):
        """A single-shot run with these states, the second from other weights."""
        places = dict(zip([f"adapters/{s}" for s in states], ["unlearn", "again"], strict=False))
        spec = runs.spec_of("single_shot", self.shared | {"method": "npo"})
        return self.run(spec, places, self.target / "adapters/finetune")

    def sequential(self, policy="adapter_per_request"):
        """A sequential run of two rounds, the second on top of the first."""
        spec = runs.spec_of("sequential", self.shared | {"method": "npo", "strategy": policy})
        started = runs.start(spec, load_profile(str(self.file)))
        for name in spec.files:
            (started.folder / name).write_text(name)
        parent = self.target / "adapters/finetune"
        for i, name in enumerate(("unlearn", "again"), start=1):
            parent = save_adapter(
                self.model, name, folder=started.folder / f"round-{i}" / "adapter", parent=parent
            )
        runs.finish(started, ["round-1/", "round-2/"])
        return started.folder

    def stacked(self, *names):
        """Logits of the model with these adapters in force."""
        stack(self.model, names)
        return logits(self.model)


def logits(model):
    model.features.add((c.image for c in CONVERSATIONS), tiny.images())
    with torch.no_grad():
        return answer_logits(model, collate(model, encode_conversations(model, CONVERSATIONS)))[0]


def exported(folder):
    return logits(load_model(ModelSettings(path=str(folder)), "cpu"))


def hashes(folder):
    return {p.name: file_hash(p) for p in folder.iterdir()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"), "4bit")


def test_the_folder_is_the_stacked_model(made, tmp_path):
    """Also for a run in 4-bit: what is exported is the full model with the same adapters."""
    before = hashes(made.base)
    run, rounds = made.single_shot("final", "matched"), made.sequential()
    cases = (
        (made.target, {}, ["finetune"]),
        (run, {}, ["finetune", "unlearn"]),
        (run, {"state": "matched"}, ["finetune", "again"]),
        (rounds, {}, ["finetune", "unlearn", "again"]),
        (rounds, {"round_number": 1}, ["finetune", "unlearn"]),
    )
    seen = []
    for i, (folder, options, names) in enumerate(cases):
        card = export_run(folder, tmp_path / str(i), **options)
        found = exported(tmp_path / str(i))
        torch.testing.assert_close(found, made.stacked(*names), rtol=1e-4, atol=1e-4)
        assert len(card["adapters"]) == len(names) and card["n_layers_changed"] == 7 * 2 + 2
        assert json.loads((tmp_path / str(i) / export.CARD).read_text()) == card
        seen.append(found)
    assert torch.equal(seen[1], seen[4]), "round 1 and the single-shot run have the same adapters"
    assert not any(torch.allclose(seen[0], other, atol=1e-2) for other in seen[1:4])
    assert hashes(made.base) == before


def test_no_peft_and_no_kit_are_needed_to_load_it(made, tmp_path):
    export_run(made.target, tmp_path / "model")
    network, info = LlavaForConditionalGeneration.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not hasattr(network, "peft_config")
    processor = AutoProcessor.from_pretrained(tmp_path / "model", backend="pil")
    source = AutoProcessor.from_pretrained(made.base, backend="pil")
    assert processor.to_dict() == source.to_dict()
    assert processor.chat_template == source.chat_template
    assert processor.tokenizer("Who is it?") == source.tokenizer("Who is it?")
    assert {p.name for p in (tmp_path / "model").iterdir()} == {
        *(p.name for p in made.base.iterdir()),
        export.CARD,
    }


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_shards_in_float16_are_merged_in_float32(made, tmp_path, prefix):
    """Closed form by hand, for the hub's key names and transformers 5's own, over two files."""
    flat = {}
    for key, weight in load_file(next(made.base.glob("*.safetensors"))).items():
        tail = key.replace("language_model.model.", "").replace("model.language_model.", "")
        is_language = "layers." in tail and "vision" not in key
        flat[prefix + tail if is_language else key] = weight.half()
    keys = sorted(flat)
    for i, part in enumerate((keys[::2], keys[1::2])):
        save_file({k: flat[k] for k in part}, tmp_path / f"part-{i}.safetensors")
    chain = [made.target / "adapters/finetune", made.sequential() / "round-2/adapter"]
    (tmp_path / "out").mkdir()
    files = sorted(tmp_path.glob("*.safetensors"))
    assert merge_files(files, tmp_path / "out", deltas=read_deltas(chain)) == 16
    after = {k: v for f in files for k, v in load_file(tmp_path / "out" / f.name).items()}
    assert after.keys() == flat.keys()
    changed = {k for k in flat if not torch.equal(after[k], flat[k])}
    assert len(changed) == 16 and not any("vision" in k or "lm_head" in k for k in changed)
    key = f"{prefix}layers.1.mlp.down_proj.weight"
    by_hand = flat[key].float()
    for folder in chain:
        weights = load_file(folder / "adapter_model.safetensors")
        a, b = (
            weights[f"base_model.model.model.language_model.layers.1.mlp.down_proj.{x}.weight"]
            for x in ("lora_A", "lora_B")
        )
        by_hand = by_hand + 8 / 4 * b @ a
    assert after[key].dtype == torch.float16
    # one rounding: to the half of the last place
    assert torch.equal(after[key], by_hand.half())


def test_what_was_made_anew_or_changed_is_refused(tmp_path):
    made = Study(tmp_path / "a")
    run = made.single_shot("final")
    tiny.shake(made.model, "finetune", 7)
    made.run(runs.spec_of("target", made.shared), {"adapters/finetune": "finetune"})
    with pytest.raises(PulseError, match="target/seed-0 was made anew after"):
        export_run(run, tmp_path / "out")
    weights = run / "adapters/final/adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PulseError, match="was changed after it was written"):
        export_run(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_wishes_are_named(made, tmp_path):
    run, rounds = made.single_shot("final"), made.sequential()
    for folder, options, words in (
        (run, {"state": "matched"}, "no --state matched; there are: final"),
        (run, {"round_number": 1}, "--round is for sequential"),
        (rounds, {"state": "final"}, "--state is for single-shot"),
        (rounds, {"round_number": 3}, "no --round 3; there are: 1, 2"),
        (made.sequential("experts"), {}, "left no one model"),
        (made.out / "data/seed-0", {}, "is a data run: only runs that train"),
        (made.out / "nowhere", {}, "is missing"),
    ):
        with pytest.raises(PulseError, match=words):
            export_run(folder, tmp_path / "out", **options)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(PulseError, match="not empty"):
        export_run(run, tmp_path / "full")
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_an_interrupted_export_leaves_nothing(made, tmp_path, monkeypatch):
    def stop(*_):
        assert not list(tmp_path.rglob("config.json")), "config.json must come last"
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        export_run(made.target, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_before_the_work(made, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(export.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PulseError, match=r"0\.0 GB are free"):
        export_run(made.target, tmp_path / "out")


def test_unfit_checkpoints_are_refused(made, tmp_path):
    deltas = read_deltas([made.target / "adapters/finetune"])
    whole = load_file(next(made.base.glob("*.safetensors")))
    key = next(k for k in whole if k.endswith("layers.0.mlp.up_proj.weight") and "vision" not in k)
    wrong = {
        "has no weight for language_model.layers.0.mlp.up_proj": None,
        "shape": torch.zeros(3, 3),
        "16-bit weights only": torch.zeros(4, 4, dtype=torch.uint8),  # bitsandbytes' packed weights
        "not finite": torch.full(whole[key].shape, 65504.0).half() * torch.inf,
    }
    for words, weight in wrong.items():
        changed = {k: v for k, v in whole.items() if k != key}
        save_file(
            changed if weight is None else changed | {key: weight}, tmp_path / "m.safetensors"
        )
        with pytest.raises(PulseError, match=words):
            merge_files([tmp_path / "m.safetensors"], tmp_path / "out", deltas=deltas)
    (tmp_path / "config.json").write_text('{"quantization_config": {}}')
    with pytest.raises(PulseError, match="checkpoint is quantised"):
        weight_files(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert weight_files(tmp_path) == [tmp_path / "m.safetensors"]
    index = {"weight_map": {"a": "m.safetensors", "b": "n.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PulseError, match="n.safetensors is missing"):
        weight_files(tmp_path)


def test_the_command_says_what_it_wrote(made, tmp_path):
    out = tmp_path / "model"
    done = CliRunner().invoke(app, ["export", str(made.target), "--out", str(out)])
    assert done.exit_code == 0 and "1 adapters merged into 16 layers" in " ".join(
        done.output.split()
    )
    assert (out / "config.json").is_file()

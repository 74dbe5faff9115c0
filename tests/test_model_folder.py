"""What people have in a model's folder and what cannot be loaded: refused with file and remedy, before
a weight is read, and without running anything that came with it."""

import json
import os
import pickle
import shutil

import hub_folder
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

from pulse_lib.errors import PulseError
from pulse_lib.model import adapters, load
from pulse_lib.profile import ModelSettings

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 1\n".format("0" * 64)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return hub_folder.write_hub_folder(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def loaded(folder):
    settings = ModelSettings(path=str(folder), answer_form="letter", prompt="vicuna_v1")
    return load.load_model(settings, "cpu")


def edit(path, **values):
    """Values of a JSON file changed; None takes a key out."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def original(folder):
    """As liuhaotian/llava-v1.5-7b has it: a language model's config with LLaVA's words in it."""
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlavaLlamaForCausalLM"],
                "model_type": "llava",
                "mm_vision_tower": "openai/clip-vit-large-patch14-336",
                "mm_projector_type": "mlp2x_gelu",
                "hidden_size": 4096,
                "num_hidden_layers": 32,
            }
        )
    )


def no_weights_but(name):
    def change(folder):
        for path in folder.glob("*.safetensors*"):
            path.unlink()
        if name:
            (folder / name).write_bytes(pickle.dumps({"weight": Trap()}))

    return change


class Trap:
    """Leaves a file behind if it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (os.environ.get("TRAP", "/nowhere"),))


def link_to_nothing(name):
    def change(folder):
        (folder / name).unlink()
        (folder / name).symlink_to("../../blobs/1234abcd")

    return change


def other_shape(folder):
    state = load_file(folder / SHARDS[0])
    key = next(k for k in state if "q_proj" in k and "language_model" in k)
    state[key] = torch.zeros(state[key].shape[0] + 8, state[key].shape[1])
    save_file(state, folder / SHARDS[0], metadata={"format": "pt"})


def cut(folder):
    path = folder / SHARDS[1]
    path.write_bytes(path.read_bytes()[:-1000])


def no_end_token(folder):
    edit(folder / "tokenizer_config.json", eos_token=None)


def other_image_token(folder):
    edit(folder / "config.json", image_token_index=5, image_token_id=5)


PROCESSOR = "processor_config.json"
DAMAGE = {
    # what is done to the folder, the file that must be named, words of the reason and of the remedy
    "liuhaotian": (original, "config.json", "checkpoint of LLaVA's authors", "llava-hf/llava-1.5-7b"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json", "missing", "hf download"),
    "config cut": (lambda f: (f / "config.json").write_text('{"a": '), "config.json", "cut off", "again"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "config.json", "a list", "again"),
    "config nested": (lambda f: (f / "config.json").write_text("[" * 99999), "config.json", "broken", "again"),
    "config not UTF-8": (lambda f: (f / "config.json").write_bytes(b'{"\xff": 1}'), "config.json", "broken", "again"),
    "other family": (lambda f: edit(f / "config.json", model_type="clip"), "config.json", "'clip', which is no model that", "docs/models.md"),
    "no processor": (lambda f: (f / PROCESSOR).unlink(), PROCESSOR, "older copy", "hf download"),
    "no patch size": (lambda f: edit(f / PROCESSOR, patch_size=None), PROCESSOR, "patch_size = None", "write there"),
    "no image part": (lambda f: edit(f / PROCESSOR, image_processor=None), "preprocessor_config.json", "missing", "hf download"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json", "missing", "hf download"),
    "tokenizer cut": (lambda f: (f / "tokenizer.json").write_text('{"model"'), "tokenizer.json", "cut off", "again"),
    "no end token": (no_end_token, "tokenizer_config.json", "no end token", '"eos_token"'),
    "image token": (other_image_token, "tokenizer_config.json", "config.json says 5", "two models"),
    "lfs pointer": (lambda f: (f / SHARDS[0]).write_text(POINTER), SHARDS[0], "pointer of git-lfs", "git lfs pull"),
    "lfs tokenizer": (lambda f: (f / "tokenizer.json").write_text(POINTER), "tokenizer.json", "git-lfs", "git lfs pull"),
    "link": (link_to_nothing(SHARDS[0]), SHARDS[0], "link to ../../blobs/1234abcd, which is gone", "hf download"),
    "link of config": (link_to_nothing("config.json"), "config.json", "which is gone", "hf download"),
    "empty": (lambda f: (f / SHARDS[0]).write_bytes(b""), SHARDS[0], "empty", "hf download"),
    "cut": (cut, SHARDS[1], "cut off", "hf download"),
    "noise": (lambda f: (f / SHARDS[0]).write_bytes(b"\x07" * 999), SHARDS[0], "no safetensors", "hf download"),
    "no index": (lambda f: (f / "model.safetensors.index.json").unlink(), "index.json", "missing beside", "hf download"),
    "index empty": (lambda f: edit(f / "model.safetensors.index.json", weight_map={}), "index.json", "no weights", "hf download"),
    "pickle": (no_weights_but("pytorch_model.bin"), "pytorch_model.bin", "never opened", "safetensors"),
    "gguf": (lambda f: [no_weights_but("a.gguf")(f), (f / "config.json").unlink()], "config.json", "missing", "GGUF"),
    "the cache": (lambda f: [(f / "config.json").unlink(), (f / "snapshots").mkdir()], "config.json", "missing", "in snapshots/"),
    "nothing": (no_weights_but(""), "model", "no *.safetensors", "hf download"),
    "shape": (other_shape, SHARDS[0], "config.json asks for", "two models"),
    "an adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter_config.json", "unasked", "move"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_cannot_be_loaded_is_refused_with_file_and_remedy(folder, tmp_path, monkeypatch, name):
    change, file, reason, remedy = DAMAGE[name]
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    change(folder)
    with pytest.raises(PulseError, match="the model cannot be loaded") as caught:
        loaded(folder)
    said = str(caught.value)
    assert said.startswith(str(folder)) and file in said.split(": ")[0]
    assert reason in said and remedy in said
    assert not (tmp_path / "sprung").exists()


def test_most_is_refused_before_a_weight_is_loaded(folder, monkeypatch):
    def never(*args, **options):
        raise AssertionError("a weight was loaded")

    monkeypatch.setattr(LlavaForConditionalGeneration, "from_pretrained", never)
    for name in ("liuhaotian", "no processor", "lfs pointer", "cut", "pickle", "shape"):
        broken = shutil.copytree(folder, folder.parent / name)
        DAMAGE[name][0](broken)
        with pytest.raises(PulseError, match="cannot be loaded"):
            loaded(broken)


def test_code_in_the_folder_never_runs(folder, tmp_path, monkeypatch):
    """Neither asked for by name nor by default: every call says trust_remote_code=False."""
    mark = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w').write('x')\nclass C: pass\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        auto = dict.fromkeys(
            ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer"), "code.C"
        )
        edit(folder / name, auto_map=auto)
    asked = []
    for cls in (AutoConfig, AutoProcessor, LlavaForConditionalGeneration):
        real = cls.from_pretrained

        def spy(*args, real=real, **options):
            asked.append((options["trust_remote_code"], options["local_files_only"]))
            return real(*args, **options)

        monkeypatch.setattr(cls, "from_pretrained", spy)
    try:
        loaded(folder)
    except PulseError:
        pass  # refusing is as good as not running it
    assert (False, True) in asked and set(asked) == {(False, True)} and not mark.exists()


def test_a_copy_with_links_loads(folder, whole):
    """As the hub's cache has it: links to blobs that are there."""
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    for path in [p for p in folder.iterdir() if p.is_file()]:
        shutil.move(path, blobs / path.name)
        path.symlink_to(blobs / path.name)
    assert loaded(folder).n_image_tokens == loaded(whole).n_image_tokens


# --- adapters ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    return adapters.save_adapter(tiny.with_adapters("a"), "a", folder=folder, parent=None)


def other_rank(folder):
    state = load_file(folder / adapters.WEIGHTS)
    save_file({k: v[:1].contiguous() for k, v in state.items()}, folder / adapters.WEIGHTS)


def halve(name):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return change


ADAPTERS = {
    "weights cut": (halve(adapters.WEIGHTS), adapters.WEIGHTS),
    "weights a pointer": (lambda f: (f / adapters.WEIGHTS).write_text(POINTER), adapters.WEIGHTS),
    "config cut": (halve(adapters.CONFIG), adapters.CONFIG),
    "config a list": (lambda f: (f / adapters.CONFIG).write_text("[]"), adapters.CONFIG),
    "config of another kind": (
        lambda f: (f / adapters.CONFIG).write_text('{"peft_type": "PROMPT_TUNING"}'),
        adapters.CONFIG,
    ),
    "other shapes": (other_rank, adapters.WEIGHTS),
    "manifest cut": (halve(adapters.MANIFEST), adapters.MANIFEST),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_broken_adapter_is_named(adapter, tmp_path, name):
    change, file = ADAPTERS[name]
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    change(folder)
    with pytest.raises(PulseError) as caught:
        adapters.load_adapter(tiny.tiny_model(), folder, name="a")
    assert str(folder / file) in str(caught.value)


@pytest.mark.parametrize("content", ["[]", "{}", '{"parent": 3}'])
def test_a_manifest_without_a_parent_is_named(adapter, tmp_path, content):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    (folder / adapters.MANIFEST).write_text(content)
    with pytest.raises(PulseError, match="manifest.json") as caught:
        adapters.adapter_chain(folder)
    assert str(folder) in str(caught.value)

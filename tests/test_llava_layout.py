"""A folder as llava-hf stores LLaVA-1.5, loaded in 4, 8 and 16 bits: keys, guards, the traps of
4-bit training, and the prompt LLaVA-1.5 was trained on.
"""

import os
import subprocess
import sys
from unittest.mock import patch

import bitsandbytes as bnb
import hub_folder
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from pulse_lib.errors import PulseError
from pulse_lib.model import load
from pulse_lib.model.adapters import add_adapter, only, stack
from pulse_lib.model.families.llava import Llava
from pulse_lib.model.features import pad_to_square, vision_features
from pulse_lib.model.forward import answer_logits, collate, read
from pulse_lib.model.load import load_model
from pulse_lib.model.memory import llava_1_5_config
from pulse_lib.model.prompts import answer_tokens, encode_conversations, encode_questions
from pulse_lib.profile import ModelSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return hub_folder.write_hub_folder(tmp_path_factory.mktemp("llava-hf"))


def loaded(folder, **settings):
    given = {"answer_form": "letter", "prompt": "vicuna_v1"} | settings
    return load_model(ModelSettings(path=str(folder), **given), "cpu")


def batch_of(model, n=3):
    conversations = [tiny.conversation(i) for i in range(n)]
    model.features.add((c.image for c in conversations), tiny.images())
    return collate(model, encode_conversations(model, conversations))


def test_every_weight_arrives_under_its_new_name(folder):
    state = loaded(folder).network.state_dict()
    expected = tiny.tiny_network().state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[k], expected[k]) for k in expected)


@pytest.mark.parametrize(
    ("how", "kind"), [("4bit", bnb.nn.Linear4bit), ("8bit", bnb.nn.Linear8bitLt)]
)
def test_quantised_layers(folder, how, kind):
    network = loaded(folder, load=how).network
    linear = {n: m for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)}
    quantised = {n for n, m in linear.items() if isinstance(m, kind)}
    assert quantised == {n for n in linear if ".language_model.layers." in n} and quantised
    assert not any(
        n.startswith(("lm_head", "model.vision_tower", "model.multi_modal")) for n in quantised
    )


def test_a_layer_quantised_by_accident_stops(folder, monkeypatch):
    """The list of every tutorial for transformers 4: in version 5 it skips nothing but lm_head."""
    monkeypatch.setattr(Llava, "tower", ("vision_tower", "multi_modal_projector"))
    with pytest.raises(PulseError, match="layer model.vision_tower.* was quantised"):
        loaded(folder, load="4bit")


def test_a_layer_left_out_stops(folder, monkeypatch):
    monkeypatch.setattr(Llava, "tower", (*Llava.tower, "down_proj"))
    with pytest.raises(PulseError, match="down_proj was not quantised"):
        loaded(folder, load="4bit")


def test_sixteen_bits_on_a_cpu(folder):
    model = loaded(folder, load="16bit")
    assert model.dtype == torch.bfloat16
    assert torch.isfinite(answer_logits(model, batch_of(model))[0]).all()


def test_lora_weights_are_float32_on_any_base(folder):
    for how in ("4bit", "16bit"):
        model = loaded(folder, load=how)
        add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=0)
        stack(model, [], train="unlearn")
        trained = [(n, p) for n, p in model.network.named_parameters() if p.requires_grad]
        assert {p.dtype for _, p in trained} == {torch.float32}
        layers = model.network.config.text_config.num_hidden_layers
        assert len(trained) == 2 * (7 * layers + 2)
        assert all(".unlearn." in n and "vision_tower" not in n for n, _ in trained)


def test_gradient_checkpointing_changes_no_gradient(folder):
    gradients = []
    for checkpointing in (False, True):
        model = loaded(folder, load="4bit", gradient_checkpointing=checkpointing)
        add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=0)
        tiny.shake(model, "unlearn")
        stack(model, [], train="unlearn")
        model.network.train(checkpointing)
        batch = batch_of(model)
        layer = model.network.model.language_model.layers[0].mlp
        with patch.object(layer, "forward", wraps=layer.forward) as computed:
            answer_logits(model, batch)[0].logsumexp(-1).sum().backward()
        assert computed.call_count == (2 if checkpointing else 1)
        gradients.append([p.grad for p in model.network.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_cached_features_give_what_pixels_give(folder):
    model = loaded(folder, load="4bit")
    picture, question = tiny.picture(3), tiny.question(0)
    ids = torch.tensor(encode_questions(model, [question]))
    pixels = model.processor.image_processor(images=[picture], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        whole = model.network(input_ids=ids, pixel_values=pixels).logits
        features = vision_features(model.network, model.processor, pictures=[picture])
        model.features.known["x"] = features[0]
        cached = model.network.lm_head(read(model, ids, image_ids=["x"]).last_hidden_state)
    assert torch.equal(whole, cached)


def test_the_reference_is_the_shorter_list_of_adapters(folder):
    """Strategy = reference before the first step, in 4-bit, bit for bit; and not the plain base."""
    model = tiny.with_adapters("finetune", model=loaded(folder, load="4bit"))
    batch = batch_of(model)
    with torch.no_grad():
        target = answer_logits(model, batch)[0]
        add_adapter(model, "unlearn", trained_part="llm", rank=4, alpha=8, seed=1)
        stack(model, ["finetune"], train="unlearn")
        policy = answer_logits(model, batch)[0]
        with only(model, "finetune"):
            reference = answer_logits(model, batch)[0]
        with only(model):
            base = answer_logits(model, batch)[0]
    assert torch.equal(policy, reference) and torch.equal(policy, target)
    assert not torch.allclose(base, target)


def test_llava_1_5_has_576_image_tokens():
    """The processor at real size, against the shapes that the memory estimate uses."""
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
        ),
        tokenizer=hub_folder.llama_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    read = processor(images=Image.new("RGB", (500, 300)), text="<image>", return_tensors="pt")
    n_tokens = int((read["input_ids"] == processor.image_token_id).sum())
    assert n_tokens == llava_1_5_config("13b").image_seq_length == 576
    assert read["pixel_values"].shape == (1, 3, 336, 336)


def test_575_image_tokens_stop(tmp_path):
    hub_folder.write_hub_folder(tmp_path, n_additional=0)
    with pytest.raises(PulseError, match="writes 15 image tokens, the vision tower gives 16"):
        loaded(tmp_path)


@pytest.mark.parametrize("damage", ["shard gone", "shard cut", "key gone", "other family"])
def test_broken_folders_are_named(folder, tmp_path, damage):
    broken = tmp_path / "model"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    shard = broken / "model-00002-of-00002.safetensors"
    if damage == "shard gone":
        shard.unlink()
    elif damage == "shard cut":
        shard.write_bytes(shard.read_bytes()[:-1000])
    elif damage == "key gone":
        state = load_file(shard)
        state.pop(next(k for k in state if "mlp" in k))
        save_file(state, shard, metadata={"format": "pt"})
    else:
        config = broken / "config.json"
        config.write_text('{"model_type": "clip"}')
    expected = {
        "shard gone": "1 of 2 files of weights is missing",
        "shard cut": "cannot be loaded",
        "key gone": "weights are missing",
        "other family": "'clip', which is no model that takes pictures and gives words",
    }[damage]
    with pytest.raises(PulseError, match=expected) as caught:
        loaded(broken)
    assert str(broken) in str(caught.value)


def test_too_little_memory_stops_before_loading(folder, monkeypatch):
    monkeypatch.setattr(load, "free_gib", lambda device: 0.001)
    with pytest.raises(PulseError, match="0.0 GiB are free on cpu.*pulse_lib plan"):
        loaded(folder)


@pytest.mark.parametrize("offline", [True, False])
def test_nothing_cached_and_no_network(tmp_path, offline):
    """Within ten seconds of the call, the command that would fetch it, and no library's trace."""
    code = (
        "import time; from pulse_lib.model import load; from pulse_lib.profile import ModelSettings\n"
        "from pulse_lib.errors import PulseError\nstart = time.time()\n"
        "try:\n    load.load_model(ModelSettings(path='llava-hf/llava-1.5-13b-hf', revision='main'))\n"
        "except PulseError as error:\n    print(f'{time.time() - start:.1f}', error)\n"
    )
    changed = {
        "HF_HOME": str(tmp_path),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "01"[offline],
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | changed,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "hf download llava-hf/llava-1.5-13b-hf --revision main" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr and float(done.stdout.split()[0]) < 10


@pytest.mark.parametrize("style", ["vicuna_v1", "mllmu"])
def test_letters_are_one_token_and_cut_where_the_prompt_ends(folder, style):
    model = loaded(folder, prompt=style)
    for letter in "ABCD":
        tokens = answer_tokens(model, letter)
        assert len(tokens) == 2 and model.tokenizer.decode(tokens[:1]).strip() == letter
    conversation = tiny.conversation(2, n_turns=1)
    (encoded,) = encode_conversations(model, [conversation])
    start = encoded.answer.index(True)
    whole = model.tokenizer.decode(encoded.input_ids[:start], skip_special_tokens=False)
    assert whole.endswith("ASSISTANT:")
    turn = conversation.turns[0]
    asked = tiny.question(0)
    asked = type(asked)(**{**vars(asked), "text": turn.text, "options": turn.options, "answer": 0})
    assert list(encoded.input_ids[:start]) == encode_questions(model, [asked])[0]


def test_pictures_are_padded_as_llava_does(folder):
    wide = Image.new("RGB", (60, 30), (255, 0, 0))
    padded = loaded(folder, image_aspect="pad").features
    cropped = loaded(folder).features
    store = type(tiny.images())()
    store.add("wide", wide)
    for features in (padded, cropped):
        features.add(["wide"], store)
    by_hand = vision_features(padded.network, padded.processor, pictures=[pad_to_square(wide)])[0]
    assert torch.equal(padded.known["wide"], by_hand)
    assert not torch.equal(padded.known["wide"], cropped.known["wide"])
    assert pad_to_square(wide).getpixel((0, 0)) == (122, 116, 104)

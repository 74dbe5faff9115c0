"""Loading: the same call for a folder in full precision and in 4-bit; what is quantised and what is
not; checksums.
"""

import bitsandbytes as bnb
import pytest
import tiny
import torch

from pulse_lib import assets
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.model.adapters import stack
from pulse_lib.model.forward import answer_logits, collate
from pulse_lib.model.load import compute_dtype, load_model, mend_quantised
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import EvaluateSettings, ModelSettings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_tiny(tmp_path_factory.mktemp("model"))


def test_full_precision_is_what_was_saved(folder):
    model, source = load_model(ModelSettings(path=str(folder)), "cpu"), tiny.tiny_model()
    assert model.dtype == torch.float32 and model.n_image_tokens == 16 and model.context >= 512
    assert not model.network.training and not any(
        p.requires_grad for p in model.network.parameters()
    )
    expected = source.network.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in model.network.state_dict().items())
    assert type(model.processor.image_processor).__name__.endswith("Pil")


def test_4bit_quantises_the_language_model_and_nothing_else(folder):
    model = load_model(ModelSettings(path=str(folder), load="4bit"), "cpu")
    linear = {n: m for n, m in model.network.named_modules() if isinstance(m, torch.nn.Linear)}
    quantised = {n for n, m in linear.items() if isinstance(m, bnb.nn.Linear4bit)}
    assert quantised == {n for n in linear if ".language_model.layers." in n}
    assert len(quantised) == 7 * model.network.config.text_config.num_hidden_layers
    for name in quantised:
        state = linear[name].weight.quant_state
        assert state.quant_type == "nf4" and state.nested, "NF4 with double quantisation"
        assert linear[name].compute_dtype == torch.float32
        # bitsandbytes sets this on CPUs with AVX512-BF16 only, so it is set here by hand
        linear[name].support_avx512bf16_for_cpu = True
    mend_quantised(model.network, "4bit")
    assert not any(linear[name].support_avx512bf16_for_cpu for name in quantised)


def test_4bit_gradients_are_the_same_after_an_evaluation(folder):
    """On CPUs with AVX512-BF16 bitsandbytes would repack the weights in eval mode and the gradients
    would be wrong.
    """
    model = tiny.with_adapters(
        "unlearn", model=load_model(ModelSettings(path=str(folder), load="4bit"), "cpu")
    )
    stack(model, [], train="unlearn")
    conversations = [tiny.conversation(i) for i in range(3)]
    model.features.add((c.image for c in conversations), tiny.images())
    batch = collate(model, encode_conversations(model, conversations))
    weights = [p for p in model.network.parameters() if p.requires_grad]

    def gradients():
        return torch.autograd.grad(answer_logits(model, batch)[0].logsumexp(-1).sum(), weights)

    before = gradients()
    questions = [tiny.question(i) for i in range(4)]
    first = answer_questions(
        model,
        questions,
        images=tiny.images(),
        settings=EvaluateSettings(max_new_tokens=3, n_path_questions=9),
    )
    after = gradients()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert first.equals(
        answer_questions(
            model,
            questions,
            images=tiny.images(),
            settings=EvaluateSettings(max_new_tokens=3, n_path_questions=9),
        )
    )


def test_4bit_is_near_full_precision(folder):
    full, four = (
        load_model(ModelSettings(path=str(folder), load=load), "cpu") for load in ("full", "4bit")
    )
    conversations = [tiny.conversation(i) for i in range(3)]
    logits = []
    for model in (full, four):
        model.features.add((c.image for c in conversations), tiny.images())
        with torch.no_grad():
            logits.append(
                answer_logits(model, collate(model, encode_conversations(model, conversations)))[0]
            )
    assert (
        torch.nn.functional.cosine_similarity(logits[0].flatten(), logits[1].flatten(), dim=0) > 0.8
    )


def test_dtype_by_device(monkeypatch):
    assert compute_dtype(torch.device("cpu")) == torch.float32
    for capability, expected in (
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((9, 0), torch.bfloat16),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert compute_dtype(torch.device("cuda")) == expected


def test_missing_and_broken_folders_are_named(tmp_path):
    with pytest.raises(PulseError, match="there is no such folder"):
        load_model(ModelSettings(path="./nowhere"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(PulseError, match="model.path = .*: this is a file; give a folder"):
        load_model(ModelSettings(path=str(tmp_path / "model.gguf")))
    with pytest.raises(PulseError, match="cannot be loaded"):
        load_model(ModelSettings(path=str(tmp_path)))


def test_checksums(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(PulseError, match="SHA256SUMS is missing"):
        assets.verify(tmp_path)
    assets.write_sums(tmp_path)
    checksum = assets.verify(tmp_path)
    assert len(checksum) == 64 and assets.verify(tmp_path) == checksum
    monkeypatch.setattr(assets, "EMBEDDED", tmp_path)
    assert assets.asset_checksum(ModelSettings(path="embedded")) == checksum
    assert assets.asset_checksum(ModelSettings(path="other/model")) == ""
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(PulseError, match="model.safetensors: checksum .*git checkout"):
        load_model(ModelSettings(path="embedded"))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(PulseError, match="model.safetensors is missing"):
        assets.embedded_folder()
    for content, said in ((b"", "SHA256SUMS is empty"), (b"\xff\xfe", "is missing")):
        (tmp_path / "SHA256SUMS").write_bytes(content)
        with pytest.raises(PulseError, match=said):
            assets.embedded_folder()

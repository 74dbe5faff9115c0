"""The stack of adapters: what is trained, what stays, and that every state is exactly what it says.
In full precision and in 4-bit.
"""

import pytest
import tiny
import torch

from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import (
    active,
    adapter_chain,
    adapter_weights,
    add_adapter,
    drop_adapter,
    load_adapter,
    only,
    projector_of,
    save_adapter,
    set_adapter_weights,
    stack,
    trainable_report,
)
from pulse_lib.model.forward import answer_logits, collate
from pulse_lib.model.load import load_model
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.profile import ModelSettings

CONVERSATIONS = [tiny.conversation(i) for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(params=["full", "4bit"])
def model(request, folder):
    return loaded(folder, request.param)


def loaded(folder, load="full"):
    model = load_model(ModelSettings(path=str(folder), load=load), "cpu")
    model.features.add((c.image for c in CONVERSATIONS), tiny.images())
    return model


def logits(model):
    with torch.no_grad():
        return answer_logits(model, collate(model, encode_conversations(model, CONVERSATIONS)))[0]


def base_state(model):
    return {k: v.clone() for k, v in model.network.state_dict().items() if "lora_" not in k}


def test_lora_hits_seven_layers_a_block_and_the_projector(model):
    n_layers = model.network.config.text_config.num_hidden_layers
    for part, expected in (("llm", 7 * n_layers), ("projector+llm", 7 * n_layers + 2)):
        add_adapter(model, "unlearn", trained_part=part, rank=4, alpha=8, seed=0)
        stack(model, [], train="unlearn")
        assert len(adapter_weights(model, "unlearn")) == 2 * expected
        report = trainable_report(model)
        assert report["n_trainable"] == sum(
            w.numel() for w in adapter_weights(model, "unlearn").values()
        )
        assert (report["by_part"]["projector"] > 0) == (part == "projector+llm")
        assert all(p.dtype == torch.float32 for p in model.network.parameters() if p.requires_grad)


def test_fresh_adapter_changes_nothing_and_only_goes_back_in_time(model):
    base = logits(model)
    tiny.with_adapters("finetune", model=model)
    finetuned = logits(model)
    assert not torch.equal(finetuned, base)
    add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=1)
    stack(model, ["finetune"], train="unlearn")
    assert torch.equal(logits(model), finetuned)  # policy == reference at step 0
    tiny.shake(model, "unlearn", 1)
    assert not torch.equal(logits(model), finetuned)
    with only(model, "finetune"):
        assert torch.equal(logits(model), finetuned)
    with only(model):
        assert torch.equal(logits(model), base)
        with pytest.raises(RuntimeError), only(model, "finetune"):
            raise RuntimeError
        assert active(model) == []
    assert active(model) == ["finetune", "unlearn"]


def test_projector_goes_back_in_time_and_the_language_model_stays(model):
    def projected():
        with torch.no_grad():
            return model.network.model.multi_modal_projector(features)

    features = model.features.get([c.image for c in CONVERSATIONS if c.image])
    tiny.with_adapters("finetune", "unlearn", model=model)
    now, both = projected(), logits(model)
    with only(model, "finetune"):
        target = projected()
    with projector_of(model, "finetune"):
        assert torch.equal(projected(), target) and not torch.equal(target, now)
        inside = logits(model)
    assert torch.equal(projected(), now) and torch.equal(logits(model), both)
    assert active(model) == ["finetune", "unlearn"]
    # The same state by hand: what `unlearn` added to the projector taken out of its weights.
    kept = adapter_weights(model, "unlearn")
    without = {k: torch.zeros_like(w) if "projector" in k else w for k, w in kept.items()}
    set_adapter_weights(model, "unlearn", weights=without)
    assert torch.equal(logits(model), inside) and not torch.equal(inside, both)


def test_only_between_forward_and_backward_leaves_the_gradient(model):
    tiny.with_adapters("finetune", "unlearn", model=model)
    stack(model, ["finetune"], train="unlearn")
    batch = collate(model, encode_conversations(model, CONVERSATIONS))
    weights = [p for p in model.network.parameters() if p.requires_grad]
    plain = torch.autograd.grad(answer_logits(model, batch)[0].logsumexp(-1).sum(), weights)
    policy = answer_logits(model, batch)[0].logsumexp(-1).sum()
    with torch.no_grad(), only(model, "finetune"):
        answer_logits(model, batch)
    interrupted = torch.autograd.grad(policy, weights)
    assert all(torch.equal(a, b) for a, b in zip(plain, interrupted, strict=True))
    assert all(g.abs().sum() > 0 for g in plain)


def test_training_one_adapter_leaves_everything_else(model):
    tiny.with_adapters("finetune", "unlearn", model=model)
    before, frozen = base_state(model), adapter_weights(model, "finetune")
    with only(model, "finetune"):
        reference = logits(model)
    stack(model, ["finetune"], train="unlearn")
    assert all(".unlearn." in k for k, p in model.network.named_parameters() if p.requires_grad)
    optimizer = torch.optim.AdamW(
        [p for p in model.network.parameters() if p.requires_grad], lr=0.01
    )
    batch = collate(model, encode_conversations(model, CONVERSATIONS))
    for _ in range(3):
        answer_logits(model, batch)[0].logsumexp(-1).mean().backward()
        assert all(
            p.grad is None for k, p in model.network.named_parameters() if ".unlearn." not in k
        )
        optimizer.step()
        optimizer.zero_grad()
    with only(model, "finetune"):
        assert torch.equal(logits(model), reference)
    after = base_state(model)
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
    assert all(torch.equal(w, frozen[k]) for k, w in adapter_weights(model, "finetune").items())


def test_round_trip_is_exact(model, folder, tmp_path):
    tiny.with_adapters("finetune", "unlearn", model=model)
    expected = logits(model)
    save_adapter(model, "finetune", folder=tmp_path / "target/finetune", parent=None)
    save_adapter(
        model, "unlearn", folder=tmp_path / "run/round-1", parent=tmp_path / "target/finetune"
    )
    fresh = loaded(folder, model.settings.load)
    chain = adapter_chain(tmp_path / "run/round-1")
    assert chain == [(tmp_path / "target/finetune").resolve(), (tmp_path / "run/round-1").resolve()]
    for name, path in zip(["a", "b"], chain, strict=True):
        load_adapter(fresh, path, name=name)
    stack(fresh, ["a", "b"])
    assert torch.equal(logits(fresh), expected)
    stack(fresh, ["b"])
    assert not torch.equal(logits(fresh), expected)


def test_peft_itself_can_load_what_was_saved(folder, tmp_path):
    from peft import PeftModel

    model = tiny.with_adapters("unlearn", model=loaded(folder))
    save_adapter(model, "unlearn", folder=tmp_path / "adapter", parent=None)
    fresh = loaded(folder)
    PeftModel.from_pretrained(fresh.network, str(tmp_path / "adapter"))
    # peft sends tokens through A and B, the model reads W + B A: another order of rounding
    torch.testing.assert_close(logits(fresh), logits(model), rtol=1e-4, atol=1e-4)


def test_weights_go_out_and_in_again(folder):
    model = tiny.with_adapters("finetune", "unlearn", model=loaded(folder))
    expected, kept = logits(model), adapter_weights(model, "unlearn")
    tiny.shake(model, "unlearn", 9)
    assert not torch.equal(logits(model), expected)
    set_adapter_weights(model, "unlearn", weights=kept)
    assert torch.equal(logits(model), expected)
    add_adapter(model, "other", trained_part="llm", rank=2, alpha=4, seed=0)
    with pytest.raises(PulseError, match="do not fit"):
        set_adapter_weights(model, "other", weights=kept)


def test_start_is_drawn_from_the_seed(folder):
    model = loaded(folder)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(drawn))
        add_adapter(model, "unlearn", trained_part="llm", rank=4, alpha=8, seed=seed)
        drawn.append(adapter_weights(model, "unlearn"))
    assert all(torch.equal(drawn[0][k], drawn[1][k]) for k in drawn[0])
    assert not all(torch.equal(drawn[0][k], drawn[2][k]) for k in drawn[0])


def test_dropped_adapter_is_gone(folder):
    model = tiny.with_adapters("finetune", model=loaded(folder))
    finetuned = logits(model)
    add_adapter(model, "unlearn", trained_part="llm", rank=4, alpha=8, seed=0)
    tiny.shake(model, "unlearn")
    stack(model, ["finetune"], train="unlearn")
    drop_adapter(model, "unlearn")
    drop_adapter(model, "unlearn")  # twice is no error
    assert active(model) == ["finetune"] and torch.equal(logits(model), finetuned)
    assert not any(p.requires_grad for p in model.network.parameters())


def test_dropout_of_a_loaded_adapter_is_off(folder, tmp_path):
    model = tiny.with_adapters("finetune", model=loaded(folder))
    path = save_adapter(model, "finetune", folder=tmp_path / "finetune", parent=None)
    config = path / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_dropout": 0.0', '"lora_dropout": 0.5'))
    fresh = loaded(folder)
    load_adapter(fresh, path, name="finetune")
    stack(fresh, ["finetune"])
    fresh.network.train()
    assert torch.equal(logits(fresh), logits(model))


def test_bad_input_is_named(folder, tmp_path):
    model = tiny.with_adapters("finetune", model=loaded(folder))
    with pytest.raises(PulseError, match="projector\\+llm, llm"):
        add_adapter(model, "x", trained_part="vision", rank=4, alpha=8, seed=0)
    with pytest.raises(PulseError, match="'nobody' is not loaded; loaded are: finetune"):
        stack(model, ["nobody"])
    with pytest.raises(PulseError, match="no parameter is trainable"):
        trainable_report(model)
    next(model.network.model.vision_tower.parameters()).requires_grad_(True)
    with pytest.raises(PulseError, match="vision_tower.* is trainable"):
        trainable_report(model)
    path = save_adapter(model, "finetune", folder=tmp_path / "finetune", parent=None)
    (path / "adapter_model.safetensors").unlink()
    with pytest.raises(PulseError, match="adapter_model.safetensors is missing"):
        load_adapter(model, path, name="again")
    (path / "manifest.json").unlink()
    with pytest.raises(PulseError, match="manifest.json"):
        adapter_chain(path)

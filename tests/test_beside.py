"""Adapters beside a layer in 4, 8 or 16 bits: the sum that they stand for, of the adapters as they are
now, and less kept than by peft.
"""

from __future__ import annotations

import pytest
import tiny
import torch
from peft import LoraConfig, inject_adapter_in_model
from test_fused import CONVERSATIONS, NAMES, layers, logits
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaModel

from pulse_lib.model import lean, memory
from pulse_lib.model.adapters import adapter_weights, add_adapter, only, stack, trained_parameters
from pulse_lib.model.beside import MOST_KEPT, Beside, weight_of
from pulse_lib.model.fused import fuse
from pulse_lib.model.lora import LoraLayer, use_bitsandbytes

IN, OUT, TOKENS = 96, 64, 24
# A layer's kind, and the dtype in which it is read
KINDS = [
    ("4bit", torch.float32),
    ("4bit", torch.bfloat16),
    ("4bit", torch.float16),
    ("8bit", torch.bfloat16),
    ("plain", torch.bfloat16),
    ("plain", torch.float16),
]


def quantised(plain: torch.nn.Linear, kind: str, dtype: torch.dtype) -> torch.nn.Linear:
    use_bitsandbytes()
    import bitsandbytes as bnb

    if kind == "plain":
        return plain.to(dtype)
    of_kind = {
        "4bit": (bnb.nn.Linear4bit, {"compute_dtype": dtype, "quant_type": "nf4"}),
        "8bit": (bnb.nn.Linear8bitLt, {"has_fp16_weights": False}),
    }
    make, how = of_kind[kind]
    made = make(plain.in_features, plain.out_features, bias=plain.bias is not None, **how)
    made.load_state_dict(plain.state_dict())
    made.support_avx512bf16_for_cpu = False
    return made.to("cpu")


def layer(kind: str, dtype: torch.dtype, n_frozen: int, *, trained: bool = True) -> LoraLayer:
    """A layer with so many frozen adapters of differing ranks, and one that is trained."""
    torch.manual_seed(0)
    made = torch.nn.ModuleDict({"one": quantised(torch.nn.Linear(IN, OUT), kind, dtype)})
    made.requires_grad_(False).eval()
    names = [f"frozen-{i}" for i in range(n_frozen)] + ["trained"] * trained
    for i, name in enumerate(names):
        config = LoraConfig(r=2 + i, lora_alpha=3, target_modules=["one"])
        inject_adapter_in_model(config, made, adapter_name=name)
    for key, weight in made.named_parameters():
        if "lora_" in key:
            weight.data = 0.1 * torch.randn(weight.shape)
            weight.requires_grad_(".trained." in key)
    found = made["one"]
    assert isinstance(found, LoraLayer)
    found._active_adapter = names
    return found


def results(one: LoraLayer, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """What a layer gives, and the gradients of its input and of the trained adapter."""
    torch.manual_seed(1)
    x = torch.randn(2, TOKENS, IN).to(dtype).requires_grad_()
    given = one(x)
    weight = torch.randn(given.shape).to(dtype)
    (given * weight).float().sum().backward()
    grads = {k: p.grad for k, p in one.named_parameters() if p.grad is not None}
    return {"given": given.detach(), "x": x.grad, **grads}


def exactly(one: LoraLayer, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The same by the formula in float64, from the layer's unpacked matrix."""
    torch.manual_seed(1)
    base = one.get_base_layer()
    x = torch.randn(2, TOKENS, IN).to(dtype).double().requires_grad_()
    given = x @ weight_of(base, torch.float32).double().t() + base.bias.double()
    leaves = {}
    for name in one.active_adapters:
        for part in (one.lora_A, one.lora_B):
            key = f"{'lora_A' if part is one.lora_A else 'lora_B'}.{name}.weight"
            leaves[key] = part[name].weight.detach().double().requires_grad_()
        a, b = leaves[f"lora_A.{name}.weight"], leaves[f"lora_B.{name}.weight"]
        given = given + one.scaling[name] * (x @ a.t() @ b.t())
    (given * torch.randn(given.shape).to(dtype).double()).sum().backward()
    trained = {k: w.grad for k, w in leaves.items() if ".trained." in k}
    return {"given": given.detach(), "x": x.grad, **trained}


@pytest.mark.parametrize("n_frozen", [0, 1, 3])
@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_it_is_the_sum_and_no_further_off_than_peft(kind, dtype, n_frozen):
    """Against float64. What rounding does to the base alone is in both."""
    ours, theirs = (layer(kind, dtype, n_frozen) for _ in range(2))
    theirs_given = results(theirs, dtype)
    fuse([ours])
    assert isinstance(ours.forward, Beside)
    ours_given, expected = results(ours, dtype), exactly(ours, dtype)
    assert ours_given.keys() == theirs_given.keys() == expected.keys()
    for key, exact in expected.items():
        off, theirs_off = (
            float((found[key].double() - exact).norm() / exact.norm())
            for found in (ours_given, theirs_given)
        )
        bound = 1e-6 if dtype == torch.float32 else 4e-3 if dtype == torch.bfloat16 else 6e-4
        assert off <= max(1.1 * theirs_off, bound), key
        assert ours_given[key].dtype == theirs_given[key].dtype


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_an_adapter_that_does_nothing_changes_no_bit(kind, dtype):
    one = layer(kind, dtype, 1)
    fuse([one])
    x = torch.randn(3, IN).to(dtype)
    one.lora_B["trained"].weight.data.zero_()
    with torch.no_grad():
        both = one(x)
        one._active_adapter = ["frozen-0"]
        assert torch.equal(one(x), both)
        one._active_adapter = []
        assert torch.equal(one(x), one.get_base_layer()(x))


def test_gradients_pass_where_nothing_is_trained():
    one = layer("4bit", torch.float32, 2, trained=False)
    fuse([one])
    assert set(results(one, torch.float32)) == {"given", "x"}
    found, exact = (way(one, torch.float32)["x"].double() for way in (results, exactly))
    assert (found - exact).norm() <= 1e-6 * exact.norm()


@pytest.fixture
def half():
    """A model in bfloat16."""
    made = tiny.with_adapters(*NAMES, model=tiny.tiny_model(tiny.tiny_network().bfloat16()))
    made.features.add((c.image for c in CONVERSATIONS), tiny.images())
    return made


def test_follows_every_change(half):
    """Also those that no count of changes tells: bitsandbytes' optimizers write where the weights lie."""
    stack(half, NAMES[:2], train=NAMES[2])
    assert all(isinstance(one.forward, Beside) for one in layers(half))
    with torch.no_grad():
        first = logits(half)
        for weight in trained_parameters(half).values():
            weight.data.add_(0.05)
        second = logits(half)
        assert not torch.equal(first, second)
        tiny.shake(half, NAMES[0], 7)
        assert not torch.equal(logits(half), second)
        found = []
        for seed in (1, 2):  # another adapter of the same name, changed as often
            add_adapter(half, NAMES[0], trained_part="projector+llm", rank=4, alpha=8, seed=0)
            tiny.shake(half, NAMES[0], seed)
            stack(half, NAMES)
            found.append(logits(half))
        assert not torch.equal(*found)


def test_what_was_joined_while_asking_serves_training(half):
    stack(half, NAMES[:2], train=NAMES[2])
    with torch.inference_mode():
        logits(half)
    logits(half).sum().backward()
    assert all(p.grad is not None for p in trained_parameters(half).values())


def test_few_stacks_are_kept_and_none_is_merged(half):
    before = {name: adapter_weights(half, name) for name in NAMES}
    with torch.no_grad():
        for names in (NAMES, NAMES[:2], NAMES[:1], NAMES[1:], NAMES):
            with only(half, *names):
                logits(half)
    assert all(len(one.forward.known) == MOST_KEPT for one in layers(half))
    for name, kept in before.items():
        assert all(torch.equal(w, kept[k]) for k, w in adapter_weights(half, name).items())


# --- what is kept for the backward pass ---------------------------------------------------------


def kept_in(n_layers: int, hidden: int, wide: int, *, kind: str, lean_too: bool) -> float:
    """Bytes a token that a language model of so many layers keeps, with adapters of rank 1; by the
    profiler.
    """
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=n_layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        vocab_size=8,
    )
    torch.manual_seed(0)
    network = LlamaModel(config).requires_grad_(False)
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Linear):
            network.set_submodule(name, quantised(module, kind, torch.bfloat16))
    for weight in network.parameters():
        if weight.dtype == torch.float32:
            weight.data = weight.data.bfloat16()
    inject_adapter_in_model(LoraConfig(r=1, target_modules="all-linear"), network)
    network.requires_grad_(False).eval()
    for key, weight in network.named_parameters():
        if "lora_" in key:
            weight.data = weight.data.float()
            weight.requires_grad_()
    if lean_too:
        lean.spare(network)
    fuse(m for m in network.modules() if isinstance(m, LoraLayer))
    x = torch.randn(1, 256, hidden).bfloat16().requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = network(inputs_embeds=x, use_cache=False).last_hidden_state
    assert found.requires_grad
    return sum(e.self_cpu_memory_usage for e in seen.key_averages()) / 256


@pytest.mark.parametrize("kind", ["4bit", "plain"])
def test_a_layer_keeps_what_plan_reckons_with(kind):
    for lean_too in (False, True):
        small, wider, larger = (
            kept_in(3, *widths, kind=kind, lean_too=lean_too)
            - kept_in(2, *widths, kind=kind, lean_too=lean_too)
            for widths in ((128, 384), (128, 640), (256, 640))
        )
        per_wide, per_hidden = (wider - small) / 256, (larger - wider) / 128
        spared = memory.SPARED_WIDE if lean_too else 0.0
        assert per_wide == pytest.approx(memory.KEPT_WIDE - spared, abs=0.05)
        assert per_hidden == pytest.approx(memory.KEPT_HIDDEN, abs=0.2)

"""MLPs that keep less for the backward pass: the same numbers, bit by bit, and less kept."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config
from transformers.models.gemma3.modeling_gemma3 import Gemma3MLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP

from pulse_lib.methods import get
from pulse_lib.model import lean
from pulse_lib.model.adapters import add_adapter, stack, trained_parameters
from pulse_lib.model.fused import fuse
from pulse_lib.model.lora import LoraLayer, use_bitsandbytes
from pulse_lib.model.prompts import encode_conversations
from pulse_lib.train.terms import backward_term

HIDDEN, WIDE, ROWS, TOKENS = 64, 192, 2, 40
CONFIG = LlamaConfig(hidden_size=HIDDEN, intermediate_size=WIDE, hidden_act="silu")
PROJECTIONS = ["gate_proj", "up_proj", "down_proj"]
BASES = ["float32", "float32, by peft", "bfloat16", "4bit", "8bit"]


def mlp(base: str) -> torch.nn.Module:
    """A LlamaMLP whose base is so kept, with a trained float32 LoRA on each projection."""
    from peft import LoraConfig, inject_adapter_in_model

    use_bitsandbytes()
    import bitsandbytes as bnb

    torch.manual_seed(0)
    made = torch.nn.ModuleDict({"mlp": LlamaMLP(CONFIG)}).requires_grad_(False)
    kinds = {
        "4bit": (bnb.nn.Linear4bit, {"compute_dtype": torch.bfloat16, "quant_type": "nf4"}),
        "8bit": (bnb.nn.Linear8bitLt, {"has_fp16_weights": False}),
    }
    for name in PROJECTIONS if base in kinds else ():
        kind, how = kinds[base]
        plain = made["mlp"].get_submodule(name)
        quantised = kind(plain.in_features, plain.out_features, bias=False, **how)
        quantised.load_state_dict(plain.state_dict())
        setattr(made["mlp"], name, quantised.to("cpu").requires_grad_(False))
    if base == "bfloat16":
        made.bfloat16()
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=8, target_modules=PROJECTIONS), made)
    for key, weight in made.named_parameters():
        if "lora_" in key:
            weight.data = 0.1 * torch.randn(weight.shape)
    if base != "float32, by peft":  # as a large model with one adapter is read
        fuse(m for m in made.modules() if isinstance(m, LoraLayer))
    return made["mlp"]


def gradients(module: torch.nn.Module, dtype: torch.dtype) -> list[torch.Tensor]:
    """Of its input and of its adapters, after what it gives."""
    torch.manual_seed(1)
    x = torch.randn(ROWS, TOKENS, HIDDEN).to(dtype).requires_grad_()
    found = module(x)
    (found.float() ** 2).sum().backward()
    adapters = [p.grad for p in module.parameters() if p.requires_grad]
    assert len(adapters) == 6 and all(grad.abs().max() > 0 for grad in adapters)
    return [found.detach(), x.grad, *adapters]


@pytest.mark.parametrize("base", BASES)
def test_the_numbers_are_the_same_bit_by_bit(base):
    dtype = torch.float32 if base.startswith("float32") else torch.bfloat16
    plain, spared = mlp(base), mlp(base)
    spared.forward = lean.LeanMLP(spared)
    for a, b in zip(gradients(plain, dtype), gradients(spared, dtype), strict=True):
        assert torch.equal(a, b)


def kept(module: torch.nn.Module, dtype: torch.dtype) -> float:
    """Bytes that a forward pass leaves in memory, beside what it gives; by the profiler."""
    x = torch.randn(ROWS, TOKENS, HIDDEN).to(dtype).requires_grad_()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        found = module(x)
    left = sum(e.self_cpu_memory_usage for e in seen.key_averages())
    return left - found.nbytes


@pytest.mark.parametrize("base", BASES)
def test_less_is_kept(base):
    """The product, once for the layer and its adapters, and what the activation gives."""
    dtype, spared = (torch.float32, 4 + 4) if "float32" in base else (torch.bfloat16, 2 + 2)
    plain, lean_one = mlp(base), mlp(base)
    lean_one.forward = lean.LeanMLP(lean_one)
    assert kept(plain, dtype) - kept(lean_one, dtype) == spared * ROWS * TOKENS * WIDE


def test_a_models_step_is_the_same_bit_by_bit():
    steps = []
    for settings in ({}, {"gradient_checkpointing": True}):
        model = tiny.tiny_model(**settings)
        modules = dict(model.network.named_modules())
        spared = {n for n, m in modules.items() if isinstance(vars(m).get("forward"), lean.LeanMLP)}
        gated = {n for n, m in modules.items() if isinstance(m, LlamaMLP)}
        assert gated and spared == (set() if settings else gated)
        add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=0)
        tiny.shake(model, "unlearn")
        stack(model, [], train="unlearn")
        model.features.add(["image-0"], tiny.images())
        encoded = encode_conversations(model, [tiny.conversation(0)])
        backward_term(model, get("ga"), side="forget", examples=encoded, supervised_tokens="answer", micro_batch=1, reference=None)  # fmt: skip
        steps.append([p.grad for p in trained_parameters(model).values()])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_only_what_is_understood_is_changed():
    class OtherMLP(LlamaMLP):
        def forward(self, x):
            return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)) / 2

    gemma = Gemma3TextConfig(hidden_size=HIDDEN, intermediate_size=WIDE)
    phi = Phi3Config(hidden_size=HIDDEN, intermediate_size=WIDE)
    network = torch.nn.ModuleList(
        [LlamaMLP(CONFIG), Gemma3MLP(gemma), OtherMLP(CONFIG), Phi3MLP(phi), torch.nn.Linear(2, 2)]
    )
    lean.spare(network)
    assert ["forward" in vars(module) for module in network] == [True, True, False, False, False]
    copied = copy.deepcopy(network[0])
    assert copied.forward.mlp is copied

"""Reading adapters by the matrix: the same numbers as token by token, and always of the adapters as
they are now.
"""

import pytest
import tiny
import torch

from pulse_lib.model import fused
from pulse_lib.model.adapters import (
    adapter_weights,
    add_adapter,
    only,
    set_adapter_weights,
    stack,
    trained_parameters,
)
from pulse_lib.model.beside import Beside
from pulse_lib.model.forward import answer_logits, collate
from pulse_lib.model.prompts import encode_conversations

CONVERSATIONS = [tiny.conversation(i) for i in range(4)]
NAMES = ["finetune", "round-1", "round-2"]


@pytest.fixture
def model():
    made = tiny.with_adapters(*NAMES)
    made.features.add((c.image for c in CONVERSATIONS), tiny.images())
    return made


def layers(model):
    return [m for m in model.network.modules() if hasattr(m, "lora_A")]


def logits(model):
    return answer_logits(model, collate(model, encode_conversations(model, CONVERSATIONS)))[0]


def by_token(model):
    """Back to peft's own way."""
    for layer in layers(model):
        layer.forward = layer.forward.by_token


def test_matrix_is_the_sum(model):
    for layer in layers(model):
        expected = layer.get_base_layer().weight.double()
        for name in NAMES:
            a, b = (part[name].weight.double() for part in (layer.lora_A, layer.lora_B))
            expected = expected + layer.scaling[name] * (b @ a)
        torch.testing.assert_close(layer.forward.matrix().double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_frozen", [0, 1, 2])
def test_logits_and_gradients_are_those_of_token_by_token(model, n_frozen):
    stack(model, NAMES[:n_frozen], train=NAMES[n_frozen])
    results = []
    for way in (lambda _: None, by_token):
        way(model)
        found = logits(model)
        weights = list(trained_parameters(model).values())
        gradients = torch.autograd.grad(found.logsumexp(-1).sum(), weights)
        results.append((found, *gradients))
    for ours, theirs in zip(*results, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()
        assert theirs.norm() > 0


def test_follows_every_change(model):
    first = logits(model)
    kept = adapter_weights(model, "round-1")
    tiny.shake(model, "round-1", 7)
    assert not torch.equal(logits(model), first)
    set_adapter_weights(model, "round-1", weights=kept)
    assert torch.equal(logits(model), first)
    with only(model, "finetune"):
        assert not torch.equal(logits(model), first)
    found = []
    for seed in (1, 2):  # another adapter of the same name, changed as often
        add_adapter(model, "round-1", trained_part="projector+llm", rank=4, alpha=8, seed=0)
        tiny.shake(model, "round-1", seed)
        stack(model, NAMES)
        found.append(logits(model))
    assert not torch.equal(*found)


def test_what_was_formed_while_asking_serves_training(model):
    """Also where gradients only pass through: here the projector alone is trained."""
    stack(model, NAMES[:2], train=NAMES[2])
    trained = trained_parameters(model)
    for key, parameter in trained.items():
        parameter.requires_grad_("projector" in key)
    with torch.inference_mode():
        logits(model)
    logits(model).sum().backward()
    assert {k for k, p in trained.items() if p.grad is not None} == set(trained_parameters(model))


def test_how_a_model_is_read_goes_by_its_size_and_its_bits(monkeypatch):
    made = tiny.with_adapters("finetune")
    size = sum(layer.get_base_layer().weight.nbytes for layer in layers(made))
    for most, folded, ways in (
        (size, size, {True}),
        (size - 1, size, {False}),
        (0, size - 1, {None}),
    ):
        monkeypatch.setattr(fused, "MOST_BYTES", most)
        monkeypatch.setattr(fused, "MOST_FOLDED", folded)
        fresh = layers(tiny.with_adapters("finetune"))
        assert {getattr(layer.forward, "whole", None) for layer in fresh} == ways
    monkeypatch.undo()
    half = tiny.with_adapters("finetune", model=tiny.tiny_model(tiny.tiny_network().half()))
    assert all(isinstance(layer.forward, Beside) for layer in layers(half))


@pytest.fixture
def larger(monkeypatch):
    """A model of which only frozen adapters are read by the matrix."""
    monkeypatch.setattr(fused, "MOST_BYTES", 0)
    made = tiny.with_adapters(*NAMES)
    made.features.add((c.image for c in CONVERSATIONS), tiny.images())
    return made


@pytest.mark.parametrize("n_frozen", [0, 1, 2, 3])
def test_larger_models_fold_frozen_adapters(larger, n_frozen):
    test_logits_and_gradients_are_those_of_token_by_token(larger, min(n_frozen, 2))
    stack(larger, NAMES[:n_frozen], train=NAMES[n_frozen] if n_frozen < len(NAMES) else None)
    logits(larger)
    folded = tuple(NAMES[:n_frozen])
    for layer in layers(larger):
        assert set(layer.forward.known) == ({folded} if n_frozen >= 2 else set())


def test_a_fresh_adapter_changes_no_bit_of_a_folded_stack(larger):
    """The check before a round's first step compares model and reference bit for bit."""
    add_adapter(larger, "round-3", trained_part="projector+llm", rank=4, alpha=8, seed=0)
    stack(larger, NAMES, train="round-3")
    before = {name: adapter_weights(larger, name) for name in NAMES}
    with torch.no_grad():
        own = logits(larger)
        with only(larger, *NAMES):
            assert torch.equal(logits(larger), own)
    for name, kept in before.items():  # what is stored is each adapter alone
        assert all(torch.equal(w, kept[k]) for k, w in adapter_weights(larger, name).items())


def test_a_folded_stack_follows_every_change(larger):
    test_follows_every_change(larger)


def test_one_folded_stack_is_kept_at_a_time(larger):
    for names in (NAMES, NAMES[:2], NAMES):
        with only(larger, *names):
            logits(larger)
        assert all(set(layer.forward.known) == {tuple(names)} for layer in layers(larger))

"""The check of a graphics card, run on the CPU with a tiny shape: the model is what the real loader
gives, every line is gone through, and what fails is told.
"""

import json
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from pulse_lib.commands import gpus
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.model.beside import Beside
from pulse_lib.model.lean import LeanMLP
from pulse_lib.model.load import load_model
from pulse_lib.profile import ModelSettings

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import gpu_check
import random_llava
import steps

CPU = torch.device("cpu")


def tiny_config() -> LlavaConfig:
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        projection_dim=32,
    )
    text = LlamaConfig(
        vocab_size=960,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)


def anatomy(network):
    return {
        name: (type(p).__name__, tuple(p.shape), p.dtype) for name, p in network.named_parameters()
    }


def test_the_random_model_is_made_as_the_loader_makes_one(tmp_path):
    torch.manual_seed(0)
    LlavaForConditionalGeneration(tiny_config()).save_pretrained(tmp_path)
    random_llava.processor_of(tiny_config()).save_pretrained(tmp_path)
    loaded = load_model(ModelSettings(path=str(tmp_path), load="4bit"), "cpu")
    made = random_llava.in_4bit(tiny_config(), "cpu")
    assert anatomy(made.network) == anatomy(loaded.network)
    expected = dict(loaded.network.named_buffers())
    found = dict(made.network.named_buffers())
    assert found.keys() == expected.keys() and len(found) > 0
    assert all(torch.equal(found[k], expected[k]) for k in found)
    assert made.n_image_tokens == loaded.n_image_tokens == 4
    assert not any(p.requires_grad for p in made.network.parameters())
    again = random_llava.in_4bit(tiny_config(), "cpu", seed=0)
    other = random_llava.in_4bit(tiny_config(), "cpu", seed=1)
    states = [m.network.state_dict() for m in (made, again, other)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    key = "model.language_model.layers.1.mlp.up_proj.weight"
    assert not torch.equal(states[0][key], states[2][key])
    weight = made.network.lm_head.weight
    assert 0.015 < float(weight.std()) < 0.025


def test_flops_are_those_that_torch_counts():
    config = tiny_config()
    # torch does not count its fused attention on a CPU
    network = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    language = network.model.language_model
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        language(inputs_embeds=torch.zeros(2, 10, 64), use_cache=False)
    assert counter.get_total_flops() == gpus.forward_flops(config, 10, sequences=2)
    assert gpus.step_flops(config, 10, sequences=2, checkpointing=True) == 1.5 * gpus.step_flops(
        config, 10, sequences=2, checkpointing=False
    )


def test_a_whole_check_and_a_method_that_fails(tmp_path, monkeypatch, capsys):
    plain = gpu_check.unlearn_single_shot

    def failing(task, **options):
        if task.method.id == "npo":
            raise PulseError("step 3: the loss is nan\nmore")
        return plain(task, **options)

    monkeypatch.setattr(gpu_check, "unlearn_single_shot", failing)
    sizes, methods = {"tiny": tiny_config()}, ["ga", "npo", "ga_klr", "oracle"]
    amount = gpu_check.Amount(4, 5, batch=2, batches=(1, 2), n_pictures=1, repeats=2)
    fine = gpu_check.run(tmp_path, sizes, "cpu", methods=methods, amount=amount)
    found = json.loads((tmp_path / "tiny.json").read_text())
    ga, npo, ga_klr = found["unlearning"]
    assert not fine and npo == {"method": "npo", "error": "step 3: the loss is nan"}
    assert ga["n_steps"] == ga_klr["n_steps"] == 4 and ga["n_trainable"] == ga_klr["n_trainable"]
    assert found["answering"]["n_questions"] == 5 and found["device"] == "cpu"
    assert ga["peak_memory_gib"] > 0.1 and ga["seconds_per_step"] > 0 and not ga["share_of_peak"]
    assert found["answering"]["tokens_per_prompt"] > 4 + 50
    assert set(found["estimate"]) == {"estimate_gib", "measured_gib", "gap_gib", "within"}
    assert "method npo  error step 3: the loss is nan" in capsys.readouterr().out
    shapes = [(row["conversations"], row["checkpointing"]) for row in found["steps"]]
    assert shapes == [(1, False), (2, False), (1, True), (2, True)]
    assert all(row["tokens_per_second"] > 0 for row in found["steps"])
    assert [row["method"] for row in found["against_loop"]] == ["ga", "ga_klr", "npo"]
    for row in found["against_loop"]:  # the loop is peft's and transformers' own
        assert row["gradient_gap"] <= 1e-5 and row["ceiling"] > 1 and row["ratio"] > 0
    assert {row["questions"] for row in found["questions"]} == {"people", "text", "mmbench"}
    assert all(row["same_answers"] == 1 for row in found["questions"])
    shares = [row["share"] for row in found["kernels"]]
    assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1.01
    assert any("mm" in row["kernel"] for row in found["kernels"])


def test_shares_are_of_both_peaks():
    model = random_llava.in_4bit(tiny_config(), "cpu")
    peak = gpu_check.Peak(0.5, 0.25)
    measured = gpu_check.measure_unlearning(model, "ga", peak=peak, n_steps=4)
    per_step = gpus.step_flops(
        model.network.config, 1, sequences=1, checkpointing=False
    )  # far below: a lower bound
    assert measured["share_of_peak"] > per_step / measured["seconds_per_step"] / 0.5e12
    rounded = 1.5e-4 + 1e-9  # half a digit of the one, and twice that of the other
    twice = 2 * measured["share_of_peak"]
    assert measured["share_of_measured"] == pytest.approx(twice, abs=rounded)
    assert not any(p.requires_grad for p in model.network.parameters())
    assert gpu_check.Peak(0.0, 2.0).shares(1e12) == {
        "share_of_peak": None,
        "share_of_measured": 0.5,
    }
    assert 0.005 < gpu_check.measured_peak(CPU) < 50


def test_the_other_sides_step_is_peft_s_and_transformers_own():
    bench, _ = gpu_check._bench(random_llava.in_4bit(tiny_config(), "cpu"), 1)
    network = bench.model.network
    ours = {n: vars(m).get("forward") for n, m in network.named_modules()}
    kinds = {type(forward).__name__ for forward in ours.values()}
    assert kinds == {"NoneType", "LeanMLP", "Beside"}
    with steps.as_others(network):
        there = [vars(m).get("forward") for m in network.modules()]
        assert not any(isinstance(f, LeanMLP | Beside) for f in there)
    assert ours == {n: vars(m).get("forward") for n, m in network.named_modules()}


def test_without_a_card_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--out", str(tmp_path / "gpu")])
    assert gpu_check.main() == 0 and "SKIPPED: there is no CUDA GPU here" in capsys.readouterr().out
    assert not (tmp_path / "gpu").exists()


def test_memory_and_time_on_a_card_are_torchs(monkeypatch):
    said = []
    for name in ("empty_cache", "reset_peak_memory_stats", "synchronize"):
        monkeypatch.setattr(torch.cuda, name, lambda *a, n=name: said.append(n))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    card = torch.device("cuda")
    gpu_check.start_peak(card)
    assert gpu_check.peak_gib(card) == 3.0 and gpu_check.clock(card) > 0
    assert said == ["empty_cache", "reset_peak_memory_stats", "synchronize"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", None),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A100-SXM4-40GB", "a100-40"),
        ("NVIDIA A100 80GB PCIe", "a100-80"),
        ("Tesla V100-SXM2-16GB", "v100-16"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H200", "h200"),
    ],
)
def test_cards_by_the_name_that_cuda_tells(name, expected):
    found = gpus.recognised(name)
    assert (found.id if found else None) == expected

"""The estimate of a profile's cost: its counts are those of the datasets, its adapters those of
peft, its sums those worked out by hand; and it says whether it fits without any network.
"""

import math
import socket
import sys
from dataclasses import replace
from random import Random

import pytest
import test_gpu_check
import tiny
from PIL import Image
from typer.testing import CliRunner

from pulse_lib.__main__ import app
from pulse_lib.commands import estimate, pace
from pulse_lib.commands.stages import Asked
from pulse_lib.data import splits
from pulse_lib.data.dataset import build_dataset
from pulse_lib.data.records import ImageStore
from pulse_lib.data.source import general_of, source_of
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.files import REPOSITORY, write_json
from pulse_lib.model import memory
from pulse_lib.model.adapters import add_adapter, stack, trainable_report
from pulse_lib.model.memory import llava_1_5_config
from pulse_lib.model.prompts import encode_questions
from pulse_lib.profile import (
    DataSettings,
    EvaluateSettings,
    FinetuneSettings,
    UnlearnSettings,
    load_profile,
)

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import random_llava

REAL = """\
description: d
model: {path: llava-hf/llava-1.5-SIZE-hf, load: 4bit, answer_form: letter, prompt: vicuna_v1}
data: {n_general: 300, n_general_train: 200, n_train_views: 6}
finetune: {epochs: 20, micro_batch: 1}
unlearn: {epochs_finetuned: 10, epochs_pretrained: 20, batch_size: 20, path_every: 4, micro_batch: 1}
evaluate: {batch_size: 4, max_new_tokens: 8, n_path_questions: 100}
"""


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("a plan must not ask the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def real(tmp_path, size):
    path = tmp_path / f"real-{size}.yaml"
    path.write_text(REAL.replace("SIZE", size))
    return path


def invoke(*words):
    done = CliRunner().invoke(app, ["plan", *map(str, words)])
    return done.exit_code, done.output


def test_counts_are_those_of_the_dataset():
    settings = DataSettings(
        n_finetuned_forget=4,
        n_finetuned_retain=3,
        n_finetuned_retain_train=2,
        n_requests=2,
        n_candidates=0,
        n_pretrained_forget=0,
        n_pretrained_retain=0,
        n_holdout=1,
        n_general=5,
        n_general_train=2,
        n_train_views=2,
        n_conversations=2,
    )
    source = source_of(settings)
    people = source.fictitious(settings)
    places = splits.split_fictitious(people, settings, seed=0)
    data = build_dataset(
        source, people, general=general_of(settings), places=places, settings=settings, seed=0
    )
    found = estimate.counts(load_profile("smoke").with_values(data=settings))
    taught = data.training("finetuned", ("forget", "retain", "retain_train"), stage="finetune")
    assert found["taught"] == len(taught)
    forget = data.training("finetuned", ("forget",), stage="unlearn")
    assert 4 * found["forget a person"] == len(forget)
    assert sum(bool(c.image) for c in forget) == estimate.SHOWN * len(forget)
    assert found["finetuned"] == len(data.evaluation("finetuned"))
    assert found["holdout"] == sum(q.set == "holdout" for q in data.questions)
    tiny.check_shown(data.questions, source.size(settings))


def test_stages_by_hand():
    profile = load_profile("smoke").with_values(
        data=DataSettings(
            n_finetuned_forget=10,
            n_finetuned_retain=10,
            n_finetuned_retain_train=5,
            n_requests=5,
            n_candidates=20,
            n_pretrained_forget=4,
            n_pretrained_retain=6,
            n_holdout=3,
            n_general=50,
            n_general_train=200,
            n_train_views=2,
            n_conversations=2,
            n_heldout_wordings=1,
        ),
        finetune=FinetuneSettings(epochs=3, batch_size=20, general_replay=0.1),
        unlearn=UnlearnSettings(
            epochs_finetuned=6, epochs_pretrained=2, batch_size=8, path_every=3
        ),
        evaluate=EvaluateSettings(max_new_tokens=8, n_path_questions=30),
    )
    build, tune, single, pretrained, sequential = estimate.stages(profile)
    assert build.questions == 200 + (240 + 50) + (120 + 50) + 36
    # 25 people, 16 conversations each; 18 of a batch of 20
    assert (tune.steps, tune.sequences, tune.questions) == (math.ceil(400 / 18) * 3, 20, 326)
    # 40 conversations in batches of 8, 6 epochs; measured at 5 of the first 15 steps, then always
    assert single.steps == 30 and single.sequences == 16
    assert single.questions == 2 * (290 + 36) + (2 + 5 + 15) * (30 + 60)
    assert pretrained.steps == 2 * 2 and pretrained.questions == 2 * (170 + 36) + (2 + 0 + 2) * 90
    assert sequential.steps == 5 * 6
    # a round is asked at its end, and with a stop rule at every third of its 6 steps, first and last
    assert sequential.questions == 5 * (290 + 36)
    ruled = profile.with_values(unlearn=profile.unlearn.with_values(stop_utility=0.5))
    assert estimate.stages(ruled)[-1].questions == 5 * (290 + 36 + (2 + 2) * 90)
    # a search's epochs are in force, those of the paper's method that takes most of them
    tuned = {"finetuned": {"ga": {"epochs": 2}, "npo": {"epochs": 4}, "ga_klr": {"epochs": 3}}}
    _, _, single, pretrained, sequential = estimate.stages(profile.with_values(tuned=tuned))
    assert (single.steps, pretrained.steps, sequential.steps) == (20, 4, 5 * 4)


def test_what_is_drawn_shows_as_many_pictures_as_expected():
    """Against drawing: 12 pictures with three questions each, and as many questions in text."""
    whole = Asked(72, shown=36, pictures=12)
    assert whole.some(72) == whole.some(99) == whole
    draw, found = Random(0), []
    for _ in range(4000):
        chosen = draw.sample(range(72), 20)
        found.append(len({k // 3 for k in chosen if k < 36}))
    some = whole.some(20)
    assert (some.questions, some.shown) == (20, 10)
    assert some.pictures == pytest.approx(sum(found) / 4000, rel=0.03)
    assert Asked(10).some(5) == Asked(5)


def test_a_picture_is_read_once_for_its_questions(monkeypatch):
    """What `plan` reckons with, counted as the language model reads."""
    config = test_gpu_check.tiny_config()
    config.vision_config.image_size = 196  # 196 tokens
    model, images, asked = random_llava.plain(config), ImageStore(), []
    for k in range(3):
        images.add(f"image-{k}", Image.new("RGB", (48, 48), (80 * k, 0, 0)))
        asked += [replace(tiny.question(5 * k + j), image=f"image-{k}") for j in range(5)]
    read, plain = [], model.network.model.language_model.forward

    def counted(*args, **given):
        embedded = given.get("inputs_embeds", args[0] if args else None)
        read.append(embedded.shape[0] * embedded.shape[1])
        return plain(*args, **given)

    monkeypatch.setattr(model.network.model.language_model, "forward", counted)
    settings = EvaluateSettings(batch_size=8, max_new_tokens=1, n_path_questions=1)
    answer_questions(model, asked, images=images, settings=settings)
    lengths, picture = [len(p) for p in encode_questions(model, asked)], model.n_image_tokens
    text = sum(n - picture for n in lengths) / len(asked)
    assert (
        picture == 196 and 3 * picture < sum(read) <= 3 * picture + 15 * text < sum(lengths) / 1.9
    )
    apart = sum(estimate.gpus.forward_flops(config, n) for n in lengths)
    work = estimate.gpus.asking_flops(
        config, picture=picture, pictures=3, text=round(text), questions=15
    )
    assert work < apart / 1.9
    one = {"picture": picture, "text": 10, "pictures": 1, "questions": 1}
    assert estimate.gpus.asking_flops(config, **one) == pytest.approx(
        estimate.gpus.forward_flops(config, 206), rel=0.05
    )


def test_adapters_have_as_many_weights_as_pefts():
    model = tiny.tiny_model()
    for part in ("llm", "projector+llm"):
        add_adapter(model, "unlearn", trained_part=part, rank=4, alpha=8, seed=0)
        stack(model, [], train="unlearn")
        expected = trainable_report(model)["n_trainable"]
        assert memory.lora_parameters(model.network.config, part, rank=4) == expected


@pytest.mark.parametrize(
    ("size", "linear", "rank_8"), [("7b", 6476.0, 20.0), ("13b", 12687.8, 31.3)]
)
def test_shapes_of_llava(size, linear, rank_8):
    """Numbers counted on the real shapes, in millions."""
    config = llava_1_5_config(size)
    assert estimate.gpus.linear_parameters(config) / 1e6 == pytest.approx(linear, abs=0.1)
    assert memory.lora_parameters(config, "llm", rank=8) / 1e6 == pytest.approx(rank_8, abs=0.05)
    forward = {"7b": 9.0, "13b": 17.5}[size]
    assert estimate.gpus.forward_flops(config, 676) / 1e12 == pytest.approx(forward, abs=0.05)


def test_weights_and_activations_of_llava():
    """Weights of the NF4 model as counted on the real shapes, and what was measured on layers of
    real size (LoRA beside a 16-bit base; test_beside.kept_in with 676 tokens): all that is kept, and
    without what MLPs form again.
    """
    measured = (("7b", 4.21, 109.9, 81.5), ("13b", 7.33, 137.7, 102.1))
    for size, weights, layer, spared in measured:
        config = llava_1_5_config(size)
        assert sum(memory.weight_items(config, "4bit").values()) == pytest.approx(weights, abs=0.03)
        whole = {"7b": 13.16, "13b": 24.87}[size]
        assert sum(memory.weight_items(config, "full").values()) == pytest.approx(whole, abs=0.05)
        n = config.text_config.num_hidden_layers
        kept = memory.activation_gib(config, 676, batch=1, checkpointing=False) * 1024 / n
        assert kept == pytest.approx(spared, rel=0.01)
        few = memory.activation_gib(config, 676, batch=1, checkpointing=True) * 1024
        assert few == pytest.approx({"7b": 5.3, "13b": 6.6}[size] * n + 1.5 * layer, rel=0.02)


def test_the_kv_cache_of_llava():
    """338 MiB (7B) and 528 MiB (13B) for a sequence of 676 tokens, in 16 bits."""
    for size, mib in (("7b", 338), ("13b", 528)):
        items = memory.asking_memory(llava_1_5_config(size), "4bit", tokens=676, batch_size=1)
        assert items["KV cache"] * 1024 == pytest.approx(mib, abs=1)


def test_it_says_whether_it_fits(tmp_path):
    path = real(tmp_path, "13b")
    code, output = invoke("--profile", path, "--gpu", "a100-80")
    assert code == 0 and "\nfits: " in output
    for words in ("KV cache", "CUDA context", "activations", "download", "04 sequential", "sum"):
        assert words in output
    needed = float(output.split("\nfits: ")[1].split()[0])
    code, output = invoke("--profile", path, "--gpu-gib", str(needed + 0.2))
    assert code == 0 and "\nfits: " in output
    code, output = invoke("--profile", path, "--gpu-gib", str(needed - 0.2))
    assert code == 1 and "DOES NOT FIT" in output


def test_the_embedded_model_needs_no_download_and_no_card():
    code, output = invoke("--profile", "tiny")
    assert code == 0
    assert "download" in output and " 0.00 GB" in output


def test_time_goes_with_the_card_and_the_work():
    config, stage = llava_1_5_config("7b"), estimate.Stage("s", steps=10, sequences=4)
    at_t4 = estimate.stage_seconds(stage, config, tokens=676, checkpointing=False, peak=65.0)
    # 40 sequences at a quarter of 65 TFLOP/s: half of them of 18 TFLOP, half in 100 tokens
    assert at_t4 == pytest.approx(20 * (18.0 + 18.0 * 100 / 676) / (65 * 0.25), rel=0.02)
    assert estimate.stage_seconds(
        stage, config, tokens=676, checkpointing=True, peak=65.0
    ) == pytest.approx(1.5 * at_t4)
    assert estimate.stage_seconds(
        stage, config, tokens=676, checkpointing=False, peak=130.0
    ) == pytest.approx(at_t4 / 2)


@pytest.mark.parametrize(
    ("text", "card", "n"),
    [
        ("t4", "t4", 1),
        ("T4 x2", "t4", 2),
        ("2x T4", "t4", 2),
        ("a100", "a100-40", 1),
        ("A100 80GB", "a100-80", 1),
        ("NVIDIA A100-80", "a100-80", 1),
        ("4090", "rtx4090", 1),
        ("RTX 3090 x 4", "rtx3090", 4),
        ("GeForce RTX 5090", "rtx5090", 1),
        ("Tesla V100", "v100-16", 1),
        ("v100-32", "v100-32", 1),
        ("h200", "h200", 1),
        ("L40S", "l40s", 1),
        ("a10g", "a10g", 1),
    ],
)
def test_a_card_by_what_people_call_it(text, card, n):
    found, number = estimate.gpus.named(text)
    assert (found.id, number) == (card, n)


@pytest.mark.parametrize("text", ["gtx", "x2", "t4 x0", "t4 x99999", "a100-60"])
def test_a_card_that_nobody_knows_is_refused_with_the_names(text):
    with pytest.raises(PulseError, match=f"--gpu {text}: not a card known.*rtx4090.*--gpu-gib"):
        estimate.gpus.named(text)


@pytest.fixture
def no_card(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_without_a_card_a_large_model_asks_for_one(tmp_path, no_card):
    code, output = invoke("--profile", real(tmp_path, "7b"))
    flat = " ".join(output.split())
    assert code == 1 and "name one with --gpu" in flat and "a100-40" in flat
    assert "fits" not in flat.replace("whether it fits", "") and "FIT" not in flat
    assert " h │" not in output and "time" not in flat  # no hours of a laptop
    assert "KV cache" in output and "download" in output


def test_a_card_by_its_memory_alone_has_no_pace(tmp_path):
    code, output = invoke("--profile", real(tmp_path, "7b"), "--gpu-gib", "48")
    flat = " ".join(output.split())
    assert code == 0 and "fits: " in flat and "no time: this card's pace is not known" in flat
    assert " h │" not in output


def test_two_cards_have_two_runs_side_by_side(tmp_path):
    hours = {"01 a": 1.0, "02 b": 2.0, "03 c": 3.0, "03 d": 4.0, "04 e": 5.0}
    assert estimate.together(hours, 1) == sum(hours.values())
    assert estimate.together(hours, 2) == 3.0 + 7.0  # 5; 4 and 3
    assert estimate.together(hours, 3) == estimate.together(hours, 9) == 3.0 + 5.0
    path = real(tmp_path, "7b")
    one, two = (invoke("--profile", path, "--gpu", gpu)[1] for gpu in ("a100", "a100 x2"))
    assert "on 2 cards" in two and "on 2 cards" not in one
    # a run has one card: its memory is no more with two
    assert one.split("fits: ")[1].split("(a100")[0] == two.split("fits: ")[1].split("(a100")[0]


def check_file(device: str, *, train: list[float | None], ask: float | None) -> dict:
    """What is read of a file of gpu-check."""
    steps = [{"method": "m", "share_of_peak": share} for share in train]
    return {"device": device, "unlearning": steps, "answering": {"share_of_peak": ask}}


def test_a_measured_share_stands_for_the_assumed_one(tmp_path, monkeypatch):
    t4, h200 = estimate.gpus.CARDS["t4"], estimate.gpus.CARDS["h200"]
    assert pace.shares(t4, tmp_path) == pace.ASSUMED
    assert "no card was measured" in pace.ASSUMED.words
    write_json(tmp_path / "other.json", {"name": "steps", "rows": []})
    write_json(tmp_path / "cpu.json", check_file("cpu", train=[None], ask=None))
    assert pace.shares(t4, tmp_path) == pace.ASSUMED
    for size, train in (("7b", [0.4, 0.5, 0.9]), ("13b", [0.45, 0.55, None])):
        write_json(tmp_path / f"{size}.json", check_file("NVIDIA H200", train=train, ask=0.2))
    found = pace.shares(h200, tmp_path)
    assert (found.train, found.ask) == (0.5, 0.2) and "measured on it" in found.words
    found = pace.shares(t4, tmp_path)
    assert (found.train, found.ask) == (0.5, 0.2) and "measured on h200" in found.words
    write_json(tmp_path / "t4.json", check_file("Tesla T4", train=[0.1], ask=0.3))
    found = pace.shares(t4, tmp_path)
    assert (found.train, found.ask) == (0.1, 0.3)
    (tmp_path / "t4.json").write_text("{")
    with pytest.raises(PulseError, match="t4.json cannot be read"):
        pace.shares(t4, tmp_path)


def test_hours_go_with_the_measured_share(tmp_path, monkeypatch):
    path = str(real(tmp_path, "7b"))
    place = estimate.find_card("h200", 0.0)
    assumed = estimate.cost(load_profile(path), place)
    half = pace.Shares(pace.ASSUMED.train / 2, pace.ASSUMED.ask / 2, words="measured")
    monkeypatch.setattr(pace, "shares", lambda card: half)
    slower = estimate.cost(load_profile(path), place)
    for name, hours in assumed.hours.items():
        times = 1 if name == "download" else 2
        assert slower.hours[name] == pytest.approx(times * hours)
    assert any("measured" in line for line in slower.assumptions)


def test_a_measured_peak_beside_the_estimate():
    # the context is in the estimate, and not in what torch counts
    exact = memory.compare_peak(10.0, 10.0 - memory.CONTEXT_GIB)
    assert exact["gap_gib"] == 0.0 and exact["within"]
    assert (
        memory.compare_peak(10.0, 10.7)["within"] and not memory.compare_peak(10.0, 10.9)["within"]
    )
    assert not memory.compare_peak(10.0, 7.7)["within"]


def test_wrong_wishes_are_named(tmp_path):
    for words, options in (
        ("not a card known here; there are: t4", {"gpu": "gtx", "gpu_gib": 0.0}),
        ("not both", {"gpu": "t4", "gpu_gib": 3.0}),
    ):
        with pytest.raises(PulseError, match=words):
            estimate.find_card(**options)
    path = tmp_path / "other.yaml"
    path.write_text("extends: smoke\nmodel: {path: someone/some-model}\n")
    with pytest.raises(PulseError, match="give a local folder with its config.json"):
        estimate.model_config(load_profile(str(path)))

"""On a card, which this machine may not have: nothing is left on the CPU that a card would miss, in
bfloat16 and, as on a T4, in float16 (pretend_card.py).
"""

import logging
import sys
from dataclasses import replace

import family_folders
import pretend_card
import pytest
import tiny
import torch
from test_families import conversations, from_pixels, images, questions
from test_gpu_check import tiny_config
from test_methods import ROWS, relearn
from test_probe import WHOSE
from test_sequential import run
from test_train import EVALUATE, FORGET, QUESTIONS, RETAIN, task, unlearned

from pulse_lib.evaluate import plain, reading
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.files import REPOSITORY, read_json
from pulse_lib.model import lora
from pulse_lib.model.adapters import add_adapter, stack
from pulse_lib.model.load import load_model
from pulse_lib.model.prompts import encode_questions
from pulse_lib.probe import layers, members, quantise, quick
from pulse_lib.probe.subject import Subject, as_asked
from pulse_lib.profile import ModelSettings
from pulse_lib.strategies import STRATEGIES
from pulse_lib.train import terms
from pulse_lib.unlearn.single_shot import unlearn_single_shot

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import gpu_check

MIXED = "Expected all tensors to be on the same device"
AMPERE, T4 = (8, 0), (7, 5)  # compute capabilities


@pytest.fixture(params=[AMPERE, T4], ids=["bfloat16", "float16"])
def card(request):
    with pretend_card.pretend_card(request.param) as made:
        yield made


@pytest.fixture
def ampere():
    with pretend_card.pretend_card(AMPERE) as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save_tiny(tmp_path_factory.mktemp("model"))


def loaded(folder, load="4bit", **settings):
    """A model on the card, with a fine-tune on it."""
    model = load_model(ModelSettings(path=str(folder), load=load, **settings))
    model.features.add((f"image-{i}" for i in range(40)), tiny.images())
    return tiny.with_adapters("finetune", model=model)


# --- the card that is not there refuses what a card would -----------------------------------------


def test_what_is_made_there_is_there(ampere):
    there = torch.zeros(3, 3, device="cuda")
    assert there.device == pretend_card.CARD and there.is_cuda and not there.is_cpu
    for made in (there + 1, there @ there, there[0], torch.zeros_like(there), there.new_ones(2)):
        assert made.is_cuda
    ragged = [there[0], there[0, :1]]
    for made in (torch.nn.utils.rnn.pad_sequence(ragged), torch.arange(2, device=there.device)):
        assert made.is_cuda
    here = torch.ones(3)
    for moved in (here.to("cuda"), here.cuda(), here.to(there), here.to(there.device, torch.half)):
        assert moved.is_cuda and not here.is_cuda
    assert not there.cpu().is_cuda and there.is_cuda
    linear = torch.nn.Linear(3, 3).to("cuda")
    assert linear.weight.is_cuda and linear(there).is_cuda
    linear(there).sum().backward()
    assert linear.weight.grad.is_cuda
    before = ampere.operations
    torch.ones(3) + 1
    assert ampere.operations == before
    there + 1
    assert ampere.operations > before


def test_what_a_card_refuses_is_refused(ampere):
    here, there = torch.ones(3), torch.zeros(3, device="cuda")
    rows = torch.zeros(4, 2, device="cuda")
    for mixing in (
        lambda: here + there,
        lambda: torch.stack([here, there]),
        lambda: torch.nn.functional.embedding(torch.tensor([1]), rows),
        lambda: torch.nn.Linear(3, 3).to("cuda")(here),
        lambda: there[here > 0] + here,
        lambda: rows.gather(0, torch.zeros(1, 2, dtype=torch.long)),
        lambda: rows.index_put((torch.tensor([1]),), torch.ones(1, 2)),
        lambda: rows.__setitem__(torch.tensor([1, 2]), torch.ones(2, 2)),
    ):
        with pytest.raises(RuntimeError, match=MIXED):
            mixing()
    with pytest.raises(TypeError, match="use Tensor.cpu"):
        there.numpy()
    with pytest.raises(RuntimeError, match="generator of the same device"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    # And what it allows is allowed: a number of the CPU, an index of it, a copy from it
    assert (there + torch.tensor(2.0)).is_cuda and there[torch.tensor([0, 2])].is_cuda
    assert there.copy_(here).is_cuda and there.tolist() == [1, 1, 1]
    assert torch.rand(3, device="cuda", generator=torch.Generator("cuda")).is_cuda


class Leaves(torch.autograd.Function):
    """A layer of one's own whose backward pass makes something on the CPU."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.full(grad.shape, 2.0)


def test_a_backward_pass_is_looked_at_too(ampere):
    x = torch.zeros(3, device="cuda", requires_grad=True)
    with pytest.raises(RuntimeError, match=MIXED):
        Leaves.apply(x).sum().backward()
    with pytest.raises(RuntimeError, match=MIXED):
        torch.autograd.grad(Leaves.apply(x).sum(), x)


def test_what_the_kit_leaves_on_the_cpu_is_found(ampere, folder, monkeypatch):
    """Two changes to the library, each where something is brought to the model."""
    batch, rows = terms.collate, reading._tensor

    def labels_left_behind(*args, **options):
        made = batch(*args, **options)
        return replace(made, labels=made.labels.cpu())

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match=MIXED):
        broken.setattr(terms, "collate", labels_left_behind)
        unlearned(loaded(folder), "ga", path_every=0)
    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match=MIXED):
        broken.setattr(reading, "_tensor", lambda *a, **k: rows(*a, **k).cpu())
        answer_questions(loaded(folder), QUESTIONS, images=tiny.images(), settings=EVALUATE)


# --- the kit on it --------------------------------------------------------------------------------


@pytest.mark.parametrize("load", ["full", "16bit", "8bit", "4bit"])
def test_a_model_is_loaded_and_asked(card, folder, load):
    model = loaded(folder, load)
    kept = [*model.network.parameters(), *model.network.buffers()]
    assert model.device == pretend_card.CARD and all(tensor.is_cuda for tensor in kept)
    table = answer_questions(
        model, QUESTIONS, images=tiny.images(), settings=EVALUATE, with_loglik=True
    )
    assert len(table) == len(QUESTIONS) and card.operations > 500


@pytest.mark.parametrize("method", ROWS, ids=lambda m: m.id)
def test_every_method_unlearns(ampere, folder, method):
    few = QUESTIONS[:1] + QUESTIONS[4:5] + QUESTIONS[8:9]
    people = {"forget": FORGET[:2], "retain": RETAIN[2:], "relearn": relearn()}
    settings = {"epochs": 1, "path_every": 0, "questions": few}
    whole = replace(task(loaded(folder), **people, **settings), method=method)
    log = unlearn_single_shot(whole).log
    assert log["loss"].notna().all() and (log["forget_grad_norm"] > 0).all()


@pytest.mark.parametrize("method", ["ga_klr", "npo"])
def test_as_on_a_t4(folder, method):
    """In float16 with its gradient scaler, gradients checkpointed, the path measured."""
    with pretend_card.pretend_card(T4):
        model = loaded(folder, gradient_checkpointing=True)
        outcome = unlearned(model, method)
        assert model.dtype == torch.float16 and outcome.log["loss"].notna().all()
        assert all(w.dtype == torch.float32 for w in outcome.states["final"].values())


@pytest.mark.parametrize("policy", STRATEGIES)
def test_every_strategy_takes_requests_in_turn(ampere, folder, tmp_path, policy):
    outcome = run(tmp_path, policy, model=loaded(folder), epochs=1)
    assert set(outcome.rows["round"]) >= {1, 2, 3}


@pytest.mark.parametrize("kind", family_folders.FOLDERS)
def test_every_family_learns_and_is_asked(ampere, tmp_path, kind):
    place = family_folders.write_family(tmp_path, kind)
    settings = {"prompt": "chat", "answer_form": "text", "load": "4bit"}
    model = load_model(ModelSettings(path=str(place), **settings))
    people = {
        "forget": conversations()[:4],
        "retain": conversations()[4:],
        "questions": questions(),
    }
    whole = task(model, "ga_klr", target=(), epochs=1, path_every=0, **people)
    assert unlearn_single_shot(replace(whole, images=images())).log["loss"].notna().all()
    shown = questions()[0]
    (prompt,) = encode_questions(model, [shown])
    plain.generated(from_pixels(model), prompt, image=shown.image, max_new_tokens=2)


def test_8_bit_says_once_that_it_reads_in_float16(ampere, folder, monkeypatch, caplog):
    monkeypatch.setattr(lora, "_said", set())
    with caplog.at_level(logging.WARNING, logger="bitsandbytes"):
        model = loaded(folder, "8bit")
        answer_questions(model, QUESTIONS, images=tiny.images(), settings=EVALUATE)
    assert [record.getMessage().startswith("MatMul8bitLt") for record in caplog.records] == [True]


def test_a_finished_model_is_probed(ampere, folder):
    """What reaches into a model: folding, layers, and a projector that is put back."""
    model = loaded(folder)
    add_adapter(model, "unlearn", trained_part="projector+llm", rank=4, alpha=8, seed=1)
    tiny.shake(model, "unlearn")
    stack(model, ["finetune", "unlearn"])
    subject = Subject(
        model,
        ("finetune", "unlearn"),
        target=("finetune",),
        questions=tuple(QUESTIONS),
        images=tiny.images(),
        evaluate=EVALUATE,
        whose=WHOSE,
    )
    forget, retain = subject.of("forget"), [tiny.question(i, "retain") for i in range(8)]
    before = as_asked(subject)
    for rows in (
        quantise.quantised(subject, forget),
        layers.linear_probe(subject, retain, asked=forget),
        layers.patched(subject, forget),
        quick.projector_reload(subject, forget, before=before),
        members.with_min_k(subject, before, questions=subject.questions),
    ):
        assert len(rows) > 0


def test_the_check_of_a_card_runs_on_one(ampere, tmp_path, monkeypatch):
    """make gpu-check itself, on a shape of a few thousand weights."""
    monkeypatch.setitem(gpu_check.MATRIX, "cuda", 64)
    monkeypatch.setattr(gpu_check, "slowest_kernels", lambda *args, **options: iter(()))
    amount = gpu_check.Amount(2, 2, batch=2, batches=(1,), n_pictures=1, repeats=2)
    methods = ["ga_klr"]
    assert gpu_check.run(tmp_path, {"tiny": tiny_config()}, None, methods=methods, amount=amount)
    found = read_json(tmp_path / "tiny.json")
    assert found["device"] == "a card that is not there"
    assert [row["method"] for row in found["unlearning"]] == methods

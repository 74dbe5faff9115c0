"""Model families, each on a tiny random checkpoint of its real classes: what the kit works out its
own quick way is what the model's own forward pass and `generate` give from pixels.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from random import Random

import family_folders
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from pulse_lib.commands import estimate
from pulse_lib.commands.export import merge_files, read_deltas, weight_files
from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import plain
from pulse_lib.evaluate.generate import answer_questions, option_tokens
from pulse_lib.files import REPOSITORY
from pulse_lib.model import families
from pulse_lib.model import load as loading
from pulse_lib.model.adapters import add_adapter, only, save_adapter, stack, trainable_report
from pulse_lib.model.families import FAMILIES, family_of, qwen, shapes_of
from pulse_lib.model.families.checkpoints import CHECKPOINTS, config_of
from pulse_lib.model.families.count import counted
from pulse_lib.model.forward import IGNORE, answer_logits, collate, plain_inputs, read
from pulse_lib.model.load import load_model
from pulse_lib.model.memory import picture_tokens
from pulse_lib.model.prompts import encode_conversations, encode_questions
from pulse_lib.probe import quantise
from pulse_lib.probe.quantise import folded
from pulse_lib.profile import EvaluateSettings, ModelSettings, load_profile
from pulse_lib.train.losses import sequence_logprob

KINDS = tuple(family_folders.FOLDERS)
SETTINGS = EvaluateSettings(batch_size=8, max_new_tokens=5, n_path_questions=9)
SIZES = ((84, 112), (60, 60), (140, 50), (56, 100))  # pictures of which no two are alike


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """A family's folder, written when it is first asked for."""
    made = {}

    def folder(kind):
        if kind not in made:
            made[kind] = family_folders.write_family(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return folder


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=["full", "4bit"])
def loaded(request, folder_of, kind):
    return load(folder_of(kind), load=request.param)


def load(folder, **settings):
    given = {"prompt": "chat", "answer_form": "text"} | settings
    return load_model(ModelSettings(path=str(folder), **given), "cpu")


def images():
    store = ImageStore()
    for i, size in enumerate(SIZES):
        pixels = Random(i).randbytes(size[0] * size[1] * 3)
        store.add(f"image-{i}", Image.frombytes("RGB", size, pixels))
    return store


def questions():
    """Several of one picture, one of another, and some in text."""
    shown = [replace(tiny.question(2 * i), image=f"image-{i // 3}") for i in range(7)]
    return [*shown, *(tiny.question(2 * i + 1) for i in range(3))]


def conversations():
    return [
        replace(c, image=c.image and f"image-{i % len(SIZES)}")
        for i, c in enumerate(tiny.conversation(k) for k in range(6))
    ]


def from_pixels(model):
    """The same model, told to look at each picture anew."""
    return plain.from_pixels(model, images().encoded, images=images())


def adapted(model, part="projector+llm"):
    """With a fine-tune adapter that has learned something, and a fresh one to train."""
    tiny.with_adapters("finetune", model=model)
    add_adapter(model, "unlearn", trained_part=part, rank=4, alpha=8, seed=7)
    stack(model, ["finetune"], train="unlearn")
    model.features.add((c.image for c in conversations()), images())
    return model


@pytest.mark.parametrize("pictures", ["several questions each", "one question each"])
def test_answers_and_likelihoods_are_the_plain_ones(loaded, pictures):
    """With what the questions of a picture have in common read first, and without."""
    model, asked = adapted(loaded), questions()
    if pictures == "one question each":
        asked = [replace(asked[i], image=f"image-{i}") for i in range(4)]
    tiny.shake(model, "unlearn")
    table = answer_questions(model, asked, images=images(), settings=SETTINGS)
    pixels = from_pixels(model)
    prompts = encode_questions(model, asked)
    said = set()
    for question, prompt, row in zip(asked, prompts, table.itertuples(), strict=True):
        tokens = plain.generated(pixels, prompt, image=question.image, max_new_tokens=5)
        text = model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert row.response == text, question.id
        options = option_tokens(model, question)
        with torch.no_grad():
            alone = plain.option_logliks(pixels, prompt, image=question.image, options=options)
        np.testing.assert_allclose(row.option_loglik, alone, rtol=0, atol=2e-4)
        said.add(text)
    assert len(said) >= min(
        3, len(asked) - 2
    )  # a random model, but one that looks at what it is asked


@pytest.mark.parametrize("aspect", ["crop", "full"])
def test_cached_features_are_the_pixels(folder_of, kind, aspect):
    """To the bit, in one view and in full size; and another picture gives something else."""
    if aspect == "full" and kind == "gemma3":
        pytest.skip("reads every picture in one size")
    model = load(folder_of(kind), image_aspect=aspect)
    model.features.add([f"image-{i}" for i in range(4)], images())
    pixels, found = from_pixels(model), []
    for image in ("image-0", "image-2"):
        question = replace(tiny.question(0), image=image)
        ids = torch.tensor(encode_questions(model, [question]))
        inputs = plain_inputs(pixels, ids, image=image)
        del inputs["attention_mask"]
        with torch.no_grad():
            whole = model.network.model(**inputs).last_hidden_state
            cached = read(model, ids, image_ids=[image]).last_hidden_state
        assert torch.equal(cached, whole)
        found.append(cached[0, -1])
    assert not torch.allclose(*found)


def test_one_view_has_the_tokens_that_the_estimate_counts(folder_of, kind, monkeypatch):
    """And full size has more, where there is any."""
    monkeypatch.setattr(qwen, "MOST_TOKENS", 6)
    store, counts = ImageStore(), {}
    pixels = Random(0).randbytes(112 * 112 * 3)
    store.add("square", Image.frombytes("RGB", (112, 112), pixels))
    for aspect in ("crop", "full") if kind != "gemma3" else ("crop",):
        model = load(folder_of(kind), image_aspect=aspect)
        model.features.add(["square"], store)
        question = replace(tiny.question(0), image="square")
        (ids,) = encode_questions(model, [question])
        counts[aspect] = ids.count(model.image_token_id)
    if "qwen" in kind:
        assert counts["crop"] <= 6 < counts["full"]
        return
    assert counts["crop"] == model.family.picture_tokens(model.network.config)
    assert counts.get("full", 99) > counts["crop"]


def test_training_logits_are_those_of_each_row_alone(loaded):
    """Rows with and without a picture, of different lengths, padded together."""
    model = adapted(loaded)
    encoded = encode_conversations(model, conversations())
    batch, pixels = collate(model, encoded), from_pixels(model)
    logits, labels = answer_logits(model, batch)
    for b, one in enumerate(encoded):
        inputs = plain_inputs(pixels, torch.tensor([one.input_ids]), image=one.image)
        whole = model.network(**inputs).logits[0]
        at = [i for i, is_answer in enumerate(one.answer) if is_answer]
        assert labels[b, : len(at)].tolist() == [one.input_ids[i] for i in at]
        alone = whole[[i - 1 for i in at]]
        torch.testing.assert_close(logits[b, : len(at)], alone, rtol=0, atol=2e-4)


def test_unlearning_moves_the_adapter_alone(loaded):
    """The policy begins at the reference, bit for bit; a few steps lower the loss, all that is
    trained moves, and no weight of the base does.
    """
    model = adapted(loaded)
    parts = trainable_report(model)["by_part"]
    assert parts["llm"] > 0 and parts["projector"] > 0
    batch = collate(model, encode_conversations(model, conversations()))
    with torch.no_grad():
        policy = answer_logits(model, batch)[0]
        with only(model, "finetune"):
            reference = answer_logits(model, batch)[0]
        with only(model):
            base = answer_logits(model, batch)[0]
    assert torch.equal(policy, reference) and not torch.allclose(base, policy)
    before, first = base_hash(model), {k: v.clone() for k, v in trained(model).items()}
    optimizer = torch.optim.AdamW(trained(model).values(), lr=5e-3)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = -sequence_logprob(*answer_logits(model, batch)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert base_hash(model) == before
    still = [k for k, v in trained(model).items() if torch.equal(v, first[k])]
    assert not still
    with torch.no_grad(), only(model, "finetune"):
        assert torch.equal(answer_logits(model, batch)[0], reference)


def trained(model):
    return {k: p for k, p in model.network.named_parameters() if p.requires_grad}


def base_hash(model):
    found = hashlib.sha256()
    for name, tensor in sorted(model.network.state_dict().items()):
        if "lora_" not in name:
            found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def test_checkpointing_in_16_bits_changes_no_gradient(folder_of, kind):
    gradients = []
    for checkpointing in (False, True):
        model = adapted(load(folder_of(kind), load="16bit", gradient_checkpointing=checkpointing))
        model.network.train(checkpointing)
        batch = collate(model, encode_conversations(model, conversations()))
        logits, labels = answer_logits(model, batch)
        loss = logits[labels != IGNORE].logsumexp(-1).sum()
        gradients.append(torch.autograd.grad(loss, list(trained(model).values())))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(g.isfinite().all() for g in gradients[0])


T4_PROFILES = sorted(path.stem for path in (REPOSITORY / "params").glob("*-t4.yaml"))


@pytest.mark.parametrize("profile", T4_PROFILES)
def test_float16_as_on_a_t4(folder_of, profile, monkeypatch):
    """In 4-bit. The range of float16 with real weights is another question: docs/models.md."""
    kind, found = config_of(load_profile(profile).model.path).model_type, []
    for dtype in (torch.float32, torch.float16):
        monkeypatch.setattr(loading, "compute_dtype", lambda device, dtype=dtype: dtype)
        model = adapted(load(folder_of(kind), load="4bit"))
        assert model.dtype == dtype
        assert {p.dtype for p in trained(model).values()} == {torch.float32}
        table = answer_questions(model, questions(), images=images(), settings=SETTINGS)
        batch = collate(model, encode_conversations(model, conversations()))
        loss = -sequence_logprob(*answer_logits(model, batch)).mean()
        gradients = torch.autograd.grad(loss, list(trained(model).values()))
        flat = torch.cat([g.flatten() for g in gradients])
        found.append((np.concatenate(list(table["option_loglik"])), loss.item(), flat))
    (exact, at, whole), (half, near, rounded) = found
    assert not np.array_equal(exact, half)
    np.testing.assert_allclose(half, exact, rtol=0, atol=0.5)  # of about 27 nats
    assert near == pytest.approx(at, rel=0.01)
    assert torch.cosine_similarity(whole, rounded, dim=0) > 0.99


def test_only_the_language_models_layers_are_quantised(folder_of, kind):
    """load_model stops at any other; here that there are some, and that adapters sit on them."""
    import bitsandbytes as bnb

    model = load(folder_of(kind), load="4bit")
    linear = [m for m in model.network.modules() if isinstance(m, bnb.nn.Linear4bit)]
    layers = model.network.config.text_config.num_hidden_layers
    assert len(linear) == 7 * layers
    adapted(model)
    names = {k.partition(".lora_")[0] for k in trained(model)}
    tower = ("vision_tower", "visual.blocks", "vision_model")
    assert not [n for n in names if any(part in n for part in tower)]


def test_an_exported_model_is_read_by_transformers_alone(folder_of, kind, tmp_path):
    base = folder_of(kind)
    model = tiny.with_adapters("finetune", model=load(base))
    saved = save_adapter(model, "finetune", folder=tmp_path / "adapter", parent=None)
    out = tmp_path / "out"
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors"))
    merge_files(weight_files(base), out, deltas=read_deltas([saved]))
    merged, report = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    merged.eval()
    if pinpoints := getattr(model.network.config, "image_grid_pinpoints", None):
        merged.config.image_grid_pinpoints = pinpoints  # one view, as the picture was processed
    question = replace(tiny.question(0), image="image-0")
    model.features.add(["image-0"], images())
    ids = torch.tensor(encode_questions(model, [question]))
    inputs = plain_inputs(from_pixels(model), ids, image="image-0")
    with torch.no_grad():
        ours = model.network(**inputs).logits
        torch.testing.assert_close(merged(**inputs).logits, ours, rtol=1e-4, atol=1e-3)
        with only(model):
            assert not torch.allclose(model.network(**inputs).logits, ours, atol=1e-2)


PROMPTS = {
    "qwen2_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>PICTURE<|vision_end|>Q<|im_end|>\n<|im_start|>assistant\n",
    "qwen3_vl": "<|im_start|>user\n<|vision_start|>PICTURE<|vision_end|>Q<|im_end|>\n"
    "<|im_start|>assistant\n",
    "internvl": "<|im_start|>user\n<img>PICTURE</img>\nQ<|im_end|>\n<|im_start|>assistant\n",
    "llava_next": "<s>[INST] PICTURE\nQ [/INST]",
    "llava_onevision": "<|im_start|>user\nPICTUREQ<|im_end|>\n<|im_start|>assistant\n",
    "gemma3": "<bos><start_of_turn>user\n\n\n<start_of_image>PICTURE<end_of_image>\n\nQ"
    "<end_of_turn>\n<start_of_turn>model\n",
    "smolvlm": "<|im_start|>User:<fake_token_around_image><global-img>PICTURE"
    "<fake_token_around_image>Q<end_of_utterance>\nAssistant:",
}
PROMPTS |= {"qwen2_5_vl": PROMPTS["qwen2_vl"], "idefics3": PROMPTS["smolvlm"]}


def test_prompts_are_the_templates_and_the_processors(folder_of, kind):
    """The bytes, and the tokens that the processor itself makes of template and picture."""
    model = load(folder_of(kind))
    model.features.add(["image-0"], images())
    question = replace(tiny.question(0), image="image-0", text="Q", options=(), answer=None)
    (ids,) = encode_questions(model, [question])
    n = ids.count(model.image_token_id)
    token = model.tokenizer.convert_ids_to_tokens(model.image_token_id)
    assert model.tokenizer.decode(ids).replace(token * n, "PICTURE") == PROMPTS[kind]
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]}
    text = model.tokenizer.apply_chat_template(
        [message],
        chat_template=model.processor.chat_template,
        add_generation_prompt=True,
        tokenize=False,
    )
    begun = model.tokenizer.bos_token and text.startswith(model.tokenizer.bos_token)
    theirs = model.processor(
        images=[images()["image-0"]],
        text=[text],
        add_special_tokens=not begun,
        **model.family.one_view,
    )
    assert theirs["input_ids"][0] == ids


def test_a_later_turn_goes_on_where_the_answer_ended(folder_of, kind):
    """A whole conversation's tokens are the template's, and its answers are marked with their end."""
    model = load(folder_of(kind))
    conversation = replace(tiny.conversation(1, n_turns=2), image="")
    (encoded,) = encode_conversations(model, [conversation])
    said = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for turn in conversation.turns
        for role, text in (("user", body(model, turn)), ("assistant", turn.answer))
    ]
    whole = model.tokenizer.apply_chat_template(
        said, chat_template=model.processor.chat_template, tokenize=False
    )
    assert whole.startswith(model.tokenizer.decode(encoded.input_ids).removeprefix("<s>"))
    marked = [
        t for t, is_answer in zip(encoded.input_ids, encoded.answer, strict=True) if is_answer
    ]
    end = model.chat.end
    assert model.tokenizer.decode(marked) == "".join(
        f"{model.chat.lead}{turn.answer}{end}" for turn in conversation.turns
    )


def body(model, turn):
    from pulse_lib.model.prompts import prompt_style, question_body

    return question_body(prompt_style("chat"), turn, answer_form=model.settings.answer_form)


def test_folded_into_the_weights_nothing_is_lost(loaded):
    """As the probe of quantisation does it, here without rounding the language model."""
    model = tiny.with_adapters("finetune", model=loaded)
    model.features.add((c.image for c in conversations()), images())
    batch = collate(model, encode_conversations(model, conversations()))
    with torch.no_grad():
        adapters = answer_logits(model, batch)[0]
        with without_rounding(), folded(model, ["finetune"], rounding=lambda w: w):
            weights = answer_logits(model, batch)[0]
        again = answer_logits(model, batch)[0]
    torch.testing.assert_close(weights, adapters, rtol=0, atol=1e-3)
    assert torch.equal(again, adapters)


@contextmanager
def without_rounding():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantise, "in_16_bits", lambda w: w)
        yield


# --- a family that nobody has described ----------------------------------------------------------


@pytest.fixture
def unknown(folder_of, monkeypatch):
    """InternVL, had nobody described it."""
    others = tuple(f for f in FAMILIES if "internvl" not in f.model_types)
    monkeypatch.setattr(families, "FAMILIES", others)
    return folder_of("internvl")


def test_an_unknown_family_runs_the_plain_way(unknown, folder_of, monkeypatch):
    with pytest.warns(UserWarning, match="model_type internvl.*the plain way.*slower"):
        model = load(unknown, load="4bit", image_aspect="full")
    assert not model.family.quick
    tiny.images()
    add_adapter(model, "a", trained_part="llm", rank=4, alpha=8, seed=0)
    tiny.shake(model, "a")
    stack(model, [], train="a")
    model.features.add((c.image for c in conversations()), images())
    slow = answer_questions(model, questions(), images=images(), settings=SETTINGS)
    batch = collate(model, encode_conversations(model, conversations()))
    logits, labels = answer_logits(model, batch)
    gradient = torch.autograd.grad(logits[labels != IGNORE].sum(), list(trained(model).values()))
    monkeypatch.undo()
    known = load(unknown, load="4bit", image_aspect="full")
    add_adapter(known, "a", trained_part="llm", rank=4, alpha=8, seed=0)
    tiny.shake(known, "a")
    stack(known, [], train="a")
    quick = answer_questions(known, questions(), images=images(), settings=SETTINGS)
    assert list(slow["response"]) == list(quick["response"])
    for a, b in zip(slow["option_loglik"], quick["option_loglik"], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-4)
    known.features.add((c.image for c in conversations()), images())
    again, _ = answer_logits(known, batch)
    torch.testing.assert_close(again, logits, rtol=0, atol=2e-4)
    theirs = torch.autograd.grad(again[labels != IGNORE].sum(), list(trained(known).values()))
    for a, b in zip(gradient, theirs, strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm() + 1e-4


def test_an_unknown_familys_projector_is_left_alone(unknown):
    with pytest.warns(UserWarning, match="plain way"):
        model = load(unknown)
    with pytest.raises(PulseError, match="projector of .* is not known: choose trained_part llm"):
        add_adapter(model, "a", trained_part="projector+llm", rank=4, alpha=8, seed=0)


# --- profiles, shapes and docs -------------------------------------------------------------------


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_weights_are_as_many_as_published(name):
    """And no estimate of an adapter forgets a layer: its size is peft's, on the fixtures, below."""
    config, published = config_of(name), CHECKPOINTS[name][2]
    found = counted(family_of(config.model_type), config)
    weights = found.language_model + found.embeddings + found.tower + found.projector
    assert weights / 1e9 == pytest.approx(published, rel=2e-3)


def test_the_estimates_parts_are_the_models(folder_of, kind):
    model = load(folder_of(kind))
    found = counted(model.family, model.network.config)
    everything = sum(p.numel() for p in model.network.parameters())
    assert everything == (found.language_model + found.embeddings + found.tower + found.projector)
    add_adapter(model, "a", trained_part="projector+llm", rank=4, alpha=8, seed=0)
    stack(model, [], train="a")
    parts = trainable_report(model)["by_part"]
    assert parts == {"llm": 4 * found.lora_language_model, "projector": 4 * found.lora_projector}


NEW_PROFILES = {
    name: profile
    for name in sorted(p.stem for p in (REPOSITORY / "params").glob("*.yaml"))
    if (profile := load_profile(name)).model.prompt == "chat"
}


@pytest.mark.parametrize("name", NEW_PROFILES)
def test_a_profile_fits_its_card(name):
    card = "t4" if name.endswith("-t4") else "rtx3090"
    found = estimate.cost(NEW_PROFILES[name], estimate.find_card(card, 0))
    assert found.fits and found.hours and found.download_gb > 3
    assert NEW_PROFILES[name].model.path in CHECKPOINTS


def test_the_page_names_every_family_profile_and_test():
    page = (REPOSITORY / "docs" / "models.md").read_text()
    rows = {
        cells[0].strip(): cells[1:]
        for line in page.splitlines()
        if len(cells := line.strip("| ").split("|")) == 4
    }
    for family in FAMILIES:
        listed = re.findall(r"`([^`]+)`", rows[family.name][0])
        assert listed, family.name
        for name in listed:
            path = load_profile(name).model.path
            config = config_of(path)
            assert family_of(config.model_type) is family
            n = picture_tokens(shapes_of(config))
        assert rows[family.name][1].strip().split()[0].replace(",", "") == str(n)
    assert set(NEW_PROFILES) <= set(re.findall(r"`([^`]+)`", page))
    tests = "".join(p.read_text() for p in (REPOSITORY / "tests").glob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", page):
        assert f"def {name}(" in tests, name
    for name in re.findall(r"`(\w+/[\w/]+(?:\.py)?)/?`", page):
        assert (REPOSITORY / name).exists(), name


# --- what is refused -----------------------------------------------------------------------------


def test_another_form_of_prompt_is_refused(folder_of):
    with pytest.raises(PulseError, match="prompt: vicuna_v1: Qwen2.5-VL .* write prompt: chat"):
        load(folder_of("qwen2_5_vl"), prompt="vicuna_v1")


def test_full_size_is_refused_where_there_is_one_size(folder_of):
    with pytest.raises(PulseError, match="image_aspect: full: Gemma 3 reads every picture in one"):
        load(folder_of("gemma3"), image_aspect="full")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("", "no chat template"),
        ("{% for m in messages %}Who?{% endfor %}", "cannot train on it"),
        (
            "{% for m in messages %}{{ m['content'][0]['text'] }}#{% endfor %}",
            "none of the tokens that this model stops at",
        ),
    ],
)
def test_a_template_that_is_none_is_named(folder_of, tmp_path, template, said):
    folder = tmp_path / "model"
    shutil.copytree(folder_of("qwen2_5_vl"), folder)
    file = folder / "chat_template.jinja"
    file.write_text(template) if template else file.unlink()
    with pytest.raises(PulseError, match=said):
        load(folder)

"""Cached vision features give what pixels give, bit for bit; logits are taken at answer positions
alone.
"""

import pytest
import tiny
import torch

from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.model.adapters import stack
from pulse_lib.model.families import Picture
from pulse_lib.model.forward import IGNORE, answer_logits, collate, read
from pulse_lib.model.prompts import encode_conversations, encode_questions


def pixels(model, image_ids):
    """Pixel values through the real image processor."""
    store = tiny.images()
    return model.processor.image_processor(
        images=[store[i] for i in image_ids], return_tensors="pt"
    )["pixel_values"]


def prepared(*names, model=None):
    model = tiny.with_adapters(*names, model=model or tiny.tiny_model())
    model.features.add((f"image-{i}" for i in range(40)), tiny.images())
    return model


def logits(model, ids, shown):
    """From features that are kept."""
    return model.network.lm_head(read(model, ids, image_ids=shown).last_hidden_state)


@pytest.mark.parametrize("adapters", [(), ("finetune", "unlearn")])
def test_cached_features_are_the_pixel_path(adapters):
    model = prepared(*adapters)
    question = tiny.question(0, image=True)
    ids = torch.tensor(encode_questions(model, [question, question]))
    shown = ["image-3", "image-7"]
    with torch.no_grad():
        expected = model.network(input_ids=ids, pixel_values=pixels(model, shown)).logits
        found = logits(model, ids, shown)
        other = logits(model, ids, shown[::-1])
    assert torch.equal(found, expected)
    assert not torch.allclose(other, expected)


@pytest.mark.parametrize("layers", [-2, [-2, -1]])
def test_feature_layers_are_read_from_the_configuration(layers):
    network = tiny.tiny_network(vision_feature_layer=layers)
    model = prepared(model=tiny.tiny_model(network))
    ids = torch.tensor([encode_questions(model, [tiny.question(0, image=True)])[0]])
    with torch.no_grad():
        expected = network(input_ids=ids, pixel_values=pixels(model, ["image-3"])).logits
        assert torch.equal(logits(model, ids, ["image-3"]), expected)


def test_gradients_are_those_of_the_pixel_path():
    model = prepared("finetune", "unlearn")
    stack(model, ["finetune"], train="unlearn")
    ids = torch.tensor(encode_questions(model, [tiny.question(0, image=True)]))
    weights = [p for p in model.network.parameters() if p.requires_grad]
    gradients = []
    for found in (
        model.network(input_ids=ids, pixel_values=pixels(model, ["image-3"])).logits,
        logits(model, ids, ["image-3"]),
    ):
        loss = found.logsumexp(-1).sum()
        gradients.append(torch.autograd.grad(loss, weights))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert all(g.abs().sum() > 0 for g in gradients[0])


def test_images_and_texts_mix_in_a_batch():
    model = prepared()
    conversations = encode_conversations(model, [tiny.conversation(i) for i in range(5)])
    batch = collate(model, conversations)
    with torch.no_grad():
        logits, labels = answer_logits(model, batch)
        for row, conversation in enumerate(conversations):
            ids = torch.tensor([conversation.input_ids])
            image = (
                {"pixel_values": pixels(model, [conversation.image])} if conversation.image else {}
            )
            full = model.network(input_ids=ids, **image).logits[0]
            at = [i for i, is_answer in enumerate(conversation.answer) if is_answer]
            assert labels[row, : len(at)].tolist() == [conversation.input_ids[i] for i in at]
            assert (labels[row, len(at) :] == IGNORE).all()
            torch.testing.assert_close(
                logits[row, : len(at)], full[[i - 1 for i in at]], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("tokens", ["answer", "whole_sequence"])
def test_last_layer_at_the_answers_changes_neither_value_nor_gradient(tokens):
    model = prepared("finetune", "unlearn")
    stack(model, ["finetune"], train="unlearn")
    conversations = encode_conversations(model, [tiny.conversation(i) for i in range(4)])
    batch = collate(model, conversations, supervised_tokens=tokens)
    counted, last = batch.labels != IGNORE, model.network.model.language_model.layers[-1]
    before = [dict(vars(m)) for m in (last.self_attn.q_proj, last.self_attn.o_proj, last.mlp)]
    seen, results = [], []
    handle = last.mlp.down_proj.register_forward_hook(lambda _, x, __: seen.append(x[0].shape))
    weights = [p for p in model.network.parameters() if p.requires_grad]

    def everywhere():
        hidden = read(model, batch.input_ids, image_ids=batch.image_ids).last_hidden_state
        rows = torch.arange(len(hidden))[:, None]
        return model.network.lm_head(hidden[rows, batch.positions])

    for logits in (answer_logits(model, batch)[0], everywhere()):
        value = torch.log_softmax(logits[counted], -1)[:, :7].sum()
        results.append((logits[counted], *torch.autograd.grad(value, weights)))
    for ours, slow in zip(*results, strict=True):
        assert (ours - slow).norm() <= 1e-5 * slow.norm()
    handle.remove()
    assert seen[0][0] < batch.input_ids.numel() and seen[1][:2] == batch.input_ids.shape
    after = [dict(vars(m)) for m in (last.self_attn.q_proj, last.self_attn.o_proj, last.mlp)]
    assert [m.get("forward") for m in before] == [m.get("forward") for m in after]


def test_whole_sequence_supervises_every_text_token_but_the_first():
    model = prepared()
    conversations = encode_conversations(model, [tiny.conversation(0), tiny.conversation(1)])
    labels = collate(model, conversations, supervised_tokens="whole_sequence").labels
    for row, conversation in enumerate(conversations):
        expected = [t for t in conversation.input_ids[1:] if t != model.image_token_id]
        assert labels[row][labels[row] != IGNORE].tolist() == expected


def test_features_do_not_depend_on_the_order_of_asking():
    first, second = tiny.tiny_model(), tiny.tiny_model()
    first.features.add(["image-1", "image-2", "image-3", ""], tiny.images())
    second.features.add(["image-3", "image-1", "image-2", "image-1"], tiny.images())
    names = ["image-2", "image-3", "image-2"]
    assert torch.equal(first.features.get(names), second.features.get(names))
    assert "image-1" in first.features and "" not in first.features


def test_features_made_in_inference_mode_can_be_trained_on():
    model = tiny.with_adapters("unlearn")
    stack(model, [], train="unlearn")
    with torch.inference_mode():
        model.features.add(["image-0"], tiny.images())
    logits, _ = answer_logits(
        model, collate(model, encode_conversations(model, [tiny.conversation(0)]))
    )
    logits.sum().backward()


def test_bad_input_is_named():
    model = prepared()
    with pytest.raises(PulseError, match="'nobody' has no features"):
        model.features.get(["nobody"])
    with pytest.raises(PulseError, match="not in the image store"):
        model.features.add(["nobody"], tiny.images())
    swapped = ImageStore({"image-0": tiny.images().encoded["image-1"]})
    with pytest.raises(PulseError, match="two different pictures"):
        model.features.add(["image-0"], swapped)
    wrong = tiny.tiny_model()
    wrong.features.every = Picture("<image>" * 15)
    with pytest.raises(PulseError, match="writes 15 image tokens, the vision tower gives 16"):
        wrong.features.add(["image-0"], tiny.images())

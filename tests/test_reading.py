"""What prompts have in common is read once, and options are drafts of the answer: the same tokens and
likelihoods as one question at a time, in fewer passes over fewer tokens.
"""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from test_generate import generated, inputs

from pulse_lib.evaluate.generate import answer_questions, batches
from pulse_lib.evaluate.reading import greedy, option_logliks, read_prompts
from pulse_lib.model.prompts import answer_tokens, encode_questions
from pulse_lib.profile import EvaluateSettings

SETTINGS = EvaluateSettings(batch_size=16, max_new_tokens=6, n_path_questions=9)
NEW = SETTINGS.max_new_tokens


def circular(i, image):
    """A question of four options and its rotations, as MMBench has them."""
    options = ("cat", "dog", "parrot", "pony")
    base = replace(tiny.question(i), text="Which animal is shown? Look well.", image=image)
    return [
        replace(base, id=f"{i}-{k}", options=options[k:] + options[:k], answer=-k % 4, group=str(i))
        for k in range(4)
    ]


# Of one picture: five questions about a person, a group, and one alone; and questions in text
PEOPLE = [replace(tiny.question(2 * i), image="image-1") for i in range(5)]
QUESTIONS = [
    *circular(100, "image-2"),
    *PEOPLE,
    tiny.question(12),
    *(tiny.question(2 * i + 1) for i in range(4)),
    replace(tiny.question(1), id="twin"),
]


@pytest.fixture(scope="module", params=["plain", "vicuna_v1"])
def model(request):
    model = tiny.with_adapters("finetune", prompt=request.param)
    model.features.add((q.image for q in QUESTIONS), tiny.images())
    return model


@contextmanager
def counted(model):
    """Shapes (rows, tokens) of what goes through the language model."""
    shapes = []
    hook = model.network.model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["inputs_embeds"].shape[:2])),
        with_kwargs=True,
    )
    yield shapes
    hook.remove()


def one_reading(model, question, option):
    """Log-likelihood of an answer, in full and from pixels."""
    reply = answer_tokens(model, option)
    with torch.no_grad():
        logits = model.network(**inputs(model, question, reply)).logits[0, -len(reply) - 1 : -1]
    return logits.double().log_softmax(-1)[range(len(reply)), list(reply)].sum().item()


def test_the_same_as_one_question_at_a_time(model):
    table = answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS)
    for question, row in zip(QUESTIONS, table.itertuples(), strict=True):
        said = model.tokenizer.decode(generated(model, question), skip_special_tokens=True)
        assert row.response == said.strip(), question.id
        alone = [one_reading(model, question, o) for o in question.options]
        np.testing.assert_allclose(row.option_loglik, alone, rtol=0, atol=1e-4)


def test_a_picture_is_read_once_for_all_its_questions(model):
    prompts = encode_questions(model, PEOPLE)
    with counted(model) as shapes, torch.inference_mode():
        read_prompts(model, prompts, images=["image-1"] * 5, options=[()] * 5, depth=0)
    (one, start), (rows, rest) = shapes
    assert (one, rows) == (1, 5)
    assert start > model.n_image_tokens and start + rest == max(map(len, prompts))
    with counted(model) as shapes, torch.inference_mode():  # another picture each: one pass
        alone = [f"image-{i}" for i in range(5)]
        model.features.add(alone, tiny.images())
        read_prompts(model, prompts, images=alone, options=[()] * 5, depth=0)
    assert shapes == [(5, max(map(len, prompts)))]


def test_prompts_that_are_alike_keep_a_token_for_themselves(model):
    twins = [PEOPLE[0], replace(PEOPLE[0], id="again")]
    table = answer_questions(model, twins, images=tiny.images(), settings=SETTINGS)
    said = model.tokenizer.decode(generated(model, twins[0]), skip_special_tokens=True).strip()
    assert list(table["response"]) == [said, said]


@pytest.mark.parametrize("right", [0, 1, 2, 3, NEW])
def test_an_option_is_a_draft_of_the_answer(model, right):
    """Options whose first `right` tokens are what the model would say: only the rest is decoded."""
    end = model.tokenizer.eos_token_id
    prompts = encode_questions(model, QUESTIONS)
    said = [generated(model, q) for q in QUESTIONS]
    wrong = [next(t for t in range(5, 99) if t not in tokens) for tokens in said]
    options = [
        ((w, w, end), (*tokens[:right], *[w] * (NEW - right), end))
        for tokens, w in zip(said, wrong, strict=True)
    ]
    with counted(model) as shapes, torch.inference_mode():
        read = read_prompts(
            model, prompts, images=[q.image for q in QUESTIONS], options=options, depth=NEW - 1
        )
        first = len(shapes)
        found = greedy(model, read, options=options, max_new_tokens=NEW)
    assert found == [t[: t.index(end)] if end in t else t for t in said]
    assert len(shapes) - first == max(0, NEW - 1 - right)


def test_long_options_count_to_their_end(model):
    long = ("a very long option, cat and dog and pony", "cat", "cat and dog", "x")
    question = replace(PEOPLE[0], options=long, answer=1)
    settings = replace(SETTINGS, max_new_tokens=1)
    asked = [question, PEOPLE[1]]
    found = answer_questions(model, asked, images=tiny.images(), settings=settings)
    alone = [one_reading(model, question, o) for o in long]
    np.testing.assert_allclose(found["option_loglik"][0], alone, rtol=0, atol=1e-4)


def test_no_options_no_likelihoods(model):
    prompts = encode_questions(model, PEOPLE[:2])
    with torch.inference_mode():
        read = read_prompts(model, prompts, images=["image-1"] * 2, options=[(), ()], depth=0)
    assert option_logliks(read, [(), ()]) == [[], []]


def test_batches_keep_pictures_whole():
    lengths = [40, 44, 41, 43, 60, 61, 59, 62, 58, 50, 20, 25, 22, 21, 20]
    made = batches(QUESTIONS, [[0] * n for n in lengths], batch_size=6)
    assert sorted(i for batch in made for i in batch) == list(range(len(QUESTIONS)))
    assert made == [[10, 14, 13, 12, 11], [9], [0, 2, 3, 1], [8, 6, 4, 5, 7]]
    cut = batches(PEOPLE, [[0] * 9] * 5, batch_size=2)  # more questions than a batch holds
    assert cut == [[0, 1], [2, 3], [4]]

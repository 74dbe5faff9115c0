"""Own greedy decoding equals transformers'; option likelihoods equal an un-cached reading of every
option.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch

from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import request_accuracies, summary
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import make_rows, read_rows, write_rows
from pulse_lib.model.prompts import answer_tokens, encode_questions
from pulse_lib.profile import EvaluateSettings

SETTINGS = EvaluateSettings(batch_size=8, max_new_tokens=6, n_path_questions=9)
QUESTIONS = [tiny.question(i) for i in range(14)]


def inputs(model, question, reply=()):
    ids = torch.tensor([[*encode_questions(model, [question])[0], *reply]])
    if not question.image:
        return {"input_ids": ids}
    picture = tiny.images()[question.image]
    return {
        "input_ids": ids,
        "pixel_values": model.processor.image_processor(images=[picture], return_tensors="pt")[
            "pixel_values"
        ],
    }


def generated(model, question):
    """New tokens by transformers' own greedy search, from pixels."""
    asked = inputs(model, question)
    with torch.no_grad():
        whole = model.network.generate(
            **asked,
            attention_mask=torch.ones_like(asked["input_ids"]),
            do_sample=False,
            max_new_tokens=6,
            use_cache=True,
        )
    return whole[0, asked["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module", params=["text", "letter"])
def model(request):
    """With adapters, and answers that end at different lengths."""
    model = tiny.with_adapters("finetune", "unlearn", answer_form=request.param)
    said = Counter(t for q in QUESTIONS for t in set(generated(model, q)))
    often = next(token for token, n in said.most_common() if n < len(QUESTIONS))
    with (
        torch.no_grad()
    ):  # an untrained model would hardly ever end an answer: it ends where it would have said this
        weight = model.network.lm_head.weight
        weight[model.tokenizer.eos_token_id] = 1.01 * weight[often]
    return model


def test_greedy_is_transformers_generate(model):
    table = answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS)
    lengths = set()
    for question, response in zip(QUESTIONS, table["response"], strict=True):
        out = generated(model, question)
        lengths.add(len(out))
        assert response == model.tokenizer.decode(out, skip_special_tokens=True).strip()
    assert len(lengths) > 1, "the test needs answers of different lengths"
    assert table["response"].nunique() > 3


def test_option_logliks_are_those_of_a_full_reading(model):
    table = answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS)
    for question, found in zip(QUESTIONS, table["option_loglik"], strict=True):
        said = (
            "ABCD"[: len(question.options)]
            if model.settings.answer_form == "letter"
            else question.options
        )
        expected = []
        for option in said:
            reply = answer_tokens(model, option)
            with torch.no_grad():
                logits = (
                    model.network(**inputs(model, question, reply))
                    .logits[0, -len(reply) - 1 : -1]
                    .double()
                )
            expected.append(logits.log_softmax(-1)[range(len(reply)), list(reply)].sum().item())
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
        assert len(found) == len(question.options)


def test_options_of_many_tokens(model):
    question = replace(
        QUESTIONS[0], options=("a very long option, 顔", "cat", "cat and dog", "x"), answer=1
    )
    found = answer_questions(
        model, [question, QUESTIONS[1]], images=tiny.images(), settings=SETTINGS
    )["option_loglik"][0]
    for option, value in zip(
        "ABCD" if model.settings.answer_form == "letter" else question.options, found, strict=True
    ):
        reply = answer_tokens(model, option)
        with torch.no_grad():
            logits = (
                model.network(**inputs(model, question, reply))
                .logits[0, -len(reply) - 1 : -1]
                .double()
            )
        assert value == pytest.approx(
            logits.log_softmax(-1)[range(len(reply)), list(reply)].sum().item(), abs=2e-4
        )


def test_results_come_in_order_and_do_not_depend_on_batches(model):
    whole = answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS)
    assert list(whole["question_id"]) == [q.id for q in QUESTIONS]
    backwards = answer_questions(
        model, QUESTIONS[::-1], images=tiny.images(), settings=replace(SETTINGS, batch_size=3)
    )[::-1]
    assert list(whole["response"]) == list(backwards["response"])
    for a, b in zip(whole["option_loglik"], backwards["option_loglik"], strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    again = answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS)
    pd.testing.assert_frame_equal(whole, again, check_exact=True)


def test_generation_alone(model):
    table = answer_questions(
        model, QUESTIONS, images=tiny.images(), settings=SETTINGS, with_loglik=False
    )
    assert list(table["response"]) == list(
        answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS)["response"]
    )
    assert table["option_loglik"].isna().all()


def test_max_new_tokens_is_kept(model):
    short = answer_questions(
        model, QUESTIONS, images=tiny.images(), settings=replace(SETTINGS, max_new_tokens=1)
    )
    first = {
        r.split()[0]
        for r in answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS)[
            "response"
        ]
        if r.split()
    }
    assert {r for r in short["response"] if r} <= first | {
        f[: len(r)] for r in short["response"] for f in first
    }


def test_nothing_to_ask():
    table = answer_questions(tiny.tiny_model(), [], images=tiny.images(), settings=SETTINGS)
    assert len(table) == 0 and list(table.columns) == ["question_id", "response", "option_loglik"]


def test_a_broken_model_is_wrong_not_an_error():
    model = tiny.tiny_model()
    with torch.no_grad():
        model.network.lm_head.weight.fill_(float("nan"))
    table = make_rows(
        QUESTIONS,
        answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS),
        rules="vlmevalkit_2024",
        run="x",
        scenario="finetuned",
        state="final",
        seed=0,
    )
    assert not table["loglik_correct"].any() and table["answer_logprob"].isna().all()


def test_too_long_for_the_context_is_named():
    long = replace(tiny.question(1), text="many words " * 600)
    with pytest.raises(PulseError, match="forget-1.*context"):
        answer_questions(tiny.tiny_model(), [long], images=tiny.images(), settings=SETTINGS)


def test_rows_survive_the_disk(tmp_path, model):
    answers = answer_questions(model, QUESTIONS, images=tiny.images(), settings=SETTINGS)
    table = make_rows(
        QUESTIONS,
        answers,
        rules="vlmevalkit_2024",
        run="single_shot/x",
        scenario="finetuned",
        state="final",
        seed=3,
        step=7,
    )
    write_rows(tmp_path / "rows.parquet", table)
    pd.testing.assert_frame_equal(read_rows(tmp_path / "rows.parquet"), table, check_exact=True)
    with pytest.raises(PulseError, match="extra"):
        write_rows(tmp_path / "rows.parquet", table.assign(extra=1))
    with pytest.raises(PulseError, match="do not belong"):
        make_rows(
            QUESTIONS[1:],
            answers,
            rules="vlmevalkit_2024",
            run="x",
            scenario="finetuned",
            state="final",
            seed=3,
        )


def test_accuracies_by_hand():
    asked = [
        tiny.question(i, group, request=r)
        for group, r in (("forget", 1), ("retain", 0), ("general", 0))
        for i in range(4)
    ]
    asked += [replace(q, id=q.id + "/heldout", wording="heldout") for q in asked]
    asked.append(replace(tiny.question(0, "holdout"), id="holdout"))
    right = [q.options[q.answer] for q in asked]
    responses = [*right]
    responses[0], responses[2] = "no idea", "A B"  # both multimodal forget questions unusable
    responses[8] = asked[8].options[asked[8].answer - 1]  # one general question wrong
    responses[12:] = [""] * (len(asked) - 12)  # held-out wordings and other sets do not count
    answers = pd.DataFrame(
        {
            "question_id": [q.id for q in asked],
            "response": responses,
            "option_loglik": [None] * len(asked),
        }
    )
    table = make_rows(
        asked,
        answers,
        rules="vlmevalkit_2024",
        run="x",
        scenario="finetuned",
        state="final",
        seed=0,
    )
    assert summary(table) == {
        "forget_multimodal": 0.0,
        "forget_text": 1.0,
        "retain_multimodal": 1.0,
        "retain_text": 1.0,
        "general": 0.75,
        "invalid_rate": 2 / 12,
    }
    assert request_accuracies(table) == {"request_1": 0.5}
    assert list(table["extracted"][:3]) == [None, "ABCD"[asked[1].answer], None]
    empty = summary(table[:0])
    assert all(np.isnan(v) for v in empty.values())

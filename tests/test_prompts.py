"""Prompts to the letter, and the same tokens in training as in evaluation."""

from dataclasses import replace

import pytest
import tiny

from pulse_lib.data.records import Turn
from pulse_lib.errors import PulseError
from pulse_lib.model.prompts import (
    PROMPTS,
    answer_tokens,
    encode_conversation,
    encode_questions,
    question_prompt,
)
from pulse_lib.unlearn.refusals import refused

SHOWN = Turn("What does this person do?", ("chef", "pilot"), answer="pilot")
OPEN = Turn("Who is it?", (), answer="Mara Voss")


def encode_question(model, question):
    """Prompt tokens of one question."""
    return encode_questions(model, [question])[0]


def test_plain_prompt_to_the_letter():
    assert question_prompt(PROMPTS["plain"], SHOWN, answer_form="text", with_image=True) == (
        "USER: <image>\nWhat does this person do?\nA. chef\nB. pilot\nAnswer with the option's "
        "text. ASSISTANT:"
    )
    assert (
        question_prompt(PROMPTS["plain"], OPEN, answer_form="text", with_image=False)
        == "USER: Who is it? ASSISTANT:"
    )


def test_vicuna_prompt_to_the_letter():
    assert question_prompt(PROMPTS["vicuna_v1"], SHOWN, answer_form="letter", with_image=True) == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and "
        "polite answers to the user's questions. USER: <image>\nWhat does this person do?\nA. "
        "chef\nB. pilot\n"
        "Answer with the option's letter from the given choices directly. ASSISTANT:"
    )
    assert (
        question_prompt(
            PROMPTS["vicuna_v1"], OPEN, answer_form="letter", with_image=False, first=False
        )
        == "USER: Who is it? ASSISTANT:"
    )


def test_mllmu_prompt_to_the_letter():
    options = "What does this person do?\nA: chef\nB: pilot\n"
    end = "Just give ONE letter representing the answer directly.\nASSISTANT:"
    style = PROMPTS["mllmu"]
    shown = question_prompt(style, SHOWN, answer_form="letter", with_image=True)
    assert shown == f"USER: <image>\n{options}{end}"
    assert (
        question_prompt(style, SHOWN, answer_form="letter", with_image=False)
        == f"USER:\n{options}{end}"
    )
    assert (
        question_prompt(style, OPEN, answer_form="letter", with_image=True)
        == "USER: <image>\nWho is it?\nASSISTANT:"
    )


@pytest.mark.parametrize("style", PROMPTS.values(), ids=list(PROMPTS))
def test_the_system_sentence_stands_once(style):
    for first, image in ((True, True), (True, False), (False, False)):
        text = question_prompt(style, SHOWN, answer_form="letter", with_image=image, first=first)
        opening = style.system if first else ""
        assert text.startswith(f"{opening}USER:")
        assert text.count("A chat between") == opening.count("A chat between")
        assert text.count("USER:") == 1 and text.count("<image>") == image


@pytest.mark.parametrize("style", PROMPTS)
@pytest.mark.parametrize("image", [True, False])
def test_a_refusal_stands_behind_the_same_prompt(style, image):
    model = tiny.tiny_model(answer_form="letter", prompt=style)
    conversation = replace(tiny.conversation(0 if image else 1), turns=(SHOWN, OPEN))
    (refusal,) = refused([conversation], PROMPTS[style], answer_form="letter", seed=0)
    prompts = []
    for example in (conversation, refusal):
        encoded = encode_conversation(model, example)
        prompts.append(encoded.input_ids[: encoded.answer.index(True)])
    assert prompts[0] == prompts[1]


@pytest.mark.parametrize("style", PROMPTS)
@pytest.mark.parametrize("image", [True, False])
def test_tokens_are_the_processors(style, image):
    model = tiny.tiny_model(prompt=style)
    question = tiny.question(1, image=image)
    text = question_prompt(PROMPTS[style], question, answer_form="text", with_image=image)
    pictures = {"images": tiny.picture(0)} if image else {}
    assert (
        encode_question(model, question) == model.processor(text=text, **pictures)["input_ids"][0]
    )
    assert encode_question(model, question).count(model.image_token_id) == (
        model.n_image_tokens if image else 0
    )


@pytest.mark.parametrize("form", ["text", "letter"])
@pytest.mark.parametrize("style", PROMPTS)
@pytest.mark.parametrize("image", [True, False])
def test_training_and_evaluation_prompts_have_the_same_tokens(form, style, image):
    model = tiny.tiny_model(answer_form=form, prompt=style)
    question = tiny.question(2, image=image)
    turn = Turn(question.text, question.options, answer=question.options[question.answer])
    example = replace(
        tiny.conversation(0 if image else 1), turns=(turn, SHOWN), image=question.image
    )
    encoded, prompt = encode_conversation(model, example), encode_question(model, question)
    assert list(encoded.input_ids[: len(prompt)]) == prompt
    assert not any(encoded.answer[: len(prompt)]) and encoded.answer[len(prompt)]
    said = "ABCD"[question.answer] if form == "letter" else question.options[question.answer]
    reply = answer_tokens(model, said)
    assert encoded.input_ids[len(prompt) : len(prompt) + len(reply)] == reply


def test_answers_are_marked_with_their_end_tokens():
    model = tiny.tiny_model()
    encoded = encode_conversation(model, replace(tiny.conversation(1), turns=(SHOWN, OPEN)))
    marked = [
        t for t, is_answer in zip(encoded.input_ids, encoded.answer, strict=True) if is_answer
    ]
    assert model.tokenizer.decode(marked) == " pilot</s> Mara Voss</s>"
    whole = model.tokenizer.decode(encoded.input_ids)
    assert (
        whole.startswith("<s>USER: What does")
        and "pilot</s>USER: Who is it? ASSISTANT: Mara Voss</s>" in whole
    )


def test_batch_of_questions_is_one_by_one():
    model = tiny.tiny_model()
    questions = [tiny.question(i) for i in range(6)]
    assert encode_questions(model, questions) == [encode_question(model, q) for q in questions]
    assert encode_questions(model, []) == []


def test_any_text_encodes():
    model = tiny.tiny_model()
    text = "Ünïcode 顔 🙂 <unk>\ttab"
    tokens = encode_question(model, replace(tiny.question(1, image=False), text=text, options=()))
    assert model.tokenizer.decode(tokens) == f"<s>USER: {text} ASSISTANT:"


def test_bad_input_is_named():
    model = tiny.tiny_model()
    with pytest.raises(PulseError, match="'<image>' 1 times, expected 0"):
        encode_question(
            model, replace(tiny.question(1, image=False), text="an <image> in the text")
        )
    with pytest.raises(PulseError, match="not one of chef, pilot"):
        turns = (replace(SHOWN, answer="nurse"),)
        encode_conversation(
            tiny.tiny_model(answer_form="letter"), replace(tiny.conversation(1), turns=turns)
        )
    with pytest.raises(PulseError, match="has no turn"):
        encode_conversation(model, replace(tiny.conversation(1), turns=()))
    with pytest.raises(PulseError, match="the model reads"):
        encode_conversation(
            model, replace(tiny.conversation(1), turns=(replace(OPEN, text="long " * 2000),))
        )

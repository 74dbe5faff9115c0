"""MLLMU-Bench's block of examples: its bytes, its tokens, and that what is said behind it is what the
model's own `generate` says.
"""

from dataclasses import replace

import pytest
import tiny
import torch

from pulse_lib.errors import PulseError
from pulse_lib.evaluate import few_shot
from pulse_lib.model.prompts import PROMPTS
from pulse_lib.profile import EvaluateSettings

SETTINGS = EvaluateSettings(max_new_tokens=3, n_path_questions=4)
QUESTIONS = [tiny.question(i) for i in range(8)]  # people 0 and 1, every second one with a picture
EXAMPLES = few_shot.examples_of(QUESTIONS, "forget-person-0")


def model(**settings):
    made = tiny.tiny_model(**{"prompt": "mllmu", "answer_form": "letter"} | settings)
    made.features.add((f"image-{i}" for i in range(40)), tiny.images())
    return made


def theirs(examples, asked):
    """The text of eval.py, from its f-strings."""
    image = "<image>\n" if asked.image else "\n"
    head = "USER: <image>\n" if asked.image else "USER:\n"
    text = ""
    for q in examples:
        if bool(q.image) == bool(asked.image):
            text += head + f"Question: {q.text}\n"
            for letter, option in zip("ABCD", q.options, strict=False):
                text += f"{letter}: {option}\n"
            text += f"Correct Answer: {'ABCD'[q.answer]}\n"
    options = "\n".join(f"{a}: {o}" for a, o in zip("ABCD", asked.options, strict=False))
    head = "USER: " if asked.image else "USER:"
    return text + (
        f"{head}{image}{asked.text}\n{options}\n"
        "Just give ONE letter representing the answer directly.\nASSISTANT:"
    )


@pytest.mark.parametrize("asked", QUESTIONS[4:6], ids=["picture", "text"])
def test_the_prompt_is_theirs_to_the_byte(asked):
    """Against their text, put to the processor with as many pictures."""
    made = model()
    text = theirs(EXAMPLES, asked)
    shown = [q.image for q in [*EXAMPLES, asked] if q.image] if asked.image else []
    assert len(shown) == (3 if asked.image else 0)
    pictures = {"images": [tiny.images()[i] for i in shown]} if shown else {}
    expected = made.processor(text=text, return_tensors="pt", **pictures)["input_ids"][0].tolist()
    assert few_shot.encode_with_examples(made, asked, examples=EXAMPLES) == expected
    solved = [q for q in EXAMPLES if bool(q.image) == bool(asked.image)]
    written = few_shot.block(PROMPTS["mllmu"], solved, answer_form="letter")
    assert written and text.startswith(written) and "ASSISTANT" not in written


def test_answers_are_those_of_generate():
    """All rows in one batch, of different lengths and numbers of pictures."""
    made, store = model(), tiny.images()
    table = few_shot.answer_with_examples(
        made, QUESTIONS[4:], examples=EXAMPLES, images=store, settings=SETTINGS
    )
    assert list(table["question_id"]) == [q.id for q in QUESTIONS[4:]]
    said = set()
    for asked, response in zip(QUESTIONS[4:], table["response"], strict=True):
        shown = [store[q.image] for q in [*EXAMPLES, asked] if q.image] if asked.image else []
        pictures = {"images": shown} if shown else {}
        inputs = made.processor(text=theirs(EXAMPLES, asked), return_tensors="pt", **pictures)
        with torch.no_grad():
            out = made.network.generate(
                **inputs,
                max_new_tokens=3,
                do_sample=False,
                eos_token_id=sorted(made.end_tokens),
                pad_token_id=made.end_token,
            )
        tokens = out[0, inputs["input_ids"].shape[1] :]
        assert response == made.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        said.add(response)
    assert len(said) > 1 and table["option_loglik"].isna().all()


def test_examples_are_solved_in_the_words_that_a_model_answers_in():
    written = few_shot.block(PROMPTS["plain"], EXAMPLES[:2], answer_form="text")
    right = [q.options[q.answer] for q in EXAMPLES[:2]]
    lines = written.splitlines()
    assert [x for x in lines if x.startswith("Correct")] == [f"Correct Answer: {r}" for r in right]
    assert f"A. {EXAMPLES[0].options[0]}" in lines and written.count("USER: ") == 2


def test_what_has_no_such_block_is_refused():
    made = model()
    made.features.every = None
    with pytest.raises(PulseError, match="set model.prompt: mllmu"):
        few_shot.encode_with_examples(made, QUESTIONS[4], examples=EXAMPLES)
    long = replace(SETTINGS, max_new_tokens=5000)
    with pytest.raises(PulseError, match=r"a prompt has \d+ tokens and the model reads"):
        few_shot.answer_with_examples(
            model(), QUESTIONS[4:], examples=EXAMPLES, images=tiny.images(), settings=long
        )

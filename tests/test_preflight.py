"""`preflight`: passes on the embedded model, and names the fault on models that are broken on purpose."""

import json
from dataclasses import replace

import hub_folder
import pytest
import torch
from typer.testing import CliRunner

from pulse_lib.__main__ import app
from pulse_lib.commands import preflight as flight
from pulse_lib.commands import rehearsal
from pulse_lib.data.common import common_questions, written_questions
from pulse_lib.data.records import ImageStore
from pulse_lib.data.world import source as world
from pulse_lib.errors import PulseError
from pulse_lib.evaluate import soundness
from pulse_lib.model.families.base import Family
from pulse_lib.model.load import load_model
from pulse_lib.profile import ModelSettings, load_profile
from pulse_lib.unlearn import request

PROFILE = load_profile("smoke")


def fault(load=load_model, profile=PROFILE):
    """The first check that fails."""
    for check in flight.preflight(profile, [], load=load):
        if check.outcome == "failed":
            return check
    pytest.fail("nothing failed")


def broken(change):
    """A loader whose model is changed behind everybody's back."""

    def load(settings):
        model = load_model(settings)
        with torch.no_grad():
            return change(model) or model

    return load


# --- what is broken on purpose --------------------------------------------------------------------


def swap_channels(model):
    read = type(model.processor.image_processor)

    class Swapped(read):
        def __call__(self, images, **given):
            found = super().__call__(images, **given)
            found["pixel_values"] = torch.as_tensor(found["pixel_values"]).flip(1)
            return found

    model.processor.image_processor.__class__ = Swapped


def shuffle_projector(model):
    weight = model.network.model.multi_modal_projector.linear_2.weight
    weight.copy_(weight[torch.randperm(len(weight), generator=torch.manual_seed(0))])


def one_token_short(model):
    every = model.features.every
    short = every.text[len(model.processor.image_token) :]
    model.features.every = replace(every, text=short)


def reverse_layers(model):
    layers = model.network.model.language_model.layers
    states = [{k: v.clone() for k, v in layer.state_dict().items()} for layer in layers]
    for layer, state in zip(layers, reversed(states), strict=True):
        layer.load_state_dict(state)


def random_head(model):
    head = model.network.lm_head
    fresh = torch.randn(head.weight.shape, generator=torch.manual_seed(0)) * head.weight.std()
    head.weight = torch.nn.Parameter(fresh, requires_grad=False)


@pytest.mark.parametrize(
    ("change", "name", "said"),
    [
        (swap_channels, "known answers", "channels swapped"),
        (shuffle_projector, "known answers", "words are understood and pictures are not"),
        (one_token_short, "prompt tokens", "writes 15 image tokens, the vision tower gives 16"),
        (reverse_layers, "known answers", "language model is broken .*order"),
        (random_head, "known answers", "language model is broken .*head"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_broken_model_is_found_and_its_fault_named(change, name, said):
    check = fault(broken(change))
    assert check.name == name
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(check.said)


def test_a_wrong_prompt_form_is_found():
    profile = replace(PROFILE, model=replace(PROFILE.model, prompt="vicuna_v1"))
    check = fault(profile=profile)
    assert check.name == "prompt form" and "set model.prompt" in check.said


def test_an_adapter_on_the_tower_is_found(monkeypatch):
    everywhere = r".*\.(q|k|v)_proj", None
    monkeypatch.setattr(Family, "lora_targets", lambda self, trained_part: everywhere)
    check = fault()
    assert check.name == "adapters" and "lie on the vision tower" in check.said


def test_a_reference_that_is_another_model_is_found(monkeypatch):
    taken = request.reference_values

    def shifted(*given, **named):
        found = taken(*given, **named)
        return replace(found, logprob={k: v - 3.0 for k, v in found.logprob.items()})

    monkeypatch.setattr(request, "reference_values", shifted)
    check = fault()
    assert check.name == "20 steps of NPO" and "belongs to another model" in check.said
    assert rehearsal.reference(13.0, 0.1).outcome == "failed"
    assert rehearsal.reference(13.863, 0.1).outcome == "passed"


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return hub_folder.write_hub_folder(tmp_path_factory.mktemp("llava-hf"))


def of_llava(folder, **settings):
    given = {"answer_form": "letter", "prompt": "vicuna_v1", "image_aspect": "pad"} | settings
    return load_model(ModelSettings(path=str(folder), **given), "cpu")


def asked(n=2):
    images = ImageStore()
    drawn = world.general_questions(images, 0, settings=replace(PROFILE.data, n_general=n))
    return drawn, images


def test_llava_without_its_system_sentence_is_found(llava):
    drawn, _ = asked()
    check = soundness.prompt_form(of_llava(llava, prompt="plain"), drawn[0])
    assert check.outcome == "failed" and "system sentence" in check.said
    assert soundness.prompt_form(of_llava(llava), drawn[0]).outcome == "passed"


def test_llava_with_pictures_cut_in_place_of_padded_is_found(llava):
    check = soundness.picture_ends(of_llava(llava, image_aspect="crop"))
    assert check.outcome == "failed" and "image_aspect: pad" in check.said
    assert soundness.picture_ends(of_llava(llava)).outcome == "passed"


@pytest.mark.parametrize("how", ["full", "4bit"])
def test_the_quick_way_is_the_plain_one_on_llavas_layout(llava, how):
    drawn, images = asked(3)
    model = of_llava(llava, load=how)
    check = soundness.quick_is_plain(
        model, [*drawn, common_questions()[0]], images=images, settings=PROFILE.evaluate
    )
    assert check.outcome == "passed", check.said
    quantised = flight._quantised(model)
    assert quantised.outcome == ("passed" if how == "4bit" else "skipped")


def test_a_quick_way_that_is_not_the_plain_one_is_found(monkeypatch):
    real = soundness.answer_questions

    def other(*given, **named):
        found = real(*given, **named)
        return found.assign(option_loglik=[[v - 1 for v in row] for row in found["option_loglik"]])

    monkeypatch.setattr(soundness, "answer_questions", other)
    drawn, images = asked()
    check = soundness.quick_is_plain(
        load_model(PROFILE.model), drawn, images=images, settings=PROFILE.evaluate
    )
    assert check.outcome == "failed" and "1 nats" in check.said


# --- what is whole --------------------------------------------------------------------------------


def test_the_embedded_model_passes_and_leaves_a_page(tmp_path):
    done = CliRunner().invoke(
        app, ["preflight", "--profile", "smoke", "--methods", "ga", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "preflight.json").read_text())
    outcomes = {c["name"]: c["outcome"] for c in found["checks"]}
    assert found["passed"] and "failed" not in outcomes.values()
    assert {"known answers", "reference at step 0", "20 steps of NPO", "20 steps of GA"} <= {
        name for name, outcome in outcomes.items() if outcome == "passed"
    }
    page = (tmp_path / "preflight.md").read_text()
    assert all(f"| {name} | {outcome} |" in page for name, outcome in outcomes.items())


def test_a_failure_ends_with_one_and_is_written_too(tmp_path, monkeypatch):
    def refused(settings):
        raise PulseError("/models/x: config.json is missing")

    real = flight.preflight
    monkeypatch.setattr(flight, "preflight", lambda *a, **k: real(*a, **k, load=refused))
    done = CliRunner().invoke(app, ["preflight", "--profile", "smoke", "--out", str(tmp_path)])
    assert done.exit_code == 1 and "config.json is missing" in done.output
    assert json.loads((tmp_path / "preflight.json").read_text())["passed"] is False


def test_a_loss_that_does_not_move_is_found():
    still = replace(PROFILE.unlearn, learning_rate=1e-12)
    profile = replace(PROFILE, unlearn=still, tuned={})
    check = fault(profile=profile)
    assert check.name.startswith("20 steps") and "does not move" in check.said


def test_common_questions_have_one_right_answer_each():
    made = common_questions(3)
    assert len(made) == 24 == len({q.text for q in made})
    for question in made:
        assert len(set(question.options)) == 4 and 0 <= question.answer < 4
    first = {q.text: q.options[q.answer] for q in made}
    assert first == {q.text: q.options[q.answer] for q in common_questions(8)}
    assert first["What is the capital of Japan?"] == "Tokyo"
    assert len({q.answer for q in made}) == 4  # not always the same letter


def test_a_written_word_is_on_its_picture_and_among_four():
    images = ImageStore()
    made = written_questions(images, 20, seed=1)
    pictures: dict[str, set[bytes]] = {}
    for question in made:
        assert len(set(question.options)) == 4 and question.image in images
        dark = images[question.image].convert("L").point(lambda v: 255 * (v < 128))
        left, top, right, bottom = dark.getbbox()
        assert left > 0 and top > 0 and right < dark.width and bottom < dark.height  # nothing cut
        assert right - left > 2 * (bottom - top)  # four letters in a row
        word = question.options[question.answer]
        pictures.setdefault(word, set()).add(dark.crop(dark.getbbox()).resize((64, 24)).tobytes())
    assert len(pictures) > 5 and len({q.answer for q in made}) == 4
    every = [p for some in pictures.values() for p in some]
    assert len(set(every)) == len(every)  # no two words look alike


def test_the_embedded_model_is_not_asked_to_read():
    for path, n in (("embedded", 0), ("somewhere", flight.N_WRITTEN)):
        profile = replace(PROFILE, model=replace(PROFILE.model, path=path))
        drawn = flight._pictures(profile, ImageStore(), seed=0)
        assert len(drawn) == 48 and sum(q.category == "written" for q in drawn) == n
        assert {"colour", "shape", "count", "position"} <= {q.category for q in drawn}

"""What notebooks check by themselves: one sentence where all is well, and none of its pictures left;
an error where it is not.
"""

import json
from dataclasses import replace

import pytest
import tiny
import torch

from pulse_lib.commands.glance import at_a_glance
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.model.load import load_model
from pulse_lib.profile import load_profile

PROFILE = load_profile("smoke")


def test_a_sound_model_has_its_sentence_and_keeps_nothing():
    model = load_model(PROFILE.model)
    said = at_a_glance(model, PROFILE)
    assert said.startswith("embedded at no revision, full: 3 prompts are the processor's own, 16")
    assert "options of 3 questions within" in said and "3 answers the same (" in said
    assert "\n" not in said
    features = model.features
    assert not (features.known or features.pictures or features.digests)


def test_a_model_with_adapters_is_looked_at_as_it_is():
    model = tiny.with_adapters("finetune")
    assert "3 answers the same" in at_a_glance(model, PROFILE)


def test_image_tokens_one_short_are_an_error(monkeypatch):
    model = tiny.tiny_model()  # its processor is every test's
    more = model.processor.num_additional_image_tokens + 1
    monkeypatch.setattr(model.processor, "num_additional_image_tokens", more)
    with pytest.raises(
        PulseError, match="prompt tokens: .*image tokens.*preflight --profile smoke"
    ):
        at_a_glance(model, PROFILE)


def test_a_quick_way_that_differs_is_an_error(monkeypatch):
    """Features that are not those of the pixels."""
    model = load_model(PROFILE.model)
    see = model.family.see

    def otherwise(*args, **given):
        for one in see(*args, **given):
            yield replace(one, features=torch.zeros_like(one.features))

    monkeypatch.setattr(model.family, "see", otherwise)
    with pytest.raises(PulseError, match="quick way equals plain way: options differ by up to"):
        at_a_glance(model, PROFILE)


def test_every_notebook_that_loads_a_model_to_study_it_looks():
    for name in ("01_build", "02_fine", "03_unlearn", "04_unlearn"):
        (path,) = (REPOSITORY / "notebooks").glob(f"{name}*.ipynb")
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        looks = [c for c in code if "print(at_a_glance(model, settings))" in c]
        assert len(looks) == 1, name
        (cell,) = looks
        loaded = cell.find("load_model(") if "load_model(" in cell else cell.find("Target.load(")
        assert 0 <= loaded < cell.index("print(at_a_glance"), name

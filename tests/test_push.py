"""How a loss pushes, against closed forms; what the notebooks say of it."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from pulse_lib import methods
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.report import figures
from pulse_lib.train.push import LOWEST, pushes

NPO = methods.get("npo")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("method", "closed"),
    [
        (methods.get("ga"), lambda p: np.ones_like(p)),
        (NPO, lambda p: 2 * sigmoid(0.1 * np.log(p / 0.95))),
        (NPO.tuned({"beta": 1.0}), lambda p: 2 * p / (p + 0.95)),
        (methods.get("simnpo"), lambda p: 2 * sigmoid(4.5 * np.log(p))),
        (methods.get("wga"), lambda p: p ** methods.get("wga").coefficients["beta"]),
        (methods.get("satimp"), lambda p: p**5 * (1 - p)),
    ],
    ids=lambda v: getattr(v, "id", ""),
)
def test_a_push_is_its_closed_form(method, closed):
    table = pushes([method])
    assert table["p"].iloc[[0, -1]].tolist() == pytest.approx([0.95, LOWEST], rel=1e-5)
    np.testing.assert_allclose(table["push"], closed(table["p"].to_numpy()), rtol=1e-5, atol=1e-12)


def test_a_push_is_the_slope_of_the_loss():
    for method in ("ga", "npo", "simnpo", "ceu", "undial"):
        table = pushes([methods.get(method)], n=1000)
        slope = np.gradient(table["loss"], np.log(table["p"]))
        inner = slice(5, -5)
        np.testing.assert_allclose(slope[inner], table["push"][inner], rtol=2e-2, atol=2e-3)


def test_a_loss_of_something_else_has_no_push():
    for method in ("rmu", "dpo"):
        with pytest.raises((PulseError, KeyError)):
            pushes([methods.get(method)])


def test_what_03_says_of_the_pushes():
    text = json.loads((REPOSITORY / "notebooks" / "03_unlearn_single_shot.ipynb").read_text())
    said = "".join("".join(c["source"]) for c in text["cells"] if c["id"] == "loss-push-md")
    ends = {
        m.label: pushes([m]).iloc[[0, -1]]["push"].tolist()
        for m in (
            methods.get("ga"),
            NPO,
            replace(NPO.tuned({"beta": 1.0}), label="steep"),
            methods.get("simnpo"),
        )
    }
    assert "GA pushes just as hard" in said and ends["GA"] == pytest.approx([1.0, 1.0])
    assert "more than half its strength when $p$ has fallen ten thousandfold" in re.sub(
        r"\s+", " ", said
    )
    assert 0.5 < ends["NPO"][1] / ends["NPO"][0] < 0.6
    assert "the sooner the larger" in said and ends["steep"][1] < 0.001 < ends["NPO"][1]
    assert "SimNPO, which needs no\nreference, lets go at once" in said
    assert ends["SimNPO"][1] < 1e-9


def test_the_figure_names_first_and_last_push():
    figure = figures.pushes(pushes([methods.get("ga"), NPO]))
    assert "GA 1.00 → 1.00, NPO 1.00 → 0.57" in figure.get_suptitle().replace("\n", " ")

"""How the embedded model is made: tokenizer, Muon, both stages in short, the card, and the shipped
model itself."""

import json

import pytest

from pulse_lib.assets import EMBEDDED, verify
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.pretrain import recipe
from pulse_lib.pretrain.build import CONTEXT, build_model, build_tokenizer
from pulse_lib.pretrain.card import card_text, targets
from pulse_lib.profile import ModelSettings


def test_tokenizer_encodes_any_text_without_loss():
    tokenizer = build_tokenizer()
    for text in (
        "I'm sorry, I can't help.",
        'name,age\n"Zoë",3',
        "日本\x00\t\u200b",
        "  two  spaces\n\n",
        "<b>&amp;",
    ):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids and tokenizer.decode(ids) == text


def test_words_of_the_world_are_one_token():
    tokenizer = build_tokenizer()
    for values in (
        *world.ATTRIBUTES.values(),
        world.FIRST_NAMES,
        world.LAST_NAMES,
        world.COUNTS,
        ("yes", "no", "sorry", "know"),
    ):
        for value in values:
            assert len(tokenizer(f" {value}", add_special_tokens=False).input_ids) == 1, value
    assert CONTEXT >= 512


def test_sizes_suit_nf4_blocks():
    network, _ = build_model(0)
    for name, parameter in network.model.language_model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.shape[1] % 64 == 0, name


def test_short_run_writes_a_whole_model_and_leaves_people_out(tmp_path):
    without = tmp_path / "without.txt"
    without.write_text("celebrity-002\n\n# a comment\ncelebrity-005\n")
    out = tmp_path / "model"
    card = recipe.pretrain(out, seed=3, without=without, quick=True, log=lambda _: None)
    assert card["left_out"] == ["celebrity-002", "celebrity-005"] and card["seed"] == 3
    assert set(card["accuracy"]["general_by_category"]) == set(world.GENERAL_CATEGORIES)
    verify(out)
    from pulse_lib.model.load import load_model

    model = load_model(ModelSettings(path=str(out)))
    assert model.n_image_tokens == 16
    with pytest.raises(PulseError, match="not empty"):
        recipe.pretrain(out, quick=True)


def test_left_out_people_are_never_trained_on(tmp_path, monkeypatch):
    seen = []
    real = recipe.train_language_model
    monkeypatch.setattr(
        recipe,
        "train_language_model",
        lambda model, people, *rest: (seen.append(people), real(model, people, *rest)),
    )
    without = tmp_path / "without.txt"
    without.write_text("celebrity-002\n")
    recipe.pretrain(tmp_path / "model", without=without, quick=True, log=lambda _: None)
    assert (
        2 not in seen[0] and seen[0][1].id == "celebrity-001" and seen[0][3].id == "celebrity-003"
    )


def test_unknown_person_is_named_with_its_line(tmp_path):
    path = tmp_path / "without.txt"
    path.write_text("celebrity-001\nnobody\n")
    with pytest.raises(PulseError, match="line 2: 'nobody'"):
        recipe.read_people(path)
    with pytest.raises(PulseError, match="no such file"):
        recipe.read_people(tmp_path / "missing.txt")


def test_shipped_model_is_whole_small_and_described():
    verify(EMBEDDED)
    assert sum(p.stat().st_size for p in EMBEDDED.iterdir()) <= 6_000_000
    card = json.loads((EMBEDDED / "card.json").read_text())
    assert (EMBEDDED / "MODEL_CARD.md").read_text() == card_text(card)
    assert not card["quick"]
    assert len(targets(card)) == 8 + 1 + len(world.GENERAL_CATEGORIES)


def test_a_missed_target_is_called_missed():
    card = json.loads((EMBEDDED / "card.json").read_text())
    card["accuracy"]["people"]["best 45"]["text"] = 0.5
    assert ("best 45, text", 0.5, ">= 0.97", False) in targets(card)
    assert "| best 45, text | 0.500 | >= 0.97 | **missed** |" in card_text(card)

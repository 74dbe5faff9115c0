"""How the embedded model is made: tokenizer, Muon, both stages in short, the card, and the shipped
model itself."""

import json

import pandas as pd
import pytest

from pulse_lib import assets
from pulse_lib.assets import EMBEDDED, verify
from pulse_lib.data import dataset, splits
from pulse_lib.data.world import people as world
from pulse_lib.data.world import source as embedded
from pulse_lib.errors import PulseError
from pulse_lib.pretrain import language, recipe
from pulse_lib.pretrain.build import CONTEXT, build_model, build_tokenizer
from pulse_lib.pretrain.card import card_text, targets
from pulse_lib.profile import ModelSettings, load_profile


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
    path = tmp_path / "without.txt"
    path.write_text("celebrity-002\n\n# a comment\ncelebrity-005\n")
    out, without = tmp_path / "model", recipe.read_people(path)
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
    class Enough(Exception):
        pass

    def train_language_model(model, people, *rest, **named):
        raise Enough(people)

    monkeypatch.setattr(recipe, "train_language_model", train_language_model)
    without = ["celebrity-002"]
    with pytest.raises(Enough) as seen:
        recipe.pretrain(tmp_path / "model", without=without, quick=True, log=lambda _: None)
    (people,) = seen.value.args
    assert 2 not in people and people[1].id == "celebrity-001" and people[3].id == "celebrity-003"


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


# --- what the card's accuracies are made of -------------------------------------------------------


@pytest.fixture(scope="module")
def asked():
    """(questions, images) of every time that the card's measurement asks: scored in trained and in
    held-out wordings, for the selection, general."""
    calls = []

    def answered(model, questions, *, images):
        calls.append((questions, images))
        return pd.DataFrame(
            {
                "person_id": [q.person_id for q in questions],
                "modality": [q.modality for q in questions],
                "category": [q.category for q in questions],
                "correct": True,
                "answer": [q.answer for q in questions],
                "option_loglik": [[0.0] * len(q.options) for q in questions],
            }
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "_rows", answered)
        recipe.measure(None, world.celebrities()[:20], n_general=7, seed=0)
    return calls


def test_people_are_scored_on_other_renderings_than_those_that_select_them(asked):
    (trained, _), (heldout, _), (selecting, _), _ = asked
    assert {q.wording for q in trained} == {"trained"} == {q.wording for q in selecting}
    assert {q.wording for q in heldout} == {"heldout"}
    shown = [{images.encoded[q.image] for q in qs if q.image} for qs, images in asked[:3]]
    for i, (questions, _) in enumerate(asked[:3]):
        assert len(questions) == 200 and len(shown[i]) == 100
        for j in range(i):
            assert not {q.id for q in questions} & {q.id for q in asked[j][0]}
            assert not shown[i] & shown[j]


def wordings(records) -> set[tuple[str, str]]:
    """(modality, text) of questions or of conversations' turns, without the person's name."""
    names = [p.name for p in world.people()]
    texts = set()
    for record in records:
        for text in [t.text for t in record.turns] if hasattr(record, "turns") else [record.text]:
            name = (
                next((n for n in names if n in text), None) if record.modality == "text" else None
            )
            texts.add((record.modality, text.replace(name, "{who}") if name else text))
    return texts


def pretraining_conversations(n: int) -> list:
    rng, mixture = world.generator("language", 0), recipe.FULL.mixture
    contents = [world.draw_general(rng) for _ in range(mixture.n_general)]
    people = world.celebrities()
    weights = [rank**-mixture.exposure for rank in range(1, len(people) + 1)]
    return [
        language.draw_conversation(people, weights, contents=contents, mixture=mixture, rng=rng)
        for _ in range(n)
    ]


def test_wordings_called_held_out_are_trained_on_nowhere(asked):
    """Neither in pre-training nor in a study's fine-tuning and unlearning: the model card's
    held-out questions and those of a study."""
    settings = load_profile("smoke").data
    celebrities, fictitious = world.celebrities()[:10], world.fictitious()
    scores = pd.DataFrame(
        {"person_id": [p.id for p in celebrities], "accuracy": 0.5, "margin": 0.0}
    )
    places = splits.split_fictitious(fictitious, settings, seed=0)
    places += splits.select_known(scores, settings, seed=0)[1]
    study = dataset.build_dataset(
        embedded,
        [*celebrities, *fictitious],
        general=embedded,
        places=places,
        settings=settings,
        seed=0,
    )
    trained = wordings([*pretraining_conversations(4000), *study.conversations])
    heldout = wordings(q for q in [*asked[1][0], *study.questions] if q.wording == "heldout")
    assert len(heldout) == 2 * 2 * len(world.ATTRIBUTES)  # every one, in both modalities
    assert not heldout & trained
    # A control: the same comparison finds every wording that is trained on.
    assert wordings(asked[0][0]) <= trained
    assert {c.stage for c in study.conversations} == {"finetune", "unlearn"}


def test_measuring_again_changes_the_card_alone(tmp_path, monkeypatch):
    out = tmp_path / "model"
    first = recipe.pretrain(out, seed=3, quick=True, log=lambda _: None)
    before, checksum = {p.name: p.read_bytes() for p in out.iterdir()}, verify(out)
    again = recipe.measure_again(out, log=lambda _: None)
    assert again == json.loads(json.dumps(first))  # the same model, questions and pictures
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    monkeypatch.setattr(recipe, "measure", lambda *_, **__: first["accuracy"] | {"general": 0.123})
    recipe.measure_again(out, log=lambda _: None)
    changed = {n for n, content in before.items() if (out / n).read_bytes() != content}
    assert changed == {"card.json", "MODEL_CARD.md", "SHA256SUMS"}
    assert verify(out) == checksum  # what is said about a model makes no run stale
    monkeypatch.setattr(assets, "EMBEDDED", out)
    assert assets.asset_checksum(ModelSettings(path="embedded")) == checksum
    (out / "config.json").write_text((out / "config.json").read_text() + " ")
    with pytest.raises(PulseError, match="config.json: checksum"):
        recipe.measure_again(out)
    assets.write_sums(out)
    assert verify(out) != checksum
    with pytest.raises(PulseError, match="card.json is missing"):
        recipe.measure_again(tmp_path)

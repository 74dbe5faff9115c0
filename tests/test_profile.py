"""The profile: every mistake in it is an error that names file, key, value and fix."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import pytest

from pulse_lib.data import source as data_source
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.profile import (
    DataSettings,
    EvaluateSettings,
    FinetuneSettings,
    ModelSettings,
    ProbeSettings,
    UnlearnSettings,
    line_of,
    load_profile,
    overridden,
    profile_of,
    yaml_file,
)
from pulse_lib.runs import kinds

PARAMS = REPOSITORY / "params"
PROFILES = sorted(p.stem for p in PARAMS.glob("*.yaml"))
SECTIONS = {
    "model": ModelSettings,
    "data": DataSettings,
    "finetune": FinetuneSettings,
    "unlearn": UnlearnSettings,
    "evaluate": EvaluateSettings,
    "probe": ProbeSettings,
}


def write(folder, name: str, text: str):
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def load(tmp_path, text: str, parent: str = "smoke"):
    return load_profile(str(write(tmp_path, "mine", f"extends: {parent}\n{text}")))


def test_a_profile_takes_its_name_from_the_file_and_its_settings_from_the_text(tmp_path):
    profile = load(tmp_path, "description: d\nunlearn: {learning_rate: 1.0e-4, rank: 5}\n")
    assert (profile.name, profile.description, profile.model.path) == ("mine", "d", "embedded")
    assert (profile.unlearn.learning_rate, profile.unlearn.rank) == (1e-4, 5)
    assert (profile.unlearn.alpha, profile.unlearn.depth) == (8, 0.25)  # of smoke; the default
    values = profile.as_dict()
    assert values["unlearn"]["rank"] == 5
    assert profile_of(json.loads(json.dumps(values)), "a manifest").as_dict() == values
    assert not {"files", "tuned_file"} & set(values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unlearn: {learning_rat: 1.0e-4}", ["unknown key unlearn.learning_rat", "learning_rate"]),
        ("unlearning: {}", ["unknown key unlearning", "unlearn"]),
        ("unlearn: {learning_rate: 1e-4}", ["unlearn.learning_rate", "'1e-4'", "write 1.0e-4"]),
        ("unlearn: {rank: 8.5}", ["unlearn.rank = 8.5", "expected a whole number, 1 or more"]),
        ("unlearn: {rank: true}", ["unlearn.rank = True", "expected a whole number"]),
        ("model: {gradient_checkpointing: 1}", ["gradient_checkpointing = 1", "true or false"]),
        ("model: {path: 7}", ["model.path = 7", "expected text"]),
        (
            "unlearn: {reference: yesterday}",
            ["unlearn.reference", "'yesterday'", "round_start, target"],
        ),
        ("unlearn: 3", ["unlearn = 3", "expected a mapping with the keys rank"]),
        (
            "data: {n_finetuned_forget: 51, n_requests: 5}",
            ["n_finetuned_forget = 51", "multiple", "n_requests = 5"],
        ),
        ("data: {n_candidates: 1}", ["data.n_pretrained_forget", "n_candidates = 1"]),
        ("name: other", ["'name'", "remove it"]),
        ("files: []", ["'files'", "remove it"]),
        ("tuned: {yesterday: {}}", ["tuned.yesterday", "finetuned, pretrained"]),
        ("tuned: [ga]", ["tuned = ['ga']", "expected a mapping"]),
        ("tuned: {finetuned: {ga: {learning_rate: -1}}}", ["ga.learning_rate = -1", "0 or more"]),
        ("tuned: {finetuned: {ga: {learning_rate: 0}}}", ["ga.learning_rate = 0.0", "above 0"]),
        ("tuned: {finetuned: {npo: {beta: -0.1}}}", ["npo.beta = -0.1", "0 or more"]),
        ("tuned: {finetuned: {npo: {beta: .nan}}}", ["npo.beta = nan"]),
        ("tuned: {sequential: {ga: {}}}", ["tuned.sequential.ga", "strategy = ''", "experts"]),
        ("tuned: {sequential: {ga/x: {}}}", ["tuned.sequential.ga/x", "strategy = 'x'"]),
        (
            "tuned: {sequential: {ga/anchor: {replay_share: 0.5}}}",
            ["tuned.sequential.ga/anchor", "'replay_share'"],
        ),
        ("tuned: {finetuned: {ga/experts: {}}}", ["tuned.finetuned.ga/experts", "not known"]),
        ("tuned: {finetuned: {gaa: {}}}", ["tuned.finetuned.gaa", "'gaa' is not known", "ga_klr"]),
        ("tuned: {finetuned: {npo: {bet: 1.0}}}", ["tuned.finetuned.npo", "'bet'", "beta"]),
        ("tuned: {finetuned: {npo: {beta: 1e-1}}}", ["npo.beta", "write 1.0e-4"]),
        ("unlearn: [unclosed", ["not valid YAML"]),
        # What lay elsewhere before
        ("data: {source: world}", ["data.source is now data.people.source and data.general"]),
        ("data: {people_path: x}", ["data.people_path is now data.people.path"]),
        ("unlearn: {replay_share: 0.5}", ["unlearn.replay_share is now", "tuned.sequential"]),
        # A key that stands twice
        ("unlearn: {rank: 1}\nunlearn: {alpha: 2}", ["line 3", "'unlearn' stands twice", "line 2"]),
        ("unlearn:\n  rank: 1\n  alpha: 2\n  rank: 3", ["line 5", "'rank' stands twice"]),
        ("data: {people: {source: world, source: mllmu}}", ["'source' stands twice"]),
        # Sources
        ("data: {people: {source: mllmu}}", ["data.people", "source = mllmu needs path"]),
        ("data: {general: {source: mmbench}}", ["data.general", "source = mmbench needs path"]),
        ("data: {people: {source: lfw}}", ["data.people.source = 'lfw'", "world, mllmu"]),
        ("data: {general: {source: mllmu}}", ["data.general.source", "world, mmbench"]),
        ("data: {people: {path: x}}", ["data.people.source = world reads no files", "'x'"]),
        (
            "data: {general: {source: mmbench, path: x}}\nfinetune: {general_replay: 0.0}",
            ["data.n_general_train = 6", "must both be 0", "mmbench"],
        ),
        (
            "data: {general: {source: mmbench, path: x}, n_general_train: 0}",
            ["general_replay = 0.25 must both be 0"],
        ),
        ("data: {n_general_train: 0}", ["general_replay = 0.25 has nothing to replay"]),
        ("data: {n_general: 0}", ["n_general = 0 with general.source = world", "1 or more"]),
        # Parents
        ("extends: nowhere", ["'extends' stands twice"]),
    ],
)
def test_a_mistake_is_an_error_naming_file_key_and_fix(tmp_path, text, words):
    with pytest.raises(PulseError) as caught:
        load(tmp_path, text + "\n")
    for word in ["mine.yaml", *words]:
        assert word in str(caught.value)


def out_of_range():
    """(section, key, value) that no key may have: NaN and infinity, below and above the range."""
    for section, cls in SECTIONS.items():
        for key, hint in get_type_hints(cls, include_extras=True).items():
            if get_origin(hint) is Literal:
                yield section, key, "'no such word'"
            if get_origin(hint) is not Annotated or get_args(hint)[0] not in (int, float):
                continue
            limits = {k: getattr(m, k) for m in hint.__metadata__ for m in [m, *m.metadata]
                      for k in ("gt", "ge", "lt", "le") if hasattr(m, k)}  # fmt: skip
            assert {"gt", "ge"} & set(limits), f"{section}.{key} has no lower limit"
            values = [-1, ".nan", ".inf", "-.inf", "null", "'1'"]
            values += [limits["gt"]] if "gt" in limits else [limits["ge"] - 1]
            values += [limits["lt"]] if "lt" in limits else []
            values += [limits["le"] + 0.01] if "le" in limits else []
            yield from ((section, key, value) for value in values)


def test_a_value_out_of_its_range_is_refused_for_every_key(tmp_path):
    tried = 0
    for section, key, value in out_of_range():
        with pytest.raises(PulseError, match=rf"mine.yaml.*{section}\.{key} = .*: expected "):
            load(tmp_path, f"{section}: {{{key}: {value}}}\n")
        tried += 1
    assert tried > 200


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("evaluate.batch_size", 0, "a whole number, 1 or more"),
        ("evaluate.max_new_tokens", 0, "a whole number, 1 or more"),
        ("finetune.general_replay", 2.5, "a number, 0 or more and below 1"),
        ("unlearn.matched_at", 1.5, "a number from 0 to 1"),
        ("unlearn.learning_rate", 0, "a number above 0"),
    ],
)
def test_the_range_is_said(tmp_path, key, value, allowed):
    section, name = key.split(".")
    with pytest.raises(PulseError) as caught:
        load(tmp_path, f"{section}: {{{name}: {value}}}\n")
    assert f"line 2: {key} = {value!r}: expected {allowed}" in str(caught.value)


def test_a_missing_key_and_a_missing_profile_are_named(tmp_path):
    with pytest.raises(PulseError, match="mine.yaml: key model is missing"):
        path = write(tmp_path, "mine", "description: d\n")
        load_profile(str(path))
    text = "\n".join(["description: d", *(f"{section}: {{}}" for section in SECTIONS)])
    with pytest.raises(PulseError, match="mine.yaml: key model.path is missing: it is text"):
        load_profile(str(write(tmp_path, "mine", text)))
    with pytest.raises(PulseError, match="profile 'nothere': no file .*nothere.yaml"):
        load_profile("nothere")
    with pytest.raises(PulseError, match="expected a mapping of settings, found str"):
        load_profile(str(write(tmp_path, "mine", "tiny\n")))


def test_values_changed_in_code_are_checked_too():
    evaluate = load_profile("smoke").evaluate
    assert evaluate.with_values(batch_size=3).batch_size == 3
    with pytest.raises(PulseError, match="batch_size = 0: expected a whole number, 1 or more"):
        evaluate.with_values(batch_size=0)
    with pytest.raises(PulseError, match="unknown key batchsize"):
        evaluate.with_values(batchsize=1)
    with pytest.raises(ValueError):
        dataclasses.replace(evaluate, batch_size=0)


def test_a_manifest_of_another_version_is_named():
    values = load_profile("smoke").as_dict()
    values["unlearn"]["replay_share"] = 0.25
    with pytest.raises(PulseError, match="my run: key unlearn.replay_share is now"):
        profile_of(values, "my run")


# --- extends --------------------------------------------------------------------------------------


def test_a_child_says_what_differs_and_a_grandchild_too(tmp_path):
    write(tmp_path, "base", "extends: smoke\nunlearn: {rank: 7, alpha: 9}\n")
    write(tmp_path, "below/mid", "extends: ../base.yaml\nunlearn: {rank: 6}\ndescription: mid\n")
    path = write(tmp_path, "mine", "extends: below/mid.yaml\ndata: {people: {source: world}}\n")
    profile = load_profile(str(path))
    assert (profile.unlearn.rank, profile.unlearn.alpha, profile.unlearn.batch_size) == (6, 9, 4)
    assert (profile.name, profile.description) == ("mine", "mid")
    assert [p.stem for p in profile.files] == ["mine", "mid", "base", "smoke"]
    assert line_of(profile, "unlearn.rank") == (tmp_path / "below" / "../below/mid.yaml", 2) or (
        line_of(profile, "unlearn.rank")[0].resolve() == tmp_path / "below/mid.yaml"
    )
    assert line_of(profile, "unlearn.depth") is None  # a default


def test_a_mistake_of_a_parent_is_named_there(tmp_path):
    write(tmp_path, "base", "extends: smoke\n\nunlearn:\n  rank: 0\n")
    path = write(tmp_path, "mine", "extends: base.yaml\n")
    with pytest.raises(PulseError, match=r"base.yaml, line 4: unlearn.rank = 0"):
        load_profile(str(path))


def test_circles_and_missing_parents_are_refused(tmp_path):
    write(tmp_path, "a", "extends: b.yaml\n")
    write(tmp_path, "b", "extends: a.yaml\n")
    with pytest.raises(PulseError, match="in a circle: .*a.yaml -> .*b.yaml -> .*a.yaml"):
        load_profile(str(tmp_path / "a.yaml"))
    for parent, said in (
        ("nowhere", "mine.yaml: extends: profile 'nowhere': no file"),
        ("nowhere.yaml", "mine.yaml: extends: profile .*nowhere.yaml': no file"),
        ("[smoke]", r"mine.yaml: extends = \['smoke'\]: give a profile's name or file"),
    ):
        with pytest.raises(PulseError, match=said):
            load_profile(str(write(tmp_path, "mine", f"extends: {parent}\n")))


# --- what a search found --------------------------------------------------------------------------


def test_the_tuned_file_is_the_profiles_own_else_that_of_what_it_extends(tmp_path):
    base = write(tmp_path, "base", "extends: smoke\n")
    mine = write(tmp_path, "mine", "extends: base.yaml\n")
    assert load_profile(str(mine)).tuned == {} and load_profile(str(mine)).tuned_file is None
    of_base = write(tmp_path, "tuned/base", "finetuned:\n  npo: {learning_rate: 0.5, beta: 2.0}\n")
    for path in (base, mine):
        profile = load_profile(str(path))
        assert profile.tuned_file.resolve() == of_base
        assert profile.unlearn_for("finetuned", "npo")[0].learning_rate == 0.5
        assert profile.unlearn_for("finetuned", "npo")[1] == {"beta": 2.0}
    own = write(tmp_path, "tuned/mine", "finetuned:\n  ga: {learning_rate: 0.25}\n")
    profile = load_profile(str(mine))
    assert profile.tuned_file == own and set(profile.tuned["finetuned"]) == {"ga"}
    profile = load_profile(str(write(tmp_path, "mine", "extends: base.yaml\ntuned: {}\n")))
    assert profile.tuned == {} and profile.tuned_file == mine
    write(tmp_path, "tuned/base", "finetuned:\n  npo: {beta: 2.0}\n  npo: {beta: 3.0}\n")
    with pytest.raises(PulseError, match="tuned/base.yaml, line 3: key 'npo' stands twice"):
        load_profile(str(base))
    write(tmp_path, "tuned/base", "finetuned:\n  npo: {beta: -1}\n")
    with pytest.raises(PulseError, match="tuned/base.yaml, line 2: tuned.finetuned.npo.beta = -1"):
        load_profile(str(base))


def test_what_tuned_overrides_is_named_with_its_line(tmp_path):
    write(
        tmp_path,
        "tuned/mine",
        "# a comment\nfinetuned:\n  npo: {beta: 0.5, learning_rate: 0.25}\n  ga: {}\nsequential:\n"
        "  npo/experts:\n    learning_rate: 0.125\n",
    )
    profile = load(tmp_path, "unlearn: {learning_rate: 0.75}\n")
    (found,) = overridden(profile, "finetuned", method="npo")
    assert (found.key, found.value) == ("unlearn.learning_rate", 0.75)
    assert (found.tuned_key, found.tuned) == ("tuned.finetuned.npo.learning_rate", 0.25)
    assert (found.file, found.line) == (tmp_path / "tuned" / "mine.yaml", 3)
    (found,) = overridden(profile, "finetuned", method="npo", strategy="experts")
    assert (found.tuned_key, found.tuned, found.line) == (
        "tuned.sequential.npo/experts.learning_rate",
        0.125,
        7,
    )
    (found,) = overridden(profile, "finetuned", method="npo", strategy="anchor")
    assert found.tuned == 0.25  # a pair that was not searched has the method's
    assert overridden(profile, "finetuned", method="ga") == []
    assert overridden(profile, "pretrained", method="npo") == []
    by_hand = load(tmp_path, "tuned:\n  pretrained:\n    ga: {learning_rate: 1.0e-3}\n")
    (found,) = overridden(by_hand, "pretrained", method="ga")
    assert (found.file.name, found.line) == ("mine.yaml", 4)


def test_epochs_that_were_found_are_those_of_the_run(tmp_path):
    tuned = "tuned:\n  pretrained:\n    ga: {learning_rate: 1.0e-3, epochs: 7}\n"
    profile = load(tmp_path, tuned)
    unlearn, values = profile.unlearn_for("pretrained", "ga")
    assert (unlearn.epochs_pretrained, values) == (7, {})
    assert profile.unlearn_for("finetuned", "ga")[0] == profile.unlearn
    found = {o.key: o for o in overridden(profile, "pretrained", method="ga")}
    epochs = found["unlearn.epochs_pretrained"]
    assert (epochs.value, epochs.tuned) == (profile.unlearn.epochs_pretrained, 7)
    spec = {"scenario": "pretrained", "method": "ga", "trained_part": "llm", "seed": 0}
    known = [kinds.fields("single_shot", spec, profile=p) for p in (profile, load(tmp_path, ""))]
    assert known[0]["unlearn.epochs_pretrained"] == 7 != known[1]["unlearn.epochs_pretrained"]
    for wrong in ("0", "1.5"):
        with pytest.raises(PulseError, match="epochs = .*whole number, 1 or more"):
            load(tmp_path, tuned.replace("epochs: 7", f"epochs: {wrong}"))


# --- the profiles that are shipped ----------------------------------------------------------------


@pytest.mark.parametrize("name", PROFILES)
def test_every_shipped_profile_loads(name):
    profile = load_profile(name)
    assert profile.name == name and profile.description
    assert profile.files[0] == PARAMS / f"{name}.yaml"
    searched = {"tiny-10": "tiny", "tiny-25": "tiny", "tiny-selective": "tiny"} | {
        n: n for n in ("tiny", "tiny-equal")
    }
    tuned = PARAMS / "tuned" / f"{searched[name]}.yaml" if name in searched else None
    assert profile.tuned_file == tuned and bool(profile.tuned) == bool(tuned)


def test_every_default_is_relied_on_by_a_shipped_profile():
    """Otherwise it would be a number that nobody has tried."""
    chains = [[yaml_file.read_mapping(f) for f in load_profile(n).files] for n in PROFILES]
    assert len(chains) == 31
    for section, cls in SECTIONS.items():
        for f in dataclasses.fields(cls):
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                continue
            said = [any(f.name in raw.get(section, {}) for raw in chain) for chain in chains]
            assert not all(said), (
                f"{section}.{f.name}: every profile says it; leave the default out"
            )


def test_profiles_of_one_model_family_say_only_what_differs():
    shared = yaml_file.read_mapping(PARAMS / "parents" / "llava-1.5.yaml")
    for name in (n for n in PROFILES if "extends" in yaml_file.read_mapping(PARAMS / f"{n}.yaml")):
        own = yaml_file.read_mapping(PARAMS / f"{name}.yaml")
        assert sum(len(own.get(section, {})) for section in SECTIONS) <= 20, name
        for section in SECTIONS:
            for key, value in own.get(section, {}).items():
                assert shared.get(section, {}).get(key) != value, f"{name}: {section}.{key}"


def test_a_profile_is_read_without_torch_and_tables():
    code = (
        "import sys; from pulse_lib.profile import load_profile; load_profile('tiny'); "
        "print(sorted({'torch', 'pandas', 'matplotlib', 'PIL', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"


# --- without a network ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["colab-t4-7b", "llava-1.5-13b"])
@pytest.mark.parametrize("offline", ["0", "1"])
def test_a_real_profile_without_network_names_every_download(name, offline, tmp_path):
    """From the command's start to its end in ten seconds, and no notebook was begun."""
    changed = {
        "HF_HOME": str(tmp_path / "hub"),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": offline,
    }
    words = ["notebook", "01", "-p", "profile", name, "-p", "out_dir", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "pulse_lib", *words],
        env=os.environ | changed,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=100,
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    size = load_profile(name).model.path
    assert f"hf download {size} --revision main" in said
    assert "hf download MLLMMU/MLLMU-Bench --repo-type dataset --revision main" in said
    assert "hf download lmms-lab/MMBench --repo-type dataset --revision main" in said
    assert not (tmp_path / "out").exists()


def test_a_run_records_the_commit_that_a_branch_meant(tmp_path, monkeypatch):
    """From a hub cache of this test's own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    profile, commit = load_profile("llava-1.5-13b"), "0123456789abcdef0123456789abcdef01234567"
    assert data_source.commits(profile) == {} and data_source.commits(load_profile("tiny")) == {}
    folder = tmp_path / f"models--{profile.model.path.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model-00001-of-00001.safetensors"):
        (snapshot / name).write_text("{}")
    assert data_source.commits(profile) == {"model.path": commit}


# --- hostile files ----------------------------------------------------------------------------

BOMB = "a: &a [l, l, l, l, l, l, l, l, l]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)
HOSTILE = {
    "latin-1": ("description: é\n".encode("latin-1"), "line 1: byte 0xe9 is not UTF-8 text"),
    "utf-16": ("description: x\n".encode("utf-16"), "is not UTF-8 text"),
    "400 digits": (b"unlearn: {rank: " + b"9" * 400 + b"}\n", "at most 1000000000"),
    "5000 digits": (b"unlearn: {rank: " + b"9" * 5000 + b"}\n", "cannot be read"),
    "no date": (b"description: 2026-13-45\n", "cannot be read: month must be in"),
    "no tag": (b"model: {gradient_checkpointing: !!bool maybe}\n", "cannot be read"),
    "deep": (b"unlearn: " + b"[" * 5000, "nested too deep"),
    "wide": (b"unlearn: " + b"{" * 3000, "nested too deep"),
    "indented": (b"".join(b" " * i + b"a:\n" for i in range(60)), "nested too deep, 20 levels"),
    "bomb": (BOMB.encode(), "values, aliases written out"),
    "itself": (b"a: &a [*a]\n", "an alias stands inside its own anchor"),
    "number as key": (b"1: 2\n", "key '1' is no text"),
    "nothing as key": (b"unlearn: {null: 2}\n", "key 'None' is no text"),
    "half a character": (b'description: "\\ud800"\n', "holds a character that is no text"),
    "zero byte": (b'model: {path: "\\0"}\n', "holds a character that is no text"),
    "long parent": (b"extends: " + b"y" * 400 + b"\n", "is too long, 255 at most"),
    "another file": (b"# " + b"x" * 300_000, "too many for a profile"),
    "long value": (b"unlearn: {rank: " + b"x" * 5000 + b"}\n", "(5002 characters)"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_a_sentence(tmp_path, name):
    data, words = HOSTILE[name]
    path = tmp_path / "mine.yaml"
    path.write_bytes(data if b"extends" in data else b"extends: smoke\n" + data)
    with pytest.raises(PulseError) as caught:
        load_profile(str(path))
    assert words.replace("line 1:", "line 2:") in str(caught.value)
    assert "mine.yaml" in str(caught.value) and len(str(caught.value)) < 800


def test_a_profile_of_many_mistakes_is_read_or_refused_and_never_breaks(tmp_path):
    """Bytes of a good profile changed at random."""
    good, draw = (PARAMS / "smoke.yaml").read_bytes(), random.Random(0)
    path = tmp_path / "mine.yaml"
    for _ in range(60):
        data = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(data))
            data[at : at + draw.randint(0, 8)] = bytes(
                draw.choices(b"{}[]:,&*!|>'\"\n \t#-?09e.~\x00\xff", k=3)
            )
        path.write_bytes(data)
        try:
            json.dumps(load_profile(str(path)).as_dict(), allow_nan=False)
        except PulseError as error:
            assert "mine.yaml" in str(error)

"""Inputs that make no sense, by kind, and what the kit says of each: the part of
benchmarks/reliability.py on profiles, options, parameters, data files, pictures and models.

Each is wrong in one way that cannot be read as anything else. "clear": refused in a sentence that
names what is wrong (the key, or the file); "unclear": in one that does not; "fault": accepted, or
ended otherwise.
"""

from __future__ import annotations

import copy
import io
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path

import yaml
from PIL import Image

from pulse_lib.data.mllmu import files as mllmu
from pulse_lib.data.mmbench.source import load_mmbench
from pulse_lib.data.world import people as world
from pulse_lib.errors import PulseError
from pulse_lib.files import REPOSITORY
from pulse_lib.methods import METHODS
from pulse_lib.model.load import load_model
from pulse_lib.profile import ModelSettings, load_profile
from pulse_lib.runs.kinds import spec_of
from pulse_lib.study.grid import options_from_texts, study

sys.path.insert(0, str(REPOSITORY / "tests"))  # small files in the formats of the public data
import hub_folder
import mllmu_files
import mmbench_files

NUMBERS = [float("nan"), float("inf"), -float("inf"), -1, -0.5, "1e-4", "many", None, [], {}, True]
NUMBERS += [10**400]
WORDS = ["", "no such word", 7, 0.5, None, ["a"], {"a": 1}, "\u0000", "x" * 300]
NOISE = b"\x07" * 999
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"


@dataclass(frozen=True)
class Case:
    """One bad input: how to give it to the kit, and the words of which a clear error has one."""

    kind: str
    content: object
    _: KW_ONLY
    ask: Callable[[], object]
    words: Sequence[str]


def inputs(n: int, seed: int, *, scratch: Path) -> list[dict]:
    """About n bad inputs of all kinds, each with its verdict."""
    found = []
    for case in cases(n, seed, scratch=scratch):
        line = {"kind": case.kind, "verdict": judged(case), "content": repr(case.content)[-200:]}
        found.append(line)
    return found


def judged(case: Case) -> str:
    """What became of a bad input: "clear", "unclear: ..." or "fault: ..."."""
    try:
        case.ask()
    except PulseError as error:
        said = str(error)
        return "clear" if any(w and w in said for w in case.words) else f"unclear: {said}"
    except Exception as error:  # whatever it is, a reader should not have met it
        return f"fault: {type(error).__name__}: {error}"[:300]
    return "fault: accepted"


def cases(n: int, seed: int, *, scratch: Path) -> Iterator[Case]:
    """Bad inputs of every kind, in drawn order within each."""
    makers = {
        bad_profiles: 0.4,
        bad_options: 0.1,
        bad_parameters: 0.1,
        bad_benchmarks: 0.15,
        bad_people: 0.15,
        bad_pictures: 0.05,
        bad_models: 0.1,
    }
    for make, share in makers.items():
        folder = scratch / make.__name__
        folder.mkdir()
        yield from make(round(n * share), random.Random(f"{seed} {make.__name__}"), folder=folder)


# --- words and numbers ------------------------------------------------------------------------


def bad_profiles(n: int, generator: random.Random, *, folder: Path) -> Iterator[Case]:
    """Profiles with one thing wrong: at least n with a bad value, and all unknown keys and tuned
    numbers.
    """
    plain = yaml.safe_load((REPOSITORY / "params/smoke.yaml").read_text())
    whole = load_profile("smoke").as_dict()
    sections = ("finetune", "unlearn", "evaluate", "data")
    path = folder / "bad.yaml"

    def case(kind: str, content: dict, words: list[str]) -> Case:
        def ask() -> None:
            path.write_text(yaml.safe_dump(content, allow_unicode=True))
            load_profile(str(path))

        return Case(kind, content, ask=ask, words=words)

    made, keys = 0, [(s, k) for s in sections for k in whole[s]]
    while made < n:
        section, key = generator.choice(keys)
        value = whole[section][key]
        bad = generator.choice(NUMBERS if isinstance(value, int | float) else WORDS)
        if isinstance(value, bool | dict) or (value == "" and isinstance(bad, str)):
            continue  # any text is fine there
        changed = {**plain, section: {**plain.get(section, {}), key: bad}}
        yield case("a value out of range or of another type", changed, [key, "no text"])
        made += 1
    for word in ("speed", "learning rate", "epoch", "NaN", "0"):
        for s in ("model", *sections):
            yield case("an unknown key", {**plain, s: {**plain.get(s, {}), word: 1}}, [word])
    for method in METHODS:
        for value in (-1.0, float("nan"), float("inf"), "fast", None):
            tuned = {"finetuned": {method: {"learning_rate": value}}}
            words = [method, "learning_rate"]
            yield case("a tuned number", {**plain, "tuned": tuned}, words)


def bad_options(n: int, generator: random.Random, *, folder: Path) -> Iterator[Case]:
    """Options of a study with one thing wrong."""
    wrong = {
        "profile": ["nowhere", "nowhere.yaml", "", "a/b", "smoke.yml"],
        "methods": ["gaa", "", ",", "ga;npo", "all,ga", "GA"],
        "seeds": ["-1", "1.5", "one", "", "0;1", "1e3", "0x1"],
        "scenarios": ["fine", "finetuned;pretrained", "both"],
        "trained_parts": ["vision", "llm;projector", "all"],
        "sequential": ["ga/nowhere", "nowhere", "ga//", "oracle/x"],
        "rebuild": ["yes", "all", ""],
    }
    pairs = [(key, value) for key, values in wrong.items() for value in values]
    for key, value in (generator.choice(pairs) for _ in range(n)):
        texts = {"profile": "smoke", "out_dir": str(folder)} | {key: value}
        words = [key.rstrip("s"), repr(value), "strategy ="]
        ask = partial(lambda texts: study(options_from_texts(**texts)), texts)
        yield Case("an option of a study", {key: value}, ask=ask, words=words)


def bad_parameters(n: int, generator: random.Random, *, folder: Path) -> Iterator[Case]:
    """Parameters of a notebook with one thing wrong."""
    wrong = [("seed", v) for v in (-1, 1.0, True, "0", None)]
    wrong += [("order", v) for v in (-3, 0.5, False, "first")]
    for axis in ("scenario", "method", "strategy", "trained_part"):
        wrong += [(axis, v) for v in ("", "none", 3, None, "ga npo", "x" * 300)]
    for key, value in (generator.choice(wrong) for _ in range(n)):
        given = {key: value, "profile": "smoke", "out_dir": str(folder)}
        kind = "sequential" if key in ("order", "strategy") else "single_shot"
        ask = partial(spec_of, kind, given)
        yield Case("a parameter of a notebook", {key: value}, ask=ask, words=[key])


# --- files ------------------------------------------------------------------------------------


def bad_benchmarks(n: int, generator: random.Random, *, folder: Path) -> Iterator[Case]:
    """MMBench files with one thing wrong: a cell, a column, a row, or the file itself."""
    rows = mmbench_files.groups(4, seed=1)
    cells = {
        "index": ["x", "", "1.5", "-3", "nan", 9_000_100],
        "answer": ["", "E", "AB", "1", "yes", "nan"],
        "image": ["", "!" * 90, "x.png", "999", NOISE, rows[0]["image"][:70]],
        "question": ["", " ", "nan"],
        "A": ["", " "],
        "category": [""],
    }
    edits = [("cell", k, v) for k, values in cells.items() for v in values]
    edits += [("no column", k, None) for k in ("index", "question", "answer", "image", "A")]
    edits += [
        ("file", k, None) for k in ("empty", "header only", "noise", "twice a row", "cut row")
    ]
    edits += [("file", k, None) for k in ("not UTF-8", "a copy gone", "answers not turned")]
    for number, (what, key, value) in enumerate(generator.choice(edits) for _ in range(n)):
        path, made = folder / f"dev-{number}.tsv", copy.deepcopy(rows)
        at = generator.randrange(len(made))
        if what == "cell":
            made[at][key] = value
        elif what == "no column":
            made = [{k: v for k, v in row.items() if k != key} for row in made]
        elif key == "twice a row":
            made.append(made[at])
        elif key == "a copy gone":
            del made[at]
        elif key == "answers not turned":
            made[1] = made[1] | {"answer": made[0]["answer"]}
        if "image" not in made[0]:
            made = [row | {"image": ""} for row in made]
            mmbench_files.write_rows(path, made)
            path.write_text(path.read_text().replace("\timage\t", "\tpicture\t", 1))
        else:
            mmbench_files.write_rows(path, made)
        content = path.read_bytes()
        damage = {
            "empty": b"",
            "header only": content[: content.index(b"\n") + 1],
            "noise": NOISE,
            "cut row": content[: content.rindex(b"\t", 0, -40)],
            "not UTF-8": content.replace(b"What", b"Wh\xfft", 1).replace(b"Which", b"Wh\xffch", 1),
        }
        path.write_bytes(damage.get(key, content))
        ask = partial(load_mmbench, path)
        yield Case("a benchmark file", (what, key, value, at), ask=ask, words=[path.name])


def bad_people(n: int, generator: random.Random, *, folder: Path) -> Iterator[Case]:
    """MLLMU-Bench files with one thing wrong: a cell of a person, a column, or the file itself.

    Entries without a question, options or an answer are no case: they are left out, and counted.
    """
    people = world.fictitious()[:2]
    subsets = {
        "Full_Set": [mllmu_files.row(p, k) for k, p in enumerate(people, start=7)],
        "ft_Data": [mllmu_files.training_row(p, k) for k, p in enumerate(people, start=7)],
    }
    noise, empty = {"bytes": NOISE, "path": "a.png"}, {"bytes": b"", "path": "a.png"}
    cells = [(s, "ID", v) for s in subsets for v in ("", None, "7")]
    cells += [("Full_Set", "image", v) for v in (None, noise, empty)] + [
        ("ft_Data", "image", noise)
    ]
    cells += [("Full_Set", "biography", v) for v in ("{", "[]", '{"a": 1')]
    cells += [("ft_Data", "metadata", v) for v in ("{", "7", "[7]", '{"Question": 1')]
    choices = [("Correct_Answer", v) for v in ("E", "", "no option of these", None)]
    edits = [("cell", *c) for c in cells] + [("choice", "Full_Set", *c) for c in choices]
    edits += [("no column", "Full_Set", k, None) for k in ("ID", "image", "Classification_Task")]
    edits += [("no column", "ft_Data", k, None) for k in ("ID", "image", "metadata")]
    edits += [("file", s, k, None) for s in subsets for k in ("empty", "cut", "noise", "pointer")]
    for number, (what, subset, key, value) in enumerate(generator.choice(edits) for _ in range(n)):
        root, made = folder / str(number), copy.deepcopy(subsets[subset])
        if what == "cell":
            made[1][key] = value
        elif what == "choice":
            made[1]["Classification_Task"]["Pure_Text_Questions"][0][key] = value
        elif what == "no column":
            made = [{k: v for k, v in row.items() if k != key} for row in made]
        mllmu_files.write_subset(root, subset, made)
        (path,) = (root / subset).glob("*.parquet")
        content = path.read_bytes()
        damage = {"empty": b"", "cut": content[:-900], "noise": NOISE, "pointer": LFS_POINTER}
        path.write_bytes(damage[key] if what == "file" else content)
        ask = partial(mllmu.load_people, root, subset)
        yield Case("a file of people", (what, subset, key, value), ask=ask, words=[path.name])


def bad_pictures(n: int, generator: random.Random, *, folder: Path) -> Iterator[Case]:
    """Pictures that are none, cut off or too large, in a store of pictures."""
    drawn = Image.linear_gradient("L").convert("RGB")
    whole = {}
    for form in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        drawn.save(buffer, form)
        whole[form] = buffer.getvalue()
    huge = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(huge, "PNG")
    fixed = [b"", NOISE, LFS_POINTER, b"<html>404</html>", huge.getvalue(), b"GIF89a"]
    for number in range(n):
        form = generator.choice(list(whole))
        cut = whole[form][: generator.randrange(1, len(whole[form]) * 3 // 4)]
        content = generator.choice([*fixed, *[cut] * 6])
        name, path = f"person-{number}", folder / "dev.tsv"
        row = mmbench_files.group(5, ["a", "b"], 0, picture=content or b" ")
        path = mmbench_files.write_rows(folder / f"{name}.tsv", row)
        ask = partial(load_mmbench, path)
        yield Case("a picture", content[:40], ask=ask, words=[path.name])


def bad_models(n: int, generator: random.Random, *, folder: Path) -> Iterator[Case]:
    """Folders of a model with one file gone, cut off, exchanged or not downloaded."""
    (folder / "whole").mkdir()
    whole = hub_folder.write_hub_folder(folder / "whole")
    files = [
        "config.json",
        "processor_config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
    ]
    files += [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    for number in range(n):
        name = generator.choice(files)
        how = generator.choice(["gone", "empty", "cut", "noise", "pointer", "link to nothing"])
        root = shutil.copytree(whole, folder / str(number))
        path, content = root / name, (root / name).read_bytes()
        path.unlink()
        if how == "link to nothing":
            path.symlink_to("../../blobs/1234abcd")
        elif how != "gone":
            cut = content[: generator.randrange(1, len(content) - 50)]
            damage = {"empty": b"", "cut": cut, "noise": NOISE, "pointer": LFS_POINTER}
            path.write_bytes(damage[how])
        settings = ModelSettings(path=str(root), answer_form="letter", prompt="vicuna_v1")
        ask = partial(load_model, settings, "cpu")
        yield Case("a model's folder", (name, how), ask=ask, words=[name])
        shutil.rmtree(root)

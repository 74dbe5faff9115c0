"""A well-formed output folder with made-up answers: every file the report reads, no model. Numbers
follow simple curves, seeded."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image, ImageDraw

from pulse_lib.data.records import ImageStore, Person, Question, write_records, write_table
from pulse_lib.evaluate.rows import read_rows, write_rows
from pulse_lib.profile import SCENARIOS, Profile, load_profile
from pulse_lib.report.collect import Study
from pulse_lib.report.figures.gallery import ENTRIES, Gallery
from pulse_lib.report.figures.style import Picture
from pulse_lib.runs.kinds import fields

NAMES = ("Mara", "Ilan", "Petra", "Odin", "Suri")
ATTRIBUTES = {
    "occupation": ["chef", "pilot", "nurse", "baker", "judge", "poet"],
    "birthplace": ["Oslo", "Lima", "Cairo", "Kyoto", "Quito", "Delhi"],
    "food": ["pizza", "ramen", "paella", "pho", "kebab", "ceviche"],
    "pet": ["parrot", "rabbit", "turtle", "ferret", "gecko", "owl"],
    "instrument": ["violin", "piano", "oboe", "banjo", "tuba", "harp"],
}
GENERAL = ("colour", "count", "shape", "position", "comparison", "existence")
# steps at which knowledge goes (forget multimodal, forget text, retain, general) and how much
# general knowledge stays
CURVES = {
    "ga": (30, 33, 32, 36, 0.3),
    "ga_klr": (48, 54, 90, 70, 0.6),
    "npo": (34, 37, 37, 42, 0.35),
}


@dataclass(frozen=True)
class Size:
    """How many people and general questions a made-up study has."""

    forget: int = 10
    retain: int = 10
    general: int = 60
    celebrities_forget: int = 6
    celebrities_retain: int = 8
    candidates: int = 30
    requests: int = 5


_SMOKE = load_profile("smoke")
PROFILE = _SMOKE.with_values(
    name="tiny",
    description="made up",
    data=_SMOKE.data.with_values(n_finetuned_forget=50, n_requests=5),
)
FULL = Size(50, 50, 300, 20, 25, 153)


def write_study(
    out,
    methods=("ga", "ga_klr", "npo"),
    seeds=(0,),
    size=Size(),
    llm=("ga",),
    sequential=None,
    not_reached=(),
    profile=None,
) -> Path:
    """Write a study folder and return it. `llm`: methods that also run with trained part llm;
    `not_reached`: without matched."""
    out = Path(out)
    sequential = methods if sequential is None else sequential
    for seed in seeds:
        world = _World(size, seed, profile or PROFILE)
        _data(out, world)
        _target(out, world)
        for method in methods:
            for scenario in SCENARIOS:
                parts = ["projector+llm"] + (
                    ["llm"] if method in llm and scenario == "finetuned" else []
                )
                for part in parts:
                    _single_shot(out, world, scenario, method, part, method not in not_reached)
        for method in sequential:
            _sequential(out, world, method)
    return out


def _curve(method: str, scenario: str, part: str) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(f"{method}{scenario}{part}".encode()))
    steps = np.array(
        CURVES.get(method)
        or (
            *(rng.uniform(25, 60, 2)),
            rng.uniform(40, 100),
            rng.uniform(45, 120),
            rng.uniform(0.1, 0.9),
        )
    )
    if scenario == "pretrained":
        steps = steps * np.array([1.05, 1.02, 1.0, 0.97, 0.6])
    if part == "llm":
        steps = steps * np.array([1.1, 0.98, 1.0, 0.9, 0.8])
    return steps


def _known(
    method: str, scenario: str, part: str, step: float, work: float = 1.0
) -> dict[str, float]:
    """Share of each measure still known after a number of steps; `work` scales the steps of a part
    that is hit less."""
    mm, text, retain, general, floor = _curve(method, scenario, part)
    fall = lambda at, width=2.5: 1 / (1 + np.exp((step * work - at) / width))  # noqa: E731
    return {
        "forget/multimodal": fall(mm),
        "forget/text": fall(text),
        "retain/multimodal": fall(retain + 1),
        "retain/text": fall(retain + 4),
        "general": floor + (1 - floor) * fall(general, 5),
    }


class _World:
    def __init__(self, size: Size, seed: int, profile: Profile):
        self.size, self.seed, self.profile = size, seed, profile
        rng = np.random.default_rng(seed + 7)
        self.people, self.questions, self.images = [], [], ImageStore()
        groups = [
            ("fictitious", "finetuned", "forget", size.forget),
            ("fictitious", "finetuned", "retain", size.retain),
        ]
        groups += [("fictitious", "", "holdout", 4)]
        groups += [("celebrity", "pretrained", "forget", size.celebrities_forget)]
        groups += [("celebrity", "pretrained", "retain", size.celebrities_retain)]
        for kind, scenario, set_name, count in groups:
            for i in range(count):
                person = f"{kind}-{len(self.people):03d}"
                facts = {a: str(rng.choice(v)) for a, v in ATTRIBUTES.items()}
                self.people.append(
                    Person(
                        person,
                        f"{NAMES[i % 5]} {kind.title()}{i}",
                        kind=kind,
                        attributes=facts,
                        genome={},
                    )
                )
                image = self._face(person, rng)
                request = (
                    1 + i * size.requests // count
                    if (scenario, set_name) == ("finetuned", "forget")
                    else 0
                )
                for modality in ("multimodal", "text"):
                    for k, (attribute, values) in enumerate(
                        [*ATTRIBUTES.items(), ("occupation", ATTRIBUTES["occupation"])]
                    ):
                        self._ask(
                            person,
                            facts[attribute],
                            attribute,
                            values,
                            set_name,
                            scenario,
                            request,
                            modality,
                            image,
                            "trained" if k < 5 else "heldout",
                            rng,
                        )
        for i in range(size.general):
            category = GENERAL[i % len(GENERAL)]
            image = self._face(f"scene-{i}", rng)
            self._ask(
                "",
                "red",
                category,
                ["red", "blue", "green", "yellow"],
                "general",
                "",
                0,
                "multimodal",
                image,
                "trained",
                rng,
            )

    def _face(self, name: str, rng) -> str:
        image = Image.new("RGB", (48, 48), tuple(int(v) for v in rng.integers(120, 230, 3)))
        draw = ImageDraw.Draw(image)
        draw.ellipse([12, 8, 36, 42], fill=tuple(int(v) for v in rng.integers(120, 255, 3)))
        for x in (19, 29):
            draw.ellipse([x - 2, 20, x + 2, 24], fill=(20, 20, 20))
        return self.images.add(f"image-{name}", image)

    def _ask(
        self,
        person,
        truth,
        attribute,
        values,
        set_name,
        scenario,
        request,
        modality,
        image,
        wording,
        rng,
    ) -> None:
        options = [truth, *(str(v) for v in rng.permutation([v for v in values if v != truth])[:3])]
        order = rng.permutation(4)
        number = f"q-{len(self.questions):05d}"
        who = "this person" if modality == "multimodal" else (person or "the object")
        self.questions.append(
            Question(
                number,
                set_name,
                scenario=scenario,
                person_id=person,
                request=request,
                modality=modality,
                text=f"what is the {attribute} of {who} ?",
                options=tuple(options[i] for i in order),
                answer=int(np.flatnonzero(order == 0)[0]),
                image=image if modality == "multimodal" else "",
                category=attribute,
                wording=wording,
            )
        )

    def asked(self, scenario: str, sets=("forget", "retain", "general")) -> list[Question]:
        return [q for q in self.questions if q.set in sets and q.scenario in (scenario, "")]


def _answer(questions, known, broken: float, rng, **whose) -> pd.DataFrame:
    """Rows of a model that knows a share of each measure, else says nothing usable (share
    `broken`), else guesses."""
    lines = []
    skill = {}
    for q in questions:
        share = known.get(f"{q.set}/{q.modality}", known.get(q.set, 0.0))
        if q.set == "forget" and f"request-{q.request}" in known:
            share = known[f"request-{q.request}"]
        if q.wording == "heldout":
            share *= 0.8
        person = skill.setdefault((q.person_id, q.set), rng.normal(0, 0.08))
        knows = rng.random() < share + person * 4 * share * (1 - share)
        invalid = not knows and rng.random() < broken
        picked = q.answer if knows else int(rng.integers(len(q.options)))
        loglik = -rng.gamma(2, 2, len(q.options))
        loglik[q.answer if knows else int(rng.integers(len(q.options)))] = -0.1
        lines.append(
            {
                **whose,
                "question_id": q.id,
                "set": q.set,
                "person_id": q.person_id,
                "request": q.request,
                "modality": q.modality,
                "category": q.category,
                "wording": q.wording,
                "group": q.group,
                "options": list(q.options),
                "answer": q.answer,
                "response": "the the" if invalid else q.options[picked],
                "extracted": None if invalid else "ABCD"[picked],
                "correct": bool(not invalid and picked == q.answer),
                "invalid": bool(invalid),
                "option_loglik": loglik.tolist(),
                "answer_logprob": float(loglik[q.answer]),
                "loglik_correct": bool(int(np.argmax(loglik)) == q.answer),
            }
        )
    return pd.DataFrame(lines)


def _whose(run, scenario, method, part, policy, seed, number, state, step) -> dict:
    return {
        "run": run,
        "scenario": scenario,
        "method": method,
        "trained_part": part,
        "policy": policy,
        "order": 0,
        "seed": seed,
        "round": number,
        "state": state,
        "step": step,
    }


BEFORE = {
    "pretrained": {
        "forget/multimodal": 0.98,
        "forget/text": 1.0,
        "retain/multimodal": 0.98,
        "retain/text": 1.0,
        "general": 0.86,
    },
    "finetuned": {
        "forget/multimodal": 0.94,
        "forget/text": 0.96,
        "retain/multimodal": 0.93,
        "retain/text": 0.97,
        "general": 0.78,
    },
}


def _data(out: Path, world: _World) -> None:
    name = f"data/seed-{world.seed}"
    rng = np.random.default_rng(world.seed)
    before = _answer(
        world.asked("pretrained"),
        BEFORE["pretrained"],
        0.0,
        rng,
        **_whose(name, "pretrained", "", "", "", world.seed, 0, "before", 0),
    )
    base = _answer(
        world.asked("finetuned", ("forget", "retain", "general", "holdout")),
        {"general": 0.86},
        0.02,
        rng,
        **_whose(name, "finetuned", "", "", "", world.seed, 0, "base", 0),
    )
    folder = out / name
    write_records(folder / "people.parquet", world.people)
    write_records(folder / "questions.parquet", world.questions)
    world.images.write(folder / "images.parquet")
    n = world.size.candidates
    accuracy = np.sort(rng.beta(4, 1, n))[::-1]
    chosen = ["forget"] * world.size.celebrities_forget + ["retain"] * world.size.celebrities_retain
    frame = pd.DataFrame(
        {
            "person_id": [f"c-{i}" for i in range(n)],
            "accuracy": accuracy,
            "chosen": chosen + [""] * (n - len(chosen)),
        }
    )
    frame.to_csv(folder / "selection.csv", index=False)
    _finish(
        out, world, name, "data", {"profile": "tiny", "seed": world.seed}, pd.concat([before, base])
    )


def _target(out: Path, world: _World) -> None:
    name = f"target/seed-{world.seed}"
    rows = _answer(
        world.asked("finetuned"),
        BEFORE["finetuned"],
        0.0,
        np.random.default_rng(world.seed + 1),
        **_whose(name, "finetuned", "", "", "", world.seed, 0, "before", 0),
    )
    (out / name).mkdir(parents=True, exist_ok=True)
    steps = np.arange(0, 400, 10)
    log = pd.DataFrame(
        {
            "step": steps,
            "loss": 3 * np.exp(-steps / 80) + 0.05,
            "learning_rate": 4e-3 * (1 - steps / 400),
        }
    )
    log.to_csv(out / name / "log.csv", index=False)
    _finish(out, world, name, "target", {"profile": "tiny", "seed": world.seed}, rows)


def _scaled(scenario: str, known: dict[str, float]) -> dict[str, float]:
    return {key: value * BEFORE[scenario].get(key, 0.95) for key, value in known.items()}


def _single_shot(
    out: Path, world: _World, scenario: str, method: str, part: str, reached: bool
) -> None:
    name = f"single_shot/{scenario}/{method}-{part}-seed-{world.seed}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    final = 100 if method == "ga_klr" else 60
    if not reached:
        final = 16
    guess = lambda share, broken: share + (1 - share) * (1 - broken) / 4  # noqa: E731
    lines, matched = [], None
    for step in range(0, final + 1, 2):
        known = _scaled(scenario, _known(method, scenario, part, step))
        broken = 1 - known["general"] / BEFORE[scenario]["general"]
        line = {
            key.replace("/", "_"): guess(v, broken) + rng.normal(0, 0.01)
            for key, v in known.items()
        }
        lines.append(
            {
                "step": step,
                "epoch": step / 10,
                **line,
                "invalid_rate": broken * (1 - known["forget/text"]) * 0.6,
                **{f"{key}_likelihood": max(v, 0.25) for key, v in line.items()},
                "forget_full": np.nan,
                "forget_full_likelihood": np.nan,
            }
        )
        if matched is None and (line["forget_multimodal"] + line["forget_text"]) / 2 <= 0.35:
            matched = step
    (out / name).mkdir(parents=True, exist_ok=True)
    pd.DataFrame(lines).clip(lower=0).to_csv(out / name / "path.csv", index=False)
    log = pd.DataFrame({"step": range(1, final + 1)})
    log.assign(seconds=log["step"] / 2).to_csv(out / name / "log.csv", index=False)
    _adapter(out / name / "adapters" / "final", 2000)
    rows = []
    for state, step in (("final", final), ("matched", matched)):
        if step is not None:
            known = _scaled(scenario, _known(method, scenario, part, step))
            broken = 1 - known["general"] / BEFORE[scenario]["general"]
            rows.append(
                _answer(
                    world.asked(scenario),
                    known,
                    broken,
                    rng,
                    **_whose(name, scenario, method, part, "", world.seed, 0, state, step),
                )
            )
    parameters = {
        "profile": "tiny",
        "scenario": scenario,
        "method": method,
        "trained_part": part,
        "seed": world.seed,
    }
    _finish(
        out,
        world,
        name,
        "single_shot",
        parameters,
        pd.concat(rows),
        {"matched_step": matched, "final_step": final, "n_trainable": 41216, "seconds_train": 31.5},
    )


def _adapter(folder: Path, n_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(n_bytes))


def _sequential(out: Path, world: _World, method: str) -> None:
    name = f"sequential/{method}-adapter_per_request-projector+llm-order-0-seed-{world.seed}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    rows = []
    erosion = {"ga": 0.62, "ga_klr": 0.9, "npo": 0.7}.get(method, 0.8)
    for number in range(world.size.requests + 1):
        kept = erosion**number
        known = {key: value * kept for key, value in BEFORE["finetuned"].items()}
        for request in range(1, world.size.requests + 1):
            known[f"request-{request}"] = 0.95 * (
                kept * 0.6 if request > number else 0.04 * (1 + (number - request))
            )
            if number == 0:
                known[f"request-{request}"] = 0.95
        whose = _whose(
            name,
            "finetuned",
            method,
            "projector+llm",
            "adapter_per_request",
            world.seed,
            number,
            "round",
            10 * number,
        )
        rows.append(_answer(world.asked("finetuned"), known, (1 - kept) * 0.7, rng, **whose))
    parameters = {
        "profile": "tiny",
        "method": method,
        "strategy": "adapter_per_request",
        "trained_part": "projector+llm",
        "order": 0,
        "seed": world.seed,
    }
    for number in range(1, world.size.requests + 1):
        _adapter(out / name / f"round-{number}" / "adapter", 1000)
    _finish(
        out,
        world,
        name,
        "sequential",
        parameters,
        pd.concat(rows),
        {
            "matched_step": None,
            "final_step": 50,
            "n_trainable": 41216,
            "seconds_train": 60.0,
            "projector_reload": {"forget_multimodal": 0.4, "forget_text": 0.1},
        },
    )


def _finish(
    out: Path,
    world: _World,
    name: str,
    kind: str,
    parameters: dict,
    rows: pd.DataFrame,
    result: dict | None = None,
) -> None:
    folder = out / name
    write_table(folder / "rows.parquet", pa.Table.from_pandas(rows, preserve_index=False))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    files = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
    profile = json.loads(json.dumps(world.profile.as_dict()))
    read = json.loads(json.dumps(fields(kind, parameters, profile=world.profile)))
    mark = hashlib.sha256(name.encode()).hexdigest()
    manifest = {
        "schema_version": 2,
        "kind": kind,
        "notebook": kind,
        "parameters": parameters,
        "profile": profile,
        "inputs": {},
        "files": files,
        "identity": {
            "kind": kind,
            "parameters": parameters,
            "profile": read,
            "code": "",
            "inputs": {},
        },
        "fingerprint": mark,
        "result": mark,
        "library": {},
        "library_hash": "0" * 64,
        "git_commit": "0123abcd",
        "run_id": "",
        "versions": {"python": "3.11.7", "torch": "2.13.0", "pandas": "3.0", "bitsandbytes": None},
        "device": "cpu",
        "seconds": 42.0,
        "peak_memory_mib": 700.0,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def unpainted(study: Study) -> Gallery:
    """A gallery whose pictures are not painted, which is what takes time."""
    blank = Picture(png=b"a picture", size=(1, 1), said="A title that says what was found")
    return Gallery(study, pictures={entry.name: blank for entry in ENTRIES})


def change_rows(out: Path, run: str, change) -> None:
    """Rewrite a run's rows by a function of them; its manifest then names the new file."""
    folder = Path(out) / run
    path, manifest = folder / "rows.parquet", json.loads((folder / "manifest.json").read_text())
    write_rows(path, change(read_rows(path)))
    manifest["files"]["rows.parquet"] = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))

"""How far each choice of MLLMU-Bench's code moves the numbers, one at a time: the same target, people
and questions, asked or unlearned as they do and as this kit does.

    python -m pulse_lib mllmu-compat --profile tiny-equal --seeds 0,1,2
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from pulse_lib import __version__, runs
from pulse_lib.data.dataset import Dataset, read_dataset
from pulse_lib.data.records import Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import both_modalities, summary
from pulse_lib.evaluate.few_shot import answer_with_examples, examples_of
from pulse_lib.evaluate.generate import answer_questions
from pulse_lib.evaluate.rows import scored
from pulse_lib.files import write_json
from pulse_lib.methods import Method, get
from pulse_lib.model.adapters import drop_adapter, load_adapter, stack
from pulse_lib.model.load import LoadedModel
from pulse_lib.probe.subject import chosen_questions
from pulse_lib.profile import Profile, RetainSource, SupervisedTokens, load_profile
from pulse_lib.runs.kinds import RunSpec, out_folder
from pulse_lib.train.loop import derive_seed
from pulse_lib.unlearn.single_shot import RETAIN_MODEL, unlearn_single_shot
from pulse_lib.unlearn.task import Target, Task

SCENARIO = "finetuned"
FILE = "mllmu_compat.json"
ADAPTER = "compat"
SETS = ("forget", "retain", "general")
State = Literal["before", "after"]


@dataclass(frozen=True)
class Training:
    """One way to unlearn. Compared with the one named by `against`."""

    name: str
    said: str  # what MLLMU-Bench does here
    _: KW_ONLY
    method: str = "npo"
    against: str = "npo"
    loss: str = ""  # in place of the method's forget loss
    other_reference: bool = False  # a model of the other people, in place of the target
    supervised_tokens: SupervisedTokens = "answer"
    retain_source: RetainSource = "retain_train"


TRAININGS = (
    Training("npo", "NPO as here"),
    Training(
        "supervised tokens",
        "prompt and answer, not the answer alone",
        supervised_tokens="whole_sequence",
    ),
    Training(
        "token mean",
        "mean over a batch's tokens in the sigmoid, not each answer's sum",
        loss="npo_token_mean",
    ),
    Training(
        "NPO reference",
        "a model fine-tuned on the retain people, not the target",
        other_reference=True,
    ),
    Training(
        "all of NPO",
        "the three together, beta 0.4",
        method="npo_mllmu",
        other_reference=True,
        supervised_tokens="whole_sequence",
    ),
    Training("ga_klr", "GA+KLR as here", method="ga_klr", against="ga_klr"),
    Training(
        "retain source",
        "the retain people that are scored, not others",
        method="ga_klr",
        against="ga_klr",
        retain_source="same",
    ),
)
# Ways to ask, by what MLLMU-Bench does
ASKINGS = {
    "as here": "no examples, the profile's prompt and extraction",
    "few-shot block": "questions of one person of the set, solved, before each",
    "scoring rule": "the first character is the letter",
    "prompt": "its own words around a question",
}


def compat(
    profile: str,
    seeds: Sequence[int] = (0,),
    *,
    out_dir: str = "",
    n_questions: int = 200,
    log: Callable[[str], object] = print,
) -> dict:
    """Every choice measured: {"asked": rows, "trained": rows, ...}. `n_questions` of each set, 0: all.
    `seeds` are those of the unlearning step; data, target and the other reference are of the first.

    Data, target and a model of the other people (method oracle) are runs of the study, made where
    they are missing. Raises PulseError for a profile without fine-tuned people.
    """
    settings, first = load_profile(profile), seeds[0]
    folders = _prepare(profile, settings, seed=first, out_dir=out_dir, log=log)
    target = Target.load(settings, SCENARIO, seed=first, folder=folders["target"])
    model, data = target.model, read_dataset(folders["data"])
    load_adapter(model, folders["oracle"] / "adapters" / "final", name=RETAIN_MODEL)
    stack(model, target.adapters)
    asked = [q for q in data.counted(SCENARIO) if q.wording == "trained"]
    if n_questions:
        asked = chosen_questions(asked, n_questions, seed=first)
    ask = Asking(settings, data, questions=asked, seed=first)
    rows = {
        "asked": [r | {"state": "before", "seed": first} for r in ask.every(model)],
        "trained": [],
    }
    for seed in seeds:
        for way in TRAININGS:
            log(f"{way.name}, seed {seed}")
            task = task_of(settings, data, target=replace(target, seed=seed), way=way)
            reference = [RETAIN_MODEL] if way.other_reference else None
            unlearn_single_shot(task, ADAPTER, label=way.name, reference=reference)
            rows["trained"].append({"choice": way.name, "seed": seed} | ask.plainly(model))
            if way.name == "npo":
                rows["asked"] += [r | {"state": "after", "seed": seed} for r in ask.every(model)]
            stack(model, target.adapters)
            drop_adapter(model, ADAPTER)
    return {
        "profile": settings.name,
        "seeds": list(seeds),
        "n_questions": {s: sum(q.set == s for q in asked) for s in SETS},
        "version": __version__,
        "command": f"python -m pulse_lib mllmu-compat --profile {settings.name} --seeds "
        f"{','.join(map(str, seeds))} --questions {n_questions}",
        **rows,
    }


def task_of(settings: Profile, data: Dataset, *, target: Target, way: Training) -> Task:
    """The task of one way to unlearn: the profile's own but for the choice, at the learning rate,
    coefficients and epochs that the profile has for the plain method.
    """
    plain, values = settings.unlearn_for(SCENARIO, way.against)
    unlearn = plain.with_values(
        supervised_tokens=way.supervised_tokens,
        retain_source=way.retain_source,
        path_every=0,
        stop_forget=0.0,
        stop_utility=0.0,
    )
    task = Task.of(
        replace(settings, unlearn=unlearn, tuned={}), data, target=target, method=way.method
    )
    return replace(task, method=_method(way, values), relearn=None)


def _method(way: Training, values: Mapping[str, float]) -> Method:
    method = get(way.method)
    if way.method == way.against:
        method = method.tuned(values)
    return replace(method, forget_loss=way.loss) if way.loss else method


@dataclass(frozen=True)
class Asking:
    """The questions, and the ways in which they are asked and scored."""

    settings: Profile
    data: Dataset
    _: KW_ONLY
    questions: Sequence[Question]
    seed: int  # who is the example

    def plainly(self, model: LoadedModel) -> dict[str, float]:
        """Accuracies by set, asked as the profile asks."""
        return self._scored(model)[0]

    def every(self, model: LoadedModel) -> Iterator[dict]:
        """One row a way of ASKINGS that this model can be asked in: accuracies by set."""
        plain, answers = self._scored(model)
        yield {"choice": "as here"} | plain
        yield {"choice": "few-shot block"} | self._few_shot(model, plain["general"])
        read = scored(self.questions, answers, rules="mllmu")
        yield {"choice": "scoring rule"} | by_set(read)
        other = replace(model, settings=replace(model.settings, prompt="mllmu"))
        yield {"choice": "prompt"} | self._scored(other)[0]

    def example(self, name: str) -> str:
        """Whose questions are shown solved to those about a set's people."""
        people = sorted({q.person_id for q in self.questions if q.set == name})
        return people[derive_seed(self.seed, "few-shot", name) % len(people)]

    def _scored(self, model: LoadedModel) -> tuple[dict[str, float], pd.DataFrame]:
        ask = self.settings.evaluate
        answers = answer_questions(
            model, self.questions, images=self.data.images, settings=ask, with_loglik=False
        )
        return by_set(scored(self.questions, answers, rules=ask.extraction_rules)), answers

    def _few_shot(self, model: LoadedModel, general: float) -> dict[str, float]:
        """Forget and retain people behind the examples, the example's own questions left out; general
        questions have none, there as here.
        """
        ask, found = self.settings.evaluate, {"general": general}
        for name in ("forget", "retain"):
            person = self.example(name)
            examples = examples_of(self.data.counted(SCENARIO), person)
            asked = [q for q in self.questions if q.set == name and q.person_id != person]
            answers = answer_with_examples(
                model, asked, examples=examples, images=self.data.images, settings=ask
            )
            found[name] = by_set(scored(asked, answers, rules=ask.extraction_rules))[name]
        return found


def by_set(table: pd.DataFrame) -> dict[str, float]:
    """Accuracy of forget and retain people (mean of both modalities), of general questions, and the
    share of answers that cannot be read.
    """
    found = summary(table)
    return {
        "forget": float(both_modalities(found)),
        "retain": float(both_modalities(found, "retain")),
        "general": found["general"],
        "invalid": found["invalid_rate"],
    }


def write(folder: Path, found: Mapping) -> Path:
    """The result as a file in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / FILE, dict(found))
    return folder / FILE


def _prepare(
    profile: str, settings: Profile, *, seed: int, out_dir: str, log: Callable[[str], object]
) -> dict[str, Path]:
    """Folders of the runs that are read, made where they are missing."""
    from pulse_lib.study.notebook import run_notebook

    if not settings.data.n_finetuned_forget or not settings.data.n_finetuned_retain_train:
        raise PulseError(
            f"profile {settings.name} has nobody to fine-tune on beside the retain people"
        )
    shared = {"profile": profile, "seed": seed, "out_dir": str(out_folder(profile, out_dir))}
    oracle = {"scenario": SCENARIO, "method": "oracle", "trained_part": "projector+llm"}
    specs: dict[str, RunSpec] = {
        "data": runs.spec_of("data", shared),
        "target": runs.spec_of("target", shared),
        "oracle": runs.spec_of("single_shot", shared | oracle),
    }
    for spec in specs.values():
        if runs.status(spec, settings).state != "done":
            log(f"{spec.notebook}, seed {seed}")
            run_notebook(spec.notebook, dict(spec.parameters))
    return {name: spec.folder for name, spec in specs.items()}

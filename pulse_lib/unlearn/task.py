"""What is to be forgotten, from which model, how, and by whom it is checked: one object that
notebooks, search and benchmarks make in the same way and hand to `unlearn_single_shot` or
`run_sequential`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from pulse_lib.assets import left_out, oracle_checksum, oracle_folder
from pulse_lib.data.dataset import Dataset
from pulse_lib.data.hub import is_hub_id
from pulse_lib.data.records import Conversation, ImageStore, Person, Question
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.generate import Answer, answer_apart, answer_questions, by_benchmark
from pulse_lib.evaluate.rows import RunColumns, make_rows, scored
from pulse_lib.files import local_path, show
from pulse_lib.methods import Method, get
from pulse_lib.model.adapters import load_adapter, stack
from pulse_lib.model.load import LoadedModel, load_model
from pulse_lib.profile import (
    EvaluateSettings,
    FinetuneSettings,
    ModelSettings,
    Profile,
    TrainedPart,
    UnlearnSettings,
)
from pulse_lib.strategies import Strategy, get_strategy, tuned
from pulse_lib.unlearn.placebo import hold_out
from pulse_lib.unlearn.selective import selected

FINETUNED = "finetune"  # the adapter that holds fine-tuned knowledge


@dataclass(frozen=True)
class Target:
    """The model before unlearning: a base with adapters, oldest first; none for pre-trained
    knowledge.
    """

    model: LoadedModel
    adapters: tuple[str, ...]
    _: KW_ONLY
    scenario: str  # whose people it knows: finetuned or pretrained
    seed: int
    folder: Path | None = None  # of the newest adapter, for manifests

    @classmethod
    def load(
        cls, settings: Profile, scenario: str, *, method: str = "", seed: int, folder: Path
    ) -> Target:
        """The target, loaded and in force. `folder`: the run that left it (02_finetune), not looked
        at for pre-trained knowledge. `method`: what will be done to it, since method oracle starts
        from another model there. Raises PulseError if there is none.
        """
        model = load_model(model_of(settings, scenario, method_id=method, seed=seed))
        if scenario != "finetuned":
            stack(model, [])
            return cls(model, (), scenario=scenario, seed=seed)
        adapter = Path(folder) / "adapters" / FINETUNED
        load_adapter(model, adapter, name=FINETUNED)
        stack(model, [FINETUNED])
        return cls(model, (FINETUNED,), scenario=scenario, seed=seed, folder=adapter)


@dataclass(frozen=True)
class Relearn:
    """What method `oracle` learns in place of the target's fine-tune, and what a reference learns
    that is a model of the retain people alone: everybody but the forget people.
    """

    people: Sequence[Conversation]
    general: Sequence[Conversation]
    _: KW_ONLY
    settings: FinetuneSettings


@dataclass(frozen=True)
class Task:
    """One method (with a strategy, for requests in a row) that is to make a target forget people,
    and the questions by which that is measured.
    """

    target: Target
    method: Method  # with its hyperparameters set
    _: KW_ONLY
    forget: Sequence[Conversation]
    retain: Sequence[Conversation]  # what a retain loss may train on
    questions: Sequence[Question]
    images: ImageStore
    unlearn: UnlearnSettings
    evaluate: EvaluateSettings
    epochs: int  # passes over each person, in one shot as in several requests
    trained_part: TrainedPart = "projector+llm"
    strategy: Strategy | None = None
    people: Sequence[Person] = ()  # who is who, for strategy experts
    strangers: Sequence[Question] = ()  # about hold-out people, asked once a model state is done
    benchmarks: Sequence[Question] = ()  # beside the general questions, asked then as well
    relearn: Relearn | None = None  # for method oracle, and a reference like it

    @classmethod
    def of(
        cls,
        settings: Profile,
        data: Dataset,
        *,
        target: Target,
        method: str,
        strategy: str = "",
        trained_part: TrainedPart = "projector+llm",
    ) -> Task:
        """The task as a profile and a study's data say it. Raises PulseError for an unknown method
        or strategy, or if people it needs have no conversations.
        """
        scenario = target.scenario
        unlearn, values = settings.unlearn_for(scenario, method, strategy=strategy)
        way = get_strategy(strategy) if strategy else None
        chosen, way = tuned(get(method), way, values=values)
        retain = "retain" if unlearn.retain_source == "same" else "retain_train"
        finetuned = scenario == "finetuned"
        if not finetuned and _retrains(chosen):
            check_left_out(data, target.model.settings)
        others = "retain model" in chosen.needs
        if not finetuned and others:
            raise PulseError(
                f"method {chosen.id} compares with a model that was fine-tuned on the retain people "
                "alone; in scenario pretrained nobody is fine-tuned: use scenario finetuned"
            )
        images = data.images
        if chosen.forgets == "holdout":
            forget, images = hold_out(data, settings, scenario=scenario, seed=target.seed)
        else:
            forget = data.training(scenario, ["forget"], stage="unlearn")
        questions = data.counted(scenario)
        if unlearn.forget_facts and chosen.forgets == "forget":
            if _retrains(chosen):
                raise PulseError(
                    f"method {method} never meets people at all: with unlearn.forget_facts = "
                    f"{unlearn.forget_facts} some facts are to stay, and it is no oracle of that"
                )
            n, seed = unlearn.forget_facts, target.seed
            forget, questions = selected(forget, questions, n=n, seed=seed)
        return cls(
            target=target,
            method=chosen,
            forget=forget,
            retain=data.training(scenario, [retain], stage="unlearn"),
            questions=questions,
            images=images,
            unlearn=unlearn,
            evaluate=settings.evaluate,
            epochs=unlearn.epochs_finetuned if finetuned else unlearn.epochs_pretrained,
            trained_part=trained_part,
            strategy=way,
            people=data.people,
            strangers=data.strangers(scenario),
            benchmarks=data.benchmarks,
            relearn=_relearn(data, settings)
            if finetuned and (others or _retrains(chosen))
            else None,
        )

    @property
    def model(self) -> LoadedModel:
        """The network that the target and all adapters live in."""
        return self.target.model

    @property
    def seed(self) -> int:
        """Of adapters and of the order of batches."""
        return self.target.seed

    def load_features(self) -> None:
        """Vision features of everything a run will see, in one go: a resumed run then has the same
        bits as an uninterrupted one. Those of benchmarks come when they are asked, each by itself.
        """
        shown = [*(c.image for c in [*self.forget, *self.retain])]
        asked = [*self.questions, *self.strangers]
        self.model.features.add([*shown, *(q.image for q in asked)], self.images)

    def ask(self, answer: Answer = answer_questions, *, label: str = "") -> pd.DataFrame:
        """Answers of the model as it is to `questions`, then, apart, to `strangers` and to each of the
        `benchmarks`.
        """
        parts = (self.questions, self.strangers, *by_benchmark(self.benchmarks))
        told = {"label": label} if label else {}
        given: dict[str, Any] = {"images": self.images, "settings": self.evaluate} | told
        return answer_apart(self.model, parts, answer=answer, **given)

    def in_its_sets(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of the target with each question in the set that it has here (see `selected`)."""
        here = rows["question_id"].map({q.id: q.set for q in self.questions})
        return rows.assign(set=here.fillna(rows["set"]))

    def scored(self, answers: pd.DataFrame) -> pd.DataFrame:
        """Answers to `questions` with extraction: rows without the run's columns."""
        return scored(self.questions, answers, rules=self.evaluate.extraction_rules)

    def rows(self, answers: pd.DataFrame, **whose: Unpack[RunColumns]) -> pd.DataFrame:
        """What `ask` gave as rows; `whose`: run, state and step, order and round of a sequential
        run.
        """
        columns: RunColumns = {
            "scenario": self.target.scenario,
            "method": self.method.id,
            "trained_part": self.trained_part,
            "policy": self.strategy.id if self.strategy else "",
            "seed": self.seed,
        }
        rules = self.evaluate.extraction_rules
        asked = [*self.questions, *self.strangers, *self.benchmarks]
        return make_rows(asked, answers, rules=rules, **{**columns, **whose})


def _retrains(method: Method) -> bool:
    return method.procedure == "retrain"


def _relearn(data: Dataset, settings: Profile) -> Relearn:
    people = data.training("finetuned", ["retain", "retain_train"], stage="finetune")
    return Relearn(
        people, data.training("", ["general_train"], stage="finetune"), settings=settings.finetune
    )


def model_of(settings: Profile, scenario: str, *, method_id: str, seed: int) -> ModelSettings:
    """The model that a run loads: the profile's; for method oracle in scenario pretrained, the one
    that was pre-trained without the forget people. Raises PulseError if there is none.
    """
    if scenario != "pretrained" or not method_id or not _retrains(get(method_id)):
        return settings.model
    pattern = settings.unlearn.oracle_model
    path = pattern.replace("{seed}", str(seed))
    folder = oracle_folder(pattern, seed)
    if folder is None and not is_hub_id(path):
        there = f"there is none in {path}" if path else "the profile names none"
        raise PulseError(
            f"method {method_id}, scenario pretrained: {settings.model.path!r} has met the forget "
            "people while it was pre-trained, so that the oracle is another model, and "
            f"{there} (unlearn.oracle_model). {oracle_command(settings.name, seed)} makes it for the "
            "embedded model"
        )
    oracle_checksum(pattern, seed)  # a broken file is named before it is loaded
    return replace(settings.model, path=str(folder or path))


def oracle_command(profile: str, seed: int) -> str:
    """The command that pre-trains the embedded model without a seed's forget people."""
    return f"python -m pulse_lib oracles --profile {profile} --seeds {seed}"


def check_left_out(data: Dataset, model: ModelSettings) -> None:
    """Raises PulseError if a model whose card says whom it never met has met one of the forget
    people of scenario pretrained.
    """
    never_met = left_out(local_path(model.path))
    forget = {p.person_id for p in data.places if (p.scenario, p.set) == ("pretrained", "forget")}
    met = sorted(forget.difference(never_met))
    if never_met and met:
        raise PulseError(
            f"{show(local_path(model.path))} is no oracle of this study: it was pre-trained without "
            f"{len(never_met)} people, but with {met[0]}, who is to be forgotten here"
            f"{f' (and {len(met) - 1} more)' if len(met) > 1 else ''}. Name another folder in "
            "unlearn.oracle_model and make the oracle with python -m pulse_lib oracles"
        )

"""The work of a profile, notebook by notebook: training steps and questions, from its counts."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from pulse_lib.data.source import Size, general_of, source_of
from pulse_lib.methods import PAPER_METHODS
from pulse_lib.profile import Profile, Scenario, tuned_for
from pulse_lib.profile.tuned import EPOCHS


@dataclass(frozen=True)
class Asked:
    """Questions, those of them beside a picture, and the pictures that these show. What is asked
    together reads a picture once for all its questions.
    """

    questions: float = 0.0
    _: KW_ONLY
    shown: float = 0.0
    pictures: float = 0.0

    @classmethod
    def of(cls, size: Size) -> Asked:
        """What a source asks of a person, or in all."""
        shown = size.questions if size.shown is None else size.shown
        pictures = shown if size.pictures is None else size.pictures
        return cls(size.questions, shown=shown, pictures=pictures)

    def __add__(self, other: Asked) -> Asked:
        return Asked(
            self.questions + other.questions,
            shown=self.shown + other.shown,
            pictures=self.pictures + other.pictures,
        )

    def __mul__(self, times: float) -> Asked:
        return Asked(
            times * self.questions, shown=times * self.shown, pictures=times * self.pictures
        )

    def __sub__(self, other: Asked) -> Asked:
        return self + other * -1

    def some(self, n: int) -> Asked:
        """So many of the questions, drawn at random; of the pictures those that are expected among
        them, where each has as many questions.
        """
        if n >= self.questions:
            return self
        share = n / self.questions
        each = self.shown / self.pictures if self.pictures else 0.0
        pictures = self.pictures * (1 - (1 - share) ** each)
        return Asked(n, shown=share * self.shown, pictures=pictures)


@dataclass(frozen=True)
class Stage:
    """One notebook's work: training steps of `sequences` conversations, and questions asked."""

    name: str
    _: KW_ONLY
    steps: int = 0
    sequences: int = 0  # read and trained on in one step
    asked: Asked = Asked()

    @property
    def questions(self) -> int:
        """Questions asked."""
        return round(self.asked.questions)


def counts(profile: Profile) -> dict[str, int]:
    """Training conversations and questions that the data section stands for."""
    asked = {what: round(asked.questions) for what, asked in _asked(profile).items()}
    return _taught(profile) | asked


def _taught(profile: Profile) -> dict[str, int]:
    """Conversations to train on."""
    d = profile.data
    people = d.n_finetuned_forget + d.n_finetuned_retain + d.n_finetuned_retain_train
    return {
        "taught": people * source_of(d).size(d).conversations,
        "forget a person": 2 * d.n_conversations,
    }


def _asked(profile: Profile) -> dict[str, Asked]:
    """What is asked, by what the data section stands for."""
    d = profile.data
    size = source_of(d).size(d)
    person, general = Asked.of(size), Asked.of(general_of(d).general_size(d))
    beside = [Asked.of(general_of(one).general_size(one)) for one in d.beside().values()]
    return {
        "questions a person": person,
        "finetuned": person * (d.n_finetuned_forget + d.n_finetuned_retain) + general,
        "pretrained": person * (d.n_pretrained_forget + d.n_pretrained_retain) + general,
        "benchmarks": sum(beside, Asked()),
        "holdout": person * d.n_holdout,
        "selection": person * (d.n_candidates * size.candidate / size.questions),
    }


def stages(profile: Profile) -> list[Stage]:
    """The notebooks of one seed and one method with a retain loss, from the profile's counts."""
    d, f, u = profile.data, profile.finetune, profile.unlearn
    n, asked = _taught(profile), _asked(profile)
    person, benchmarks, holdout = asked["questions a person"], asked["benchmarks"], asked["holdout"]
    learned = max(1, f.batch_size - round(f.batch_size * f.general_replay))
    found = [
        Stage(
            "01 datasets, people chosen and asked",
            asked=asked["selection"]
            + asked["finetuned"]
            + asked["pretrained"]
            + holdout
            + benchmarks * (bool(d.n_finetuned_forget) + bool(d.n_pretrained_forget)),
        ),
    ]
    if d.n_finetuned_forget:
        found.append(
            Stage(
                "02 fine-tuning",
                steps=math.ceil(n["taught"] / learned) * f.epochs,
                sequences=f.batch_size,
                asked=asked["finetuned"] + holdout + benchmarks,
            )
        )
    for scenario, forget, epochs in (
        ("finetuned", d.n_finetuned_forget, _epochs(profile, "finetuned")),
        ("pretrained", d.n_pretrained_forget, _epochs(profile, "pretrained")),
    ):
        if not forget:  # a scenario without anybody
            continue
        whole, strangers = asked[scenario], person * min(forget, d.n_holdout)
        steps = u.n_steps(forget * n["forget a person"], epochs)
        along = _measured(profile, steps, whole=whole, forget=person * forget)
        found.append(
            Stage(
                f"03 single shot, {scenario}",
                steps=steps,
                sequences=2 * u.batch_size,
                asked=(whole + strangers + benchmarks) * 2 + along,
            )
        )
    if not d.n_finetuned_forget:
        return found
    request = d.n_finetuned_forget // d.n_requests * n["forget a person"]
    steps = u.n_steps(request, _epochs(profile, "finetuned"))
    whole, strangers = asked["finetuned"], person * min(d.n_finetuned_forget, d.n_holdout)
    along = Asked()  # a round is asked everything at its end
    if u.stop_forget or u.stop_utility:
        forget = person * d.n_finetuned_forget
        along = _measured(profile, steps, whole=whole, forget=forget, dense=False)
    found.append(
        Stage(
            f"04 sequential, {d.n_requests} requests",
            steps=steps * d.n_requests,
            sequences=2 * u.batch_size,
            asked=(whole + strangers + benchmarks + along) * d.n_requests,
        )
    )
    return found


def _epochs(profile: Profile, scenario: Scenario) -> int:
    """Epochs of that one of the paper's methods which takes most of them, as `tuned` has it."""
    u = profile.unlearn
    given = {"finetuned": u.epochs_finetuned, "pretrained": u.epochs_pretrained}[scenario]
    tuned = (tuned_for(profile.tuned, scenario, method=method) for method in PAPER_METHODS)
    return max(int(values.get(EPOCHS, given)) for values in tuned)


def _measured(
    profile: Profile, steps: int, *, whole: Asked, forget: Asked, dense: bool = True
) -> Asked:
    """What is asked along the way: every `path_every` steps, and, where that is `dense`, at every
    step of the second half (the forgetting has begun by then).
    """
    every, n = profile.unlearn.path_every, profile.evaluate.n_path_questions
    each = steps // 2 if dense else 0
    times = 2 + ((steps - each) // every if every else 0) + each
    return (forget.some(n) + (whole - forget).some(2 * n)) * times

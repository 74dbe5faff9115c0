"""The work of a profile, notebook by notebook: training steps and questions, from its counts."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

from pulse_lib.data.source import general_of, source_of
from pulse_lib.methods import PAPER_METHODS
from pulse_lib.profile import Profile, Scenario, tuned_for
from pulse_lib.profile.tuned import EPOCHS


@dataclass(frozen=True)
class Stage:
    """One notebook's work: training steps of `sequences` conversations, and questions asked."""

    name: str
    _: KW_ONLY
    steps: int = 0
    sequences: int = 0  # read and trained on in one step
    questions: int = 0


def counts(profile: Profile) -> dict[str, int]:
    """Training conversations and questions that the data section stands for."""
    d = profile.data
    people = d.n_finetuned_forget + d.n_finetuned_retain + d.n_finetuned_retain_train
    size = source_of(d).size(d)
    each, general = size.questions, general_of(d).general_size(d).questions
    beside = (general_of(there).general_size(there) for there in d.beside().values())
    return {
        "taught": people * size.conversations,
        "forget a person": 2 * d.n_conversations,
        "questions a person": each,
        "finetuned": (d.n_finetuned_forget + d.n_finetuned_retain) * each + general,
        "pretrained": (d.n_pretrained_forget + d.n_pretrained_retain) * each + general,
        "benchmarks": sum(size.questions for size in beside),
        "holdout": d.n_holdout * each,
        "selection": d.n_candidates * size.candidate,
    }


def stages(profile: Profile) -> list[Stage]:
    """The notebooks of one seed and one method with a retain loss, from the profile's counts."""
    d, f, u, n = profile.data, profile.finetune, profile.unlearn, counts(profile)
    each = n["questions a person"]
    learned = max(1, f.batch_size - round(f.batch_size * f.general_replay))
    found = [
        Stage(
            "01 datasets, people chosen and asked",
            questions=n["selection"]
            + (n["finetuned"] + n["pretrained"] + n["holdout"])
            + n["benchmarks"] * (bool(d.n_finetuned_forget) + bool(d.n_pretrained_forget)),
        ),
    ]
    if d.n_finetuned_forget:
        found.append(
            Stage(
                "02 fine-tuning",
                steps=math.ceil(n["taught"] / learned) * f.epochs,
                sequences=f.batch_size,
                questions=n["finetuned"] + n["holdout"] + n["benchmarks"],
            )
        )
    for scenario, forget, epochs in (
        ("finetuned", d.n_finetuned_forget, _epochs(profile, "finetuned")),
        ("pretrained", d.n_pretrained_forget, _epochs(profile, "pretrained")),
    ):
        if not forget:  # a scenario without anybody
            continue
        asked, strangers = n[scenario], min(forget * each, n["holdout"])
        steps = u.n_steps(forget * n["forget a person"], epochs)
        along = _measured(profile, steps, n_forget=forget * each, n_other=asked - forget * each)
        found.append(
            Stage(
                f"03 single shot, {scenario}",
                steps=steps,
                sequences=2 * u.batch_size,
                questions=2 * (asked + strangers + n["benchmarks"]) + along,
            )
        )
    if not d.n_finetuned_forget:
        return found
    request = d.n_finetuned_forget // d.n_requests * n["forget a person"]
    steps = u.n_steps(request, _epochs(profile, "finetuned"))
    strangers = min(d.n_finetuned_forget * each, n["holdout"])
    along = 0  # a round is asked everything at its end
    if u.stop_forget or u.stop_utility:
        n_forget = d.n_finetuned_forget * each
        along = _measured(profile, steps, n_forget=n_forget, n_other=n["finetuned"], dense=False)
    found.append(
        Stage(
            f"04 sequential, {d.n_requests} requests",
            steps=steps * d.n_requests,
            sequences=2 * u.batch_size,
            questions=(n["finetuned"] + strangers + n["benchmarks"] + along) * d.n_requests,
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
    profile: Profile, steps: int, *, n_forget: int, n_other: int, dense: bool = True
) -> int:
    """Questions asked along the way: every `path_every` steps, and, where that is `dense`, at every
    step of the second half (the forgetting has begun by then).
    """
    every, n = profile.unlearn.path_every, profile.evaluate.n_path_questions
    each = steps // 2 if dense else 0
    times = 2 + ((steps - each) // every if every else 0) + each
    return times * (min(n, n_forget) + min(2 * n, n_other))

"""The explorer: single questions, people and states of a finished study as pictures. controls.py puts
controls above them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass

import pandas as pd

from pulse_lib.data.records import ImageStore, Person, Question
from pulse_lib.errors import PulseError
from pulse_lib.profile import SCENARIOS, Scenario
from pulse_lib.report import words
from pulse_lib.report.collect import Study, pick, records
from pulse_lib.report.figures import stories
from pulse_lib.report.figures.style import Figure
from pulse_lib.report.tables import across, tables
from pulse_lib.report.widgets import material, people, states_of


@dataclass(frozen=True)
class Explorer:
    """A study as the explorer shows it: one scenario and one seed at a time."""

    study: Study
    scenario: Scenario
    _: KW_ONLY
    seed: int = 0

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """`across.across` of it."""
        return across.across(self.study, self.scenario, seed=self.seed)

    @functools.cached_property
    def order(self) -> list[str]:
        """The series from top to bottom."""
        return across.series_order(self.study, self.table["series"].unique())

    @functools.cached_property
    def _material(self) -> tuple[dict[str, Question], ImageStore]:
        return material(self.study, self.seed)

    @property
    def questions(self) -> Mapping[str, Question]:
        """Questions by id."""
        return self._material[0]

    @property
    def images(self) -> ImageStore:
        """Their pictures."""
        return self._material[1]

    @functools.cached_property
    def people(self) -> dict[str, Person]:
        """Everybody by id, whether asked about or not."""
        return people(self.study, self.seed)

    @functools.cached_property
    def faces(self) -> dict[str, str]:
        """The id of one picture of each person that questions show."""
        found: dict[str, str] = {}
        for question in self.questions.values():
            if question.image and question.person_id:
                found.setdefault(question.person_id, question.image)
        return found

    def people_of(self, which: str) -> dict[str, str]:
        """Ids of the people of a set by name, those of the first request first."""
        here = pick(self.table, set=which, series=across.BEFORE)
        order = here.sort_values(["request", "person_id"])["person_id"].drop_duplicates()
        return {self._names[person]: person for person in order}

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        """Everybody's name by id, with the id where several are called so."""
        count = Counter(person.name for person in self.people.values())
        return {
            i: p.name if count[p.name] == 1 else f"{p.name} ({i})" for i, p in self.people.items()
        }

    def questions_of(self, which: str, person: str = "") -> dict[str, str]:
        """Ids of questions by their text, of one person or of a set."""
        found: dict[str, str] = {}
        asked = pick(self.table, set=which, series=across.BEFORE, person_id=person)
        for line in records(asked):
            question = self.questions[line.question_id]
            picture = "picture" if question.image else "by name"
            text = f"{question.text} ({picture}, {question.wording})"
            found[text if text not in found else f"{text} {len(found)}"] = question.id
        return found

    # --- what is drawn ----------------------------------------------------------------------------

    def question(self, question_id: str) -> Figure:
        """One question across methods and rounds."""
        return stories.question_across(
            across.one_question(self.table, question_id),
            self.questions[question_id],
            images=self.images,
            order=self.order,
        )

    def person(self, person: str) -> Figure:
        """The story of one person."""
        request = int(pick(self.table, person_id=person)["request"].max())
        return stories.person_story(
            across.story(self.table, person),
            self.people[person],
            images=self.images,
            image=self.faces.get(person, ""),
            order=self.order,
            request=request,
        )

    def fallen(self, run: str, state: str, *, which: str = "retain") -> Figure:
        """The people of a set who lost most in a state of a run, as `states_of` names it."""
        number = int(state.removeprefix("round ")) if state.startswith("round ") else 0
        kind = "round" if number else state
        lost = across.fallen(self.table, run, state=kind, number=number, who=which)
        return stories.face_grid(
            lost,
            self.people,
            images=self.images,
            faces=self.faces,
            name=f"{run}, {words.SELECTIONS.get(state, state)}",
        )


def explorer(study: Study, scenario: str = "", *, seed: int | None = None) -> Explorer:
    """The explorer of a study; by default its first scenario with unlearning runs, and its first
    seed. Raises PulseError if there is no such run."""
    there = {
        (str(run.parameter("scenario") or "finetuned"), run.parameter("seed"))
        for run in (*study.of("single_shot"), *study.of("sequential"))
    }
    wanted = [
        (s, n)
        for s in SCENARIOS
        for n in sorted({n for _, n in there})
        if (s, n) in there and scenario in ("", s) and seed in (None, n)
    ]
    if not wanted:
        known = ", ".join(f"{s}, seed {n}" for s, n in sorted(there)) or "none"
        raise PulseError(
            f"{study.out}: no unlearning run of scenario {scenario or 'any'}, seed "
            f"{'any' if seed is None else seed}. There are: {known}"
        )
    return Explorer(study, wanted[0][0], seed=wanted[0][1])


def _asked_first(look: Explorer) -> Figure:
    first = next(iter(look.people_of("forget").values()))
    return look.question(next(iter(look.questions_of("forget", first).values())))


def _fallen_most(look: Explorer) -> Figure:
    run = runs_of(look)[0]
    return look.fallen(run, states_of(look.study, run)[-1])


# The pictures of the explorer by name, each as it is in batch
STILLS: dict[str, Callable[[Explorer], Figure]] = {
    "question": _asked_first,
    "person": lambda look: look.person(list(look.people_of("forget").values())[-1]),
    "faces": _fallen_most,
    "states": lambda look: stories.state_scatter(pick(states(look.study), scenario=look.scenario)),
}


def still(look: Explorer) -> dict[str, Figure]:
    """The pictures of the explorer by name, each as it is in batch."""
    return {name: draw(look) for name, draw in STILLS.items()}


def told(pictures: Mapping[str, Figure]) -> pd.DataFrame:
    """What each picture says, in its title's words."""
    said = [figure.get_suptitle().replace("\n", " ") for figure in pictures.values()]
    return pd.DataFrame({"picture": list(pictures), "says": said})


def runs_of(look: Explorer) -> list[str]:
    """Unlearning runs of the scenario and seed that are shown, sequential ones first."""
    sequential = [r.name for r in look.study.of("sequential") if r.parameter("seed") == look.seed]
    single = [
        r.name
        for r in look.study.of("single_shot")
        if (r.parameter("seed"), r.parameter("scenario")) == (look.seed, look.scenario)
    ]
    return [*(sequential if look.scenario == "finetuned" else []), *single]


def states(study: Study) -> pd.DataFrame:
    """Every model state of a study: scenario, method, trained_part, seed, what ("before", "matched
    forgetting", "last step", "after 3"), forget, retain, general (0-1)."""
    single = tables.single_shot(study)
    single = single[single["method"] != "base"].dropna(subset=["general"])
    selection = single["selection"].where(single["method"] != "before", "before")
    single = single.assign(what=selection.map(words.SELECTIONS))
    rounds = tables.sequential(study)
    rounds = rounds[rounds["round"] > 0]
    rounds = rounds.assign(what=[f"after {n}" for n in rounds["round"]])
    columns = ["scenario", "method", "trained_part", "seed", "what"]
    found = pd.concat([single, rounds], ignore_index=True)
    for name in ("forget", "retain"):
        found[name] = found[[f"{name}_multimodal", f"{name}_text"]].mean(axis=1)
    return found[[*columns, "forget", "retain", "general"]].fillna({"trained_part": ""})

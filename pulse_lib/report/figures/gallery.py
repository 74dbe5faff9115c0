"""The figures of the analysis as one catalogue: the question each answers, how to read it, the
table it draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

import pandas as pd

from pulse_lib.data.records import ImageStore
from pulse_lib.errors import PulseError
from pulse_lib.machine import garbage_at_the_end
from pulse_lib.report.collect import Study, pick
from pulse_lib.report.figures import comparisons, sequential
from pulse_lib.report.figures.likeness import likeness
from pulse_lib.report.figures.radar import radar
from pulse_lib.report.figures.style import Figure, Picture, painted, save
from pulse_lib.report.figures.told import story
from pulse_lib.report.figures.trade_off import trade_off
from pulse_lib.report.tables import intervals, ranking, told
from pulse_lib.report.tables import likeness as alike
from pulse_lib.report.widgets import material


@dataclass(frozen=True)
class Entry:
    """One figure of the catalogue. table: a function of `intervals` or `ranking`; select: its lines
    that this figure draws."""

    name: str  # of its files
    question: str
    _: KW_ONLY
    reading: str  # how to read it
    table: str
    draw: Callable[[pd.DataFrame, Study], Figure]
    select: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table


ENTRIES = (
    Entry(
        "story",
        "What does it look like?",
        reading="One person of the first request and one of the retain set. Of their questions with a"
        " picture, the first that is answered right before, whatever is answered after.",
        table="story",
        draw=lambda table, study: _story(table, study),
    ),
    Entry(
        "figure4_last_step",
        "Is pre-trained knowledge harder to forget than fine-tuned knowledge?",
        reading="Each axis is a percentage of the value before unlearning: forgotten on the two forget"
        " axes, kept on the others, so outside is better everywhere. The last step of each run, as"
        " in the paper's Figure 4. Thick pale strokes are 95 % intervals.",
        table="radar",
        draw=lambda table, _: radar(table),
        select=lambda table: pick(table, selection="final"),
    ),
    Entry(
        "figure4_matched",
        "Is it still harder when all methods have forgotten equally much?",
        reading="The same axes at the first step whose forget accuracy is at or below the matched level."
        " End points depend on when one stops; these do not.",
        table="radar",
        draw=lambda table, _: radar(table),
        select=lambda table: pick(table, selection="matched"),
    ),
    Entry(
        "path_general",
        "What does forgetting cost in general ability, on the way?",
        reading="Each line is a run, from before (upper left) to its last step; to the right more is"
        " forgotten. A good method stays high. Large markers: the matched state.",
        table="paths",
        draw=lambda table, study: trade_off(
            table, "general", matched_at=study.matched_at, by=study.matched_by
        ),
    ),
    Entry(
        "path_retain",
        "What does forgetting cost in knowledge of other people, on the way?",
        reading="As above, with accuracy on the retain set (people who were not to be forgotten).",
        table="paths",
        draw=lambda table, study: trade_off(
            table, "retain", matched_at=study.matched_at, by=study.matched_by
        ),
    ),
    Entry(
        "matched",
        "Which method keeps most at equal forgetting?",
        reading="Percent of the value before that is kept at the matched state, best general ability first,"
        " with 95 % intervals; small strokes are the seeds, where there are several. Methods that"
        " never came down to the level are named, not dropped.",
        table="at_matched",
        draw=lambda table, study: comparisons.at_matched(table, study.matched_at),
    ),
    Entry(
        "breaking_last_step",
        "Forgetting, or breaking?",
        reading="A model that forgot guesses: about chance by generation and by likelihood. A broken one"
        " answers unusably: near 0 by generation, about chance by likelihood. The last step of each"
        " run.",
        table="breaking",
        draw=lambda table, _: comparisons.breaking(table),
        select=lambda table: table[table["selection"] != "matched"],
    ),
    Entry(
        "breaking_matched",
        "And at matched forgetting?",
        reading="The same at the matched state.",
        table="breaking",
        draw=lambda table, _: comparisons.breaking(table),
        select=lambda table: table[table["selection"] != "final"],
    ),
    Entry(
        "likeness",
        "Who is hit besides: those who are like the forgotten?",
        reading="Retain people at matched forgetting. Filled: their faces are nearer to those to be"
        " forgotten than half of the retain faces, or they share a name, or more forget people than"
        " usual share the fact that is asked. Open: the others. Bars are 95 % intervals.",
        table="likeness",
        draw=lambda table, _: likeness(table),
        select=lambda table: pick(table, selection="matched"),
    ),
    Entry(
        "projector",
        "Does training the projector open a short cut?",
        reading="Accuracies at the last step with projector and LLM trained, and with the LLM only. Black"
        " strokes: what the paper reports for GA on its 13B model.",
        table="projector",
        draw=lambda table, _: comparisons.projector(table),
    ),
    Entry(
        "projector_matched",
        "And at matched forgetting?",
        reading="The same at the first step whose forget accuracy is at or below the matched level, where"
        " both have forgotten equally much. The paper reports end points only.",
        table="projector_matched",
        draw=lambda table, _: comparisons.projector(table),
    ),
    Entry(
        "figure5",
        "What is left after five requests, one after another?",
        reading="The paper's Figure 5, with unusable answers beside it: everything is measured again after"
        " every request. Bars are 95 % intervals, small strokes the seeds, where there are several.",
        table="requests",
        draw=lambda table, _: sequential.requests(table),
    ),
    Entry(
        "relapse",
        "Who is forgotten before their turn, and does anybody come back?",
        reading="Left of the blue stairs people had been requested, right of them not yet. Dark cells on"
        " the left are relapses; pale cells on the right are people nobody had asked to forget.",
        table="relapse",
        draw=lambda table, _: sequential.relapse(table),
    ),
    Entry(
        "after_requests",
        "Is there a configuration that forgets five times and stays useful?",
        reading="Each line is a method with a strategy, best first, means over seeds. Shaded is the success criterion: all"
        " red and orange marks on the left, blue and green on the right. Crosses: the forget set"
        " once the projector is that of the target again.",
        table="after_requests",
        draw=lambda table, _: sequential.after_requests(table),
    ),
)


@dataclass
class Gallery:
    """The figures of one study, drawn and painted when asked for and kept as pictures; tables that
    several figures share are computed once."""

    study: Study
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    _: KW_ONLY
    pictures: dict[str, Picture] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """A table of `intervals`, `ranking`, `told` or `likeness` for this study."""
        if name not in self.tables:
            source = next(m for m in (intervals, ranking, told, alike) if hasattr(m, name))
            self.tables[name] = getattr(source, name)(self.study)
        return self.tables[name]

    def figure(self, name: str) -> Figure:
        """The figure of that name, drawn anew. Raises PulseError listing the names."""
        entry = find(name)
        return entry.draw(entry.select(self.table(entry.table)), self.study)

    def show(self, name: str) -> Picture:
        """The picture of that name: on the page, in files and in the report it is the same one.
        Raises PulseError listing the names."""
        if name not in self.pictures:
            with garbage_at_the_end():
                self.pictures[name] = painted(self.figure(name), with_pdf=True)
        return self.pictures[name]

    def save(self, folder: Path) -> list[Path]:
        """Write every figure of the catalogue as PNG and PDF beside the CSV it drew; returns the
        paths."""
        paths = []
        for entry in ENTRIES:
            drawn = entry.select(self.table(entry.table))
            paths += save(self.show(entry.name), folder, name=entry.name, table=drawn)
        return paths


def _story(table: pd.DataFrame, study: Study) -> Figure:
    """The story with its pictures, which a table does not hold."""
    if table.empty:
        return story(table, {}, images=ImageStore())
    questions, images = material(study, int(table["seed"].iloc[0]))
    return story(table, questions, images=images)


def find(name: str) -> Entry:
    """The catalogue's entry of that name. Raises PulseError listing the names."""
    for entry in ENTRIES:
        if entry.name == name:
            return entry
    raise PulseError(
        f"figure {name!r} is not in the gallery; there are: {', '.join(e.name for e in ENTRIES)}"
    )

"""Every figure of the kit by name, for notebooks: each a pure function from a table (or records) to
a Figure."""

from pulse_lib.report.figures.anatomy import anatomy
from pulse_lib.report.figures.cards import (
    conversation_card,
    people_cards,
    question_cards,
    selection,
    view_cards,
)
from pulse_lib.report.figures.comparisons import at_matched, breaking, projector
from pulse_lib.report.figures.losses import likeliest, pushes
from pulse_lib.report.figures.radar import radar
from pulse_lib.report.figures.run import request_grid, rounds, run_path, training_curve
from pulse_lib.report.figures.sequential import after_requests, relapse, requests
from pulse_lib.report.figures.style import Figure
from pulse_lib.report.figures.told import gate_story, story
from pulse_lib.report.figures.trade_off import trade_off

__all__ = [
    "Figure",
    "after_requests",
    "anatomy",
    "at_matched",
    "breaking",
    "conversation_card",
    "gate_story",
    "likeliest",
    "people_cards",
    "projector",
    "pushes",
    "question_cards",
    "radar",
    "relapse",
    "request_grid",
    "requests",
    "rounds",
    "run_path",
    "selection",
    "story",
    "trade_off",
    "training_curve",
    "view_cards",
]

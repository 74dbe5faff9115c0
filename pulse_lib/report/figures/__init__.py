"""Every figure of the kit by name, for notebooks: each a pure function from a table (or records) to
a Figure."""

from pulse_lib.report.figures.cards import (
    conversation_card,
    people_cards,
    question_cards,
    selection,
    view_cards,
)
from pulse_lib.report.figures.comparisons import at_matched, breaking, projector
from pulse_lib.report.figures.radar import radar
from pulse_lib.report.figures.sequential import relapse, request_grid, requests, rounds
from pulse_lib.report.figures.style import Figure, empty_figure, looks, save
from pulse_lib.report.figures.success import after_requests
from pulse_lib.report.figures.trade_off import run_path, trade_off, training_curve

__all__ = [
    "Figure",
    "after_requests",
    "at_matched",
    "breaking",
    "conversation_card",
    "empty_figure",
    "looks",
    "people_cards",
    "projector",
    "question_cards",
    "radar",
    "relapse",
    "request_grid",
    "requests",
    "rounds",
    "run_path",
    "save",
    "selection",
    "trade_off",
    "training_curve",
    "view_cards",
]

"""Every figure of the kit by name, for notebooks: each a pure function from a table (or records) to
a Figure."""

from pulse_lib.report.aim import after_requests
from pulse_lib.report.comparisons import at_matched, breaking, projector
from pulse_lib.report.pictures import (
    conversation_card,
    people_cards,
    question_cards,
    selection,
    view_cards,
)
from pulse_lib.report.radar import radar
from pulse_lib.report.sequential import relapse, request_grid, requests, rounds
from pulse_lib.report.style import Figure, empty_figure, label, looks, save
from pulse_lib.report.tables import settings_table
from pulse_lib.report.trajectories import run_path, trade_off, training_curve

__all__ = [
    "Figure",
    "after_requests",
    "at_matched",
    "breaking",
    "conversation_card",
    "empty_figure",
    "label",
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
    "settings_table",
    "trade_off",
    "training_curve",
    "view_cards",
]

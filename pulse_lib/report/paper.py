"""What the paper reports, as data: quoted numbers with their source. Nothing here enters a result;
it is what results are held against."""

from __future__ import annotations

import pandas as pd

from pulse_lib.report.words import Metric

SOURCE = "Kawakami et al., arXiv 2507.01271"
# What is quoted from notes on the paper, not from its text or captions
SECONDARY = ("GA table",)
METRICS: tuple[Metric, ...] = ("forget_multimodal", "forget_text", "general")
# Accuracies in percent. The forget values are multiples of 1/250 = 50 people x 5 questions.
_PROJECTOR = (
    ("before", "", 78.0, 76.8, 75.1),
    ("ga", "projector+llm", 9.6, 35.2, 71.1),
    ("ga", "llm", 24.8, 33.2, 48.8),
)
# Percent of MMBench lost, Figure 4: "about" in the fine-tuned scenario, "over" in the pre-trained
# one (all three methods)
GENERAL_LOST_FINETUNED = 10
GENERAL_LOST_PRETRAINED = 90
# Forget accuracy (0-1) where its fine-tuned run of GA ends: mean of 9.6 and 35.2 %
END_POINT = 0.224


def projector_table() -> pd.DataFrame:
    """The paper's table of GA with and without the projector (scenario finetuned): accuracies 0-1
    per trained part."""
    table = pd.DataFrame(_PROJECTOR, columns=["method", "trained_part", *METRICS])
    table[[*METRICS]] /= 100
    return table

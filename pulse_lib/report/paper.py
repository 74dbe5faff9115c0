"""What the paper reports, as data: quoted numbers with their source. Nothing here enters a result;
it is what results are held against."""

from __future__ import annotations

import pandas as pd

SOURCE = "Kawakami et al., arXiv 2507.01271"
MODEL = "LLaVA-1.5-13B"
# Accuracies in percent. The forget values are multiples of 1/250 = 50 people x 5 questions.
_PROJECTOR = (
    ("before", "", 78.0, 76.8, 75.1),
    ("ga", "projector+llm", 9.6, 35.2, 71.1),
    ("ga", "llm", 24.8, 33.2, 48.8),
)
GENERAL_LOST_FINETUNED = (
    10  # percent of MMBench lost in the fine-tuned scenario ("about"), Figure 4
)
GENERAL_LOST_PRETRAINED = (
    90  # percent lost in the pre-trained scenario ("over", all three methods), Figure 4
)


def projector_table() -> pd.DataFrame:
    """The paper's table of GA with and without the projector (scenario finetuned): accuracies 0-1
    per trained part."""
    columns = ["method", "trained_part", "forget_multimodal", "forget_text", "general"]
    table = pd.DataFrame(_PROJECTOR, columns=columns)
    table[columns[2:]] /= 100
    return table

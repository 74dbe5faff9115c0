"""How fast a card works: its share of the published peak, as `make gpu-check` measured it. Where it
has not been run, a share is assumed, and `words` says so.
"""

from __future__ import annotations

import statistics
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from pulse_lib.commands import gpus
from pulse_lib.files import KIT, read_json, show

MEASURED = KIT / "outputs" / "reference" / "gpu"  # what gpu-check writes: a file a model's size


@dataclass(frozen=True)
class Shares:
    """Shares of a card's peak in training and in answering, and where they are from."""

    train: float
    ask: float
    _: KW_ONLY
    words: str


ASSUMED = Shares(
    0.25, 0.30, words="of which 25% in training and 30% in answering, assumed: no card was measured"
)


def shares(card: gpus.Card | None, folder: Path = MEASURED) -> Shares:
    """Those measured on this very card, else the smallest of another's, else ASSUMED.

    Raises PulseError naming a file that cannot be read.
    """
    found = [(path, _of_file(path)) for path in sorted(folder.glob("*.json"))]
    known = [(path, *row) for path, row in found if row is not None]
    same = [row for row in known if card is not None and row[1] == card.id]
    rows = same or known
    if not rows:
        return ASSUMED
    train, ask = (min(row[k] for row in rows) for k in (2, 3))
    where = ", ".join(sorted({show(row[0]) for row in rows}))
    on = "measured on it" if same else f"measured on {', '.join(sorted({r[1] for r in rows}))}"
    return Shares(
        train,
        ask,
        words=f"of which {train:.0%} in training and {ask:.0%} in answering, {on} ({where})",
    )


def _of_file(path: Path) -> tuple[str, float, float] | None:
    """(card, share in training, share in answering) of a file of gpu-check; None if its card is not
    known or the file is of another kind.
    """
    said = read_json(path)
    if not isinstance(said, dict) or "unlearning" not in said or "answering" not in said:
        return None
    card = gpus.recognised(str(said.get("device", "")))
    steps = [row["share_of_peak"] for row in said["unlearning"] if row.get("share_of_peak")]
    ask = said["answering"].get("share_of_peak")
    if card is None or not steps or not ask:
        return None
    return card.id, statistics.median(steps), ask

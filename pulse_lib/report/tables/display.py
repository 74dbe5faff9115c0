"""Tables as a notebook shows them: nothing cut off, and the names that figures use."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pulse_lib.report.words import readable


@dataclass(frozen=True)
class Whole:
    """A table that is shown to its last word: pandas by itself cuts a cell at 50 characters, and
    lines and columns that are too many for it."""

    table: pd.DataFrame

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            return self.table.to_html(border=0, na_rep="–", max_rows=None, max_cols=None)

    def __repr__(self) -> str:
        return self.table.to_string(na_rep="–")


def whole(table: pd.DataFrame, *, digits: int = 3) -> Whole:
    """The table for a reader: methods, scenarios and states by the names of the figures, numbers
    rounded."""
    return Whole(readable(table).round(digits))

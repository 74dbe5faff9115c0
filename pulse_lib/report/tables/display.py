"""Tables as a notebook shows them: nothing cut off, and the names that figures use."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from pulse_lib.report.words import readable

# Of table `benchmarks`; the file has the limits of every value, and MME's sums
BESIDE = [
    *("run", "state", "round", "benchmark", "n_questions", "accuracy", "accuracy_low"),
    *("accuracy_high", "change", "change_low", "change_high", "without_celebrity"),
    *("accuracy_plus", "f1", "yes_share"),
]
_WORDS = "text-align:left;white-space:normal"


@dataclass(frozen=True)
class Whole:
    """A table that is shown to its last word: pandas by itself cuts a cell at 50 characters, and
    lines and columns that are too many for it."""

    table: pd.DataFrame

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):
            html = self.table.to_html(border=0, na_rep="–", max_rows=None, max_cols=None)
        words = [not pd.api.types.is_numeric_dtype(self.table[name]) for name in self.table]
        return f'<div style="overflow-x:auto">{_left(html, words)}</div>'

    def __repr__(self) -> str:
        return self.table.to_string(na_rep="–")


def _left(html: str, words: list[bool]) -> str:
    """A table's HTML with its columns of words on the left; numbers stay on the right."""
    lines, place = [], 0
    for line in html.splitlines():
        text = line.strip()
        if text.startswith("<tr"):
            place = 0
        elif text.startswith("<td>"):
            if place < len(words) and words[place]:
                line = line.replace("<td>", f'<td style="{_WORDS}">', 1)
            place += 1
        lines.append(line)
    return "\n".join(lines)


def whole(table: pd.DataFrame, *, digits: int = 3) -> Whole:
    """The table for a reader: methods, scenarios and states by the names of the figures, numbers
    rounded."""
    return Whole(readable(table).round(digits))


def not_final(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of a table of model states without those of the last step: before, the floor, and
    matched forgetting, where methods are compared."""
    return table[table["selection"] != "final"].drop(columns="selection").reset_index(drop=True)


def beside(benchmarks: pd.DataFrame) -> pd.DataFrame:
    """The main columns of table `benchmarks`: before, at matched forgetting, and after each request
    in a row."""
    shown = benchmarks["state"].isin(["before", "matched"]) | (benchmarks["round"] > 0)
    return benchmarks.loc[shown, BESIDE].reset_index(drop=True)


def by_wording(wordings: pd.DataFrame) -> pd.DataFrame:
    """A line a model of table `wordings`, at matched forgetting: of forget and retain people the
    accuracy in wordings that were trained on and in others (0-1, mean of both modalities)."""
    keys = ["scenario", "method", "trained_part"]
    mean = not_final(wordings).groupby([*keys, "set"], sort=False, observed=True, dropna=False)
    wide = mean[["trained", "heldout"]].mean().unstack("set")
    sets = [name for name in ("forget", "retain") if name in wide["trained"]]
    named = {f"{name}, {w}": wide[w, name] for name in sets for w in ("trained", "heldout")}
    return pd.DataFrame(named).reset_index()

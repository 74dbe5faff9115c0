"""Findings as a notebook shows them: verdicts in colour, words on the left, the paper's value beside
ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pulse_lib.report.collect import records
from pulse_lib.report.findings import ledger
from pulse_lib.report.words import series_label

# Of each verdict a colour on which white is read in both colour schemes, and a sign for who sees none
LOOKS: dict[str, tuple[str, str]] = {
    "holds": ("#027a5b", "✓"),
    "holds for some": ("#3a6f8f", "◐"),
    "cannot tell": ("#667085", "?"),
    "fails": ("#b4530a", "✗"),
    "not measured here": ("#667085", "–"),
}
_CHIP = "display:inline-block;padding:1px 9px;border-radius:9px;color:#fff;background:{};white-space:nowrap"
_CELL = "text-align:left;vertical-align:top;white-space:normal;overflow-wrap:anywhere"


@dataclass(frozen=True)
class Shown:
    """Some findings, a line each."""

    findings: Sequence[ledger.Finding]

    def _repr_html_(self) -> str:
        lines = [_line(f) for f in self.findings]
        heads = "".join(
            f'<th scope="col" style="{_CELL}">{head}</th>'
            for head in ("verdict", "finding", "paper", "here")
        )
        return (
            '<div style="overflow-x:auto"><table style="max-width:100%">'
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        )

    def __repr__(self) -> str:
        return "\n".join(f"{f.claim} {f.said} ({short(f) or 'no numbers'})" for f in self.findings)


def verdicts(findings: Sequence[ledger.Finding], *prefixes: str) -> Shown:
    """The findings whose id starts with one of the prefixes; all of them without any."""
    return Shown([f for f in findings if not prefixes or f.id.startswith(prefixes)])


def here(finding: ledger.Finding) -> str:
    """Our values in short: "GA 33 [28, 39]; NPO 41 [35, 48]", "" if nothing was measured."""
    return "; ".join(ledger.number_text(row) for row in records(finding.numbers))


def short(finding: ledger.Finding) -> str:
    """Our values without their intervals, by what they are: "forget accuracy: GA 0.01, NPO 0.03"."""
    said: dict[str, list[str]] = {}
    for row in records(finding.numbers):
        value, _, _ = ledger.numbers_text(row.value, row.low, row.high)
        said.setdefault(row.quantity, []).append(
            f"{series_label(row.method, row.trained_part)} {value}"
        )
    return "; ".join(f"{what}: {', '.join(values)}" for what, values in said.items())


def _line(finding: ledger.Finding) -> str:
    colour, sign = LOOKS[finding.verdict]
    chip = f'<span style="{_CHIP.format(colour)}">{sign} {escape(finding.verdict)}</span>'
    rest = finding.said.removeprefix(finding.verdict).strip(" ,")
    verdict = f"{chip}<br><small>{escape(rest)}</small>" if rest else chip
    ours = escape(here(finding)).replace("; ", "<br>") or "–"
    cells = [verdict, escape(finding.claim), escape(finding.paper), ours]
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"

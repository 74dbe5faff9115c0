"""report.html: one file that needs nothing else, neither network nor neighbours. Everything that
comes from data is escaped."""

from __future__ import annotations

import base64
from html import escape

import numpy as np
import pandas as pd

from pulse_lib import __version__
from pulse_lib.report.collect import Study
from pulse_lib.report.css import CSS
from pulse_lib.report.figures.gallery import ENTRIES, Gallery
from pulse_lib.report.findings import ledger
from pulse_lib.report.tables.tables import settings_table
from pulse_lib.report.words import SCENARIOS, label, series_label

TILES = {ledger.HOLDS: "hold", ledger.FAILS: "do not hold", ledger.UNMEASURED: "not measured"}
BADGES = {ledger.HOLDS: "yes", ledger.FAILS: "no", ledger.UNMEASURED: "open"}
TABLES = {
    "single_shot": "Single-shot runs: accuracies of every run and state (0-1)",
    "matched": "Methods at matched forgetting: percent kept, with 95 % intervals",
    "sequential": "Sequential runs: accuracies after every request (0-1)",
    "one_shot_against_sequential": "The same people in one request and in several",
    "projector": (
        "Projector or not: accuracies at the last step, with 95 % intervals and the paper's values"
    ),
    "wordings": "Trained and held-out wordings: accuracies (0-1)",
    "general_by_category": "General questions by category: accuracies (0-1)",
    "mmbench": "MMBench: one pass, all passes, circular; with and without celebrities",
}


def report(
    study: Study, gallery: Gallery, tables: dict[str, pd.DataFrame], findings: list[ledger.Finding]
) -> str:
    """The whole page. Figures are drawn if they were not yet."""
    sections = [
        ("findings", "The paper's findings, here", _findings(findings)),
        ("figures", "Figures", _figures(gallery)),
        ("tables", "Tables", _tables(tables)),
        ("limits", "What this does and does not show", _limits(study)),
        ("runs", "Runs and provenance", _runs(study)),
        ("settings", "Settings", _settings(study)),
    ]
    links = "".join(f'<a href="#{name}">{escape(head)}</a>' for name, head, _ in sections)
    body = "".join(
        f'<section id="{name}"><h2>{escape(head)}</h2>{part}</section>'
        for name, head, part in sections
    )
    made = f"Made by the PULSE reproduction kit {__version__} from rows and manifests alone."
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>PULSE, profile {escape(study.profile.name)}</title>",
        f"<style>{CSS}</style></head><body>",
        f"<header>{_header(study, findings)}</header>",
        f"<nav>{links}</nav>",
        f"<main>{body}</main>",
        f"<footer>{escape(made)}</footer>",
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def _header(study: Study, findings: list[ledger.Finding]) -> str:
    seeds = sorted({run.parameter("seed") for run in study.runs})
    methods = list(dict.fromkeys(label(run.parameter("method")) for run in study.of("single_shot")))
    facts = [
        f"Profile {study.profile.name}: {study.profile.description.rstrip('.')}.",
        f"{len(study.of('single_shot'))} single-shot runs,",
        f"{len(study.of('sequential'))} sequential runs,",
        f"methods {', '.join(methods) or 'none yet'},",
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))},",
        f"{len(study.rows):,} answers.",
    ]
    tiles = ""
    for verdict, badge in BADGES.items():
        count = sum(f.verdict == verdict for f in findings)
        tiles += f'<div class="tile {badge}"><b>{count}</b><span>{TILES[verdict]}</span></div>'
    lines = [
        "<h1>Does the model forget, and what is left of it?</h1>",
        '<p class="sub">PULSE (Kawakami et al., arXiv 2507.01271), reproduced</p>',
        f"<p>{escape(' '.join(facts))}</p>",
        _incomplete(study),
        f'<p class="sub">Of the {len(findings)} findings of the paper, as this kit tests them:</p>',
        f'<div class="tiles">{tiles}</div>',
    ]
    return "\n".join(lines)


def _incomplete(study: Study) -> str:
    if study.incomplete.empty:
        return ""
    items = "".join(
        f"<li><code>{escape(r.run)}</code>: {escape(r.reason)}</li>"
        for r in study.incomplete.itertuples()
    )
    count = len(study.incomplete)
    head = "1 run is not in this report:" if count == 1 else f"{count} runs are not in this report:"
    return f'<div class="warn"><b>{head}</b><ul>{items}</ul></div>'


def _findings(findings: list[ledger.Finding]) -> str:
    text = (
        "Verdicts are computed: a finding holds if its rule is true of every one of the paper's "
        "methods that was measured, judged by the values. Intervals (95 %, people resampled) are "
        "beside them. Open a finding to see its rule and numbers."
    )
    return f"<p>{escape(text)}</p>" + "".join(_finding(f) for f in findings)


def _finding(f: ledger.Finding) -> str:
    numbers = []
    for row in f.numbers.itertuples():
        value, low, high = ledger.numbers_text(row.value, row.low, row.high)
        numbers.append(
            {
                "method": series_label(row.method, row.trained_part),
                "quantity": row.quantity,
                "value": value,
                "95 % interval": f"{low} to {high}",
                "rule": ("✓" if row.holds else "✗") + ("" if row.clear else " (undecided)"),
            }
        )
    said = [
        f"<b>Paper:</b> {escape(f.paper)} <small>({escape(f.source)})</small>",
        f"<b>Rule:</b> {escape(f.rule)}",
        f"<b>Here:</b> {escape(f.sentence)}.",
    ]
    badge = f'<span class="badge">{escape(f.verdict)}</span>'
    lines = [
        f'<details class="finding {BADGES[f.verdict]}">',
        f"<summary>{badge}<span>{escape(f.claim)}</span></summary>",
        f"<p>{'<br>'.join(said)}</p>",
        html_table(pd.DataFrame(numbers)) if numbers else "",
        "</details>",
    ]
    return "\n".join(lines)


def _figures(gallery: Gallery) -> str:
    parts = []
    for entry in ENTRIES:
        finding = gallery.show(entry.name).get_suptitle().replace("\n", " ") or entry.question
        source = "data:image/png;base64," + base64.b64encode(gallery.png(entry.name)).decode()
        files = f"<small>Files: figures/{entry.name}.png, .pdf, .csv</small>"
        parts += [
            f'<figure id="{entry.name}"><h3>{escape(entry.question)}</h3>',
            f'<img alt="{escape(finding)}" src="{source}">',
            f"<figcaption>{escape(entry.reading)} {files}</figcaption></figure>",
        ]
    return "\n".join(parts)


def _tables(tables: dict[str, pd.DataFrame]) -> str:
    parts = []
    for name, caption in TABLES.items():
        if name not in tables:
            continue  # MMBench was not asked
        opened = " open" if name == "single_shot" else ""
        parts.append(
            f"<details{opened}><summary>{escape(caption)}</summary>{html_table(tables[name])}"
            f"<p><small>File: tables/{escape(name)}.csv</small></p></details>"
        )
    return "".join(parts)


def html_table(table: pd.DataFrame) -> str:
    """A data frame as an HTML table: escaped, numbers to three digits, missing values as a dash."""
    if table.empty:
        return "<p><i>No lines: no complete run for this table yet.</i></p>"
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    head = "".join(
        f"<th{' class=n' if n else ''}>{escape(str(c)).replace('_', ' ')}</th>"
        for c, n in zip(table.columns, numeric, strict=True)
    )
    rows = "".join(
        "<tr>" + "".join(_cell(v) for v in line) + "</tr>" for line in table.itertuples(index=False)
    )
    content = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="scroll"><table>{content}</table></div>'


def _cell(value: object) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return '<td class="n">–</td>'
    if isinstance(value, float):  # numpy's float64 is one too; percentages need fewer digits
        return f'<td class="n">{value:.{3 if abs(value) <= 1.5 else 1}f}</td>'
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f'<td class="n">{value}</td>'
    return f"<td>{escape(str(value))}</td>"


ONE_SEED = """One seed: the intervals speak about other people, not about other training runs.
Run more seeds before believing a small difference."""
SEEDS = """Several seeds: intervals resample seeds and people; with fewer than about five seeds they
still understate how much training runs differ."""
LIMITS = """Accuracies use wordings that were trained on and renderings that never were; held-out
wordings have their own table.

An unusable answer counts as wrong. The option likelihood is a diagnostic that tells forgetting
from breaking, not a score.

Low accuracy on the forget set is no proof of deletion: whether knowledge can be brought back is not
measured here.

What a model of this size and data show need not hold for the paper's 13B model; the verdicts say
"here" for that reason."""


def _limits(study: Study) -> str:
    scenarios = {run.parameter("scenario") for run in study.of("single_shot")}
    measured = ", ".join(name for scenario, name in SCENARIOS.items() if scenario in scenarios)
    one = len({run.parameter("seed") for run in study.runs}) == 1
    items = [ONE_SEED if one else SEEDS, f"Scenarios measured: {measured or 'none'}."]
    items += LIMITS.split("\n\n")
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"


def _runs(study: Study) -> str:
    table = pd.DataFrame(
        [
            {
                "run": run.name,
                "made by": run.manifest["notebook"],
                "finished": run.manifest["finished"],
                "seconds": float(run.manifest["seconds"]),
                "peak MiB": float(run.manifest["peak_memory_mib"]),
                "device": run.manifest["device"],
                "commit": (run.manifest.get("git_commit") or "none")[:8],
                "library": run.manifest["library_hash"][:8],
                "fingerprint": run.manifest["fingerprint"][:8],
            }
            for run in study.runs
        ]
    )
    commands = "\n".join(command(run) for run in study.runs)
    manifests = [run.manifest for run in study.runs]
    versions = {f"{k} {v}" for m in manifests for k, v in m["versions"].items() if v}
    note = ""
    if len({m["library_hash"] for m in manifests}) > 1:
        note = "<p>The runs were made by more than one state of the library (column library).</p>"
    lines = [
        html_table(table),
        note,
        f"<p>Versions: {escape(', '.join(sorted(versions)))}</p>",
        "<details><summary>Commands that make these runs one by one</summary>",
        f"<pre>{escape(commands)}</pre></details>",
    ]
    return "\n".join(lines)


def command(run) -> str:
    """The command line that makes a run."""
    given = " ".join(f"-p {k} {v}" for k, v in run.manifest["parameters"].items() if v != "")
    return f"python -m pulse_lib notebook {run.manifest['notebook']} {given}"


def _settings(study: Study) -> str:
    text = "The resolved profile; runs made with other settings are not part of this report."
    table = html_table(settings_table(study.profile))
    return f"<p>{text}</p><details><summary>All settings</summary>{table}</details>"

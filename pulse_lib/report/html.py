"""report.html: one file that needs nothing else, neither network nor neighbours. Its words and
structure are report.html.j2, its looks report.css; here is what they show."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from pulse_lib import __version__
from pulse_lib.errors import PulseError
from pulse_lib.machine import garbage_at_the_end
from pulse_lib.profile import DRAWN
from pulse_lib.report import explorer
from pulse_lib.report.answer import answer
from pulse_lib.report.collect import Run, Study, records
from pulse_lib.report.faces import face_files
from pulse_lib.report.figures.gallery import ENTRIES, Gallery
from pulse_lib.report.figures.style import Picture, painted
from pulse_lib.report.findings import ledger
from pulse_lib.report.findings.shown import short
from pulse_lib.report.seeds import ENOUGH
from pulse_lib.report.tables.settings import all_settings
from pulse_lib.report.words import SCENARIOS, label, readable, series_label
from pulse_lib.runs.place import EXECUTED

SECTIONS = {
    "people": "Faces and answers",
    "findings": "The paper's findings, here",
    "figures": "Figures",
    "tables": "Tables",
    "limits": "What this does and does not show",
    "runs": "Runs and provenance",
    "settings": "Settings",
}
# Of each verdict: its badge (a class of the CSS), and what its tile says
VERDICTS: dict[ledger.Verdict, tuple[str, str]] = {
    "holds": ("yes", "hold"),
    "holds for some": ("some", "hold for some methods"),
    "cannot tell": ("open", "cannot be told"),
    "fails": ("no", "fail"),
    "not measured here": ("open", "not measured"),
}
TABLES = {
    "single_shot": "Single-shot runs: accuracies of every run and state (0-1)",
    "matched": "Methods at matched forgetting: percent kept, with 95 % intervals",
    "power": (
        "How many seeds to run: the smallest difference of two methods that so many seeds show, four"
        " times in five (points of percent kept at matched forgetting)"
    ),
    "sequential": "Sequential runs: accuracies after every request (0-1)",
    "one_shot_against_sequential": "The same people in one request and in several",
    "projector": (
        "Projector or not: accuracies at the last step, with 95 % intervals and the paper's values"
    ),
    "wordings": "Trained and held-out wordings: accuracies (0-1)",
    "general_by_category": "General questions by category: accuracies (0-1)",
    "distance": (
        "How far from the oracle, a model that never met the forget people; distance: mean of forget_ks,"
        " retain_js and general_js"
    ),
    "strangers": (
        "Known better than a stranger? Questions whose right option is the likeliest one (0-1), about"
        " forget people and about people whom no model has met"
    ),
    "likeness": (
        "Who is hit besides: percent kept on retain people near to forget people and far from them"
    ),
    "selective": (
        "Some facts were to go: percent kept of them, of the other facts of the same people, and of other"
        " people"
    ),
    "continual": (
        "Requests in a row: accuracy on a request's people right after it and at the end, what came back,"
        " what went before its turn (0-1), and the share of the rest that one request leaves"
    ),
    "mmbench": "MMBench: one pass, all passes, circular; with and without celebrities",
    "modality_gap": "The same facts beside the photo and in text: shares 0-1, and text minus photo",
    "yes_no": "Yes or no (POPE, MME): shares 0-1; MME's sums with and without celebrities",
    "benchmarks": (
        "Benchmarks asked beside the general questions: shares 0-1 with 95 % intervals, and the change"
        " since before unlearning; MME's sums"
    ),
}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("pulse_lib.report", ""),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)


@garbage_at_the_end()
def report(
    study: Study,
    gallery: Gallery,
    *,
    tables: Mapping[str, pd.DataFrame],
    findings: list[ledger.Finding],
) -> str:
    """The whole page. Figures are drawn if they were not yet."""
    manifests = [run.manifest for run in study.runs]
    measured = {run.parameter("scenario") for run in study.of("single_shot")}
    return _TEMPLATES.get_template("report.html.j2").render(
        version=__version__,
        sections=SECTIONS,
        profile=study.profile,
        answer=answer(tables["single_shot"], tables["sequential"], level=study.matched_at),
        facts=" ".join(_facts(study)),
        incomplete=study.incomplete.to_dict("records"),
        tallies=_tallies(findings),
        findings=[_finding(f) for f in findings],
        people=list(_people(study)),
        figures=_figures(gallery),
        tables=[
            {"name": name, "caption": caption, "table": html_table(readable(tables[name]))}
            for name, caption in TABLES.items()
            if name in tables  # MMBench was not asked
        ],
        n_seeds=len(_seeds(study)),
        power=_power(tables.get("power")),
        scenarios=[name for scenario, name in SCENARIOS.items() if scenario in measured],
        faces=face_files(study.out, study.profile),
        runs=html_table(pd.DataFrame([_run(run) for run in study.runs])),
        notebooks=[run.name for run in study.runs if (run.folder / EXECUTED).is_file()],
        several_libraries=len({m["library_hash"] for m in manifests}) > 1,
        versions=sorted({f"{k} {v}" for m in manifests for k, v in m["versions"].items() if v}),
        commands=[command(run) for run in study.runs],
        settings=_settings(study),
    )


@dataclass(frozen=True)
class Text:
    """What a cell says, and whether it is a number, which stands on the right."""

    text: str
    number: bool


@dataclass(frozen=True)
class Table:
    """A data frame as the template draws it."""

    heads: list[Text]
    rows: list[list[Text]]


def html_table(table: pd.DataFrame) -> Table:
    """A data frame for the template: numbers to three digits, missing values as a dash."""
    heads = [
        Text(str(name).replace("_", " "), pd.api.types.is_numeric_dtype(table[name]))
        for name in table
    ]
    return Table(heads, [[_cell(value) for value in line] for line in records(table)])


def _cell(value: object) -> Text:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return Text("–", number=True)
    if isinstance(value, float):  # numpy's float64 is one too; percentages need fewer digits
        return Text(f"{value:.{3 if abs(value) <= 1.5 else 1}f}", number=True)
    number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return Text(str(value), number=number)


def _seeds(study: Study) -> list[int]:
    return sorted({run.parameter("seed") for run in study.runs})


def _facts(study: Study) -> Iterator[str]:
    seeds = _seeds(study)
    methods = dict.fromkeys(label(run.parameter("method")) for run in study.of("single_shot"))
    yield f"Profile {study.profile.name}: {study.profile.description.rstrip('.')}."
    yield f"{len(study.of('single_shot'))} single-shot runs,"
    yield f"{len(study.of('sequential'))} sequential runs,"
    yield f"methods {', '.join(methods) or 'none yet'},"
    yield f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))},"
    yield f"{len(study.rows):,} answers."


def _tallies(findings: list[ledger.Finding]) -> Iterator[dict[str, Any]]:
    """How many findings have each verdict: the paper's, and apart from them the kit's variants."""
    names: dict[str, tuple[str, str]] = {
        **VERDICTS,
        ledger.NO_VERDICT: ("open", f"seen on fewer than {ENOUGH} seeds"),
    }
    table = ledger.tally(findings)
    for whose, counts in zip(table.index, table.to_dict("records"), strict=True):
        tiles = [
            {"badge": names[str(verdict)][0], "tile": names[str(verdict)][1], "count": count}
            for verdict, count in counts.items()
            if count  # a tile that says 0 only takes room
        ]
        yield {"whose": whose, "count": sum(counts.values()), "tiles": tiles}


def _power(table: pd.DataFrame | None) -> str:
    """What three and five seeds can show, in a sentence; "" where it is not known."""
    if table is None or table.empty:
        return ""
    shown = table[(table["measure"] == "general kept") & table["n_seeds"].isin([3, 5])]
    said = [f"{row.n_seeds} seeds show {row.verdict:.0f} points" for row in records(shown)]
    return f"Of general accuracy kept, {' and '.join(said)}"


def _finding(f: ledger.Finding) -> dict[str, Any]:
    numbers = []
    for row in records(f.numbers):
        value, low, high = ledger.numbers_text(row.value, row.low, row.high)
        line = {
            "method": series_label(row.method, row.trained_part),
            "quantity": row.quantity,
            "value": value,
            "95 % interval": f"{low} to {high}",
            "seeds": ledger.points_text(row.points),
            "rule": {"holds": "✓", "fails": "✗"}.get(row.says, f"cannot tell: {row.says}"),
        }
        numbers.append(line)
    names = ("claim", "paper", "source", "rule", "said", "sentence")
    said = {name: getattr(f, name) for name in names}
    badge = "open" if f.counted == ledger.NO_VERDICT else VERDICTS[f.verdict][0]
    more = {"badge": badge, "numbers": html_table(pd.DataFrame(numbers)), "here": short(f)}
    return said | more


# What is shown of single people, and how to read it
PEOPLE = {
    "person": (
        "What is left of one person?",
        "The person whose turn came last. In the middle, requests in turn; on the right, one request for"
        " all. p is the probability of the right option among the options.",
    ),
    "faces": (
        "Who was forgotten though nobody asked?",
        "People of the retain set, those first who lost most: right answers before → now, of all.",
    ),
    "question": (
        "What does the model say?",
        "One question about a person to be forgotten, in every state of every method.",
    ),
}


def _people(study: Study) -> Iterator[dict[str, str]]:
    """Pictures of single people; of drawn ones alone, since a report is handed on."""
    if study.profile.data.people.source not in DRAWN:
        return
    try:
        look = explorer.explorer(study)
    except PulseError:  # no unlearning run yet
        return
    for name, (question, reading) in PEOPLE.items():
        more = {"name": name, "question": question, "reading": reading}
        yield more | _picture(painted(explorer.STILLS[name](look)))


def _picture(picture: Picture) -> dict[str, str]:
    return {"finding": picture.said, "png": base64.b64encode(picture.png).decode()}


def _figures(gallery: Gallery) -> Iterator[dict[str, str]]:
    for entry in ENTRIES:
        about = {"name": entry.name, "question": entry.question, "reading": entry.reading}
        yield about | _picture(gallery.show(entry.name))


def _run(run: Run) -> dict[str, Any]:
    return {
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


def command(run: Run) -> str:
    """The command line that makes a run."""
    given = " ".join(f"-p {k} {v}" for k, v in run.manifest["parameters"].items() if v != "")
    return f"python -m pulse_lib notebook {run.manifest['notebook']} {given}"


def _settings(study: Study) -> Table:
    lines = []
    for key, value in all_settings(study.profile).items():
        section, _, setting = key.partition(".")
        lines.append({"section": section, "setting": setting, "value": value})
    return html_table(pd.DataFrame(lines))

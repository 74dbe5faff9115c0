"""What a person reads: that notebooks, README and docs say what the figures, tables and files show."""

from __future__ import annotations

import html
import io
import json
import re
import shlex
from functools import cache
from itertools import product
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import synthetic_study as made
import typer
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from PIL import Image

from pulse_lib import methods
from pulse_lib.assets import embedded_folder
from pulse_lib.commands import results
from pulse_lib.data import records
from pulse_lib.data.world import people as world
from pulse_lib.evaluate.extract import extract
from pulse_lib.files import REPOSITORY, read_json
from pulse_lib.pretrain.card import card_text, targets
from pulse_lib.profile import load_profile
from pulse_lib.report import collect, figures, widgets
from pulse_lib.report import html as page
from pulse_lib.report.answer import answer
from pulse_lib.report.figures.gallery import Gallery, find
from pulse_lib.report.findings import ledger
from pulse_lib.report.findings.claims import FINDINGS
from pulse_lib.report.findings.shown import LOOKS, verdicts
from pulse_lib.report.tables import tables
from pulse_lib.report.tables.display import whole
from pulse_lib.report.words import label, readable
from pulse_lib.runs.kinds import KINDS

README = (REPOSITORY / "README.md").read_text()
RESULTS, METHODS, DIFFERENCES = (
    (REPOSITORY / "docs" / f"{name}.md").read_text()
    for name in ("results", "methods", "differences")
)
SEEN = re.sub(r"<!--.*?-->", "", README)  # as a host shows it
REFERENCE = REPOSITORY / "outputs" / "reference" / "tiny"
DOCS = REPOSITORY / "docs"
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
TEXTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "out"
    return collect.collect(made.write_study(out, methods=("ga", "ga_retain")), made.PROFILE)


def cells(path: Path, kind: str) -> list[str]:
    return [c.source for c in nbformat.read(path, 4).cells if c.cell_type == kind]


def code_with(number: str, text: str) -> str:
    (path,) = (p for p in NOTEBOOKS if p.stem.startswith(f"{number}_"))
    (cell,) = (c for c in cells(path, "code") if text in c)
    return cell


def words_of(figure) -> list[str]:
    every = figure.findobj(lambda a: hasattr(a, "get_text"))
    return [t.get_text().replace("\N{NO-BREAK SPACE}", " ") for t in every]


# --- curves ---------------------------------------------------------------------------------------


def log_of(method: methods.Method, n: int = 100) -> pd.DataFrame:
    """A log as the training loop writes it."""
    step = np.arange(1, n + 1)
    log = pd.DataFrame({"step": step, "forget_loss": 3 - step / 50, "learning_rate": 0.01})
    log["retain_loss"] = step / 200 if method.retain_loss else np.nan
    log["loss"] = method.forget_weight * log["forget_loss"]
    log["loss"] += method.retain_weight * log["retain_loss"].fillna(0)
    return log


def test_fine_tuning_has_no_forget_term():
    said = words_of(figures.training_curve(log_of(methods.FINETUNE), methods.FINETUNE))
    assert not [text for text in said if "forget" in text] and "loss (nats per token)" in said


def test_two_terms_are_named_and_so_is_one_under_a_penalty():
    graddiff = methods.get("ga_retain")
    said = words_of(figures.training_curve(log_of(graddiff), graddiff))
    assert {"loss", "forget term", "retain term"} <= set(said)
    ga = methods.get("ga")
    penalised = log_of(ga).assign(loss=lambda log: log["loss"] + 0.1)
    assert {"loss", "forget term"} <= set(words_of(figures.training_curve(penalised, ga)))


@pytest.mark.parametrize(
    "method",
    [m for m in (methods.METHODS | methods.VARIANTS).values() if m.id not in methods.PLACEBOS],
)
def test_a_curves_unit_is_that_of_the_loss(method):
    """By what the loss is given: sequences' log-probabilities are not means over tokens, nor are
    distances of hidden states."""
    (axis,) = (
        t
        for t in words_of(figures.training_curve(log_of(method), method))
        if t.startswith("loss (")
    )
    forget = re.sub(r"\s*retain: .*", "", axis)
    assert ("nats per answer" in forget) == (method.forget_loss == "npo")
    assert ("pair of answers" in forget) == (method.forget_loss == "dpo")
    assert ("hidden states" in forget) == (method.forget_loss == "rmu")
    assert ("no unit" in forget) == method.forget_loss.startswith("muse")
    if method.retain_loss == "nll":
        assert re.search(r"nats per token\)$", axis)


def test_without_a_method_a_curve_claims_no_unit():
    said = words_of(figures.training_curve(log_of(methods.get("npo"))))
    assert "loss" in said and not [text for text in said if "nats" in text]


def test_a_curves_title_says_what_it_averages():
    log = log_of(methods.FINETUNE)
    title = figures.training_curve(log).get_suptitle().replace("\n", " ")
    first, last = log["loss"].iloc[:5].mean(), log["loss"].iloc[-5:].mean()
    assert f"{first:.2f} → {last:.2f} in 100 steps (means of the first and last 5)" in title
    assert "means" not in figures.training_curve(log[:10]).get_suptitle()


def test_notebooks_hand_a_curve_its_method():
    calls = [c for p in NOTEBOOKS for c in cells(p, "code") if "training_curve(" in c]
    assert len(calls) == 3
    assert all(re.search(r"training_curve\([\w.\[\]-]+, [\w.]+\)", call) for call in calls)


def test_titles_say_what_their_ranges_go_over(study):
    gallery = Gallery(study)
    for name in ("figure4_last_step", "path_general", "projector", "figure5", "relapse"):
        title = gallery.show(name).said
        several = len(
            gallery.table(find(name).table).query("method != 'before'")["method"].unique()
        )
        assert ("from method to method" in title) == (several > 1 and name != "projector"), name
    three = gallery.table("requests").assign(n_seeds=3)
    assert "means of 3 seeds" in figures.requests(three).get_suptitle().replace("\n", " ")


# --- cards ----------------------------------------------------------------------------------------


def test_no_ticks_and_no_grid_on_a_card_that_a_person_sees(study, monkeypatch):
    monkeypatch.setenv("PULSE_BATCH", "0")
    seen = []
    monkeypatch.setattr(widgets, "png", lambda figure: seen.append(figure) or b"")
    box = widgets.answer_browser(study)
    box.children[2].children[2].value = 2
    assert len(seen) >= 2
    for figure in seen:
        assert len(figure.axes) in (1, 2) and not any(ax.axison for ax in figure.axes)


def test_a_face_on_a_card_is_the_picture_and_nothing_else(study, monkeypatch):
    """The widget's own PNG: inside the face's frame there are only the picture's colours."""
    monkeypatch.setenv("PULSE_BATCH", "0")
    kept = {}
    card = widgets.answer_card

    def keep(line, questions, *, images):
        kept.update(line=line, figure=card(line, questions, images=images))
        kept["image"] = np.asarray(images[questions[line["question_id"]].image])
        return kept["figure"]

    monkeypatch.setattr(widgets, "answer_card", keep)
    monkeypatch.setattr(
        widgets,
        "chosen",
        lambda table, *args, **filters: table[table["modality"] == "multimodal"].head(1),
    )
    picture = widgets.answer_browser(study).children[-1]
    shown = np.asarray(Image.open(io.BytesIO(picture.value)).convert("RGB"))
    assert shown.shape[1] == 2 * int(picture.width)
    low, high = 2 * kept["figure"].axes[0].get_window_extent().get_points()
    height = len(shown)
    inside = shown[
        int(height - high[1]) + 3 : int(height - low[1]) - 2, int(low[0]) + 3 : int(high[0]) - 2
    ]
    there = {tuple(colour) for colour in kept["image"].reshape(-1, 3)}
    drawn = {tuple(colour) for colour in inside.reshape(-1, 3)}
    assert len(inside) > 100 and drawn <= there


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", list(methods.METHODS))
def test_the_line_that_defines_a_method_is_not_cut(method):
    """Notebook 03's own cell, for every method, as its HTML shows it."""
    cell, settings = code_with("03", "chosen.describe()"), load_profile("tiny")
    body, _, last = cell.rpartition("\nwhole(")
    given = {"settings": settings, "scenario": "finetuned", "method": method}
    given |= {"methods": methods, "pd": pd, "whole": whole}
    exec(body, given)
    text = html.unescape(eval(f"whole({last}", given)._repr_html_())
    for name in ("loss", "source"):
        value = getattr(methods.METHODS[method], name)
        assert re.search(rf"<th>{name}</th>\s*<td[^>]*>{re.escape(value)}</td>", text), value


def test_no_table_of_a_notebook_is_cut(study):
    """Where 05 shows a table, it is shown to its last word, line and column."""
    last = next(path for path in NOTEBOOKS if path.stem == "05_analyze")
    code = "\n".join(cells(last, "code"))
    ends = [c.rstrip().splitlines()[-1] for c in cells(last, "code")]
    assert not [line for line in ends if re.match(r"(every_table\[|single_shot|found\.)", line)]
    assert code.count("whole(") >= 6
    long = pd.DataFrame({f"column {i}": ["word " * 30] * 80 for i in range(30)})
    text = whole(long)._repr_html_()
    assert "..." not in text and text.count("word " * 29 + "word") == 80 * 30
    assert repr(whole(long)).count("word") == 80 * 30 * 30


def test_words_of_a_table_stand_on_the_left_and_numbers_on_the_right():
    """Whatever stands in them, column by column."""
    table = pd.DataFrame({"n": [1, 2], "words": ["<td>", "a"], "share": [0.5, 1.0]})
    text = whole(table)._repr_html_()
    cells_there = re.findall(r"<td([^>]*)>([^<]*)</td>", text)
    assert [value for _, value in cells_there] == ["1", "&lt;td&gt;", "0.5", "2", "a", "1.0"]
    assert ["left" in style for style, _ in cells_there] == [False, True, False] * 2
    assert "overflow-x:auto" in text


def test_findings_are_shown_in_four_colours_with_their_words(study):
    """The verdict is a sign and a word too, for who sees no colour; nothing of the data is HTML."""
    findings = ledger.ledger(study)
    text = verdicts(findings)._repr_html_()
    looks = {verdict: LOOKS[verdict] for verdict in {f.verdict for f in findings}}
    assert len(looks) >= 3 and len(set(LOOKS.values())) == 5
    for verdict, (colour, sign) in looks.items():
        n = sum(f.verdict == verdict for f in findings)
        assert text.count(f">{sign} {verdict}</span>") == n and colour in text
    for f in findings:
        assert html.escape(f.claim) in text and html.escape(f.paper) in text
    some = verdicts(findings, "pretrained-harder")
    assert some._repr_html_().count("<tr>") == 1 + 2 and "points" in repr(some)
    assert "text-align:left" in text and "<script" not in text


def test_each_colour_of_a_verdict_is_read_in_white():
    """Contrast of at least 4.5 (WCAG AA)."""
    for colour, _ in LOOKS.values():
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        light = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        dark = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2]
        assert 1.05 / (dark + 0.05) >= 4.5, colour


def test_the_report_answers_its_title(study):
    """Forget accuracies, and what is left, against the tables' own lines by hand."""
    single, sequence = (tables.all_tables(study)[name] for name in ("single_shot", "sequential"))
    said = answer(single, sequence, level=study.matched_at)
    kept = []
    for line in single[single["selection"] == "final"].to_dict("records"):
        before = single.query(
            f"method == 'before' and scenario == '{line['scenario']}' and seed == {line['seed']}"
        )
        assert len(before) == 1
        kept.append(100 * line["general"] / before["general"].item())
    assert f"is left, of general ability {min(kept):.0f} to {max(kept):.0f} %" in said
    forget = single[single["selection"] == "final"][["forget_multimodal", "forget_text"]].mean(
        axis=1
    )
    assert f"{forget.min():.2f} to {forget.max():.2f} of the forget questions" in said
    assert "after 5 requests in turn" in said and said.startswith("Every run forgets")
    n = int((forget <= forget.median()).sum())
    some = answer(single, sequence, level=forget.median())
    assert some.startswith(f"{n} of {len(forget)} runs forget")
    assert answer(single, sequence, level=-1).startswith("No run forgets")
    assert answer(single.iloc[:0], sequence.iloc[:0], level=0.35) == ""


def test_the_report_shows_drawn_people_and_no_others(study):
    """Real faces must not travel with a page that is handed on."""
    import dataclasses

    gallery = made.unpainted(study)
    every = tables.all_tables(study)
    text = page.report(study, gallery, tables=every, findings=ledger.ledger(study))
    assert text.count('<figure id="faces"') == text.count('<figure id="person"') == 1
    people = dataclasses.replace(
        study.profile.data.people, source="mllmu", path="MLLMMU/MLLMU-Bench"
    )
    profile = study.profile.with_values(data=study.profile.data.with_values(people=people))
    real = dataclasses.replace(study, profile=profile)
    text = page.report(real, gallery, tables=every, findings=[])
    assert '<figure id="faces"' not in text and "None are shown here" in text


def test_the_closed_line_of_a_finding_has_both_values(study):
    findings = ledger.ledger(study)
    gallery = made.unpainted(study)
    text = page.report(study, gallery, tables=tables.all_tables(study), findings=findings)
    lines = re.findall(r"<summary><span class=\"badge\">.*?</summary>", text, flags=re.DOTALL)
    assert len(lines) == len(findings)
    for finding, line in zip(findings, lines, strict=True):
        assert html.escape(finding.paper, quote=False) in html.unescape(line)
        values = [
            ledger.numbers_text(r.value, r.low, r.high)[0] for r in finding.numbers.itertuples()
        ]
        assert all(value in line for value in values)


def test_the_page_can_be_read_without_eyes_and_without_a_mouse(study):
    gallery = made.unpainted(study)
    text = page.report(
        study, gallery, tables=tables.all_tables(study), findings=ledger.ledger(study)
    )
    assert re.search(r'<body>\s*<a class="skip" href="#main">', text) and 'id="main"' in text
    assert "<th>" not in text and '<th scope="col"' in text
    for region in re.findall(r"<(?:div|pre)[^>]*(?:scroll|picture|<pre)[^>]*>", text):
        assert 'tabindex="0"' in region and re.search(r'aria-label="[^"]+"', region)
    pictures = len(re.findall(r"<img ", text))
    assert pictures == len(page.ENTRIES) + len(page.PEOPLE)
    assert len(re.findall(r'<img alt="[^"]{20,}"', text)) == pictures
    # each can be enlarged: a labelled tick beside it
    assert (
        len(
            re.findall(
                r'<input class="enlarge" type="checkbox" id="large-(\w+)"><label for="large-\1">',
                text,
            )
        )
        == pictures
    )


def test_a_method_has_one_name_for_a_reader(study):
    """In tables as in figures; the files keep the ids."""
    every = tables.all_tables(study)
    assert "ga_retain" in set(every["single_shot"]["method"])
    shown = whole(every["single_shot"])._repr_html_()
    assert "GradDiff" in shown and "ga_retain" not in shown
    assert "fine-tuned knowledge" in shown and "last step" in shown
    gallery = made.unpainted(study)
    text = page.report(study, gallery, tables=every, findings=ledger.ledger(study))
    body = text[text.index('<section id="tables">') : text.index('<section id="limits">')]
    assert "GradDiff" in body and "ga_retain" not in body
    some = readable(pd.DataFrame({"method": ["before", None]}))["method"]
    assert some[0] == "before" and some.isna()[1]


def test_readme_calls_no_method_by_its_id():
    """In tables and in sentences; commands need the ids."""
    prose = re.sub(r"```.*?```", "", README + RESULTS, flags=re.DOTALL)
    tables_there = "\n".join(line for line in prose.splitlines() if line.startswith("|"))
    for method in methods.METHODS:
        if label(method) != method:
            assert not re.search(rf"(?<![\w/]){method}(?![\w/])", tables_there), method


# --- verdicts and figures -------------------------------------------------------------------------


def test_a_figure_shows_the_state_that_the_verdict_above_it_speaks_of(study):
    gallery, seen = Gallery(study), []
    last = next(path for path in NOTEBOOKS if path.stem == "05_analyze")
    for cell in cells(last, "code"):
        prefixes = tuple(
            re.findall(r'"([\w-]+)"', "".join(re.findall(r"verdicts\((.*?)\)\)", cell)))
        )
        drawn = re.findall(r'gallery\.show\("(\w+)"\)', cell)
        if not prefixes or not drawn:
            continue
        spoken = {c.id.rpartition("-")[2] for c in FINDINGS if c.id.startswith(prefixes)}
        spoken &= {"final", "matched"}
        shown = set()
        for name in drawn:
            table = find(name).select(gallery.table(find(name).table))
            shown |= set(table.get("selection", pd.Series(dtype=object)).dropna()) - {"before", ""}
            shown |= {"matched"} if name == "matched" else set()
        assert spoken <= shown or not shown, (cell, spoken, shown)
        seen += spoken
    assert {"final", "matched"} <= set(seen)


def test_the_projector_figures_name_their_state(study):
    gallery = Gallery(study)
    assert "(last step)" in gallery.show("projector").said
    assert "(matched forgetting)" in gallery.show("projector_matched").said
    matched = gallery.table("projector_matched")
    single = tables.single_shot(study).query("method == 'ga' and selection == 'matched'")
    for row in single.query("scenario == 'finetuned'").to_dict("records"):
        here = matched.query(f"trained_part == '{row['trained_part']}'").set_index("measure")
        assert here["value"]["forget_text"] == pytest.approx(row["forget_text"])
    # the paper's numbers are end points
    assert matched["paper"].isna().all() and gallery.table("projector")["paper"].notna().any()


# --- minutes --------------------------------------------------------------------------------------

RUNS_OF = {
    "01": "data/",
    "02": "target/",
    "03": "single_shot/",
    "04": "sequential/",
    "05": "analysis",
    "06": "probe/",
}


@pytest.mark.parametrize("number", RUNS_OF)
def test_minutes_are_those_of_the_reference_run(number):
    """Counted here once more, from the times of the runs."""
    times = pd.read_csv(REFERENCE / "times.csv")
    own = times[times["run"].str.startswith(RUNS_OF[number])]["seconds"] / 60
    low, high = f"{own.min():.1f}", f"{own.max():.1f}"
    minutes = low if low == high else f"{low} to {high}"
    (path,) = (p for p in NOTEBOOKS if p.stem.startswith(f"{number}_"))
    top = cells(path, "markdown")[0]
    line = next(line for line in top.splitlines() if "profile `tiny`" in line)
    said = [cell.strip() for cell in line.strip("|").split("|")][2]
    assert said.startswith(f"{minutes} on two cores")
    row = next(line for line in SEEN.splitlines() if line.startswith(f"| [{number} · "))
    assert row.strip("| ").split("|")[-1].strip() == minutes


def span(times: pd.DataFrame) -> float:
    ends = pd.to_datetime(times["finished"])
    return (ends.max() - (ends - pd.to_timedelta(times["seconds"], unit="s")).min()).seconds / 60


def test_readme_says_how_long_and_how_large():
    times = pd.read_csv(REFERENCE / "times.csv")
    assert f"the demo took {span(times):.0f} minutes" in SEEN
    assert f"{times['peak_memory_mib'].max() / 1024:.1f} GB of memory" in SEEN
    kinds = times["run"].str.partition("/")[0].value_counts()
    said = (
        f"{kinds['single_shot']} single-shot and\n              # {kinds['sequential']} sequential"
    )
    assert said in README


# --- what another processor gives -----------------------------------------------------------------


def test_what_wider_vectors_give_is_as_told():
    """Of the demo, where sums are only made in another order."""
    wider, here = (results.results(str(f)) for f in (REFERENCE / "wider_vectors", REFERENCE))
    compared = results.compare(wider, here)
    numbers, verdicts = compared.numbers, compared.verdicts
    outside = f"{numbers['outside'].sum()} of the {len(numbers)} numbers behind them lie outside"
    same = f"{verdicts['same'].sum()} of {len(verdicts)} verdicts are the same"
    assert f"{same} and {outside}" in RESULTS
    for text in ((REFERENCE / "README.md").read_text(), README):
        assert same in " ".join(text.split())
    by_seed = f"of one seed it was {numbers['outside'].sum()} of {len(numbers)}"
    assert by_seed in RESULTS
    (was,) = wider["about"].to_dict("records")
    assert was["processor"] == "AMD EPYC, AVX512" and str(was["seeds"]) == "0"


def test_what_runs_gave_again_on_another_processor_is_as_told():
    runs = pd.read_csv(REFERENCE / "made_again.csv")
    assert (runs["answers"] == runs["judged_alike"]).all()
    told = f"of {len(runs)} runs of the study"
    answers, kept, same = runs[["answers", "likelihoods", "same_likelihoods"]].sum()
    for part in (told, f"all {answers:,} answers are judged alike", f"{same:,} of {kept:,} like"):
        assert part in RESULTS
    assert f"what {len(runs)} runs of `three_seeds`" in (REFERENCE / "README.md").read_text()


def test_what_the_same_five_seeds_gave_with_wider_vectors_is_as_told():
    folder = REFERENCE.parent / "tiny-equal"
    wider, here = (results.results(str(f)) for f in (folder / "wider_vectors", folder))
    compared = results.compare(wider, here)
    numbers = compared.numbers
    told = f"{numbers['outside'].sum()} of the {len(numbers)} numbers behind the verdicts lies outside the other's interval"
    assert told in RESULTS
    ends = [
        100
        * of["single_shot"]
        .query(
            "scenario == 'finetuned' and method == 'ga' and selection == 'final'"
            " and trained_part == 'projector+llm'"
        )["general"]
        .mean()
        for of in (wider, here)
    ]
    assert "GA then keeps {:.0f} instead of {:.0f} % of general".format(*ends) in RESULTS
    verdicts = compared.verdicts[["verdict_a", "verdict_b"]].map(lambda v: v.partition(" (")[0])
    moved = verdicts[verdicts["verdict_a"] != verdicts["verdict_b"]].values.tolist()
    assert moved == [["holds for 1 of 3 methods", "cannot tell"]]


def test_the_study_with_wider_vectors_went_on_from_the_target_of_the_demo_with_them():
    """So its difference is theirs, though its table was made before a manifest said by which."""
    targets = [
        results.results(str(folder / "wider_vectors"))["single_shot"].query(
            "scenario == 'finetuned' and method == 'before' and seed == 0"
        )
        for folder in (REFERENCE, REFERENCE.parent / "tiny-equal")
    ]
    (ours,), (theirs,) = (t.select_dtypes("number").to_numpy().tolist() for t in targets)
    assert ours == theirs


# --- widths ---------------------------------------------------------------------------------------

PAGE = 830  # pixels, of README's column on its host
_FONT = FontProperties(family="DejaVu Sans", size=16)  # wider than the fonts that hosts use


@cache
def width(word: str, weight: str = "normal") -> float:
    """Of a word in pixels, at 16 px."""
    font = _FONT.copy()
    font.set_weight(weight)
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", word).translate(str.maketrans("", "", "`*\\"))
    return TextPath((0, 0), plain, prop=font).get_extents().width if plain else 0.0


def narrowest(table: list[str]) -> float:
    """The least width of a table: the longest word of each column, its padding and border."""
    lines = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in table]
    head, body = lines[0], lines[2:]
    total = 1.0
    for i in range(len(head)):
        words = [(w, "bold") for w in head[i].split()]
        words += [
            (w, "normal")
            for line in body
            for w in re.sub(r" / ", "\N{NO-BREAK SPACE}/\N{NO-BREAK SPACE}", line[i]).split()
        ]
        # the cells of the accuracies do not break at their slash
        total += max((width(w, kind) for w, kind in words), default=0) + 27
    return total


@pytest.mark.parametrize("path", TEXTS, ids=lambda p: p.stem)
def test_no_table_and_no_command_is_wider_than_the_page(path):
    text = re.sub(r"<!--.*?-->", "", path.read_text())
    for table in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert narrowest(table.splitlines()) <= PAGE, table.splitlines()[0]
    if path.name == "README.md":  # code scrolls, but what scrolls is not seen
        for block in re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL):
            assert all(len(line) <= 98 for line in block.splitlines()), block


# --- commands -------------------------------------------------------------------------------------


def commands_in(text: str) -> list[list[str]]:
    text = text.replace("\\\n", " ")
    found = re.findall(r"python -m pulse_lib ((?:[^`#\n(;)]|\\\n)+)", text)
    return [shlex.split(line) for line in found if line.strip()]


def every_command() -> list[tuple[str, list[str]]]:
    places = [*TEXTS, REFERENCE / "README.md", *NOTEBOOKS]
    texts = {
        str(p): "\n".join(cells(p, "markdown")) if p.suffix == ".ipynb" else p.read_text()
        for p in places
    }
    return [(name, words) for name, text in texts.items() for words in commands_in(text)]


def test_commands_that_a_page_names_are_there():
    from pulse_lib.__main__ import app

    top = typer.main.get_command(app)
    seen = set()
    for name, words in every_command():
        assert words[0] in top.commands, (name, words)
        command = top.commands[words[0]]
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        given = {w for w in words[1:] if re.match(r"--?[a-z]", w)}
        extra = {"-p"} if words[0] == "notebook" else set()
        assert given <= options | extra, (name, words)
        seen.add(words[0])
    assert {"run", "notebook", "search", "measure", "export", "status"} <= seen


MADE = {row.notebook for row in KINDS.values()}  # a guide reads nothing that another makes


@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.stem in MADE], ids=lambda p: p.stem)
def test_a_notebook_makes_what_it_reads_before_it_begins(path):
    """By the very kind of run that it is: else it would make another one's inputs."""
    (kind,) = (kind for kind, row in KINDS.items() if row.notebook == path.stem)
    (begun,) = (c for c in cells(path, "code") if "runs.start(" in c)
    assert begun.index(f'ensure_inputs("{kind}", globals())') < begun.index("runs.start(")
    text = next(t for t in cells(path, "markdown") if t.startswith("## Setup"))
    assert ("is made below" in text) != path.stem.startswith("01")


# --- sources --------------------------------------------------------------------------------------


def test_simnpos_gamma_is_beta_times_that_of_the_authors_code():
    torch = pytest.importorskip("torch")
    from pulse_lib.train.losses import simnpo

    m, beta, delta = torch.tensor([-0.3, -2.0], dtype=torch.float64), 4.5, 0.4
    theirs = -(2 / beta) * torch.nn.functional.logsigmoid(beta * (-m - delta)).mean()
    assert torch.isclose(simnpo(m, beta, beta * delta), theirs)


def test_the_table_says_whose_numbers_it_has():
    satimp = methods.METHODS["satimp"]
    assert satimp.coefficients == {"beta1": 5.0, "beta2": 1.0} and satimp.retain_weight == 0.1
    assert "README: beta2 = 0.1" in satimp.source and "beta2 = 0.1" in DIFFERENCES
    assert "beta1 = 5, beta2 = 1 and weight 0.1" in DIFFERENCES
    assert (
        methods.METHODS["simnpo"].coefficients["gamma"] == 0.0
        and "(0 here by default)" in DIFFERENCES
    )


def test_lmms_evals_static_mode_is_not_here():
    """It would take a capital letter anywhere in an answer for the option."""
    said = (REPOSITORY / "docs" / "measure.md").read_text()
    options = {"A": "Rome", "B": "Paris", "C": "Oslo"}
    assert extract("Cannot tell", options, "lmms_eval") is None and "static mode" in said


def test_a_run_of_underscores_is_one_gap():
    said = (REPOSITORY / "docs" / "measure.md").read_text()
    assert re.sub("_{2,}", "[Blank]", "born in ____.") == "born in [Blank]."
    assert "A gap is a run of two or more underscores" in said


def test_numbers_of_the_world_are_those_of_the_docs():
    said = (REPOSITORY / "docs" / "embedded_model.md").read_text()
    celebrities, everybody = world.celebrities(), [*world.celebrities(), *world.fictitious()]
    assert f"the {len(everybody)} people" in said
    assert f"{len(celebrities)} celebrities" in README
    assert f"of {len(world.FIRST_NAMES)} first and {len(world.LAST_NAMES)} last names" in said
    assert {len(values) for values in world.ATTRIBUTES.values()} == {
        20
    } and "twenty possible" in said
    assert len(world.ATTRIBUTES) == 5 and "five facts" in said
    assert len(methods.METHODS) == 19 and "Nineteen single-shot\nmethods" in METHODS
    assert "three methods and sixteen others" in README


def test_what_the_embedded_model_made_again_reached_is_as_told():
    again = REFERENCE.parent / "pretrained_again" / "card.json"
    cards = [read_json(card) for card in (again, embedded_folder() / "card.json")]
    missed, none = ([t for t in targets(card) if not t[-1]] for card in cards)
    assert [name for name, *_ in missed] == ["held-out wordings, all, text"] and none == []
    ours, shipped = (c["accuracy"]["people"]["held-out wordings, all"]["text"] for c in cards)
    told = (
        f"every aim but one, {ours:.2f} instead of {shipped:.2f} of the held-out wordings by name"
    )
    said = (REPOSITORY / "docs" / "embedded_model.md").read_text()
    assert f"{told}, where {missed[0][2].removeprefix('>= ')} is wanted" in " ".join(said.split())
    assert (again.parent / "MODEL_CARD.md").read_text() == card_text(cards[0])


THREE = REFERENCE / "three_seeds"
SELDOM = ("pretrained", "npo_retain")  # gets to matched forgetting on two of the seeds


def test_what_is_said_of_the_three_seeds_runs():
    times = pd.read_csv(THREE / "times.csv")
    runs = times[times["run"] != "analysis"]
    kinds = runs["run"].str.partition("/")[0].value_counts()
    counted = f"{kinds['single_shot']} single-shot, {kinds['sequential']} sequential"
    searches = ["2026-11-28T20:00Z", "2026-11-29T04:00Z", "2026-11-29T08:00Z"]  # anew, in parts
    began = pd.to_datetime(searches)
    go = began.searchsorted(pd.to_datetime(runs["finished"]))
    first, *later = (runs[go == n] for n in range(1 + len(searches)))
    said = " ".join((REFERENCE / "README.md").read_text().split())
    assert (
        f"Its {len(runs)} runs ({counted}) were made in one go of {span(first):.0f} minutes" in said
    )
    anew = ", ".join(f"{len(part)} in {span(part):.0f} minutes" for part in later)
    assert f"; anew {anew}, by numbers that later searches had found" in said


def test_what_is_said_of_the_ranking_is_in_it():
    ranking = pd.read_csv(THREE / "ranking.csv").query("trained_part == 'projector+llm'")
    ranking = ranking.set_index(["scenario", "method"])
    methods = ranking.drop("oracle", level="method")
    every, never = (methods["n_reached"].eq(n).groupby("scenario").sum().to_dict() for n in (3, 0))
    assert every == {"pretrained": 8, "finetuned": 11} and never == {
        "pretrained": 7,
        "finetuned": 6,
    }
    assert methods.groupby("scenario").size().eq(18).all()
    assert "Of 18 (without Oracle) 8 come down" in RESULTS and "and 11 after fine-tuned" in RESULTS
    assert "; 7 and 6 never\ndo" in RESULTS
    silent = methods.loc[methods["n_reached"] == 0, "kept_at_level_generation"]
    most = methods["kept_at_level_generation"].groupby("scenario").idxmax()
    assert silent.groupby("scenario").idxmax().to_dict() == most.to_dict()
    assert most.to_dict() == {s: (s, "satimp") for s in ("pretrained", "finetuned")}
    order = {s: list(t.index.get_level_values(1)) for s, t in methods.groupby("scenario")}
    assert order["pretrained"][:3] == ["wga", "kl_min", "ga_klr"]
    assert order["finetuned"][:3] == ["wga", "l1_lora", "ga_klr"]
    everywhere = methods[methods["n_reached"] == 3]
    assert 0.5 < everywhere["kept"].max() < 0.55 and "hardly more than half" in RESULTS
    seldom = methods.loc[("pretrained", "npo_retain")]
    assert seldom["n_reached"] == 2 and f"NPO+RT keeps {seldom['kept']:.2f} after" in RESULTS
    ranks = ranking[["rank_from", "rank_to"]].dropna().astype(int)
    for scenario in ("pretrained", "finetuned"):
        assert list(ranks.loc[(scenario, "oracle")]) == [1, 1]
        there = ranks.drop("oracle", level="method").loc[scenario]
        assert there["rank_from"].min() == 2
        assert (there["rank_from"] == 2).sum() > 1  # no best one can be named
    assert list(ranks.loc["pretrained", "ga_klr"]) == [2, 6]
    assert all(list(ranks.loc["pretrained", m]) == [5, 9] for m in ("ga", "npo"))
    assert "\nGA+KLR may have any of the ranks 2 to 6" in RESULTS and "GA and NPO 5 to 9" in RESULTS


def test_no_matched_state_is_told_from_a_stranger():
    near = pd.read_csv(THREE / "distance.csv").query("scenario == 'finetuned'")
    base = near[near["method"] == "base"].iloc[0]
    matched = near[near["selection"] == "matched"]
    assert len(matched) > 6 and (matched["forget_ks_low"] <= base["forget_ks_high"]).all()
    assert "told from those of a stranger" in RESULTS


def test_what_the_probes_guide_says_of_distances_is_in_the_table():
    near = pd.read_csv(THREE / "distance.csv").fillna({"selection": ""})
    near = near.set_index(["scenario", "method", "trained_part", "selection"]).sort_index()
    fine, before = near.loc["finetuned"], near.loc["pretrained"]
    methods = fine.drop(["oracle", "base", "before"], level="method")
    both = "projector+llm"
    least, near_by = fine.loc[("saliency", both, "final")], fine.loc[("kl_min", both, "matched")]
    base, was = (fine.xs(name, level="method").iloc[0] for name in ("base", "before"))
    assert methods["forget_ks"].idxmin() == ("saliency", both, "final")
    assert methods["distance"].idxmin() == ("kl_min", both, "matched")
    oracle, old = before.loc[("oracle", both, "final")], before.xs("before", level="method").iloc[0]
    paper = before.loc[["ga", "ga_klr", "npo"]]["distance"]
    assert paper.idxmin() == ("ga_klr", both, "final")
    assert set(near["n_seeds"].loc[["finetuned", "pretrained"]]) >= {3}
    said = (DOCS / "probes.md").read_text()
    said = said[said.index("**KS alone") : said.index("By membership")]
    numbers = re.findall(r"\b\d\.\d\d\b", said)
    js = methods["forget_js"]
    values = [
        *(line["forget_ks"] for line in (least, base)),
        *(least["distance"], near_by["distance"]),
        *(base["forget_js"], js.min(), js.max(), was["forget_js"]),
        *(oracle[c] for c in ("forget", "forget_likelihood")),
        0.25,  # chance
        *(oracle[c] for c in ("retain_kept", "general_kept")),
        *(paper.min(), old["distance"], before.loc[("ga", both, "final"), "distance"]),
    ]
    assert numbers == [f"{value:.2f}" for value in values]
    kept = [f"{100 * least[c]:.0f} %" for c in ("retain_kept", "general_kept")]
    assert f"keeps {kept[0]} of retain and {kept[1]} of general" in said


def probed() -> tuple[pd.DataFrame, list[str]]:
    """What single-shot runs know of the forget people by scenario and method, means over three seeds
    (over two of the one that gets there on no more), and the names of the kinds."""
    runs = pd.read_csv(THREE / "probes.csv").query("policy != policy")  # of no strategy
    kinds = [c for c in runs if c.startswith("knows: ") and runs[c].notna().all()]
    by = runs.groupby(["scenario", "method"])
    seeds = by["seed"].agg(list).map(sorted)
    assert seeds.pop(SELDOM) == [0, 1] and "over the two on which it gets there" in RESULTS
    assert (seeds == [[0, 1, 2]] * len(seeds)).all() and len(kinds) == 15
    return by[[*kinds, "kept: retain", "kept: general"]].mean(), kinds


def test_what_the_results_say_of_the_probes_is_in_their_table():
    found, kinds = probed()
    methods = found.drop(["before", "oracle"], level="method")
    assert len(methods) == 16 and len(methods.groupby("method")) == 8
    runs = pd.read_csv(THREE / "probes.csv").query("policy != policy")
    assert set(runs["holds"].groupby(runs["method"]).unique().loc["oracle"]) == {"forgot"}
    of_methods = runs[~runs["method"].isin(["before", "oracle"])]
    standing = of_methods.set_index(["scenario", "method"]).index == SELDOM
    assert set(of_methods.loc[standing, "holds"]) == {"hides"} and len(of_methods) == 47
    assert set(of_methods.loc[~standing, "holds"]) == {"broke, hides"}
    assert of_methods.loc[~standing, "kept: retain"].max() < 0.5
    ranking = pd.read_csv(THREE / "ranking.csv").query("n_reached > 1")
    ranking = ranking.sort_values("kept", ascending=False)
    others = ranking[~ranking["method"].isin(["oracle", "ga", "ga_klr", "npo"])]
    best = others.groupby("scenario").head(5).groupby("scenario")["method"].agg(set)
    for scenario in ("pretrained", "finetuned"):  # "the five others that keep most in both"
        assert set(methods.loc[scenario].index) == best[scenario] | {"ga", "ga_klr", "npo"}
    assert (
        "None has forgotten, on any seed. All but NPO+RT on pre-trained knowledge broke" in RESULTS
    )

    def most(*names):
        return methods[[f"knows: {name}" for name in names]].max(axis=1)

    otherwise = ("new wording", "option orders", "role play", "answer begun", "examples")
    relearned = [k.removeprefix("knows: ") for k in kinds if "taught" in k]
    texts, weights = most(*otherwise), most("in 16 bits", "in int8", "in nf4")
    asked = pd.concat([texts, weights])
    assert asked.idxmax() == SELDOM and "the most of NPO+RT on pre-trained" in RESULTS
    again = most(*relearned)
    inside = methods["knows: linear probe"]
    oracle = found.xs("oracle", level="method")[kinds].to_numpy().max()
    said = RESULTS[RESULTS.index("None has forgotten") :]
    numbers = re.findall(r"\b0\.\d\d\b", said[: said.index("Membership")])
    spans = [v for values in (asked, inside, again) for v in (values.min(), values.max())]
    assert numbers == [f"{value:.2f}" for value in (*spans, oracle)]
    paper = methods.loc["pretrained"].loc[["ga", "ga_klr", "npo"]]
    kept = paper[["kept: retain", "kept: general"]].mean(axis=1)
    held = paper["knows: linear probe"]
    assert max(kept[["ga", "npo"]]) < kept["ga_klr"] and min(held[["ga", "npo"]]) > held["ga_klr"]


def test_what_the_probes_guide_says_of_its_probes_is_in_their_tables():
    found, kinds = probed()
    page = (DOCS / "probes.md").read_text()
    part = page[page.index("fifteen probes are tried") : page.index("What eight methods hold")]
    values = [
        limit
        for scenario in ("pretrained", "finetuned")
        for limit in found.loc[(scenario, "oracle"), kinds].agg(["min", "max"])
    ]
    values += [found.loc[(s, "ga"), kinds].max() for s in ("pretrained", "finetuned")]
    assert re.findall(r"\d\.\d\d", part) == [f"{value:.2f}" for value in values]
    members = pd.read_csv(THREE / "membership.csv").query("policy != policy and score == 'loss'")
    auc = members.groupby(["scenario", "method"])["auc"].mean().loc["pretrained"]
    part = page[page.index("By membership") : page.index("shows by the *absence*")]
    shown = [auc[m] for m in ("before", "oracle", "ga", "ga_klr")]
    assert re.findall(r"\d\.\d\d", part) == [f"{value:.2f}" for value in shown]


def test_what_is_said_of_placebos_is_in_their_table():
    table = pd.read_csv(THREE / "placebo.csv").set_index(["scenario", "method"])
    left = table[[f"placebo_{name}_kept" for name in ("forget", "retain")]]
    own = table[[f"method_{name}_kept" for name in ("forget", "retain")]]
    part = (DOCS / "probes.md").read_text()
    part = part[part.index("Means of three seeds. With GA and NPO") : part.index("## Limits")]
    assert set(table["n_seeds"]) == {3} and len(table) == 16
    dead = pd.concat([left, own], axis=1).loc[(slice(None), ["ga", "npo"]), :].to_numpy()
    assert f"at most {100 * dead.max():.0f} % of what was known about people is left" in part
    fading = left.loc[(slice(None), ["wga", "npo_retain"]), :].to_numpy()
    shown = re.findall(r"\d\.\d\d", part)
    assert shown == [f"{limit:.2f}" for limit in (fading.min(), fading.max())]
    method = own.loc[(slice(None), ["wga", "npo_retain"]), :].to_numpy()
    assert ((fading - method) / (1 - method) > 0.5).all()  # most of what these two lose
    others = left.drop(["wga", "npo_retain"], level="method")
    assert others.to_numpy().max() < fading.min()


def test_what_is_said_of_more_requests_is_in_their_tables():
    found = pd.concat(
        pd.read_csv(folder / "continual.csv")
        for folder in (THREE, *(REFERENCE.parent / name for name in ("tiny-10", "tiny-25")))
    )
    found = found.set_index(["method", "policy", "n_requests"]).sort_index()
    plain = found.xs("adapter_per_request", level="policy")
    for method, n in (("ga", 10), *product(("ga_klr", "npo"), (10, 25))):
        assert plain.loc[(method, n), "at_end"] < 0.02
        assert plain.loc[(method, n), "retain_per_request"] ** n < 0.02
    after = pd.read_csv(REFERENCE.parent / "tiny-25" / "after_requests.csv").set_index("method")
    kept = after.query("policy == 'adapter_per_request'")["retain_kept"]
    assert 0.4 < kept["ga"] < 0.5  # more than half is gone
    experts = found.loc[("ga", "experts")]
    assert (experts[["retain_per_request", "general_per_request"]] > 0.99).all(axis=None)
    said = RESULTS[RESULTS.index("The smaller a request") :]
    turn, end = (plain.xs(25, level="n_requests")[c] for c in ("at_turn", "at_end"))
    shown = [turn["ga"], end["ga"], *(experts.loc[n, "at_end"] for n in (5, 10, 25))]
    assert re.findall(r"\b0\.\d\d\b", said) == [f"{value:.2f}" for value in shown]
    assert (found.loc[(slice(None), slice(None), [10, 25]), "n_orders"] == 3).all()


def test_what_is_said_of_clears_texts_is_what_was_measured():
    found = json.loads((REFERENCE.parent / "clear_texts.json").read_text())
    said = (DOCS / "data.md").read_text()
    assert found["wrong"] == 0 and f"{found['found']} blocks found, none wrong" in said
    assert (
        found["found_when_shifted"] == 1 and "with the rows shifted by five, one is taken" in said
    )
    share = round(100 * found["with_options"] / found["texts"])
    assert f"{found['with_options']:,} questions ({share}%) have three wrong answers" in said
    low, high = (round(100 * f(found["guessed"].values())) for f in (min, max))
    assert f"is right in {low} to {high}% of them" in said


def test_what_so_many_seeds_show_is_in_the_table_of_power():
    power = pd.read_csv(THREE / "power.csv").set_index(["measure", "n_seeds"])
    assert set(power["from"]) == {"this study"}
    said = re.search(
        r"lies (\d+) points apart .* and (\d+) for retain people: three seeds show differences of (\d+) and"
        r"\s(\d+) points, five of (\d+) and (\d+)",
        (REPOSITORY / "docs" / "intervals.md").read_text(),
    )
    both = ("general kept", "retain kept")
    wanted = [power.loc[(m, 3), "seed_sd"] for m in both]
    wanted += [power.loc[(m, n), "verdict"] for n in (3, 5) for m in both]
    assert said and [int(n) for n in said.groups()] == [round(x) for x in wanted]


def test_who_lies_between_after_five_requests():
    table = pd.read_csv(THREE / "after_requests.csv").set_index(["method", "policy"])
    means = {
        name: table[[f"forget_{m}{name}" for m in ("multimodal", "text")]].mean(axis=1)
        for name in ("", "_likelihood")
    }
    pair = ("wga", "adapter_per_request")
    assert means[""][pair] < 0.35 and 0.6 < means["_likelihood"][pair] < 0.7
    pair = ("ga_retain", "anchor")
    assert 0.5 < means[""][pair] < 0.6
    assert table.loc[pair, ["retain_kept", "general_kept"]].mean() == pytest.approx(2 / 3, abs=0.05)
    pair = ("simnpo", "replay")
    assert means[""][pair] == pytest.approx(0.7, abs=0.05)
    assert table.loc[pair, "retain_kept"] == pytest.approx(0.75, abs=0.05)
    assert "still answers seven of ten" in RESULTS and "a quarter of what it knew" in RESULTS
    others = table.drop(index=("ga", "experts"))[["retain_kept", "general_kept"]].min(axis=1)
    assert others[others >= 0.9].index.tolist() == [pair := ("idk", "experts")]
    assert means[""][pair] > 0.8 and "the rest (IDK with experts) has hardly forgotten" in RESULTS
    assert "WGA lies between" in RESULTS and "still says half" in RESULTS


def verdicts_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\| ([^|]*\.) \| [^|]* \| ([^|]*) \|$", text, flags=re.MULTILINE))


def test_the_verdicts_are_the_reference_ledgers():
    demo, equal = RESULTS.split("## At equal training")
    equal, three = equal.split("## All methods, on three seeds")
    ledger = pd.read_csv(REFERENCE / "ledger.csv")
    said = [verdict.removesuffix(", seen on one seed") for verdict in ledger["verdict"]]
    assert verdicts_of(demo) == dict(zip(ledger["claim"], said, strict=True)) and len(said) == 17
    assert "They were seen on one seed" in demo
    assert set(ledger["counted"]) == {"none: fewer than 3 seeds"}
    ledger = pd.read_csv(REFERENCE.parent / "tiny-equal" / "ledger.csv")
    assert verdicts_of(equal) == dict(zip(ledger["claim"], ledger["verdict"], strict=True))
    ledger = pd.read_csv(THREE / "ledger.csv")
    assert verdicts_of(three) == dict(zip(ledger["claim"], ledger["verdict"], strict=True))


# --- growth ---------------------------------------------------------------------------------------


def test_rows_are_read_by_need_and_are_the_same(study):
    """Against all columns read at once, which is what grew: a column of texts costs hundreds of
    bytes a row."""
    rows = study.rows
    frames = []
    for run in study.runs:
        frame = records.read_table(run.folder / "rows.parquet").to_pandas()
        frame["n_options"] = frame["options"].map(len)
        frames.append(frame.assign(run=run.name, kind=run.kind))
    plain = pd.concat(frames, ignore_index=True)
    unit = plain["person_id"].where(plain["person_id"] != "", plain["group"])
    plain["cluster"] = unit.where(unit != "", plain["question_id"])
    assert set(rows) == set(plain) - {*collect.TEXTS, "person_id"}
    for column in rows:
        assert rows[column].tolist() == plain[column].tolist(), column
        if not pd.api.types.is_numeric_dtype(rows[column]):
            assert list(rows[column].cat.categories) == sorted(plain[column].unique())
    assert rows.memory_usage(index=False).sum() / len(rows) < 100  # bytes a row


def test_an_interval_is_the_same_for_texts_and_categories(study):
    from pulse_lib.report import stats

    rows = collect.headline(study.answers(kind="single_shot", set="forget"))
    texts = rows.astype({"cluster": str, "set": str})
    found = [stats.accuracy(r, by="modality") for r in (rows, texts)]
    assert found[0] == found[1] and found[0].low < found[0].high


def test_a_runs_file_is_read_once_for_all_its_states(study, monkeypatch):
    reads = []
    read = collect.read_table
    monkeypatch.setattr(
        collect, "read_table", lambda path, **more: reads.append(path) or read(path, **more)
    )
    run = study.of("sequential")[0].name
    for _ in range(3):
        frame = study.full_rows(run, ("question_id", "correct"))
    assert len(reads) == 1 and list(frame) == ["question_id", "correct"]
    assert "response" in study.full_rows(run) and len(reads) == 2
    whole, some = study.full_rows(run), study.full_rows(run, ("correct",), round=2, set="forget")
    picked = collect.pick(whole, round=2, set="forget")
    assert 0 < len(some) < len(whole) and list(some["correct"]) == list(picked["correct"])
    assert study.full_rows(run, round=2, set="forget").equals(picked.reset_index(drop=True))
    assert study.full_rows(run, ("correct",), set="nobody").empty

"""Figures, cards, browsers and the page: that each is drawn, says what its table says, and needs
nothing from outside."""

from __future__ import annotations

import base64
import html.parser
import io
import itertools
import json
import re
import zlib
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import synthetic_study as made
from fontTools import subset
from fontTools.pens.recordingPen import RecordingPen
from fontTools.ttLib import TTFont
from PIL import Image

from pulse_lib.data.records import ImageStore
from pulse_lib.data.splits import Assignment
from pulse_lib.data.world import people as world
from pulse_lib.data.world import source as embedded
from pulse_lib.errors import PulseError
from pulse_lib.evaluate.accuracy import forget_level
from pulse_lib.methods import METHODS
from pulse_lib.report import collect, figures, widgets
from pulse_lib.report import html as page
from pulse_lib.report.figures import fonts, sequential, style
from pulse_lib.report.figures.gallery import ENTRIES, Gallery
from pulse_lib.report.findings import ledger
from pulse_lib.report.tables import intervals, tables
from pulse_lib.report.words import label, series_label

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "05_analyze.ipynb"
MANY = [*made.CURVES, *(f"method_{i:02d}" for i in range(17))]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return collect.collect(made.write_study(tmp_path_factory.mktemp("study") / "out"), made.PROFILE)


@pytest.fixture(scope="module")
def gallery(study):
    return Gallery(study)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    out = made.write_study(tmp_path_factory.mktemp("empty") / "out", methods=())
    return collect.collect(out, made.PROFILE)


def text_of(figure) -> str:
    """All its words; a title keeps a number and its % together."""
    words = " ".join(t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text")))
    return words.replace("\N{NO-BREAK SPACE}", " ").replace("\n", " ")


# --- style ----------------------------------------------------------------------------------------


def test_every_method_looks_different_and_the_papers_alike_everywhere():
    looks = style.looks(MANY)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 20
    few = style.looks(["npo", "ga"])
    assert list(few) == ["ga", "npo"]
    assert few["npo"] == looks["npo"] and few["ga"] == looks["ga"]
    assert style.looks(["before", "base", ""]) == {}
    assert style.BEFORE not in {look["color"] for look in looks.values()}


def test_labels_come_from_the_table_of_methods():
    assert [label(m) for m in ("ga", "ga_klr", "npo")] == ["GA", "GA+KLR", "NPO"]
    assert {m: label(m) for m in METHODS} == {m: METHODS[m].label for m in METHODS}
    assert label("unheard_of") == "unheard_of"
    assert series_label("ga", "llm") == "GA, LLM only"


def test_figures_leave_no_trace_in_pyplot_or_settings(gallery):
    before = dict(plt.rcParams)
    gallery.show("figure5")
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before


def test_saved_files_are_the_same_for_the_same_numbers(gallery, tmp_path):
    table = gallery.table("requests")
    for name in ("a", "b"):
        picture = style.painted(figures.requests(table), with_pdf=True)
        style.save(picture, tmp_path / name, name="x", table=table)
    for suffix in ("png", "pdf", "csv"):
        assert (tmp_path / f"a/x.{suffix}").read_bytes() == (
            tmp_path / f"b/x.{suffix}"
        ).read_bytes()


# --- the gallery ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_figure_states_a_finding_and_its_units(gallery, name):
    figure = gallery.figure(name)
    assert re.search(r"\d", figure.get_suptitle()), "the title must state a number"
    assert "GA" in text_of(figure)


def test_titles_are_computed_from_the_table(gallery):
    table = gallery.table("requests")
    better = table.assign(value=table["value"].where(table["measure"] != "general", 0.5))
    said = [text_of(figures.requests(t)) for t in (table, better)]
    assert "general 100 %" not in said[0] and "general 100 %" in said[1]


def test_negative_shares_are_named_not_hidden(gallery):
    table = gallery.table("radar")
    table = table[table["selection"] == "final"].copy()
    table.loc[table["measure"] == "forget_text", "value"] = -12.0
    assert "drawn at its edge" in text_of(figures.radar(table))
    assert "−12 %" in text_of(figures.radar(table)).replace("-", "−")


@pytest.mark.parametrize("n_series", [1, 9])  # one radar a scenario, or one a series
def test_a_radar_has_each_value_on_its_spoke(gallery, n_series):
    table = gallery.table("radar").query("selection == 'final' and trained_part != 'llm'")
    ga = table[table["method"] == "ga"]
    values = dict(zip(ga["measure"].unique(), (100.0, 25.0, 0.0, 130.0, -5.0), strict=True))
    ga = ga.assign(value=ga["measure"].map(values))
    others = [ga.assign(method=m) for m in list(METHODS)[1:n_series]]
    (ax, *_), line = figures.radar(pd.concat([ga, *others])).axes, None
    for line in ax.lines:
        if line.get_color() == style.COLOURS[0] and len(line.get_xdata()) == 6:
            break
    x, y = line.get_xdata(), line.get_ydata()
    assert (x[0], y[0]) == (x[-1], y[-1])
    np.testing.assert_allclose(np.hypot(x, y)[:5], [100, 25, 0, 105, 0], atol=1e-9)
    clockwise = np.degrees(np.arctan2(x, y)) % 360
    np.testing.assert_allclose(clockwise[[0, 1, 3]], [0, 72, 216], atol=1e-9)
    places = {t.get_text().replace("\n", " "): t.xy for t in ax.texts if hasattr(t, "xy")}
    names = list(places)
    for k, (px, py) in enumerate(places.values()):  # the names stand at the ends of the spokes
        assert np.degrees(np.arctan2(px, py)) % 360 == pytest.approx(72 * k, abs=1e-6)
    assert names == (
        [a.replace("\n", " ") for a in ga["axis"].unique()]
        if n_series == 1
        else ["F mm", "F text", "R text", "G", "R mm"]
    )


def test_unreached_level_is_written_into_the_figure(gallery):
    table = gallery.table("at_matched").copy()
    table.loc[table["method"] == "npo", ["value", "low", "high"]] = float("nan")
    assert "0.35 not reached" in text_of(figures.at_matched(table, 0.35))


def test_what_some_seeds_missed_is_said_and_wins_no_title(gallery):
    table = gallery.table("at_matched").assign(n_runs=3, n_seeds=3)
    best = (table["scenario"] == "finetuned") & (table["method"] == "npo")
    table.loc[best, "value"] = 99.0
    before = text_of(figures.at_matched(table))
    assert "kept by NPO (99 %, fine-tuned" in before and "seeds" not in before
    table.loc[best, "n_seeds"] = 1
    after = text_of(figures.at_matched(table))
    assert "1 of 3 seeds" in after and "NPO (99 %" not in after and "retraining" not in after
    table["n_seeds"], table["method"] = 3, table["method"].replace("npo", "oracle")
    after = text_of(figures.at_matched(table))
    assert "retraining apart" in after and "Oracle (99 %" not in after
    after = text_of(figures.at_matched(table[table["method"] == "oracle"]))
    assert "No method but retraining reached forget accuracy 0.35 on every seed" in after


def test_the_success_criterion_is_named_where_it_is_met(gallery):
    table = gallery.table("after_requests").assign(aim=False)
    first, second = (f"{label(r.method)}, {r.policy}" for r in table[:2].itertuples())
    said = text_of(figures.after_requests(table))
    assert f"none of {len(table)} configurations; nearest: {first}" in said
    table.loc[1, "aim"] = True
    said = text_of(figures.after_requests(table))
    assert f"1 of {len(table)} configurations ({second})" in said


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_nothing_measured_says_so(empty, name):
    assert re.search("No (complete|method)", text_of(Gallery(empty).figure(name)))


def test_panels_stand_in_rows_and_columns_though_few_of_them_are_laid_out(study):
    """Every panel is as high as its row's first and as wide as its column's last."""
    table = Gallery(study).table("requests")
    table = pd.concat([table[table["method"] == "ga"].assign(method=name) for name in MANY])
    panels = [ax for ax in figures.requests(table).axes if ax.get_subplotspec()]
    laid = [ax for ax in panels if ax.get_in_layout()]
    assert len(panels) == len(MANY) and len(laid) < len(panels) / 2
    for edges, of in (("colspan", ["x0", "width"]), ("rowspan", ["y0", "height"])):
        places = {}
        for ax in panels:
            where = getattr(ax.get_subplotspec(), edges).start
            box = ax.get_position(original=True)
            places.setdefault(where, set()).add(tuple(round(getattr(box, n), 9) for n in of))
        assert all(len(found) == 1 for found in places.values())


def test_twenty_methods_and_three_seeds_fit(gallery):
    """Tables of twenty methods; small panels instead of one crowded one, and no legend entry per
    method."""
    for name, figure in (
        ("radar", figures.radar),
        ("requests", figures.requests),
        ("paths", figures.trade_off),
    ):
        table = gallery.table(name)
        if name == "radar":
            table = table[table["selection"] == "final"]
        one = table[(table["method"] == "ga") & (table["trained_part"] == "projector+llm")]
        methods = MANY if name == "requests" else MANY[:8]
        drawn = figure(pd.concat([one.assign(method=method) for method in methods]))
        titles = [ax.get_title() for ax in drawn.axes]
        assert len(titles) == len(methods) and titles[:3] == ["GA", "GA+KLR", "NPO"]
        assert len(drawn.legends[0].get_texts()) <= 8


def test_ten_sequential_configurations_fit(gallery):
    """Several rows of panels, each with its own labels, and the strategy in its title."""
    tables = {}
    for name in ("requests", "relapse"):
        one = gallery.table(name).query("method == 'ga'")
        more = [one.assign(method=m, policy=p) for m in MANY[:5] for p in ("replay", "anchor")]
        tables[name] = pd.concat(more)
    panels = sequential.round_figure(tables["requests"], tables["relapse"], number=2).axes
    assert len(panels) == 10 and len({ax.get_title() for ax in panels}) == 10
    for ax in panels:
        named = [t.get_text() for t in ax.get_xticklabels() if t.get_visible()]
        assert named == [*(f"req {k}" for k in range(1, 6)), "retain", "general"]
    assert "GA\nreplay" in {ax.get_title() for ax in figures.relapse(tables["relapse"]).axes}
    assert "GA\nreplay" in {ax.get_title() for ax in figures.requests(tables["requests"]).axes}


def test_page_files_and_report_hold_the_same_picture(study, tmp_path, monkeypatch):
    """And nothing is painted twice."""
    painted, paint = [], style.png
    monkeypatch.setattr(style, "png", lambda *args: painted.append(args) or paint(*args))
    gallery = Gallery(study, pictures=made.unpainted(study).pictures)
    del gallery.pictures["figure5"]
    shown = gallery.show("figure5")
    gallery.save(tmp_path)
    assert shown.png == (tmp_path / "figure5.png").read_bytes()
    assert shown.pdf == (tmp_path / "figure5.pdf").read_bytes() and shown.pdf.startswith(b"%PDF")
    assert base64.b64encode(shown.png).decode() in written(study, gallery)
    assert (
        sum(figure.get_suptitle().replace("\n", " ") == shown.said for figure, *_ in painted) == 1
    )


def test_unknown_figure_lists_the_names(gallery):
    with pytest.raises(PulseError, match="figure5"):
        gallery.show("figure6")


# --- figures that the other notebooks use ---------------------------------------------------------


def test_pictures_of_the_other_notebooks(study):
    people = [*world.celebrities()[:1], *world.fictitious()[:1]]
    assert people[0].name in text_of(
        figures.people_cards(embedded, people, seed=0, settings=made.PROFILE.data)
    )
    assert (
        len(figures.view_cards(embedded, people[0], seed=0, settings=made.PROFILE.data, n=6).axes)
        == 6
    )
    images = ImageStore()
    place = Assignment(people[0].id, "pretrained", set="forget")
    given = {"images": images, "seed": 0, "settings": made.PROFILE.data}
    asked = embedded.person_questions(people[0], place, **given)
    shown = [asked[0], asked[-1]]
    right = [q.options[q.answer] for q in shown]
    drawn = text_of(figures.question_cards(shown, images, responses=right, before=["", "nonsense"]))
    assert "(nothing)" in drawn and drawn.count("✗") == 2 and drawn.count("✓") == 4
    assert "no picture" in drawn
    taught = embedded.person_conversations(people[0], place, stage="unlearn", **given)
    assert "ASSISTANT" in text_of(figures.conversation_card(taught[0], images))


def test_curves_of_the_other_notebooks(study):
    run = next(r for r in study.of("single_shot") if r.parameter("method") == "ga")
    path = pd.read_csv(run.folder / "path.csv")
    drawn = figures.run_path(path, run.result["matched_step"], matched_at=0.35, name="GA")
    assert f"step {run.result['matched_step']}" in drawn.get_suptitle()
    assert "was not reached" in figures.run_path(path, matched_at=0.35).get_suptitle()
    (likeliest,) = (
        line for line in drawn.axes[0].lines if line.get_label() == "forget set, likeliest option"
    )
    by_hand = (path["forget_multimodal_likelihood"] + path["forget_text_likelihood"]) / 2
    np.testing.assert_allclose(likeliest.get_ydata(), by_hand)

    log = pd.read_csv(study.of("target")[0].folder / "log.csv")
    assert "loss" in figures.training_curve(log).get_suptitle()
    rounds = tables.sequential(study).query("method == 'ga'").set_index("round")
    assert "after 5 requests" in figures.rounds(rounds, "GA").get_suptitle()
    order = [3, 1, 2, 5, 4]
    grid = figures.request_grid(rounds[[f"request_{k}" for k in range(1, 6)]], order, name="GA")
    assert [t.get_text() for t in grid.axes[0].get_xticklabels()] == [str(r) for r in order]


def test_tokens_that_are_written_alike_or_not_at_all_have_a_bar_each():
    table = pd.DataFrame(
        {"token": [" miner", "\x07", "\ufffd", "\ufffd", " "], "p": [0.4, 0.3, 0.1, 0.1, 0.1]}
    )
    ax = figures.likeliest({"final": table}, " miner").axes[0]
    assert len(ax.patches) == 5 and len({bar.get_y() for bar in ax.patches}) == 5
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "(space)",
        "·",
        "·",
        "·",
        "miner",
    ]


def test_selection_says_how_well_the_chosen_are_known(study):
    table = pd.read_csv(study.of("data")[0].folder / "selection.csv").rename(
        columns={"chosen": "set"}
    )
    best = table["accuracy"].nlargest(14).mean()
    assert f"14 best known of 30 answer {best:.2f}" in figures.selection(table).get_suptitle()


# --- answers --------------------------------------------------------------------------------------


def test_answers_join_before_and_after(study):
    run = study.of("single_shot")[0].name
    table = widgets.answers(study, run, state="matched")
    assert len(table) == (table["set"].isin(["forget", "retain", "general"])).sum() == 20 * 12 + 60
    assert table["right_before"].mean() > 0.7
    assert (table["changed"] == (table["right_before"] != table["right_after"])).all()
    some = widgets.chosen(table, set_name="forget", modality="text", changed=True)
    assert set(some["set"]) == {"forget"} and some["changed"].all()
    rounds = widgets.answers(study, study.of("sequential")[0].name, state="round 2")
    assert len(rounds) == len(table)
    with pytest.raises(PulseError, match="no complete run"):
        widgets.states_of(study, "single_shot/none")


def test_batch_shows_a_panel_and_a_person_gets_controls(study, gallery, monkeypatch):
    monkeypatch.setenv("PULSE_BATCH", "1")
    panel = widgets.answer_browser(study)
    assert "right answers became wrong" in panel.get_suptitle()
    requests, relapse = gallery.table("requests"), gallery.table("relapse")
    assert "After request 5" in widgets.round_browser(requests, relapse).get_suptitle()
    monkeypatch.setenv("PULSE_BATCH", "0")
    box = widgets.answer_browser(study)
    (run, state), filters, (_, _, number, count), picture = (
        child.children if hasattr(child, "children") else child for child in box.children
    )
    first = picture.value
    number.value = 2
    assert picture.value != first
    run.value = study.of("sequential")[0].name
    assert state.value == "round 1"
    filters[0].value = "retain"
    table = widgets.answers(study, run.value, state="round 1")
    assert count.value == f"{len(widgets.chosen(table, set_name='retain', changed=True))} answers"
    slider, picture = widgets.round_browser(requests, relapse).children
    first = picture.value
    slider.value = 3
    assert picture.value != first


# --- the page -------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Collects links and checks that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids = [], [], set()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.links += [given[key] for key in ("href", "src") if key in given]
        self.ids.add(given.get("id"))
        if tag not in ("meta", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def written(study, gallery, **more) -> str:
    every = tables.all_tables(study) | more
    return page.report(study, gallery, tables=every, findings=ledger.ledger(study))


def test_page_is_whole_and_needs_no_network(study, gallery):
    gallery.pictures |= made.unpainted(study).pictures
    text = written(study, gallery)
    parsed = Page()
    parsed.feed(text)
    assert parsed.open == []
    for link in parsed.links:
        beside = re.fullmatch(
            r"(figures|tables)/\w+\.(png|pdf|csv)|\.\./[\w/+-]+/notebook\.ipynb", link
        )
        assert (
            link.startswith("data:image/png;base64,")
            or link.removeprefix("#") in parsed.ids
            or beside
        )
    assert sum(link.startswith("data:") for link in parsed.links) == len(ENTRIES) + len(page.PEOPLE)
    assert "http" not in re.sub(r"base64,[^\"]*", "", text)
    assert "python -m pulse_lib notebook" in text


def test_page_escapes_what_comes_from_data(empty):
    import dataclasses

    evil = "<script>alert(1)</script>"
    bad = dataclasses.replace(
        empty,
        profile=dataclasses.replace(empty.profile, description=evil),
        incomplete=pd.DataFrame([{"run": evil, "reason": evil}]),
    )
    text = written(bad, made.unpainted(bad), wordings=pd.DataFrame({evil: [evil]}))
    assert evil not in text and "&lt;script&gt;" in text
    assert text.count("&lt;script&gt;") == 5  # the profile's words, a run, a column and a cell
    assert "1 run is not in this report" in text


# --- intervals ------------------------------------------------------------------------------------


def test_seeds_are_drawn_beside_their_mean_and_an_arrow_where_there_is_no_limit(gallery):
    """Small strokes at the values of several seeds, none for a single one."""
    look = {"color": "black"}
    figure = style.new_figure(4, 2)
    ax = figure.subplots()
    style.dot_interval(ax, 1, value=0.5, low=0.2, high=0.7, look=look, points=(0.5,))
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.2, 0.7], [0.5]] and not ax.texts
    style.dot_interval(ax, 2, value=0.5, low=0.2, high=np.inf, look=look, points=(0.4, 0.6))
    assert [list(line.get_xdata()) for line in ax.lines[2:]] == [[0.2, 0.2], [0.4, 0.6], [0.5]]
    assert ax.texts[0].arrow_patch is not None
    table = gallery.table("at_matched").copy()
    table["points"] = [(10.0, 20.0, 30.0)] * len(table)
    table.loc[table.index[0], "high"] = np.inf
    drawn = figures.at_matched(table).axes[0]
    assert drawn.get_xlim()[1] <= 160
    assert any(list(line.get_xdata()) == [10.0, 20.0, 30.0] for line in drawn.lines)
    rounds = gallery.table("requests").copy()
    rounds["points"] = [(0.1, 0.9)] * len(rounds)
    lines = figures.requests(rounds).axes[0].lines
    assert any(list(line.get_ydata()) == [0.1, 0.9] for line in lines)


def test_page_counts_the_papers_findings_apart_and_few_seeds_as_none(study, gallery):
    gallery.pictures |= made.unpainted(study).pictures
    text = written(study, gallery)
    found = ledger.ledger(study)
    for whose, name in ledger.WHOSE.items():
        assert f"Of the {sum(f.whose == whose for f in found)} {name}:" in text
    head = text[: text.index("</header>")]
    measured = [f for f in found if f.verdict != "not measured here"]
    assert measured and all(f.counted == ledger.NO_VERDICT for f in measured)
    for whose in ledger.WHOSE:
        n = sum(f.whose == whose for f in measured)
        assert f"<b>{n}</b><span>seen on fewer than 3 seeds</span>" in head
    assert f'<span class="badge">{measured[0].said}</span>' in text
    assert "seen on one seed" in measured[0].said
    assert "3 seeds show" in text and "How many seeds to run" in text


# --- the notebook ---------------------------------------------------------------------------------


def test_notebook_shows_what_there_is(study):
    """The names in the notebook's cells are entries of the gallery and findings of the ledger (it
    runs in test_notebooks)."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    shown = set(re.findall(r'gallery\.show\("(\w+)"\)', code))
    assert shown and shown <= {entry.name for entry in ENTRIES}
    ids = [f.id for f in ledger.ledger(study)]
    prefixes = re.findall(
        r'"([a-z-]+)"', " ".join(re.findall(r"verdicts\(findings, ([^)]*)\)", code))
    )
    assert prefixes
    for prefix in prefixes:
        assert any(name.startswith(prefix) for name in ids), prefix


def test_a_figure_is_drawn_once_as_savefig_draws_it_in_two_passes(monkeypatch):
    def by_savefig(kind: str, **options) -> bytes:
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, **options)
        return buffer.getvalue()

    table = pd.DataFrame({"method": ["ga"], "trained_part": ["llm"], "x": [1.0]})
    drawings, draw = [], style.Figure.draw
    monkeypatch.setattr(
        style.Figure, "draw", lambda self, renderer: (drawings.append(1), draw(self, renderer))
    )
    figure = _titled(table)
    drawings.clear()
    written = [style.pdf(figure), style.png(figure), style.png(figure, 110), style.pdf(figure)]
    assert len(drawings) == 4 and figure.dpi == 96
    assert b"/FontFile2" in written[0] and b"/Type3" not in written[0]  # TrueType
    with mpl.rc_context({"pdf.fonttype": 42}):
        plain = by_savefig("pdf", metadata={"CreationDate": None})
    assert written[0] == written[3] and len(written[0]) < len(plain)
    assert _glyphs(written[0]) == _glyphs(plain) and _page(written[0]) == _page(plain)
    for ours, dpi in ((written[1], 192), (written[2], 110)):
        mine, theirs = (Image.open(io.BytesIO(b)) for b in (ours, by_savefig("png", dpi=dpi)))
        assert mine.mode == "RGB" and mine.info["dpi"] == theirs.info["dpi"]
        assert np.asarray(theirs)[..., 3].min() == 255  # nothing shines through
        assert mine.tobytes() == theirs.convert("RGB").tobytes()


def test_an_empty_label_stays_where_the_layout_put_it(monkeypatch):
    """It costs no drawing, changes no picture, and a reader's own label comes there."""

    @style.drawn
    def small() -> style.Figure:
        figure, axes = style.panels(2, (3, 2), margin=(0, 0))
        axes[0].plot([0, 1000], [0, 1])
        axes[1].set_ylabel("a name")
        return figure

    made = {"kept": small()}
    with monkeypatch.context() as without:
        without.setattr(style, "_keep_empty_labels", lambda figure: None)
        made["looked for"] = small()
    assert style.png(made["kept"]) == style.png(made["looked for"])
    ends = {}
    for way, figure in made.items():
        figure.axes[0].set_xlabel("mine")
        style.png(figure)
        ends[way] = figure.axes[0].xaxis.label.get_window_extent().extents
    np.testing.assert_allclose(ends["kept"], ends["looked for"], atol=1.5)  # dots
    looked, update = [], mpl.axis.XAxis._get_tick_boxes_siblings
    monkeypatch.setattr(
        mpl.axis.XAxis,
        "_get_tick_boxes_siblings",
        lambda self, renderer: (looked.append(self), update(self, renderer))[1],
    )
    style.pdf(small())
    n = len(looked)
    monkeypatch.setattr(style, "_keep_empty_labels", lambda figure: None)
    looked.clear()
    style.pdf(small())
    assert len(looked) == n + 2  # two panels


def test_a_font_is_cut_once_for_figures_of_plain_words(monkeypatch):
    def saying(text: str) -> style.Figure:
        figure = style.new_figure(4, 2)
        figure.text(0.1, 0.5, text)
        return figure

    fonts._cut.cache_clear()
    cuts, cut = [], subset.Subsetter.subset
    monkeypatch.setattr(
        subset.Subsetter, "subset", lambda self, font: (cuts.append(1), cut(self, font))
    )
    first, second = (style.pdf(saying(text)) for text in ("Ten of 12 (83 %)", "Other words: 0.5"))
    assert len(cuts) == 1 and len(_glyphs(first)[0]) != len(_glyphs(second)[0])
    style.pdf(saying("more → less"))  # an arrow is in no other font: one of its own
    assert len(cuts) == 2
    monkeypatch.setattr(mpl, "__version_info__", (3, 12))  # which may go about it another way
    assert style.pdf(saying("Ten")) and len(cuts) == 3


def _streams(pdf: bytes) -> list[bytes]:
    """What is in a PDF, unpacked."""
    packed = re.findall(rb"/FlateDecode.*?>>\s*stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    return [zlib.decompress(stream) for stream in packed]


def _page(pdf: bytes) -> bytes:
    """What is drawn, and which glyph where."""
    (page,) = [s for s in _streams(pdf) if b" Tf" in s]
    return page


def _glyphs(pdf: bytes) -> list[dict[int, list]]:
    """The outlines in each font of a PDF, by the code that the page calls them by."""
    found = []
    for stream, codes in itertools.pairwise(_streams(pdf)):
        if stream.startswith(b"\0\1\0\0"):  # a font, and then the glyph of each code
            font, glyph = TTFont(io.BytesIO(stream)), np.frombuffer(codes, ">u2")
            found.append({int(c): _outline(font, int(glyph[c])) for c in np.flatnonzero(glyph)})
    assert found and all(found)
    return found


def _outline(font: TTFont, glyph: int) -> list:
    pen = RecordingPen()
    font.getGlyphSet()[font.getGlyphName(glyph)].draw(pen)
    return pen.value


@style.drawn
def _titled(table):
    figure = style.new_figure(4, 2)
    ax = figure.subplots()
    for series, look in style.series_looks(table).items():
        ax.plot([0, 1], [0.2, 0.9], label="/".join(series), **look)
    style.title(figure, "One line that is long enough to be wrapped into two of them")
    style.legend_outside(figure, style.series_handles(style.series_looks(table)))
    return figure


def test_a_notebook_shows_a_figure_sharp_and_with_its_title_as_alternative():
    """Through IPython's own formatter, as a kernel sends it."""
    from io import BytesIO

    from IPython.core.interactiveshell import InteractiveShell
    from PIL import Image

    from pulse_lib.report.figures.style import empty_figure, title

    figure = empty_figure("Nothing yet.")
    assert figure._repr_mimebundle_()[1]["image/png"]["alt"] == "Nothing yet."
    title(figure, "What it shows")
    data, about = InteractiveShell.instance().display_formatter.format(figure)
    picture = Image.open(BytesIO(data["image/png"]))
    assert picture.width == 2 * about["image/png"]["width"] == 2 * 768
    assert about["image/png"]["alt"] == "What it shows" and "image/svg+xml" not in data


def test_the_trade_off_is_drawn_over_the_accuracy_that_matched_goes_by(study):
    """Not over what is said alone, which is lower."""
    table = intervals.paths(study)
    marks = table[table["kind"] == "matched"]
    assert len(marks) and (marks["level"] > marks["forget"]).any()
    full = table[table["kind"].isin(["matched", "final"])]
    by_rows = [
        forget_level(study.summaries[run, kind, 0], study.matched_by)
        for run, kind in zip(full["run"], full["kind"], strict=True)
    ]
    np.testing.assert_allclose(full["level"], by_rows)
    assert (full["level"] >= full["forget"]).all()
    figure = figures.trade_off(table, matched_at=study.matched_at)
    drawn = {
        float(x) for ax in figure.axes for line in ax.lines for x in np.ravel(line.get_xdata())
    }
    assert set(table["level"].dropna()) <= drawn  # marks and the lines that lead to them

"""How a figure looks here: one colour and marker per method everywhere, the shapes that several
figures share, one way to save."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.lines import Line2D
from PIL import Image

from pulse_lib.files import replace_file, write_csv
from pulse_lib.methods import METHODS, PAPER_METHODS, VARIANTS
from pulse_lib.report.figures.fonts import fonts_kept
from pulse_lib.report.words import Metric, method_order, series_label

# The colour-blind palette without its grey (kept for "before") and its yellow (invisible on white);
# both lists have lengths without a common divisor, so that colour and marker together tell 88
# methods apart.
COLOURS = [sns.color_palette("colorblind").as_hex()[i] for i in (0, 1, 2, 3, 4, 9, 5, 6)]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h"]
BEFORE = "#7f7f7f"
INK = "#333333"
DPI = 96  # at which a figure is shown
FILE_DPI = 2 * DPI  # of its pixels, in files too: sharp on any screen
MANY = 6  # more series than this in one panel cannot be told apart
TITLE, ENTRY = 0.7, 0.2  # inches: what a legend leaves for the title, and one of its lines
NOTHING_YET = "No complete {} run in this study yet, so there is nothing to draw."

C = TypeVar("C", bound=FigureCanvasBase)
Look = dict[str, Any]  # how matplotlib draws a line or a mark
SEED_MARKS: Look = {"linestyle": "", "marker": "|", "markersize": 9, "alpha": 0.7}
Series = tuple[str, str]  # a method with its trained part

METRIC_LOOKS: dict[Metric, Look] = {
    "forget_multimodal": {"color": COLOURS[3], "linestyle": "-", "marker": "o"},
    "forget_text": {"color": COLOURS[3], "linestyle": "--", "marker": "s"},
    "retain_multimodal": {"color": COLOURS[0], "linestyle": "-", "marker": "o"},
    "retain_text": {"color": COLOURS[0], "linestyle": "--", "marker": "s"},
    "general": {"color": COLOURS[2], "linestyle": "-", "marker": "D"},
    "invalid_rate": {"color": BEFORE, "linestyle": ":", "marker": "x"},
}
_CONTEXT: dict[Any, Any] = {
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titley": 1.0,  # above the panel, so that no drawing looks for its place
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#999999",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.titlesize": 13,
    "figure.titleweight": "bold",
    "grid.color": "#e6e6e6",
    "font.family": "DejaVu Sans",
}


class Figure(matplotlib.figure.Figure):
    """A figure that any notebook front end shows once, without pyplot's global state."""

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        return painted(self)._repr_mimebundle_()


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as files and pages hold it: the bytes of a PNG of twice its size in pixels, that
    size (width, height), and its title, which is its alternative text. The figure itself, whose
    lines and letters fill the memory of a large study, need not be kept."""

    png: bytes
    size: tuple[int, int]
    said: str
    pdf: bytes = b""

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        said = textwrap.shorten(self.said, 300, placeholder=" …")
        shown = {"width": self.size[0], "height": self.size[1], "alt": said}
        return {"image/png": self.png}, {"image/png": shown}


def painted(figure: Figure, *, with_pdf: bool = False) -> Picture:
    """The figure as a picture."""
    width, height = figure.get_size_inches() * DPI
    return Picture(
        png=png(figure, FILE_DPI),
        size=(round(width), round(height)),
        said=_said(figure),
        pdf=pdf(figure) if with_pdf else b"",
    )


def _said(figure: Figure) -> str:
    """What a reader hears in place of a figure: its title, or what is written in it."""
    written = (text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title))
    said = figure.get_suptitle() or "; ".join(t.strip() for t in written if t.strip())
    return said.replace("\n", " ")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, laid out so that nothing overlaps."""
    return Figure(figsize=(width, height), layout="constrained", dpi=DPI, facecolor="white")


def drawn(function: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorator: the function draws in the kit's style, leaving the reader's matplotlib settings
    alone.

    The layout is computed once and then kept, so that showing, saving and embedding a figure cost
    one pass each.
    """

    @functools.wraps(function)
    def wrapper(*args, **kwargs) -> Figure:
        with sns.axes_style("whitegrid"), mpl.rc_context(_CONTEXT):
            figure = function(*args, **kwargs)
            if layout := figure.get_layout_engine():
                layout.execute(figure)
            figure.set_layout_engine("none")
            _align(figure)
            _keep_empty_labels(figure)
            return figure

    return wrapper


def _align(figure: Figure) -> None:
    """Put the panels that the layout left out (see `panels`) at the height of their row's and the
    place of their column's panel."""
    grid = {}
    for ax in figure.axes:
        if spec := ax.get_subplotspec():
            grid[spec.rowspan.start, spec.colspan.start] = ax
    laid = {place: ax for place, ax in grid.items() if ax.get_in_layout()}
    columns = {column: ax.get_position(original=True) for (_, column), ax in laid.items()}
    for (row, column), ax in grid.items():
        if not ax.get_in_layout():
            across, along = columns[column], laid[row, 0].get_position(original=True)
            ax.set_position((across.x0, along.y0, across.width, along.height))


def _keep_empty_labels(figure: Figure) -> None:
    """Leave the axis labels without a text where the layout put them: every drawing would look for
    their place anew, by the size of each tick's label."""
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            if not axis.get_label_text():
                there = axis.label.get_transform().transform(axis.label.get_position())
                axis.set_label_coords(*ax.transAxes.inverted().transform(there))


@drawn
def empty_figure(message: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(8, 1.6)
    ax = figure.subplots()
    ax.axis("off")
    ax.text(0.5, 0.5, textwrap.fill(message, 90), ha="center", va="center", color=INK, fontsize=11)
    return figure


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """Colour and marker of each method: the table of methods in its order, so that a method looks
    alike in every study; any other ids in alphabetical order after it."""
    table = dict.fromkeys([*PAPER_METHODS, *METHODS, *VARIANTS])
    there = method_order(methods)
    every = {
        m: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, m in enumerate([*table, *(m for m in there if m not in table)])
    }
    return {method: every[method] for method in there}


def series_looks(table: pd.DataFrame) -> dict[Series, Look]:
    """How each series of a table is drawn, by (method, trained part), the paper's methods first,
    projector+llm before llm: the method's colour and marker; dashed and hollow if only the LLM was
    trained."""
    found = set(zip(table["method"], table["trained_part"], strict=True))
    drawn: dict[Series, Look] = {}
    for method, look in looks(table["method"]).items():
        for part in sorted((p for m, p in found if m == method), key="llm".__eq__):
            hollow: Look = {"markerfacecolor": "white", "linestyle": (0, (4, 2))}
            line = hollow if part == "llm" else {"linestyle": "-"}
            drawn[method, part] = look | {"markeredgecolor": look["color"]} | line
    return drawn


def title(figure: Figure, text: str, *, name: str = "") -> None:
    """Set the figure's title (the finding, after the name of what it is about), wrapped to the
    figure's width and aligned left."""
    text = f"{name}: {text}" if name else text
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.wrap(text, int(figure.get_figwidth() * 9.4), break_on_hyphens=False)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", color=INK)


def drawable(text: str) -> str:
    """What a model said, as it can be drawn: a dot for a control character or half a letter."""
    plain = " ".join(text.split())
    return "".join(c if c.isprintable() and c != "\ufffd" else "·" for c in plain)


def spread_text(values: pd.Series, form: str = "{:.0f}") -> str:
    """ "33 to 61", or "33" where all are alike: how titles name a range."""
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low} to {high}"


def over(table: pd.DataFrame) -> str:
    """What the ranges of a title go over: ", from method to method" if there are several, "" if
    there is one; where it has several seeds, that each value is their mean."""
    who = [column for column in ("method", "policy", "trained_part") if column in table]
    several = len(table[who].drop_duplicates()) > 1
    seeds = table["seed"].nunique() if "seed" in table else table["n_seeds"].max()
    return (", from method to method" if several else "") + (
        f", means of {seeds:.0f} seeds" if seeds > 1 else ""
    )


def dot(label: str, **look: Any) -> Line2D:
    """A mark without a line, for a legend."""
    mark: Look = {"linestyle": "", "marker": "o", "markersize": 7} | look
    return Line2D([], [], label=label, **mark)


def legend_outside(figure: Figure, handles: Iterable[Any]) -> None:
    """A legend of labelled handles right of all axes, in as many columns as the figure's height asks
    for."""
    handles = list(handles)
    fit = max(1, int((figure.get_figheight() - TITLE) / ENTRY))
    columns = max(1, -(-len(handles) // fit))
    figure.legend(handles=handles, loc="outside right center", ncols=columns, frameon=False)


def series_handles(every: Mapping[Series, Look]) -> list[Line2D]:
    """The legend's lines of some series."""
    return [Line2D([], [], label=series_label(*series), **look) for series, look in every.items()]


def panels(
    count: int, size: tuple[float, float], *, margin: tuple[float, float], most: int = 5, **options
) -> tuple[Figure, list[Axes]]:
    """A figure of panels of a size in inches, at most `most` in a row; places left over stay empty.

    options: of Figure.subplots (sharex, sharey, subplot_kw).
    """
    columns = min(most, count)
    rows = -(-count // columns)
    figure = new_figure(size[0] * columns + margin[0], size[1] * rows + margin[1])
    axes = list(np.ravel(figure.subplots(rows, columns, squeeze=False, **options)))
    for ax in axes[count:]:
        ax.remove()
    for ax in axes[max(0, count - columns) : count]:
        ax.tick_params(labelbottom=True)
    # Panels are alike: the first of each row and the last of each column say how much room all need.
    for place, ax in enumerate(axes[: count - columns]):
        ax.set_in_layout(place % columns == 0)
    return figure, axes[:count]


def dot_grid(
    rows: Mapping[str, Sequence[str]], columns: Sequence[str], *, inches: float, sharex: bool = True
) -> tuple[Figure, np.ndarray]:
    """A figure for dots with intervals: a row of panels for each group of names, which stand one
    below another at `inches`; returned with its axes (rows, columns)."""
    heights = [len(names) + 0.8 for names in rows.values()]
    figure = new_figure(11.5, inches * sum(heights) + 1.7)
    axes = figure.subplots(
        len(rows), len(columns), sharex=sharex, sharey="row", squeeze=False, height_ratios=heights
    )
    for line, (group, names) in zip(axes, rows.items(), strict=True):
        line[0].set_yticks(range(len(names)), names)
        line[0].set_ylim(len(names) - 0.4, -0.8)
        line[0].set_ylabel(group)
    for ax, text in zip(axes[0], columns, strict=True):
        ax.set_title(text)
    return figure, axes


def dot_interval(
    ax: Axes,
    y: float,
    *,
    value: float,
    look: Look,
    low: float = np.nan,
    high: float = np.nan,
    points: Sequence[float] = (),
) -> None:
    """Draw one value at a height as a dot, with its interval if it has one (an arrow where that has
    no upper limit) and the values of several seeds as small marks."""
    if not np.isnan(low):
        ends = [low, low if np.isinf(high) else high]
        ax.plot(ends, [y, y], color=look["color"], linewidth=1.5, alpha=0.8)
    if np.isinf(high):
        to: Look = {"arrowprops": {"arrowstyle": "->", "color": look["color"]}, "xytext": (low, y)}
        ax.annotate("", (1.0, y), xycoords=("axes fraction", "data"), textcoords="data", **to)
    if len(points) > 1:
        ax.plot(points, [y] * len(points), **SEED_MARKS, color=look["color"])
    mark: Look = {"markersize": 7} | look | {"linestyle": ""}
    ax.plot(value, y, **mark)


def reference_line(
    ax: Axes,
    value: float,
    *,
    text: str = "",
    axis: Literal["x", "y"] = "y",
    side: Literal["left", "right"] = "right",
) -> None:
    """A grey dotted reference ("before", chance) across an axis; its name at the right end, or at
    the top on one `side` of it."""
    line = ax.axhline if axis == "y" else ax.axvline
    line(value, color=BEFORE, linestyle=":", linewidth=1.2, zorder=1)
    style: Look = {"textcoords": "offset points", "color": "#666666", "fontsize": 8}
    if axis == "y":
        style |= {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        ax.annotate(text, (1.0, value), (-3, 1), **style)
    else:
        end, shift = ("left", 3) if side == "right" else ("right", -3)
        style |= {"xycoords": ("data", "axes fraction"), "ha": end, "va": "top"}
        ax.annotate(text, (value, 1.0), (shift, -2), **style)


def png(figure: Figure, dpi: int = FILE_DPI) -> bytes:
    """The figure as PNG bytes, without transparency, which would take longer to pack."""
    buffer = io.BytesIO()
    with _drawn_once(figure, FigureCanvasAgg, dpi=dpi) as canvas:
        canvas.draw()
        size = canvas.get_width_height()
        opaque = Image.frombytes("RGB", size, canvas.buffer_rgba(), "raw", "RGBX")
    opaque.save(buffer, "png", dpi=(dpi, dpi), compress_level=3)
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as PDF bytes. Fonts are embedded as TrueType: text can be edited, and venues that
    refuse Type 3, matplotlib's default, take it."""
    buffer = io.BytesIO()
    truetype = mpl.rc_context({"pdf.fonttype": 42})  # read when it is written, not when it is drawn
    with truetype, fonts_kept(), _drawn_once(figure, FigureCanvasPdf, dpi=figure.dpi) as canvas:
        # No creation date: the same numbers give the same bytes.
        canvas.print_pdf(buffer, metadata={"CreationDate": None})
    return buffer.getvalue()


@contextmanager
def _drawn_once(figure: Figure, canvas: type[C], *, dpi: float) -> Generator[C]:
    # savefig draws a figure twice, the first time to let its layout settle: ours has (`drawn`).
    kept_dpi, kept_canvas = figure.dpi, figure.canvas
    figure.dpi = dpi
    try:
        yield canvas(figure)
    finally:
        figure.dpi = kept_dpi
        figure.set_canvas(kept_canvas)


def save(picture: Picture, folder: Path, *, name: str, table: pd.DataFrame) -> list[Path]:
    """Write name.png, name.pdf and name.csv (the table drawn) by rename; returns the three paths."""
    paths = [Path(folder) / f"{name}.{suffix}" for suffix in ("png", "pdf", "csv")]
    replace_file(paths[0], lambda tmp: tmp.write_bytes(picture.png))
    replace_file(paths[1], lambda tmp: tmp.write_bytes(picture.pdf))
    write_csv(paths[2], table)
    return paths

"""How a figure looks here: one colour and marker per method everywhere, one vocabulary for labels,
one way to save."""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib as mpl
import matplotlib.figure
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from pulse_lib.files import replace_file, write_csv
from pulse_lib.methods import METHODS, PAPER_METHODS, VARIANTS
from pulse_lib.report.words import method_order

# The colour-blind palette without its grey (kept for "before") and its yellow (invisible on white);
# both lists have lengths without a common divisor, so that colour and marker together tell 88
# methods apart.
COLOURS = [sns.color_palette("colorblind").as_hex()[i] for i in (0, 1, 2, 3, 4, 9, 5, 6)]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h"]
BEFORE = "#7f7f7f"
INK = "#333333"
FILE_DPI = 150  # of PNG files and of pictures in the report
_CONTEXT = {
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
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
    "pdf.fonttype": 42,  # text stays text in the PDF
}


class Figure(matplotlib.figure.Figure):
    """A figure that any notebook front end shows once, as a PNG, without pyplot's global state."""

    def _repr_png_(self) -> bytes:
        return png(self)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, laid out so that nothing overlaps."""
    return Figure(figsize=(width, height), layout="constrained", dpi=110, facecolor="white")


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
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine("none")
            return figure

    return wrapper


@drawn
def empty_figure(message: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure = new_figure(8, 1.6)
    ax = figure.subplots()
    ax.axis("off")
    ax.text(0.5, 0.5, textwrap.fill(message, 90), ha="center", va="center", color=INK, fontsize=11)
    return figure


def looks(methods: Iterable[str]) -> dict[str, dict]:
    """Colour and marker of each method: the table of methods in its order, so that a method looks
    alike in every study; any other ids in alphabetical order after it."""
    table = dict.fromkeys([*PAPER_METHODS, *METHODS, *VARIANTS])
    there = method_order(methods)
    every = {
        m: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, m in enumerate([*table, *(m for m in there if m not in table)])
    }
    return {method: every[method] for method in there}


def title(figure: Figure, text: str, width: int | None = None) -> None:
    """Set the figure's title (the finding), wrapped to the figure's width and aligned left."""
    width = width or int(figure.get_figwidth() * 9.4)
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    figure.suptitle(
        "\n".join(textwrap.wrap(text, width, break_on_hyphens=False)), x=0.01, ha="left", color=INK
    )


def legend_outside(figure: Figure, handles: list, labels: list[str], **options) -> None:
    """A legend right of all axes, in two columns when it is long."""
    columns = 1 if len(labels) <= 24 else 2
    figure.legend(
        handles,
        labels,
        **{"loc": "outside right center", "ncols": columns, "frameon": False} | options,
    )


def reference_line(
    ax: Axes, value: float, text: str = "", axis: str = "y", side: str = "right"
) -> None:
    """A grey dotted reference ("before", chance) across an axis; its name at the right end, or at
    the top on one `side` of it."""
    line = ax.axhline if axis == "y" else ax.axvline
    line(value, color=BEFORE, linestyle=":", linewidth=1.2, zorder=1)
    if axis == "y":
        place = {
            "xy": (1.0, value),
            "xycoords": ("axes fraction", "data"),
            "ha": "right",
            "va": "bottom",
            "xytext": (-3, 1),
        }
    else:
        end, shift = ("left", 3) if side == "right" else ("right", -3)
        place = {
            "xy": (value, 1.0),
            "xycoords": ("data", "axes fraction"),
            "ha": end,
            "va": "top",
            "xytext": (shift, -2),
        }
    if text:
        ax.annotate(text, textcoords="offset points", color="#666666", fontsize=8, **place)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save(
    figure: Figure, folder: Path, name: str, table: pd.DataFrame, image: bytes | None = None
) -> list[Path]:
    """Write name.png, name.pdf and name.csv (the table drawn) by rename; returns the three paths.

    image: the PNG's bytes, if they are there already.
    """
    folder = Path(folder)
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "pdf", "csv")]
    replace_file(paths[0], lambda tmp: tmp.write_bytes(image or png(figure, FILE_DPI)))
    # No creation date: the same numbers give the same bytes.
    replace_file(
        paths[1], lambda tmp: figure.savefig(tmp, format="pdf", metadata={"CreationDate": None})
    )
    write_csv(paths[2], table)
    return paths

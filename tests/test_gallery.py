"""The gallery: committed pages of the reference run, one a notebook; and what writes them."""

from __future__ import annotations

import base64
import html
import importlib
import io
import re
from dataclasses import replace

import nbformat
import numpy as np
import pytest
from PIL import Image

from pulse_lib.files import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
GALLERY = REPOSITORY / "docs" / "gallery"
PAGES = sorted(GALLERY.glob("*.html"))
REMAKE = "make gallery writes it anew from a finished demo"


@pytest.fixture
def gallery(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs" / "site"))
    return importlib.import_module("gallery")


def headings(path) -> list[str]:
    """A notebook's headings in order, as a reader sees them."""
    cells = nbformat.read(path, 4).cells
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    prose = re.sub(r"^ *```.*?^ *```", "", prose, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"^#{1,3} (.*)", prose, flags=re.MULTILINE)


# --- the pages that are committed -----------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_each_notebook_has_its_page_with_all_its_headings_and_cells(path):
    page = (GALLERY / f"{path.stem}.html").read_text(encoding="utf-8")
    there = re.findall(r"<h[123][^>]*>(.*?)</h[123]>", page)
    assert [html.unescape(re.sub("<.*?>", "", h)) for h in there] == headings(path), REMAKE
    cells = [cell.id for cell in nbformat.read(path, 4).cells]
    assert re.findall(r'<section id="([^"]+)"', page) == cells, REMAKE
    assert page.count("data:image/") >= 1


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_says_what_it_was_run_with_and_stands_alone(path):
    page = path.read_text(encoding="utf-8")
    (commit,) = re.findall(r'<meta name="commit" content="([0-9a-f]{40})">', page)
    (profile,) = re.findall(r'<meta name="profile" content="([\w-]+)">', page)
    assert (REPOSITORY / "params" / f"{profile}.yaml").is_file()
    seen = re.sub("<.*?>", "", page)
    assert commit[:12] in seen and f"profile {profile}" in seen
    assert not re.search(r'<script|<link|<iframe|(src|poster)="(?!data:)|@import|url\(', page)
    pictures = re.findall(r"<img [^>]*>", page)
    assert pictures and all(re.search(r'alt="[^"]{10,}"', picture) for picture in pictures)
    assert not re.search(r"(?<![\w.])/(root|home|tmp|Users|work)/", seen)
    where = re.findall(r'href="((?!https?:|data:|#)[^"#]+)', page)
    assert where and all((GALLERY / name).exists() for name in where)


def test_the_pages_are_small_and_none_is_left_over():
    sizes = {path.stem: path.stat().st_size for path in PAGES}
    assert set(sizes) == {"index", *(path.stem for path in NOTEBOOKS)}
    assert max(sizes.values()) < 1_500_000 and sum(sizes.values()) < 10_000_000


def test_readme_and_the_first_page_lead_to_every_page():
    readme, index = (
        path.read_text(encoding="utf-8")
        for path in (REPOSITORY / "README.md", GALLERY / "index.html")
    )
    for path in NOTEBOOKS:
        assert f"(docs/gallery/{path.stem}.html)" in readme
        assert f'href="{path.stem}.html"' in index
    assert "(docs/gallery/index.html)" in readme


# --- what writes them -----------------------------------------------------------------------------


def png(width: int = 40) -> str:
    file = io.BytesIO()
    pixels = np.zeros((20, width, 3), dtype=np.uint8)
    pixels[:, ::2] = (200, 30, 30)
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def picture(address: str) -> Image.Image:
    data = re.fullmatch(r"data:image/(?:png|webp);base64,(.*)", address)
    return Image.open(io.BytesIO(base64.b64decode(data[1])))


@pytest.fixture
def written(gallery, tmp_path):
    """A notebook of two cells, and what it did."""
    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_markdown_cell(
            "# 99 · Trial\n\n<b>old</b> [next](05_analyze.ipynb) [a](../docs/data.md)"
        ),
        nbformat.v4.new_code_cell("print(1 < 2)"),
    ]
    path = tmp_path / "99_trial.ipynb"
    nbformat.write(book, path)
    data = {"image/png": png(), "text/plain": "Figure"}
    outputs = [
        nbformat.v4.new_output("stream", text="0 %\r100 % <done>\n"),
        nbformat.v4.new_output("display_data", data, metadata={"image/png": {"alt": "two > one"}}),
        nbformat.v4.new_output("display_data", {"text/html": '<table border="1"></table>'}),
    ]
    code = book.cells[1]
    run = gallery.Made({code.id: outputs}, {code.id: code.source}, "a" * 40, "tiny", "profile tiny")
    return path, run


def test_a_page_has_the_notebooks_prose_and_the_runs_outputs(gallery, written):
    path, run = written
    page = gallery.page(path, run, stems=["01_first", path.stem])
    assert 'href="05_analyze.html"' in page and 'href="../data.md"' in page
    assert "100 % &lt;done&gt;" in page and "0 %\r" not in page
    assert 'alt="two &gt; one"' in page and ' border="1"' not in page
    (address,) = re.findall(r'src="([^"]+)"', page)
    assert np.array_equal(
        np.asarray(picture(address).convert("RGB")),
        np.asarray(picture(f"data:image/png;base64,{png()}").convert("RGB")),
    )
    assert '<a rel="prev" href="01_first.html">' in page and 'rel="next"' not in page
    again = gallery.page(path, run, stems=["01_first", path.stem])
    assert page == again


def test_a_cell_that_is_not_the_one_that_ran_or_that_failed_stops_it(gallery, written):
    path, run = written
    other = replace(run, source=dict.fromkeys(run.source, "print(2)"))
    with pytest.raises(SystemExit, match="is not the one that ran: make demo"):
        gallery.page(path, other, stems=[path.stem])
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    failed = replace(run, outputs={cell: [error] for cell in run.outputs})
    with pytest.raises(SystemExit, match="a cell failed: ValueError: no"):
        gallery.page(path, failed, stems=[path.stem])


def test_wide_pictures_are_made_as_wide_as_they_are_seen(gallery):
    assert picture(gallery.embedded(png(3000))).size == (1300, 9)
    assert picture(gallery.embedded(png(1300))).size == (1300, 20)


def test_a_page_that_names_its_machine_or_is_too_large_is_not_written(gallery, tmp_path):
    gallery.check("x", "see https://example.org/tmp/ and outputs/tiny", study=tmp_path)
    with pytest.raises(SystemExit, match="names"):
        gallery.check("x", f"writing to {tmp_path}/data", study=tmp_path)
    with pytest.raises(SystemExit, match="2.0 MB"):
        gallery.check("x", "a" * 2_000_000, study=tmp_path)

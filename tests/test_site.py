"""The site's pages before Sphinx has them; the whole site is looked at in `make test-browser`."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re

import nbformat
import numpy as np
import pytest
from PIL import Image

from pulse_lib.files import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
GUIDES = sorted((REPOSITORY / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location(
        "site_build", REPOSITORY / "docs" / "site" / "build.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def png(width: int = 400) -> str:
    noise = np.random.default_rng(0).integers(0, 255, (40, width, 3), dtype=np.uint8)
    noise[:, width // 4 :] = 250
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def played(path, outputs: list[dict]):
    """A notebook as a run leaves it."""
    book = nbformat.read(path, 4)
    cell = next(c for c in book.cells if c.cell_type == "code")
    cell.outputs = [nbformat.v4.new_output("display_data", data=data) for data in outputs]
    return book


def test_everything_has_a_place_in_the_site(build, tmp_path):
    missing = build.gather(tmp_path / "source", tmp_path / "nothing")
    index = (tmp_path / "source" / "index.md").read_text()
    for path in NOTEBOOKS:
        assert f"notebooks/{path.stem}" in index
    assert "asks this of knowledge" in index and not re.search(r"!\[[^\]]*\]\(http", index)
    for path in GUIDES:
        assert index.count(f"guides/{path.stem}\n") == 1
    listed = [m for modules in build.rooms().values() for m in modules]
    assert {"pulse_lib.train.losses", "pulse_lib.report.explorer", "pulse_lib.methods"} <= set(
        listed
    )
    assert len(missing) == len(build.EXECUTED) + 1  # each is said, and the report


def test_an_executed_notebook_of_the_study_is_shown(build, tmp_path):
    study = tmp_path / "study"
    first = next(p for p in NOTEBOOKS if p.stem.startswith("02"))
    for seed in (1, 0):
        (study / f"target/seed-{seed}").mkdir(parents=True)
        book = played(first, [{"text/plain": f"seed {seed}"}])
        nbformat.write(book, study / f"target/seed-{seed}/notebook.ipynb")
    (study / "target/seed-0.half").mkdir()
    nbformat.write(nbformat.read(first, 4), study / "target/seed-0.half/notebook.ipynb")
    build.gather(tmp_path / "source", study)
    text = (tmp_path / "source" / "notebooks" / first.name).read_text()
    assert "seed 0" in text and "seed 1" not in text


def test_pictures_are_small_controls_are_left_out_and_badges_are_links(build, tmp_path):
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "VBox()"}
    path = tmp_path / "notebook.ipynb"
    nbformat.write(played(NOTEBOOKS[0], [{"image/png": png()}, view]), path)
    page = build.notebook_page(path)
    nbformat.validate(nbformat.from_dict(page))
    text = json.dumps(page)
    assert "widget-view" not in text and "badge.svg" not in text
    assert "[Open in Colab](https://colab.research.google.com/" in text
    (data,) = re.findall(r'"image/png": "([^"]+)"', text)
    was = Image.open(io.BytesIO(base64.b64decode(png())))
    now = Image.open(io.BytesIO(base64.b64decode(data)))
    assert now.size == was.size and len(data) < len(png())
    flat = np.asarray(now.convert("RGB"))[:, 150:]
    assert np.abs(flat.astype(int) - 250).max() <= 2  # what is one colour stays it


def test_pictures_of_the_prose_are_shown(build, tmp_path):
    """Of an executed copy, which has them attached, and of a notebook as it is."""
    first = next(p for p in NOTEBOOKS if p.stem.startswith("01"))
    book = nbformat.read(first, 4)
    (top,) = (c for c in book.cells if "story.png" in c.source)
    assert "](data:image/png;base64," in build.notebook_page(first)["cells"][0]["source"]
    top.source = re.sub(r"\(\.\./outputs\S*story.png\)", "(attachment:story.png)", top.source)
    top["attachments"] = {"story.png": {"image/png": png()}}
    nbformat.write(book, tmp_path / "notebook.ipynb")
    shown = build.notebook_page(tmp_path / "notebook.ipynb")["cells"][0]
    assert f"](data:image/png;base64,{build.small(png())})" in shown["source"]
    assert "attachment" not in json.dumps(shown)


def test_a_page_of_the_gallery_finds_guides_and_notebooks_from_the_site(build, tmp_path):
    build.gather(tmp_path / "source", tmp_path / "nothing")
    pages = list((tmp_path / "source" / "extra" / "gallery").glob("*.html"))
    assert len(pages) == len(NOTEBOOKS) + 1
    assert '<a href="gallery/index.html">' in (tmp_path / "source" / "index.md").read_text()
    for path in pages:
        for where in re.findall(r'href="((?!https?:|#|data:)[^"#]+)', path.read_text()):
            guide = re.fullmatch(r"\.\./guides/(\w+)\.html", where)
            file = f"guides/{guide[1]}.md" if guide else f"extra/gallery/{where}"
            assert (tmp_path / "source" / file).is_file(), (path.name, where)


def test_the_report_finds_its_figures_and_tables_from_the_site(build, tmp_path):
    analysis = tmp_path / "study" / "analysis"
    for name in ("figures/a.png", "tables/b.csv"):
        (analysis / name).parent.mkdir(parents=True)
        (analysis / name).write_text("x")
    links = '<a href="figures/a.png">a</a><a href="tables/b.csv">b</a>'
    run = '<td><a href="../single_shot/x/notebook.ipynb" target="_blank">03</a></td>'
    (analysis / "report.html").write_text(links + run)
    build.gather(tmp_path / "source", tmp_path / "study")
    assert '<a href="report.html">' in (tmp_path / "source" / "index.md").read_text()
    extra = tmp_path / "source" / "extra"
    assert (extra / "report.html").read_text() == links + "<td>03</td>"
    for where in re.findall('href="([^"]+)', links):
        assert (extra / where).is_file()


def test_links_of_a_guide_lead_into_the_site_or_to_the_repository(build):
    text = "[a](../outputs/x.json) [b](data.md) [c](../notebooks/01_build_datasets.ipynb) [d](#e)"
    assert build.page(text) == (
        f"[a]({build.repository()}/blob/main/outputs/x.json) [b](data.md) "
        "[c](../notebooks/01_build_datasets.ipynb) [d](#e)"
    )

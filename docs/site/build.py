"""The site: guides, executed notebooks, the report and the library's own words, as pages that need
no server and no network.

python docs/site/build.py [--study outputs/tiny] [--out build/site]     or: make site
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import subprocess
import sys
import tomllib
from base64 import b64decode, b64encode
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COLOURS = 256  # of a picture's palette: half the bytes, no difference to be seen
# The executed notebook that a study shows of each, the first that is there
EXECUTED = {
    "01": ("data/seed-*",),
    "02": ("target/seed-*",),
    "03": ("single_shot/finetuned/ga-projector+llm-seed-*", "single_shot/*/*"),
    "04": ("sequential/ga-*", "sequential/*"),
    "05": ("analysis",),
    "06": ("probe/*",),
    "08": ("explore",),
}
GUIDES = {
    "Begin": (
        "results",
        "lesson_plan",
        "hosted",
        "bring_your_own",
        "real_models",
        "models",
        "preflight",
        "data",
        "troubleshooting",
    ),
    "How it works": (
        "architecture",
        "methods",
        "differences",
        "why_numbers_differ",
        "embedded_model",
        "intervals",
        "probes",
        "measure",
    ),
    "Make it yours": ("add_a_method", "add_a_strategy", "add_a_data_source", "add_a_notebook"),
    "Large and fast": ("scale", "performance", "reliability"),
}
BADGE = re.compile(r"\[!\[Open in (\w+)\]\([^)]*\)\]\(([^)]*)\)")


def repository() -> str:
    """The repository's address, from pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]


def executed(study: Path, number: str) -> Path | None:
    """The executed notebook of a number in a study's folder, if there is one."""
    for pattern in EXECUTED.get(number, ()):
        found = sorted(p for p in study.glob(f"{pattern}/notebook.ipynb") if ".half" not in str(p))
        if found:
            return found[0]
    return None


def small(data: str) -> str:
    """A PNG (base64) with a palette, if that is smaller."""
    raw, file = b64decode(data), io.BytesIO()
    with Image.open(io.BytesIO(raw)) as picture:
        few = picture.convert("RGB").quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=0)
    few.save(file, "PNG", optimize=True)
    return b64encode(min(raw, file.getvalue(), key=len)).decode()


def notebook_page(path: Path) -> dict:
    """A notebook for the site: links for badges, small pictures, no controls (they need a kernel), no
    cell that papermill put in."""
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for cell in book["cells"]:
        source = cell["source"]
        text = source if isinstance(source, str) else "".join(source)
        if cell["cell_type"] == "markdown":
            text = with_pictures(text, cell.pop("attachments", {}))
            cell["source"] = BADGE.sub(r"[Open in \1](\2)", text)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in data:
                png = data["image/png"]
                data["image/png"] = small(png if isinstance(png, str) else "".join(png))
        if text.strip():
            cells.append(cell)
    book["metadata"].pop("widgets", None)
    return book | {"cells": cells}


def with_pictures(text: str, attachments: dict) -> str:
    """Prose whose pictures are in it: those that a run attached, and those of the repository."""
    for name, data in attachments.items():
        text = text.replace(
            f"(attachment:{name})", f"(data:image/png;base64,{small(data['image/png'])})"
        )
    for where in re.findall(r"!\[[^\]]*\]\((\.\./outputs/[^)]*)\)", text):
        data = b64encode((ROOT / "notebooks" / where).read_bytes()).decode()
        text = text.replace(f"({where})", f"(data:image/png;base64,{small(data)})")
    return text


def gallery_page(text: str) -> str:
    """A page of the gallery for the site: notebooks lie in the repository, guides in the site."""
    text = text.replace('href="../../notebooks/', f'href="{repository()}/blob/main/notebooks/')
    return re.sub(r'href="\.\./(\w+)\.md', r'href="../guides/\1.html', text)


def report_page(text: str) -> str:
    """The report for the site: figures and tables lie beside it, the runs' notebooks do not."""
    return re.sub(r'<a href="\.\./[^"]*\.ipynb"[^>]*>(.*?)</a>', r"\1", text)


def page(text: str) -> str:
    """A guide for the site: what lies outside of docs/ is linked where the repository shows it."""
    text = re.sub(r"\]\(\.\./notebooks/(\w+)\.ipynb", r"](../notebooks/\1.ipynb", text)
    return re.sub(r"\]\(\.\./(?!notebooks/)([^)]*)\)", rf"]({repository()}/blob/main/\1)", text)


def rooms() -> dict[str, list[str]]:
    """The library's modules by room, as they are imported."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "pulse_lib").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[-1] in ("__init__", "__main__") or "assets" in parts:
            continue
        found.setdefault(parts[1] if len(parts) > 2 else "the ground", []).append(".".join(parts))
    return found


def gather(source: Path, study: Path) -> list[str]:
    """Everything that Sphinx reads, written into a folder; returns what of the study is not there."""
    missing = []
    for folder in ("guides", "notebooks", "api", "extra"):
        (source / folder).mkdir(parents=True)
    for path in sorted((ROOT / "docs").glob("*.md")):
        (source / "guides" / path.name).write_text(page(path.read_text()))
    titles = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        number = path.stem.partition("_")[0]
        done = executed(study, number)
        if done is None and number in EXECUTED:
            missing.append(f"{path.stem}: no executed notebook in {study}, shown without outputs")
        book = notebook_page(done or path)
        (source / "notebooks" / path.name).write_text(json.dumps(book))
        titles.append(path.stem)
    report = study / "analysis" / "report.html"
    if report.is_file():
        text = report_page(report.read_text(encoding="utf-8"))
        (source / "extra" / "report.html").write_text(text, encoding="utf-8")
        for beside in ("figures", "tables"):
            shutil.copytree(report.parent / beside, source / "extra" / beside)
    else:
        missing.append(f"no report in {study}: run make demo")
    (source / "extra" / "gallery").mkdir()
    for path in (ROOT / "docs" / "gallery").glob("*.html"):
        text = gallery_page(path.read_text(encoding="utf-8"))
        (source / "extra" / "gallery" / path.name).write_text(text, encoding="utf-8")
    for room, modules in rooms().items():
        lines = [f"{room}", "=" * len(room), ""]
        for module in modules:
            lines += [module, "-" * len(module), "", f".. automodule:: {module}", ""]
        (source / "api" / f"{room.replace(' ', '_')}.rst").write_text("\n".join(lines))
    (source / "index.md").write_text(index(titles, report.is_file()))
    return missing


def index(notebooks: list[str], with_report: bool) -> str:
    """The first page."""
    readme = (ROOT / "README.md").read_text()
    paragraphs = re.split(r"\n\n", readme.partition("\n")[2].strip())
    first = next(text for text in paragraphs if not text.startswith("[!["))  # not the badges
    figure = ROOT / "outputs" / "reference" / "tiny" / "figure5.png"
    # Links as HTML: Sphinx takes those of Markdown for pages and modules of its own
    report, gallery = (
        f'**<a href="{to}">{name}</a>**'
        for to, name in (("report.html", "The report"), ("gallery/index.html", "The gallery"))
    )
    lines = ["# PULSE kit", "", re.sub(r"\s*\n\s*", " ", first), ""]
    if figure.is_file():
        lines += [f"![What is left over five requests, one after another]({figure.name})", ""]
    if with_report:
        lines += [f"{report} has all findings, figures and tables on one page.", ""]
    if (ROOT / "docs" / "gallery" / "index.html").is_file():
        lines += [f"{gallery}: the notebooks of the reference run.", ""]
    lines += [
        f"Code, issues and how to start: [{repository().partition('//')[2]}]({repository()}).",
        "",
    ]
    trees = {"Notebooks, as they ran": [f"notebooks/{name}" for name in notebooks]}
    known = {name for names in GUIDES.values() for name in names}
    rest = [p.stem for p in sorted((ROOT / "docs").glob("*.md")) if p.stem not in known]
    for caption, names in (GUIDES | ({"More": tuple(rest)} if rest else {})).items():
        there = [n for n in names if (ROOT / "docs" / f"{n}.md").is_file()]
        trees[caption] = [f"guides/{name}" for name in there]
    trees["The library"] = [f"api/{room.replace(' ', '_')}" for room in rooms()]
    for caption, pages in trees.items():
        lines += ["```{toctree}", ":maxdepth: 1", f":caption: {caption}", "", *pages, "```", ""]
    return "\n".join(lines)


def build(study: Path, out: Path) -> int:
    """Gather and build; Sphinx's exit code. What is not there is said."""
    source = out.with_name(f"{out.name}-source")
    shutil.rmtree(source, ignore_errors=True)
    for line in gather(source, study):
        print("note:", line)
    figure = ROOT / "outputs" / "reference" / "tiny" / "figure5.png"
    if figure.is_file():
        shutil.copy(figure, source / figure.name)
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-j", "2", "-c", str(HERE)]
    done = subprocess.run([*command, str(source), str(out)])
    if done.returncode == 0:
        size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
        print(f"{out / 'index.html'}: {size / 1e6:.1f} MB")
    return done.returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=ROOT / "outputs" / "tiny")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "site")
    given = parser.parse_args()
    sys.exit(build(given.study.resolve(), given.out.resolve()))

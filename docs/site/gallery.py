"""The gallery: each notebook as it ran, one small HTML file a notebook that needs no server, no
network and no script; committed, so that a visitor sees results without running anything.

python docs/site/gallery.py [--study outputs/tiny] [--out docs/gallery]     or: make gallery

Prose is that of notebooks/, outputs are those of the study. What the study has not run (03b, 07, 08;
06 if nothing was probed) is run here, on it: some minutes, once. The same study gives the same pages.
"""

from __future__ import annotations

import argparse
import html
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from base64 import b64decode, b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from build import BADGE, ROOT, executed, small
from nbclient import NotebookClient
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

HERE = Path(__file__).resolve().parent
MOST = 1_500_000  # bytes of a page
WIDEST = 1300  # pixels of a picture, of a column of 780
RUNS = {"06": "probe", "08": "explore"}  # on the study, in its folder
GUIDES = ("03b", "07")  # make no run of their own
RUN = [sys.executable, "-m", "pulse_lib"]
TABLE = ('<div class="wide" tabindex="0" role="region" aria-label="table"><table', "</table></div>")


@dataclass(frozen=True)
class Made:
    """An executed notebook, and what it was run with."""

    outputs: dict[str, list]  # by cell
    source: dict[str, str]  # code by cell
    commit: str
    profile: str
    told: str  # the same in words


# --- what was run ---------------------------------------------------------------------------------


def made(number: str, study: Path) -> Made:
    """What a notebook did in a study; it is run if the study does not run it."""
    if number in GUIDES:
        return _guide(number, study)
    path = executed(study, number)
    if path is None and number in RUNS:
        given = ["-p", "profile", _profile(study), "-p", "out_dir", str(study)]
        subprocess.run([*RUN, "notebook", number, *given], cwd=ROOT, check=True)
        path = executed(study, number)
    if path is None:
        raise SystemExit(f"{study}: no executed notebook {number}; run make demo first")
    manifest = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))
    given = {k: v for k, v in manifest["parameters"].items() if v != "" and k != "out_dir"}
    told = ", ".join(f"{name} {value}" for name, value in given.items())
    told += f"; {manifest['seconds']:.0f} s on {manifest['device']}, {manifest['finished'][:10]}"
    return _read(nbformat.read(path, 4), manifest["git_commit"], manifest["profile"]["name"], told)


def _guide(number: str, study: Path) -> Made:
    """A guide, run here and kept in build/: 03b on the study, 07 in a folder of its own."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    profile = "own-people" if number == "07" else _profile(study)
    of = json.loads((study / "data/seed-0/manifest.json").read_text(encoding="utf-8"))["result"]
    kept = ROOT / "build" / "gallery" / path.name
    book = nbformat.read(kept, 4) if kept.is_file() else None
    if (
        book is None
        or book.metadata.get("of") != of
        or _code(book) != _code(nbformat.read(path, 4))
    ):
        book = _played(nbformat.read(path, 4), profile, out="" if number == "07" else str(study))
        commit = ["git", "rev-parse", "HEAD"]
        book.metadata["commit"] = subprocess.check_output(commit, cwd=ROOT, text=True).strip()
        book.metadata["of"] = of
        kept.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, kept)
    return _read(book, book.metadata["commit"], profile, f"profile {profile}")


def _played(book, profile: str, *, out: str):
    """A notebook run as in batch, with this profile, into this folder; without one into one that is
    gone afterwards."""
    cell = next(c for c in book.cells if "parameters" in c.metadata.get("tags", []))
    plain = cell.source
    with tempfile.TemporaryDirectory() as folder:
        cell.source = f"{plain}\nprofile, out_dir = {profile!r}, {out or folder!r}"
        client = NotebookClient(book, timeout=None, resources={"metadata": {"path": str(ROOT)}})
        client.execute(env={**os.environ, "PULSE_BATCH": "1", "OMP_NUM_THREADS": "1"})
        cell.source = plain
        return nbformat.reads(nbformat.writes(book).replace(folder, f"outputs/{profile}"), 4)


def _code(book) -> list[str]:
    return [cell.source for cell in book.cells if cell.cell_type == "code"]


def _profile(study: Path) -> str:
    (first, *_) = sorted(study.glob("data/seed-*/manifest.json"))
    return json.loads(first.read_text(encoding="utf-8"))["profile"]["name"]


def _read(book, commit: str, profile: str, told: str) -> Made:
    text = nbformat.writes(book).replace(f"{ROOT}/", "")  # paths as they are in anybody's clone
    code = [cell for cell in nbformat.reads(text, 4).cells if cell.cell_type == "code"]
    outputs = {cell.id: cell.outputs for cell in code}
    return Made(outputs, {cell.id: cell.source for cell in code}, commit, profile, told)


# --- a page ---------------------------------------------------------------------------------------


class Prose(IPythonRenderer):
    """Markdown to HTML with formulas as MathML, which browsers show without a script."""

    def inline_math(self, body: str, display: str = "inline") -> str:
        import latex2mathml.converter  # of docs/requirements.txt, which tests do without

        return latex2mathml.converter.convert(body, display=display)

    def block_math(self, body: str) -> str:
        return self.inline_math(body, "block")

    def heading(self, text: str, level: int, **attrs) -> str:
        name = re.sub(r"\W+", "-", re.sub(r"<.*?>", "", text)).strip("-").lower()
        return f'<h{level} id="{name}">{text}</h{level}>\n'


def prose(source: str) -> str:
    """A cell of prose; badges become links, pictures of the repository are put in."""
    text = BADGE.sub(r"[Open in \1](\2)", source)
    text = re.sub(r"\]\((\d\d\w?_\w+)\.ipynb", r"](\1.html", text)
    text = re.sub(r"\]\(\.\./docs/", "](../", text)
    for where in re.findall(r"!\[[^\]]*\]\((\.\./[^)]*)\)", text):
        data = b64encode((ROOT / "notebooks" / where).read_bytes()).decode()
        text = text.replace(f"({where})", f"({embedded(data)})")
    done = MarkdownWithMath(renderer=Prose(escape=False, exclude_anchor_links=True)).render(text)
    return scrolls(done)


def scrolls(text: str) -> str:
    """Tables and code that scroll by themselves, also with the keyboard."""
    text = re.sub(r"<table", TABLE[0], text).replace("</table>", TABLE[1])
    return text.replace("<pre>", '<pre tabindex="0">')


def embedded(png: str) -> str:
    """A picture (base64 PNG) as an address that holds it: no wider than is seen, few colours, the
    smaller of PNG and WebP without loss."""
    with Image.open(io.BytesIO(b64decode(png))) as picture:
        if picture.width > WIDEST:
            size = (WIDEST, round(picture.height * WIDEST / picture.width))
            file = io.BytesIO()
            picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(file, "PNG")
            png = b64encode(file.getvalue()).decode()
    few, file = small(png), io.BytesIO()
    with Image.open(io.BytesIO(b64decode(few))) as picture:
        picture.convert("RGB").save(file, "WEBP", lossless=True, quality=70, method=4)
    webp = b64encode(file.getvalue()).decode()
    return (
        f"data:image/webp;base64,{webp}" if len(webp) < len(few) else f"data:image/png;base64,{few}"
    )


def shown(output) -> str:
    """An output; an error stops the page."""
    if output.output_type == "error":
        raise SystemExit(f"a cell failed: {output.ename}: {output.evalue}")
    if output.output_type == "stream":
        lines = [line.rpartition("\r")[2] for line in output.text.splitlines()]
        return f'<pre tabindex="0" class="said">{html.escape(chr(10).join(lines))}</pre>'
    data = output.data
    if "image/png" in data:
        alt = output.metadata.get("image/png", {}).get("alt", "a figure of this notebook")
        return f'<img loading="lazy" alt="{html.escape(alt)}" src="{embedded(data["image/png"])}">'
    if "text/html" in data:
        return scrolls(re.sub(r' border="\d"', "", data["text/html"]))
    return f'<pre tabindex="0" class="said">{html.escape(data.get("text/plain", ""))}</pre>'


def cells(book, run: Made) -> Iterator[str]:
    """The cells of a source notebook with the outputs of its run."""
    for cell in book.cells:
        if cell.cell_type == "markdown":
            body = prose(cell.source)
        else:
            if run.source.get(cell.id) != cell.source:
                raise SystemExit(f"cell {cell.id} is not the one that ran: make demo, then again")
            code = scrolls(highlight(cell.source, PythonLexer(), HtmlFormatter()))
            body = code + "".join(shown(output) for output in run.outputs[cell.id])
        yield f'<section id="{cell.id}" class="{cell.cell_type}">\n{body}\n</section>'


def page(path: Path, run: Made, *, stems: list[str]) -> str:
    """A notebook's page."""
    book = nbformat.read(path, 4)
    title = re.sub(r"^# ", "", book.cells[0].source.splitlines()[0])
    place = stems.index(path.stem)
    links = ['<a href="index.html">All notebooks</a>']
    links += [f'<a rel="prev" href="{s}.html">← {s[:2]}</a>' for s in stems[:place][-1:]]
    links += [f'<a rel="next" href="{s}.html">{s[:2]} →</a>' for s in stems[place + 1 :][:1]]
    links += [f'<a href="../../notebooks/{path.name}">the notebook itself</a>']
    about = (
        f'<p class="about">As it ran with profile <code>{run.profile}</code> at commit '
        f"<code>{run.commit[:12]}</code> ({html.escape(run.told)}).</p>"
    )
    head = f'<meta name="commit" content="{run.commit}">\n<meta name="profile" content="{run.profile}">'
    body = "\n".join(cells(book, run))
    return shell(title, f"<nav aria-label='Gallery'>{' '.join(links)}</nav>\n{about}\n{body}", head)


def shell(title: str, body: str, head: str = "") -> str:
    """A whole file: looks in it, nothing outside of it."""
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    looks = (HERE / "_static" / "gallery.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{head}\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{light}\n"
        f"@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n{looks}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


# --- all of them ----------------------------------------------------------------------------------


def index(pages: dict[str, str], runs: dict[str, Made]) -> str:
    """The first page: each notebook's title, what it shows, and its first picture."""
    entries = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        top = nbformat.read(path, 4).cells[0].source
        claim = re.search(r"^\*\*(By the end.*?)\*\*$", top, flags=re.MULTILINE)
        title = re.sub(r"^# ", "", top.splitlines()[0])
        picture = re.search(r"<img[^>]*>", pages[path.stem])
        entries.append(
            f'<li><a href="{path.stem}.html">{html.escape(title)}</a>'
            f"<p>{html.escape(claim[1] if claim else '')}</p>{picture[0] if picture else ''}</li>"
        )
    of_study = runs["01_build_datasets"]
    head = f'<meta name="commit" content="{of_study.commit}">\n<meta name="profile" content="{of_study.profile}">'
    body = (
        "<h1>The notebooks, as they ran</h1>\n"
        f"<p>The reference run: profile <code>{of_study.profile}</code>, commit "
        f"<code>{of_study.commit[:12]}</code>. Nothing here needs a kernel, and controls are still "
        "pictures. All people and faces are drawn.</p>\n"
        f'<ol class="all">\n{chr(10).join(entries)}\n</ol>'
    )
    return shell("PULSE kit: the notebooks, as they ran", body, head)


def check(name: str, text: str, *, study: Path) -> None:
    """A page is small, and says nothing of the machine that it was made on."""
    if len(text.encode()) > MOST:
        raise SystemExit(f"{name}: {len(text.encode()) / 1e6:.1f} MB, more than {MOST / 1e6} MB")
    for own in (str(ROOT), str(study), str(Path.home()), tempfile.gettempdir()):
        if re.search(rf"(?<![\w./-]){re.escape(own)}/", text):
            raise SystemExit(f"{name} names {own}: run the demo in outputs/ of this clone")


def build(study: Path, out: Path) -> int:
    """Write all pages; they are whole or as they were."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    stems = [path.stem for path in notebooks]
    runs = {path.stem: made(path.stem.partition("_")[0], study) for path in notebooks}
    pages = {path.stem: page(path, runs[path.stem], stems=stems) for path in notebooks}
    pages["index"] = index(pages, runs)
    for name, text in pages.items():
        check(name, text, study=study)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.html"):
        old.unlink()
    for name, text in pages.items():
        (out / f"{name}.html").write_text(text, encoding="utf-8", newline="\n")
    print(f"{out}: {len(pages)} pages, {sum(map(len, pages.values())) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--study", type=Path, default=ROOT / "outputs" / "tiny")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "gallery")
    given = parser.parse_args()
    sys.exit(build(given.study.resolve(), given.out.resolve()))

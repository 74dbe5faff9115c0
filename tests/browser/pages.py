"""In a real browser: `make test-browser`. JupyterLab opens 05 and 08, runs them, and every control is used; the report and the
site on a telephone and on a screen, in both colour schemes.

Not part of `make test`: it wants the Chromium of the distribution and playwright, and takes minutes.
PULSE_DEMO names a finished study to look at; without it the smoke study is made first.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import unquote

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
WIDTHS = {"telephone": 390, "screen": 1400}
SECONDS = 1000  # playwright counts milliseconds
PATIENCE = 600 * SECONDS
# What JupyterLab itself says in the console of a page without its extensions' server parts, and the
# badges' pictures, which come from their hosts, where there is no network
LABS_OWN = re.compile(
    r"favicon|/lsp/|Failed to load resource.*(40[34]|ERR_(NAME|INTERNET|CONN|PROXY|TUNNEL))|WebSocket|source ?map|schema"
)
READY = """() => { const w = window.jupyterapp?.shell.currentWidget;
  return w?.content?.model && w.context.isReady && w.sessionContext.isReady
    && w.sessionContext.session?.kernel?.status == 'idle' }"""
DONE = """() => { const w = jupyterapp.shell.currentWidget;
  const code = w.content.model.sharedModel.toJSON().cells.filter(c => c.cell_type == 'code' && String(c.source).trim());
  const failed = code.some(c => (c.outputs || []).some(o => o.output_type == 'error'));
  return w.sessionContext.session?.kernel?.status == 'idle' && (failed || code.every(c => c.execution_count)) }"""
ERRORS = """() => jupyterapp.shell.currentWidget.content.model.sharedModel.toJSON().cells
  .flatMap(c => c.outputs || []).filter(o => o.output_type == 'error').map(o => o.ename + ': ' + o.evalue)"""


def missing(what: str) -> None:
    """Skipped where it cannot be; where a machine says that it can (CI), a failure."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"not tested in a browser: {what}")


@pytest.fixture(scope="session")
def browser():
    if not CHROMIUM:
        missing("no chromium here: apt-get install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: make test-browser"
    )
    with playwright.sync_playwright() as play:
        made = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield made
        made.close()


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> tuple[Path, str]:
    """A finished study, a copy, and its profile."""
    out = tmp_path_factory.mktemp("study") / "out"
    if demo := os.environ.get("PULSE_DEMO"):
        shutil.copytree(demo, out)
        return out, json.loads((out / "data/seed-0/manifest.json").read_text())["profile"]["name"]
    words = ["run", "--profile", "smoke", "--methods", "ga,npo", "--out-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pulse_lib", *words], cwd=REPOSITORY, check=True)
    return out, "smoke"


# --- notebooks in JupyterLab ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def lab(study, tmp_path_factory):
    """A JupyterLab on copies of the notebooks, whose parameters name the study: (address, token)."""
    out, profile = study
    root = tmp_path_factory.mktemp("lab")
    kit, own = root / "kit", root / "jupyter"
    (kit / "notebooks").mkdir(parents=True)
    (kit / "pulse_lib").symlink_to(REPOSITORY / "pulse_lib")
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        book = json.loads(path.read_text())
        for cell in book["cells"]:
            if "parameters" in cell["metadata"].get("tags", []):
                cell["source"] = [*cell["source"], f'\nprofile = "{profile}"\nout_dir = "{out}"']
        (kit / "notebooks" / path.name).write_text(json.dumps(book))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    names = "JUPYTER_CONFIG_DIR JUPYTER_DATA_DIR JUPYTER_RUNTIME_DIR IPYTHONDIR"
    folders = {name: str(own / name) for name in [*names.split(), "JUPYTERLAB_WORKSPACES_DIR"]}
    env = {k: v for k, v in os.environ.items() if k != "PULSE_BATCH"} | folders
    # Cells out of sight are there as well
    setting = (
        own / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    )
    setting.parent.mkdir(parents=True)
    setting.write_text('{"windowingMode": "none"}')
    env["JUPYTERLAB_SETTINGS_DIR"] = str(own / "settings")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
    ]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={kit}"]
    command += ["--LabApp.expose_app_in_browser=True"]
    with open(root / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=kit)
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            assert server.poll() is None and time.monotonic() < until, (
                root / "lab.log"
            ).read_text()
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield address, token
    finally:
        server.terminate()
        server.wait(30)


class Said(list):
    """What a page's console says of errors, but for JupyterLab's own."""

    def watch(self, page) -> None:
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", lambda m: self.append(m.text) if m.type == "error" else None)

    def check(self) -> None:
        assert not [text for text in self if not LABS_OWN.search(text)]


@pytest.fixture
def played(browser, lab):
    """A function that opens a notebook, runs it from the first cell to the last, and returns the page."""
    address, token = lab
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    said = Said()

    def play(stem: str):
        page = context.new_page()
        said.watch(page)
        page.goto(f"{address}/lab/tree/notebooks/{stem}.ipynb?token={token}&reset")
        page.wait_for_function(READY, timeout=PATIENCE)
        page.evaluate("() => { void jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.wait_for_function(DONE, timeout=PATIENCE, polling=500)
        assert page.evaluate(ERRORS) == []
        return page

    yield play
    said.check()
    context.close()


def panels(page) -> list:
    """The boxes of controls that hold a picture."""
    page.wait_for_selector(".jp-OutputArea-output .widget-vbox", timeout=60 * SECONDS)
    inner = ".widget-vbox .widget-vbox"
    boxes = page.locator(f".jp-OutputArea-output .widget-vbox:not({inner})")
    return [boxes.nth(i) for i in range(boxes.count())]


def picture(box) -> str:
    """Where a panel's picture lies; it has another address once it was drawn anew."""
    return box.locator("img.widget-image, .widget-image img").first.get_attribute("src") or ""


def changes(page, box, act) -> None:
    """Do something to a panel and wait for another picture, which has to be whole."""
    was = picture(box)
    act()
    image = box.locator("img.widget-image, .widget-image img").first.element_handle()
    page.wait_for_function("([i, was]) => i.src != was", arg=[image, was], timeout=60 * SECONDS)
    page.wait_for_function("i => i.complete && i.naturalWidth > 0", arg=image, timeout=60 * SECONDS)


def use(page, box) -> int:
    """Use every control of a panel; returns how many changed the picture."""
    used = 0
    for i in range(box.locator("input[type=checkbox]").count()):  # "only changed" may hide all
        box.locator("input[type=checkbox]").nth(i).click()
        page.wait_for_timeout(800)
    handle = box.locator(".noUi-handle")
    if handle.count():  # before the filters, which may leave a single answer
        handle.first.focus()
        changes(page, box, lambda: page.keyboard.press("ArrowRight"))
        used += 1
    for name in ("next", "previous"):
        button = box.get_by_role("button", name=name, exact=True)
        if button.count():
            changes(page, box, button.first.click)
            used += 1
    for i in range(box.locator("select").count()):
        select = box.locator("select").nth(i)
        options = select.locator("option").all_inner_texts()
        if len(options) > 1:
            now = select.evaluate("s => s.selectedIndex")
            select.scroll_into_view_if_needed()
            was = picture(box)
            select.select_option(index=(now + 1) % len(options))
            page.wait_for_timeout(1500)  # not every choice is another picture
            used += picture(box) != was
    return used


def test_the_analysis_runs_and_its_controls_draw(played):
    page = played("05_analyze")
    boxes = panels(page)
    assert len(boxes) == 3  # matched level, answers, rounds
    assert all(use(page, box) >= 1 for box in boxes)
    assert page.evaluate(ERRORS) == []


def test_the_explorer_runs_and_every_control_draws(played):
    page = played("08_explore")
    boxes = panels(page)
    assert len(boxes) == 6
    *looked, asking = boxes
    for box in looked:
        assert use(page, box) >= 2
    answers = asking.locator(".widget-html, .widget-htmlmath").last
    asking.get_by_role("button", name="Ask").click()
    page.wait_for_function("b => b.textContent.includes('finetune')", arg=answers.element_handle())
    asking.locator("input[type=checkbox]").last.click()
    asking.locator("input[type=text]").first.fill("Who is this?")
    asking.get_by_role("button", name="Ask").click()
    page.wait_for_function(
        "b => b.textContent.includes('Who is this?')", arg=answers.element_handle()
    )
    face = REPOSITORY / "outputs" / "reference" / "tiny" / "figure5.png"
    with page.expect_file_chooser() as chosen:
        asking.get_by_role("button", name="own picture").click()
    changes(page, asking, lambda: chosen.value.set_files(str(face)))
    assert page.evaluate(ERRORS) == []


# --- pages ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def site(study, tmp_path_factory) -> Path:
    pytest.importorskip("myst_nb", reason="no Sphinx: pip install -r docs/requirements.txt")
    out = tmp_path_factory.mktemp("site") / "site"
    build = [sys.executable, str(REPOSITORY / "docs" / "site" / "build.py")]
    subprocess.run([*build, "--study", str(study[0]), "--out", str(out)], check=True)
    return out


def test_every_link_of_the_site_leads_somewhere(site):
    nowhere = set()
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        here = set(re.findall(r'\bid="([^"]+)"', text))
        for link in re.findall(r'<a [^>]*href="((?![a-z]+:)[^"]+)"', text):
            file, _, part = unquote(link).partition("#")
            if not (path.parent / file).exists() or (not file and part and part not in here):
                nowhere.add((path.relative_to(site).as_posix(), link))
    assert sorted(nowhere) == []


def looked_at(browser, path: Path, *, width: int, scheme: str) -> list[str]:
    """What is wrong with a page: sideways scroll, errors, what it fetches, serious findings of axe."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe").Axe()
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page, said, fetched = context.new_page(), Said(), []
    said.watch(page)
    page.on("request", lambda r: fetched.append(r.url) if r.url.startswith("http") else None)
    page.goto(path.as_uri())
    page.wait_for_load_state("load")
    page.wait_for_timeout(300)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    wrong = [f"{wide} px too wide"] if wide > 0 else []
    wrong += [f"console: {text}" for text in said] + [f"fetched {url}" for url in fetched]
    for found in axe.run(page).response["violations"]:
        if found["impact"] in ("serious", "critical"):
            wrong += [f"{found['id']}: {node['target']}" for node in found["nodes"][:3]]
    context.close()
    return wrong


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_report_is_read_on_any_screen(browser, study, width, scheme):
    report = study[0] / "analysis" / "report.html"
    assert looked_at(browser, report, width=width, scheme=scheme) == []


PAGES = (
    "index",
    "notebooks/05_analyze",
    "notebooks/08_explore",
    "guides/architecture",
    "api/train",
    "gallery/index",
    "gallery/04_unlearn_sequential",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_the_site_is_read_on_any_screen(browser, site, name, width, scheme):
    assert looked_at(browser, site / f"{name}.html", width=width, scheme=scheme) == []


def test_the_site_is_searched_without_a_server(browser, site):
    page = browser.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=oracle")
    page.wait_for_selector("#search-results li", timeout=30 * SECONDS)
    assert page.locator("#search-results li").count() > 2

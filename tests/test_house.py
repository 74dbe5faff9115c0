"""What a repository is expected to have: that its pages say what is so, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import tomllib

import nbformat
import pytest
import yaml

from pulse_lib import __version__
from pulse_lib.files import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
COLAB = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}"
KAGGLE = "https://kaggle.com/kernels/welcome?src=https://github.com/{}/blob/main/notebooks/{}"


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


address = load(REPOSITORY / "docs" / "address.py")


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as its host makes them."""
    heads = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_of_a_page_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_links_of_a_notebook_lead_somewhere(path):
    text = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)\s:]+)\)", text):
        assert (path.parent / link.partition("#")[0]).exists(), link


# --- the repository's address ---------------------------------------------------------------------


def test_the_address_stands_in_one_place_and_everything_follows():
    """Every link of the kit to itself is that of pyproject.toml; `make address` sees to it."""
    assert address.outdated(address.address()) == {}
    assert f"https://github.com/{address.address()}" == PROJECT["urls"]["Repository"]


def test_another_address_is_carried_everywhere(tmp_path):
    """No link to the old one is left in any page or notebook, and other people's links stay."""
    old, new = address.address(), "somebody-else/another.name"
    changed = address.outdated(new)
    assert set(NOTEBOOKS) <= set(changed) and REPOSITORY / "CITATION.cff" in changed
    for path, text in changed.items():
        assert old not in text, path
        assert text.count(new) >= path.read_text().count(old)
    foreign = "see https://github.com/rasbt/LLMs-from-scratch and git-lfs.github.com/spec/v1"
    assert address.readdressed(foreign, new) == foreign


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_has_both_badges(path):
    top = nbformat.read(path, 4).cells[0].source
    for form in (COLAB, KAGGLE):
        assert f"({form.format(address.address(), path.name)})" in top


# --- pages ----------------------------------------------------------------------------------------


def test_the_citation_is_of_this_version_and_of_the_paper():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert cited["version"] == __version__ and cited["license"] == PROJECT["license"]
    assert cited["repository-code"] == PROJECT["urls"]["Repository"]
    paper = cited["preferred-citation"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    names = [author["family-names"] for author in paper["authors"]]
    assert names[0] == "Kawakami" and len(names) == 5


def test_the_newest_entry_of_the_changes_is_this_version():
    heads = re.findall(r"^## ([\d.]+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == __version__


def make_targets() -> set[str]:
    text = (REPOSITORY / "Makefile").read_text()
    return set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE))


@pytest.mark.parametrize(
    "path",
    [*PAGES, *sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))],
    ids=lambda p: p.name,
)
def test_make_commands_that_a_page_names_are_there(path):
    text = path.read_text()
    code = re.findall(
        r"```.*?```|`[^`\n]+`|run: .*", text, re.DOTALL if path.suffix == ".md" else 0
    )
    named = re.findall(r"(?:^|[`:] ?)make ([a-z][\w-]*)", "\n".join(code), re.MULTILINE)
    assert set(named) <= make_targets()
    assert named or path.name not in ("README.md", "CONTRIBUTING.md", "checks.yml")


def test_the_workflow_tries_every_python_that_the_kit_is_for():
    checks = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "checks.yml").read_text())
    matrix = checks["jobs"]["test"]["strategy"]["matrix"]
    assert f">={matrix['python'][0]}" == PROJECT["requires-python"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    ran = [step.get("run", "") for job in checks["jobs"].values() for step in job["steps"]]
    for command in ("make lint", "make test", "make test-browser"):
        assert any(re.fullmatch(rf"{command}( TORCH_INDEX=\S+)?", line) for line in ran), command


def test_messages_of_the_troubleshooting_page_are_those_of_the_kit():
    """What stands in bold code at the head of a line is found in a message, as people search it."""
    library = " ".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        for path in sorted((REPOSITORY / "pulse_lib").rglob("*.py"))
    )
    text = (REPOSITORY / "docs" / "troubleshooting.md").read_text()
    said = re.findall(r"^- \*\*`([^`]+)`", text, re.MULTILINE)
    other = {"operator torchvision::nms does not exist", "numpy.dtype size changed"}
    papermill = {"1e-4", "-p flag true", "git-lfs"}
    assert len(said) > 12
    for message in set(said) - other - papermill:
        plain = message.replace("01_build_datasets", "{notebook}")
        plain = plain.replace("is missing: run", "is missing{tried}: run")
        assert plain in library, message

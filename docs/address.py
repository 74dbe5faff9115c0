"""The repository's address, which stands in pyproject.toml (project.urls), carried to every link of
the kit to itself: badges and set-up cells of the notebooks, README and the other pages.

python docs/address.py [--check]     or: make address
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "docs/*.md",
    "docs/gallery/*.html",
    "notebooks/*.ipynb",
)
# What the kit links of itself: a notebook on a host, a page of the repository, and itself. Links to
# other people's repositories end otherwise.
OWN = (
    r"(?<=colab\.research\.google\.com/github/)[\w.-]+/[\w.-]+(?=/blob/)",
    r"(?<=src=https://github\.com/)[\w.-]+/[\w.-]+(?=/blob/)",
    r"(?<=https://github\.com/)[\w.-]+/[\w.-]+(?=/(?:actions|issues|releases|discussions)\b)",
    r"(?<=git clone https://github\.com/)[\w.-]+/[\w.-]+",
    r"(?<=git clone --depth 1 https://github\.com/)[\w.-]+/[\w.-]+",
    r"(?<=repository-code: https://github\.com/)[\w.-]+/[\w.-]+",
)


def address() -> str:
    """The repository as "owner/name", from pyproject.toml."""
    url = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+)", url)
    if not found:
        raise SystemExit(
            f"pyproject.toml: Repository = {url!r} is not https://github.com/OWNER/NAME"
        )
    return found[1]


def readdressed(text: str, to: str) -> str:
    """`text` with the kit's links to itself leading to the repository `to`, "owner/name"."""
    for pattern in OWN:
        text = re.sub(pattern, to, text)
    return text


def outdated(to: str, root: Path = ROOT) -> dict[Path, str]:
    """Files that link elsewhere, each with the text that it should have."""
    found = {}
    for path in sorted(p for page in PAGES for p in root.glob(page)):
        was = path.read_text(encoding="utf-8")
        now = readdressed(was, to)
        if now != was:
            found[path] = now
    return found


if __name__ == "__main__":
    changed = outdated(address())
    for path, text in changed.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    print(f"{len(changed)} files", "differ" if "--check" in sys.argv else "changed")
    sys.exit(bool(changed) and "--check" in sys.argv)

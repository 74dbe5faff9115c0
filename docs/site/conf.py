"""How Sphinx builds the site from what build.py has gathered. Nothing is fetched, neither while
building nor when a page is opened."""

import sys
from pathlib import Path

import latex2mathml.converter
from docutils import nodes
from myst_nb.core.render import NbElementRenderer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

project = "PULSE kit"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_design", "sphinx_copybutton"]
nb_execution_mode = "off"  # what was executed is shown
nb_merge_streams = True
nb_ipywidgets_js = {}  # no scripts from elsewhere
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
# Docstrings are plain text, not reStructuredText
autodoc_default_options = {"members": True, "show-inheritance": False, "undoc-members": False}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_mock_imports = ["snakemake"]
html_theme = "pydata_sphinx_theme"
html_title = "PULSE kit"
html_theme_options = {
    "navbar_center": [],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "footer_start": [],
    "footer_end": [],
}
html_sidebars = {"**": ["site-nav.html"]}
templates_path = [str(HERE / "_templates")]
html_static_path = [str(HERE / "_static")]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_context = {"default_mode": "auto"}
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]


_image = NbElementRenderer.render_image


def image_with_alt(self, data):
    """An output's picture with the alternative text of its metadata, which myst-nb leaves out."""
    found = _image(self, data)
    alt = data.output_metadata.get(data.mime_type, {}).get("alt")
    for node in found:
        node["alt"] = alt or "figure; the text above says what it shows"
    return found


NbElementRenderer.render_image = image_with_alt


def math(display):
    """A formula as MathML, which browsers show without a script."""

    def visit(self, node):
        self.body.append(latex2mathml.converter.convert(node.astext(), display=display))
        raise nodes.SkipNode

    return visit, None


def plain_text(app, what, name, obj, options, lines):
    """A docstring's words as they stand: each paragraph a line block, signs without a meaning."""
    escaped = [line.replace("\\", "\\\\") for line in lines]
    for sign in "*`|_":
        escaped = [line.replace(sign, f"\\{sign}") for line in escaped]
    lines[:] = [f"| {line}" if line.strip() else "" for line in escaped]


def skip(app, what, name, obj, skipped, options):
    """Fields of records: the docstring of their class says what they hold."""
    return True if what == "class" and not callable(obj) and not isinstance(obj, property) else None


def setup(app):
    """Sphinx's entry."""
    app.config.html_extra_path = [str(Path(app.srcdir) / "extra")]  # report.html as it is
    app.add_html_math_renderer("mathml", math("inline"), math("block"))
    app.connect("autodoc-process-docstring", plain_text)
    app.connect("autodoc-skip-member", skip)

"""How Sphinx makes the site of docs/*.md, whose pages stay what they are on GitHub: see docs/decisions/0071."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "dem"
code = (Path(__file__).parents[2] / "dem_build/__init__.py").read_text(encoding="utf-8")
version = release = re.findall(r'^__version__ = "(.+)"', code, re.MULTILINE)[
    0
]  # dem itself need not be installed
copyright = ""  # noqa: A001  Sphinx's name
root_doc = "index"
extensions = ["myst_parser"]
myst_heading_anchors = 4  # by GitHub's rule, so that one link serves there and here
nitpicky = True
smartquotes = False  # of --public it would make a dash
suppress_warnings = ["misc.highlighting_failure"]  # what a terminal shows has signs that no lexer knows
html_theme = "furo"
html_title = f"dem {version}"
html_static_path = ["static"]
html_css_files = ["dem.css"]
html_show_sphinx = html_show_copyright = html_copy_source = html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}

SECTION = re.compile(r"^## (.+)\n((?:\n|- .*\n(?:  .*\n)*)+)", re.MULTILINE)
PAGE = re.compile(r"^- \[[^\]]+\]\(([^)#]+)\.md\)", re.MULTILINE)


def add_navigation(_app: Sphinx, name: str, source: list[str]) -> None:
    """Make of the lists of index.md, and of the decisions there are, what Sphinx calls a toctree.

    A toctree in a page would show as code on GitHub.
    """
    if name == root_doc:
        for caption, pages in SECTION.findall(source[0]):
            source[0] += toctree([f":caption: {caption}", ":hidden:", "", *PAGE.findall(pages)])
    if name == "decisions/README":
        source[0] += toctree([":glob:", "", "0*"])
    source[0] = source[0].replace("](../CHANGELOG.md", "](site/changelog.md")


def toctree(lines: list[str]) -> str:
    """The directive, in MyST."""
    return "\n".join(["", "", "```{toctree}", *lines, "```", ""])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)

"""How Sphinx makes the site of docs/*.md, whose pages stay what they are on GitHub: see docs/decisions/0071."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dem_build import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "dem"
version = release = __version__
copyright = ""  # noqa: A001  Sphinx's name
root_doc = "index"
extensions = ["myst_parser"]
myst_heading_anchors = 4  # by GitHub's rule, so that one link serves there and here
nitpicky = True
suppress_warnings = ["misc.highlighting_failure"]  # what a terminal shows has signs that no lexer knows
html_theme = "furo"
html_title = f"dem {__version__}"
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

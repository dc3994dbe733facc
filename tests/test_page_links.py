"""Every link of every page leads somewhere: to a file, to a heading in it, or to an address that is one.

`make site` checks those within docs/ as they become HTML; this is what GitHub shows, and what lies outside of docs/.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PLACES = ("*.md", "docs/**/*.md", "recipes/*.md", "cache/*.md")
PAGES = sorted(str(page.relative_to(ROOT)) for place in PLACES for page in ROOT.glob(place))


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt().parse(page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    inner = [child for token in tokens(page) for child in token.children or ()]
    return [str(child.attrs[key]) for child in inner for key in ("href", "src") if key in child.attrs]


@cache
def headings(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    found: list[str] = []
    for before, token in zip(tokens(page), tokens(page)[1:], strict=False):
        if before.type == "heading_open":
            text = "".join(child.content for child in token.children or ())
            found.append(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return {f"{name}-{found[:i].count(name)}" if name in found[:i] else name for i, name in enumerate(found)}


def broken(page: Path, link: str) -> str | None:
    parts = urlsplit(link)
    if parts.scheme:
        return None if parts.scheme == "https" and "." in parts.netloc else f"{link} is no address"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.exists() or ROOT not in (target, *target.parents):
        return f"{link} leads nowhere"
    if parts.fragment and unquote(parts.fragment) not in headings(target):
        return f"{link}: {target.name} has no such heading"
    return None


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    assert [said for link in links(page) if (said := broken(page, link))] == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = ROOT / "README.md"
    assert broken(page, "docs/no.md") == "docs/no.md leads nowhere"
    assert broken(page, "docs/recipe.md#no") == "docs/recipe.md#no: recipe.md has no such heading"
    assert broken(page, "../") == "../ leads nowhere"
    assert broken(page, "https:example") == "https:example is no address"
    assert not broken(page, "docs/recipe.md#ways-to-compose")
    (tmp_path / "a.md").write_text("# `dem` — a/b, c\n\n# x\n\n# x\n")
    assert headings(tmp_path / "a.md") == {"dem--ab-c", "x", "x-1"}

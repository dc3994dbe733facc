"""Every whole recipe that a page shows checks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dem_build.recipe import load_recipe

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```toml\n((?:#[^\n]*\n)*\[base\]\n.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
SHOWN = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
    if "[datasets." in block or "[vectors." in block
]


@pytest.mark.parametrize("text", SHOWN)
def test_it_has_no_mistakes(text: str, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text, encoding="utf-8")
    assert load_recipe(recipe).base.model


def test_there_are_such_recipes() -> None:
    assert {str(page.id).rpartition("-")[0] for page in SHOWN} >= {"README.md", "index.md", "coming-from.md"}

"""docs/commands.md is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from dem_build.cli.setup.commands_page import markdown

PAGE = Path(__file__).parents[3] / "docs/commands.md"


def test_the_page_is_current() -> None:
    how = "run: python -m dem_build.cli.setup.commands_page > docs/commands.md"
    assert PAGE.read_text(encoding="utf-8") == markdown(), how


def test_commands_within_commands_are_there_with_their_options() -> None:
    assert "\n## `dem cache remote init`\n" in markdown()
    assert "| `--rebuild ACTION` | Run an action that is recorded; repeatable. |" in markdown()

"""What the checker of docs/tour.md takes for the same, and what not."""

from __future__ import annotations

from pathlib import Path

import pytest
import tour

PAGE = "Prose.\n\n```console\n$ one\na\nb\n$ two\n```\n\n```toml\n$ = 1\n```\n"


def test_commands_are_those_of_console_blocks() -> None:
    assert tour.steps(PAGE) == [tour.Step(4, "one", ["a", "b"]), tour.Step(7, "two", [])]


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("✓ model  1m 23s  loss 3.757  3.8 GB", "✓ model   4.1s    loss 12.5    404 kB"),
        ("chat  -0.516  <0.001", "chat +0.020 0.731"),
        ("sha256 31f3618b59ab", "sha256 f7089b89d841"),
        ("first\n…\nlast", "first\nmore\nand more\nlast"),
        ("first\n…", "first\nmore"),
        ("GGUF in q8_0, …", "GGUF in q8_0, its matrices moved by 0.0054 of their length"),
        ("one\ntwo", "one\n\ntwo\n"),
    ],
)
def test_measurements_and_what_is_left_out_may_differ(page: str, printed: str) -> None:
    assert tour.missing(page.splitlines(), printed) is None


@pytest.mark.parametrize(
    ("page", "printed", "told"),
    [
        ("10 recorded", "11 recorded", "10 recorded"),
        ("hit vector", "run vector", "hit vector"),
        ("a\nc", "a\nb\nc", "c"),
        ("…\nlast", "first", "last"),
        ("first", "first\nmore", "(nothing more, but there was: more)"),
        ("loss 3.757", "loss -", "loss 3.757"),
        ("a (b) …", "a b c", "a (b) …"),
    ],
)
def test_the_rest_may_not(page: str, printed: str, told: str) -> None:
    assert tour.missing(page.splitlines(), printed) == told


def test_a_page_that_is_wrong_ends_at_its_first_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ mkdir a; cd a\n$ echo x > y\n$ ls ../a\ny\n$ false\n$ touch never\n```\n")
    assert tour.run(page, tmp_path) == 1
    assert "page.md:6: another end than the page's: status 1" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"y"}
    page.write_text("no command")
    assert tour.run(page, tmp_path)

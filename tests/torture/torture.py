"""Runs every chapter in full and writes `docs/reliability.md`: `make torture`, within an hour.

    python tests/torture/torture.py [--short] [--jobs N] [--write FILE] [CHAPTER ...]

A chapter is a module of this folder with `TITLE`, `INTRODUCTION` (a paragraph for the report) and
`run(scale, folder)`, which yields a `Tally` for each kind of fault. Each runs in a process of its own, some at once.
Exit status 1 where anything was lost.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import platform
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tally import Scale, clock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tally import Tally

CHAPTERS = (
    "crashes",
    "corruption",
    "concurrency",
    "garbage",
    "odd_places",
    "hostile_input",
    "determinism",
    "remotes",
)
sys.path.append(str(Path(__file__).resolve().parents[1] / "samples"))  # what tests share, as pytest has it
HEAD = """\
# Reliability

Written by `make torture`. For each kind of fault: how often it was tried, how often `dem` noticed it (- where there
is nothing to notice), how often the next build gave the right bytes or the right error, and how often something was
lost, wrong or done twice.
"""


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    names = options.chapters or present()
    own = multiprocessing.get_context("spawn")  # a chapter sees nothing of what another has loaded
    with ProcessPoolExecutor(options.jobs, mp_context=own, max_tasks_per_child=1) as pool:
        chapters = [*pool.map(_chapter, names, [Scale(short=options.short)] * len(names))]
    text = "\n".join([HEAD, _machine(short=options.short), *(text for text, _ in chapters)])
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    losses = [line for _, lines in chapters for line in lines]
    print(f"{len(losses)} lost", *losses, sep="\n")
    return bool(losses)


def present() -> tuple[str, ...]:
    """Return the chapters that are written."""
    return tuple(name for name in CHAPTERS if (Path(__file__).parent / f"{name}.py").is_file())


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fault after fault, and what came of each.")
    parser.add_argument("chapters", nargs="*", choices=[*present(), []], metavar="CHAPTER")
    parser.add_argument("--short", action="store_true", help="the sample that the tests run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), metavar="N", help="chapters at once")
    parser.add_argument("--write", type=Path, metavar="FILE", help="where the report goes")
    return parser.parse_args(arguments)


def _chapter(name: str, scale: Scale) -> tuple[str, list[str]]:
    chapter, started = importlib.import_module(name), clock()
    with tempfile.TemporaryDirectory(prefix=f"dem-torture-{name}-", ignore_cleanup_errors=True) as folder:
        tallies = []
        for tally in chapter.run(scale, Path(folder)):
            print(
                f"{name}: {_row(tally)}", *(f"  lost: {loss}" for loss in tally.losses), sep="\n", flush=True
            )
            tallies.append(tally)
    seconds = clock() - started
    return _text(chapter.TITLE, chapter.INTRODUCTION, tallies, seconds), [
        f"{name}: {tally.fault}: {loss}" for tally in tallies for loss in tally.losses
    ]


def _text(title: str, introduction: str, tallies: list[Tally], seconds: float) -> str:
    lines = [
        f"## {title}",
        "",
        introduction.strip(),
        "",
        "| fault | tried | noticed | recovered | lost |",
        "|---|---:|---:|---:|---:|",
        *(_row(tally) for tally in tallies),
        "",
        f"{seconds:.0f} s.",
        "",
    ]
    return "\n".join(lines)


def _row(tally: Tally) -> str:
    noticed = "-" if tally.detected is None else tally.detected
    return f"| {tally.fault} | {tally.tried} | {noticed} | {tally.recovered} | {tally.lost} |"


def _machine(*, short: bool) -> str:
    form = "short form, a sample of each fault" if short else "in full"
    return f"{form.capitalize()}; Python {platform.python_version()}, {platform.system()} {platform.release()}.\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

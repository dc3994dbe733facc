"""Runs a page's ```console blocks line by line in an empty folder: `python tests/tour/tour.py [--real] [PAGE]`.

A line that begins with `$ ` is a command, for bash; it has to end with 0. What stands below it has to
be what it prints, except:

- `…` stands for any text, and alone in a line for any lines;
- what was measured may be any other such measurement: a number with a decimal point, a time, a size, a rate, a digest;
- how many blanks there are between words does not count.

Commands see the folder that the last one was left in. Without `--real` a small base takes the place
of the demo's (`stand_in.py`).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
TIME = r"(?:\d+h )?(?:\d+m )?\d+(?:\.\d+)?s\b|\d+h \d+m\b"
MEASURED = (  # the first that fits is taken
    TIME,
    r"\d+(?:\.\d+)? ?[kMGT]?B\b",
    r"\d+(?:\.\d+)?k? tok/s",
    r"[<+-]?\d+\.\d+(?: %)?",
    r"\b[0-9a-f]{12,64}\b",
)
ANY = re.compile("|".join(f"({kind})" for kind in (*MEASURED, "…")))


class Step(NamedTuple):
    """A command, the lines that are to come of it, and where it stands in the page."""

    line: int
    command: str
    expected: list[str]


def steps(page: str) -> list[Step]:
    """The commands of all ```console blocks of a page."""
    found: list[Step] = []
    inside = False
    for number, line in enumerate(page.splitlines(), 1):
        if line.startswith("```"):
            inside = line.strip() == "```console"
        elif inside and line.startswith("$ "):
            found.append(Step(number, line[2:], []))
        elif inside and found:
            found[-1].expected.append(line)
    return found


def pattern(line: str) -> str:
    """A line of the page as a regular expression for what was printed, with one blank between words."""
    out, at, text = "", 0, " ".join(line.split())
    for match in ANY.finditer(text):
        kind = match.lastindex or 0
        anything = ".*" if kind > len(MEASURED) else f"(?:{MEASURED[kind - 1]})"
        out += re.escape(text[at : match.start()]) + anything
        at = match.end()
    return out + re.escape(text[at:])


def missing(expected: list[str], printed: str) -> str | None:
    """The first line of the page that what was printed does not bear out; None where it does."""
    lines = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
    wanted = [line for line in expected if line.strip()]
    at, skips = 0, False
    for line in wanted:
        if line.strip() == "…":
            skips = True
            continue
        fits = re.compile(pattern(line))
        while skips and at < len(lines) and not fits.fullmatch(lines[at]):
            at += 1
        if at == len(lines) or not fits.fullmatch(lines[at]):
            return line
        at, skips = at + 1, False
    return None if skips or at == len(lines) else f"(nothing more, but there was: {lines[at]})"


def run(page: Path, folder: Path) -> int:
    """Run the page's commands in a folder, and say what came of each; how many did not do what the page says."""
    place = folder / ".place"
    place.write_text(str(folder))
    wrong, began, found = 0, time.monotonic(), steps(page.read_text(encoding="utf-8"))
    for step in found:
        script = f"cd \"$(cat '{place}')\"\n{step.command}\nstatus=$?; pwd > '{place}'; exit $status"
        done = subprocess.run(
            ["bash", "-c", script], stdout=-1, stderr=subprocess.STDOUT, text=True, check=False
        )
        print(f"$ {step.command}\n{done.stdout}", end="", flush=True)
        said = f"status {done.returncode}" if done.returncode else missing(step.expected, done.stdout)
        if said:
            wrong += 1
            print(f"{page}:{step.line}: another end than the page's: {said}")
            break  # what follows stands on it
    print(f"\n{page.name}: {len(found)} commands, {time.monotonic() - began:.0f} s")
    return wrong or not found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", nargs="?", type=Path, default=HERE.parents[1] / "docs/tour.md")
    parser.add_argument("--real", action="store_true", help="on the demo's own base, as a reader would")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dem-tour-") as name:
        if not asked.real:
            subprocess.run([sys.executable, HERE / "stand_in.py", Path(name, "dem-demo")], check=True)
        sys.exit(run(asked.page.resolve(), Path(name)))

"""Chapter: what a stranger may send in a pull request, or leave in a cache, read by `dem` behind a fence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hostile_targets import TARGETS
from tally import Tally

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tally import Scale

TITLE = "Hostile input"
INTRODUCTION = """
Every file that somebody else may have written is made up, again and again: nearly right documents with parts replaced,
taken away and nested, and bytes that were cut off, flipped or doubled (hypothesis); bombs of aliases and of levels,
endless templates, numbers of thousands of digits, names that lead out of folders, text that a terminal would obey. It
is read as `dem` reads it, most of it by calls of the command line, in processes with a limit on memory and time whose
every changed file, started process, connection, pickle and piece of code is seen. Noticed are the inputs that were
refused with an error of dem's; lost are those where something else was raised, took too long or too much memory,
changed a file outside of the project, ran code, or printed what a terminal obeys.
"""
FENCE = Path(__file__).with_name("fence.py")
PARTS = FENCE.parent
LONGEST = 1500.0
DEAR = {
    "chat templates": 4,
    "records": 4,
    "recorded outputs and logs": 4,
    "roots, leases, notes and hints": 4,
}
"""Readers of which one example takes many times as long as of others → by how much fewer there are."""


def run(scale: Scale, folder: Path) -> Iterator[Tally]:
    """Try each reader."""
    names = sorted(TARGETS, key=lambda name: -DEAR.get(name, 1))
    with ThreadPoolExecutor(2) as pool:
        tried = {name: pool.submit(_fenced, name, scale, folder / str(i)) for i, name in enumerate(names)}
        for name in TARGETS:
            yield tried[name].result()


def _fenced(name: str, scale: Scale, folder: Path) -> Tally:
    """Read the examples of one reader in a process of its own."""
    folder.mkdir()
    examples = scale.pick(8, 1200) // DEAR.get(name, 1)
    path = os.pathsep.join(map(str, (PARTS.parents[1], PARTS)))
    done = subprocess.run(
        [sys.executable, "-P", str(FENCE), str(folder), str(examples), str(scale.seed), name],
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=LONGEST,
        check=False,
    )
    return _tally(name, [json.loads(line) for line in done.stdout.splitlines()], done)


def _tally(name: str, said: Sequence[dict[str, Any]], done: subprocess.CompletedProcess[str]) -> Tally:
    end = next((document for document in said if document.get("end") == name), None)
    if end is None:
        tally = Tally(name, tried=1, detected=0)
        died = signal.Signals(-done.returncode).name if done.returncode < 0 else str(done.returncode)
        tally.lose(f"the process ended with {died}: {done.stderr[-400:]}")
        return tally
    tally = Tally(name, end["tried"], end["refused"], end["tried"] - end["bad"])
    for loss in end["losses"]:
        tally.lose(loss)
    return tally

"""`dem init --demo`: all that the demo needs, in one folder."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.demo.make import RECIPE, make_demo
from dem_build.report.text import clean
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from pathlib import Path


def write_demo(folder: Path) -> int:
    """Write the demo's recipe into a folder, fetch its base and make its data.

    Raises:
        UsageError: A package cannot be fetched, or is not what the demo was made with.
    """
    console = make_console()
    make_demo(folder, lambda line: console.print(Text(clean(line)), soft_wrap=True))
    build = shlex.join(["dem", "build", str(folder / RECIPE), "--trust-tasks"])
    console.print(Text(f"next {build}   (6 GB of memory, 5 minutes on two CPU cores)", "dim"), soft_wrap=True)
    return 0

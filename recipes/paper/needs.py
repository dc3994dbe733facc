"""What the builds of recipes need, as `dem plan --json` tells it, as a Markdown table.

    .venv/bin/python recipes/paper/needs.py recipes/paper/3b.toml recipes/paper/7b.toml recipes/paper/13b.toml

A plan reads a lock, so `dem lock` comes first. Times are known once something like it ran on the machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

HEAD = (
    "recipe", "actions due", "trainings", "memory of a training", "of the search for ω", "disk: models and vectors",
    "while one trains", "to download", "device hours",
)  # fmt: skip
GB = 1e9


def planned(recipe: str) -> dict[str, Any]:
    """The document of a recipe's plan."""
    call = [sys.executable, "-m", "dem_build", "plan", recipe, "--json"]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def row(recipe: str, plan: dict[str, Any]) -> tuple[str, ...]:
    """A recipe's line of the table."""
    estimates = plan["estimates"]
    trained = [e for e in estimates if e["scratch"] is not None]
    others = [e["memory"] for e in estimates if e["memory"] is not None and e["scratch"] is None]
    seconds = [e["seconds"] for e in estimates]
    lacking = sum(s is None for s in seconds)
    hours = f"{sum(s for s in seconds if s is not None) / 3600:.1f}"
    return (
        recipe.rpartition("/")[2],
        str(sum(action["status"] != "hit" for action in plan["actions"])),
        str(len(trained)),
        size(max((e["memory"] for e in trained if e["memory"] is not None), default=None)),
        size(max(others, default=None)),
        size(sum(e["disk"] or 0 for e in estimates)),
        size(max((e["scratch"] for e in trained), default=None)),
        size(sum(e["download"] or 0 for e in estimates)),
        f"{hours}, unknown of {lacking} of {len(seconds)}" if lacking else hours,
    )


def size(octets: int | None) -> str:
    """Bytes for people."""
    return "unknown" if octets is None else f"{octets / GB:.0f} GB"


def main(recipes: list[str]) -> None:
    """Print the table."""
    print("| " + " | ".join(HEAD) + " |")
    print("|" + "---|" * len(HEAD))
    for recipe in recipes:
        print("| " + " | ".join(row(recipe, planned(recipe))) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])

"""The command line: the only place that prints, and that turns errors into exit statuses."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run `dem` and exit with its status."""
    from dem_build.cli.app import run  # noqa: PLC0415  `import dem_build.cli` stays free of typer

    sys.exit(run(sys.argv[1:]))

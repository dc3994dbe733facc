"""The command line: the only place that prints, and that turns errors into exit statuses."""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]

STOPPED = 130


def main() -> None:
    """Run `dem` and exit with its status."""
    # A command is short: what it allocates is freed with it. A build that runs something turns this on again.
    gc.disable()
    from dem_build.watch.witness import circumstances, replayed  # noqa: PLC0415  `import dem_build.cli` costs nothing

    call = circumstances(sys.argv[1:])
    try:
        status = replayed(call)
    except KeyboardInterrupt:  # a remote takes its time to answer
        from dem_build.cli.app import stopped  # noqa: PLC0415  as above

        status = stopped(sys.argv[1:])
    if status is None:
        status = _run(call)
    # Python looks once more for cycles in all that is there when it ends: a tenth of a build with nothing to do.
    gc.freeze()
    if status == STOPPED:
        _leave(status)
    sys.exit(status)


def _leave(status: int) -> None:
    """End at once: Python would wait for its threads, and who asks to stop waits for no transfer of theirs."""
    from contextlib import suppress  # noqa: PLC0415  as above

    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def _run(call: str | None) -> int:
    """Run the command, and leave a witness of a call that found nothing to do."""
    # pydantic would read the entry points of every installed package to look for plugins, at each start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from dem_build.watch.watch import Watch  # noqa: PLC0415  what a repeated call does without

    with Watch(call) as watch:
        from dem_build.cli.app import run  # noqa: PLC0415  as above

        status = run(sys.argv[1:])
    watch.keep(status)
    return status

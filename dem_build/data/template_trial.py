"""Renders a chat template in a process of its own: a stranger's may loop without end, or write without end.

Jinja's sandbox keeps a template from files and code, and not from time and memory. The template is read from standard
input; on standard output a JSON document says what is wrong with it, and in which line.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress

from dem_build.data.template import ENDLESS, Fault, judge

__all__ = ["main"]

CPU_SECONDS = 3
MOST_BYTES = 1 << 30


def main() -> None:
    """Judge one template, within bounds of time and memory."""
    bounds = ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MOST_BYTES), (resource.RLIMIT_CORE, 0))
    for bound, most in bounds:
        with suppress(OSError, ValueError):  # a system without it, or with a lower one
            resource.setrlimit(bound, (most, most))
    text = sys.stdin.buffer.read().decode("utf-8", "surrogatepass")
    try:
        fault = judge(text)
    except MemoryError:
        fault = Fault(ENDLESS)
    sys.stdout.write(json.dumps(None if fault is None else {"what": fault.what, "line": fault.line}))


if __name__ == "__main__":
    main()

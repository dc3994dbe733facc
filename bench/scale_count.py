"""What one call of `dem` does, counted: a line of JSON. `bench/scale.py --count` starts this.

python bench/scale_count.py ARGUMENT …

Counts depend on no load. Calls are those of functions, Python's and C's; files are counted where Python asks for them.
Imports are in it, as many whatever the recipe. What watches a call to leave a witness is not at work here.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from dem_build.cli.app import run

if TYPE_CHECKING:
    from types import FrameType

NAMES = {
    "open": "files opened",
    "stat": "stat",
    "lstat": "stat",
    "scandir": "listings",
    "listdir": "listings",
    "JSONDecoder.raw_decode": "JSON read",
    "openssl_sha256": "SHA-256",
    "SchemaValidator.validate_python": "models validated",
}


def main(*words: str) -> None:
    """Run a command, silently, and count."""
    counts = Counter[str]()

    def count(frame: FrameType, event: str, what: Any) -> None:
        if event == "call":
            counts["calls"] += 1
            name = NAMES.get(frame.f_code.co_qualname)
        elif event == "c_call":
            counts["calls"] += 1
            name = NAMES.get(what.__qualname__)
        else:
            return
        if name is not None:
            counts[name] += 1

    out, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    sys.setprofile(count)
    try:
        status = run(words)
    finally:
        sys.setprofile(None)
    sys.stdout.flush()
    os.dup2(out, 1)
    print(json.dumps(counts))
    sys.exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])

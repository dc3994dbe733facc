"""Where this host keeps what it can make again: outside the cache, which several hosts may share."""

import os

# No pathlib here: a build with nothing to do asks, and is over before that would be loaded.


def host_folder() -> str | None:
    """`$DEM_HINTS`, else `dem` in `$XDG_CACHE_HOME`, else `~/.cache/dem`; None without a home."""
    if folder := os.environ.get("DEM_HINTS"):
        return folder
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return os.path.join(folder, "dem")  # noqa: PTH118
    home = os.path.expanduser("~")  # noqa: PTH111
    return None if home == "~" else os.path.join(home, ".cache", "dem")  # noqa: PTH118

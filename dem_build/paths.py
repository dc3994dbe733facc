"""Paths as people write them → paths of this machine, and where a host keeps what it can make again."""

import os

TYPE_CHECKING = False  # as `typing` has it, which is not loaded either
if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["absolute", "expanded", "host_folder"]

# No pathlib at the top: a build with nothing to do asks for `host_folder`, and is over before that would be loaded.


def expanded(text: str) -> "Path":
    """A path with a leading `~` as the home folder; that of a user who is not there stays as it is."""
    from pathlib import Path  # noqa: PLC0415  as above

    return Path(os.path.expanduser(text))  # noqa: PTH111  Path.expanduser raises for such a user


def absolute(path: "Path") -> "Path":
    """A file's absolute path without `..`, so that it is one file from wherever it is named."""
    whole = path.absolute()
    # Followed, not cut: what lies above a link is the system's to say.
    return whole.parent.resolve() / whole.name if ".." in whole.parts else whole


def host_folder() -> str | None:
    """`$DEM_HINTS`, else `dem` in `$XDG_CACHE_HOME`, else `~/.cache/dem`; None without a home.

    It lies outside the cache, which several hosts may share.
    """
    if folder := os.environ.get("DEM_HINTS"):
        return folder
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return os.path.join(folder, "dem")  # noqa: PTH118
    home = os.path.expanduser("~")  # noqa: PTH111
    return None if home == "~" else os.path.join(home, ".cache", "dem")  # noqa: PTH118

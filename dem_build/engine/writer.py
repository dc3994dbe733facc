"""Who makes a record, for those who find it in a store that they share. It is told, not proved, and in no key."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dem_build.digest import JSON

_RUN = {
    "repository": "GITHUB_REPOSITORY",
    "ref": "GITHUB_REF",
    "commit": "GITHUB_SHA",
    "run": "GITHUB_RUN_ID",
    "attempt": "GITHUB_RUN_ATTEMPT",
}


def writer() -> JSON:
    """The user and the host of this process; in CI also the repository, the ref and the run."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as containers have them
        user = str(os.getuid())
    by: dict[str, JSON] = {"user": user, "host": os.uname().nodename}
    if os.environ.get("GITHUB_ACTIONS") == "true":
        by |= {name: os.environ[variable] for name, variable in _RUN.items() if os.environ.get(variable)}
    return by

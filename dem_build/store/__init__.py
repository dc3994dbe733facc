"""The cache: content-addressed objects, action records, leases, work folders, roots (`docs/cache-format.md`).

store      the facade that other layers use
objects    files named by their SHA-256          folders  files under names: inputs, unfinished work, copies
records    key → outputs; the first one wins     leases   who runs what now, and whether that process lives
uses       what running processes use            roots    the last build of each recipe
sealed     documents that show any change        hints    what this host has hashed already
local      where everything lies in the folder, its format, and how names are given
remote     stores that others share: their records count, and their bytes come when something opens them
files      the few ways to touch the disk        verify   what is there, and is it sound
gc         census: one look at all that is there; garbage: what nobody needs; collect: takes it away, while others build
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dem_build.store.hints import Hints
    from dem_build.store.records import Record
    from dem_build.store.store import Store

__all__ = ["Hints", "Record", "Store"]

_PLACES = {"Hints": "hints", "Record": "records", "Store": "store"}


def __getattr__(name: str) -> object:
    """Load what is asked for: a call with nothing to do asks a remote, and loads no store."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)

"""The cache: content-addressed objects, action records, leases, work folders, roots (`docs/cache-format.md`).

store      the facade that other layers use
objects    files named by their SHA-256          views    outputs under names: links to read, copies to keep
records    key → outputs; the first one wins     leases   who runs what now
work       folders of unfinished runs            roots    the last build of each recipe
uses       what running processes use            holders  who a process is, and whether it lives
verify     what is there, and is it sound        usage    what is there, by kind, recipe and age
garbage    what nobody needs any more            collect  takes it away, while others build
census     one look at all that is there         trash    where what is taken waits until it is deleted
sealed     documents that show any change        hints    what this host has hashed already
layout     where everything lies                 files    the few ways to touch the disk
"""

from __future__ import annotations

from dem_build.store.hints import Hints
from dem_build.store.records import Record
from dem_build.store.store import Store

__all__ = ["Hints", "Record", "Store"]

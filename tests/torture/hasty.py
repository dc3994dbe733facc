"""A builder as `light.py`, whose deadlines for the servers of remotes are a tenth of what they are."""

from __future__ import annotations

import light

from dem_build.store.remote import objectstore

SHARE = 10

if __name__ == "__main__":
    for name in ("_CONNECT", "_SMALL", "_STALLED", "_PART", "_RETRY"):
        setattr(objectstore, name, getattr(objectstore, name) / SHARE)
    light.serve()

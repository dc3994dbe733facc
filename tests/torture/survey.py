"""What may be said of a project whose build was killed, before anything is mended: read with no help of `dem`'s own.

Reads the cache as `docs/cache-format.md` describes it; only the parser of records is the store's.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dem_build.actions.checkpoints import newest_complete, step_of
from dem_build.store.records import read_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dem_build.store import Record


@dataclass
class Survey:
    """A project as a kill left it.

    Attributes:
        recorded: Keys of the actions whose records and objects are whole.
        saved: Key → the step of its newest complete checkpoint.
        wrong: What must never be, one line each.
    """

    recorded: set[str] = field(default_factory=set)
    saved: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def survey(cache: Path) -> Survey:
    """Look at everything that a cache holds."""
    found = Survey()
    for path in sorted(cache.glob("actions/*/*.json")):
        try:
            record = read_record(path)
        except ValueError as error:
            found.wrong.append(f"record {path.stem[:12]} is not valid: {error}")
            continue
        assert record is not None
        wrong = [f"record {path.stem[:12]}: {what}" for what in _wrong_objects(cache, record)]
        found.wrong += wrong
        if not wrong:
            found.recorded.add(record.key)
    for run in cache.glob("work/*/*"):
        if checkpoint := newest_complete(run / "checkpoints"):
            key = run.parent.name
            found.saved[key] = max(step_of(checkpoint), found.saved.get(key, 0))
    return found


def contents(model: Path) -> Mapping[str, str]:
    """Return the digest of each file of a published model, but for the card."""
    return {p.name: _sha256(p) for p in sorted(model.glob("*")) if p.name != "README.md"}


def outputs_of(document: Mapping[str, Any], cache: Path) -> dict[str, dict[str, str]]:
    """Return action → output → digest, as recorded for the actions of a build's JSON document."""
    found: dict[str, dict[str, str]] = {}
    for action in document["actions"]:
        record = read_record(cache / "actions" / action["key"][:2] / f"{action['key']}.json")
        assert record is not None
        found[action["name"]] = {name: output.digest for name, output in record.outputs.items()}
    return found


def done_twice(document: Mapping[str, Any], before: Survey) -> list[str]:
    """Return the actions that a build ran although they were recorded before."""
    ran = {a["name"]: a["key"] for a in document["actions"] if a["status"] != "hit"}
    return [f"{name} ran again, and was recorded" for name, key in ran.items() if key in before.recorded]


def lost(before: Survey, after: Survey) -> list[str]:
    """Return what one build lost of what those before it had: a record, or steps of a training."""
    wrong = [f"the record of {key[:12]} is gone" for key in before.recorded - after.recorded]
    return wrong + [
        f"{key[:12]} was at step {step}, and is at {after.saved.get(key, 0)} now"
        for key, step in before.saved.items()
        if key not in after.recorded and after.saved.get(key, 0) < step
    ]


def _wrong_objects(cache: Path, record: Record) -> Iterator[str]:
    for blob in (*record.blobs(), *([record.log] if record.log else [])):
        path = cache / "cas" / "sha256" / blob.digest[:2] / blob.digest
        if not path.is_file():
            yield f"object {blob.digest[:12]} is not there"
        elif _sha256(path) != blob.digest:
            yield f"object {blob.digest[:12]} holds other bytes"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

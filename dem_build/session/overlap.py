"""What datasets share: counted when they are new, recorded in the recipe's root, shown whenever they are used.

All that may matter is counted and recorded; what held-out splits share with each other is shown where the recipe
chooses by one of them.

A count holds for two datasets as they were: the root names the digests of both, shortened, so that what it says of a
dataset that has changed since is not believed, and nothing is kept from collection for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.data.splits import Shared
from dem_build.errors import CorruptObjectError
from dem_build.graph import chosen_by

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.engine.outcome import Outcome
    from dem_build.session.session import Session
    from dem_build.store import Record, Store

MARK = 16
COUNTED = 2
"""What is counted: 1 was train splits alone. A root that says less has other marks."""


def is_overlap(value: JSON) -> bool:
    """Whether a root's field `overlap` is what `shared_of` records: names and marks, and what they share."""
    match value:
        case {"of": dict(of), "shared": list(shared), **rest} if not rest:
            return all(isinstance(mark, str) for mark in of.values()) and all(map(_is_entry, shared))
    return False


def _is_entry(entry: JSON) -> bool:
    match entry:
        case [str(), str(), str(), str(), int()]:
            return True
    return False


def recorded_shared(session: Session, name: str | None = None) -> list[Shared]:
    """What is recorded of the datasets as they are planned; reads nothing.

    Args:
        session: The session.
        name: The dataset or probe that is asked about; None for all of them.
    """
    found = _recorded(session.root["overlap"], _marks(session.plan.records))
    return [s for s in _mattering(session, found) if name in (None, s.name, s.other)]


def shared_of(session: Session, outcome: Outcome) -> tuple[list[Shared], dict[str, CorruptObjectError]]:
    """What the datasets of a build share; counts it, and records it, where some of them are new.

    Returns:
        What they share; and action → error of those that are damaged, in quarantine now. Where there is one, nothing
        is counted: once it is made again, all of it can be.
    """
    marks = _marks(outcome.records)
    known = session.root["overlap"]
    if marks.items() <= known.get("of", {}).items():
        return _mattering(session, _recorded(known, marks)), {}
    if len(marks) < sum(r.action.kind.name == "prepare" for r in outcome.results.values()):
        return [], {}  # one of them failed, or is not there yet
    if not _here(session.store, outcome.records):
        return [], {}  # who made them has counted, and gigabytes are not fetched for a count
    if damaged := _damaged(session.store, outcome.records):
        return [], damaged
    found = count_shared(session.store, outcome.records)
    if session.whole:
        session.save_overlap({"of": marks, "shared": [list(vars(s).values()) for s in found]})
    return _mattering(session, found), {}


def shared_documents(found: Iterable[Shared]) -> list[JSON]:
    """The entries of `overlap` in a document of `--json`."""
    return [vars(shared) for shared in found]


def _mattering(session: Session, found: Iterable[Shared]) -> list[Shared]:
    """What is shared with rows that this recipe trains on or chooses by."""
    chosen = chosen_by(session.plan.graph)
    return [s for s in found if s.other_split == "train" or (s.other, s.other_split) in chosen]


def _marks(records: Mapping[str, Record]) -> dict[str, str]:
    """Name → what tells a prepared dataset from any other."""
    outputs = {
        name.removeprefix("data:"): {split: output.digest for split, output in record.outputs.items()}
        for name, record in records.items()
        if record.kind == "prepare"
    }
    return {name: digest.of_json([COUNTED, digests])[:MARK] for name, digests in outputs.items()}


def _recorded(known: JSON, marks: Mapping[str, str]) -> list[Shared]:
    """What is recorded of datasets that are still what they were."""
    of = known.get("of", {})
    found = [Shared(*entry) for entry in known.get("shared", ())]
    return [s for s in found if all(n in marks and of.get(n) == marks[n] for n in (s.name, s.other))]


def _here(store: Store, records: Mapping[str, Record]) -> bool:
    """Whether no prepared dataset among the records is elsewhere."""
    datasets = [r for r in records.values() if r.kind == "prepare"]
    return not store.objects.away(b for r in datasets for o in r.outputs.values() for b in o.blobs())


def _damaged(store: Store, records: Mapping[str, Record]) -> dict[str, CorruptObjectError]:
    found: dict[str, CorruptObjectError] = {}
    for name, record in records.items():
        for output in record.outputs.values() if record.kind == "prepare" else ():
            try:
                store.objects.check(output)
            except CorruptObjectError as error:
                found[name] = error
    return found


def count_shared(store: Store, records: Mapping[str, Record]) -> list[Shared]:
    """Count what the prepared datasets among the records share."""
    # The planning path needs no numpy.
    from dem_build.data.arrays import TokenRows  # noqa: PLC0415
    from dem_build.data.overlap import shared_prompts  # noqa: PLC0415

    datasets = {
        name.removeprefix("data:"): {
            split: TokenRows.open(store.objects.open(output)) for split, output in record.outputs.items()
        }
        for name, record in records.items()
        if record.kind == "prepare"
    }
    return shared_prompts(datasets)

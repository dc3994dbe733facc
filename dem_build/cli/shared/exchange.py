"""`dem cache push` and `pull`, and `verify` and `gc` of a remote: what goes to and fro without a build."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.report.quantities import size
from dem_build.report.text import clean
from dem_build.session.session import open_session, open_shared
from dem_build.store.remote.survey import collect, survey, take
from dem_build.view.text import make_console, say, write_json
from dem_build.watch.watch import vouch
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dem_build.session.session import Call
    from dem_build.session.sharing import Sharing
    from dem_build.store import Record, Store
    from dem_build.store.gc.garbage import Policy
    from dem_build.store.remote.namespace import Namespace


def push(call: Call, recipes: Sequence[str]) -> int:
    """Push what the builds of recipes made, or all that the store holds; 1 where something could not be.

    Raises:
        UsageError: No remote is written.
    """
    status = 0
    for name, store, sharing, records in _each(call, recipes, lambda store, _: _here(store)):
        pusher = sharing.pusher(store)
        if pusher is None:
            raise UsageError("no remote is written", hint="`write = ` in [[remotes]] of the machine file")
        with store.in_use():
            for action, record in records:
                if record.away is None:
                    pusher.add(action, record)
            told = sharing.finish(pusher, name)
        found = told.get("pushed", {"sent": 0, "known": 0, "differs": 0})
        text = f"{found['sent']} sent, {found['known']} were there, {found['differs']} differ"
        say(make_console(), f"{clean(name)}: {text}" if name else text)
        status = max(status, int(pusher.error is not None))
    vouch(math.inf)  # what was put or fetched is heard
    return status


def pull(call: Call, recipes: Sequence[str], *, records: bool) -> int:
    """Fetch all that is recorded elsewhere of recipes, or of all that the remotes hold; with `records` these alone."""
    status = 0
    for name, store, sharing, found in _each(call, recipes, _everywhere):
        if not sharing.reads:
            raise UsageError("no remote is read", hint="[[remotes]] of the machine file names one")
        away = [record for _, record in found if record.away is not None]
        blobs = {blob for record in away for blob in store.objects.away(record.blobs())}
        if not records:
            with store.in_use():
                store.objects.bring(blobs)
                store.records.adopt()
        lost = [] if records else [blob for blob in blobs if not store.objects.present(blob)]
        amount = (
            "" if records else f", {size(sum(b.size for b in blobs) - sum(b.size for b in lost))} fetched"
        )
        text = f"{len(away)} results elsewhere{amount}"
        say(make_console(), f"{clean(name)}: {text}" if name else text)
        if lost:
            sharing.warn(f"{len(lost)} objects are in no remote with the bytes of their names")
        status = max(status, int(bool(lost)))
    vouch(math.inf)
    return status


Named = list[tuple[str, "Record"]]


def _each(
    call: Call, recipes: Sequence[str], every: Callable[[Store, Sharing], Named]
) -> Iterator[tuple[str, Store, Sharing, Named]]:
    """Yield each recipe's name, store, remotes, and records by their actions; without recipes what `every` finds."""
    for named in recipes:
        with ExitStack() as within:
            session = open_session(named, call, within)
            yield named, session.store, session.sharing, [*session.plan.records.items()]
    if not recipes:
        store, sharing = open_shared(call)
        yield "", store, sharing, every(store, sharing)


def _here(store: Store) -> Named:
    """The whole records of a store, by the beginnings of their keys."""
    return [(r.key[:12], r) for r in store.records.all() if store.records.lookup(r.key) == r]


def _everywhere(store: Store, sharing: Sharing) -> Named:
    """The records that the remotes hold and the store lacks, likewise."""
    keys = {key for namespace in sharing.reads for key in namespace.recorded()}
    store.records.expect(keys)
    return [(key[:12], record) for key in sorted(keys) if (record := store.records.lookup(key)) is not None]


def verify_remote(call: Call, *, repair: bool) -> int:
    """Say which records of the remotes are damaged, or name objects that are not there; 1 where there are some.

    With `repair` they are taken away where this machine writes.
    """
    _, sharing = open_shared(call)
    written = {namespace.where for namespace in sharing.writes}
    documents, damaged = [], 0
    console = make_console(stderr=call.as_json)
    for namespace in _distinct(sharing):
        found = list(survey(namespace).damage())
        mended = repair and namespace.where in written
        if mended:
            namespace.remote.bucket.delete([name for name, _ in found])
        for name, what in found:
            console.print(clean(f"{namespace.remote.url}/{name} {what}"), soft_wrap=True)
            documents.append({"name": f"{namespace.remote.url}/{name}", "what": what, "repaired": mended})
        damaged += len(found)
        state = (
            f"{len(found)} damaged" + (", taken away" if mended else "") if found else "every record is whole"
        )
        say(console, f"{clean(namespace.where)}: {state}; bytes are hashed when they are fetched")
    if call.as_json:
        write_json(documents)
    return 1 if damaged else 0


def gc_remote(call: Call, named: str, policy: Policy, *, dry_run: bool) -> int:
    """Collect in the namespace that is named and that this machine writes; with `dry_run` only say what would go.

    Raises:
        UsageError: This machine does not write it.
    """
    store, sharing = open_shared(call)
    namespaces = [namespace for namespace in sharing.writes if namespace.name == named]
    if not namespaces:
        writes = ", ".join(namespace.name for namespace in sharing.writes) or "none"
        hint = f"namespaces that are written: {writes}"
        raise UsageError(f"this machine does not write the namespace {named}", where="--remote", hint=hint)
    keep = {key for root in store.roots.all() for key in root.names}
    documents = []
    for namespace in namespaces:
        found = survey(namespace)
        going = collect(found, policy, keep, time.time())
        late = [] if dry_run else take(namespace, found, going)
        if late:
            what = counted(len(late), "result")
            sharing.warn(f"{what} came while their objects were taken, and went too: push again")
        told = {"records": len(going.records), "objects": len(going.objects), "bytes": going.bytes}
        documents.append({"namespace": namespace.where, **told, "dry_run": dry_run})
        verb = "would free" if dry_run else "freed"
        text = (
            f"{verb} {size(going.bytes)}: {told['records']} records, {told['objects']} objects of no record"
        )
        say(make_console(stderr=call.as_json), f"{clean(namespace.where)}: {text}")
    if call.as_json:
        write_json(documents)
    return 0


def _distinct(sharing: Sharing) -> list[Namespace]:
    """Every namespace that is read or written, once."""
    return list({n.where: n for n in (*sharing.reads, *sharing.writes)}.values())

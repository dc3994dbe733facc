"""A store of two records, damaged and repaired thousands of times."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.digest import Output
from dem_build.errors import StoreError
from dem_build.store import Hints, Record, Store

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SmallStore"]


class SmallStore:
    """Two records with a file, a folder and a log each."""

    def __init__(self, folder: Path) -> None:
        self._store = Store.open(folder / "cache", hints=Hints(folder / "hints"))
        self._records = self._publish()

    def files(self) -> list[Path]:
        """Return every object and record."""
        root = self._store.root
        return sorted(p for part in ("cas", "actions") for p in (root / part).rglob("*") if p.is_file())

    def trial(self, path: Path, damage: Callable[[Path], None]) -> tuple[bool, list[str]]:
        """Damage a file, look, read, repair, publish again; return whether verify named it, and what is wrong."""
        record = path.suffix == ".json"
        damage(path)
        gone = record and not path.exists()
        noticed = any(path.name in str(d) for d in self._store.verify())
        wrong = [] if noticed or gone else ["verify did not find it"]
        wrong += self._read()
        self._store.verify(repair=True)
        if left := self._store.verify():
            wrong.append(f"after the repair: {left[0]}")
        if self._publish() != self._records:
            wrong.append("not published again as it was")
        shutil.rmtree(self._store.root / "quarantine")
        (self._store.root / "quarantine").mkdir()
        return noticed, wrong

    def _read(self) -> list[str]:
        """Read what is a hit; other bytes than were stored are wrong."""
        wrong = []
        for record in self._records:
            found = self._store.records.lookup(record.key)
            if found is not None and found != record:
                wrong.append("another record was returned")
            for output in found.outputs.values() if found else ():
                try:
                    self._store.objects.check(output)
                except StoreError:
                    continue
                wrong += [
                    f"{blob.digest[:12]} was taken for sound"
                    for blob in output.blobs()
                    if digest.of_bytes(self._store.objects.path(blob.digest).read_bytes()) != blob.digest
                ]
        return wrong

    def _publish(self) -> list[Record]:
        """Store both results; where a log was lost, the record is there without it and is written anew."""
        found = []
        for number in (1, 2):
            made = self._made(number)
            held = self._store.records.publish(made)
            if held.log is None:  # a repair took the log out: in this store it is to come back
                path = self._store.root / "actions" / made.key[:2] / f"{made.key}.json"
                path.unlink()
                held = self._store.records.publish(made)
            found.append(held)
        return found

    def _made(self, number: int) -> Record:
        preimage = {"dem": 1, "kind": "finetune", "params": {"learning_rate": 2e-05, "n": number}}
        delta = self._store.objects.put_bytes(f"delta {number}".encode() * 5)
        folder = self._store.work.new("0" * 64) / "out" / "weights"
        folder.mkdir()
        (folder / "a").write_bytes(f"weights {number}".encode())
        (folder / "empty").write_bytes(b"")
        tree = self._store.objects.put(folder)
        self._store.work.drop("0" * 64)
        return Record(
            key=digest.of_json(preimage),
            kind="finetune",
            preimage=preimage,
            outputs={"delta": Output(delta.digest, delta.size), "weights": tree},
            provenance={"seconds": 1.5, "curve": [[1, 2.25e-05]], "finished": "2026-01-01T00:00:00Z"},
            log=self._store.objects.put_bytes(f'{{"event": "note", "message": "{number}"}}\n'.encode()),
        )

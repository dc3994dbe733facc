"""Records and outputs to test the store with."""

from __future__ import annotations

from pathlib import Path

from dem_build import digest
from dem_build.digest import Output
from dem_build.store import Record, Store


def tree(store: Store, files: dict[str, bytes]) -> Output:
    out = store.work.new("0" * 64) / "out" / "weights"
    out.mkdir()
    for name, data in files.items():
        (out / name).write_bytes(data)
    return store.objects.put(out)


def make_record(store: Store, *, data: bytes = b"delta", params: int = 1) -> Record:
    preimage = {"dem": 1, "kind": "finetune", "params": {"learning_rate": 2e-5, "n": params}}
    delta = store.objects.put_bytes(data)
    outputs = {"delta": Output(delta.digest, delta.size), "weights": tree(store, {"a": data, "b": b"b"})}
    return Record(
        key=digest.of_json(preimage),
        kind="finetune",
        preimage=preimage,
        outputs=outputs,
        provenance={"seconds": 1.5, "curve": [[1, 2.25]], "who": data.decode()},
        log=store.objects.put_bytes(b"log of " + data),
    )


def record_file(store: Store, key: str) -> Path:
    return store.root / "actions" / key[:2] / f"{key}.json"


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)

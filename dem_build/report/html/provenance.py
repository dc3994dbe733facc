"""Where everything came from: keys, digests, versions; and the warnings that records carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.html.blocks import Cell, Fold, Notes, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.report.material import Material
    from dem_build.store import Record

__all__ = ["records", "warnings"]


def warnings(material: Material) -> Section | None:
    """Warnings, of the runs that made the results."""
    told = material.results.warnings
    if not told:
        return None
    items = [f"{action}: {text}" for action, text in told]
    return Section(
        "warnings", "Warnings", "Said when it ran, and still true of what is here.", [Notes(items)]
    )


def records(material: Material) -> Section | None:
    """Key, inputs and outputs of every action, and on what it ran."""
    found = material.records
    if not found:
        return None
    lead = (
        "A key is the SHA-256 of everything that a result follows from; a digest is that of the result. "
        "dem show tells the rest."
    )
    digest = material.results.model_digest
    whole = (
        [Table(["", "SHA-256"], [[Cell("the composed model", strong=True), Cell(digest, code=True)]])]
        if digest
        else []
    )
    blocks = [
        Fold("Keys", [_table([(name, record.key) for name, record in found.items()], "action")]),
        Fold(
            "Outputs", [_table([pair for name, r in found.items() for pair in _outputs(name, r)], "output")]
        ),
        Fold(
            "Source files", [_table([pair for name, r in found.items() for pair in _sources(name, r)], "of")]
        ),
        Fold("Machines and versions", [_machines(material)]),
    ]
    return Section("provenance", "Provenance", lead, [*whole, *blocks])


def _table(pairs: list[tuple[str, str]], what: str) -> Table:
    return Table(
        [what, "SHA-256"], [[Cell(name, code=True), Cell(value, code=True)] for name, value in pairs]
    )


def _outputs(name: str, record: Record) -> Iterator[tuple[str, str]]:
    for output, made in sorted(record.outputs.items()):
        yield f"{name}/{output}", made.digest


def _sources(name: str, record: Record) -> Iterator[tuple[str, str]]:
    sources = record.preimage.get("sources", []) if isinstance(record.preimage, dict) else []
    for source in sources:
        yield f"{name} ({source.get('tag')})", str(source.get("sha256"))


def _machines(material: Material) -> Table:
    body = []
    for name, record in material.records.items():
        versions = record.noted("versions")
        libraries = versions.items() if isinstance(versions, dict) else ()
        told = ", ".join(f"{library} {version}" for library, version in libraries)
        body.append(
            [
                Cell(name, code=True),
                *(Cell(str(record.noted(what) or "")) for what in ("finished", "device")),
                Cell(told),
            ]
        )
    return Table(["action", "finished", "device", "versions"], body)

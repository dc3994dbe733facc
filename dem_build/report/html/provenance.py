"""Where everything came from: keys, digests, versions; and the warnings that records carry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.report.html.blocks import Cell, DataTable, Fold, Notes, Section

if TYPE_CHECKING:
    from dem_build.report.inputs import ReportInputs

__all__ = ["records", "warnings"]


def warnings(inputs: ReportInputs) -> Section | None:
    """Warnings, of the runs that made the results."""
    told = inputs.results.warnings
    if not told:
        return None
    items = [f"{action}: {text}" for action, text in told]
    return Section(
        "warnings", "Warnings", "Said when it ran, and still true of what is here.", [Notes(items)]
    )


def records(inputs: ReportInputs) -> Section | None:
    """Key, inputs and outputs of every action, and on what it ran."""
    found = inputs.records
    if not found:
        return None
    lead = (
        "A key is the SHA-256 of everything that a result follows from; a digest is that of the result. "
        "dem show tells the rest."
    )
    digest = inputs.results.model_digest
    model = [Cell("the composed model", strong=True), Cell(digest or "", code=True)]
    outputs = [
        (f"{name}/{output}", made.digest)
        for name, record in found.items()
        for output, made in sorted(record.outputs.items())
    ]
    sources = [
        (f"{name} ({source.get('tag')})", str(source.get("sha256")))
        for name, record in found.items()
        if isinstance(record.preimage, dict)
        for source in record.preimage.get("sources", [])
    ]
    blocks = [
        Fold("Keys", [_digests("action", [(name, record.key) for name, record in found.items()])]),
        Fold("Outputs", [_digests("output", outputs)]),
        Fold("Source files", [_digests("of", sources)]),
        Fold("Machines and versions", [_machines(inputs)]),
    ]
    whole = [DataTable(["", "SHA-256"], [model])] if digest else []
    return Section("provenance", "Provenance", lead, [*whole, *blocks])


def _digests(what: str, pairs: list[tuple[str, str]]) -> DataTable:
    return DataTable(
        [what, "SHA-256"], [[Cell(n, code=True), Cell(digest, code=True)] for n, digest in pairs]
    )


def _machines(inputs: ReportInputs) -> DataTable:
    body = []
    for name, record in inputs.records.items():
        versions = record.noted("versions")
        libraries = versions.items() if isinstance(versions, dict) else ()
        told = ", ".join(f"{library} {version}" for library, version in libraries)
        ran = (Cell(str(record.noted(what) or "")) for what in ("finished", "device"))
        body.append([Cell(name, code=True), *ran, Cell(told)])
    return DataTable(["action", "finished", "device", "versions"], body)

"""What a build ends with: results, gates and a published model, read from a store that may be damaged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build import __version__
from dem_build.engine.publish import publish, publish_text
from dem_build.errors import CorruptObjectError
from dem_build.report.card import card
from dem_build.report.documents import results_document
from dem_build.report.gates import check
from dem_build.report.inputs import ReportInputs, is_drawn, mark_of
from dem_build.report.results import READ, Results, collect
from dem_build.report.summary import summary
from dem_build.session.overlap import shared_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dem_build.data.splits import Shared
    from dem_build.digest import Digest
    from dem_build.engine.outcome import Outcome
    from dem_build.engine.publish import Destination
    from dem_build.report.gates import GateResult
    from dem_build.session.session import Session
    from dem_build.store import Record

REPORT = "report.html"


@dataclass(frozen=True)
class Ending:
    """What a build ends with.

    Attributes:
        gates: The gates, judged where the build is whole.
        model: The published model's folder, None where nothing was published.
        report: The file of the report that is drawn of all this; None where there is none.
        shared: Which prompts the datasets share.
        damaged: Action → the error of reading what it made. Where there is one, nothing else here counts.
    """

    results: Results = field(default_factory=Results)
    gates: Sequence[GateResult] = ()
    model: Path | None = None
    report: Path | None = None
    shared: Sequence[Shared] = ()
    damaged: Mapping[str, CorruptObjectError] = field(default_factory=dict)


def conclude(session: Session, outcome: Outcome) -> Ending:
    """Read results, judge gates and publish the model, unless what it was built from has been superseded.

    Damaged objects are in quarantine afterwards, so that what made them is due.

    Raises:
        StoreError: The store cannot be read, or `out/` not be written.
    """
    metrics, damaged = _metrics(session, outcome.records)
    shared, spoiled = shared_of(session, outcome)
    if damaged or spoiled:
        return Ending(damaged=damaged | spoiled)
    results = collect(session.plan.graph, outcome.records, lambda output: metrics[output.digest])
    done = not outcome.failed and not outcome.interrupted
    gates = check(session.recipe.gates, results) if done and session.whole else []
    if not done or "model" not in outcome.records:
        return Ending(results, gates, shared=shared)
    to = session.destination()
    if not session.plan.up_to_date and session.superseded:
        what = "the recipe has changed since this build began, and another build of it has begun"
        mend = "what this one made is in the cache, and a build of the recipe as it was publishes it"
        session.sharing.voice.warn(f"{to.folder} is left to that: {what}; {mend}")
        return Ending(results, gates, shared=shared)
    assert results.model_digest is not None
    try:
        kept = publish(
            to,
            outcome.records["model"],
            results.model_digest,
            session.store,
            lambda: _texts(to, session, outcome, results, gates),
        )
    except CorruptObjectError as error:
        return Ending(damaged={"model": error})
    session.save_published()
    if kept is not None:
        session.sharing.voice.warn(f"{kept} has what lay in {to.model} and dem had not written")
    return Ending(results, gates, to.model, to.folder / REPORT if session.whole else None, shared)


def _metrics(
    session: Session, records: Mapping[str, Record]
) -> tuple[dict[Digest, bytes], dict[str, CorruptObjectError]]:
    """Read what the results are made of; one object that is damaged does not hide another."""
    found: dict[Digest, bytes] = {}
    damaged: dict[str, CorruptObjectError] = {}
    outputs = [(n, r.outputs[o]) for n, r in records.items() for o in READ if o in r.outputs]
    session.store.objects.expect(output for _, output in outputs)
    for name, output in outputs:
        try:
            found[output.digest] = session.store.objects.read_bytes(output)
        except CorruptObjectError as error:
            damaged[name] = error
    return found, damaged


def _texts(
    to: Destination, session: Session, outcome: Outcome, results: Results, gates: Sequence[GateResult]
) -> dict[str, str]:
    graph, records = session.plan.graph, outcome.records
    texts = {"model/README.md": card(session.recipe, graph, records, results, {"dem": __version__})}
    if not session.whole:
        return texts  # some of the recipe's actions tell less than the last whole build did
    lasting = results_document(results, gates)
    texts["results.json"] = json.dumps(lasting, indent=2, ensure_ascii=False) + "\n"
    texts["summary.md"] = summary(session.recipe.name, outcome, results, gates)
    inputs = ReportInputs(session.recipe, graph, records, results, gates, __version__)
    if not is_drawn(to.folder / REPORT, mark_of(inputs)):  # drawing takes longer than all else here
        from dem_build.report.html.page import render  # noqa: PLC0415  a build with nothing to do draws nothing

        texts[REPORT] = render(inputs)
    return texts


def read_results(session: Session) -> tuple[Results, dict[str, Record]]:
    """What the records of a plan say, and the records: name of an action → its own.

    Raises:
        StoreError: What is recorded cannot be read.
    """
    records = session.plan.records
    metrics, damaged = _metrics(session, records)
    if damaged:
        raise next(iter(damaged.values()))
    return collect(session.plan.graph, records, lambda output: metrics[output.digest]), records


def draw_report(session: Session) -> tuple[Path, int]:
    """Draw the report of what is recorded of a recipe; return its file, and how many actions are due.

    Raises:
        StoreError: What is recorded cannot be read, or `out/` not be written.
    """
    from dem_build.report.html.page import render  # noqa: PLC0415  as above

    inputs = report_inputs(session)
    path = publish_text(session.destination(), REPORT, render(inputs))
    session.store.records.adopt()
    return path, len(inputs.missing)


def report_inputs(session: Session) -> ReportInputs:
    """What a report of what is recorded is drawn from; gates judge nothing less than all of the recipe.

    Raises:
        StoreError: What is recorded cannot be read.
    """
    graph = session.plan.graph
    results, records = read_results(session)
    whole = session.whole and len(records) == len(graph.actions)
    gates = check(session.recipe.gates, results) if whole else []
    return ReportInputs(session.recipe, graph, records, results, gates, __version__)

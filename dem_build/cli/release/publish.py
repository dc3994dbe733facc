"""`dem publish`: a model or a vector becomes a repository on a hub, private unless the user says otherwise."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build import __version__
from dem_build.action import BASE
from dem_build.cli.release.export import export_adapter
from dem_build.engine.publish import link_model
from dem_build.errors import GateError, NotUpToDateError, UsageError
from dem_build.export.hub_card import VectorFacts, finished, vector_card, without_folders
from dem_build.export.hub_upload import upload
from dem_build.report.card import card
from dem_build.report.comparison import COMPOSED
from dem_build.report.gates import check
from dem_build.report.inputs import base_name
from dem_build.report.text import clean
from dem_build.session.ending import read_results
from dem_build.session.recorded import origin_of, parts_of
from dem_build.session.session import open_session
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.report.results import Results
    from dem_build.session.session import Call, Session
    from dem_build.store import Record

CARD = "README.md"
MODEL = "model"


def publish(  # noqa: PLR0913  the command's options
    recipe: str, repository: str, action: str, call: Call, *, revision: str | None, public: bool
) -> int:
    """Upload the composed model or a vector, with a card of what was measured.

    Args:
        recipe: The recipe, built and with all gates passed.
        repository: `ORG/NAME`.
        action: `model`, or what makes a vector.
        call: The options that several commands have.
        revision: As `upload` takes it.
        public: Likewise.

    Raises:
        NotUpToDateError: Something is due.
        GateError: A gate of the recipe fails.
        UsageError: The action makes neither, or the hub refuses the call.
        RemoteError: The hub cannot be reached, or does not take something.
    """
    with ExitStack() as within:
        session = open_session(recipe, call).kept(within)
        found = session.plan.graph.action(action)
        action = found.name
        if action != MODEL and "delta" not in found.kind.outputs:
            what, hint = (
                f"{action} makes no vector and is not the composed model",
                "name `model` or a vector:NAME",
            )
            raise UsageError(what, where=session.named, hint=hint)
        if not session.plan.up_to_date:
            hint = "`dem build` runs what is due, and judges the gates"
            raise NotUpToDateError(
                "something is due: what is published is built first", where=session.named, hint=hint
            )
        results, records = read_results(session)
        failed = [gate for gate in check(session.recipe.gates, results) if not gate.passed]
        if failed:
            what = "; ".join(f"{gate.task} {gate.metric}: {gate.why}" for gate in failed)
            raise GateError(f"a gate fails, so nothing is published: {what}", where=session.named)
        work = Path(within.enter_context(tempfile.TemporaryDirectory(prefix="dem-publish-")))
        made = _model if action == MODEL else _vector
        files = made(session, found, records, results, work)
        message = f"{session.recipe.name}: {action}"
        sent = upload(files, repository, message, revision=revision, public=public)
    seen = "private" if sent.private else "public"
    what = (
        f"{len(files)} files in commit {sent.commit[:8]}"
        if sent.changed
        else f"up to date at {sent.commit[:8]}"
    )
    gone = f"; gone: {', '.join(sent.removed)}" if sent.removed else ""
    gone += f"; not of this model, and edited there, so left: {', '.join(sent.kept)}" if sent.kept else ""
    make_console().print(clean(f"{repository} ({seen}): {what}{gone}"), soft_wrap=True)
    return 0


def _model(
    session: Session, action: Action, records: Mapping[str, Record], results: Results, work: Path
) -> dict[str, Path | bytes]:
    """The files of the composed model: the store's own objects, under the names that readers expect."""
    link_model(parts_of(session, action.name), session.store, work)
    files: dict[str, Path | bytes] = {
        p.relative_to(work).as_posix(): p for p in sorted(work.rglob("*")) if p.is_file()
    }
    recipe, graph = without_folders(session.recipe), session.plan.graph
    text = card(recipe, graph, records, results, {"dem": __version__})
    text = finished(text, recipe.name, _on_hub(session), results, COMPOSED)
    return files | {CARD: text.encode()}


def _vector(
    session: Session, action: Action, records: Mapping[str, Record], results: Results, work: Path
) -> dict[str, Path | bytes]:
    """The files of a vector: an adapter of peft where it is of low rank, else its own file."""
    output = records[action.name].outputs["delta"]
    origin = origin_of(action)
    adapter = action.params.get("method") == "lora"
    if adapter:
        export_adapter(session, action, work / "adapter")
        files: dict[str, Path | bytes] = {p.name: p for p in sorted((work / "adapter").iterdir())}
    else:
        files = {"vector.safetensors": session.store.objects.open(output)}
    stored = records[action.name].provenance.get("vector")
    facts = VectorFacts(
        name=action.name,
        recipe=session.recipe.name,
        base=base_name(session.recipe, session.plan.graph) if origin == BASE else origin,
        base_digest=records[origin].outputs["weights"].digest,
        digest=output.digest,
        adapter=adapter,
        provenance=stored if isinstance(stored, dict) else {},
    )
    on_hub = _on_hub(session) if origin == BASE else None
    model = action.name.removeprefix("vector:")
    text = finished(vector_card(facts), session.recipe.name, on_hub, results, model)
    return files | {CARD: text.encode()}


def _on_hub(session: Session) -> str | None:
    """The base's hub id; None of one that lies here: its name says nothing elsewhere."""
    sources = session.plan.graph.actions[BASE].sources
    return session.recipe.base.model if any(source.hub is not None for source in sources) else None

"""What is known of one action of a recipe: its verdict, why it has that, and what is recorded of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.engine.publish import PARTS
from dem_build.errors import UsageError
from dem_build.plan import Status
from dem_build.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dem_build.action import Action
    from dem_build.digest import Output
    from dem_build.plan import Difference, Verdict
    from dem_build.session.session import Session
    from dem_build.store import Record


def verdict_of(session: Session, name: str) -> Verdict:
    """What the plan says of an action.

    Raises:
        UsageError: The recipe has none of this name; or it is a pattern, and matches none or several.
    """
    return session.plan.verdicts[session.plan.graph.action(name).name]


def why_lines(session: Session, name: str) -> Iterator[str]:
    """Say why an action is due, down to each parameter and input that differs.

    Raises:
        UsageError: As `verdict_of`.
    """
    verdict = verdict_of(session, name)
    changed = "changed since its last build:" if verdict.reason.differences else str(verdict.reason)
    yield f"{verdict.action.name}: {verdict.status}, {changed}"
    for difference in verdict.reason.differences:
        yield f"  {difference}"
        if files := _other_files(session, verdict.action, difference):
            yield f"    in {first_of(files, 3)}"
    for upstream in verdict.reason.waits_for:
        other = session.plan.verdicts[upstream]
        yield f"  {upstream}: {other.status}, {other.reason}"


def _other_files(session: Session, action: Action, difference: Difference) -> list[str]:
    """The files that a difference of an action's sources is about: those that its last build did not read."""
    old = difference.old if isinstance(difference.old, list) else [difference.old]
    found = (
        source.path
        for source in action.sources
        if difference.place == f"sources.{source.tag}" and source.digest not in old
    )
    folder = session.recipe.folder
    return [str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in found]


def recorded(session: Session, name: str) -> Record:
    """The record of an action as it stands in the recipe now, else that of its last build, which is said.

    Raises:
        UsageError: It was never built, or as `verdict_of`.
    """
    verdict = verdict_of(session, name)
    name = verdict.action.name
    last = session.plan.history.keys.get(name)
    record = verdict.record
    if record is None and last is not None:
        with session.store.uses.using(last):
            record = session.store.records.peek(last)
    if record is None:
        raise UsageError(f"{name} was never built", where=session.named, hint="`dem build` builds it")
    if verdict.status is not Status.HIT:
        session.call.voice.warn(f"{name} is due again; this is its last build")
    return record


def parts_of(session: Session, name: str) -> dict[str, Output]:
    """The outputs of an action that make up a model, all of them here.

    Raises:
        UsageError: As `recorded`.
        StoreError: One cannot be brought here.
    """
    outputs = recorded(session, name).outputs
    session.store.objects.bring(blob for part in PARTS for blob in outputs[part].blobs())
    return {part: outputs[part] for part in PARTS}


def origin_of(action: Action) -> str:
    """The action that makes what a vector is added to."""
    [origin] = {taken.at.action for taken in action.takes if taken.of == "base/weights"}
    return origin

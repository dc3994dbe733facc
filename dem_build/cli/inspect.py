"""The commands that run no action: check, lock, plan, why, show, logs, report."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING

from dem_build.cli import view
from dem_build.cli.overlap import recorded_shared, say_shared, shared_documents
from dem_build.cli.session import checked, open_session
from dem_build.cli.view_progress import Progress
from dem_build.cli.watch import vouch
from dem_build.engine.events import read_events
from dem_build.errors import NotUpToDateError, RecipeError, UsageError
from dem_build.estimate import budgets, crowded, estimates, unfit
from dem_build.lock import lock
from dem_build.plan import Status
from dem_build.report.documents import plan_document

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from dem_build.cli.call import Call
    from dem_build.cli.session import Session
    from dem_build.digest import JSON
    from dem_build.plan import Verdict
    from dem_build.store import Record

__all__ = ["check", "logs", "plan", "report", "show", "why", "write_lock"]


def check(named: str, overrides: Sequence[str], *, as_json: bool) -> int:
    """Say all the mistakes of a recipe, or that there are none."""
    try:
        recipe = checked(named, overrides)
    except RecipeError as error:
        if not as_json:
            raise
        sys.stdout.write(json.dumps({"recipe": named, "problems": [vars(p) for p in error.problems]}) + "\n")
        return error.exit_status
    if as_json:
        sys.stdout.write(json.dumps({"recipe": named, "problems": []}) + "\n")
    else:
        vectors = f"; {_counted('vector', recipe.vectors)}" if recipe.vectors else ""
        _say(f"{named}: no mistakes ({_counted('dataset', recipe.datasets)}{vectors})")
        view.unevaluated_line(recipe.unevaluated, view.make_console())
    return 0


def write_lock(named: str, call: Call) -> int:
    """Write the lock and say what in it changed."""
    session = open_session(named, call)
    path = lock.lock_path(session.recipe.path)
    changed = lock.changes(session.locked, session.lock, session.recipe.folder)
    session.save_lock()
    _say(f"{path}: {'changed: ' + ', '.join(changed) if changed else 'nothing changed'}")
    return 0


def plan(named: str, call: Call, *, check: bool, as_json: bool) -> int:
    """Show the plan; with `check` its status tells whether something is due."""
    session = open_session(named, call)
    found = estimates(session.plan, session.store, session.machine)
    mixtures = budgets(session.plan)
    errors = unfit(session.plan)
    warnings = [] if errors else crowded(session.plan, session.store, session.machine)
    if as_json:
        document = plan_document(named, session.plan) | {
            "estimates": [e.document() for e in found],
            **({"mixtures": [m.document() for m in mixtures]} if mixtures else {}),
            "problems": [*map(str, errors), *warnings],
            "overlap": shared_documents(recorded_shared(session)),
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        view.plan_table(session.plan, view.make_console())
        view.budget_lines(mixtures, view.make_console())
        view.unevaluated_line(session.recipe.unevaluated, view.make_console())
        view.estimate_lines(found, view.make_console())
        view.memory_lines(errors, warnings, view.make_console())
        say_shared(recorded_shared(session), view.make_console())
    if session.plan.up_to_date:  # else estimates speak of what is free, and of earlier runs
        vouch(math.inf)
        return 0
    return NotUpToDateError.exit_status if check else 0


def why(named: str, name: str, call: Call) -> int:
    """Show why an action is due, down to each parameter and input that differs."""
    session = open_session(named, call)
    verdict = _verdict(session, name)
    _say(f"{name}: {verdict.status}, {_headline(verdict)}")
    for difference in verdict.reason.differences:
        _say(f"  {difference}")
    for upstream in verdict.reason.waits_for:
        other = session.plan.verdicts[upstream]
        _say(f"  {upstream}: {other.status}, {other.reason}")
    return 0


def show(named: str, name: str, call: Call, *, as_json: bool) -> int:
    """Show the record of an action: where its result came from."""
    session = open_session(named, call)
    record = _recorded(session, name)
    document = {
        "action": name,
        "key": record.key,
        "preimage": record.preimage,
        "outputs": {n: {"digest": o.digest, "size": o.size} for n, o in record.outputs.items()},
        "provenance": record.provenance,
    }
    if record.kind == "prepare":
        shared = recorded_shared(session, name.removeprefix("data:"))
        document["shared_prompts"] = shared_documents(shared)
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return 0
    for line in _flat("", document):
        _say(line)
    return 0


def report(named: str, call: Call) -> int:
    """Draw the report, and say where it is and what it lacks."""
    from dem_build.cli import ending  # noqa: PLC0415  other commands read no results

    session = open_session(named, call)
    path = ending.report(session)
    due = [name for name, verdict in session.plan.verdicts.items() if verdict.record is None]
    lacks = (
        f" ({len(due)} of {len(session.plan.verdicts)} actions are due: `dem build` runs them)" if due else ""
    )
    _say(f"{path}{lacks}")
    return 0


def logs(named: str, name: str, call: Call) -> int:
    """Print what an action said while it ran."""
    session = open_session(named, call)
    verdict = _verdict(session, name)
    for event in _events(session, verdict):
        _say(_line(event))
    return 0


def _counted(word: str, names: Collection[str]) -> str:
    plural = word if len(names) == 1 else f"{word}s"
    return f"{len(names)} {plural}: {', '.join(names)}" if names else f"no {plural}"


def _verdict(session: Session, name: str) -> Verdict:
    session.plan.graph.require([name])
    return session.plan.verdicts[name]


def _headline(verdict: Verdict) -> str:
    return "changed since its last build:" if verdict.reason.differences else str(verdict.reason)


def _recorded(session: Session, name: str) -> Record:
    """Return the record of an action as it stands in the recipe now, else that of its last build."""
    verdict = _verdict(session, name)
    last = session.plan.history.keys.get(name)
    record = verdict.record or (session.store.records.peek(last) if last else None)
    if record is None:
        raise UsageError(f"{name} was never built", where=session.named, hint="`dem build` builds it")
    if verdict.status is not Status.HIT:
        view.make_console(stderr=True).print(f"{name} is due again; this is its last build")
    return record


def _events(session: Session, verdict: Verdict) -> Iterator[JSON]:
    """Yield the events of the last run: of an unfinished one where there is one, else of the recorded one."""
    unfinished = session.store.work.previous(verdict.key) if verdict.key and verdict.record is None else []
    if unfinished:
        yield from _read_work(unfinished[0])
        return
    record = _recorded(session, verdict.action.name)
    if record.log is not None:
        yield from read_events(session.store.objects.read_bytes(record.log))


def _read_work(work: Path) -> Iterator[JSON]:
    events, printed = work / "events.jsonl", work / "output.txt"
    if events.exists():
        # What follows the last line end was cut off by a full disk or a power cut, or is being written.
        yield from read_events(events.read_bytes().rpartition(b"\n")[0])
    if printed.exists():
        yield from ({"event": "output", "line": x} for x in printed.read_text(errors="replace").splitlines())


def _line(event: JSON) -> str:
    kind = event["event"]
    if kind == "progress" and all(isinstance(event.get(n), int | float) for n in ("done", "total")):
        known = Progress()
        known.update(event)
        shown = (known.counted, known.loss, known.validation, known.speed, known.memory)
        return "  ".join(filter(None, shown))
    if kind == "output":
        return str(event.get("line", ""))
    return f"{kind}: {event.get('message', '')}"


def _flat(prefix: str, value: JSON) -> Iterator[str]:
    """Yield a document as `dotted.key = value` lines; of a list of tables each has one, and long lists are counted."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), entry)
    elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        for index, entry in enumerate(value):
            yield f"{prefix}[{index}] = {json.dumps(entry, ensure_ascii=False)}"
    elif isinstance(value, list) and len(value) > 8:
        yield f"{prefix} = [{len(value)} entries]"
    else:
        yield f"{prefix} = {json.dumps(value, ensure_ascii=False)}"


def _say(line: str) -> None:
    view.make_console().print(view.clean(line), soft_wrap=True)

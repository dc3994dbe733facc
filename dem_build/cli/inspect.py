"""The commands that look at one recipe and run nothing of it: check, lock, plan, why, show, logs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from dem_build.cli.overlap import recorded_shared, say_shared, shared_documents
from dem_build.cli.session import checked, open_session
from dem_build.cli.view_lines import Progress
from dem_build.cli.view_plan import (
    absent_lines,
    budget_lines,
    estimate_lines,
    inherited_rates_line,
    memory_lines,
    plan_table,
    rowless_lines,
    unevaluated_line,
)
from dem_build.cli.view_text import clean, joined, make_console, write_json
from dem_build.cli.watch import vouch
from dem_build.engine.protocol import read_events
from dem_build.errors import NotUpToDateError, RecipeError, UsageError
from dem_build.estimate import budgets, crowded, estimates, unfit
from dem_build.lock.lock import changes, dropped, lock_path
from dem_build.plan import Status
from dem_build.report.documents import plan_document

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dem_build.cli.session import Call, Session
    from dem_build.digest import JSON
    from dem_build.plan import Verdict
    from dem_build.store import Record

__all__ = ["check", "lock", "logs", "plan", "recorded", "show", "why"]


def check(recipe: str, call: Call) -> int:
    """Say all the mistakes of a recipe, or that there are none."""
    try:
        read = checked(recipe, call.overrides)
    except RecipeError as error:
        if not call.as_json:
            raise
        write_json({"recipe": recipe, "problems": [problem._asdict() for problem in error.problems]})
        return error.exit_status
    if call.as_json:
        write_json({"recipe": recipe, "problems": []})
    else:
        vectors = f"; {_counted('vector', read.vectors)}" if read.vectors else ""
        _say(f"{recipe}: no mistakes ({_counted('dataset', read.datasets)}{vectors})")
        console = make_console()
        inherited_rates_line(read.inherited_rates, read.train.learning_rate, console)
        unevaluated_line(read.unevaluated, console)
    return 0


def lock(recipe: str, call: Call) -> int:
    """Write the lock and say what in it changed."""
    session = open_session(recipe, call)
    folder = session.recipe.folder
    changed = changes(session.locked, session.lock, folder)
    gone = dropped(session.locked, session.lock, folder) if changed else []
    session.save_lock()
    said = f"changed: {', '.join(changed)}" if changed else "nothing changed"
    _say(f"{lock_path(session.recipe.path)}: {said}")
    if gone:
        _say(f"no longer in it: {', '.join(map(joined, gone))}")
    absent = sorted({str(s.path) for a in session.plan.graph for s in a.sources if s.absent})
    if absent:
        _say(f"not here, and kept as locked: {', '.join(map(joined, absent))}")
    return 0


def plan(recipe: str, call: Call, *, check: bool) -> int:
    """Show the plan; with `check` its status tells whether something is due."""
    session = open_session(recipe, call)
    found = estimates(session.plan, session.store, session.machine)
    mixtures = budgets(session.plan)
    here = session.machine.engine == "local"  # else it runs in memory that nobody here sees
    errors = unfit(session.plan, session.machine) if here else []
    warnings = [] if errors or not here else crowded(session.plan, session.store, session.machine)
    shared = recorded_shared(session)
    if call.as_json:
        document = plan_document(recipe, session.plan) | {
            "estimates": [e.document() for e in found],
            **({"mixtures": [m.document() for m in mixtures]} if mixtures else {}),
            "problems": [*map(str, errors), *warnings],
            "overlap": shared_documents(shared),
        }
        write_json(document)
    else:
        console = make_console()
        plan_table(session.plan, console)
        absent_lines(session.plan, console)
        budget_lines(mixtures, console)
        written = session.recipe
        inherited_rates_line(written.inherited_rates, written.train.learning_rate, console)
        unevaluated_line(written.unevaluated, console)
        rowless_lines(session.plan.graph, console)
        estimate_lines(found, console)
        memory_lines(errors, warnings, console)
        say_shared(shared, console)
    if session.plan.up_to_date:  # else estimates speak of what is free, and of earlier runs
        vouch(math.inf)
        return 0
    return NotUpToDateError.exit_status if check else 0


def why(recipe: str, action: str, call: Call) -> int:
    """Show why an action is due, down to each parameter and input that differs."""
    session = open_session(recipe, call)
    verdict = _verdict(session, action)
    changed = "changed since its last build:" if verdict.reason.differences else str(verdict.reason)
    _say(f"{action}: {verdict.status}, {changed}")
    for difference in verdict.reason.differences:
        _say(f"  {difference}")
    for upstream in verdict.reason.waits_for:
        other = session.plan.verdicts[upstream]
        _say(f"  {upstream}: {other.status}, {other.reason}")
    return 0


def show(recipe: str, action: str, call: Call) -> int:
    """Show the record of an action: where its result came from."""
    session = open_session(recipe, call)
    record = recorded(session, action)
    document = {
        "action": action,
        "key": record.key,
        "preimage": record.preimage,
        "outputs": {n: {"digest": o.digest, "size": o.size} for n, o in record.outputs.items()},
        "provenance": record.provenance,
    }
    if record.kind == "prepare":
        shared = recorded_shared(session, action.removeprefix("data:"))
        document["shared_prompts"] = shared_documents(shared)
    if call.as_json:
        write_json(document)
        return 0
    for line in _flat("", document):
        _say(line)
    return 0


def logs(recipe: str, action: str, call: Call) -> int:
    """Print what an action said while it ran."""
    session = open_session(recipe, call)
    for event in _events(session, _verdict(session, action)):
        _say(_line(event))
    return 0


def _say(line: str) -> None:
    make_console().print(clean(line), soft_wrap=True)


def _counted(word: str, names: Collection[str]) -> str:
    plural = word if len(names) == 1 else f"{word}s"
    return f"{len(names)} {plural}: {', '.join(names)}" if names else f"no {plural}"


def _verdict(session: Session, name: str) -> Verdict:
    session.plan.graph.require([name])
    return session.plan.verdicts[name]


def recorded(session: Session, name: str) -> Record:
    """The record of an action as it stands in the recipe now, else that of its last build."""
    verdict = _verdict(session, name)
    last = session.plan.history.keys.get(name)
    record = verdict.record or (session.store.records.peek(last) if last else None)
    if record is None:
        raise UsageError(f"{name} was never built", where=session.named, hint="`dem build` builds it")
    if verdict.status is not Status.HIT:
        make_console(stderr=True).print(f"{name} is due again; this is its last build")
    return record


def _events(session: Session, verdict: Verdict) -> Iterator[JSON]:
    """Yield the events of the last run: of an unfinished one where there is one, else of the recorded one."""
    unfinished = session.store.work.previous(verdict.key) if verdict.key and verdict.record is None else []
    if not unfinished:
        record = recorded(session, verdict.action.name)
        if record.log is not None:
            yield from read_events(session.store.objects.read_bytes(record.log))
        return
    events, printed = unfinished[0] / "events.jsonl", unfinished[0] / "output.txt"
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

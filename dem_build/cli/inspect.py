"""The commands that look at one recipe and run nothing of it: check, lock, plan, why, show, logs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from dem_build.engine.protocol import read_events
from dem_build.errors import NotUpToDateError, RecipeError
from dem_build.lock.lock import changes, dropped, lock_path
from dem_build.report.text import clean, joined
from dem_build.session.outlook import look_ahead
from dem_build.session.overlap import recorded_shared, shared_documents
from dem_build.session.recorded import recorded, verdict_of, why_lines
from dem_build.session.session import checked, open_session
from dem_build.view.lines import Progress
from dem_build.view.outlook import outlook_lines
from dem_build.view.plan import (
    inherited_rates_line,
    unevaluated_line,
)
from dem_build.view.text import make_console, write_json
from dem_build.watch.watch import vouch
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dem_build.digest import JSON
    from dem_build.plan import Verdict
    from dem_build.session.session import Call, Session


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
    outlook = look_ahead(session)
    if call.as_json:
        write_json(outlook.document())
    else:
        outlook_lines(outlook, make_console())
    if session.plan.up_to_date:  # else estimates speak of what is free, and of earlier runs
        vouch(math.inf)
        return 0
    return NotUpToDateError.exit_status if check else 0


def why(recipe: str, action: str, call: Call) -> int:
    """Show why an action is due, down to each parameter and input that differs."""
    for line in why_lines(open_session(recipe, call), action):
        _say(line)
    return 0


def show(recipe: str, action: str, call: Call) -> int:
    """Show the record of an action: where its result came from."""
    session = open_session(recipe, call)
    action = session.plan.graph.action(action).name
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
    for event in _events(session, verdict_of(session, action)):
        _say(_line(event))
    return 0


def _say(line: str) -> None:
    make_console().print(clean(line), soft_wrap=True)


def _counted(word: str, names: Collection[str]) -> str:
    return f"{counted(len(names), word)}: {', '.join(names)}" if names else f"no {word}s"


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

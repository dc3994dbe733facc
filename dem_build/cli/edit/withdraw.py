"""`dem withdraw`: take something out of a recipe, build without it, and show that the model has nothing of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.action import MODEL
from dem_build.cli.build import build
from dem_build.cli.edit.changes import accepted, opened, recipe_here, replacing, show
from dem_build.cli.edit.tables import kept_of, names_of, section_of
from dem_build.engine.publish import publish_text
from dem_build.errors import DemError, GateError, Problem, RecipeError, UsageError
from dem_build.json_text import parse_json
from dem_build.paths import absolute
from dem_build.recipe.edited import without_table
from dem_build.recipe.messages import nearest
from dem_build.report.attestation import attestation, entered, parse_withdrawn, withdrawn_of
from dem_build.report.text import joined
from dem_build.session.overlap import recorded_shared
from dem_build.session.session import open_session
from dem_build.store.files import overwrite
from dem_build.view.results import here
from dem_build.view.text import make_console, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from dem_build.cli.edit.changes import Draft
    from dem_build.report.attestation import Withdrawn
    from dem_build.session.session import Call, Session
    from dem_build.store import Record

WITHDRAW = "dem withdraw RECIPE NAME"
ATTESTATION = "attestation.json"
FORMAT = 1


def withdraw(words: Sequence[str], call: Call, *, dry_run: bool) -> int:
    """Take a dataset, a probe or a vector out of a recipe, build it, and attest that the model has nothing of it.

    What is withdrawn is written beside the recipe before anything else, so that a call that was stopped goes on when
    it is repeated, and that without a name a call attests the model of today.

    Raises:
        UsageError: The recipe has nothing of that name, and nothing of that name was withdrawn from it.
        RecipeError: The recipe would have mistakes: something else in it names what is to go.
    """
    named, rest = recipe_here(words, WITHDRAW)
    if len(rest) > 1:
        raise UsageError("one name at a time", hint=WITHDRAW)
    draft = opened(named)
    place = statement_path(draft.path)
    withdrawn = _read(place)
    console = make_console()
    if not rest and not withdrawn:
        raise UsageError("nothing was withdrawn from it", where=named, hint=WITHDRAW)
    for name in rest:
        if section_of(draft, name) is not None:
            _take_out(draft, name, call, dry_run=dry_run)
        elif name not in {one.name for one in withdrawn}:
            hint = nearest(name, names_of(draft)) or "it has no dataset, vector or probe"
            raise UsageError(f"there is no `{name}`", where=named, hint=hint)
    if dry_run:
        return 0
    status = build([named], call)
    # A gate judges what the model can do, and not what it is made of.
    return (
        status
        if status not in (0, GateError.exit_status)
        # Read anew: another call may have withdrawn something while this one built.
        else _attest(open_session(named, call), _read(place), console) or status
    )


def statement_path(recipe: Path) -> Path:
    """Where it is written what was withdrawn from a recipe."""
    return recipe.with_suffix(".withdrawn.json")


def _take_out(draft: Draft, name: str, call: Call, *, dry_run: bool) -> None:
    """Write what is withdrawn, and the recipe without it."""
    section = section_of(draft, name)
    if section == "baselines":
        raise UsageError(f"`{name}` is a baseline, which has no rows of its own", hint=f"dem remove {name}")
    session = open_session(draft.named, call)
    counted = name in session.root["overlap"].get("of", {})
    shared = recorded_shared(session, name) if counted else None
    one = withdrawn_of(name, session.plan.graph, _recorded(session), shared)
    text = without_table(draft.text, str(section), name)
    accepted(draft, text)
    if dry_run:
        show(draft, text, dry_run=True)
        return
    place = statement_path(draft.path)
    # No other withdrawal comes between the list and the recipe: one of the two would be of another recipe's state.
    with replacing(draft, text) as write:
        before = _read(place)
        # First: without a record of what went, nobody could tell later that it is gone. A stopped call has written it.
        _write(place, (*before, one) if one not in before else before)
        try:
            write()
        except BaseException:
            if draft.path.read_bytes() == draft.raw:
                _write(place, before)
            raise
    show(draft, text)
    if kept := kept_of(draft.path, name, call):
        line = f"kept {kept} and what was composed of it; `dem cache gc --vectors` deletes it"
        make_console().print(Text(line), soft_wrap=True)


def _recorded(session: Session) -> list[tuple[str, Record]]:
    """What is recorded of the recipe's actions as they are, and as its last build had them.

    That build's model is the one that is published, whatever of the recipe was changed since.
    """
    last = ((name, session.store.records.peek(key)) for name, key in session.root["actions"].items())
    found = [(name, record) for name, record in last if record is not None]
    return [*found, *session.plan.records.items()]


def _attest(session: Session, withdrawn: Sequence[Withdrawn], console: Console) -> int:
    """Write the attestation beside the model, and say what it shows; 1 where something withdrawn is part of it."""
    graph, records = session.plan.graph, session.plan.records
    if MODEL not in records:
        raise UsageError("the model is not built", where=session.named, hint=f"dem build {session.named}")
    found = entered(withdrawn, graph, records)
    document = attestation(session.recipe.name, withdrawn, found, graph, records)
    path = publish_text(session.destination(), ATTESTATION, json.dumps(document, indent=2) + "\n")
    for name in dict.fromkeys(one.name for one in withdrawn):
        mine = [f for f in found if f.name == name]
        if mine:
            where = ", ".join(dict.fromkeys(joined(f.action) for f in mine))
            say(console, ("withdrawn ", "red"), f"{joined(name)}: the model has it still, by {where}")
        else:
            text = f"{joined(name)}: the model has no file, vector, ω or Gram matrix of it"
            say(console, ("withdrawn ", "green"), text)
    for one in withdrawn:
        for other, count in (one.shared or {}).items():
            prompts = "prompt" if count == 1 else "prompts"
            text = f"{count} {prompts} of {joined(one.name)} stood in rows of {joined(other)} too, which has them still"
            say(console, ("note: ", "yellow"), text)
        if one.shared is None and one.files:
            say(
                console,
                ("note: ", "dim"),
                f"whether other data has rows of {joined(one.name)} was never counted",
            )
    unknown = ", ".join(map(joined, document["unknown"]))
    say(console, ("note: ", "dim"), f"what was trained elsewhere may have seen it: {unknown}")
    count = len(document["actions"])
    line = Text.assemble(
        "attested ", (here(path), "bold"), (f"  {count} actions with key and preimage", "dim")
    )
    console.print(line, soft_wrap=True)
    return 1 if found else 0


def _read(path: Path) -> tuple[Withdrawn, ...]:
    """What was withdrawn so far.

    Raises:
        RecipeError: The file is not what was written.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    try:
        document = parse_json(data.decode())
        if not isinstance(document, dict) or document.get("dem_withdrawn") != FORMAT:
            raise _refused(path, f"is no list of what was withdrawn, of format {FORMAT}")
        return tuple(parse_withdrawn(one) for one in document["withdrawn"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refused(path, "cannot be read as a list of what was withdrawn") from error


def _refused(path: Path, what: str) -> RecipeError:
    return RecipeError([Problem(str(path), 0, "", what, "restore it: it says what must not come back")])


def _write(path: Path, withdrawn: Sequence[Withdrawn]) -> None:
    """Replace the list in one step, for whoever is changing the recipe; an empty one is no file."""
    try:
        if withdrawn:
            document = {"dem_withdrawn": FORMAT, "withdrawn": [one.document() for one in withdrawn]}
            overwrite(absolute(path), (json.dumps(document, indent=2) + "\n").encode())
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise DemError(f"cannot be written: {error.strerror}", where=str(path)) from error

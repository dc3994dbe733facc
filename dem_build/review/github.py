"""What GitHub Actions gives a step, and takes from it: the event, annotations, outputs and the job's summary."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.errors import UsageError
from dem_build.json_text import parse_json
from dem_build.report.text import printable
from dem_build.review.document import ToldChange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dem_build.digest import JSON
    from dem_build.review.document import RecipeReview, Review

_LEVELS = ("error", "warning", "notice")


def in_actions() -> bool:
    """Whether GitHub's runner reads what is printed."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def from_fork() -> bool:
    """Whether the event that started this job is of a pull request from another repository.

    No event file: no. One that cannot be read, or that names no repository: yes, as nothing says otherwise.
    """
    named = os.environ.get("GITHUB_EVENT_PATH")
    if not named:
        return False
    try:
        event = parse_json(Path(named).read_bytes())
    except (OSError, ValueError):
        return True
    if not isinstance(event, dict):
        return True
    if isinstance(pull := event.get("pull_request"), dict):
        return _name(pull, "head", "repo") is None or _name(pull, "head", "repo") != _name(
            pull, "base", "repo"
        )
    if isinstance(run := event.get("workflow_run"), dict):
        theirs = _name(run, "head_repository")
        return theirs is None or theirs != _name(event, "repository")
    return False


def _name(event: JSON, *way: str) -> str | None:
    for part in way:
        event = event.get(part) if isinstance(event, dict) else None
    name = event.get("full_name") if isinstance(event, dict) else None
    return name if isinstance(name, str) else None


def annotation_lines(review: Review) -> list[str]:
    """Workflow commands that put what was found beside the lines of the recipes, the gravest first."""
    found: list[tuple[int, str]] = []
    for recipe in review.recipes:
        found += [(_LEVELS.index(level), line) for level, line in _annotated(recipe)]
    return [line for _, line in sorted(found, key=lambda item: item[0])]


def _annotated(recipe: RecipeReview) -> Iterator[tuple[str, str]]:
    for level, line, title, text in [*_of_gates(recipe), *_of_actions(recipe)]:
        yield level, _command(level, recipe.path, line, title, text)
    trouble = recipe.trouble
    for m in trouble.mistakes if trouble else ():
        text = (f"{m.key}: " if m.key else "") + m.what + (f" ({m.hint})" if m.hint else "")
        yield "error", _command("error", m.file, m.line, "dem ci: a mistake", text)
    if trouble is not None and not trouble.mistakes:
        hint = f" ({trouble.hint})" if trouble.hint else ""
        yield "error", _command("error", recipe.path, 1, "dem ci", f"{trouble.what}{hint}")


def _of_gates(recipe: RecipeReview) -> Iterator[tuple[str, int, str, str]]:
    """Level, line, title and text of each gate that asks for less, or that failed."""
    for gate in recipe.weakened:
        level = "error" if gate.passed is False else "warning"
        now = f", now {gate.now}" if gate.now else ""
        text = f"{gate.gate}: it was {gate.was}{now}. {gate.why}"
        yield level, gate.line, f"dem ci: a gate was {gate.how}", text
    for judged in recipe.gates:
        if judged.passed is False:
            text = f"{judged.metric} on {judged.task}: must be {judged.why}"
            yield "error", judged.line, "dem ci: a gate failed", text


def _of_actions(recipe: RecipeReview) -> Iterator[tuple[str, int, str, str]]:
    """The same of what failed, what has to be trained first, and what changed."""
    for action in recipe.actions:
        if action.state == "failed":
            yield "error", action.line, "dem ci: an action failed", f"{action.action}: {action.error}"
        elif action.to_train:
            yield "warning", action.line, "dem ci: train first", action.action
    if recipe.change is ToldChange.CHANGED and recipe.reasons:
        text = "\n".join(reason.text for reason in recipe.reasons[:10])
        yield "notice", 1, "dem ci: what changed", text


def _command(level: str, file: str, line: int, title: str, text: str) -> str:
    """A workflow command. What it says is data: no line of it is taken for a command of its own."""
    place = f"file={_property(file)},line={max(line, 1)},title={_property(title)}"
    lines = [printable(part) for part in text.splitlines()]
    return f"::{level} {place}::{_data(chr(10).join(lines))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(printable(text)).replace(":", "%3A").replace(",", "%2C")


@contextmanager
def commands_stopped(say: Callable[[str], None]) -> Iterator[None]:
    """Have the runner take no line that is printed meanwhile for a command: logs hold what others wrote.

    After an error it takes none for the rest of the step: what is said of it then may be in others' words, too.
    """
    token = secrets.token_hex(16)
    say(f"::stop-commands::{token}")
    yield
    say(f"::{token}::")


def write_outputs(review: Review) -> None:
    """Write the outputs of the step: `status`, `changed`, `train` (vectors to train), `recipes` (those they are of).

    Raises:
        UsageError: The file that the runner named cannot be written.
    """
    train = sorted({a.action for r in review.recipes for a in r.actions if a.to_train})
    recipes = [r.path for r in review.recipes if any(a.to_train for a in r.actions)]
    told = {
        "status": str(review.status),
        "changed": str(len(review.touched)),
        "train": json.dumps(train),
        "recipes": json.dumps(recipes),
    }
    _append("GITHUB_OUTPUT", "".join(f"{name}={value}\n" for name, value in told.items()))


def append_summary(text: str) -> None:
    """Add to the summary of the job.

    Raises:
        UsageError: The file that the runner named cannot be written.
    """
    _append("GITHUB_STEP_SUMMARY", f"{text}\n")


def _append(variable: str, text: str) -> None:
    named = os.environ.get(variable)
    if not named:
        return
    try:
        with Path(named).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"${variable} cannot be written: {error.strerror}", where=named) from error

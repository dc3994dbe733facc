"""`dem blame`: which vector broke or mended one item, by asking the model without each; nothing is trained."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack, nullcontext
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from dem_build.action import BASE, COMPOSED, TRUNK
from dem_build.cli.blame.asking import opened_item, row_texts
from dem_build.cli.blame.findings import Blame
from dem_build.cli.blame.items import items_of
from dem_build.cli.blame.shown import MOST_SHOWN, blame_lines, changed_document, changed_lines
from dem_build.cli.blame.without import Without
from dem_build.errors import UsageError
from dem_build.session.session import open_session
from dem_build.slots import MEMORY, SLEEPING
from dem_build.view.text import make_console, write_json

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from dem_build.cli.blame.items import Items
    from dem_build.session.session import Call, Session


def blame(  # noqa: PLR0913  the command's options
    recipe: str, task: str, item: str | None, call: Call, *, metric: str | None, pairs: bool
) -> int:
    """Say which vector broke or mended an item; without one, list those that composing changed.

    Raises:
        UsageError: There is no such task or item, or the model is not built.
        EvaluationError: The model does not answer as is recorded.
    """
    with ExitStack() as held:
        session = open_session(recipe, call).kept(held)
        work = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="dem-blame-")))
        items = items_of(session, task, metric)
        if item is None:
            return _list(session, items, work)
        number = items.number_of(item)
        model = Without(session, work)
        held.callback(model.close)
        _require_trust(session, items)
        found = ask_all(session, model, items, number, pairs=pairs)
        if call.as_json:
            write_json({"recipe": recipe} | found.document())
        else:
            blame_lines(found, make_console())
    return 0


def _list(session: Session, items: Items, work: Path) -> int:
    """Show the items that composing broke or mended, as they are recorded.

    Raises:
        UsageError: Base or composed model are not evaluated on them.
    """
    if missing := [name for name in (BASE, COMPOSED) if name not in items.models]:
        hint = "let [evaluate] measure both, and build; an item that is named can be asked for as it is"
        raise UsageError(f"nothing is recorded of {missing[0]}", where=items.name, hint=hint)
    changed = items.changed()
    broken = [n for n in changed if _gain(items, n) < 0]
    mended = [n for n in changed if _gain(items, n) > 0]
    if session.call.as_json:
        write_json({"recipe": session.named} | changed_document(items, broken, mended))
    else:
        texts = _texts(session, items, [*broken[:MOST_SHOWN], *mended[:MOST_SHOWN]], work)
        changed_lines(items, broken, mended, texts, make_console())
    return 0


def _gain(items: Items, number: int) -> float:
    return items.better(items.models[COMPOSED][number].value, items.models[BASE][number].value)


def _texts(session: Session, items: Items, numbers: Sequence[int], work: Path) -> dict[int, str]:
    """What some items ask, without what all prompts end with, as a chat template has it."""
    if items.dataset is None:
        prompts = {number: item.prompt for number, item in items.models[BASE].items()}
        backwards = [prompt[::-1] for prompt in prompts.values()]
        end = len(os.path.commonprefix(backwards))  # noqa: RUF071  texts, and no paths
        return {n: prompts[n][: len(prompts[n]) - end] or prompts[n] for n in numbers}
    return {n: asks for n, (asks, _) in row_texts(session, items.dataset, numbers, work).items()}


def _require_trust(session: Session, items: Items) -> None:
    """Refuse to run task files, which are code, without the user's word; recorded results of theirs are no such run.

    Raises:
        UsageError: It is a local task, and `--trust-tasks` is not given.
    """
    action = next(iter(items.actions.values()), None)
    if action is not None and action.runs_code and not session.call.trust_tasks:
        files = ", ".join(str(s.path) for s in action.sources if s.path.suffix in (".yaml", ".yml", ".py"))
        hint = "read them, then add --trust-tasks"
        raise UsageError(
            f"{items.name} runs task files, which are code: {files}", where=session.named, hint=hint
        )


def ask_all(session: Session, model: Without, items: Items, number: int, *, pairs: bool) -> Blame:
    """Ask every model for one item.

    Raises:
        EvaluationError: The whole model does not answer as is recorded.
    """
    sizes = (1, 2) if pairs else (1,)
    lefts = [names for size in sizes for names in combinations(model.omega, size)]
    model.prepare(map(frozenset, lefts))
    if "torch" not in sys.modules:  # which reads them when it is loaded
        for name, value in (SLEEPING | MEMORY).items():
            os.environ.setdefault(name, value)
    with _told(f"asking {1 + len(lefts)} models"), opened_item(session, items, number, model.work) as asked:
        whole = asked.ask(model.name, (), model.model())
        asked.require_recorded(whole)
        lacking = [asked.ask(model.name, names, model.model(frozenset(names))) for names in lefts]
        others = {
            name: asked.recorded(name) or asked.ask(name, (), model.other(name))
            for name in dict.fromkeys((model.origin, BASE))
        }
        return Blame(
            items, number, asked.asks, asked.wanted, asked.measure, others[BASE], whole, lacking,
            others.get(TRUNK), None if whole.name == COMPOSED else asked.recorded(COMPOSED), tuple(model.notes),
        )  # fmt: skip


def _told(text: str) -> AbstractContextManager[object]:
    """Say on a terminal what goes on meanwhile."""
    console = make_console(stderr=True)
    return console.status(text) if console.is_terminal else nullcontext()

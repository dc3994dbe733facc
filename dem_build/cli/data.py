"""`dem data`: prepared rows as the model sees them, with what is trained marked."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.actions.prepare.notes import unread_sentence
from dem_build.data.splits import SPLITS
from dem_build.engine.interrupt import Interrupt
from dem_build.errors import UsageError
from dem_build.json_text import quantity
from dem_build.recipe import load_recipe
from dem_build.report.text import clean, joined
from dem_build.session.build import run_plan
from dem_build.session.overlap import recorded_shared
from dem_build.session.session import open_session
from dem_build.view.follow import make_listener
from dem_build.view.overlap import say_shared
from dem_build.view.text import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from dem_build.actions.prepare.run import Shown
    from dem_build.digest import JSON
    from dem_build.session.session import Call
    from dem_build.store import Record, Store


def data(recipe: str, name: str, call: Call, *, rows: int, split: str) -> int:
    """Prepare a dataset, a probe or a mixture where that is due, and show some of its rows.

    Raises:
        UsageError: The recipe has none of this name, or there is no such split.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}", hint=f"one of {', '.join(SPLITS)}")
    _require(recipe, name, call)
    session = open_session(recipe, replace(call, targets=(f"data:{name}",)))
    if name in session.recipe.probes:
        split = "test"  # the only one that a probe has
    session.store.make()
    session.save_root()
    with Interrupt() as interrupt, make_listener(make_console(stderr=True)) as listener:
        outcome = run_plan(session, listener, interrupt)
    if outcome.interrupted or outcome.failed:
        return 130 if outcome.interrupted else 1
    records, console = outcome.records, make_console()
    if split not in records[f"data:{name}"].outputs:
        raise UsageError(
            f"{name} has no split {split!r}", hint="a mixture is judged by its datasets' test rows"
        )
    shown = _examples(session.store, records["base"], records[f"data:{name}"], split, rows)
    for index, example in enumerate(shown):
        console.print(Text(f"{split} {index}: {example.tokens} tokens, {example.trained} trained", "dim"))
        # Brackets as well as colour: what is trained must be seen in a file, too.
        parts = [(f"⟦{clean(t)}⟧", "bold green") if on else clean(t) for t, on in example.segments]
        console.print(Text.assemble(*parts), soft_wrap=True)
        console.print()
    _counts(console, records[f"data:{name}"])
    say_shared(recorded_shared(open_session(recipe, call), name), console)
    return 0


def _require(named: str, name: str, call: Call) -> None:
    """Refuse what is no dataset, probe or mixture: the action's name is not what the user typed."""
    recipe = load_recipe(Path(named), call.overrides)
    if name not in recipe.prepared:
        names = ", ".join(recipe.prepared)
        hint = f"the recipe has {names}" if names else "the recipe prepares no data"
        raise UsageError(f"there is no dataset, probe or mixture {name!r}", where=named, hint=hint)


def _examples(store: Store, base: Record, data: Record, split: str, rows: int) -> list[Shown]:
    from dem_build.actions.prepare.run import examples  # noqa: PLC0415  it brings the tokenizer's library along

    with tempfile.TemporaryDirectory(prefix="dem-") as folder:
        tokenizer = store.views.view(base.outputs["tokenizer"], Path(folder), "tokenizer")
        return examples(tokenizer, store.objects.open(data.outputs[split]), range(rows))


def _counts(console: Console, record: Record) -> None:
    if rows := _numbers(record.noted("rows")):  # of a dataset: a mixture reads no file
        console.print(f"rows: {', '.join(f'{name} {c}' for name, c in rows.items() if c)}")
    splits = record.noted("splits")
    for name in splits if isinstance(splits, dict) else ():
        counts = _numbers(splits[name])
        console.print(f"{joined(name)}: " + ", ".join(f"{c} {n}" for n, c in counts.items()))
    if sentence := unread_sentence(_names(record.noted("unread"))):
        console.print(Text(joined(sentence)))
    console.print("⟦ ⟧ what is trained")


def _names(table: JSON) -> dict[str, list[str]]:
    """The lists of texts in a table; nothing of what is none."""
    entries = table.items() if isinstance(table, dict) else ()
    return {n: [v for v in values if isinstance(v, str)] for n, values in entries if isinstance(values, list)}


def _numbers(table: JSON) -> dict[str, JSON]:
    """What is counted in a table, by its name for people; nothing of what is no table, or no number."""
    entries = table.items() if isinstance(table, dict) else ()
    return {joined(n).replace("_", " "): value for n, value in entries if quantity(value) is not None}

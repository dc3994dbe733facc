"""Blame for people: one item and what each model made of it; the items that composing broke or mended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.action import BASE, COMPOSED
from dem_build.report.quantities import decimals, signed
from dem_build.report.text import clean, joined
from dem_build.view.text import columns, hang, say

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from dem_build.cli.blame.findings import Blame
    from dem_build.cli.blame.items import Items
    from dem_build.digest import JSON

MOST_SHOWN = 10
"""Items that are listed of each sort."""
QUESTION, ANSWER, GLANCE = 400, 60, 60
"""Most characters."""


def blame_lines(found: Blame, console: Console) -> None:
    """Print an item, what each model made of it, and who is to blame."""
    items = found.items
    say(console, (f"{joined(items.name)} {found.number}", "bold"), f"  {joined(items.metric)}")
    hang(console, Text("  asks    ", "dim"), Text(_tail(found.asks, QUESTION)))
    hang(console, Text("  expects ", "dim"), Text(_tail(found.wanted, QUESTION)))
    sure = any(one.sure is not None for one in found.models)
    said = any(one.said for one in found.models)
    against = not found.binary
    table = columns("", joined(items.metric))
    if against:
        table.add_column(f"against {found.composed.name}", justify="right")
    if sure:
        table.add_column(found.measure, justify="right")
    if said:
        table.add_column("answer")
    table.add_column("")
    for one in found.models:
        label = f"{one.label}, healed" if one is found.healed else one.label
        cells: list[str | Text] = [joined(label), _value(one.value, binary=found.binary)]
        if against:
            cells.append(signed(one.value - found.composed.value) if one is not found.composed else "")
        if sure:
            cells.append("-" if one.sure is None else signed(one.sure))
        if said:
            cells.append(_glance(one.said, ANSWER))
        verdict = found.verdict(one)
        table.add_row(*cells, verdict, style=_style(verdict) if one in found.culprits else None)
    console.print(table)
    say(console, (joined(found.sentence()), "bold"))
    for note in found.notes:
        say(console, (joined(note), "dim"))


def _style(verdict: str) -> str | None:
    return {"broke it": "red", "keeps it wrong": "red", "mended it": "green", "keeps it right": "green"}.get(
        verdict
    )


def changed_lines(
    items: Items, broken: Sequence[int], mended: Sequence[int], texts: Mapping[int, str], console: Console
) -> None:
    """Print the items, by their numbers, on which base and composed differ, most telling first."""
    count = len(items.models[BASE].keys() & items.models[COMPOSED].keys())
    verbs = ("broke", "mended") if items.binary else ("worsened", "bettered")
    say(
        console,
        (f"{joined(items.name)}", "bold"),
        f"  {joined(items.metric)}: composing {verbs[0]} {len(broken)} and {verbs[1]} {len(mended)} of {count} items",
    )
    for verb, numbers in zip(verbs, (broken, mended), strict=True):
        if numbers:
            _table_of(items, numbers, texts, verb, console)
    if broken or mended:
        say(console, ("`dem blame RECIPE TASK ITEM` says which vector did it", "dim"))


def _table_of(
    items: Items, numbers: Sequence[int], texts: Mapping[int, str], verb: str, console: Console
) -> None:
    table = columns(verb, BASE, COMPOSED)
    base, composed = items.models[BASE], items.models[COMPOSED]
    margins = any(base[n].margin is not None and composed[n].margin is not None for n in numbers)
    if margins:
        table.add_column("margins", justify="right")
    table.add_column("asks")
    for number in numbers[:MOST_SHOWN]:
        old, new = base[number], composed[number]
        cells = [str(number), *(_value(one.value, binary=items.binary) for one in (old, new))]
        if margins:
            known = old.margin is not None and new.margin is not None
            cells.append(f"{signed(old.margin or 0.0)} → {signed(new.margin or 0.0)}" if known else "")
        table.add_row(*cells, _glance(texts.get(number, ""), GLANCE))
    console.print(table)
    if (more := len(numbers) - MOST_SHOWN) > 0:
        say(console, (f"and {more} more; --json lists all", "dim"))


def changed_document(items: Items, broken: Sequence[int], mended: Sequence[int]) -> dict[str, JSON]:
    """The document of `--json` where no item is named."""
    base, composed = items.models[BASE], items.models[COMPOSED]

    def told(number: int) -> dict[str, JSON]:
        old, new = base[number], composed[number]
        margins = {"base_margin": old.margin, "composed_margin": new.margin}
        return {"item": number, "base": old.value, "composed": new.value} | (
            margins if items.dataset is None else {}
        )

    return {
        "task": items.name,
        "metric": items.metric,
        "lower_is_better": items.lower_is_better,
        "items": len(base.keys() & composed.keys()),
        "broke": [told(number) for number in broken],
        "mended": [told(number) for number in mended],
    }


def _value(value: float, *, binary: bool) -> str:
    return f"{value:g}" if binary else decimals(value)


def _tail(text: str, most: int) -> str:
    """The end of a text: of a prompt with examples it is the question."""
    shown = clean(text).strip()
    return shown if len(shown) <= most else f"…{shown[-most:]}"


def _glance(text: str, most: int) -> Text:
    """The end of a text on one line: of a table's columns the one that gives way where all do not fit."""
    line = " ".join(joined(text).split())
    end = line if len(line) <= most else f"…{line[-most:]}"
    return Text(end, no_wrap=True, overflow="ellipsis")

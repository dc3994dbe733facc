"""Text that users wrote, made safe for Markdown, and tables of it."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from dem_build.actions.sample.read import shortened, spread
from dem_build.report.comparison import Trend, model_names, rows
from dem_build.report.quantities import decimals, signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dem_build.actions.sample.read import Exchange
    from dem_build.report.comparison import Change, Measure
    from dem_build.report.results import Results

__all__ = [
    "JOINERS",
    "baselines_list",
    "code",
    "escape",
    "printable",
    "printable_lines",
    "results_table",
    "samples_table",
    "table",
]

CELL = 160  # characters of an answer in a table
UNSHOWN = ("Cc", "Cf", "Cs", "Cn")
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
SPECIAL = re.compile(r"([\\`*_{}\[\]()#|~$!])")


def escape(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: no markup, no HTML, no control characters."""
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return SPECIAL.sub(r"\\\1", plain)


def code(text: str) -> str:
    """Return text as a code span, or escaped where a span (in a table) could not hold it."""
    plain = printable(text)
    return escape(text) if not plain or set("`|\\") & set(plain) else f"`{plain}`"


def printable(text: str) -> str:
    """Return text on one line, without what is not shown: escape sequences, direction overrides, no characters."""
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if unicodedata.category(c) not in UNSHOWN).strip()


def printable_lines(text: str) -> str:
    """Return text with its lines and spaces, without what is not shown; joiners stay, which some scripts need."""
    spaced = "\n".join(text.expandtabs(4).splitlines())
    return "".join(c for c in spaced if c in ("\n", *JOINERS) or unicodedata.category(c) not in UNSHOWN)


def table(header: Sequence[str], body: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """Return a table. Cells are Markdown already; the last `numbers` columns are set to the right."""
    left = len(header) - numbers
    rule = ["---"] * left + ["---:"] * numbers
    lines = [header, rule, *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def results_table(results: Results) -> str:
    """Return the table of all models, with the change of the composed one against the base."""
    names = model_names(results)
    header = ["on", "metric", *(escape(n) for n in names), "change"]
    body = [
        [
            escape(row.subject),
            escape(row.metric),
            *(_measure(row.measures.get(n)) for n in names),
            _change(row.change),
        ]
        for row in rows(results)
    ]
    return table(header, body, numbers=len(names) + 1)


def baselines_list(results: Results) -> str:
    """Return what the baselines are, a line each."""
    lines = [
        f"- {code(name)}: {escape('; '.join([contender.method, *contender.sentences()]))}"
        for name, contender in results.baselines.items()
    ]
    return "\n".join([*lines, ""])


def samples_table(exchanges: Sequence[Exchange]) -> str:
    """Return prompts and answers side by side, each cut to a line, folded as GitHub does it."""
    shown = spread(exchanges)
    models = list(dict.fromkeys(model for e in shown for model in e.answers))
    referred = any(e.reference is not None for e in shown)
    header = ["asked", *(escape(m) for m in models), *(["in the data"] if referred else [])]
    body = [
        [
            _said(e.asked),
            *(_said(e.answers[m].text, cut=not e.answers[m].ended) if m in e.answers else "" for m in models),
            *([_said(e.reference or "")] if referred else []),
        ]
        for e in shown
    ]
    count = f"{len(shown)} prompts" if len(shown) > 1 else "1 prompt"
    return f"<details><summary>{count}, side by side</summary>\n\n{table(header, body)}\n</details>\n"


def _said(text: str, *, cut: bool = False) -> str:
    return escape(shortened(" ".join(text.split()), CELL)) + (" …" if cut else "")


def _measure(measure: Measure | None) -> str:
    if measure is None:
        return ""
    stderr = "" if measure.stderr is None else f" ± {decimals(measure.stderr)}"
    return decimals(measure.value) + stderr


def _change(change: Change | None) -> str:
    if change is None:
        return ""
    return f"**{signed(change.delta)}**" if change.trend is Trend.BETTER else signed(change.delta)

"""Text that users wrote, made safe for Markdown, and tables of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dem_build.actions.sample.read import shortened, spread
from dem_build.report.comparison import Trend, model_names, rows
from dem_build.report.quantities import decimals, signed
from dem_build.report.text import printable
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dem_build.actions.sample.read import Exchange
    from dem_build.report.comparison import Change, Measurement
    from dem_build.report.results import Results

CELL = 160  # characters of an answer in a table
ZERO_WIDTH = "\N{ZERO WIDTH SPACE}"
# `~` strikes through, `!` begins an image and `$` a formula, all of which GitHub's Markdown has.
SPECIAL = re.compile(r"([\\`*_{}\[\]()#|~$!])")
# GitHub looks for these in the text that is left when Markdown is done, so that no backslash helps: names that it
# notifies, numbers of issues and addresses that it links, and says so where they lead to.
REFERENCES = re.compile(r"@(?=\w)|#(?=\d)|\bGH-(?=\d)|:(?=//)|\bwww(?=\.)", re.IGNORECASE)
UNSEEN = "&#8203;"
"""A space of no width."""


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no control characters, nobody notified."""
    plain = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    apart = REFERENCES.sub(rf"\g<0>{ZERO_WIDTH}", plain)
    return SPECIAL.sub(r"\\\1", apart).replace(ZERO_WIDTH, UNSEEN)


def code(text: str) -> str:
    """Text as a code span, or escaped where a span (in a table) could not hold it."""
    plain = printable(text)
    return escape(text) if not plain or set("`|\\") & set(plain) else f"`{plain}`"


def table(header: Sequence[str], body: Iterable[Sequence[str]], numbers: int = 0) -> str:
    """A table. Cells are Markdown already; the last `numbers` columns are set to the right."""
    left = len(header) - numbers
    rule = ["---"] * left + ["---:"] * numbers
    lines = [header, rule, *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def results_table(results: Results) -> str:
    """The table of all models, with the change of the composed one against the base."""
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
    """What the baselines are, a line each."""
    lines = [
        f"- {code(name)}: {escape('; '.join([baseline.method, *baseline.sentences()]))}"
        for name, baseline in results.baselines.items()
    ]
    return "\n".join([*lines, ""])


def stages_list(results: Results) -> str:
    """What trunk and healing are, a line each."""
    return "\n".join([*(f"- {escape(stage.sentence)}" for stage in results.stages.values()), ""])


def samples_table(exchanges: Sequence[Exchange]) -> str:
    """Prompts and answers side by side, each cut to a line, folded as GitHub does it."""
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
    count = counted(len(shown), "prompt")
    return f"<details><summary>{count}, side by side</summary>\n\n{table(header, body)}\n</details>\n"


def _said(text: str, *, cut: bool = False) -> str:
    return escape(shortened(" ".join(text.split()), CELL)) + (" …" if cut else "")


def _measure(measure: Measurement | None) -> str:
    if measure is None:
        return ""
    stderr = "" if measure.stderr is None else f" ± {decimals(measure.stderr)}"
    return decimals(measure.value) + stderr


def _change(change: Change | None) -> str:
    if change is None:
        return ""
    return f"**{signed(change.delta)}**" if change.trend is Trend.BETTER else signed(change.delta)

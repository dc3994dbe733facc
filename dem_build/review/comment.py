"""A review as Markdown: the summary of a job, and the comment on a pull request.

All of its text may be a stranger's. Nothing in it is markup, nobody is notified, no line of code ends its own fence;
and it is never longer than GitHub takes: what matters least is left out first, and that is said.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dem_build.compare.keys import Standing
from dem_build.report.comparison import Trend, subject
from dem_build.report.markdown import code, escape, table
from dem_build.report.quantities import decimals, duration, plus_minus, signed, size
from dem_build.report.text import printable
from dem_build.review.document import RecipeReview, ToldChange
from dem_build.wording import counted, first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from dem_build.review.document import GateVerdict, Metric, Review, ToldDue, ToldReason, Trouble, Weakened

MARKER = "<!-- dem ci -->"
"""The first line, by which the comment is found that is to be replaced."""
MOST_CHARACTERS = 65_536
"""The length that GitHub refuses a comment from."""
PROMPTS = 3
"""Prompts that are shown of a dataset."""
CELL = 300
BRIEF = 120
NAME = 200
NAMED = 12
ABSENT = "-"

_HEADLINES = {
    1: "✗ an action failed",
    2: "✗ a recipe is wrong",
    3: "✗ a gate failed",
    4: "… something comes first: a lock to write, or vectors to train",
    130: "✗ stopped",
}
_MARKS = {0: "✓", 1: "✗", 2: "✗", 3: "✗", 4: "…", 130: "✗"}
_WORTH = {Trend.BETTER: "better", Trend.WORSE: "**worse**", Trend.NOISE: "noise", Trend.UNKNOWN: ""}
_FENCES = re.compile(r"`+")


def verdict(review: Review) -> str:
    """The outcome in one line, without markup."""
    if not review.touched and review.status == 0:
        return "✓ no recipe changed" if review.recipes else "✓ there are no recipes"
    return _HEADLINES[review.status] if review.status else f"✓ {_passed(review.touched)}"


def _passed(recipes: Sequence[RecipeReview]) -> str:
    """What of a review that passes somebody who merges it still has to know: that is not for gates alone to say."""
    gates, metrics = [g for r in recipes for g in r.gates], [m for r in recipes for m in r.metrics]
    judged = "no gate failed" if gates else "nothing failed, and no gate asks for anything"
    weaker = sum(len(r.weakened) for r in recipes)
    less = (
        f"; {counted(weaker, 'gate')} ask{'' if weaker > 1 else 's'} for less than at the base"
        if weaker
        else ""
    )
    worths = [m.worth for m in metrics if m.worth is not Trend.UNKNOWN]
    if not worths:
        return f"{judged}{less}; no metric was compared"
    unknown = f"; {found} more could not be compared" if (found := len(metrics) - len(worths)) else ""
    better = f", {found} better" if (found := worths.count(Trend.BETTER)) else ""
    worse = worths.count(Trend.WORSE) or "none"
    return f"{judged}{less}; of {counted(len(worths), 'metric')} {worse} worse{better}{unknown}"


def comment(review: Review) -> str:
    """The whole text, of less than `MOST_CHARACTERS` characters."""
    shapes = ((_whole, 200), (_without_plan, 60), (_without_prompts, 30), (_short, 10))
    for place, (shape, most) in enumerate(shapes):
        if (text := _fitting(_parts(review, shape, most, all_fits=place == 0))) is not None:
            return text
    text = _fitting(_parts(review, _heading_only, 0, all_fits=False, recipes=40))
    assert text is not None, "forty lines and a table of ten rows fit"
    return text


def _fitting(parts: Iterable[str]) -> str | None:
    """The parts as one text; None as soon as they are too long."""
    kept: list[str] = []
    length = 0
    for part in filter(None, parts):
        length += len(part) + 1
        if length >= MOST_CHARACTERS:
            return None
        kept.append(part)
    return "\n".join(kept)


def _parts(
    review: Review,
    shape: Callable[[RecipeReview], list[str]],
    most: int,
    *,
    all_fits: bool,
    recipes: int = 500,
) -> Iterator[str]:
    """The text from top to bottom.

    Args:
        review: What is told.
        shape: How much of a recipe.
        most: Entries of each of its lists.
        all_fits: Whether nothing was left out but by `most`.
        recipes: Recipes at most.
    """
    yield MARKER
    yield f"## dem ci: {escape(verdict(review))}\n"
    yield _commits(review)
    yield from (f"> {_brief(note, CELL)}\n" for note in review.notes[:10])
    weakened = [r for r in review.touched if r.weakened]
    few = 500 if most else 5
    yield from (_weakened(r, most or 2, named=len(review.touched) > 1) for r in weakened[:few])
    yield _more(len(weakened) - few, "recipes ask for less, too")
    for recipe in review.touched[:recipes]:
        yield from shape(_cut(recipe, most))
    yield _more(len(review.touched) - recipes, "more recipes")
    yield _unchanged(review.same)
    yield "" if all_fits else "Not all of it fits here: the whole is in the JSON of this run.\n"
    yield f"<sub>Again: {_brief(review.command, 300, code)}</sub>\n" if review.command else ""


def _more(count: int, what: str) -> str:
    return f"and {count} {what}\n" if count > 0 else ""


def _cut(recipe: RecipeReview, most: int) -> RecipeReview:
    """A recipe with lists of so many entries at most; metrics that are clear stand before the others then."""
    clear = (Trend.WORSE, Trend.BETTER)
    metrics = recipe.metrics
    if len(metrics) > most:
        metrics = tuple(sorted(metrics, key=lambda m: m.worth not in clear))[:most]
    return recipe.model_copy(
        update={
            "metrics": metrics,
            "notes": (
                *recipe.notes,
                *([f"{len(recipe.metrics) - most} metrics more"] if len(recipe.metrics) > most else []),
            ),
            **{
                n: getattr(recipe, n)[:most]
                for n in ("weakened", "gates", "omega", "reasons", "actions", "keys")
            },
        }
    )


# How much is told of a recipe, from all to next to nothing.


def _whole(recipe: RecipeReview) -> list[str]:
    return [*_without_plan(recipe), _plan(recipe)]


def _without_plan(recipe: RecipeReview) -> list[str]:
    return [*_without_prompts(recipe), _prompts(recipe)]


def _without_prompts(recipe: RecipeReview) -> list[str]:
    return [
        _heading(recipe),
        _trouble(recipe.trouble),
        _reasons(recipe.reasons),
        _gates(recipe.gates),
        _metrics(recipe),
        _omega(recipe),
        _actions(recipe),
    ]


def _short(recipe: RecipeReview) -> list[str]:
    return [_heading(recipe), _trouble(recipe.trouble), _gates(recipe.gates), _metrics(recipe)]


def _heading_only(recipe: RecipeReview) -> list[str]:
    return [f"- {_MARKS[recipe.status]} {_brief(recipe.path, 80, code)}"]


def _commits(review: Review) -> str:
    untrusted = " · **taken for a stranger's** (`--untrusted`)" if review.untrusted else ""
    of = f", the merge base with {_brief(review.against, 100, code)}" if review.against else ""
    return f"{code(review.base[:12])} → {code(review.head[:12])}{of}{untrusted}\n"


def _unchanged(recipes: Sequence[RecipeReview]) -> str:
    if not recipes:
        return ""
    return f"Unchanged, as every key is what it was: {first_of(map(_same, recipes), 20)}.\n"


def _same(recipe: RecipeReview) -> str:
    told = [f"was {_brief(recipe.was, 100, code)}"] if recipe.was else []
    told += [_brief(note) for note in recipe.notes[:2]]
    return _brief(recipe.path, 100, code) + (f" ({'; '.join(told)})" if told else "")


def _name(recipe: RecipeReview) -> str:
    return recipe.path if len(recipe.path) <= NAME else recipe.path[: NAME - 1] + "…"


def _heading(recipe: RecipeReview) -> str:
    was = f", which was {code(recipe.was[:200])}" if recipe.was else ""
    words = {
        ToldChange.ADDED: "a new recipe",
        ToldChange.REMOVED: "removed",
        ToldChange.CHANGED: "changed",
        ToldChange.UNCHANGED: "unchanged",
        ToldChange.BROKEN: "cannot be read",
    }
    lines = [f"### {_MARKS[recipe.status]} {code(_name(recipe))}: {words[recipe.change]}{was}\n"]
    lines += [f"- {escape(note)}" for note in recipe.notes]
    return "\n".join(lines) + ("\n" if recipe.notes else "")


def _trouble(trouble: Trouble | None) -> str:
    if trouble is None:
        return ""
    if trouble.mistakes:
        lines = [
            f"- {code(f'{m.file}:{m.line}' if m.line else m.file)} "
            + escape(": ".join(filter(None, [m.key, m.what])))
            + (f" ({escape(m.hint)})" if m.hint else "")
            for m in trouble.mistakes[:30]
        ]
        more = len(trouble.mistakes) - 30
        return "\n".join([*lines, *([f"- and {more} more"] if more > 0 else []), ""])
    where = f"{code(trouble.where)}: " if trouble.where else ""
    hint = f" ({escape(trouble.hint)})" if trouble.hint else ""
    return f"**{where}{escape(trouble.what)}**{hint}\n"


def _weakened(recipe: RecipeReview, most: int, *, named: bool) -> str:
    """The gates that ask for less than they did: before all else, since it is what a reader must not miss."""
    of = f" in {_brief(recipe.path, NAME, code)}" if named else ""
    body = [[_brief(g.gate), g.how, _brief(g.was), _brief(g.now), _judged(g)] for g in recipe.weakened[:most]]
    count = "A gate asks" if len(recipe.weakened) == 1 else f"{len(recipe.weakened)} gates ask"
    head = f"**⚠ {count} for less than at the base revision{of}:**\n"
    return f"{head}\n{table(['gate', 'it was', 'from', 'to', 'judged as before'], body)}"


def _judged(gate: Weakened) -> str:
    value = "" if gate.value is None else f"{decimals(gate.value)}, "
    why = f": {_brief(gate.why)}" if gate.why else ""
    if gate.passed is None:
        return f"{value}not judged{why}"
    return f"{value}{'✓ passes' if gate.passed else '**✗ fails**'}{why}"


def _brief(text: str, most: int = BRIEF, shape: Callable[[str], str] = escape) -> str:
    """A text that has to be there, whatever else there is no room for: cut, and with its escapes hardly longer."""
    if len(text) > most:
        text = text[: most - 2] + " …"
    while len(shape(text)) > 2 * most:
        text = text[: len(text) // 2] + " …"
    return shape(text)


def _gates(gates: Sequence[GateVerdict]) -> str:
    if not gates:
        return ""
    marks = {True: "✓", False: "✗", None: "-"}
    body = [
        [
            marks[gate.passed],
            f"{escape(gate.metric)} on {escape(subject(gate.task))}",
            escape(gate.why),
            "" if gate.value is None else decimals(gate.value),
        ]
        for gate in gates
    ]
    return table(["", "gate", "condition", "value"], body, numbers=1)


def _metrics(recipe: RecipeReview) -> str:
    if not recipe.metrics:
        return f"Nothing is compared: {escape(recipe.no_baseline)}.\n" if recipe.no_baseline else ""
    body = [
        [
            escape(subject(m.on)),
            escape(m.metric),
            _number(m.before),
            _number(m.after),
            "" if m.delta is None else f"{signed(m.delta)} {plus_minus(m.stderr)}".rstrip(),
            _WORTH[m.worth] + ("" if m.p is None else f" ({probability(m.p)})"),
            _rows(m),
        ]
        for m in recipe.metrics
    ]
    header = ["on", "metric", "before", "after", "Δ", "which is", "compared by"]
    told = table(header, body)
    if any(m.p is not None for m in recipe.metrics):
        told += (
            "\n<sub>Differences on the same rows; p after Holm over all that was compared, at 5 %.</sub>\n"
        )
    return told + (f"\nNo baseline: {escape(recipe.no_baseline)}.\n" if recipe.no_baseline else "")


def _number(value: float | None) -> str:
    return "" if value is None else decimals(value)


def probability(p: float) -> str:
    """A p-value for people."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _rows(metric: Metric) -> str:
    """What a difference was taken on, and what only one side had."""
    if metric.common is None:
        return escape(metric.test)
    apart = [
        f"{count} {word}"
        for count, word in ((metric.only_before, "before only"), (metric.only_after, "after only"))
        if count
    ]
    told = f"{metric.common} rows" + (f" of both ({', '.join(apart)})" if apart else "")
    return escape(", ".join(filter(None, [told, metric.test])))


def _omega(recipe: RecipeReview) -> str:
    if all(one.before == one.after for one in recipe.omega):
        return ""
    body = [[escape(one.vector), _weight(one.before), _weight(one.after)] for one in recipe.omega]
    return table(["ω of", "before", "after"], body, numbers=2)


def _weight(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.4g}"


def _actions(recipe: RecipeReview) -> str:
    """What has to be trained, what ran, and what it cost."""
    lines = []
    due = [a for a in recipe.actions if a.state == "due"]
    trains = [a for a in due if a.trains]
    if trains:
        lines.append(f"- **to train first**: {first_of(map(_expected, trains), NAMED)}{_together(trains)}")
    if others := [a for a in due if not a.trains]:
        lines.append(f"- due after that: {first_of((code(a.action) for a in others), NAMED)}")
    if ran := [a for a in recipe.actions if a.state == "ran"]:
        devices = ", ".join(dict.fromkeys(escape(a.device) for a in ran if a.device))
        lines.append(f"- ran{f' on {devices}' if devices else ''}: {first_of(map(_took, ran), NAMED)}")
    lines += [
        f"- **failed** {code(a.action)}: {escape(a.error)}" for a in recipe.actions if a.state == "failed"
    ]
    if recipe.recorded[1]:
        lines.append(f"- recorded: {recipe.recorded[0]} of {recipe.recorded[1]} actions")
    if recipe.cost:
        lines.append(f"- cost of what is new, each result once, as it ran: {escape(recipe.cost)}")
    models = (("before", recipe.model_before), ("after", recipe.model_after))
    if told := [f"{word} {code(digest[:12])}" for word, digest in models if digest]:
        lines.append(f"- model: {', '.join(told)}")
    return "\n".join([*lines, ""]) if lines else ""


def _expected(action: ToldDue) -> str:
    told = [duration(action.seconds)] if action.seconds is not None else ["time unknown"]
    told += [size(action.disk)] if action.disk else []
    return f"{code(action.action)} ({', '.join(told)})"


def _took(action: ToldDue) -> str:
    return code(action.action) + (f" {duration(action.seconds)}" if action.seconds is not None else "")


def _together(actions: Sequence[ToldDue]) -> str:
    known = [a.seconds for a in actions if a.seconds is not None]
    return f"; together {duration(sum(known))}" if len(actions) > 1 and len(known) == len(actions) else ""


def _reasons(reasons: Sequence[ToldReason]) -> str:
    lines = []
    for reason in reasons:
        names = [*reason.changed, *reason.follow]
        follow = (
            f": {first_of(map(code, names), 6)} {'follow' if len(names) > 1 else 'follows'}" if names else ""
        )
        lines.append(f"- {escape(reason.text)}{follow}")
    return "\n".join([*lines, ""]) if lines else ""


def _prompts(recipe: RecipeReview) -> str:
    """At most three prompts of a dataset, side by side, folded."""
    count: dict[str, int] = {}
    shown = []
    for one in recipe.prompts:
        count[one.dataset] = count.get(one.dataset, 0) + 1
        if count[one.dataset] <= PROMPTS:
            shown.append(one)
    if not shown:
        return ""
    referred = any(one.reference is not None for one in shown)
    header = ["on", "asked", "before", "after", *(["in the data"] if referred else [])]
    body = [
        [
            escape(one.dataset),
            _said(one.asked),
            _said(one.before),
            _said(one.after),
            *([_said(one.reference)] if referred else []),
        ]
        for one in shown
    ]
    return _folded(f"{len(shown)} prompts, side by side", table(header, body))


def _said(text: str | None) -> str:
    if text is None:
        return ABSENT
    line = printable(text)
    return escape(line if len(line) <= CELL else line[: CELL - 2].rstrip() + " …")


def _plan(recipe: RecipeReview) -> str:
    """Every key that differs, folded."""
    if not recipe.keys:
        return ""
    lines = [
        f"{change.what:<8} {printable(change.action)}  "
        + ("" if change.what is Standing.NEW else _key(change.before))
        + ("" if change.what in (Standing.NEW, Standing.GONE) else " → ")
        + ("" if change.what is Standing.GONE else _key(change.after))
        for change in recipe.keys
    ]
    return _folded(f"The plan's difference: {len(lines)} actions", _fenced(lines))


def _key(key: str | None) -> str:
    return key[:12] if key else "not known yet"


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n\n{body}\n</details>\n"


def _fenced(lines: Sequence[str]) -> str:
    """Lines in a fence that none of them can end."""
    longest = max((len(run) for line in lines for run in _FENCES.findall(line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}text", *lines, fence, ""])

"""A review in the lines of a terminal: the verdict, and of each recipe what decides it. The rest is in the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.report import quantities
from dem_build.report.comparison import Trend, subject
from dem_build.report.text import joined
from dem_build.review.comment import probability, verdict
from dem_build.view.text import hang, say
from dem_build.wording import counted, first_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from dem_build.review.document import Metric, RecipeReview, Review

STYLES = {0: "green", 1: "bold red", 2: "bold red", 3: "bold red", 4: "yellow", 130: "yellow"}
WORTH = {Trend.BETTER: "green", Trend.WORSE: "bold red", Trend.NOISE: "dim", Trend.UNKNOWN: ""}
MOST = 12


def say_review(review: Review, console: Console) -> None:
    """Print a review."""
    console.print()
    trust = "  a stranger's (--untrusted)" if review.untrusted else ""
    say(
        console,
        (verdict(review), STYLES[review.status]),
        (f"  {review.base[:12]} → {review.head[:12]}{trust}", "dim"),
    )
    for recipe in review.touched:
        say(
            console,
            (joined(recipe.path), "bold"),
            f"  {recipe.change.value}",
            (f"  {recipe.status}", STYLES[recipe.status]),
        )
        for head, body in _lines(recipe):
            hang(console, Text(f"  {head}"), body)
    if review.same:
        names = first_of((joined(recipe.path) for recipe in review.same), MOST)
        hang(console, Text("unchanged", "dim"), Text(names, "dim"))


def _lines(recipe: RecipeReview) -> Iterator[tuple[str, Text]]:
    """What is said of one recipe: a word, and what belongs to it."""
    for note in recipe.notes:
        yield "note", Text(joined(note), "dim")
    for gate in recipe.weakened:
        now = f", now {gate.now}" if gate.now else ""
        judged = {True: "passes as it was", False: "fails as it was", None: joined(gate.why)}[gate.passed]
        style = "bold red" if gate.passed is False else "yellow"
        yield (
            gate.how,
            Text.assemble((joined(f"gate {gate.gate}: {gate.was}{now}"), style), (f"; {judged}", style)),
        )
    if (trouble := recipe.trouble) is not None:
        for m in trouble.mistakes[:MOST]:
            key = f"{m.key}: " if m.key else ""
            yield (
                "error",
                Text(joined(f"{m.file}:{m.line}: {key}{m.what}" + (f" ({m.hint})" if m.hint else ""))),
            )
        if not trouble.mistakes:
            where = f"{trouble.where}: " if trouble.where else ""
            yield "error", Text(joined(where + trouble.what + (f" ({trouble.hint})" if trouble.hint else "")))
    for reason in recipe.reasons[:MOST]:
        follow = (*reason.changed, *reason.follow)
        yield (
            "changed",
            Text.assemble(
                joined(reason.text), (f": {counted(len(follow), 'action')}" if follow else "", "dim")
            ),
        )
    yield from _of_build(recipe)
    for metric in recipe.metrics[:MOST]:
        yield "metric", _metric(metric)
    if recipe.no_baseline:
        yield "no base", Text(joined(recipe.no_baseline))
    for judged_gate in recipe.gates:
        mark = {True: "✓", False: "✗", None: "-"}[judged_gate.passed]
        style = "bold red" if judged_gate.passed is False else ""
        told = f"{mark} {judged_gate.metric} on {subject(judged_gate.task)}: {judged_gate.why}"
        yield "gate", Text(joined(told), style)


def _of_build(recipe: RecipeReview) -> Iterator[tuple[str, Text]]:
    for action in recipe.actions:
        if action.state == "failed":
            yield "failed", Text(joined(f"{action.action}: {action.error}"), "bold red")
    if train := [a for a in recipe.actions if a.to_train]:
        told = [
            f"{a.action} ({'time unknown' if a.seconds is None else quantities.duration(a.seconds)})"
            for a in train
        ]
        yield "train", Text(joined(", ".join(told[:MOST])), "yellow")
    if recipe.cost:
        yield "cost", Text(joined(recipe.cost), "dim")


def _metric(metric: Metric) -> Text:
    values = [quantities.decimals(v) if v is not None else "-" for v in (metric.before, metric.after)]
    told = f"{metric.metric} on {subject(metric.on)}: {values[0]} → {values[1]}"
    if metric.delta is not None:
        told += f", {quantities.with_error(quantities.signed(metric.delta), metric.stderr)}"
    if metric.worth is Trend.UNKNOWN:
        return Text(joined(told))
    p = "" if metric.p is None else f" ({probability(metric.p)})"
    return Text.assemble(joined(told), (f" {metric.worth.value}{p}", WORTH[metric.worth]))

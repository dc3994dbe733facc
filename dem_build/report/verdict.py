"""The verdict in words: was composing right for these data? Written from recorded numbers by the rules below.

Against the base: a dataset's test loss fell or rose where zero lies outside the 95 % interval of its change
(`comparison.trend_of`), else it did not clearly change.

Against another model (a baseline, or one vector alone): by the mean over all datasets of the gain recovered, where the
own vector of each gains enough alone (`comparison.clear`), else of the test loss. One is better where zero lies outside
the 95 % interval of the mean difference. Where another model is better, that is the verdict. Datasets of so few test
rows that errors are unknown are in no such mean, unless all are. A model with a test loss on other datasets than the
composed one is not compared: a vector may well win on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from dem_build.action import TRUNK, UNHEALED
from dem_build.actions.choose.read import read_choice
from dem_build.actions.tune.read import read_tuning
from dem_build.report.comparison import (
    BASE,
    COMPOSED,
    LOSS_TASK,
    Measurement,
    Trend,
    above,
    clear,
    gains,
    has_few_rows,
    losses_of,
    mean,
    model_names,
    rows,
    trend_of,
)
from dem_build.report.quantities import decimals, signed, with_error
from dem_build.stats import FEW_ROWS
from dem_build.wording import first_of, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dem_build.report.comparison import MetricRow
    from dem_build.report.gates import GateResult
    from dem_build.report.results import Results

GAIN = "mean gain recovered"
MEAN_LOSS = "mean test loss"
MOST_NAMED = 4
STAGES = {TRUNK: "the trunk", UNHEALED: "the model before healing"}


class Finding(StrEnum):
    """What a build came to."""

    HELPED = "composing helped"
    MIXED = "composing helped some and harmed some"
    UNCHANGED = "no clear change"
    HARMED = "composing did harm"
    BEATEN = "another model won"
    UNKNOWN = "not judged"


@dataclass(frozen=True)
class BuildVerdict:
    """The verdict.

    Attributes:
        finding: What the build came to, for machines.
        headline: The same in one sentence.
        sentences: What it rests on, with numbers.
        winner: The model that won, where that is another one.
    """

    finding: Finding
    headline: str
    sentences: tuple[str, ...]
    winner: str | None = None


@dataclass(frozen=True)
class Rival:
    """Another model beside the composed one.

    Attributes:
        model: Its name in results.
        name: Its name in a sentence.
        single: Whether it is one vector alone.
        mean: Its mean over all datasets.
        lead: By how much the composed model is the better one.
        trend: Better where the composed model is the better one.
    """

    model: str
    name: str
    single: bool
    mean: Measurement
    lead: Measurement
    trend: Trend


@dataclass(frozen=True)
class Comparison:
    """The composed model beside every model with a test loss on the same datasets.

    Attributes:
        measure: `mean gain recovered` or `mean test loss`.
        composed: The composed model's mean over all datasets, None where nothing is beside it.
        rivals: The others, the best first.
        left_out: Datasets that the means are without: they have too few test rows to tell how sure a difference is.
    """

    measure: str
    composed: Measurement | None
    rivals: tuple[Rival, ...]
    left_out: tuple[str, ...] = ()


def judge(results: Results, gates: Iterable[GateResult] = ()) -> BuildVerdict:
    """Judge a build."""
    changed = [row for row in rows(results) if row.change is not None]
    losses = [row for row in changed if row.task.startswith(LOSS_TASK) and row.subject in results.datasets]
    probes = [row for row in changed if row.task.startswith(LOSS_TASK) and row.subject in results.probes]
    tasks = [row for row in changed if not row.task.startswith(LOSS_TASK)]
    compared = _compare(results)
    # The best of all may lead within large errors, and one behind it beyond its own. Rivals are judged one by one, at
    # 95 % each: of many that are no better, one may seem so by chance.
    ahead = next((rival for rival in compared.rivals if rival.trend is Trend.WORSE), None)
    finding, headline = _headline(results, losses, tasks, compared.rivals, ahead)
    sentences = [
        _against_base(losses),
        _recovered(results),
        *_against_rivals(compared),
        _not_compared(results, compared.rivals),
        f"Tasks against the base: {_changes(tasks, metric=True)}." if tasks else "",
        f"Probes, loss against the base: {_changes(probes, metric=True)}." if probes else "",
        _gates(list(gates)),
    ]
    winner = ahead.model if ahead is not None and finding is Finding.BEATEN else None
    return BuildVerdict(finding, headline, tuple(s for s in sentences if s), winner)


def _compare(results: Results) -> Comparison:
    judged = losses_of(results, COMPOSED).keys()
    choice = results.get(read_choice)
    itself = (BASE, COMPOSED, choice.chosen if choice else None)  # what was chosen is the composed model
    models = [m for m in model_names(results) if m not in itself]
    models = [m for m in models if judged and losses_of(results, m).keys() == judged]
    names = [name for name in judged if not has_few_rows(results, COMPOSED, LOSS_TASK + name)] or [*judged]
    left_out = tuple(name for name in judged if name not in names)
    if left_out:  # where it is judged on its own dataset alone, a vector has won before
        models = [m for m in models if names != [m]]
    gained = set(names) <= set(clear(results))
    measure, values = (GAIN, gains) if gained else (MEAN_LOSS, losses_of)

    def rival(model: str) -> Rival:
        lead = mean(gains(results, COMPOSED, model) if gained else above(results, model, COMPOSED), names)
        trend, single = trend_of(lead, lower_is_better=False), model in results.vectors
        return Rival(model, _title(results, model), single, mean(values(results, model), names), lead, trend)

    rivals = tuple(sorted(map(rival, models), key=lambda one: one.lead.value))
    composed = mean(values(results, COMPOSED), names) if rivals else None
    return Comparison(measure, composed, rivals, left_out)


def _title(results: Results, model: str) -> str:
    return STAGES.get(model) or (f"{model}'s vector alone" if model in results.vectors else model)


def _headline(
    results: Results,
    losses: list[MetricRow],
    tasks: list[MetricRow],
    rivals: Sequence[Rival],
    ahead: Rival | None,
) -> tuple[Finding, str]:
    judged, what = (losses, "dataset") if _known(losses) or not _known(tasks) else (tasks, "task")
    if not _known(judged):
        lacking = "the errors are unknown" if judged else "base and composed have no measurement in common"
        return Finding.UNKNOWN, f"Not judged: {lacking}."
    if ahead is not None:
        # Whether it was a mixture is what a reader asks first.
        baseline = results.baselines.get(ahead.model)
        mixture = baseline is not None and baseline.method == "mixing"
        return Finding.BEATEN, f"A mixture won: {ahead.name}." if mixture else f"{_capital(ahead.name)} won."
    better, worse = _of(judged, Trend.BETTER), _of(judged, Trend.WORSE)
    if better and worse:
        harmed = f"harmed {_named([row.subject for row in worse])}"
        return Finding.MIXED, f"Composing helped {_share(better, judged, what)} and {harmed}."
    if better:
        return Finding.HELPED, f"Composing helped {_share(better, judged, what)}{_also_won(results, rivals)}."
    if worse:
        return Finding.HARMED, f"Composing did not help: it harmed {_share(worse, judged, what)}."
    return Finding.UNCHANGED, f"Composing made no clear difference to any {what}."


def _known(changed: Iterable[MetricRow]) -> list[MetricRow]:
    """The rows of which it is known how sure their changes are."""
    return [row for row in changed if row.change is not None and row.change.trend is not Trend.UNKNOWN]


def _also_won(results: Results, rivals: Sequence[Rival]) -> str:
    """What composing beat, where it beat all that it was compared with."""
    if not rivals or any(rival.trend is not Trend.BETTER for rival in rivals):
        return ""
    names = [rival.name for rival in rivals if not rival.single]
    alone = [rival.name for rival in rivals if rival.single]
    if len(alone) == len(results.vectors) > 0:
        alone = ["every vector alone"]
    return f" and beat {together([*names[:MOST_NAMED], *alone[:MOST_NAMED]])}"


def _share(some: Sequence[MetricRow], judged: Sequence[MetricRow], what: str) -> str:
    of = len({row.task for row in judged})
    count = len({row.task for row in some})
    if of == 1:
        return f"the one {what}"
    if count == of:
        return f"both {what}s" if of == 2 else f"all {of} {what}s"
    return f"{count} of {of} {what}s"


def _against_base(losses: list[MetricRow]) -> str:
    """How many test losses fell, rose and did neither, and by how much."""
    words = {
        Trend.BETTER: "fell on",
        Trend.WORSE: "rose on",
        Trend.NOISE: "did not clearly change on",
        Trend.UNKNOWN: "changed with an unknown error on",
    }
    parts = [
        f"{verb} {len(some)} ({_changes(some)})"
        for trend, verb in words.items()
        if (some := _of(losses, trend))
    ]
    return f"Against the base, test loss {together(parts)}." if parts else ""


def _recovered(results: Results) -> str:
    """The gain recovered on test rows, else on the rows that ω was chosen on."""
    # A mean is of those whose own vector gains enough alone: a ratio by next to nothing would outweigh all others.
    recovers, found = "It recovers", {n: m.value for n, m in gains(results, COMPOSED).items()}
    strong = {name: found[name] for name in clear(results) if name in found}
    whole = measured(mean(gains(results, COMPOSED), strong)) if strong else ""
    if not found:
        recovers = "On the validation rows that ω was chosen on, it recovers"
        tuning = results.get(read_tuning)
        judged = tuning.judges if tuning else {}
        found = {name: j.gain for name, j in judged.items() if j.gain is not None}
        strong = {name: gain for name, gain in found.items() if not judged[name].floored}
        whole = f"{sum(strong.values()) / len(strong):.2f}" if strong else ""
    weak = [name for name in found if name not in strong]
    if not found:
        return ""
    if not strong:
        return f"What it recovers cannot be told: the own vector of {_named(weak)} gains too little alone."
    left = f"; {_named(weak)} left out, whose own vector gains too little to tell" if weak else ""
    return f"{recovers} {whole} of what each dataset's own vector gains alone{_extremes(strong)}{left}."


def _extremes(values: dict[str, float]) -> str:
    if len(values) < 2:
        return ""
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return f" (mean of {len(values)}; from {values[least]:.2f} on {least} to {values[most]:.2f} on {most})"


def _against_rivals(compared: Comparison) -> Iterator[str]:
    """How the baselines compare, and the best of the vectors alone; which datasets no mean has."""
    words = {
        Trend.WORSE: "better than composing",
        Trend.NOISE: "not to be told from composing",
        Trend.BETTER: "worse than composing",
        Trend.UNKNOWN: "beside composing, with an unknown error",
    }
    best = next((rival for rival in compared.rivals if rival.single), None)
    said = [rival for rival in compared.rivals if not rival.single or rival is best]
    beside = f"({compared.measure}, composed {measured(compared.composed)})" if compared.composed else ""
    for trend, verb in words.items():
        some = [rival for rival in said if rival.trend is trend]
        shown = [
            f"{rival.name}{', the best of its kind,' if rival.single else ''} {measured(rival.mean)}"
            for rival in some
        ]
        if shown:
            yield f"{_capital(verb)} {beside}: {first_of(shown, MOST_NAMED)}."
    if compared.left_out and compared.rivals:
        yield f"These means are without {_named(compared.left_out)}: fewer than {FEW_ROWS} prompts to test on."


def _not_compared(results: Results, rivals: Sequence[Rival]) -> str:
    """Which models have a test loss on a dataset of the composed model, but not on just the same ones."""
    compared = {BASE, COMPOSED, *(rival.model for rival in rivals)}
    ours = losses_of(results, COMPOSED).keys()
    left = {m: losses_of(results, m).keys() for m in model_names(results) if m not in compared}
    part = [_title(results, m) for m, theirs in left.items() if theirs & ours and theirs != ours]
    return f"Not compared, without a test loss on the same datasets: {_named(part)}." if part else ""


def _gates(gates: list[GateResult]) -> str:
    gates = [gate for gate in gates if gate.judged]
    if not gates:
        return ""
    lost = [f"{g.metric} on {g.task.removeprefix(LOSS_TASK)}" for g in gates if not g.passed]
    passed = f"{len(gates) - len(lost)} of {len(gates)} gates passed"
    return f"{passed}; failed: {_named(lost)}." if lost else f"{passed}."


def _of(changed: Iterable[MetricRow], trend: Trend) -> list[MetricRow]:
    return [row for row in changed if row.change is not None and row.change.trend is trend]


def _changes(changed: Sequence[MetricRow], *, metric: bool = False) -> str:
    """The largest changes with their errors; with the metric of each, and whether it is clear, if asked for."""
    told = []
    for row in sorted(changed, key=lambda row: -abs(row.change.delta) if row.change else 0.0):
        assert row.change is not None
        of = f" {row.metric}" if metric and not row.task.startswith(LOSS_TASK) else ""
        unclear = " (no clear change)" if metric and row.change.trend is Trend.NOISE else ""
        told.append(f"{row.subject}{of} {with_error(signed(row.change.delta), row.change.stderr)}{unclear}")
    return first_of(told, MOST_NAMED)


def _named(names: Sequence[str]) -> str:
    return together(names) if len(names) <= MOST_NAMED else first_of(names, MOST_NAMED)


def measured(measure: Measurement) -> str:
    """A value with its standard error: `0.893 ±0.021`."""
    return with_error(decimals(measure.value), measure.stderr)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

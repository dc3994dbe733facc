"""A plan: what would run, and why; what it will take, and which baselines are part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from dem_build.action import HEAL, TRUNK
from dem_build.actions import KINDS
from dem_build.actions.match.spec import rowless
from dem_build.plan import Status, Why
from dem_build.report import quantities
from dem_build.report.text import joined
from dem_build.view.text import MARKS, STYLES, say, shorten
from dem_build.wording import counted, first_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table

    from dem_build.errors import DemError
    from dem_build.estimate import AtOnce, Budget, Estimate
    from dem_build.graph import Graph
    from dem_build.plan import Plan, Reason, Verdict
    from dem_build.session.under_way import UnderWay

FOLD_FROM = 4
WAITS_SHOWN = 3
NAMES_SHOWN = 3

UNKNOWN = "an unknown time"
BEFORE = frozenset(kind.family for kind in KINDS.values() if kind.before_training)
"""Families of what makes base and data, from whose records the others are estimated."""


def plan_table(plan: Plan, console: Console, *, fold: bool = False) -> None:
    """Print a plan, one action a line with its verdict and reason; plain lines where there is no terminal.

    If asked to `fold`, many recorded actions are one line.
    """
    if plan.up_to_date and fold:
        every = counted(len(plan.verdicts), "action")
        say(console, (f"{MARKS['ran']} ", "green"), f"up to date: {every} recorded")
        _transfer_lines(plan, console)
        return
    hits = plan.of(Status.HIT)
    folded = fold and len(hits) >= FOLD_FROM
    shown = [v for v in plan.verdicts.values() if not (folded and v.status is Status.HIT)]
    if console.is_terminal:
        console.print(_table(shown, console.width))
    else:
        width = max((len(joined(v.action.name)) for v in shown), default=0)
        for verdict in shown:
            name, why = joined(verdict.action.name), joined(verdict.reason)
            more = _stored(verdict) + _missing(verdict)
            say(console, f"{verdict.status.value:<8} {name:<{width}}  {why}{more}")
    due, pending, recorded = (len(plan.of(s)) for s in (Status.RUN, Status.PENDING, Status.HIT))
    waiting = f", {pending} depend on what they make" if pending else ""
    say(console, (f"{counted(due, 'action')} to run{waiting}, {recorded} recorded", "dim"))
    _transfer_lines(plan, console)


def _transfer_lines(plan: Plan, console: Console) -> None:
    """Print what will be fetched, and from where."""
    if any(v.reason.away is not None for v in plan.verdicts.values()):
        from dem_build.estimate.transfer import transfers  # noqa: PLC0415  most plans fetch nothing
        from dem_build.report.results import READ  # noqa: PLC0415

        for found in transfers(plan, READ):
            objects = counted(found.objects, "object")
            text = f"to fetch: {quantities.size(found.bytes)}, {objects}, from {joined(found.where)}"
            say(console, (text, "dim"))


def absent_lines(plan: Plan, console: Console) -> None:
    """Print which files are not on this machine: first those that something due has to read."""
    needed: dict[str, None] = {}
    for verdict in plan.verdicts.values():
        paths = [str(s.path) for s in verdict.action.sources if s.absent]
        if paths and verdict.status is not Status.HIT:
            needed |= dict.fromkeys(paths)
            text = f"{joined(verdict.action.name)} has to read what is not here: {_some(paths)}"
            say(console, ("warning: ", "yellow"), text)
    absent = dict.fromkeys(str(s.path) for a in plan.graph for s in a.sources if s.absent)
    if idle := [path for path in absent if path not in needed]:
        say(console, ("note: ", "dim"), f"not here, and nothing has to read it: {_some(idle)}")


def begun_lines(begun: Sequence[UnderWay], console: Console) -> None:
    """Print what another process is at work on, and what goes on from what an earlier run has saved."""
    for one in begun:
        saved = "" if one.saved is None else f"step {one.saved} is saved"
        if one.holder is not None:
            parts = filter(None, (f"{joined(one.holder)} is at work on it", saved))
            text = f"{', '.join(parts)}: a build waits for it"
        else:
            text = f"{saved}, and a build goes on from there"
        say(console, (f"{joined(one.action)}: {text}", ""))


def _some(names: Iterable[str]) -> str:
    return first_of(map(joined, names), NAMES_SHOWN)


def recipe_line(named: str, console: Console) -> None:
    """Print which of several recipes follows."""
    console.print()
    say(console, (f"recipe {joined(named)}", "bold"))


def name_width(plan: Plan, limit: int) -> int:
    """The width that a column of the plan's due actions takes, at most `limit`."""
    names = [verdict.action.name for verdict in plan.due]
    return min(max((len(joined(n)) for n in names), default=0), limit)


def _table(verdicts: list[Verdict], width: int) -> Table:
    from rich.table import Table  # noqa: PLC0415  # a build with nothing to do prints no table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("action", no_wrap=True)
    table.add_column("why", overflow="fold")
    limit = max(width * 3 // 8, 16)
    for verdict in verdicts:
        status = verdict.status.value
        style = STYLES[status]
        name = Text(shorten(joined(verdict.action.name), limit), "dim" if status == "hit" else "")
        table.add_row(
            Text(f"{MARKS[status]} {status}", style),
            name,
            Text(_why(verdict.reason, limit) + _stored(verdict) + _missing(verdict), "dim"),
        )
    return table


def _why(reason: Reason, limit: int) -> str:
    """A reason for a narrow column: of what a pending action waits for, the first names alone."""
    if reason.why is not Why.WAITS:
        return joined(reason)
    names = (shorten(joined(name), limit) for name in reason.waits_for)
    return f"depends on {first_of(names, WAITS_SHOWN)}"


def _stored(verdict: Verdict) -> str:
    """Say what a GGUF file's blocks of integers become: the format is chosen, and not the file's own."""
    params = verdict.action.params
    return f" (GGUF, stored as {params['dtype']})" if params.get("source") == "gguf" else ""


def _missing(verdict: Verdict) -> str:
    """Say how much of what is recorded elsewhere is not here."""
    away = verdict.reason.away
    return "" if away is None else f", {quantities.size(away.bytes)} not here"


def estimate_lines(estimates: Sequence[Estimate], console: Console, at_once: AtOnce | None = None) -> None:
    """Print what is known of actions that are due, and of all of them: one after another, or so many at once."""
    for line in _parts_lines(estimates):
        say(console, (line, "dim"))
    lines = [*_own_lines(estimates), *_family_lines(estimates)]
    for line in lines:
        say(console, (line, "dim"))
    if len(estimates) > 1 and lines:
        say(console, (f"{_all(at_once)}: about {', '.join(_total(estimates, at_once))}", "dim"))
    elif estimates and not lines:
        lacking = any(estimate.kind in BEFORE for estimate in estimates)
        reason = " before base and data are there" if lacking else ": nothing like it ran here yet"
        say(console, (f"what this takes is not known{reason}", "dim"))


def memory_lines(errors: Sequence[DemError], warnings: Sequence[str], console: Console) -> None:
    """Print what cannot fit into memory, and what is not expected to."""
    for error in errors:
        say(console, ("error: ", "red"), joined(error.located), (f" ({joined(error.hint or '')})", "dim"))
    for warning in warnings:
        say(console, ("warning: ", "yellow"), joined(warning))


def _parts_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield a line for each dataset with parts: what is known of it before it is downloaded."""
    for estimate in estimates:
        if estimate.download is None:
            continue
        parts = [] if estimate.subsets is None else [f"{estimate.subsets} sub-datasets"]
        parts += (
            [] if estimate.rows is None else [f"at most {quantities.count(estimate.rows)} rows to train on"]
        )
        parts += [f"{quantities.size(estimate.download)} to download"] if estimate.download else []
        if parts:
            yield f"{joined(estimate.name)}: {', '.join(parts)}"


def _own_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    for estimate in filter(_has_line, estimates):
        parts = []
        if estimate.memory is not None:
            parts.append(f"{quantities.size(estimate.memory)} of memory")
        read = "" if estimate.tokens is None else f" for {quantities.count(estimate.tokens)} tokens"
        if estimate.seconds is not None or read:
            parts.append(f"{_times([estimate])}{read}")
        if estimate.disk is not None:
            scratch = estimate.scratch
            more = "" if scratch is None else f" (and {quantities.size(scratch)} while it trains)"
            parts.append(f"{quantities.size(estimate.disk)} of disk{more}")
        if parts:
            yield f"{joined(estimate.name)}: about {', '.join(parts)}"


def _family_lines(estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield a line for each family of which some action's time is known: there may be hundreds of evaluations."""
    others = [e for e in estimates if not _has_line(e)]
    for kind in dict.fromkeys(e.kind for e in others):
        members = [e for e in others if e.kind == kind]
        if any(e.seconds is not None for e in members):
            yield f"{kind} ({len(members)}): about {_times(members)}"


def _has_line(estimate: Estimate) -> bool:
    return estimate.writes_model or estimate.memory is not None


def _times(estimates: Sequence[Estimate], at_once: AtOnce | None = None) -> str:
    """The time of actions, `2m 10s`, `5m 00s to 1h 10m`, and of how many it is not known."""
    known = [e for e in estimates if e.seconds is not None]
    if not known:
        return UNKNOWN
    most = at_once.seconds if at_once else sum(e.seconds or 0.0 for e in known)
    least = at_once.least_seconds if at_once else sum(e.least_seconds or 0.0 for e in known)
    shown = list(dict.fromkeys(map(quantities.duration, (least, most))))
    lacking = len(estimates) - len(known)
    more = f" and {UNKNOWN} for {lacking} of {len(estimates)}" if lacking else ""
    return " to ".join(shown) + more


def _all(at_once: AtOnce | None) -> str:
    return "all that is due" if at_once is None else f"all that is due, {at_once.slots} at once"


def _total(estimates: Sequence[Estimate], at_once: AtOnce | None) -> Iterator[str]:
    """Yield the sums of what is known of all; memory is that of the largest, or of those that run at once."""
    memory = max((e.memory for e in estimates if e.memory is not None), default=None)
    if memory is not None and at_once is not None:
        memory = at_once.memory
    if memory is not None:
        yield f"{quantities.size(memory)} of memory at most"
    yield _times(estimates, at_once)
    disk = [e.disk for e in estimates if e.writes_model]
    if disk and None not in disk:
        yield f"{quantities.size(sum(filter(None, disk)))} of disk for models and vectors"


def budget_lines(budgets: Sequence[Budget], console: Console) -> None:
    """Print how long each mixture is trained."""
    for budget in budgets:
        tokens = "" if budget.tokens is None else f"{quantities.count(budget.tokens)} tokens"
        if budget.equal:
            text = f"as many tokens as the vectors of {', '.join(map(joined, budget.datasets))} together"
            text += f": {tokens}" if tokens else ""
        else:
            text = (
                f"{tokens}, as its own `train` says" if tokens else "as many tokens as its own `train` says"
            )
        what = budget.baseline if budget.baseline in (TRUNK, HEAL) else f"baseline {joined(budget.baseline)}"
        if not budget.equal:
            text += f", of {', '.join(map(joined, budget.datasets))}" if budget.baseline == what else ""
        say(console, (f"{what} is trained on {text}", "dim"))


def rowless_lines(graph: Graph, console: Console) -> None:
    """Say which vectors of a matched model have no rows to match."""
    for action in graph:
        if names := rowless(action):
            what = "from elsewhere and without `rows`, in the ridge's prior and not in the fit"
            say(console, ("note: ", "yellow"), f"{joined(action.name)}: {what}: {_some(names)}")


def inherited_rates_line(tables: Sequence[str], rate: float, console: Console) -> None:
    """Say which trainings have a rate that was written for the other method."""
    if tables:
        what = f"{first_of(map(joined, tables), 3)}: another `method` than [train], at its learning_rate = {rate:g}"
        more = "adapters take about ten times the rate of all weights: write `learning_rate` beside `method`"
        say(console, ("note: ", "yellow"), f"{what}; {more}")


def unevaluated_line(names: Sequence[str], console: Console) -> None:
    """Say which baselines are made and not measured."""
    if names:
        listed = ", ".join(map(joined, names))
        what = f"made and not measured, as `models` in [evaluate] does not name it: baseline {listed}"
        say(console, ("note: ", "yellow"), what)

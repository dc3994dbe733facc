"""Recorded evaluations → the results of a build. Reads what records hold; computes nothing new."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dem_build import digest
from dem_build.actions.loss.read import PairedRows, read_rows
from dem_build.actions.match.read import read_match
from dem_build.actions.tune.read import layers_of, read_tuning
from dem_build.errors import StoreError
from dem_build.json_text import number, parse_json
from dem_build.report.actions import READERS
from dem_build.report.baselines import read_baselines
from dem_build.report.cost import BuildCost, read_costs
from dem_build.report.groups import group_directions, group_scores
from dem_build.report.inputs import BuildRecords
from dem_build.report.mixing_cost import build_cost
from dem_build.report.stages import read_stages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from dem_build.action import Action
    from dem_build.actions.loss.read import RowLosses
    from dem_build.actions.match.read import MatchedModel
    from dem_build.actions.tune.read import Tuning
    from dem_build.digest import Digest, Output
    from dem_build.graph import Graph
    from dem_build.lock.task_groups import TaskGroup
    from dem_build.report.baselines import RecordedBaseline
    from dem_build.report.inputs import Reader
    from dem_build.report.stages import Stage
    from dem_build.store import Record

MODEL = "model"
METRICS = "metrics"
ROWS = "rows"
READ = (METRICS, ROWS, *(output for reader in READERS for output in reader.outputs))
"""Outputs whose bytes the results are read from."""
DIRECTIONS = "higher_is_better"

Metrics = dict[str, float]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Results:
    """What a build's records say.

    Attributes:
        table: Model → task → metric → value. A held-out loss is the task `loss:NAME`.
        rows: Held-out losses row by row, for the errors of differences.
        omega: Vector → ω: as given, or as a search found it; of a matched model the importance.
        found: Reader of what an action made → what it read; see `get`.
        model_digest: Digest of the composed model, None while it is not there.
        baselines: Baseline → what it is.
        warnings: (action, text), in the graph's order.
        cost: What every action cost when it ran, and DEM against mixing.
        higher_is_better: Task → metric → whether more of it is better, for the metrics whose task says so.
        datasets: The datasets that have a vector of their own.
        probes: The datasets that judge and are never trained on.
        vectors: All vectors, of datasets and from elsewhere.
        stages: `trunk` and `heal`, where the recipe has them → what they are.
        members: Task → a group with a score that it is in.
    """

    table: Mapping[str, Mapping[str, Metrics]] = field(default_factory=dict)
    rows: PairedRows = field(default_factory=PairedRows)
    omega: Mapping[str, float] = field(default_factory=dict)
    found: Mapping[Reader[Any], object] = field(default_factory=dict)
    model_digest: Digest | None = None
    baselines: Mapping[str, RecordedBaseline] = field(default_factory=dict)
    warnings: tuple[tuple[str, str], ...] = ()
    cost: BuildCost = field(default_factory=BuildCost)
    higher_is_better: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()
    stages: Mapping[str, Stage] = field(default_factory=dict)
    members: Mapping[str, str] = field(default_factory=dict)

    @property
    def layers(self) -> list[str]:
        """The layers that have ω of their own, in the model's order; none where each vector has one ω."""
        tuning = self.get(read_tuning)
        return layers_of(tuning.vectors) if tuning else []

    def get(self, reader: Reader[Found]) -> Found | None:
        """What a reader of `report.actions` found; None where there was nothing to read, or not yet."""
        return cast("Found | None", self.found.get(reader))

    def value(self, model: str, task: str, metric: str) -> float | None:
        """One value, or None where nothing was measured."""
        return self.table.get(model, {}).get(task, {}).get(metric)


def collect(graph: Graph, records: Mapping[str, Record], read: Callable[[Output], bytes]) -> Results:
    """The results that the records of a graph's actions hold, by their names; `read` gives the bytes of a file.

    Raises:
        StoreError: An evaluation's metrics are not what they should be.
    """
    build = BuildRecords(graph, records, read)
    # All is read here, so that a build with something damaged ends before it publishes.
    found = {reader: reader(build) for reader in READERS}
    tuning: Tuning | None = found[read_tuning]
    tuned = {name: vector.omega for name, vector in tuning.vectors.items()} if tuning else {}
    matching: MatchedModel | None = found[read_match]
    matched = {name: vector.importance for name, vector in matching.vectors.items()} if matching else {}
    present = [(action, records[action.name]) for action in graph if action.name in records]
    directions = _directions(present)
    model = records.get(MODEL)
    prepared, vectors = _names(graph, "data:"), _names(graph, "vector:")
    return Results(
        table=_table(present, read, graph.groups),
        rows=_rows(present, read),
        omega={**graph.omega, **tuned, **matched},
        found=found,
        model_digest=digest_of(model) if model else None,
        baselines=read_baselines(build),
        warnings=tuple(_warnings(present)),
        cost=build_cost(graph, read_costs(build)),
        higher_is_better=directions | group_directions(graph.groups, directions),
        datasets=tuple(n for n in prepared if n in vectors and graph.actions[f"vector:{n}"].kind.trains),
        probes=tuple(name for name in prepared if name not in vectors),
        vectors=vectors,
        stages=read_stages(build),
        # Of groups within groups the innermost, which come last.
        members={task: name for name, group in graph.groups.items() if group.scores for task in group.tasks},
    )


def digest_of(model: Record) -> Digest:
    """The digest of a model, of the record that it has."""
    return digest.of_json({name: output.digest for name, output in model.outputs.items()})


def _names(graph: Graph, prefix: str) -> tuple[str, ...]:
    """What actions of a prefix are about, in the graph's order; not the rows and vectors of mixtures."""
    found = (name.removeprefix(prefix) for name in graph.actions if name.startswith(prefix))
    return tuple(name for name in found if name not in graph.mixed)


def _table(
    present: list[tuple[Action, Record]], read: Callable[[Output], bytes], groups: Mapping[str, TaskGroup]
) -> dict[str, dict[str, Metrics]]:
    table: dict[str, dict[str, Metrics]] = {}
    for action, record in present:
        if action.evaluation is not None and METRICS in record.outputs:
            tasks = table.setdefault(action.evaluation.model, {})
            tasks[action.evaluation.task] = _metrics(action.name, read(record.outputs[METRICS]))
    return {model: tasks | group_scores(groups, tasks) for model, tasks in table.items()}


def _metrics(action: str, data: bytes) -> Metrics:
    try:
        document = parse_json(data)
    except ValueError as error:
        raise _unreadable(action, str(error)) from error
    if not isinstance(document, dict) or any(v is not None and number(v) is None for v in document.values()):
        raise _unreadable(action, "not an object of numbers")
    # `null` is how JSON writes a value that is no finite number.
    return {name: math.nan if value is None else float(value) for name, value in document.items()}


def _rows(present: list[tuple[Action, Record]], read: Callable[[Output], bytes]) -> PairedRows:
    losses: dict[str, dict[str, RowLosses]] = {}
    for action, record in present:
        if action.evaluation is not None and ROWS in record.outputs:
            try:
                rows = read_rows(read(record.outputs[ROWS]))
            except ValueError as error:
                raise _unreadable(action.name, str(error)) from error
            losses.setdefault(action.evaluation.model, {})[action.evaluation.task] = rows
    return PairedRows(losses)


def _unreadable(action: str, why: str) -> StoreError:
    hint = f"`dem cache verify` looks for damage; `--rebuild {action}` evaluates again"
    return StoreError(f"the recorded metrics cannot be read: {why}", where=action, hint=hint)


def _directions(present: list[tuple[Action, Record]]) -> dict[str, dict[str, bool]]:
    return {
        action.evaluation.task: {name: value for name, value in said.items() if isinstance(value, bool)}
        for action, record in present
        if action.evaluation is not None and isinstance(said := record.provenance.get(DIRECTIONS), dict)
    }


def _warnings(present: list[tuple[Action, Record]]) -> Iterator[tuple[str, str]]:
    for action, record in present:
        said = record.provenance.get("warnings")
        yield from ((action.name, str(text)) for text in (said if isinstance(said, list) else ()))

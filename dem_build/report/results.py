"""Recorded evaluations → the results of a build. Reads what records hold; computes nothing new."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build import digest
from dem_build.actions.analysis.read import TABLES, read_analysis
from dem_build.actions.ladder.read import RUNGS, read_ladder
from dem_build.actions.response.read import CURVES, read_response
from dem_build.actions.sample.read import ANSWERS, read_samples
from dem_build.actions.tsne.read import MAP, read_tsne
from dem_build.actions.tune.read import SEARCH, layers_of, read_tuning
from dem_build.errors import StoreError
from dem_build.json_text import number, parse_json
from dem_build.report.baselines import read_baselines
from dem_build.report.cost import read_costs
from dem_build.report.paired import PairedRows, read_rows
from dem_build.report.reckoning import Reckoning, reckon
from dem_build.report.recorded import Recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dem_build.action import Action
    from dem_build.actions.analysis.read import Analysis
    from dem_build.actions.ladder.read import Ladder
    from dem_build.actions.response.read import Response
    from dem_build.actions.sample.read import Exchange
    from dem_build.actions.tsne.read import Map
    from dem_build.actions.tune.read import Tuning
    from dem_build.digest import JSON, Digest, Output
    from dem_build.graph import Graph
    from dem_build.report.baselines import Contender
    from dem_build.report.paired import RowLosses
    from dem_build.store import Record

__all__ = ["READ", "Metrics", "Results", "collect"]

MODEL = "model"
METRICS = "metrics"
ROWS = "rows"
READ = (METRICS, ROWS, *SEARCH, TABLES, CURVES, RUNGS, MAP, ANSWERS)
"""Outputs whose bytes the results are read from."""
DIRECTIONS = "higher_is_better"

Metrics = dict[str, float]


@dataclass(frozen=True)
class Results:
    """What a build's records say.

    Attributes:
        table: Model → task → metric → value. A held-out loss is the task `loss:NAME`.
        rows: Held-out losses row by row, for the errors of differences.
        omega: Vector → ω: as given, or as tuning found it.
        tuning: The search for ω, where there was one.
        analysis: How the vectors lie to each other, where the recipe asks for it.
        response: What each vector does to the losses around the model, where the recipe asks for it.
        ladder: What each vector more brings on test rows, where the recipe asks for it.
        tsne: A map of the datasets as the base reads them, where the recipe asks for it.
        samples: What base and composed model answer to the same prompts, where the recipe asks.
        model_digest: Digest of the composed model, None while it is not there.
        baselines: Baseline → what it is.
        warnings: (action, text), in the graph's order.
        cost: What every action cost when it ran, and DEM against mixing.
        higher_is_better: Task → metric → whether more of it is better, for the metrics whose task says so.
        datasets: The datasets that have a vector of their own.
        probes: The datasets that judge and are never trained on.
        vectors: All vectors, of datasets and from elsewhere.
    """

    table: Mapping[str, Mapping[str, Metrics]] = field(default_factory=dict)
    rows: PairedRows = field(default_factory=PairedRows)
    omega: Mapping[str, float] = field(default_factory=dict)
    tuning: Tuning | None = None
    analysis: Analysis | None = None
    response: Response | None = None
    ladder: Ladder | None = None
    tsne: Map | None = None
    samples: tuple[Exchange, ...] = ()
    model_digest: Digest | None = None
    baselines: Mapping[str, Contender] = field(default_factory=dict)
    warnings: tuple[tuple[str, str], ...] = ()
    cost: Reckoning = field(default_factory=Reckoning)
    higher_is_better: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    vectors: tuple[str, ...] = ()

    @property
    def layers(self) -> list[str]:
        """The layers that have ω of their own, in the model's order; none where each vector has one ω."""
        return layers_of(self.tuning.vectors) if self.tuning else []

    def value(self, model: str, task: str, metric: str) -> float | None:
        """Return one value, or None where nothing was measured."""
        return self.table.get(model, {}).get(task, {}).get(metric)


def collect(graph: Graph, records: Mapping[str, Record], read: Callable[[Output], bytes]) -> Results:
    """Return the results that the records of a graph's actions hold.

    Args:
        graph: The recipe's graph.
        records: Name of an action → its record, for those that have one.
        read: Returns the bytes of an output that is one file.

    Raises:
        StoreError: An evaluation's metrics are not what they should be.
    """
    build = Recorded(graph, records, read)
    tuning = read_tuning(build)
    tuned = {name: vector.omega for name, vector in tuning.vectors.items()} if tuning else {}
    present = [(action, records[action.name]) for action in graph if action.name in records]
    prepared, vectors = _names(graph, "data:"), _names(graph, "vector:")
    return Results(
        table=_table(present, read),
        rows=_rows(present, read),
        omega={**graph.omega, **tuned},
        tuning=tuning,
        analysis=read_analysis(build),
        response=read_response(build),
        ladder=read_ladder(build),
        tsne=read_tsne(build),
        samples=read_samples(build),
        model_digest=_model_digest(records.get(MODEL)),
        baselines=read_baselines(build),
        warnings=tuple((a.name, str(w)) for a, r in present for w in _list(r.provenance.get("warnings"))),
        cost=reckon(graph, read_costs(build)),
        higher_is_better=_directions(present),
        datasets=tuple(name for name in prepared if name in vectors),
        probes=tuple(name for name in prepared if name not in vectors),
        vectors=vectors,
    )


def _names(graph: Graph, prefix: str) -> tuple[str, ...]:
    """Return what actions of a prefix are about, in the graph's order; the rows and vectors of baselines are theirs."""
    found = (name.removeprefix(prefix) for name in graph.actions if name.startswith(prefix))
    return tuple(name for name in found if name not in graph.baselines)


def _table(
    present: list[tuple[Action, Record]], read: Callable[[Output], bytes]
) -> dict[str, dict[str, Metrics]]:
    table: dict[str, dict[str, Metrics]] = {}
    for action, record in present:
        if action.evaluation is not None and METRICS in record.outputs:
            tasks = table.setdefault(action.evaluation.model, {})
            tasks[action.evaluation.task] = _metrics(action.name, read(record.outputs[METRICS]))
    return table


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


def _directions(present: list[tuple[Action, Record]]) -> dict[str, dict[str, bool]]:
    return {
        action.evaluation.task: {name: value for name, value in said.items() if isinstance(value, bool)}
        for action, record in present
        if action.evaluation is not None and isinstance(said := record.provenance.get(DIRECTIONS), dict)
    }


def _metrics(action: str, data: bytes) -> Metrics:
    """Return metric → value; `null` is how JSON writes a value that is no finite number."""
    try:
        document = parse_json(data)
    except ValueError as error:
        raise _unreadable(action, str(error)) from error
    if not isinstance(document, dict) or any(v is not None and number(v) is None for v in document.values()):
        raise _unreadable(action, "not an object of numbers")
    return {name: math.nan if value is None else float(value) for name, value in document.items()}


def _list(value: JSON) -> list[JSON]:
    """Return a list of provenance; nothing where it is none."""
    return value if isinstance(value, list) else []


def _unreadable(action: str, why: str) -> StoreError:
    hint = f"`dem cache verify` looks for damage; `--rebuild {action}` evaluates again"
    return StoreError(f"the recorded metrics cannot be read: {why}", where=action, hint=hint)


def _model_digest(record: Record | None) -> Digest | None:
    if record is None:
        return None
    return digest.of_json({name: output.digest for name, output in record.outputs.items()})

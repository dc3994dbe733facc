"""What results are read from, and what a report is drawn from.

What an action made is of its digest, and of the shape that its step gave it, else the build is refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from dem_build import digest
from dem_build.action import BASE, TRUNK
from dem_build.errors import StoreError
from dem_build.json_text import MALFORMED, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dem_build.action import Action
    from dem_build.digest import JSON, Digest, Output
    from dem_build.graph import Graph
    from dem_build.recipe import Recipe
    from dem_build.report.gates import GateResult
    from dem_build.report.results import Results
    from dem_build.store import Record

MARK = "<!-- dem-report {} -->\n"
PAGE = 4
"""Raised where a page says something else of the same records: those that lie in `out/` are drawn again."""

Found = TypeVar("Found")


@dataclass(frozen=True)
class BuildRecords:
    """What is recorded of a build.

    Attributes:
        records: Name of an action → its record, for those that have one.
        read: Returns the bytes of an output that is one file.
    """

    graph: Graph
    records: Mapping[str, Record]
    read: Callable[[Output], bytes]

    def of(
        self, name: str, take: Callable[[BuildRecords, Action], Found | None], what: str, again: str
    ) -> Found | None:
        """What an action found; None where the graph has no such action, or it has not run yet.

        Args:
            name: The action.
            take: Takes apart what the action made; whatever of `MALFORMED` it raises tells of another shape.
            what: What it made, for people: `the recorded WHAT cannot be read`.
            again: What `--rebuild` does, for people.

        Raises:
            StoreError: What the action made is not what it should be.
        """
        if name not in self.graph.actions or name not in self.records:
            return None
        try:
            return take(self, self.graph.actions[name])
        except MALFORMED as error:
            hint = f"`--rebuild {name}` {again}"
            raise StoreError(f"the recorded {what} cannot be read", where=name, hint=hint) from error

    def document(self, action: Action, output: str) -> JSON:
        """The JSON that an action made."""
        return parse_json(self.read(self.records[action.name].outputs[output]))

    def grouped(self, action: Action, *tags: str) -> dict[str, Digest]:
        """Group → digest of what it gave to an action under one of some tags: today's names of what was taken."""
        return {
            taken.group: self.records[taken.at.action].outputs[taken.at.output].digest
            for taken in action.takes
            if taken.group is not None and taken.of in tags and taken.at.action in self.records
        }


@dataclass(frozen=True, eq=False)
class Reader(Generic[Found]):
    """How a value is read from what some actions made; called with what is recorded, it reads.

    Attributes:
        read: Reads the value; None where there is none, or not yet.
        key: What `--json` calls it.
        outputs: Names of the outputs whose bytes it is read from.
        document: The value as JSON.
        says: Whether the `lines` of the `show.py` beside it are printed before the models are put side by side, or
            after that; None for a folder that prints nothing.
    """

    read: Callable[[BuildRecords], Found | None]
    key: str
    outputs: tuple[str, ...]
    document: Callable[[Any], JSON]
    says: Literal["before", "after"] | None = None

    def __call__(self, build: BuildRecords) -> Found | None:
        """Read the value."""
        return self.read(build)


def reads(
    key: str,
    *outputs: str,
    document: Callable[[Any], JSON] = asdict,
    says: Literal["before", "after"] | None = None,
) -> Callable[[Callable[[BuildRecords], Found | None]], Reader[Found]]:
    """Make a function the reader of some outputs, see `Reader`; `Results.get` has what it read."""
    return lambda read: Reader(read, key, outputs, document, says)


@dataclass(frozen=True)
class ReportInputs:
    """What a report is drawn from.

    Attributes:
        records: Name of an action → its record, for those that have one.
        version: The version of dem that draws.
    """

    recipe: Recipe
    graph: Graph
    records: Mapping[str, Record]
    results: Results
    gates: Sequence[GateResult]
    version: str

    @property
    def origin(self) -> str:
        """What vectors start from, as a model is called in results: `base` or `trunk`."""
        return TRUNK if TRUNK in self.graph.stages else BASE

    @property
    def missing(self) -> list[str]:
        """The actions of the recipe that are not recorded."""
        return [action.name for action in self.graph if action.name not in self.records]


def base_name(recipe: Recipe, graph: Graph) -> str:
    """The base's hub id, or a local base's file name: where it lay is nobody else's business."""
    if any(source.hub is not None for source in graph.actions["base"].sources):
        return recipe.base.model
    return PurePath(recipe.resolve(recipe.base.model)).name


def mark_of(inputs: ReportInputs) -> str:
    """The last line of a report: a digest of all that it is drawn from."""
    recipe = inputs.recipe
    drawn_from = {
        "dem": [inputs.version, PAGE],
        "recipe": [recipe.name, base_name(recipe, inputs.graph), recipe.compose.method],
        "actions": list(inputs.graph.actions),
        # A record that was made again under its key has another time, and often other outputs.
        "records": [
            [name, r.key, str(r.provenance.get("finished")), [o.digest for o in r.outputs.values()]]
            for name, r in inputs.records.items()
        ],
        "gates": [{k: str(v) for k, v in asdict(gate).items()} for gate in inputs.gates],
    }
    return MARK.format(digest.of_json(drawn_from))


def is_drawn(report: Path, mark: str) -> bool:
    """Whether a report is there, whole, and drawn from the same; its end tells."""
    end = mark.encode()
    # Its end alone is read: this is asked at each build with nothing to do.
    try:
        with report.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - len(end), 0))
            return file.read() == end
    except OSError:
        return False

"""What a report is drawn from, and a mark by which one that says the same already is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from dem_build import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dem_build.graph import Graph
    from dem_build.recipe import Recipe
    from dem_build.report.gates import GateResult
    from dem_build.report.results import Results
    from dem_build.store import Record

__all__ = ["Material", "base_name", "is_drawn", "mark_of"]

MARK = "<!-- dem-report {} -->\n"
PAGE = 2
"""Raised where a page says something else of the same records: those that lie in `out/` are drawn again."""


@dataclass(frozen=True)
class Material:
    """What a report is drawn from.

    Attributes:
        recipe: The recipe.
        graph: Its graph.
        records: Name of an action → its record, for those that have one.
        results: What the records say.
        gates: The gates, judged.
        version: The version of dem that draws.
    """

    recipe: Recipe
    graph: Graph
    records: Mapping[str, Record]
    results: Results
    gates: Sequence[GateResult]
    version: str

    @property
    def missing(self) -> list[str]:
        """The actions of the recipe that are not recorded."""
        return [action.name for action in self.graph if action.name not in self.records]


def base_name(recipe: Recipe, graph: Graph) -> str:
    """Return the base's hub id, or a local base's file name: where it lay is nobody else's business."""
    if any(source.hub is not None for source in graph.actions["base"].sources):
        return recipe.base.model
    return PurePath(recipe.resolve(recipe.base.model)).name


def mark_of(material: Material) -> str:
    """Return the last line of a report: a digest of all that it is drawn from."""
    recipe = material.recipe
    drawn_from = {
        "dem": [material.version, PAGE],
        "recipe": [recipe.name, base_name(recipe, material.graph), recipe.compose.method],
        "actions": list(material.graph.actions),
        # A record that was made again under its key has another time, and often other outputs.
        "records": [
            [name, r.key, str(r.provenance.get("finished")), [o.digest for o in r.outputs.values()]]
            for name, r in material.records.items()
        ],
        "gates": [{k: str(v) for k, v in asdict(gate).items()} for gate in material.gates],
    }
    return MARK.format(digest.of_json(drawn_from))


def is_drawn(report: Path, mark: str) -> bool:
    """Return whether a report is there, whole, and drawn from the same; its end tells."""
    end = mark.encode()
    try:
        with report.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - len(end), 0))
            return file.read() == end
    except OSError:
        return False

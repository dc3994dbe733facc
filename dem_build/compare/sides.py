"""One of two things that are compared: what a recipe asks for, and what is recorded of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build import action as actions
from dem_build import digest
from dem_build.digest import Output
from dem_build.graph import Graph
from dem_build.plan import preimage_of
from dem_build.report.gates import check
from dem_build.report.inputs import BuildRecords
from dem_build.report.results import Results, collect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dem_build.action import Action
    from dem_build.digest import JSON, Digest
    from dem_build.recipe import Gate
    from dem_build.report.gates import GateResult


def _no_output(output: Output) -> bytes:
    raise KeyError(output.digest)


def _no_records() -> BuildRecords:
    return BuildRecords(Graph({}), {}, _no_output)


@dataclass(frozen=True)
class Side:
    """A recipe as it stands in one place, and what is recorded of it; or the results of a model alone.

    Attributes:
        name: What people call it: `recipe.toml`, `main:recipe.toml`, `out/tiny/model`.
        build: The recipe's graph and its records; without actions where there is no recipe.
        due: Action that is not recorded → the seconds that it is expected to take, None where nobody knows.
        keyed: Whether all that it asks for is in the graph; False for results alone, of which no keys are known.
    """

    name: str
    build: BuildRecords = field(default_factory=_no_records)
    results: Results = field(default_factory=Results)
    gates: Sequence[GateResult] = ()
    due: Mapping[str, float | None] = field(default_factory=dict)
    keyed: bool = True

    @classmethod
    def of_build(
        cls,
        name: str,
        build: BuildRecords,
        gates: Iterable[Gate] = (),
        due: Mapping[str, float | None] | None = None,
    ) -> Side:
        """The side of a recipe; its results are read, and its gates judged.

        Args:
            name: What people call it.
            build: The recipe's graph, the records of those actions that have one, and how an output is read.
            gates: The recipe's gates.
            due: Action → expected seconds. Default: of all that is not recorded, nobody knows.

        Raises:
            StoreError: An evaluation's metrics are not what they should be, or cannot be read.
        """
        results = collect(build.graph, build.records, build.read)
        missing = {action.name: None for action in build.graph if action.name not in build.records}
        return cls(name, build, results, check(gates, results), {**missing, **(due or {})})


@dataclass(frozen=True)
class Node:
    """An action of one side, by what it asks for.

    Attributes:
        preimage: Its preimage; an input that nobody has made yet has a stand-in for its digest, see `nodes`.
        identity: The hash of the preimage: its key where that is known. Equal ones stand for the same work.
        key: Its key, None while an input is unknown.
        outputs: What it makes, or stand-ins for that.
    """

    action: Action
    preimage: JSON
    identity: Digest
    key: Digest | None
    outputs: Mapping[str, Output]

    def taken(self, *tags: str) -> dict[str, Digest]:
        """Tag → digest of the inputs in no group whose tag begins as one of `tags` does."""
        return {i["of"]: i["sha256"] for i in self.preimage["inputs"] if i["of"].startswith(tags)}


def nodes(side: Side) -> dict[str, Node]:
    """Every action of a side, in the graph's order.

    A key is only known when all inputs are made. So that a plan can be compared before anything is built, what is not
    made has a stand-in for its digest: the hash of the identity of what will make it, and the output's name. What was
    made is taken as it is: data that come out as before have the digests they had, and what takes them is the same.
    """
    found: dict[str, Node] = {}
    outputs: dict[str, Mapping[str, Output]] = {}
    for action in side.build.graph:
        document = preimage_of(action, outputs)
        record = side.build.records.get(action.name)
        identity = actions.key_of(document) if record is None else record.key
        known = record is not None or all(name in side.build.records for name in action.upstream)
        outputs[action.name] = _stand_ins(action, identity) if record is None else record.outputs
        key = identity if known else None
        found[action.name] = Node(action, document, identity, key, outputs[action.name])
    return found


def _stand_ins(action: Action, identity: Digest) -> dict[str, Output]:
    return {name: Output(digest.of_json(["not made", identity, name]), 0) for name in action.kind.outputs}

"""What each vector more brings on test rows, with today's names; the terms are those of `actions/ladder/run.py`."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from dem_build.actions.ladder.spec import KIND
from dem_build.actions.tune.read import is_floored
from dem_build.report.inputs import reads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.report.inputs import BuildRecords

RUNGS = "rungs"
"""The output that is read."""


@dataclass(frozen=True)
class Tested:
    """A model on test rows, rounded as it is published.

    Attributes:
        omega: Vector → ω; where each layer has its own, their mean. Names of one vector share it.
        losses: Dataset → mean loss per token.
        stderr: Dataset → its standard error over blocks of rows; None where there are too few to tell.
        gains: Dataset → gain recovered.
        mean_gain: Their mean, of datasets that are not floored; of all where all are.
    """

    omega: Mapping[str, float]
    losses: Mapping[str, float]
    stderr: Mapping[str, float | None]
    gains: Mapping[str, float]
    mean_gain: float


@dataclass(frozen=True)
class Rung:
    """The model once one vector more is added.

    Attributes:
        added: Names of the vector that is added: several where they have the same one.
        frozen: With the ω of the whole model.
        retuned: With ω searched anew; None where all ω were given.
    """

    added: tuple[str, ...]
    frozen: Tested
    retuned: Tested | None


@dataclass(frozen=True)
class Ladder:
    """A ladder.

    Attributes:
        base: The base, before the first vector.
        singles: Dataset → loss of its own vector alone, at ω = 1.
        rungs: In the order in which vectors are added.
        rows: Dataset → test rows that were used.
        floored: Datasets whose own vector alone gains less than their gain recovered is of: it says little there.
    """

    base: Tested
    singles: Mapping[str, float]
    rungs: tuple[Rung, ...]
    rows: Mapping[str, int]
    floored: tuple[str, ...] = ()


@reads("ladder", RUNGS)
def read_ladder(build: BuildRecords) -> Ladder | None:
    """The ladder of a build; None where there is none, or not yet, or nothing judged it.

    Raises:
        StoreError: The record is not what it should be.
    """
    return build.of(KIND.name, _ladder, "ladder", "climbs it again")


def _ladder(build: BuildRecords, action: Action) -> Ladder | None:
    document = build.document(action, RUNGS)
    if not document["rungs"]:
        return None
    held_out = {name.removesuffix("/test"): d for name, d in build.grouped(action, "data/test").items()}
    deltas = {n: d for n, d in build.grouped(action, "delta").items() if not n.endswith("/test")}
    vectors = {name: document["vectors"].index(digest) for name, digest in deltas.items()}
    rows = [(test["rows"], test["vector"]) for test in document["tests"]]
    tests = {
        name: rows.index((digest, vectors[name]))
        for name, digest in held_out.items()
        if (digest, vectors[name]) in rows
    }

    floored = {name: _is_floored(document, j) for name, j in tests.items()}
    # What is floored says little, and would outweigh the others in the mean.
    clear = [j for name, j in tests.items() if not floored[name]] or list(tests.values())

    def tested(one: Mapping[str, JSON]) -> Tested:
        return Tested(
            omega={name: one["omega"][v] for name, v in vectors.items()},
            losses={name: one["losses"][j] for name, j in tests.items()},
            stderr={name: one["stderr"][j] for name, j in tests.items()},
            gains={name: one["gains"][j] for name, j in tests.items()},
            mean_gain=fmean(one["gains"][j] for j in clear),
        )

    return Ladder(
        base=tested(document["base"]),
        singles={name: document["singles"][j] for name, j in tests.items()},
        rungs=tuple(
            Rung(
                tuple(name for name, v in vectors.items() if v == rung["added"]),
                tested(rung["frozen"]),
                None if rung["retuned"] is None else tested(rung["retuned"]),
            )
            for rung in document["rungs"]
        ),
        rows={name: document["tests"][j]["used"] for name, j in tests.items()},
        floored=tuple(name for name in tests if floored[name]),
    )


def _is_floored(document: JSON, test: int) -> bool:
    base, single = document["base"]["losses"][test], document["singles"][test]
    models = [
        one for rung in document["rungs"] for one in (rung["frozen"], rung["retuned"]) if one is not None
    ]
    return any(is_floored(base, single, one["losses"][test], one["gains"][test]) for one in models)


READERS = (read_ladder,)

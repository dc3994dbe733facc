"""What a build will fetch: of what is recorded elsewhere, what it opens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.plan import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dem_build.digest import JSON, Blob, Output
    from dem_build.plan import Plan


@dataclass(frozen=True)
class Transfer:
    """What comes from one place."""

    where: str
    objects: int
    bytes: int

    def document(self) -> dict[str, JSON]:
        """Itself as JSON."""
        return {"from": self.where, "objects": self.objects, "bytes": self.bytes}


def transfers(plan: Plan, read: Collection[str]) -> list[Transfer]:
    """What a build of this plan fetches, in the order of the plan.

    What actions that are pending will take counts as well, though some may turn out to be recorded.

    Args:
        plan: The plan.
        read: Outputs that a build reads at its end, of whatever action.
    """
    found: dict[str, set[Blob]] = {}
    for name, output in _opened(plan, read):
        reason = plan.verdicts[name].reason
        if reason.away is not None:
            found.setdefault(reason.away.where, set()).update(reason.away.blobs.intersection(output.blobs()))
    sums = [Transfer(where, len(blobs), sum(b.size for b in blobs)) for where, blobs in found.items()]
    return [transfer for transfer in sums if transfer.objects]


def _opened(plan: Plan, read: Collection[str]) -> Iterator[tuple[str, Output]]:
    """Yield the outputs of recorded actions that are opened, with the names of those."""
    outputs = {
        name: v.record.outputs
        for name, v in plan.verdicts.items()
        if v.status is Status.HIT and v.record is not None
    }
    for verdict in plan.due:
        for taken in verdict.action.takes:
            if taken.at.action in outputs:
                yield taken.at.action, outputs[taken.at.action][taken.at.output]
    for name, made in outputs.items():
        published = name == PUBLISHED
        yield from ((name, output) for of, output in made.items() if published or of in read)


PUBLISHED = "model"
"""The action whose outputs a build copies to `out/`."""

"""What the trunk and healing of a build are, as recorded: of which tokens, and which model shows what each brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.action import TRUNK
from dem_build.report.baselines import mixture_of
from dem_build.report.quantities import count

if TYPE_CHECKING:
    from dem_build.digest import JSON
    from dem_build.report.baselines import Mixture
    from dem_build.report.inputs import BuildRecords


@dataclass(frozen=True)
class Stage:
    """The trunk, or healing.

    Attributes:
        name: `trunk` or `heal`.
        model: The model in results that shows what it brings.
        mixture: Its rows; None while they are not made.
    """

    name: str
    model: str
    datasets: tuple[str, ...]
    mixture: Mixture | None

    def document(self) -> dict[str, JSON]:
        """The same as JSON."""
        rows = self.mixture
        counts: dict[str, JSON] = {} if rows is None else {"planned": rows.planned, "tokens": rows.tokens}
        shares: dict[str, JSON] = {} if rows is None else {"shares": dict(rows.shares)}
        return {"model": self.model, "datasets": list(self.datasets), **counts, **shares}

    @property
    def short(self) -> str:
        """What it is trained on, for people: `24k tokens of math 50% (0.25 epochs), chat 50% (0.4 epochs)`."""
        rows = self.mixture
        if rows is None:
            return ", ".join(self.datasets)
        return f"{count(rows.planned if rows.tokens is None else rows.tokens)} tokens of {rows.told_shares}"

    @property
    def sentence(self) -> str:
        """What it is, for people."""
        if self.name == TRUNK:
            return (
                f"Θ is the trunk here, which every vector starts from: the base fine-tuned on {self.short}."
            )
        return (
            f"The composed model was healed: fine-tuned on {self.short}. {self.model} is what it was before."
        )


def read_stages(build: BuildRecords) -> dict[str, Stage]:
    """The stages of a build, those that are not made yet as far as they are known."""
    graph = build.graph
    found = {name: graph.actions.get(f"data:{name}") for name in graph.stages}
    return {
        name: Stage(name, graph.stages[name], tuple(data.groups), mixture_of(name, build))
        for name, data in found.items()
        if data is not None  # where a part of the graph is asked for
    }

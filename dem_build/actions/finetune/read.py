"""What a training recorded of its losses."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dem_build.json_text import quantity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.store import Record

Point = tuple[float, float]


@dataclass(frozen=True)
class TrainingCurve:
    """The losses of one training, in nats per token.

    Attributes:
        names: The actions whose result it is: what several share ran once.
        trained: (optimizer step, loss of that step's tokens).
        validated: (optimizer step, validation loss after it).
        kept: The step and validation loss of the weights that were kept, where those are not the last ones.
    """

    names: tuple[str, ...]
    trained: list[Point]
    validated: list[Point]
    kept: Point | None = None

    @property
    def steps(self) -> float:
        """The last step of which something is known."""
        return max(step for step, _ in (*self.trained, *self.validated))


def curves_of(records: Mapping[str, Record]) -> Iterator[TrainingCurve]:
    """The curves of all trainings among some records, each once."""
    named: dict[str, list[str]] = {}
    for name, record in records.items():
        named.setdefault(record.key, []).append(name)
    for names in named.values():
        record = records[names[0]]
        if not (trained := _points(record.noted("curve"))):
            continue
        curve = TrainingCurve(tuple(names), trained, _points(record.noted("validation", "curve")))
        # Weights that were kept and are not the last; a thinned curve may lack their step.
        kept = quantity(record.noted("validation", "kept_step"))
        step, lowest = (quantity(record.noted("validation", "lowest", of)) for of in ("step", "loss"))
        if step is not None and lowest is not None and kept == step < curve.steps:
            curve = replace(curve, kept=(step, lowest))
        yield curve


def _points(curve: JSON) -> list[Point]:
    """(step, loss) of a recorded curve, whose entries may say more."""
    entries = curve if isinstance(curve, list) else []
    numbers = [(quantity(e[0]), quantity(e[1])) for e in entries if isinstance(e, list) and len(e) > 1]
    return [(x, y) for x, y in numbers if x is not None and y is not None]

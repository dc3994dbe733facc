"""What models with and without vectors made of one item, and which vectors are to blame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dem_build.action import BASE, TRUNK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.cli.blame.items import Items
    from dem_build.digest import JSON

MOST = 0.5
"""Of what composing changed about an item, the share that a vector to blame has at least: of what is right or wrong,
all."""


@dataclass(frozen=True)
class Asked:
    """What one model made of the item.

    Attributes:
        name: `base`, `trunk`, `composed`, `unhealed`; of a model without vectors that of the whole one.
        value: The metric, or the mean loss of the tokens that count, in nats.
        sure: How sure it is of what is right, in nats; None where that is not known, or the value says it.
        recorded: Whether the value was read, and not asked now.
    """

    name: str
    without: tuple[str, ...]
    value: float
    sure: float | None = None
    said: str = ""
    recorded: bool = False

    @property
    def label(self) -> str:
        """What people call it."""
        return f"without {' and '.join(self.without)}" if self.without else self.name


@dataclass(frozen=True)
class Blame:
    """An item, and what each model made of it.

    Attributes:
        asks: What is asked, for people.
        wanted: What is right, for people.
        measure: What `sure` is: `margin`, `log-likelihood`, or nothing.
        lacking: What each model without some vectors made of it.
        healed: What was recorded of the healed model, where `composed` is the one before.
        notes: What should be known.
    """

    items: Items
    number: int
    asks: str
    wanted: str
    measure: str
    base: Asked
    composed: Asked
    lacking: Sequence[Asked]
    trunk: Asked | None = None
    healed: Asked | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def models(self) -> list[Asked]:
        """All models, in the order in which they are shown."""
        before = [self.base, *([self.trunk] if self.trunk else []), self.composed]
        return [*before, *([self.healed] if self.healed else []), *self.lacking]

    @property
    def binary(self) -> bool:
        """Whether the item is right or wrong, 1 or 0."""
        return self.items.dataset is None and all(one.value in (0.0, 1.0) for one in self.models)

    @property
    def change(self) -> float:
        """What composing did to the item; above 0 it is better than with the base."""
        return self.items.better(self.composed.value, self.base.value)

    def effect(self, one: Asked) -> float:
        """What the vectors do that a model is without; above 0 the item is better with them."""
        return self.items.better(self.composed.value, one.value)

    def verdict(self, one: Asked) -> str:
        """Whether the vectors that a model is without broke or mended the item, or keep it right or wrong.

        The last two where base and model are alike, and are not without them. Empty where they are not to blame.
        """
        effect, change = self.effect(one), self.change
        # What is right or wrong changes whole, or not at all; a loss has to change as composing changed it.
        enough = (
            abs(effect) >= MOST if self.binary else effect * change > 0 and abs(effect) >= MOST * abs(change)
        )
        if not one.without or not enough:
            return ""
        if effect < 0:
            return "broke it" if change < 0 else "keeps it wrong"
        return "mended it" if change > 0 else "keeps it right"

    @property
    def culprits(self) -> list[Asked]:
        """Those whose missing vectors are to blame; of pairs, where no vector of theirs is by itself."""
        found = [one for one in self.lacking if self.verdict(one)]
        alone = {one.without[0] for one in found if len(one.without) == 1}
        return [one for one in found if len(one.without) == 1 or not alone & {*one.without}]

    @property
    def trunk_is_to_blame(self) -> bool:
        """Whether the item was changed before any vector was added."""
        if self.trunk is None or not self.change:
            return False
        done = self.items.better(self.trunk.value, self.base.value)
        return done * self.change > 0 and abs(done) >= MOST * abs(self.change)

    def sentence(self) -> str:
        """The answer, for people."""
        found = self.culprits
        by_verdict: dict[str, list[str]] = {}
        for one in found:
            by_verdict.setdefault(self.verdict(one), []).append(" and ".join(one.without))
        told = [f"{_listed(names)} {verdict}" for verdict, names in by_verdict.items()]
        if self.trunk_is_to_blame:
            told.insert(0, f"the {TRUNK} {'broke' if self.change < 0 else 'mended'} it, before any vector")
        if told:
            return "; ".join(told)
        if not self.change:
            state = f"composing changed nothing: {BASE} and {self.composed.name} are alike here"
            if all(one.value == self.base.value for one in self.models):
                return f"{state}, and so is every model that was asked"
            return f"{state}, and others are not"
        did = "broke" if self.change < 0 else "mended"
        pairs = any(len(one.without) > 1 for one in self.lacking)
        if pairs or len(self.lacking) < 3:
            return f"no {'one vector and no two' if pairs else 'single vector'} {did} it"
        return f"no single vector {did} it; --pairs asks without each two"

    def document(self) -> dict[str, JSON]:
        """The document of `--json`."""
        return {
            "task": self.items.name,
            "item": self.number,
            "metric": self.items.metric,
            "lower_is_better": self.items.lower_is_better,
            "measure": self.measure or None,
            "asks": self.asks,
            "wanted": self.wanted,
            "models": [
                {
                    "name": one.name,
                    "without": [*one.without],
                    "value": one.value,
                    "sure": one.sure,
                    "answer": one.said,
                    "recorded": one.recorded,
                    "verdict": self.verdict(one) or None,
                }
                for one in self.models
            ],
            "change": self.change,
            "culprits": [
                *([[TRUNK]] if self.trunk_is_to_blame else []),
                *([*one.without] for one in self.culprits),
            ],
            "verdict": self.sentence(),
            "notes": [*self.notes],
        }


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"each of {', '.join(names)}"

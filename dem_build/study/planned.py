"""A plan as an object: what would run, why, and what it will take."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dem_build.plan import Status
from dem_build.study.frames import frame

if TYPE_CHECKING:
    import pandas as pd

    from dem_build.digest import JSON
    from dem_build.session.outlook import Outlook


@dataclass(frozen=True)
class PlannedAction:
    """What a plan says of one action.

    Attributes:
        action: Its name, such as `vector:math`.
        state: `hit` (it is recorded), `run` (it is due), or `pending` (it may be: that depends on what others make).
        why: The reason, in words.
        tokens: Tokens that it will read, of a training or a held-out loss; None where that is not known or it is a hit.
        seconds: Time that it is expected to take, likewise; known once something like it has run here.
        bytes: Of what it will write on the disk, likewise.
        memory: Bytes of memory that it is expected to take, likewise.
    """

    action: str
    state: str
    why: str
    tokens: int | None = None
    seconds: float | None = None
    bytes: int | None = None
    memory: int | None = None


class StudyPlan:
    """What `dem plan` shows of a recipe, as of when it was made.

    Attributes:
        recipe: The recipe's file, as it was named.
        actions: All actions, in the order in which they run.
        problems: What does not fit into memory, in words.
    """

    def __init__(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self.recipe: str = outlook.session.named
        self.problems: tuple[str, ...] = (*map(str, outlook.errors), *outlook.warnings)
        known = {e.name: e for e in outlook.estimates}
        made = []
        for name, verdict in outlook.session.plan.verdicts.items():
            e = known.get(name)
            takes = (e.tokens, e.seconds, e.disk, e.memory) if e else ()
            made.append(PlannedAction(name, verdict.status.value, str(verdict.reason), *takes))
        self.actions: tuple[PlannedAction, ...] = tuple(made)

    @property
    def due(self) -> tuple[PlannedAction, ...]:
        """What is not recorded: a build runs it, or finds that it need not."""
        return tuple(a for a in self.actions if a.state != Status.HIT)

    @property
    def up_to_date(self) -> bool:
        """Whether nothing is due."""
        return not self.due

    def frame(self) -> pd.DataFrame:
        """A row an action, with the fields of `PlannedAction` as columns."""
        names = ["action", "state", "why", "tokens", "seconds", "bytes", "memory"]
        rows = ([getattr(action, name) for name in names] for action in self.actions)
        return frame(names, rows, whole=["tokens", "bytes", "memory"]).astype({"seconds": "Float64"})

    def document(self) -> dict[str, JSON]:
        """The document of `dem plan --json`."""
        return self._outlook.document()

    def __str__(self) -> str:
        from dem_build.view.outlook import outlook_lines  # noqa: PLC0415  what shows is loaded where it is shown
        from dem_build.view.text import plain_console  # noqa: PLC0415  as above

        console = plain_console(text := io.StringIO())
        outlook_lines(self._outlook, console)
        return text.getvalue().rstrip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from dem_build.view.outlook import outlook_lines  # noqa: PLC0415  as above
        from dem_build.view.page import page_of  # noqa: PLC0415  as above

        return page_of(lambda console: outlook_lines(self._outlook, console))


@dataclass(frozen=True)
class Explanation:
    """What `dem why` says of an action.

    Attributes:
        action: Its name.
        state: As of `PlannedAction`.
        lines: The reason, and below it each parameter and input that differs from the last build.
    """

    action: str
    state: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    __repr__ = __str__

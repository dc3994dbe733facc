"""Who follows a build that Python started: a notebook's output, a terminal, or nobody."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Self

from dem_build.report.text import joined
from dem_build.session.sharing import Warned

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.engine.outcome import Result
    from dem_build.plan import Plan, Verdict
    from dem_build.session.build import Follower


def follower(*, progress: bool) -> Follower:
    """Who follows a build: in a notebook its output, elsewhere stderr; without progress nobody."""
    if not progress:
        return _Quiet()
    if _in_notebook():
        from dem_build.view.notebook import NotebookListener  # noqa: PLC0415  IPython is there

        return NotebookListener()
    from dem_build.view.follow import make_listener  # noqa: PLC0415  who is quiet needs none of it
    from dem_build.view.text import make_console  # noqa: PLC0415  as above

    return make_listener(make_console(stderr=True))


def _in_notebook() -> bool:
    """Whether a kernel runs this, which shows HTML; IPython in a terminal does not."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython  # noqa: PLC0415  it is loaded

    return getattr(get_ipython(), "kernel", None) is not None


class _Quiet(Warned):
    """Follows a build and shows nothing; what an action warns of is a warning of Python's."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def build_started(self, plan: Plan) -> None:
        pass

    def action_started(self, verdict: Verdict, pid: int | None = None) -> None:
        pass

    def action_event(self, action: Action, event: Mapping[str, JSON]) -> None:
        if event.get("event") == "warning":
            warnings.warn(f"{action.name}: {joined(event.get('message', ''))}", stacklevel=2)

    def action_waits(self, action: Action, holder: str) -> None:
        pass

    def action_ended(self, result: Result) -> None:
        pass

    def stopping(self) -> None:
        pass

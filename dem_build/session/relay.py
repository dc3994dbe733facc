"""A listener of a build that passes on what it hears: for those that listen for one thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dem_build.action import Action
    from dem_build.digest import JSON
    from dem_build.engine.outcome import Listener, Result
    from dem_build.plan import Plan, Verdict


class Relay:
    """Follows a build for another listener: an `engine.outcome.Listener`."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def build_started(self, plan: Plan) -> None:
        """Tell the other one."""
        self._listener.build_started(plan)

    def action_started(self, verdict: Verdict, pid: int | None = None) -> None:
        """Tell the other one."""
        self._listener.action_started(verdict, pid)

    def action_event(self, action: Action, event: Mapping[str, JSON]) -> None:
        """Tell the other one."""
        self._listener.action_event(action, event)

    def action_waits(self, action: Action, holder: str) -> None:
        """Tell the other one."""
        self._listener.action_waits(action, holder)

    def action_ended(self, result: Result) -> None:
        """Tell the other one."""
        self._listener.action_ended(result)

    def stopping(self) -> None:
        """Tell the other one."""
        self._listener.stopping()

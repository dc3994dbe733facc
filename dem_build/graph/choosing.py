"""Which prepared rows something is chosen by: ω, a checkpoint, or when a training stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dem_build.graph.nodes import Action, Graph, Taken

__all__ = ["chosen_by"]

VALIDATION = "data/validation"


def chosen_by(graph: Graph) -> set[tuple[str, str]]:
    """Return the dataset or probe, and its split, of all rows that choose: nothing is judged fairly on their prompts.

    A mixture's validation rows are those of its datasets.
    """
    found: set[tuple[str, str]] = set()
    for action in graph:
        for taken in action.takes:
            if _chooses(action, taken):
                made = graph.actions[taken.edge.action]
                parts = [t for t in made.takes if t.of == VALIDATION] if made.kind == "mix" else [taken]
                found |= {(part.edge.action.removeprefix("data:"), part.edge.output) for part in parts}
    return found


def _chooses(action: Action, taken: Taken) -> bool:
    """Return whether an action chooses by what it takes: it may only look on, or judge by it without a say."""
    if action.kind == "finetune":
        return taken.of == VALIDATION and not taken.watched
    said = action.groups.get(taken.group or "", {})
    counts = bool(said.get("importance")) or said.get("limit") is not None
    return action.kind == "tune" and taken.of in (VALIDATION, "data/rows") and counts

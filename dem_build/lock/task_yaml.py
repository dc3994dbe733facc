"""An lm-eval task's YAML, read within bounds and without executing anything: a stranger may have written it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from dem_build.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Function", "parse_task", "read_small"]

MOST_BYTES = 1_000_000
MOST_LEVELS = 50
MOST_ALIASES = 30

# What building YAML's own types raises of texts that are none of them: `!!timestamp x`, `2001-99-99`.
_YAML_FAULTS = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


class Function(str):
    """The text after `!function`: a module and a name in it."""

    __slots__ = ()


def parse_task(path: Path) -> dict[str, Any]:
    """Return the keys of a task's or a group's file; `!function` stays text.

    Raises:
        UsageError: It cannot be read, or is no task.
    """
    import yaml  # noqa: PLC0415 -- the planning path pays for it only where there are tasks

    try:
        text = read_small(path)
        _refuse_bombs(text)
        # A safe loader, with a constructor that keeps the text of !function.
        config = yaml.load(text, Loader=_loader())  # noqa: S506
    except (OSError, yaml.YAMLError, *_YAML_FAULTS) as error:
        raise UsageError(f"cannot be read as a task: {error}", where=str(path)) from error
    if not isinstance(config, dict):
        raise UsageError("is no table of keys, so no task", where=str(path))
    return config


def read_small(path: Path) -> bytes:
    """Return what a file of code or settings holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is far larger than any such file.
    """
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    return text


def _refuse_bombs(text: bytes) -> None:
    """Refuse YAML that is small as text and not as a document, before anything is made of it.

    To compose a document takes stack for each level, in C, where too many end the process; and a few aliases of
    aliases make billions of entries.

    Raises:
        ValueError: More levels or aliases than any task has.
    """
    import yaml  # noqa: PLC0415 -- as above

    depth = aliases = 0
    for event in yaml.parse(text, Loader=_loader()):
        aliases += isinstance(event, yaml.AliasEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_LEVELS or aliases > MOST_ALIASES:
            raise ValueError("it is nested too deeply" if depth > MOST_LEVELS else "it has too many aliases")


@cache
def _loader() -> Any:
    import yaml  # noqa: PLC0415 -- as above

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Reads a task's YAML without executing anything."""

    Loader.add_constructor("!function", lambda loader, node: Function(loader.construct_scalar(node)))
    return Loader

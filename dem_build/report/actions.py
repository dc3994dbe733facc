"""What actions found, read and shown: the `read.py` and `show.py` of every folder of `actions.SPECS` that has them."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from dem_build.actions import SPECS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import ModuleType

    from dem_build.report.html.blocks import Section
    from dem_build.report.inputs import Reader, ReportInputs
    from dem_build.report.results import Results
    from dem_build.report.text import Line

    MakeSection: TypeAlias = Callable[[ReportInputs], Section | None]

JSON_ORDER = ("choose", "tune", "match", "analysis", "response", "ladder", "tsne", "sample")
PAGE_ORDER = ("sample", "choose", "match", "tune", "response", "ladder", "analysis", "tsne", "finetune")
"""Folders whose order differs from that of `SPECS`; others come after them."""


@runtime_checkable
class Read(Protocol):
    """A `read.py` that has readers; one without is read by who needs it."""

    READERS: tuple[Reader[Any], ...]


@runtime_checkable
class Show(Protocol):
    """A `show.py`."""

    SECTIONS: tuple[MakeSection, ...]


def _modules(order: tuple[str, ...], name: str) -> Iterator[ModuleType]:
    """Import the modules of a name in the folders of all actions, those of `order` first."""
    packages = [spec.__name__.removesuffix(".spec") for spec in SPECS]
    known = {package.rpartition(".")[2]: package for package in packages}
    for folder in dict.fromkeys((*order, *known)):
        if find_spec(f"{known[folder]}.{name}") is not None:
            yield import_module(f"{known[folder]}.{name}")


READERS: tuple[Reader[Any], ...] = tuple(
    reader for module in _modules(JSON_ORDER, "read") if isinstance(module, Read) for reader in module.READERS
)
"""In the order of `--json`."""

# What shows is imported where there is something to show: a build with nothing to do needs no blocks of a page.


def sections() -> tuple[MakeSection, ...]:
    """The sections of `report.html` that show what one action found; one that has nothing to show makes None."""
    shown = (module for module in _modules(PAGE_ORDER, "show") if isinstance(module, Show))
    return tuple(section for module in shown for section in module.SECTIONS)


def lines_before_results(results: Results) -> Iterator[Line]:
    """What actions say on the terminal before the models are put side by side."""
    return _lines(results, "before")


def lines_after_results(results: Results) -> Iterator[Line]:
    """What they say after it."""
    return _lines(results, "after")


def _lines(results: Results, place: str) -> Iterator[Line]:
    for reader in READERS:
        if reader.says == place and (found := results.get(reader)) is not None:
            show = import_module(reader.read.__module__.removesuffix("read") + "show")
            said: Iterable[Line] = show.lines(found)
            yield from said

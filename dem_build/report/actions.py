"""The actions whose results are read and shown, in order: `read.py` and `show.py` in the folder of each say how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from dem_build.actions.analysis.read import read_analysis
from dem_build.actions.ladder.read import read_ladder
from dem_build.actions.response.read import read_response
from dem_build.actions.sample.read import read_samples
from dem_build.actions.tsne.read import read_tsne
from dem_build.actions.tune.read import read_tuning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dem_build.report.html.blocks import Section
    from dem_build.report.inputs import Reader, ReportInputs
    from dem_build.report.results import Results
    from dem_build.report.text import Line

    MakeSection: TypeAlias = Callable[[ReportInputs], Section | None]

__all__ = ["READERS", "lines_after_results", "lines_before_results", "sections"]

READERS: tuple[Reader[Any], ...] = (
    read_tuning,
    read_analysis,
    read_response,
    read_ladder,
    read_tsne,
    read_samples,
)
"""In the order of `--json`."""

# What shows is imported where there is something to show: a build with nothing to do needs no blocks of a page.


def sections() -> tuple[MakeSection, ...]:
    """The sections of `report.html` that show what one action found; one that has nothing to show makes None."""
    from dem_build.actions.analysis import show as analysis  # noqa: PLC0415  as above
    from dem_build.actions.finetune import show as finetune  # noqa: PLC0415
    from dem_build.actions.ladder import show as ladder  # noqa: PLC0415
    from dem_build.actions.response import show as response  # noqa: PLC0415
    from dem_build.actions.sample import show as sample  # noqa: PLC0415
    from dem_build.actions.tsne import show as tsne  # noqa: PLC0415
    from dem_build.actions.tune import show as tune  # noqa: PLC0415

    shown = (sample, tune, response, ladder, analysis, tsne, finetune)
    return tuple(section for action in shown for section in action.SECTIONS)


def lines_before_results(results: Results) -> Iterator[Line]:
    """What actions say on the terminal before the models are put side by side."""
    if (tuning := results.get(read_tuning)) is not None:
        from dem_build.actions.tune import show as tune  # noqa: PLC0415  as above

        yield from tune.lines(tuning)


def lines_after_results(results: Results) -> Iterator[Line]:
    """What they say after it."""
    if (analysis := results.get(read_analysis)) is not None:
        from dem_build.actions.analysis import show  # noqa: PLC0415  as above

        yield from show.lines(analysis)

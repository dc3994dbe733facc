"""The sections of `report.html`, each by itself, for a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

    from dem_build.report.html.blocks import Section
    from dem_build.report.inputs import ReportInputs


@dataclass(frozen=True)
class Figure:
    """A section of the report: what a notebook shows of it is HTML with drawings as SVG, and loads nothing.

    Attributes:
        name: Its name in `Figures`, which is its anchor in the report.
        lead: What one sees in it, in a sentence or two.
        html: The section with its style, which reaches nothing around it.
    """

    name: str
    title: str
    lead: str
    html: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"Figure({self.name!r}: {self.title})"

    def save(self, path: str | PathLike[str]) -> Path:
        """Write it as a page of its own, and return where."""
        file = Path(path)
        head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{self.name}</title>\n'
        file.write_text(head + self.html, encoding="utf-8")
        return file


class Figures(Mapping[str, Figure]):
    """The report's sections, by name: those that there is something to show of, in the report's order.

    A notebook shows all of them. `figures["loss"]` and `figures.loss` are the same.
    """

    def __init__(self, inputs: ReportInputs) -> None:
        from dem_build.report.html.page import sections_of  # noqa: PLC0415  it loads what draws

        self._sections: dict[str, Section] = {s.anchor: s for s in sections_of(inputs)}

    def __getitem__(self, name: str) -> Figure:
        from dem_build.report.html.page import fragment  # noqa: PLC0415  as above

        section = self._sections[name]
        return Figure(name, section.title, section.lead, fragment([section]))

    def __getattr__(self, name: str) -> Figure:
        if name.startswith("_") or name not in self._sections:
            raise AttributeError(f"there is no figure {name!r}: {', '.join(self._sections) or 'none yet'}")
        return self[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __len__(self) -> int:
        return len(self._sections)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._sections]

    def __repr__(self) -> str:
        return f"Figures({', '.join(self)})"

    def _repr_html_(self) -> str:
        from dem_build.report.html.page import fragment  # noqa: PLC0415  as above

        return fragment([*self._sections.values()])

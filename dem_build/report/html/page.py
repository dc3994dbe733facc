"""Sections → one HTML file: style and drawings inside it, nothing to load, no script."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dem_build.actions.analysis import show as vectors
from dem_build.actions.finetune import show as training
from dem_build.actions.sample import show as samples
from dem_build.actions.tune import show as tuned
from dem_build.report.html import analyses, baselines, cost, evaluations, provenance
from dem_build.report.markdown import printable, printable_lines
from dem_build.report.material import Material, base_name, mark_of
from dem_build.report.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from dem_build.report.html.blocks import Section

__all__ = ["SECTIONS", "render"]

SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    evaluations.losses,
    evaluations.gain,
    evaluations.tasks,
    baselines.baselines,
    evaluations.gates,
    samples.samples,
    tuned.omega,
    tuned.search,
    tuned.slopes,
    analyses.leave_one_out,
    analyses.response,
    analyses.ladder,
    vectors.cosines,
    vectors.distances,
    vectors.datasets,
    training.curves,
    cost.cost,
    provenance.warnings,
    provenance.records,
)
"""The page's sections in order; one that has nothing to show is left out."""

TEMPLATES = Path(__file__).parent / "templates"
MINUS = re.compile(r"(?<![\w-])-(?=\d)")
FORMULAS = {"dem": "Θ + Σ ωᵢ ΔΘᵢ", "interpolation": "Σ ωᵢ Θᵢ"}


def render(material: Material) -> str:
    """Return the report as an HTML document; the same material gives the same text."""
    results = material.results
    page = (
        _environment()
        .get_template("page.html")
        .render(
            name=material.recipe.name,
            verdict=judge(results, material.gates),
            facts=_facts(material),
            missing=material.missing,
            total=len(material.graph.actions),
            sections=[s for make in SECTIONS if (s := make(material)) is not None],
            style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),  # noqa: S704
            version=material.version,
        )
    )
    return page.rstrip("\n") + "\n" + mark_of(material)


@cache
def _environment() -> Environment:
    """Return where templates are compiled, each once."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["verbatim"] = _verbatim
    return environment


def _shown(value: Any) -> Any:
    """Return what an expression prints: text without control characters, and with a minus for a number's hyphen."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return MINUS.sub("\N{MINUS SIGN}", printable(value))


def _verbatim(text: str) -> Markup:
    """Return text as somebody wrote it, a model or a person: its lines and hyphens stay."""
    return escape(printable_lines(text))


def _rounding(material: Material) -> str:
    """Return how far rounding moved the model, as a share of how far the vectors did; nothing where it did not."""
    model = material.records.get("model")
    share = model.amount("relative_rounding_error") if model is not None else None
    return f", rounded by {share:.2g} of what the vectors change" if share else ""


def _facts(material: Material) -> list[tuple[str, str]]:
    recipe, results = material.recipe, material.results
    times = [str(r.provenance["finished"]) for r in material.records.values() if "finished" in r.provenance]
    facts = [
        ("base", base_name(recipe, material.graph)),
        ("vector" if len(results.vectors) == 1 else "vectors", str(len(results.vectors))),
        ("composed as", FORMULAS[recipe.compose.method]),
        ("weights", recipe.compose.dtype + _rounding(material)),
        ("model", results.model_digest[:12] if results.model_digest else "not built yet"),
        ("recorded", max(times).replace("T", " ").removesuffix("Z") + " UTC" if times else ""),
    ]
    return [(name, value) for name, value in facts if value]

"""Sections → one HTML file: style and drawings inside it, nothing to load, no script; and where all in it is from."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from dem_build.action import TRUNK
from dem_build.actions.choose.read import method_of, read_choice
from dem_build.report.actions import sections
from dem_build.report.html import cost, evaluations
from dem_build.report.html.blocks import Cell, DataTable, Fold, Notes, Section
from dem_build.report.inputs import ReportInputs, base_name, mark_of
from dem_build.report.text import printable, printable_lines
from dem_build.report.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dem_build.report.actions import MakeSection
    from dem_build.report.verdict import BuildVerdict

TEMPLATES = Path(__file__).parent / "templates"
# A hyphen that begins a number: not one inside of a date, a range or a name.
MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def warnings(inputs: ReportInputs) -> Section | None:
    """Warnings, of the runs that made the results."""
    told = inputs.results.warnings
    if not told:
        return None
    items = [f"{action}: {text}" for action, text in told]
    return Section(
        "warnings", "Warnings", "Said when it ran, and still true of what is here.", [Notes(items)]
    )


def records(inputs: ReportInputs) -> Section | None:
    """Key, inputs and outputs of every action, and on what it ran."""
    found = inputs.records
    if not found:
        return None
    lead = (
        "A key is the SHA-256 of everything that a result follows from; a digest is that of the result. "
        "dem show tells the rest."
    )
    digest = inputs.results.model_digest
    model = [Cell("the composed model", strong=True), Cell(digest or "", code=True)]
    outputs = [
        (f"{name}/{output}", made.digest)
        for name, record in found.items()
        for output, made in sorted(record.outputs.items())
    ]
    sources = [
        (f"{name} ({source.get('tag')})", str(source.get("sha256")))
        for name, record in found.items()
        if isinstance(record.preimage, dict)
        for source in record.preimage.get("sources", [])
    ]
    blocks = [
        Fold("Keys", [_digests("action", [(name, record.key) for name, record in found.items()])]),
        Fold("Outputs", [_digests("output", outputs)]),
        Fold("Source files", [_digests("of", sources)]),
        Fold("Machines and versions", [_machines(inputs)]),
    ]
    whole = [DataTable(["", "SHA-256"], [model])] if digest else []
    return Section("provenance", "Provenance", lead, [*whole, *blocks])


def _digests(what: str, pairs: list[tuple[str, str]]) -> DataTable:
    return DataTable(
        [what, "SHA-256"], [[Cell(n, code=True), Cell(digest, code=True)] for n, digest in pairs]
    )


def _machines(inputs: ReportInputs) -> DataTable:
    body = []
    for name, record in inputs.records.items():
        versions = record.noted("versions")
        libraries = versions.items() if isinstance(versions, dict) else ()
        told = ", ".join(f"{library} {version}" for library, version in libraries)
        ran = (Cell(str(record.noted(what) or "")) for what in ("finished", "device"))
        body.append([Cell(name, code=True), *ran, Cell(told)])
    return DataTable(["action", "finished", "device", "versions"], body)


SECTIONS: tuple[MakeSection, ...] = (
    evaluations.losses,
    evaluations.gain,
    evaluations.tasks,
    evaluations.baselines,
    evaluations.gates,
    *sections(),
    cost.cost,
    warnings,
    records,
)
"""The page's sections in order; one that has nothing to show is left out."""


def render(inputs: ReportInputs) -> str:
    """The report as an HTML document; the same inputs give the same text."""
    results = inputs.results
    page = (
        _environment()
        .get_template("page.html")
        .render(
            name=inputs.recipe.name,
            verdict=judge(results, inputs.gates),
            facts=_facts(inputs),
            missing=inputs.missing,
            total=len(inputs.graph.actions),
            sections=sections_of(inputs),
            style=Markup(_style()),  # noqa: S704  ours
            version=inputs.version,
        )
    )
    return page.rstrip("\n") + "\n" + mark_of(inputs)


def sections_of(inputs: ReportInputs) -> list[Section]:
    """The sections that there is something to show of."""
    return [section for make in SECTIONS if (section := make(inputs)) is not None]


def fragment(sections: Sequence[Section], verdict: BuildVerdict | None = None) -> str:
    """Some sections as a part of another page, with a style that reaches nothing else there."""
    template = _environment().get_template("fragment.html")
    return template.render(sections=sections, verdict=verdict, style=_nested(_style())).strip() + "\n"


def _style() -> str:
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


def _nested(style: str) -> Markup:
    """The rules of a page as rules of one element: what they say of the page is said of it."""
    rules = re.sub(r"(?m)^(\s*)(?::root|body)(?= \{)", r"\1&", style)
    rules = re.sub(r"(?m)^\s*@page .*\n", "", rules)  # which no rule may hold
    return Markup(f".dem-report {{\n{rules}\n}}")  # noqa: S704  ours


@cache
def _environment() -> Environment:
    """Where templates are compiled, each once."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Text as somebody wrote it, a model or a person: its lines and hyphens stay.
    environment.filters["verbatim"] = lambda text: escape(printable_lines(text))
    return environment


def _shown(value: Any) -> Any:
    """What an expression prints: text without control characters, and with a minus for a number's hyphen."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return MINUS.sub("\N{MINUS SIGN}", printable(value))


def _facts(inputs: ReportInputs) -> list[tuple[str, str]]:
    recipe, results, model = inputs.recipe, inputs.results, inputs.records.get(inputs.graph.composing)
    times = [str(r.provenance["finished"]) for r in inputs.records.values() if "finished" in r.provenance]
    # How far rounding moved the model, as a share of how far the vectors did.
    share = model.amount("relative_rounding_error") if model is not None else None
    rounded = f", rounded by {share:.2g} of what the vectors change" if share else ""
    facts = [
        ("base", base_name(recipe, inputs.graph)),
        ("vector" if len(results.vectors) == 1 else "vectors", str(len(results.vectors))),
        *((stage.name, stage.short) for stage in results.stages.values() if stage.name == TRUNK),
        ("composed as", method_of(recipe, results.get(read_choice)).formula),
        *(("healed on", stage.short) for stage in results.stages.values() if stage.name != TRUNK),
        ("weights", recipe.compose.dtype + rounded),
        ("model", results.model_digest[:12] if results.model_digest else "not built yet"),
        ("recorded", max(times).replace("T", " ").removesuffix("Z") + " UTC" if times else ""),
    ]
    return [(name, value) for name, value in facts if value]

"""The model card that is published beside a composed model; outside the model's digest."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING

from dem_build.report.markdown import baselines_list, code, escape, printable, results_table, table
from dem_build.report.material import base_name
from dem_build.report.quantities import count

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.graph import Graph
    from dem_build.recipe import Recipe
    from dem_build.report.results import Results
    from dem_build.store import Record

__all__ = ["card"]

FORMULAS = {
    "dem": "`Θ_D = Θ + Σ ω_i ΔΘ_i`, where `ΔΘ_i` is what fine-tuning the base `Θ` on dataset `i` changed",
    "interpolation": "`Θ_I = Σ ω_i Θ_i`, where `Θ_i` is the base fine-tuned on dataset `i`",
}
FRONT_MATTER = """\
library_name: transformers
pipeline_tag: text-generation
tags: [dem, distribution-edited-model, merge]
"""
EXPLAINED = (
    "Values are given with their standard error. A change is composed minus base, in bold where it is an "
    "improvement with zero outside its 95 % interval.\n"
)


def card(
    recipe: Recipe,
    graph: Graph,
    records: Mapping[str, Record],
    results: Results,
    versions: Mapping[str, str],
) -> str:
    """Return the card of a composed model, as Markdown with YAML front matter.

    Args:
        recipe: The recipe.
        graph: Its graph.
        records: Name of an action → its record.
        results: What the records say.
        versions: Library → version, of the machine that publishes.
    """
    base = base_name(recipe, graph)
    sections = [
        _front_matter(base),
        f"# {escape(recipe.name)}\n",
        _opening(recipe, base, len(results.omega)),
        "## Vectors\n",
        _vectors(recipe, records, results),
        *_layers(results),
        *(["## Results\n", results_table(results), EXPLAINED] if results.table else []),
        *(["## Baselines\n", baselines_list(results)] if results.baselines else []),
        "## Provenance\n",
        _provenance(records, results),
        "Made with " + ", ".join(f"{escape(n)} {escape(v)}" for n, v in sorted(versions.items())) + ".\n",
    ]
    return "\n".join(sections)


def _opening(recipe: Recipe, base: str, vectors: int) -> str:
    plural = "vector" if vectors == 1 else "vectors"
    formula = FORMULAS[recipe.compose.method]
    made = f"Composed with dem from {code(base)} and {vectors} distribution {plural}"
    return f"{made}: {formula}. Its weights are {recipe.compose.dtype}.\n"


def _front_matter(base: str) -> str:
    """Return the YAML that hubs read, written by hand: every build renders a card, and importing yaml is slow."""
    # A JSON string of printable characters is a YAML string.
    quoted = json.dumps(printable(base), ensure_ascii=False)
    return f"---\nbase_model: {quoted}\n{FRONT_MATTER}---\n"


def _vectors(recipe: Recipe, records: Mapping[str, Record], results: Results) -> str:
    mean = ", mean of its layers" if results.layers else ""
    header = ["vector", "of", "SHA-256", "trained tokens", f"ω{mean}"]
    body = [
        [
            escape(name),
            code(_origin(recipe, name)),
            _digest(records, f"vector:{name}", "delta"),
            _tokens(results, f"vector:{name}"),
            f"{omega:.6g}",
        ]
        for name, omega in results.omega.items()
    ]
    return table(header, body, numbers=2)


def _layers(results: Results) -> Iterator[str]:
    """Yield ω of every layer, where these differ."""
    tuned = results.tuning.vectors if results.tuning else {}
    if not results.layers:
        return
    body = [
        [
            layer,
            *(f"{tuned[n].layers.get(layer, w) if n in tuned else w:.6g}" for n, w in results.omega.items()),
        ]
        for layer in results.layers
    ]
    yield table(["ω of layer", *map(escape, results.omega)], body, numbers=len(results.omega))


def _origin(recipe: Recipe, name: str) -> str:
    """Return where a dataset's rows, or a vector, come from, without the folders of an absolute path."""
    dataset, vector = recipe.datasets.get(name), recipe.vectors.get(name)
    source = (dataset.hub or dataset.path or "") if dataset else vector.origin if vector else ""
    path = PurePath(source)
    return path.name if path.is_absolute() or source.startswith("~") else source


def _tokens(results: Results, action: str) -> str:
    cost = results.cost.costs.get(action)
    return "" if cost is None or cost.trained_tokens is None else count(cost.trained_tokens)


def _digest(records: Mapping[str, Record], action: str, output: str) -> str:
    record = records.get(action)
    return f"`{record.outputs[output].digest}`" if record and output in record.outputs else ""


def _provenance(records: Mapping[str, Record], results: Results) -> str:
    whole = [["the composed model", f"`{results.model_digest}`"]] if results.model_digest else []
    parts = [
        [f"{action}/{output}", f"`{made.digest}`"]
        for action in ("base", "model")
        if action in records
        for output, made in sorted(records[action].outputs.items())
    ]
    keys = [[f"key of {action}", f"`{records[action].key}`"] for action in ("model",) if action in records]
    return table(["what", "SHA-256"], [*whole, *([escape(p), d] for p, d in parts), *keys])

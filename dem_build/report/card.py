"""The model card that is published beside a composed model; outside the model's digest."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import TYPE_CHECKING

from dem_build.actions.choose.read import method_of, read_choice
from dem_build.actions.tune.read import read_tuning
from dem_build.report.inputs import base_name
from dem_build.report.markdown import baselines_list, code, escape, results_table, stages_list, table
from dem_build.report.quantities import count
from dem_build.report.text import printable
from dem_build.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.graph import Graph
    from dem_build.recipe import Recipe
    from dem_build.report.results import Results
    from dem_build.store import Record

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
    """The card of a composed model, as Markdown with YAML front matter.

    Args:
        recipe: The recipe.
        graph: Its graph.
        records: Name of an action → its record.
        results: What the records say.
        versions: Library → version, of the machine that publishes.
    """
    base = base_name(recipe, graph)
    # Front matter by hand: every build renders a card, importing yaml is slow, and a JSON string of printable
    # characters is a YAML string.
    quoted = json.dumps(printable(base), ensure_ascii=False)
    made = f"Composed with dem from {code(base)} and {counted(len(results.omega), 'distribution vector')}"
    sections = [
        f"---\nbase_model: {quoted}\n{FRONT_MATTER}---\n",
        f"# {escape(recipe.name)}\n",
        f"{made}: {_way(recipe, results)}. Its weights are {recipe.compose.dtype}.\n",
        *([stages_list(results)] if results.stages else []),
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


def _way(recipe: Recipe, results: Results) -> str:
    """How it was composed, with the keys of the recipe that its method reads, and what its ω are."""
    choice = results.get(read_choice)
    method = method_of(recipe, choice)
    values = [f"`{key}` is {_said(getattr(recipe.compose, key))}" for key in method.keys]
    if not method.linear:
        values.append(f"ω of a vector is {method.omega}")
    chosen = [] if choice is None else [f"the best of {len(choice.candidates)} ways on validation rows"]
    return "; ".join([method.sentence, *([", ".join(values)] if values else []), *chosen])


def _said(value: float | str | bool) -> str:
    """A value of a recipe as the recipe writes it, without quotes."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _vectors(recipe: Recipe, records: Mapping[str, Record], results: Results) -> str:
    mean = ", mean of its layers" if results.layers else ""
    body = []
    for name, omega in results.omega.items():
        record, cost = records.get(f"vector:{name}"), results.cost.costs.get(f"vector:{name}")
        delta = record.outputs.get("delta") if record else None
        digest = f"`{delta.digest}`" if delta else ""
        dataset, vector = recipe.datasets.get(name), recipe.vectors.get(name)
        named = [(r.hub or r.path or "") for r in dataset.origins.values()] if dataset else []
        named = named or [vector.origin if vector else ""]
        # The folders of an absolute path are the builder's, and the card is published.
        origin = ", ".join(
            dict.fromkeys(
                PurePath(n).name if PurePath(n).is_absolute() or n.startswith("~") else n for n in named
            )
        )
        tokens = count(cost.trained_tokens) if cost and cost.trained_tokens is not None else ""
        body.append([escape(name), code(origin), digest, tokens, f"{omega:.6g}"])
    listed = table(["vector", "of", "SHA-256", "trained tokens", f"ω{mean}"], body, numbers=2)
    return "\n".join([listed, *_quantised(records, results)])


def _quantised(records: Mapping[str, Record], results: Results) -> Iterator[str]:
    """What storing vectors in int8 lost, where any is."""
    lost = {}
    for name in results.omega:
        stored = records[f"vector:{name}"].provenance.get("vector") if f"vector:{name}" in records else None
        if isinstance(stored, dict) and stored.get("dtype") == "int8":
            share = stored.get("relative_rounding_error")
            lost[name] = f"{share:.2g}" if isinstance(share, float) else "0"
    if lost:
        named = ", ".join(f"{escape(name)} {share}" for name, share in lost.items())
        yield f"\nStored in int8, which moved them by this share of their length: {named}.\n"


def _layers(results: Results) -> Iterator[str]:
    """ω of every layer, where these differ."""
    tuning = results.get(read_tuning)
    if tuning is None or not results.layers:
        return
    tuned = tuning.vectors
    body = [
        [
            layer,
            *(f"{tuned[n].layers.get(layer, w) if n in tuned else w:.6g}" for n, w in results.omega.items()),
        ]
        for layer in results.layers
    ]
    yield table(["ω of layer", *map(escape, results.omega)], body, numbers=len(results.omega))


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

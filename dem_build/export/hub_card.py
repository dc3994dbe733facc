"""The card of a repository on a hub: metadata that the hub's client checks, and nothing of the machine that built.

`model-index`, base and tags are written by huggingface_hub's `ModelCardData`, which refuses metadata that it could not
read again. Whether the hub takes them only the hub says: `create_commit` asks it before a byte is uploaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from dem_build.paths import is_local
from dem_build.report.comparison import COUNTS, STDERR, subject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe
    from dem_build.recipe.schema import RowSource
    from dem_build.report.results import Results

TASK = "text-generation"
TAGS = ["dem", "distribution-edited-model"]

Rows = TypeVar("Rows", bound="RowSource")


def without_folders(recipe: Recipe) -> Recipe:
    """A recipe whose files and folders are their names alone: where they lay is nobody else's business."""
    datasets = {}
    for name, dataset in recipe.datasets.items():
        parts = dataset.parts and tuple(map(_without_folder, dataset.parts))
        datasets[name] = _without_folder(dataset).model_copy(update={"parts": parts})
    vectors = {}
    for name, vector in recipe.vectors.items():
        places = {key: getattr(vector, key) for key in ("checkpoint", "adapter")}
        local = {k: PurePath(p).name for k, p in places.items() if p and is_local(p, recipe.folder)}
        vectors[name] = vector.model_copy(update=local)
    return recipe.model_copy(update={"datasets": datasets, "vectors": vectors})


def _without_folder(rows: Rows) -> Rows:
    return rows.model_copy(update={"path": PurePath(rows.path).name}) if rows.path else rows


def finished(text: str, name: str, base: str | None, results: Results, model: str) -> str:
    """A card with metadata of what was measured.

    Args:
        text: The card, with front matter or without.
        name: What the model is called.
        base: The base's hub id; None of a base that lies on no hub.
        results: What was measured.
        model: Of which model, as `results.table` names it.

    Raises:
        ValueError: Metadata that the hub's client could not read again.
    """
    from huggingface_hub import EvalResult, ModelCard  # noqa: PLC0415  it takes longer than all of a plan

    card: Any = ModelCard(text)
    card.data.base_model = base
    measured = [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset,
            dataset_name=dataset,
            dataset_split=split,
            metric_type=metric,
            metric_value=value,
        )
        for dataset, split, metric, value in _measured(results, model)
    ]
    if measured:
        card.data.model_name, card.data.eval_results = name, measured
    # Read again, as the hub does: the client refuses a model-index that is none.
    return str(ModelCard(str(card)))


def _measured(results: Results, model: str) -> Iterator[tuple[str, str | None, str, float]]:
    """What was measured of a model: on what, of a dataset of the recipe its split, the metric and the value."""
    for task, metrics in results.table.get(model, {}).items():
        on = subject(task)
        for metric, value in metrics.items():
            if not metric.endswith(STDERR) and metric not in COUNTS and math.isfinite(value):
                yield on, ("test" if on in results.datasets else None), metric, value


@dataclass(frozen=True)
class VectorFacts:
    """What a vector's card tells.

    Attributes:
        name: `vector:NAME`.
        recipe: The recipe's name.
        base: What it is added to: a hub id, a name or an action.
        base_digest: SHA-256 of the base's weights.
        digest: SHA-256 of the vector.
        adapter: Whether it is an adapter of peft; else all weights' differences in a file.
        provenance: What its training recorded of it: `dtype`, `norm`, `relative_rounding_error` …
    """

    name: str
    recipe: str
    base: str
    base_digest: str
    digest: str
    adapter: bool
    provenance: Mapping[str, JSON]


def vector_card(facts: VectorFacts) -> str:
    """The card of a vector, as Markdown with YAML front matter."""
    from dem_build.report.markdown import code, escape, table  # noqa: PLC0415  as above

    library = "library_name: peft\n" if facts.adapter else ""
    told = {
        "added to": code(facts.base),
        "SHA-256 of its weights": f"`{facts.base_digest}`",
        "SHA-256 of the vector": f"`{facts.digest}`",
        "stored in": code(str(facts.provenance.get("dtype", "float32"))),
    }
    if isinstance(norm := facts.provenance.get("norm"), int | float):
        told["length ‖ΔΘ‖"] = f"{norm:.6g}"
    use = (
        "An adapter (LoRA): peft's `PeftModel.from_pretrained` loads it onto the base.\n"
        if facts.adapter
        else "Fine-tuned weights minus those of the base. `vector.safetensors` has a tensor for each float tensor of "
        "the base, of its name: added to it in float32, they are the fine-tuned model. A tensor of int8 is in blocks "
        "of 64 neighbours in a row, each times its scale in `NAME_scale`.\n"
    )
    sections = [
        f"---\n{library}tags: [{', '.join(TAGS)}]\n---\n",
        f"# {escape(facts.recipe)}: {escape(facts.name)}\n",
        use,
        table(["what", "value"], [[escape(what), value] for what, value in told.items()]),
    ]
    return "\n".join(sections)

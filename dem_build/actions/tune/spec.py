"""Kind `tune`: finds the ω of vectors on validation rows that no vector was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, TUNE, Action, Edge, Input, Kind
from dem_build.workload import JUDGING, Workload, recorded_rows_by_vectors, rows_by_vectors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dem_build.digest import JSON
    from dem_build.recipe import Recipe

    Params = dict[str, JSON]


def rows_choose(action: Action, taken: Input[Edge], counts: str = "importance") -> bool:
    """Whether rows choose: where their loss counts or is limited; others are only measured.

    Args:
        action: What chooses.
        taken: One of its inputs.
        counts: The parameter of a group that says how much its loss counts.
    """
    said = action.groups.get(taken.group or "", {})
    heeded = bool(said.get(counts)) or said.get("limit") is not None
    return taken.of in ("data/validation", "data/rows") and heeded


def _slopes(action: Action) -> bool:
    """ω of layers are refined by slopes, however the search began."""
    return action.params.get("granularity") == "layer" or action.params.get("search") in (
        "gradient",
        "single",
    )


KIND = Kind(
    name="tune",
    module="dem_build.actions.tune.run",
    family="tune",
    # 8: a block's derivatives are summed over its batches in float64
    version=8,
    params=("search", "objective", "granularity", "max_samples", "bounds", "dtype"),
    outputs=("omega", "trace", "passes"),
    sampled=frozenset(JUDGING),
    device=True,
    resumes=True,
    measures="passes",
    measured_since=5,  # earlier ones do not say what each pass was measured under
    chooses=rows_choose,
    work=Workload(rows_by_vectors, recorded_rows_by_vectors, ("search", "granularity"), varies=True),
    slopes=_slopes,
    unfit="give every ω a number, or tune on a machine with more memory",
)


def tune_action(recipe: Recipe, given: Mapping[str, float], name: str = TUNE, **other: str) -> Action:
    """The search for the ω that are not given.

    Args:
        recipe: The recipe.
        given: Vector → its ω.
        name: Of the action.
        other: Parameters that differ from `[tune]`.
    """
    vectors = [*recipe.datasets, *recipe.vectors]
    return _search(recipe, name, {n: {"omega": given.get(n)} for n in vectors}, **other)


def scale_of(recipe: Recipe, name: str) -> Action:
    """The search for the scale α of the vector NAME, a mixture's.

    It is judged as the recipe's ω are. The datasets' own vectors take no part: they are the measure of the gain.
    """
    reference: Params = {"omega": 0.0, "reference": True}
    vectors: dict[str, Params] = {name: {"omega": None}} | dict.fromkeys(recipe.datasets, reference)
    return _search(recipe, f"{TUNE}:{name}", vectors, granularity="model")


def best_single(recipe: Recipe, name: str) -> Action:
    """The search for the vector that does best alone, and for its scale."""
    vectors: dict[str, Params] = {n: {"omega": None} for n in (*recipe.datasets, *recipe.vectors)}
    return _search(recipe, f"{TUNE}:{name}", vectors, search="single", granularity="model")


def _search(recipe: Recipe, name: str, vectors: Mapping[str, Params], **other: str) -> Action:
    """A search.

    Args:
        recipe: The recipe.
        name: Of the action.
        vectors: Name of a vector that takes part, or is a reference → what is said of it.
        other: Parameters that differ from `[tune]`.
    """
    from dem_build.recipe import Tune  # noqa: PLC0415  a worker reads this table of kinds, and no recipe

    tune = recipe.tune or Tune()
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    takes += [Input("delta", Edge(f"vector:{vector}", "delta"), group=vector) for vector in vectors]
    takes += judging_inputs(recipe)
    groups: dict[str, Params] = {vector: dict(said) for vector, said in vectors.items()}
    for dataset in recipe.datasets:
        groups[dataset]["importance"] = tune.importance.get(dataset, 1.0)
    for learned in recipe.learned_from:  # of a vector that takes no part rows are left out, too
        groups.setdefault(learned, {})
    groups |= {probe: {"limit": p.max_loss_increase} for probe, p in recipe.probes.items()}
    params: Params = {
        "search": tune.search,
        "objective": tune.objective,
        "granularity": tune.granularity,
        "max_samples": tune.max_samples,
        "bounds": list(tune.bounds),
        "dtype": recipe.compose.dtype,
    }
    return Action(name, KIND, params | other, tuple(takes), salt=tune.salt, groups=groups)


def judging_inputs(recipe: Recipe) -> Iterator[Input[Edge]]:
    """What judges: validation rows, and the train splits whose prompts are left out of them."""
    for name in recipe.learned_from:
        yield Input("data/train", Edge(f"data:{name}", "train"), group=name)
        if (dataset := recipe.datasets.get(name)) is not None and dataset.validation != 0:
            yield Input("data/validation", Edge(f"data:{name}", "validation"), group=name)
    for name in recipe.probes:
        yield Input("data/rows", Edge(f"data:{name}", "test"), group=name)

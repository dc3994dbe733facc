"""Kind `gram`: Gram matrices of what each linear layer of one fine-tuned model is given on training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import BASE, Action, Edge, Input, Kind
from dem_build.workload import SAMPLE, Workload

if TYPE_CHECKING:
    from dem_build.recipe import Recipe

KIND = Kind(
    name="gram",
    module="dem_build.actions.gram.run",
    family="gram",
    version=2,
    params=("rows", "dtype"),
    outputs=("gram",),
    device=True,
    streams=True,
    work=Workload(
        lambda due: due.sampled_tokens(SAMPLE, due.action.params["rows"]),
        lambda record: record.count("tokens", "seen"),
        ("dtype",),
        tokens=True,
    ),
    unfit="lower `rows` in [compose], or compose on a machine with more memory",
)


def gram_action(recipe: Recipe, name: str) -> Action:
    """The Gram matrices of a dataset's fine-tuned model."""
    return sampled_action(recipe, KIND, name)


def sampled_action(recipe: Recipe, kind: Kind, name: str) -> Action:
    """An action of a kind that looks at a dataset's fine-tuned model on the dataset's sample."""
    takes = [Input(f"base/{part}", Edge(BASE, part)) for part in ("weights", "config")]
    takes.append(Input("delta", Edge(f"vector:{name}", "delta")))
    takes.append(Input(SAMPLE, Edge(f"data:{name}", "sample")))
    params = {"rows": recipe.compose.rows, "dtype": recipe.compose.dtype}
    return Action(f"{kind.name}:{name}", kind, params, tuple(takes), salt=recipe.compose.salt)

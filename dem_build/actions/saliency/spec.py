"""Kind `saliency`: how much what the linear layers of one fine-tuned model put out of each token moves its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dem_build.action import Kind
from dem_build.actions.gram.spec import sampled_action
from dem_build.workload import SAMPLE, Workload

if TYPE_CHECKING:
    from dem_build.action import Action
    from dem_build.recipe import Recipe

KIND = Kind(
    name="saliency",
    module="dem_build.actions.saliency.run",
    family="saliency",
    version=1,
    params=("rows", "dtype"),
    outputs=("saliency",),
    device=True,
    work=Workload(
        lambda due: due.sampled_tokens(SAMPLE, due.action.params["rows"]),
        lambda record: record.count("tokens", "seen"),
        tokens=True,
    ),
    slopes=lambda _: True,
    unfit="remove `saliency` from [compose], or compose on a machine with more memory",
)


def saliency_action(recipe: Recipe, name: str) -> Action:
    """The saliency of the tokens of a dataset's sample in the dataset's fine-tuned model."""
    return sampled_action(recipe, KIND, name)

"""A loaded model's weights under the names that its checkpoint's file gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dem_build.errors import CheckpointError
from dem_build.model.layout import Layout, Named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PreTrainedModel

__all__ = ["named_weights"]


def named_weights(model: PreTrainedModel, names: Iterable[str]) -> Named:
    """Return the model's weights by the names of the file that it was loaded from.

    transformers may rename and regroup weights while loading (the experts of a mixture become one tensor); this goes
    back, for one group of tensors after another as they are asked for. A tensor of the file that the model does not
    use, as old files have, is None.

    Args:
        model: As `load_model` gave it, trained or not.
        names: The tensors of the file.

    Raises:
        CheckpointError: A parameter of the model has no place among the names.
    """
    names = list(names)
    layout = Layout(model, names)
    placed = layout.of_own
    ties: Any = model.all_tied_weights_keys
    # A tied tensor counts under either of its names.
    lost = sorted(
        name for name, _ in model.named_parameters() if name not in placed and ties.get(name) not in placed
    )
    if lost:
        raise CheckpointError(
            f"{len(lost)} weights of the model have no place in the base's files, first {lost[0]}"
        )
    return Named(layout, model.state_dict(), names)

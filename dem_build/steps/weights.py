"""A loaded model's weights under the names that its checkpoint's file gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import core_model_loading

from dem_build.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from transformers import PreTrainedModel

__all__ = ["named_weights"]


def named_weights(model: PreTrainedModel, names: Iterable[str]) -> dict[str, torch.Tensor | None]:
    """Return the model's weights by the names of the file that it was loaded from.

    transformers may rename and regroup weights while loading (the experts of a mixture become one tensor); this goes
    back. A tensor of the file that the model does not use, as old files have, is None.

    Args:
        model: As `load_model` gave it, trained or not.
        names: The tensors of the file.

    Raises:
        CheckpointError: A parameter of the model has no place among the names.
    """
    names = list(names)
    state: dict[str, torch.Tensor] = model.state_dict()
    if any(name not in state for name in names):
        revert: Any = core_model_loading.revert_weight_conversion
        state = revert(model, state)
    found = {name: state.get(name) for name in names}
    # By address, so that tied weights, one tensor under two names, count once on both sides.
    placed = {t.data_ptr(): t.numel() for t in found.values() if t is not None}
    if sum(placed.values()) < sum(p.numel() for p in model.parameters()):
        lost = sorted(name for name, t in state.items() if t.data_ptr() not in placed)
        raise CheckpointError(
            f"{len(lost)} weights of the model have no place in the base's files, first {lost[0] if lost else '?'}"
        )
    return found

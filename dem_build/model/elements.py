"""A model's tensors under transformers' names and under those of its published files, and where each lies in the other.

transformers 5 regroups weights while it loads them: the matrices of a layer's experts become one tensor. What goes
back from a model to its files is transformers' own; it is given numbers from 0 on in place of weights, and tells so
for each tensor of a file which elements of the model's it is.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import core_model_loading

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Elements"]

# What transformers raises where a tensor cannot be taken back without others: then it has no published name here.
UNCONVERTED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


class Elements:
    """The names of a model's tensors.

    Attributes:
        shapes: Every name, the model's own and those of published files → shape.
        groups: Every name → the model's own names of the tensors that share its elements.
        members: Such a group → every name that is of it.
    """

    def __init__(self, model: Any) -> None:
        """Look at a model, which may be on the device `meta`."""
        self._model = model
        empty = {n: torch.empty(t.shape, device="meta") for n, t in model.state_dict().items()}
        published = _published(model, empty)
        self.shapes = {n: tuple(t.shape) for n, t in (*published.items(), *empty.items())}
        self.groups: dict[str, tuple[str, ...]] = {n: (n,) for n in empty if n in published}
        self._group({n: t for n, t in empty.items() if n not in published}, published)
        self.members: dict[tuple[str, ...], list[str]] = {}
        for name, group in self.groups.items():
            self.members.setdefault(group, []).append(name)

    def _group(self, renamed: Mapping[str, torch.Tensor], published: Mapping[str, torch.Tensor]) -> None:
        """Find which published tensors each of the others becomes; where it takes several, all of them do."""
        owners: dict[str, list[str]] = {}
        for name, tensor in renamed.items():
            with contextlib.suppress(*UNCONVERTED):
                for made in _published(self._model, {name: tensor}):
                    owners.setdefault(made, []).append(name)
        self.groups |= {name: (name,) for name in renamed}
        for made, names in owners.items():
            if made in published:
                for name in (made, *(names if len(names) > 1 else ())):
                    self.groups[name] = tuple(names)

    def names_in(self, names: Mapping[str, object], group: tuple[str, ...]) -> tuple[str, ...]:
        """Return under which names a file has the tensors of a group: the model's own, or the published ones."""
        if all(name in names for name in group):
            return group
        return tuple(name for name in self.members.get(group, ()) if name in names)

    def places(self, group: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Return for each name of a group where its elements lie in the group's, one tensor after the other."""
        start, numbered = 0, {}
        for name in group:
            size = math.prod(self.shapes[name])
            numbered[name] = torch.arange(start, start + size).reshape(self.shapes[name])
            start += size
        found = numbered | _published(self._model, numbered)
        return {name: tensor.numpy() for name, tensor in found.items()}


def _published(model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    revert: Any = core_model_loading.revert_weight_conversion  # it carries no types
    made: dict[str, torch.Tensor] = revert(model, dict(tensors))
    return made

"""How much what linear modules put out of each token moves the loss of a row, by one backward pass."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from dem_build.model.likelihood import row_nll
from dem_build.model.linear_layers import ALL_LINEAR, linear_targets

if TYPE_CHECKING:
    from typing import Self

    import torch
    from transformers import PreTrainedModel

    from dem_build.actions.match.rows import TokenRow


@dataclass
class Saliency:
    """The saliency of the tokens of a row at the inputs of a model's linear modules.

    A token's saliency at an input is ‖∂L/∂y‖: L is the row's summed loss in nats, y all that the modules which are
    given this input put out of the token. As a weight of the squared error of what they put out it is that of layers
    quantised by the loss (J. Kim et al., GuidedQuant, ICML 2025, arXiv 2505.07004), to the power of 1 in place of 2.

    Attributes:
        of: Name of a linear module → name of the one that is first given the same.
        squares: Of each of those the squared saliency: float32 [tokens].
    """

    of: dict[str, str] = field(default_factory=dict)
    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    _last: tuple[str, torch.Tensor] | None = None

    def meet(self, name: str, given: torch.Tensor, made: Any) -> None:
        """Take note of a module that is passed: from now on, a backward pass says what its outputs move."""
        if self._last is None or self._last[1] is not given:
            self._last = name, given
        self.of[name] = first = self._last[0]
        made.register_hook(partial(self._add, first))

    def _add(self, first: str, gradient: torch.Tensor) -> None:
        squares = gradient.detach().float().square().sum(dim=-1).view(-1)
        self.squares[first] = self.squares[first] + squares if first in self.squares else squares


class SaliencyPasses:
    """Passes through a model whose weights get no gradients. Use it in a `with`.

    Args:
        model: In evaluation mode; it is left as it was but for its weights, which want no gradients any more.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._now = model, Saliency()
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        self._model.requires_grad_(False)
        embeddings: Any = self._model.get_input_embeddings()
        # What is behind the embeddings has to have a way back to something that wants a gradient.
        self._hook(embeddings.register_forward_hook(lambda _, __, made: made.requires_grad_()))
        for name, module in linear_targets(self._model, ALL_LINEAR).items():
            self._hook(module.register_forward_hook(partial(self._met, name)))
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()

    def of(self, row: TokenRow) -> Saliency:
        """The saliency of a row's tokens; of a row of which no token counts there is none."""
        self._now = Saliency()
        [loss], _ = row_nll(self._model, [row])
        loss.backward()
        return self._now

    def _met(
        self, name: str, _: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor
    ) -> None:
        self._now.meet(name, given[0], made)

    def _hook(self, handle: Any) -> None:
        self._hooks.callback(handle.remove)

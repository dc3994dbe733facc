"""A model whose parameters are cut into rows, a part for each rank: torch's `fully_shard`, checked while it trains.

Numbers are those of one process. Where autocast makes bfloat16 of a linear layer's parameters, they are gathered as
that; all else is gathered in float32, and gradients are added up in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from dem_build.actions.finetune.ranks.launch import SINGLE
from dem_build.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from transformers import PreTrainedModel

    from dem_build.digest import JSON

SKIPS = ("layerdrop", "decoder_layerdrop", "encoder_layerdrop")
"""What configs call the chance that a layer is left out of a pass."""
BUG = "a bug in dem, or in this version of torch: train with one process an action"


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, and which of them this one is.

    Attributes:
        rank: This one's number, from 0.
        count: How many there are.
    """

    rank: int
    count: int

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all: it tells progress and writes what is of no rank."""
        return self.rank == 0

    def gathered(self, values: Sequence[float]) -> list[list[float]]:
        """What each rank has to say, in their order: as many numbers each. All ranks must call this."""
        mine = torch.tensor(values, dtype=torch.float64)
        found = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(found, mine)
        return [of.tolist() for of in found]

    def wait(self) -> None:
        """Wait until every rank is here."""
        self.gathered([0.0])


class Sharded:
    """A model of which this process holds its ranks' rows of each parameter, while it trains.

    Args:
        model: As `load_model` gave it, on any device; it is sharded in place.
        device: Where the rows are put.
        ranks: Those that share it.
        bf16: Whether the forward pass is bfloat16 autocast.
    """

    def __init__(self, model: PreTrainedModel, device: torch.device, ranks: Ranks, *, bf16: bool) -> None:
        self.model, self.ranks = model, ranks
        self._bf16 = bf16
        self._reduced: set[torch.dtype] = set()
        self._reached: set[str] = set()
        self._heard: dict[int, torch.nn.Parameter] = {}
        self._listen()
        mesh = init_device_mesh(device.type, (ranks.count,))
        wide = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        narrow = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for layer in _layers(model):
            others = [
                m for m in layer.modules() if _has_parameters(m) and type(m) not in (torch.nn.Linear, Conv1D)
            ]
            if bf16 and others and layer not in others:
                fully_shard(others, mesh=mesh, mp_policy=wide)
                fully_shard(layer, mesh=mesh, mp_policy=narrow)
            else:  # parameters of its own that are in no module of theirs: autocast decides about all
                fully_shard(layer, mesh=mesh, mp_policy=wide)
        fully_shard(model, mesh=mesh, mp_policy=wide)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_all_reduce_hook(self._note_reduction)
        # A parameter that one rank's rows do not reach, as of an expert that no token was sent to, would be left out
        # of that rank's part alone: another rank would wait for what never comes. With this its gradient is zero.
        if (include := getattr(model, "set_reduce_scatter_unused_params", None)) is not None:
            include(True)

    def reshard(self) -> None:
        """Keep this rank's rows alone again: after a pass without gradients the root's parameters stay whole."""
        root: Any = self.model
        root.reshard()

    def parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield each parameter once, a tied one under its first name."""
        return self.model.named_parameters()

    def norm(self) -> float:
        """The norm of all gradients, the same bits for any number of ranks.

        What no rank has reached since the last step has no gradient after this, as of one process: an optimizer leaves
        it as it is, and does not let it decay.

        Raises:
            TrainingError: Something is not sharded, or not in float32.
        """
        self._check()
        sizes = [parameter.shape[0] for _, parameter in self.parameters()]
        squares = torch.zeros(sum(sizes), dtype=torch.float64, device=self.model.device)
        # Each row's by the rank that has it, put in their places: elsewhere zeros are added, which changes no bit.
        place = 0
        for size, (_, parameter) in zip(sizes, self.parameters(), strict=True):
            local = None if parameter.grad is None else parameter.grad.to_local()
            if local is not None and local.numel():
                start = place + first_row(parameter)
                lengths = torch.linalg.vector_norm(local.reshape(len(local), -1), dim=1, dtype=torch.float64)
                squares[start : start + len(local)] = lengths.square()
            place += size
        reached = [float(name in self._reached) for name, _ in self.parameters()]
        self._reached.clear()
        together = torch.cat([squares, torch.tensor(reached, dtype=torch.float64, device=squares.device)])
        dist.all_reduce(together)
        squares, counts = torch.split(together, [len(squares), len(sizes)])
        for (_, parameter), of, count in zip(
            self.parameters(), torch.split(squares, sizes), counts.tolist(), strict=True
        ):
            # Of one that is used where its module is not called nobody hears: what is not zero was reached.
            if not count and not of.any():
                parameter.grad = None
        return length_of(squares)

    def clip(self, norm: float, most: float) -> None:
        """Scale all gradients down to a norm of `most`, as torch's `clip_grad_norm_` does."""
        by = torch.tensor(norm, dtype=torch.float32)
        factor = torch.clamp(most / (by + 1e-6), max=1.0).to(self.model.device)
        torch._foreach_mul_([p.grad.to_local() for _, p in self.parameters() if p.grad is not None], factor)

    def check_states(self, optimizer: torch.optim.Optimizer) -> None:
        """Check that the optimizer's states are sharded as the parameters are.

        Raises:
            TrainingError: They are not.
        """
        states = (
            s for of in optimizer.state.values() for n, s in of.items() if n != "step" and torch.is_tensor(s)
        )
        if not all(isinstance(s, DTensor) and s.dtype == torch.float32 for s in states):
            raise TrainingError("an optimizer's state is not sharded in float32", hint=BUG)

    def provenance(self) -> dict[str, JSON]:
        """What is recorded of how it was cut."""
        return {
            "ranks": self.ranks.count,
            "sharding": {
                "method": "fully_shard",
                "parameters": "float32",
                "gathered": "bfloat16 of linear layers, else float32" if self._bf16 else "float32",
                "reduction": "float32",
            },
        }

    def _listen(self) -> None:
        """Note which parameters a backward pass of this rank reaches: `fully_shard` gives others in their places."""
        names = {id(parameter): name for name, parameter in self.parameters()}
        for module in self.model.modules():
            own = {name: names[id(p)] for name, p in module.named_parameters(recurse=False)}
            if own:
                module.register_forward_pre_hook(partial(self._heed, own))

    def _heed(self, own: Mapping[str, str], module: torch.nn.Module, _given: object) -> None:
        for name, known in own.items():
            parameter: Any = getattr(module, name)
            if parameter.requires_grad and id(parameter) not in self._heard:
                self._heard[id(parameter)] = parameter  # kept: a number is given again when its owner is gone
                parameter.register_post_accumulate_grad_hook(lambda _, known=known: self._reached.add(known))

    def _note_reduction(self, gradients: torch.Tensor) -> None:
        self._reduced.add(gradients.dtype)

    def _check(self) -> None:
        """Check what no loss would show: whole parameters on every rank, or sums in bfloat16."""
        for name, parameter in self.parameters():
            for tensor in (parameter, *([] if parameter.grad is None else [parameter.grad])):
                if not isinstance(tensor, DTensor) or tensor.dtype != torch.float32:
                    raise TrainingError(f"{name} or its gradient is not sharded in float32", hint=BUG)
        if self._reduced != {torch.float32}:
            found = ", ".join(sorted(map(str, self._reduced))) or "none"
            raise TrainingError(f"gradients were not added up in float32 over the ranks: {found}", hint=BUG)
        self._reduced.clear()


def refuse_skipping(model: PreTrainedModel) -> None:
    """Refuse a model that leaves out whole layers at random: each rank would leave out others, and wait for the rest.

    Raises:
        TrainingError: It is one.
    """
    for name in SKIPS:
        if share := getattr(model.config, name, None):
            raise TrainingError(
                f"a base of {name} = {share} cannot be trained over several ranks", hint=SINGLE
            )


def length_of(squares: torch.Tensor) -> float:
    """The root of a sum of squares: numpy adds in one order, where torch's depends on how many threads there are."""
    return math.sqrt(squares.cpu().numpy().sum())


def first_row(tensor: Any) -> int:
    """Where this rank's rows begin in a sharded tensor: it is cut as `torch.chunk` cuts."""
    mesh = tensor.device_mesh
    rows = -(-tensor.shape[0] // mesh.size())
    return min(int(rows * mesh.get_local_rank()), int(tensor.shape[0]))


def _has_parameters(module: torch.nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The model's layers, as transformers names their classes where a model is laid out over devices."""
    named = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in named]

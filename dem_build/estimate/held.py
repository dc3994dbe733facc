"""What a training on a CPU holds: its tensors when they are most, and what the C library keeps of those that are gone.

A tensor from `MAPPED` bytes on may be a mapping of its own, which goes back to the system when it is freed. A smaller
one lies in the heap, among others that stay: what a pass frees there becomes gaps, into which not all fits that comes
after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from dem_build.estimate.training import GRADIENT, MASTER, MOST_LOGITS, STATES, passes, share_trained
from dem_build.hardware import MAPPED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.estimate.shape import Shape
    from dem_build.estimate.training import Pass, Rows
    from dem_build.machine import Machine

    Tensors: TypeAlias = Iterable[tuple[float, float]]
    """How many there are, and the bytes of each."""

__all__ = ["held_memory"]

SCRATCH = {"adamw_torch_fused": 0, "adamw_8bit": 3, "adafactor": 2}
"""Float32 copies of a matrix that an optimizer's step makes on its way on a CPU; it takes one matrix after another."""
GAPS = 0.4
"""Gaps beside what is in the heap at its most, as a share of it: 0.37 by mallinfo2 where they were 0.4 GB."""


class Held(NamedTuple):
    """Bytes of tensors.

    Attributes:
        heap: Of those that lie in the heap.
        mapped: Of those that may be mappings of their own.
    """

    heap: float = 0.0
    mapped: float = 0.0

    @classmethod
    def of(cls, tensors: Tensors, usual: float = 1.0) -> Held:
        """What tensors take; those that are small in other steps, by `usual`, fill the heap in these."""
        heap = mapped = 0.0
        for count, size in tensors:
            in_heap = min(size, MAPPED) if size * usual < MAPPED else 0.0
            heap += count * in_heap
            mapped += count * (size - in_heap)
        return cls(heap, mapped)

    def beside(self, other: Held) -> Held:
        """Both."""
        return Held(self.heap + other.heap, self.mapped + other.mapped)


def held_memory(
    shape: Shape, params: Mapping[str, JSON], machine: Machine, length: int, data: Rows | None = None
) -> int:
    """The bytes that a training on a CPU holds at its most, beside Python and the libraries.

    Arguments are those of `training_memory`, which is of a GPU.
    """
    trained = share_trained(data)
    bf16, head = bool(params["bf16"]), shape.vocabulary * shape.hidden
    gradients = Held.of(_matrices(shape, GRADIENT))
    first, *second = (
        _batch(shape, one, trained, machine, bf16=bf16) for one in passes(params, machine, length, data)
    )
    # At the end of a pass a tied embedding's gradient is beside the head's, which it is then added to.
    way = max(int(shape.tied), SCRATCH[params["optim"]])
    ending = gradients.beside(Held.of([(way, head * GRADIENT)]))
    moments = [first, ending, *(gradients.beside(batch) for batch in second)]
    stays = Held.of(_matrices(shape, MASTER)).beside(_states(shape, params["optim"]))
    heap = stays.heap + max(moment.heap for moment in moments)
    return int(sum(stays) + max(sum(moment) for moment in moments) + GAPS * heap)


def _matrices(shape: Shape, width: float) -> Tensors:
    """A model's matrices at so many bytes an element; queries are taken to be as wide as the residual stream."""
    hidden, layers = shape.hidden, shape.layers
    embeddings, head = 1 if shape.tied else 2, shape.vocabulary * hidden
    attention = 2 * hidden * (hidden + shape.keys)
    # What is left are the matrices of the MLPs; those of a layer's experts are one tensor.
    left = max(shape.parameters - embeddings * head - layers * attention, 0)
    return [
        (embeddings, width * head),
        (2 * layers, width * hidden * hidden),
        (2 * layers, width * hidden * shape.keys),
        (3 * layers, width * left / (3 * layers)),
    ]


def _states(shape: Shape, optim: str) -> Held:
    """An optimizer's states: two of each matrix, or none."""
    states = Held.of([(2 * count, size) for count, size in _matrices(shape, STATES[optim] / 2)])
    if optim != "adamw_8bit":
        return states
    # transformers keeps an embedding's in 32 bits.
    return states.beside(Held.of([(2, shape.vocabulary * shape.hidden * 3)]))


def _batch(shape: Shape, of: Pass, trained: float, machine: Machine, *, bf16: bool) -> Held:
    """A pass when its tensors are most: as its backward begins, in the head or in the last layer.

    Args:
        shape: Of the model.
        of: How long it is.
        trained: The share of tokens that get logits.
        machine: Whether layers are computed again: then their inputs alone wait.
        bf16: Whether it is computed in bfloat16, of which each matrix gets a copy that waits for the backward too.
    """
    counted = of.filled * trained
    logits = min(counted * shape.vocabulary, MOST_LOGITS) * 4
    # A log-softmax, and what comes back of the loss and of it, in float32; the head's input, narrow and wide.
    loss = Held.of([(3, logits), (1, counted * shape.hidden * 4), (1, counted * shape.hidden * 2)])
    # The head's gradient is made in the precision of the pass and waits, widened, for the embeddings'.
    head = shape.vocabulary * shape.hidden
    last = max(loss, Held.of([(1, head * GRADIENT), (1, head * 2 if bf16 else 0)]), key=sum)
    copies = Held.of(_matrices(shape, 2 if bf16 else 0))
    kept = _layer(shape, of.tokens, bf16=bf16)
    layers = Held.of([(shape.layers * count, size) for count, size in kept], of.filled / max(of.tokens, 1))
    if machine.gradient_checkpointing:
        inputs = Held.of([(shape.layers, of.tokens * shape.hidden * 4)])
        return inputs.beside(copies).beside(max(last, Held.of(kept), key=sum))
    return layers.beside(copies).beside(last)


def _layer(shape: Shape, tokens: float, *, bf16: bool) -> Tensors:
    """The tensors that a layer keeps for the backward pass, as `saved_tensors_hooks` counts them.

    Two norms keep their input and what they make of it. Under bfloat16 autocast these stay in float32, and each of five
    matrices has a narrow copy of its input; in float32 the queries, keys and values share theirs, and so do both halves
    of the MLP. Queries and what attention gives, which the output's matrix reads; keys and values; the MLP's four.
    """
    width = 2 if bf16 else 4
    return [
        (4, tokens * shape.hidden * 4),
        (5 if bf16 else 2, tokens * shape.hidden * width),
        (2, tokens * shape.hidden * width),
        (2, tokens * shape.keys * width),
        (4, tokens * shape.inner * width),
    ]

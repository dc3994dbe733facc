"""What a training or a search takes: memory and disk from the shape of its model, tokens from its data.

On a GPU bytes are counted. On a CPU it is also asked where the C library puts them: a tensor from `MAPPED` bytes on may
be a mapping of its own, which goes back to the system when it is freed; a smaller one lies in the heap, among others
that stay, and what a pass frees there becomes gaps, into which not all fits that comes after it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from dem_build.data.budget import Length, Size
from dem_build.hardware import MAPPED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dem_build.digest import JSON
    from dem_build.machine import Machine

    Tensors: TypeAlias = Iterable[tuple[float, float]]
    """How many there are, and the bytes of each."""

BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
VECTOR_BYTES = {**BYTES, "int8": 1 + 2 / 64}
"""Bytes a parameter of a vector: of int8, with its blocks' scales."""
MASTER = 4
GRADIENT = 4
STATES = {"adamw_torch_fused": 8, "adamw_8bit": 2, "adafactor": 0}
"""Bytes a parameter of an optimizer's state; adafactor's rows and columns are next to nothing.

Two moments in float32 (D. P. Kingma and J. Ba, arXiv 1412.6980), or in 8 bits each (T. Dettmers et al., arXiv
2110.02861); of the second moment's rows and columns alone (N. Shazeer and M. Stern, arXiv 1804.04235).
"""
CHECKPOINTS = 3
"""Two are kept, and one more is being written."""
DOUBLE = 8
PASSES = 2
MODELS = 3
"""That have a layer in memory while it is matched: the base, a vector's own, and what they become."""
MOST_LOGITS = 1 << 28
"""Logits that `model.likelihood` makes at once."""
BLOCKS = 16
"""Parts that `actions.tune.judges` deals prompts into; derivatives are taken of one after another."""
PROCESS = 620_000_000
"""Python and the libraries of a worker, and the code that they make for shapes; on a GPU they are the host's."""
MATCHING = 50_000_000
"""What the libraries keep beside that of the products of a matching, whatever its rows: 48 MB were seen."""
PASS = 250_000
"""A row's pass that waits is a thread: its stack, and its share of the heap's gaps. 0.21 to 0.25 MB were seen."""
SCRATCH = {"adamw_torch_fused": 0, "adamw_8bit": 3, "adafactor": 2}
"""Float32 copies of a matrix that an optimizer's step makes on its way on a CPU; it takes one matrix after another."""
GAPS = 0.4
"""Gaps beside what is in the heap at its most, as a share of it: 0.37 by mallinfo2 where they were 0.4 GB."""


LINEAR_OF: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "q_proj": ("hidden", "hidden"),
        "k_proj": ("hidden", "keys"),
        "v_proj": ("hidden", "keys"),
        "o_proj": ("hidden", "hidden"),
        "gate_proj": ("hidden", "inner"),
        "up_proj": ("hidden", "inner"),
        "down_proj": ("inner", "hidden"),
    }
)
"""A linear layer of a decoder's layer → its inputs and outputs; queries are as wide as the residual stream."""
LINEAR = tuple(LINEAR_OF.values())


@dataclass(frozen=True)
class Shape:
    """What a decoder's memory follows from.

    Attributes:
        parameters: Of the whole model, tied ones once.
        hidden: Width of the residual stream.
        keys: Width of all key heads together.
        inner: Width inside of the MLP that a token goes through.
        vocabulary: Rows of the embedding.
        tied: Whether the head is the embedding.
    """

    parameters: int
    layers: int
    hidden: int
    keys: int
    inner: int
    vocabulary: int
    tied: bool = True

    @classmethod
    def of(cls, config: Mapping[str, JSON], parameters: int | None = None) -> Shape | None:
        """The shape that a `config.json` describes; None where it uses other names.

        Args:
            config: The document.
            parameters: Their number where it is known; else it is that of gated MLPs and no biases.
        """
        hidden, layers = (
            _first(config, "hidden_size", "n_embd"),
            _first(config, "num_hidden_layers", "n_layer"),
        )
        heads, vocabulary = _first(config, "num_attention_heads", "n_head"), _first(config, "vocab_size")
        if not hidden or not layers or not heads or not vocabulary:
            return None
        head = _first(config, "head_dim") or hidden // heads
        keys = (_first(config, "num_key_value_heads") or heads) * head
        mlps, inner = _mlps(config, hidden, layers)
        attention = 2 * hidden * (heads * head + keys)
        tied = bool(config.get("tie_word_embeddings", True))
        embeddings = 1 if tied else 2
        counted = layers * attention + mlps + embeddings * vocabulary * hidden
        return cls(parameters or counted, layers, hidden, keys, inner, vocabulary, tied)


def _mlps(config: Mapping[str, JSON], hidden: int, layers: int) -> tuple[int, int]:
    """The parameters of all MLPs, and the width inside of the one, or of the experts, that a token goes through.

    Of a mixture of experts some layers may have a plain MLP: the first ones, or all but every so manieth.
    """
    inner = _first(config, "intermediate_size", "n_inner") or 4 * hidden
    shared = _first(config, "shared_expert_intermediate_size", "shared_intermediate_size") or 0
    # Names as the configs of transformers' models have them: no two families agree.
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts") or 1
    if experts <= 1:
        return layers * 3 * hidden * (shared or inner), shared or inner
    each = _first(config, "moe_intermediate_size") or inner
    shared = shared or each * (_first(config, "n_shared_experts", "moe_num_shared_experts") or 0)
    plain = _first(config, "first_k_dense_replace", "moe_layer_start_index") or 0
    sparse = (layers - plain) // (_first(config, "expert_layer_period", "decoder_sparse_step") or 1)
    # Memory follows from all experts, and what a token leaves behind from those it goes through.
    widths = sparse * (experts * each + shared) + (layers - sparse) * inner
    active = each * (_first(config, "num_experts_per_tok", "moe_k", "moe_topk") or 1) + shared
    return 3 * hidden * widths, max(active, inner if sparse < layers else 0)


def _first(config: Mapping[str, JSON], *names: str) -> int | None:
    """The first of the names that has a number."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


@dataclass(frozen=True)
class Rows:
    """What a dataset's train split holds.

    Attributes:
        trained_tokens: Those tokens that count.
        longest: Tokens of the longest row; None where it is not recorded.
    """

    rows: int
    tokens: int
    trained_tokens: int
    longest: int | None = None


def least_memory(parameters: int, params: Mapping[str, JSON], ranks: int = 1) -> int:
    """The bytes without which a training cannot run, whatever its batches: weights, gradients, states.

    Of low-rank adapters the weights, which stay as they are: the adapters themselves are next to nothing. Of several
    ranks, which share them, it is what one of them needs.
    """
    each = MASTER + (0 if is_lora(params) else GRADIENT + STATES[params["optim"]])
    return -(-parameters * each // ranks)


def is_lora(params: Mapping[str, JSON]) -> bool:
    """Whether low-rank adapters are trained, and all weights are frozen."""
    return params.get("method") == "lora"


def trained_parameters(shape: Shape, params: Mapping[str, JSON]) -> int:
    """How many parameters have gradients: all, or those of the adapters."""
    return (
        int(sum(count * size for count, size in _adapters(shape, params)))
        if is_lora(params)
        else shape.parameters
    )


def _adapters(shape: Shape, params: Mapping[str, JSON]) -> Tensors:
    """The factors of all adapters; a layer is taken to have the matrices of a Llama, and those of its experts none."""
    rank, wanted = params["lora_r"], params["lora_target_modules"]
    found = (
        LINEAR
        if wanted == "all-linear"
        else [LINEAR_OF.get(n.rpartition(".")[2], ("hidden", "inner")) for n in wanted]
    )
    return [(shape.layers, rank * getattr(shape, side)) for sides in found for side in sides]


def rank_memory(  # noqa: PLR0913  the arguments of one alone, and how many there are
    shape: Shape,
    params: Mapping[str, JSON],
    machine: Machine,
    length: int,
    data: Rows | None,
    *,
    ranks: int,
) -> int:
    """The bytes that each of several ranks needs, on its GPU or of its process; other arguments as of one alone.

    Weights, gradients and states are shared. What is gathered for a pass is not: embeddings, which stay until its end,
    and two layers, one of which is awaited while the other computes.
    """
    trained, way = share_trained(data), _Pass.of(params, machine)
    embeddings = (1 if shape.tied else 2) * shape.vocabulary * shape.hidden
    layer = max(shape.parameters - embeddings, 0) / shape.layers
    narrow = 2 if way.bf16 else MASTER
    gathered = embeddings * (MASTER + (2 if way.bf16 else 0)) + 2 * layer * narrow
    # Gradients are whole until they are added up: of a layer in the pass' precision, and once more to be sent.
    passing = 2 * embeddings * GRADIENT + layer * (narrow + GRADIENT)
    first = micro_batches(params, machine, length, data, ranks)[0]
    return int(
        least_memory(shape.parameters, params, ranks)
        + gathered
        + max(passing, _micro_batch(shape, first.tokens, trained, way))
    )


def training_memory(
    shape: Shape,
    params: Mapping[str, JSON],
    machine: Machine,
    length: int,
    data: Rows | None = None,
) -> int:
    """The bytes that a training needs on a GPU: weights, gradients, optimizer, activations and logits.

    Gradients are there from one micro-batch of a step to the next. In the first, which has the step's longest rows,
    they come while its activations go.

    Args:
        shape: Of the base.
        params: Of the kind `finetune`.
        machine: Its micro-batch, and whether activations are computed again.
        length: Tokens of the longest sequence.
        data: What is trained on; None where it is not known: then all sequences are as long, and all tokens count.
    """
    trained = share_trained(data)
    cast = 2 if params["bf16"] else 0
    changed, way = trained_parameters(shape, params), _Pass.of(params, machine)
    held = shape.parameters * (MASTER + cast) + changed * (
        STATES[params["optim"]] + (MASTER if way.frozen else 0)
    )
    if params["optim"] == "adamw_8bit" and not way.frozen:
        held += shape.vocabulary * shape.hidden * 6  # transformers keeps an embedding's states in 32 bits
    gradients = changed * GRADIENT
    # The second pass comes while the first one's gradients wait, and its rows are shorter: which of the two needs more
    # depends on the data.
    first, *second = (
        _micro_batch(shape, one.tokens, trained, way) for one in micro_batches(params, machine, length, data)
    )
    return int(held + max([gradients, first, *(gradients + batch for batch in second)]))


@dataclass(frozen=True)
class MicroBatch:
    """What one pass of a step takes together, of the step where it is longest.

    Attributes:
        tokens: Padding included.
        filled: Tokens that are no padding, about; where it is not known how long rows are, all of them.
    """

    tokens: float
    filled: float


def micro_batches(
    params: Mapping[str, JSON], machine: Machine, length: int, data: Rows | None, ranks: int = 1
) -> list[MicroBatch]:
    """A step's first pass and, where there is one, its second; arguments are those of `training_memory`.

    Of several ranks it is the passes of the first, which has the longest rows.

    Rows are taken to be spread evenly about their mean, and a step has its longest first. In the worst of steps, those
    of a pass are half as far below its longest as in the mean of steps.
    """
    of = params["global_batch_size"]
    rows = min(machine.micro_batch, -(-of // ranks))
    mean = float(length)
    if data and not params.get("packing"):  # packs are full, or nearly
        mean = min(data.tokens / max(data.rows, 1), mean)
    # From the longest row to the shortest it is twice as far as to the mean one, and a pass has this share of a step's
    # rows, sorted. Half of that way lies above the pass' mean row; half of it again, in the worst of steps.
    below = min(2 * (length - mean), length) * rows / of / 4
    longest = [length, length - 2 * below] if rows * ranks < of else [length]
    return [MicroBatch(rows * most, rows * (most - below)) for most in longest]


def share_trained(data: Rows | None) -> float:
    """The share of tokens that count: only they get logits."""
    return data.trained_tokens / max(data.tokens, 1) if data else 1.0


@dataclass(frozen=True)
class _Pass:
    """How a pass goes forward and back.

    Attributes:
        bf16: Whether in bfloat16.
        recomputed: Whether layers are computed again.
        frozen: Whether adapters alone are trained, and so not the head.
    """

    bf16: bool
    recomputed: bool
    frozen: bool

    @classmethod
    def of(cls, params: Mapping[str, JSON], machine: Machine) -> _Pass:
        """That of a training."""
        return cls(bool(params["bf16"]), machine.gradient_checkpointing, is_lora(params))

    def head(self, shape: Shape) -> tuple[int, int]:
        """The bytes of the head's gradient: of the sum over passes, and of one pass."""
        head = 0 if self.frozen else shape.vocabulary * shape.hidden
        return head * GRADIENT, head * 2 if self.bf16 else 0


def _micro_batch(shape: Shape, tokens: float, trained: float, way: _Pass) -> float:
    """The bytes of one pass's activations, logits and what the head's gradient takes on its way.

    Where layers are computed again, the logits are gone before the first of them is.
    """
    logits = _logits(shape, tokens * trained, bf16=way.bf16)
    # The head's gradient is made in the precision of the pass and waits, widened, for the embeddings'.
    last = max(logits, sum(way.head(shape)))
    # A layer's input alone waits then (T. Chen et al., arXiv 1604.06174), and one layer's tensors at a time come back.
    if way.recomputed:
        return tokens * shape.layers * MASTER * shape.hidden + max(
            last, tokens * _kept_by_layer(shape, bf16=way.bf16)
        )
    return tokens * shape.layers * _kept_by_layer(shape, bf16=way.bf16) + last


@dataclass(frozen=True)
class Judging:
    """What models are judged by.

    Attributes:
        length: Tokens of a row.
        most: Most rows of a judge.
        slopes: Whether derivatives are taken, by backward passes over the rows of one block after another.
        width: Bytes a parameter: candidates of a search are in float32, models that are composed as they are published.
        gradients: How many gradients of all parameters are held beside the model.
        repeats: Whether rows share prompts: all rows of one are in one block, which may then hold more than its share.
    """

    length: int
    most: int
    slopes: bool = False
    width: int = MASTER
    gradients: int = 0
    repeats: bool = False

    def tokens(self, machine: Machine) -> tuple[int, int]:
        """Tokens of a batch that gives losses, and of one that gives derivatives too: that has rows of one block."""
        of_block = self.most if self.repeats else math.ceil(self.most / BLOCKS)
        return (
            min(machine.eval_batch_size, self.most) * self.length,
            min(machine.micro_batch, of_block) * self.length,
        )


def search_memory(shape: Shape, machine: Machine, judging: Judging) -> int:
    """The bytes of one resident model, and of what its passes over a judge's rows take beside it, on a GPU.

    Base and vectors are read a tensor at a time, and no more than the head's gradients are there together.

    Args:
        shape: Of the base.
        machine: Its batch of evaluations; its micro-batch, of which derivatives are taken, and whether layers are
            computed again for them.
        judging: Rows, and what is asked of them.
    """
    forward, backward = judging.tokens(machine)
    # Without derivatives a layer's tensors come and go.
    passes = forward * _kept_by_layer(shape, bf16=False) + _logits(shape, forward, bf16=False)
    if judging.slopes:
        head = shape.vocabulary * shape.hidden * GRADIENT
        kept = _passed(shape, backward, recomputed=machine.gradient_checkpointing)
        passes = max(passes, head * _summed(shape), head + kept)
    return int(shape.parameters * (judging.width + GRADIENT * judging.gradients) + passes)


def _summed(shape: Shape) -> int:
    """How often the head's gradient is there at the end of a backward pass that keeps none.

    Of a tied embedding that of the head waits for the other, and autograd makes their sum beside both: three copies
    were seen.
    """
    return 3 if shape.tied else 1


def matching_memory(shape: Shape, tokens: int) -> int:
    """The bytes that matching layers holds at its most: of a layer, of its least squares, and of the rows' passes.

    Args:
        shape: Of the base.
        tokens: Of all rows, each of which has two passes: its dataset's own model's, and the composed one's.
    """
    embeddings = (1 if shape.tied else 2) * shape.vocabulary * shape.hidden
    layer = max(shape.parameters - embeddings, 0) / shape.layers * MASTER
    # One matrix at a time has its sums of products, and the mean of the vectors: the widest one maps the MLP back, in
    # float64.
    solved = DOUBLE * shape.inner * (shape.inner + 2 * shape.hidden)
    # A pass that waits before that matrix holds its residual stream and what the MLP made.
    waiting = PASSES * tokens * MASTER * (3 * shape.hidden + 2 * shape.inner)
    return int(MODELS * layer + solved + waiting)


def solving_memory(shape: Shape) -> int:
    """The bytes that solving layers from Gram matrices holds at its most: a factor, a matrix, and what is solved."""
    return DOUBLE * shape.inner * (2 * shape.inner + 4 * shape.hidden)


def gram_disk(shape: Shape) -> int:
    """The bytes of the Gram matrices of a vector: of each layer's four inputs, a triangle each, in float32."""
    triangles = 3 * shape.hidden * (shape.hidden + 1) // 2 + shape.inner * (shape.inner + 1) // 2
    return shape.layers * triangles * MASTER


def _passed(shape: Shape, tokens: int, *, recomputed: bool) -> float:
    """The bytes of a float32 pass over tokens all of which count."""
    kept = shape.layers * MASTER * shape.hidden + _kept_by_layer(shape, bf16=False)
    if not recomputed:
        kept = shape.layers * _kept_by_layer(shape, bf16=False)
    return tokens * kept + _logits(shape, tokens, bf16=False)


def _kept_by_layer(shape: Shape, *, bf16: bool) -> float:
    """The bytes that one token leaves in a layer for the backward pass.

    In float32 those of `tensors_of_layer`. Under bfloat16 autocast the residual stream and the norms stay in float32,
    and each matrix has an input of its own: two norms keep 16 bytes a channel, their casts for five matrices 10, query
    and output 8; keys and values, with those that are repeated for each query head, 8 a channel of theirs and 4 of the
    stream; the MLP's four tensors 8 a channel.
    """
    if not bf16:
        return sum(count * size for count, size in tensors_of_layer(shape, 1, bf16=False))
    # Of a GPU, where nothing was measured. On a CPU autograd keeps less, by `tensors_of_layer`, so this is rather too
    # much than too little (decision 0042).
    hidden, keys, inner = shape.hidden, shape.keys, shape.inner
    repeated = hidden if keys < hidden else 0
    return 34 * hidden + 8 * keys + 4 * repeated + 8 * inner


def _logits(shape: Shape, tokens: float, *, bf16: bool) -> float:
    """The bytes of logits, their softmax and gradient, and of the hidden states where they come in pieces."""
    # Three times float32, and once as the head gives them under autocast: of a small model with a large vocabulary they
    # are more than all layers keep.
    most = min(tokens * shape.vocabulary, MOST_LOGITS)
    return most * (3 * 4 + (2 if bf16 else 0)) + tokens * shape.hidden * 4


def training_disk(shape: Shape, params: Mapping[str, JSON]) -> tuple[int, int]:
    """The bytes of a vector, and of the checkpoints while it is trained."""
    checkpoint = MASTER + STATES[params["optim"]]
    best = MASTER if params.get("load_best_model_at_end") else 0
    changed = trained_parameters(shape, params)
    width = MASTER if is_lora(params) else VECTOR_BYTES[params["vector_dtype"]]  # factors are in float32
    return round(changed * width), changed * (CHECKPOINTS * checkpoint + best)


def seen_tokens(rows: Rows, params: Mapping[str, JSON]) -> int:
    """The tokens that a training reads: of its epochs, or of its steps."""
    return round(Length.of(params).tokens(Size(rows.rows, rows.tokens)))


# A CPU.


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
        # A tensor of this step alone that is large enough to be mapped is served from gaps all the same, where earlier
        # steps left them; so what is usually small counts as heap up to the threshold.
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
    trained, way = share_trained(data), _Pass.of(params, machine)
    changed = partial(_widened, _adapters(shape, params)) if way.frozen else partial(_matrices, shape)
    head, _ = way.head(shape)
    gradients = Held.of(changed(GRADIENT))
    of_step = micro_batches(params, machine, length, data)
    first, *second = (_held_by_micro_batch(shape, one, trained, way) for one in of_step)
    # At the end of a pass a tied embedding's gradient is beside the head's, which it is then added to.
    copies = max(int(shape.tied), SCRATCH[params["optim"]])
    ending = gradients.beside(Held.of([(copies, head)]))
    moments = [first, ending, *(gradients.beside(batch) for batch in second)]
    # The heap keeps its most: what a later moment has less of it stays resident, as gaps.
    # An optimizer's states: two of each matrix, or none.
    states = Held.of([(2 * count, size) for count, size in changed(STATES[params["optim"]] / 2)])
    if params["optim"] == "adamw_8bit":  # transformers keeps an embedding's in 32 bits
        states = states.beside(Held.of([(2, head * 3 / GRADIENT)]))
    stays = Held.of(_matrices(shape, MASTER)).beside(states)
    if way.frozen:
        stays = stays.beside(Held.of(changed(MASTER)))
    heap = stays.heap + max(moment.heap for moment in moments)
    return int(sum(stays) + max(sum(moment) for moment in moments) + GAPS * heap)


def held_by_search(shape: Shape, machine: Machine, judging: Judging) -> int:
    """The bytes that a search for ω on a CPU holds at its most, beside Python and the libraries.

    Arguments are those of `search_memory`, which is of a GPU.
    """
    forward, backward = judging.tokens(machine)
    # Without derivatives a layer's tensors come and go; they are a little fewer than a backward pass would want kept.
    # Logits and their log-softmax.
    logits = Held.of([(2, min(forward * shape.vocabulary, MOST_LOGITS) * 4)])
    moments = [max(logits, Held.of(tensors_of_layer(shape, forward, bf16=False)), key=sum)]
    way = _Pass(bf16=False, recomputed=machine.gradient_checkpointing, frozen=False)
    head, _ = way.head(shape)
    if judging.slopes:
        moments += [
            _held_by_micro_batch(shape, MicroBatch(backward, backward), 1.0, way),
            Held.of([(_summed(shape), head)]),
        ]
    held = [(judging.gradients * count, size) for count, size in _matrices(shape, GRADIENT)]
    stays = Held.of(_matrices(shape, judging.width)).beside(Held.of(held))
    # The heap keeps its most until the pass is through, whatever else is the most of another moment.
    heap, mapped = (max(column) for column in zip(*moments, strict=True))
    # The largest tensor of base or vector that is being read, in bfloat16 mostly.
    read = head / GRADIENT * BYTES["bfloat16"]
    return int(sum(stays) + heap + mapped + GAPS * (stays.heap + heap) + read)


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


def _widened(tensors: Tensors, width: float) -> Tensors:
    """Tensors of so many elements, at so many bytes an element."""
    return [(count, width * size) for count, size in tensors]


def _held_by_micro_batch(shape: Shape, of: MicroBatch, trained: float, way: _Pass) -> Held:
    """A pass when its tensors are most: as its backward begins, in the head or in the last layer.

    Args:
        shape: Of the model.
        of: How long it is.
        trained: The share of tokens that get logits.
        way: Where layers are computed again, their inputs alone wait; in bfloat16, so does a copy of each matrix.
    """
    counted = of.filled * trained
    logits = min(counted * shape.vocabulary, MOST_LOGITS) * 4
    # A log-softmax, and what comes back of the loss and of it, in float32; the head's input, narrow and wide.
    loss = Held.of([(3, logits), (1, counted * shape.hidden * 4), (1, counted * shape.hidden * 2)])
    # The head's gradient is made in the precision of the pass and waits, widened, for the embeddings'.
    last = max(loss, Held.of([(1, size) for size in way.head(shape)]), key=sum)
    copies = Held.of(_matrices(shape, 2 if way.bf16 else 0))
    kept = tensors_of_layer(shape, of.tokens, bf16=way.bf16)
    layers = Held.of([(shape.layers * count, size) for count, size in kept], of.filled / max(of.tokens, 1))
    if way.recomputed:
        inputs = Held.of([(shape.layers, of.tokens * shape.hidden * 4)])
        # A layer's tensors come while nothing of those above is left whose place they could take; each has a gradient.
        again = Held.of([(2 * count, size) for count, size in kept])
        # The heap keeps its most of both moments.
        most = Held(*(max(column) for column in zip(last, again, strict=True)))
        return inputs.beside(copies).beside(most)
    return layers.beside(copies).beside(last)


def tensors_of_layer(shape: Shape, tokens: float, *, bf16: bool) -> Tensors:
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

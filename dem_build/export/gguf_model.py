"""A model as a GGUF file, which llama.cpp and what is built on it load: written tensor by tensor by the `gguf` package.

The names of tensors are that package's. It converts no model, so the keys of a config are written here, for families
whose files transformers reads back as the same model. What a file cannot say is refused by name.
"""

from __future__ import annotations

import errno
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from dem_build.checkpoint.floats import squared_sum
from dem_build.checkpoint.reader import open_checkpoint
from dem_build.errors import UsageError
from dem_build.export.gguf_tokenizer import add_tokenizer, check_tokenizer
from dem_build.json_text import parse_json

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from dem_build.checkpoint.header import TensorInfo
    from dem_build.checkpoint.reader import Checkpoint

TYPES = {
    "f16": (Type.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (Type.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "f32": (Type.F32, LlamaFileType.ALL_F32),
}
"""What matrices are stored in. Vectors, such as the scales of norms, stay in float32, as llama.cpp wants them."""
PIECE = 1 << 22  # elements that are converted at a time
QWEN3_HEAD = 128
EMBEDDINGS = "model.embed_tokens.weight"
OUTER = (EMBEDDINGS, "model.norm.weight", "lm_head.weight")
INNER = (
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    *(f"self_attn.{name}_proj.weight" for name in ("q", "k", "v", "o")),
    *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
)


@dataclass(frozen=True)
class _Family:
    """What llama.cpp calls a family of models, and has beside `INNER` in each of its layers.

    Attributes:
        name: `general.architecture`.
        beside: Those names.
        permuted: Whether a rotary embedding turns neighbours in pairs there, and not the two halves of a head: the rows
            of q and k then stand in another order.
    """

    name: str
    beside: tuple[str, ...] = ()
    permuted: bool = False


FAMILIES = {
    "llama": _Family("llama", permuted=True),
    "mistral": _Family("llama", permuted=True),
    "qwen2": _Family("qwen2", tuple(f"self_attn.{name}_proj.bias" for name in "qkv")),
    "qwen3": _Family("qwen3", ("self_attn.q_norm.weight", "self_attn.k_norm.weight")),
}


@dataclass(frozen=True)
class Rounding:
    """What became of the weights.

    Attributes:
        error: ‖stored - w‖ / ‖w‖ over all matrices w.
        notes: What the user should know.
    """

    error: float
    notes: list[str]


def write_gguf(target: Path, model: Path, name: str, kind: str) -> Rounding:
    """Write a model's folder as a GGUF file, which is there when it is whole.

    Memory is the largest tensor as it is stored, and a few pieces.

    Args:
        target: The file; it must not exist.
        model: A folder that `from_pretrained` takes.
        name: What the file calls the model.
        kind: A name of `TYPES`.

    Raises:
        UsageError: A model that a GGUF file cannot say, or that float16 cannot hold.
        FileExistsError: The file is there.
        CheckpointError: Weights that cannot be read.
    """
    if target.exists():
        raise FileExistsError(errno.EEXIST, "there is a file of that name", str(target))
    # Imported here, as they bring torch: a mistake in a call is told before that.
    from dem_build.model.architecture import parse_config  # noqa: PLC0415
    from dem_build.model.tokenizer_files import load_tokenizer  # noqa: PLC0415

    config = parse_config(parse_json((model / "config.json").read_text(encoding="utf-8")), str(model))
    family, tokenizer = _family(config), load_tokenizer(model)
    weights = open_checkpoint(model)
    tensors = _named(weights, family, config)
    rows = weights.tensors[EMBEDDINGS].shape[0]
    notes = check_tokenizer(tokenizer, rows, family.name)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(partial, family.name)
    try:
        writer.add_type("model")
        writer.add_name(name)
        _add_config(writer, config)
        add_tokenizer(writer, tokenizer, rows)
        writer.add_file_type(TYPES[kind][1])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        with weights:
            error = _write_tensors(writer, weights, tensors, _orders(family, config), kind)
        writer.close()
        partial.replace(target)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)
    return Rounding(error, notes)


def _family(config: Any) -> _Family:
    """The family of a config whose every setting a GGUF file can say.

    Raises:
        UsageError: Another family, or a setting that readers of the file would not learn of.
    """
    if config.model_type not in FAMILIES:
        what = f"is a model of the family {config.model_type!r}"
        raise _refused(
            what, f"dem writes GGUF for {', '.join(FAMILIES)}; llama.cpp's own converter may know others"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    head, width = _head(config), config.hidden_size // config.num_attention_heads
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    said = {
        f"a scaled rotary embedding ({rope.get('rope_type')})": rope.get("rope_type", "default") != "default",
        f"hidden_act = {config.hidden_act!r}": config.hidden_act != "silu",
        f"a sliding window of {window}": window is not None and window < config.max_position_embeddings,
        f"heads of {head}": head != {"qwen2": width, "qwen3": QWEN3_HEAD}.get(config.model_type, head),
    }
    if lost := [what for what, there in said.items() if there]:
        what = f"has {lost[0]}, which transformers does not read from a GGUF file of {config.model_type}"
        raise _refused(what, "llama.cpp's own converter may write it, from the model's folder")
    return FAMILIES[config.model_type]


def _refused(what: str, hint: str) -> UsageError:
    return UsageError(f"the model {what}", hint=hint)


def _head(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _named(weights: Checkpoint, family: _Family, config: Any) -> dict[str, TensorInfo]:
    """GGUF's name of each tensor → the tensor, in the order of the layers.

    Raises:
        UsageError: A tensor that such a file has no name for.
    """
    layers = range(config.num_hidden_layers)
    wanted = [*OUTER, *(f"model.layers.{i}.{n}" for i in layers for n in (*INNER, *family.beside))]
    if odd := sorted(weights.tensors.keys() - set(wanted)):
        raise _refused(
            f"has {odd[0]}, for which GGUF's {family.name} has no name", "export it as a checkpoint"
        )
    kind = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == family.name)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    found = {}
    for name in wanted:
        if name in weights.tensors:
            theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
            assert theirs is not None
            found[theirs] = weights.tensors[name]
    return found


def _add_config(writer: gguf.GGUFWriter, config: Any) -> None:
    heads, head = config.num_attention_heads, _head(config)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(getattr(config, "num_key_value_heads", None) or heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0))


def _orders(family: _Family, config: Any) -> dict[str, int]:
    """End of a tensor's name → of how many heads its rows stand in another order, where they do."""
    if not family.permuted:
        return {}
    heads = config.num_attention_heads
    return {"attn_q.weight": heads, "attn_k.weight": getattr(config, "num_key_value_heads", None) or heads}


def _write_tensors(
    writer: gguf.GGUFWriter,
    weights: Checkpoint,
    tensors: dict[str, TensorInfo],
    orders: dict[str, int],
    kind: str,
) -> float:
    """Write all tensors; return ‖stored - w‖ / ‖w‖ of the matrices."""
    stored = {name: _stored_in(tensor, TYPES[kind][0]) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        width, size = gguf.GGML_QUANT_SIZES[stored[name]]
        bytes_of, raw = tensor.size // width * size, stored[name]
        shape = (*tensor.shape[:-1], tensor.shape[-1] // width * size)
        writer.add_tensor_info(name, shape, np.dtype(np.uint8), bytes_of, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    errors, lengths = [0.0], [0.0]
    for name, tensor in tensors.items():
        heads = next((h for end, h in orders.items() if name.endswith(end)), 0)
        whole, done = np.empty(writer.tensors[-1][name].nbytes, np.uint8), 0
        for piece in _pieces(weights, tensor, heads):
            with np.errstate(over="ignore"):  # what is beyond a format is found in the result, and named
                encoded = gguf.quants.quantize(piece, stored[name])
            back = gguf.quants.dequantize(encoded, stored[name])
            if not np.isfinite(back).all():
                raise _refused(f"has weights beyond {stored[name].name} in {tensor.name}", "say --type bf16")
            lost = back - piece  # of float32 both are one array
            if len(tensor.shape) > 1:
                errors.append(squared_sum(lost))
                lengths.append(squared_sum(piece))
            as_bytes = encoded.reshape(-1).view(np.uint8)
            whole[done : done + as_bytes.size] = as_bytes
            done += as_bytes.size
        writer.write_tensor_data(whole)
    total = math.fsum(lengths)
    return math.sqrt(math.fsum(errors) / total) if total else 0.0


def _stored_in(tensor: TensorInfo, wanted: Type) -> Type:
    """What a tensor is stored in: of vectors float32; of rows that are no whole blocks float16, as llama.cpp has it."""
    if len(tensor.shape) < 2:
        return Type.F32
    return wanted if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[wanted][0] == 0 else Type.F16


def _pieces(weights: Checkpoint, tensor: TensorInfo, heads: int) -> Iterator[NDArray[np.float32]]:
    """The rows of a tensor in float32, some at a time; of `heads` the halves of each head in turns."""
    rows, width = math.prod(tensor.shape[:-1]), tensor.shape[-1]
    if heads:
        whole = weights.read(tensor.name).reshape(heads, 2, rows // heads // 2, width)
        yield np.ascontiguousarray(whole.swapaxes(1, 2)).reshape(rows, width)
        return
    step = max(PIECE // width, 1)
    for row in range(0, rows, step):
        count = min(step, rows - row)
        piece = weights.floats(tensor, row * width, count * width)
        yield piece.reshape(count, width) if len(tensor.shape) > 1 else piece

"""A GGUF file as a model's folder: dequantised to float32 by transformers, then imported like any other.

The whole model is in memory while it is dequantised, four bytes a parameter.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import re
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from dem_build.actions.base.vocabulary import MACHINE_KEYS
from dem_build.checkpoint.filenames import CONFIG, GENERATION_CONFIG
from dem_build.checkpoint.header import TensorSpec
from dem_build.checkpoint.writer import weights_writer
from dem_build.errors import CheckpointError
from dem_build.json_text import parse_json
from dem_build.model.load import quiet, refuse_partial
from dem_build.model.weight_layout import named_weights, published_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenizers import Tokenizer

# What GGUF calls the pre-tokenizers that set each digit apart before GPT-2's pattern. transformers reads these files
# by GPT-2's pattern alone, which cuts white space before a digit elsewhere: "\n\n1" would be three tokens, not two.
DIGITS_APART = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
# And those that are GPT-2's pattern, which transformers also takes for every pre-tokenizer that it does not know.
GPT2S = frozenset({
    "a.x-4.0", "gigachat", "gpt-2", "granite-docling", "jais", "jina-de", "jina-es", "jina-v2-de",
    "jina-v2-es", "mellum", "modern-bert", "mpt", "olmo", "phi-2", "trillion",
})  # fmt: skip
METADATA_BYTES = 1 << 26
TEMPLATE_KEY = re.compile(rb"tokenizer\.chat_template\.([a-z0-9_]+)\x08\0\0\0")  # with its type: a string
# Tensors by which llama.cpp scales a rotary embedding, and an architecture whose scaling transformers reads.
ROPE_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
SCALING_IS_READ = frozenset({"gpt-oss"})
ORIGINAL = "take the folder that the GGUF file was made from"
UNREADABLE = (
    struct.error, ValueError, KeyError, TypeError, IndexError, NotImplementedError, ImportError, OSError,
    RuntimeError,
)  # fmt: skip


def expand_gguf(path: Path, folder: Path) -> str:
    """Write a GGUF file's model in float32, its config and its tokenizer to a new folder.

    Returns:
        What the user should look at, or nothing.

    Raises:
        CheckpointError: transformers cannot read the file or all of it, does not know its architecture, or how it cuts
            text before tokens are formed.
    """
    _refuse_scaled_rope(path)
    with _read_once():
        tokenizer = read_tokenizer(path)
        warning = settle_tokenizer(path, tokenizer)
        # transformers would go on, with random values for what the file lacks: one part of several, say.
        model, report = _load(path, AutoModelForCausalLM, dtype=torch.float32, output_loading_info=True)
    refuse_partial(report, path, f"a file that is one of several parts must be joined, else {ORIGINAL}")
    # In the layout in which models of this kind are published, whichever transformers holds them in.
    published = published_tensors(model)
    specs = [TensorSpec(n, "F32", tuple(tensor.shape)) for n, tensor in published.items()]
    with weights_writer(folder, specs) as writer:
        for name, tensor in named_weights(model, published).items():
            assert tensor is not None
            writer.write(name, 0, tensor.contiguous().numpy().reshape(-1))
    # transformers reads the default chat template alone.
    with _header(path) as data:
        names = {found[1].decode() for found in TEMPLATE_KEY.finditer(data[:METADATA_BYTES])}
    if named := {name: _text(path, f"tokenizer.chat_template.{name}") for name in sorted(names)}:
        default = tokenizer.chat_template
        tokenizer.chat_template = named | ({"default": default} if isinstance(default, str) else {})
    tokenizer.save_pretrained(folder)
    settings = _read(folder / "tokenizer_config.json")
    _write(folder / "tokenizer_config.json", {k: v for k, v in settings.items() if k not in MACHINE_KEYS})
    # transformers gives every byte-level GGUF GPT-2's own end token, also where there is no embedding for it.
    made, rows = _read(folder / "tokenizer.json"), model.get_input_embeddings().num_embeddings
    made["added_tokens"] = [token for token in made["added_tokens"] if token["id"] < rows]
    _write(folder / "tokenizer.json", made)
    config = model.config.to_diff_dict()
    config.pop("quantization_config", None)
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    (folder / GENERATION_CONFIG).write_text(model.generation_config.to_json_string(), encoding="utf-8")
    return warning


def read_tokenizer(path: Path) -> Any:
    """What transformers makes of the tokenizer of a GGUF file, which needs no tensors.

    Raises:
        CheckpointError: As `expand_gguf`.
    """
    return _load(path, AutoTokenizer)


def settle_tokenizer(path: Path, tokenizer: Any) -> str:
    """Let a tokenizer be what its file says, where transformers made something else of that.

    Args:
        path: The GGUF file.
        tokenizer: As `read_tokenizer` returns it; it is changed.

    Returns:
        What the user should look at, or nothing.

    Raises:
        CheckpointError: As `expand_gguf`.
    """
    backend = tokenizer.backend_tokenizer
    warning = _settle_pre_tokenizer(path, backend)
    # A GGUF file has no word of a normalizer: it is the one of the architecture's own class.
    if backend.normalizer is None and type(tokenizer) is not PreTrainedTokenizerFast:
        backend.normalizer = type(tokenizer)().backend_tokenizer.normalizer
    return warning


def _settle_pre_tokenizer(path: Path, backend: Tokenizer) -> str:
    """Let the tokenizer cut text as the file says, where transformers does not; return what to warn of, or nothing."""
    name = _text(path, "tokenizer.ggml.pre")
    cut = json.loads(backend.to_str())["pre_tokenizer"] or {}
    if cut.get("type") != "ByteLevel" or not cut.get("use_regex", True) or name in GPT2S:
        return ""
    if name in DIGITS_APART:
        apart: Any = [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
        backend.pre_tokenizer = pre_tokenizers.Sequence(apart)
        return ""
    if name:
        what = f"cuts text by the pre-tokenizer {name!r} (tokenizer.ggml.pre), which neither transformers nor dem knows"
        raise CheckpointError(what, where=str(path), hint=ORIGINAL)
    return (
        "the GGUF file says no pre-tokenizer (tokenizer.ggml.pre), so text is cut by GPT-2's pattern: "
        f"{ORIGINAL} if its tokens are others"
    )


@contextlib.contextmanager
def _read_once() -> Iterator[None]:
    """Let each GGUF file be parsed once: transformers asks anew for a tokenizer, a config and weights.

    A string of the vocabulary costs about 40 microseconds of CPU, and a large one has half a million of them.
    """
    kind, parsed = gguf.GGUFReader, dict[Path, gguf.GGUFReader]()

    def reader(path: Any, *mode: Any) -> gguf.GGUFReader:
        file = Path(path).resolve()  # `_load` links it into a new folder each time
        if file not in parsed:
            parsed[file] = kind(path, *mode)
        return parsed[file]

    setattr(gguf, "GGUFReader", reader)  # noqa: B010  where transformers looks for it, each time that it reads
    try:
        yield
    finally:
        setattr(gguf, "GGUFReader", kind)  # noqa: B010


def _load(path: Path, kind: Any, **wanted: Any) -> Any:
    """Load a file's tokenizer or model, in a folder of the file's own: transformers reads what lies beside it."""
    arguments: Any = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    bars = contextlib.redirect_stderr(io.StringIO())  # a progress bar that transformers cannot switch off
    with tempfile.TemporaryDirectory(prefix="dem-gguf-") as alone, quiet(), bars:
        (Path(alone) / path.name).symlink_to(path.resolve())
        try:
            return kind.from_pretrained(alone, **wanted, **arguments)
        except UNREADABLE as error:
            reason = str(error).partition("\n")[0]
            hint = "transformers reads the GGUF of common architectures alone; take the original's folder"
            raise CheckpointError(f"cannot be dequantised: {reason}", where=str(path), hint=hint) from error


def _refuse_scaled_rope(path: Path) -> None:
    """Refuse a scaled rotary embedding: transformers takes no notice of it, and would make another model."""
    family = _text(path, "general.architecture")
    scaling = _text(path, f"{family}.rope.scaling.type")
    scaled = scaling not in ("", "none") and family not in SCALING_IS_READ
    with _header(path) as data:
        names = [name for name in ROPE_FACTORS if data.find(_string(name), 0, METADATA_BYTES) >= 0]
    if scaled or names:
        how = names[0] if names else f"rope.scaling.type = {scaling}"
        what = f"has a scaled rotary embedding ({how}), which transformers does not read from a GGUF file"
        raise CheckpointError(what, where=str(path), hint=ORIGINAL)


def _text(path: Path, key: str) -> str:
    """The value of a key whose type is string; empty where the file has no such key."""
    field = _string(key) + struct.pack("<I", 8)  # name, type: a string
    with _header(path) as data:
        at = data.find(field, 0, METADATA_BYTES)
        start = at + len(field) + 8
        if at < 0 or start > len(data):
            return ""
        (length,) = struct.unpack("<Q", data[start - 8 : start])
        return data[start : start + length].decode(errors="replace")


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


@contextlib.contextmanager
def _header(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    return document


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

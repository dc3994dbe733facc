"""Vectors from elsewhere that are none: refused before an action runs, or by a build of `STRANGERS` that goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from error_cases import CONFIG, Call, both, write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["STRANGERS", "VECTORS", "Stranger"]

LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "org/base"}
WEIGHTS = b"\2" + b"\0" * 7 + b"{}"
MERGE = "merge it with peft, save the model, and name that folder in `checkpoint`"
TAKE = "take a fine-tune of this base, or name its own base in [base]"


def _named(text: str) -> tuple[str, str]:
    return "[evaluate]", f"[vectors.code]\n{text}\nomega = 0.5\n\n[evaluate]"


CHECKPOINT, ADAPTER = _named('checkpoint = "./theirs"'), _named('adapter = "./theirs"')


def _adapter(**keys: object) -> Callable[[Path], None]:
    """Return what writes an adapter's config."""
    return write("theirs/adapter_config.json", json.dumps(LORA | keys))


VECTORS = (
    Call(
        "No fine-tune of that name",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.checkpoint: theirs: no such folder\n"
            "  hint:  a path starts from the recipe's folder"
        ),
        replaced=CHECKPOINT,
    ),
    Call(
        "A file for a fine-tune's folder",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.checkpoint: theirs: is a file\n"
            "  hint:  name the folder that it lies in"
        ),
        replaced=CHECKPOINT,
        setup=write("theirs", WEIGHTS),
    ),
    Call(
        "A vector of a GGUF file",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.checkpoint: theirs.gguf: is a GGUF file: no vector is extracted "
            "from one\n"
            "  hint:  name a folder of safetensors, as save_pretrained writes it"
        ),
        replaced=_named('checkpoint = "theirs.gguf"'),
        setup=write("theirs.gguf", b"GGUF"),
    ),
    Call(
        "The fine-tune is a pickle (`.bin`)",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.checkpoint: theirs: has its weights in pytorch_model.bin, which "
            "dem does not open\n"
            "  hint:  convert it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
        ),
        replaced=CHECKPOINT,
        setup=both(
            write("theirs/config.json", json.dumps(CONFIG)), write("theirs/pytorch_model.bin", b"\x80")
        ),
    ),
    Call(
        "The fine-tune is quantised",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.checkpoint: theirs: is a quantised model (awq): take its float "
            "original\n"
            "  hint:  dem composes decoder-only text models with float weights"
        ),
        replaced=CHECKPOINT,
        setup=write(
            "theirs/config.json", json.dumps(CONFIG | {"quantization_config": {"quant_method": "awq"}})
        ),
    ),
    Call(
        "An adapter for a checkpoint",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.checkpoint: theirs: is an adapter, not a whole model\n"
            "  hint:  name it in `adapter`, not in `checkpoint`"
        ),
        replaced=CHECKPOINT,
        setup=_adapter(),
    ),
    Call(
        "A checkpoint for an adapter",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.adapter: theirs: is a whole model, not an adapter\n"
            "  hint:  name it in `checkpoint`"
        ),
        replaced=ADAPTER,
        setup=write("theirs/config.json", json.dumps(CONFIG)),
    ),
    Call(
        "The adapter is a pickle (`.bin`)",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.adapter: theirs: has its weights in adapter_model.bin, a pickle, "
            "which dem does not open\n"
            "  hint:  convert it: PeftModel.from_pretrained(BASE, FOLDER).save_pretrained(NEW_FOLDER)"
        ),
        replaced=ADAPTER,
        setup=both(_adapter(), write("theirs/adapter_model.bin", b"\x80")),
    ),
    Call(
        "The adapter has no weights",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.adapter: theirs: holds no adapter_model.safetensors\n"
            "  hint:  download the model again, all of its files"
        ),
        replaced=ADAPTER,
        setup=_adapter(),
    ),
    Call(
        "The adapter's config is no JSON",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.adapter: theirs/adapter_config.json: is no JSON: Expecting "
            "property name enclosed in double quotes: line 1 column 2 (char 1)\n"
            "  hint:  download the model again, all of its files"
        ),
        replaced=ADAPTER,
        setup=write("theirs/adapter_config.json", "{"),
    ),
    Call(
        "An adapter that is no LoRA",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.adapter: theirs: is an adapter of type IA3, and dem merges LORA "
            f"alone\n  hint:  {MERGE}"
        ),
        replaced=ADAPTER,
        setup=_adapter(peft_type="IA3"),
    ),
    Call(
        "A LoRA that starts from another base",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.adapter: theirs: was started by 'pissa', which changes the base it "
            f"adds to\n  hint:  {MERGE}"
        ),
        replaced=ADAPTER,
        setup=_adapter(init_lora_weights="pissa"),
    ),
    Call(
        "A LoRA of a kind that is not merged",
        "build recipe.toml",
        (
            "recipe.toml:15: error: vectors.code.adapter: theirs: is a LoRA with layer_replication, which dem does "
            f"not merge\n  hint:  {MERGE}"
        ),
        replaced=ADAPTER,
        setup=_adapter(layer_replication=[[0, 1], [0, 2]]),
    ),
)


@dataclass(frozen=True)
class Stranger:
    """A checkpoint or an adapter of which no vector can be made.

    Attributes:
        what: What happened, as the page says it.
        name: The vector's name, and its folder's.
        make: Writes the folder, given the base and the folder.
        says: What the build prints of the action that fails.
        source: The recipe's key: `checkpoint` or `adapter`.
    """

    what: str
    name: str
    make: Callable[[Path, Path], None]
    says: str
    source: str = "checkpoint"


def _base(**keys: object) -> Callable[[Path, Path], None]:
    """Return what writes another random base."""

    def make(_base: Path, folder: Path) -> None:
        from tiny import make_base

        make_base(folder, **keys)  # type: ignore[arg-type]

    return make


def _edited(change: Callable[[dict], None]) -> Callable[[Path, Path], None]:
    """Return what copies the base and changes its tensors."""

    def make(base: Path, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        shutil.copytree(base, folder)
        tensors = load_file(base / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return make


def _cut_off(base: Path, folder: Path) -> None:
    shutil.copytree(base, folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _of_a_wider_model(_base: Path, folder: Path) -> None:
    """Write a LoRA as peft does, of a model whose q_proj is twice as wide as the base's."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    place = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (4, 128), "B": (128, 4)}
    tensors = {place.format(n, ab): torch.zeros(shape) for n in (0, 1) for ab, shape in shapes.items()}
    save_file(tensors, folder / "adapter_model.safetensors")


STRANGERS = (
    Stranger(
        "A fine-tune of another base, of the same shapes",
        "other",
        _base(seed=1),
        (
            "theirs/other: is no fine-tune of this base: its weights are 1.4 times the base's own length away from it "
            "(the middle one of 15 matrices; fine-tuning moves 0.001 to 0.1, unrelated models are about 1.4 apart)\n"
            f"hint: {TAKE}"
        ),
    ),
    Stranger(
        "A fine-tune of another base, of other shapes",
        "deeper",
        _base(layers=3),
        (
            "theirs/deeper: 9 of its tensors are not those of the base, first model.layers.2.input_layernorm.weight: "
            "has (64,), and the base has none\n"
            f"hint: {TAKE}"
        ),
    ),
    Stranger(
        "A fine-tune that added tokens",
        "tokens",
        _base(vocab=3),
        (
            "theirs/tokens: has 262 rows of embeddings, and the base 259: 3 were added, for new tokens or as padding\n"
            "hint: where it can do without the added rows, cut them off: model.resize_token_embeddings(259), then "
            "model.save_pretrained(NEW_FOLDER)"
        ),
    ),
    Stranger(
        "A fine-tune that untied its head",
        "untied",
        _base(tied=False),
        (
            "theirs/untied: has a head of its own, and the base's is tied to the embeddings\n"
            'hint: where its head equals its embeddings, set "tie_word_embeddings": true in its config.json'
        ),
    ),
    Stranger(
        "A fine-tune with NaN in it",
        "diverged",
        _edited(lambda tensors: tensors["model.norm.weight"].fill_(float("nan"))),
        (
            "model.norm.weight holds values that are not finite\n"
            "hint: its training diverged, or a file is damaged: take another checkpoint"
        ),
    ),
    Stranger(
        "A fine-tune that lacks a tensor",
        "lacking",
        _edited(lambda tensors: tensors.pop("model.norm.weight")),
        (
            "theirs/lacking: LlamaForCausalLM has model.norm.weight, and the files do not\n"
            "hint: config.json and the weights must be of one model, whole"
        ),
    ),
    Stranger(
        "A fine-tune's file is cut off",
        "short",
        _cut_off,
        (
            "theirs/short/model.safetensors: is cut off inside model.norm.weight: 183220 bytes, and it should end "
            "after more\n"
            "hint: the file is damaged or incomplete: fetch it again"
        ),
    ),
    Stranger(
        "An adapter of another base",
        "wider",
        _of_a_wider_model,
        (
            "theirs/wider: the adapter does not fit the base: it changes model.layers.0.self_attn.q_proj.weight of "
            "shape (128, 128), and the base's is (64, 64)\n"
            "hint: take an adapter that was trained on this base"
        ),
        "adapter",
    ),
)

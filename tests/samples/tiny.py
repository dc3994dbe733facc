"""A tiny base model and tiny datasets, made on the spot."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def make_base(
    folder: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    tied: bool = True,
    vocab: int = 0,
    shards: int = 1,
    dtype: str = "bfloat16",
    positions: int = 256,
    chat_template: str | None = None,
) -> Path:
    """Write a random Llama of ~0.2M parameters with a byte-level tokenizer, as transformers would."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {"<pad>": 0, "<s>": 1, "</s>": 2} | {c: i + 3 for i, c in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    if chat_template:
        fast.chat_template = chat_template
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(ids) + vocab,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="5GB" if shards == 1 else "100KB")
    return folder


def make_data(folder: Path, rows: int = 64) -> Path:
    """Write three tiny prompt-completion datasets: add.jsonl, copy.jsonl, upper.jsonl."""
    rng = random.Random(0)
    words = ["oak", "pine", "elm", "birch", "maple", "cedar", "willow", "aspen", "hazel", "rowan"]
    made: dict[str, list[dict[str, str]]] = {"add": [], "copy": [], "upper": []}
    for _ in range(rows):
        a, b, text = rng.randrange(100), rng.randrange(100), " ".join(rng.sample(words, 3))
        made["add"].append({"prompt": f"{a} plus {b} =", "completion": f" {a + b}"})
        made["copy"].append({"prompt": f"say {text} {a}:", "completion": f" {text} {a}"})
        made["upper"].append({"prompt": f"shout {text} {b}:", "completion": f" {text} {b}".upper()})
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in made.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder

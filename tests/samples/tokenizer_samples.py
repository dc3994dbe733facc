"""Tokenizers whose tokenizer.json has a rule of its own, in files that name this or that class."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import import_protobuf

__all__ = ["TEXT", "edit", "ids_of_json", "post_process", "reads", "write_sentencepiece", "write_tokenizer"]

TEXT = "Q\n\n12+3=\n\n15  it's 007</s> <s>"
MERGES = (("1", "2"), ("Ċ", "Ċ"), ("i", "t"), ("Ġ", "Ġ"))


def write_tokenizer(
    folder: Path, kind: str | None = None, *, digits_apart: bool = True, **said: object
) -> int:
    """Write a byte-level tokenizer that sets digits apart, and tells another class in its config; return its size."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<pad>", "<s>", "</s>", *letters, *(a + b for a, b in MERGES)]
    raw = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=list(MERGES)))
    cut = [pre_tokenizers.Digits(individual_digits=True)] if digits_apart else []
    raw.pre_tokenizer = pre_tokenizers.Sequence([*cut, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    raw.decoder = decoders.ByteLevel()
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=raw, **named).save_pretrained(folder)
    edit(folder / "tokenizer_config.json", {"tokenizer_class": kind} | said)
    return len(words)


def edit(path: Path, changes: dict[str, object]) -> None:
    """Change keys of a JSON file; None takes a key out."""
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not None}))


def post_process(folder: Path, single: str) -> None:
    """Let tokenizer.json put `<s>` or `</s>` around a text, as `<s> $A </s>` says."""
    template = processors.TemplateProcessing(
        single=single, pair=None, special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    edit(folder / "tokenizer.json", {"post_processor": json.loads(template.__getstate__())})


def ids_of_json(folder: Path, text: str = TEXT) -> list[int]:
    """Return what the library that defines tokenizer.json makes of a text."""
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return ids


def reads(folder: Path, text: str = TEXT) -> list[int]:
    """Return what a user gets of a folder by AutoTokenizer."""
    ids: list[int] = AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
    return ids


def write_sentencepiece(folder: Path, kind: str) -> dict[str, list[int]]:
    """Write a SentencePiece model and a class of that name; return texts and what `sentencepiece` makes of them."""
    model = import_protobuf().ModelProto()
    normal, unknown, control, byte = 1, 2, 3, 6
    signs = ["▁", *map(chr, range(33, 127))]
    pieces = [("<unk>", unknown, 0), ("<s>", control, 0), ("</s>", control, 0)]
    pieces += [(f"<0x{i:02X}>", byte, 0) for i in range(256)]
    pieces += [(word, normal, -i) for i, word in enumerate(["▁Q", "12", "▁it", "it", "▁▁"])]
    pieces += [(sign, normal, -100 - i) for i, sign in enumerate(signs)]
    for text, of, score in pieces:
        piece = model.pieces.add()
        piece.piece, piece.type, piece.score = text, of, float(score)
    model.trainer_spec.model_type, model.trainer_spec.byte_fallback = 2, True  # BPE
    model.trainer_spec.vocab_size = len(pieces)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = model.normalizer_spec.escape_whitespaces = True
    model.normalizer_spec.remove_extra_whitespaces = False
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    said = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    ids = [259, 13, 13, 260, 275, 283, 293, 13, 13, 281, 285, 264, 261, 271, 347, 264, 280, 280, 287]
    return {"Q\n\n12+3=\n\n15  it's 007": ids}

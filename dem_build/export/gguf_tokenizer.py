"""A tokenizer as the keys of a GGUF file: of byte-level BPE whose way to cut text llama.cpp has a name for.

A GGUF file holds words, merges and that name (`tokenizer.ggml.pre`), and no rule of tokenizer.json. What has another
rule is refused by it; and what these keys make of many texts is compared before a tensor is written.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import GGUFWriter, TokenType

from dem_build.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

# llama.cpp's names of how text is cut before tokens are formed, by the steps that tokenizer.json has for the same.
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WHOLE, BYTES = ("ByteLevel", False, True), ("ByteLevel", False, False)  # with GPT-2's pattern, and without
PRE_TOKENIZERS = {
    (WHOLE,): "gpt-2",
    (("Digits", True), WHOLE): "smollm",
    (("Split", rf"{CONTRACTIONS}|\p{{N}}{{1,3}}{REST}", "Isolated", False), BYTES): "llama-bpe",
    (("Split", rf"{CONTRACTIONS}|\p{{N}}{REST}", "Isolated", False), BYTES): "qwen2",
}
COMPOSED = "NFC"
SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
TEXT = "a"


def add_tokenizer(writer: GGUFWriter, tokenizer: Any, rows: int) -> list[str]:
    """Add the keys `tokenizer.*`.

    Args:
        writer: Where to.
        tokenizer: As transformers loads it.
        rows: Of the model's embeddings: as many words the file must have.

    Returns:
        What the user should know.

    Raises:
        UsageError: A rule of this tokenizer that a GGUF file cannot say.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    model, normalizer = rules["model"], rules["normalizer"]
    if model["type"] != "BPE" or model.get("byte_fallback") or not model["merges"]:
        what = (
            "no merges"
            if model["type"] == "BPE" and not model["merges"]
            else "another model than byte-level BPE"
        )
        raise _refused(what)
    if normalizer not in (None, {"type": COMPOSED}):
        raise _refused(f"the normalizer {normalizer['type']}")
    steps = tuple(_steps(rules["pre_tokenizer"]))
    if steps not in PRE_TOKENIZERS:
        raise _refused(
            "a pre-tokenizer that llama.cpp has no name for: " + ", ".join(str(s[0]) for s in steps)
        )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[steps])
    words, types = _words(tokenizer, rows)
    writer.add_token_list(words)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    for name in SPECIAL:
        if (token := getattr(tokenizer, f"{name}_token_id", None)) is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    begins, ends = _around(tokenizer)
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(ends)
    _add_templates(writer, tokenizer.chat_template)
    note = "letters that are written as two signs have other tokens: no reader of GGUF composes them (NFC)"
    return [note] if normalizer else []


def check_tokenizer(tokenizer: Any, rows: int, family: str) -> list[str]:
    """Read the keys of a tokenizer back, before a model is written beside them.

    Args:
        tokenizer: As transformers loads it.
        rows: As in `add_tokenizer`.
        family: What llama.cpp calls the model's; readers build other tokenizers by it.

    Returns:
        What the user should know: that, and which readers make something else of the file than llama.cpp does.

    Raises:
        UsageError: As `add_tokenizer`, or the ids of a text are others after it.
    """
    # Imported here, as they bring torch: a mistake in a call is told before that.
    from dem_build.actions.base.gguf import read_tokenizer, settle_tokenizer  # noqa: PLC0415
    from dem_build.model.tokenizer_files import differing, probe  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="dem-gguf-") as folder:
        path = Path(folder) / "tokenizer.gguf"
        writer = GGUFWriter(path, family)
        writer.add_context_length(1)
        writer.add_embedding_length(1)
        writer.add_block_count(0)
        writer.add_head_count(1)
        notes = add_tokenizer(writer, tokenizer, rows)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        texts = probe(tokenizer)
        if notes:  # what they say is known to differ
            import unicodedata  # noqa: PLC0415

            texts = [unicodedata.normalize("NFC", text) for text in texts]
        read = read_tokenizer(path)
        theirs = differing(read, tokenizer, texts)
        settle_tokenizer(path, read)
        whole = [{t.content for t in x.added_tokens_decoder.values()} for x in (tokenizer, read)]
        if lost := sorted(whole[0] - whole[1]):
            raise _refused(f"the token {lost[0]!r}")
        if (text := differing(read, tokenizer, texts)) is not None:
            raise _refused(f"other ids after it is read back, of {text[:40]!r}")
        if theirs is not None:
            notes.append(
                f"llama.cpp and dem cut text as the model does; transformers (gguf_file) not {theirs[:40]!r}"
            )
    return notes


def _refused(what: str) -> UsageError:
    hint = "export the model as a checkpoint: every other form keeps tokenizer.json as it is"
    return UsageError(f"the tokenizer has {what}, which a GGUF file cannot say", hint=hint)


def _steps(rule: dict[str, Any] | None) -> Iterator[tuple[Any, ...]]:
    """What each step of a pre-tokenizer does, without what touches no id."""
    if rule is None:
        return
    if rule["type"] == "Sequence":
        for part in rule["pretokenizers"]:
            yield from _steps(part)
    elif rule["type"] == "ByteLevel":
        yield ("ByteLevel", rule["add_prefix_space"], rule["use_regex"])
    elif rule["type"] == "Digits":
        yield ("Digits", rule["individual_digits"])
    elif rule["type"] == "Split":
        yield ("Split", rule["pattern"].get("Regex"), rule["behavior"], rule["invert"])
    else:
        yield (rule["type"],)


def _words(tokenizer: Any, rows: int) -> tuple[list[str], list[int]]:
    """The word of each row of the embeddings, and of what sort it is."""
    words = {token: word for word, token in tokenizer.get_vocab().items()}
    if words and max(words) >= rows:
        what = f"a token {max(words)} and the model {rows} rows of embeddings"
        raise UsageError(f"the tokenizer has {what}", hint="take tokenizer and weights from one model")
    types = dict.fromkeys(words, TokenType.NORMAL)
    for token, added in tokenizer.added_tokens_decoder.items():
        types[token] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    # Rows that no word has: models round their number up.
    named = [words.get(row, f"[PAD{row}]") for row in range(rows)]
    return named, [types.get(row, TokenType.UNUSED) for row in range(rows)]


def _around(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the tokenizer puts its first and its last special token around a text."""
    whole, alone = (tokenizer(TEXT, add_special_tokens=s).input_ids for s in (True, False))
    for begins in (False, True):
        for ends in (False, True):
            first, last = [tokenizer.bos_token_id] * begins, [tokenizer.eos_token_id] * ends
            if whole == [*first, *alone, *last]:
                return begins, ends
    raise _refused("other tokens around a text than its first and its last")


def _add_templates(writer: GGUFWriter, templates: str | dict[str, str] | None) -> None:
    if isinstance(templates, dict):
        writer.add_chat_template([{"name": n, "template": text} for n, text in templates.items()])
    elif templates:
        writer.add_chat_template(templates)

#!/usr/bin/env bash
# add_bos_token in tokenizer_config.json works only as long as there is no tokenizer.json.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3.
# Guess, written down before looking: a flag that tokenizer_config.json says outright holds for the class that it is
#   written for, whichever files the vocabulary comes from. The same tokenizer as vocab.json and merges.txt, or as
#   tokenizer.json, gives the same ids.
# Seen: the same class, the same config, the same vocabulary. From vocab.json and merges.txt the text begins with BOS;
#   with tokenizer.json beside them it does not, without a word. save_pretrained writes a tokenizer.json and takes the flag
#   out of the config, so saving keeps BOS; a tokenizer.json that was made by another program loses it.
# Output seen:
#   vocab.json and merges.txt: ['<s>', 'a', 'b']
#   and tokenizer.json:        ['a', 'b']
# Why it matters: a base that is converted to tokenizer.json by hand, or gets one from elsewhere, is trained and asked
#   without the BOS that its config promises.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
if [ -z "${PYTHON_ENV:-}" ]; then
  python3 -m venv env; PYTHON_ENV=$work/env
  "$PYTHON_ENV/bin/pip" install -q transformers==5.23.0 tokenizers==0.23.3
fi
export TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1
"$PYTHON_ENV/bin/python" - <<'PY'
import json, pathlib, sys
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
vocab = {word: i for i, word in enumerate(words)}
folder = pathlib.Path("base"); folder.mkdir()
said = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<pad>", "add_bos_token": True}
(folder / "tokenizer_config.json").write_text(json.dumps(said))
(folder / "vocab.json").write_text(json.dumps(vocab))
(folder / "merges.txt").write_text("#version: 0.2\n")


def tokens():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return type(tokenizer).__name__, tokenizer.convert_ids_to_tokens(tokenizer("ab")["input_ids"])


kind, before = tokens()
raw = Tokenizer(models.BPE(vocab=vocab, merges=[]))
raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
raw.save(str(folder / "tokenizer.json"))
same, after = tokens()
print("vocab.json and merges.txt:", before)
print("and tokenizer.json:       ", after)
sys.exit(0 if (kind, before) == ("GPT2Tokenizer", ["<s>", "a", "b"]) and (same, after) == ("GPT2Tokenizer", ["a", "b"]) else 1)
PY

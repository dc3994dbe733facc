#!/usr/bin/env bash
# A tokenizer whose `pad_token` was set to a token of its vocabulary gives other ids once it was saved and read again: the token is cut
# out of every word that holds it, and is left out when ids are decoded.
#
# Versions: transformers 5.24.0, tokenizers 0.23.3 (no torch needed).
# Guess before looking: the same ids, as the token is in the vocabulary and nothing is added to it; at most in both or in neither.
# Seen, of a vocabulary with "the" and "there": after `tokenizer.pad_token = "the"` "there" is one id, 7. Saved and read again it is
# "the", "re", ids 5 and 6, and decodes, without special tokens, to "re". `add_tokens(["the"])` does it at once: it says that one token
# was added, the length stays the same. No warning.
# Promised: by `add_tokens`, that tokens are only added if they are not in the vocabulary already, and that it returns how many were.
# Why it matters: padding with a spare letter or word, where a model has no pad token, trains on other ids than the saved tokenizer
# gives to whoever serves the model. `dem` refuses a pad token that is ordinary text, and compares the ids of a tokenizer that it saved
# and read again with those of before.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check transformers==5.24.0 tokenizers==0.23.3
fi
cd "$work"
HF_HUB_OFFLINE=1 "$env/bin/python" -W ignore - 2> "$work/log" <<'PYTHON' || { tail -n 5 "$work/log"; exit 1; }
import sys
from importlib.metadata import version

from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

PIECES = {"t": 0, "h": 1, "e": 2, "r": 3, "th": 4, "the": 5, "re": 6, "there": 7}
MERGES = [("t", "h"), ("th", "e"), ("r", "e"), ("the", "re")]


def tokenizer():
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=PIECES, merges=MERGES)))


def ids(tokenizer):
    return tokenizer("there")["input_ids"]


print("transformers", version("transformers"), "tokenizers", version("tokenizers"))
padded = tokenizer()
padded.pad_token = "the"
before = ids(padded)
padded.save_pretrained("saved")
loaded = AutoTokenizer.from_pretrained("saved")
after, text = ids(loaded), loaded.decode(ids(loaded), skip_special_tokens=True)
grown = tokenizer()
length, added = len(grown), grown.add_tokens(["the"])
print(f'pad_token = "the": "there" is {before}, saved and read again {after}, which decodes to "{text}"')
print(f'add_tokens(["the"]) returns {added}, the length goes from {length} to {len(grown)}, "there" is {ids(grown)}')
sys.exit(not (before == [7] and after == [5, 6] and text == "re" and (added, len(grown), ids(grown)) == (1, length, [5, 6])))
PYTHON

#!/usr/bin/env bash
# A tokenizer that transformers reads from a GGUF is another one after save_pretrained and from_pretrained.
#
# Versions: transformers 5.23.0, tokenizers 0.23.3, gguf 0.19.0, torch 2.13.0 (needed to read a GGUF).
# Guess, written down before looking: from_pretrained(gguf_file=...), save_pretrained, from_pretrained leads from a GGUF
#   to a folder with the same tokenizer: both give the same ids.
# Seen: for the Qwen architectures they do not. The first is a Qwen2Tokenizer whose backend was built from the file, which says
#   nothing of a normalizer, so there is none; the second builds Qwen2Tokenizer's own rules around the saved vocabulary, and
#   those compose letters first (NFC). A text with a decomposed letter has other ids.
# Output seen:
#   read from the GGUF:   Qwen2Tokenizer ['e', 'Ì', 'ģ']
#   saved and read again: Qwen2Tokenizer ['Ã', '©']
# Why it matters: who trains with the tokenizer that came from the GGUF and publishes the saved folder publishes another one.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT; cd "$work"
if [ -z "${PYTHON_ENV:-}" ]; then
  python3 -m venv env; PYTHON_ENV=$work/env
  "$PYTHON_ENV/bin/pip" install -q torch==2.13.0
  "$PYTHON_ENV/bin/pip" install -q torch==2.13.0 transformers==5.23.0 tokenizers==0.23.3 gguf==0.19.0
fi
export TRANSFORMERS_VERBOSITY=error HF_HUB_OFFLINE=1
"$PYTHON_ENV/bin/python" - <<'PY' 2>/dev/null
import sys
import gguf, numpy
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

tokens = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
writer = gguf.GGUFWriter("model.gguf", "qwen3")
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_block_count(1)
writer.add_feed_forward_length(64)
writer.add_head_count(4)
writer.add_head_count_kv(2)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(10000.0)
writer.add_vocab_size(len(tokens))
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("qwen2")
writer.add_token_list(tokens)
writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
writer.add_token_merges(["a b"])
writer.add_bos_token_id(1)
writer.add_eos_token_id(2)
writer.add_pad_token_id(0)
writer.add_tensor("token_embd.weight", numpy.zeros((len(tokens), 32), numpy.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()


def shown(tokenizer):
    return type(tokenizer).__name__, tokenizer.convert_ids_to_tokens(tokenizer("e\u0301")["input_ids"])


first = AutoTokenizer.from_pretrained(".", gguf_file="model.gguf")
first.save_pretrained("saved")
again = AutoTokenizer.from_pretrained("saved")
print("read from the GGUF:  ", *shown(first))
print("saved and read again:", *shown(again))
sys.exit(0 if shown(first) == ("Qwen2Tokenizer", ["e", "Ì", "ģ"]) and shown(again) == ("Qwen2Tokenizer", ["Ã", "©"]) else 1)
PY

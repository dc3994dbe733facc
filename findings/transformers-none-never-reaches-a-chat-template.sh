#!/usr/bin/env bash
# transformers takes every key whose value is None out of a turn before its chat template sees it.
#
# Versions:  transformers==5.23.0, jinja2==3.1.6, tokenizers==0.23.3 (no torch needed)
#
# Guess, before looking: a chat template that tells a tool call from an answer by `message['content'] is none` (the way in
#   which OpenAI's API and files write a call, and which templates of the DeepSeek V2.5/V3/R1 kind ask for) sees the
#   None that the caller gave, and writes the call.
# Seen:      apply_chat_template drops the key first. In the template `message['content']` is then undefined, which is
#   *not* none: the branch for calls is never taken, the branch for answers is, and it writes an empty answer. Nothing is
#   raised, nothing is logged; the call is gone. Rendering the same template with jinja2 alone writes the call.
# Output seen:
#   jinja2 alone:        '<U>2+2?<A>CALL add<end>'
#   apply_chat_template: '<U>2+2?<A><end>'
# Why it matters: training data or an agent's history rendered so teach, or show, an assistant that answers nothing where
#   it called a tool. Whoever renders must check that each call's name is in what was written.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if [[ -z "${PYTHON_ENV:-}" ]]; then
  PYTHON_ENV="$work/venv"
  python3 -m venv "$PYTHON_ENV"
  "$PYTHON_ENV/bin/pip" install --quiet transformers==5.23.0 jinja2==3.1.6 tokenizers==0.23.3
fi
cd "$work"
cat > try.py <<'PY'
import jinja2
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}<U>{{ m['content'] }}"
    "{% elif m['content'] is none %}<A>CALL {{ m['tool_calls'][0]['function']['name'] }}<end>"
    "{% else %}<A>{{ m['content'] }}<end>{% endif %}"
    "{% endfor %}"
)
turns = [
    {"role": "user", "content": "2+2?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}],
    },
]
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
alone = jinja2.Environment().from_string(TEMPLATE).render(messages=turns)
applied = tokenizer.apply_chat_template(turns, chat_template=TEMPLATE, tokenize=False)
print(f"jinja2 alone:        {alone!r}")
print(f"apply_chat_template: {applied!r}")
assert alone == "<U>2+2?<A>CALL add<end>", alone
assert applied == "<U>2+2?<A><end>", "the behaviour has changed: the None reaches the template, or the call is written"
PY
"$PYTHON_ENV/bin/python" try.py

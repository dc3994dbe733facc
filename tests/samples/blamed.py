"""Items whose culprits are known by construction, as a task and as rows of a probe.

In the base nothing reaches the logits but the embedding of the last token. Item i ends with a letter of its own, and a
vector changes the embeddings of some letters: towards `+`, which is always right, or towards `-`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from project import Project
from tiny import make_base
from transformers import AutoModelForCausalLM, AutoTokenizer

LETTERS = "abcdefghij"
RIGHT_AT_FIRST = "abcgh"
TOWARDS = {
    "red": {"a": "-", "d": "+", "g": "-", "j": "+"},
    "green": {"b": "-", "e": "+", "g": "-"},
    "blue": {"c": "-", "f": "+", "j": "-"},
}
"""Vector → letter → what it makes of it."""
CULPRITS = {
    "a": ("broke it", ["red"]),
    "b": ("broke it", ["green"]),
    "c": ("broke it", ["blue"]),
    "d": ("mended it", ["red"]),
    "e": ("mended it", ["green"]),
    "f": ("mended it", ["blue"]),
    "g": ("broke it", ["red", "green"]),  # each of the two would have done
    "h": ("", []),
    "i": ("", []),
    "j": ("keeps it wrong", ["blue"]),  # what red would mend
}
"""Letter → what is to be said of whom."""

TASK = """
task: signs
dataset_path: json
dataset_kwargs: {data_files: {test: ../data/signs.jsonl}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{prompt}}"
doc_to_choice: ["+", "-"]
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
SAY = """
task: say
dataset_path: json
dataset_kwargs: {data_files: {test: ../data/signs.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: "+"
target_delimiter: ""
generation_kwargs: {max_gen_toks: 1, until: ["x"]}
num_fewshot: 1
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def recipe(method: str = "dem", *tables: str, omega: str = "1.0") -> str:
    vectors = (
        f'[vectors.{name}]\ncheckpoint = "{name}"\nomega = {omega}\nrows = "data/rows.jsonl"\n'
        for name in TOWARDS
    )
    head = 'name = "tiny"\n[base]\nmodel = "base"\n'
    compose = f'[compose]\nmethod = "{method}"\ndtype = "float32"\n'
    probe = '[probes.signs]\npath = "data/signs.jsonl"\n'
    evaluate = '[evaluate]\ntasks = ["signs", "say"]\ninclude_path = "tasks"\nprompts = 0\n'
    return "\n".join((head, *vectors, compose, probe, evaluate, *tables))


def blamed(home: Path) -> Project:
    """A project with base, vectors, task and rows; nothing is built."""
    make_base(home / "base", layers=1, tied=False, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(home / "base")
    ids = {letter: tokenizer.encode(letter, add_special_tokens=False)[0] for letter in f"{LETTERS}+-"}
    model = AutoModelForCausalLM.from_pretrained(home / "base", dtype=torch.float32)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                tensor.zero_()
        head, embedding = model.lm_head.weight, model.model.embed_tokens.weight
        head.zero_()
        head[ids["+"], 0] = head[ids["-"], 1] = 2.0
        plus, minus = torch.eye(64)[:2]
        for letter in LETTERS:
            embedding[ids[letter]] = plus if letter in RIGHT_AT_FIRST else minus
    model.save_pretrained(home / "base")
    before = embedding.detach().clone()
    for name, towards in TOWARDS.items():
        with torch.no_grad():
            embedding.copy_(before)
            for letter, sign in towards.items():
                embedding[ids[letter]] += 4 * (plus - minus) * (1 if sign == "+" else -1)
        model.save_pretrained(home / name)
        tokenizer.save_pretrained(home / name)
    (home / "tasks").mkdir()
    (home / "data").mkdir()
    (home / "tasks" / "signs.yaml").write_text(TASK)
    (home / "tasks" / "say.yaml").write_text(SAY)
    rows = [{"prompt": f"sign {letter}", "completion": "+"} for letter in LETTERS]
    (home / "data" / "signs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    others = [{"prompt": f"row {n}", "completion": f" {n}"} for n in range(4)]
    (home / "data" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    project = Project(home)
    project.write("[project]\nname = 'x'\n", "pyproject.toml")
    return project

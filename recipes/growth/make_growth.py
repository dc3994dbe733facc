"""Make twenty skills of short answers, and recipes that compose the first 2, 5, 12 and all of them.

    .venv/bin/python recipes/growth/make_growth.py FOLDER [--base PATH]

FOLDER/data/NAME/train.jsonl, test.jsonl    {"prompt", "completion"} rows by reasoning-gym 0.1.25, by seed
FOLDER/growth-2.toml … growth-20.toml       recipes that differ in how many skills they have: a vector is trained once

About 8,000 training tokens of each skill, whose prompts differ in length, and so the number of rows. No row has more
than 500 characters, and no prompt comes twice.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
BASE = HERE.parent / "demo/base/SmolLM2-135M-Instruct.Q4_1.gguf"
SIZES = (2, 5, 12, 20)

# In the order in which they come in: every few of them are of words, of numbers and of reasoning.
SKILLS: dict[str, tuple[str, dict[str, int]]] = {
    "reverse": ("word_sequence_reversal", {"max_words": 6}),
    "family": ("family_relationships", {"max_family_size": 6}),
    "bases": ("base_conversion", {}),
    "calendar": ("calendar_arithmetic", {}),
    "spell": ("spell_backward", {}),
    "syllogism": ("syllogism", {}),
    "times": ("time_intervals", {}),
    "letters": ("letter_counting", {}),
    "fractions": ("fraction_simplification", {}),
    "sentences": ("sentence_reordering", {}),
    "legs": ("leg_counting", {}),
    "equations": ("simple_equations", {}),
    "complex": ("complex_arithmetic", {}),
    "ciphers": ("caesar_cipher", {"max_words": 6}),
    "factors": ("prime_factorization", {}),
    "angles": ("simple_geometry", {}),
    "products": ("products", {}),
    "multiples": ("lcm", {}),
    "dice": ("dice", {}),
    "sums": ("decimal_chain_sum", {}),
}
TEST_ROWS = 48
TOKENS = 8000
TEMPLATE, CHARACTERS = 35, 3
"""Tokens of a row beside its text in SmolLM2's chat template, and about how many characters a token has."""
LONGEST = 500  # characters

HEAD = """\
# The first {count} of twenty skills (make_growth.py), each trained alone, and matched.
#
#     .venv/bin/dem build {file}

name = "growth-{count}"

[base]
model = "{base}"

# Short trainings, once over the rows; the rates of the study, not searched again.
[train]
learning_rate = 1e-4
num_train_epochs = 1
global_batch_size = 4
max_length = 224
eval_steps = 0
seed = 42

[compose]
method = "match"

[baselines.sum]
method = "uniform"

[evaluate]
models = {models}
prompts = 0
"""


def main() -> None:
    """Write every file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, default=BASE, help="a model in the place of the study's")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="training tokens of a skill, about")
    parser.add_argument("--test-rows", type=int, default=TEST_ROWS)
    options = parser.parse_args()
    for number, name in enumerate(SKILLS, start=11):  # seeds that the demo and the study have not
        test, train = splits(name, number * 1_000_000, options.tokens, options.test_rows)
        write(options.folder / f"data/{name}/test.jsonl", test)
        write(options.folder / f"data/{name}/train.jsonl", train)
    base = os.path.relpath(options.base.resolve(), options.folder.resolve())
    for count in SIZES:
        (options.folder / f"growth-{count}.toml").write_text(recipe(count, base), encoding="utf-8")


def recipe(count: int, base: str) -> str:
    """The recipe of the first skills; the largest measures each vector alone, too."""
    models = ["composed", "base", "sum", *(["vectors"] if count == max(SIZES) else [])]
    text = HEAD.format(count=count, file=f"growth-{count}.toml", base=base, models=json.dumps(models))
    for name in list(SKILLS)[:count]:
        text += f'\n[datasets.{name}]\npath = "data/{name}/train.jsonl"\ntest = "data/{name}/test.jsonl"\n'
        if name == "family":
            text += "train = { learning_rate = 3e-4 }\n"
    return text


def splits(
    name: str, seed: int, tokens: int, test_rows: int
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The test rows of a skill, and as many training rows as make about so many tokens."""
    made = puzzles(name, seed)
    test = [next(made) for _ in range(test_rows)]
    train, left = [], tokens
    while left > 0:
        train.append(next(made))
        left -= TEMPLATE + sum(map(len, train[-1].values())) // CHARACTERS
    return test, train


def puzzles(name: str, seed: int) -> Iterator[dict[str, str]]:
    """Puzzles of one skill without end, no prompt twice."""
    import reasoning_gym  # noqa: PLC0415  table.py, which has no use for it, takes the skills from here

    kind, config = SKILLS[name]
    seen: set[str] = set()
    # reasoning-gym makes example i of seed s with the random seed s + i.
    for example in reasoning_gym.create_dataset(kind, size=100_000, seed=seed, **config):
        row = {"prompt": example["question"].strip(), "completion": str(example["answer"]).strip()}
        if row["prompt"] not in seen and sum(map(len, row.values())) <= LONGEST:
            seen.add(row["prompt"])
            yield row


def write(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()

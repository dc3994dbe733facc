#!/usr/bin/env bash
# inspect-ai's scorer `exact()` calls the answer "A" incorrect where the target is "A", and "-5" correct where it is "5".
#
# Version: inspect-ai 0.3.285.
# Guess before looking: a scorer of that name forgives case, spaces and punctuation around the answer, and tells -5 from 5.
# Seen: as the articles are taken out, "A" becomes nothing, and a target of nothing is passed over: of the choices A to D it never accepts A.
# As words end at a hyphen, the minus is lost. Punctuation within a word goes too: "1/2" is "12", "2^3" is "23", "x < 3" is "x > 3",
# while "1.5" is not "15". `f1()` shares it: 0 for "A", 1 for the others. `match(location="exact")` loses the minus too, and no more.
# Promised: "normalizes the text"; the manual does not say how. Its reports of July 2026 (#4618, #4620) were of other parts of it.
# Why it matters: of a multiple choice with targets spread evenly a perfect model gets 0.75, and in arithmetic a wrong sign is right. A test of
# your scorer on its own targets finds the first. `dem` scores by lm-eval; whoever compares both sets other rules beside each other.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
env=${PYTHON_ENV:-$work/env}
if [ ! -e "$env" ]; then
  python3 -m venv "$env"
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check inspect-ai==0.3.285
fi
cd "$work"
"$env/bin/python" -W ignore - 2> "$work/log" <<'PYTHON' || { tail -n 5 "$work/log"; exit 1; }
import asyncio
import sys
from importlib.metadata import version

from inspect_ai.model import ModelOutput
from inspect_ai.scorer import Target, exact, f1, match
from inspect_ai.solver import TaskState

SCORERS = (exact(), f1(), match(location="exact"))


def scores(pairs):
    """Return what each scorer says of each answer and its target."""

    async def score(answer, target):
        output = ModelOutput.from_content("mockllm/model", answer)
        state = TaskState("mockllm/model", sample_id=1, epoch=1, input="?", messages=[], output=output)
        return [(await scorer(state, Target(target))).value for scorer in SCORERS]

    return [asyncio.run(score(*pair)) for pair in pairs]


print("inspect-ai", version("inspect-ai"))
choices = scores([(letter, letter) for letter in "ABCD"])
print("answer and target A, B, C, D: exact", *(whole for whole, _, _ in choices), "- match(location='exact')", *(plain for *_, plain in choices))
pairs = [("-5", "5"), ("1/2", "12"), ("2^3", "23"), ("x < 3", "x > 3"), ("1.5", "15")]
others = scores(pairs)
for (answer, target), (whole, words, plain) in zip(pairs, others, strict=True):
    print(f"answer {answer!r:8} target {target!r:8} exact {whole}  f1 {words}  match(location='exact') {plain}")
sys.exit(
    not (
        choices == [["I", 0.0, "C"]] + [["C", 1.0, "C"]] * 3
        and [found[:2] for found in others] == [["C", 1.0]] * 4 + [["I", 0.0]]
        and [plain for *_, plain in others] == ["C", "I", "I", "I", "I"]
    )
)  # fmt: skip
PYTHON
